/* The shared cache: states, leases, and that no failure of its own is the caller's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/cache.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/redis.h"

/* Answers of looks one after the other; the last one stays. */
static struct {
    enum err result;
    int states[4];
    int n_looks, n_puts, n_drops;
    const char *value; /* NULL: nil */
    struct redis_args keys, args;
} fake;

enum err redis_eval(struct scope *sc, struct redis_script *script, const struct redis_args *keys,
                    const struct redis_args *args, struct redis_reply *reply_out)
{
    fake.keys = *keys;
    fake.args = *args;
    *reply_out = (struct redis_reply){.kind = REDIS_INT};
    fake.n_puts += strcmp(script->name, "cache_put") == 0;
    fake.n_drops += strcmp(script->name, "cache_drop") == 0;
    if (strcmp(script->name, "cache_get") == 0) {
        struct redis_reply *items = arena_array(sc->arena, struct redis_reply, 3);
        int i = fake.n_looks < 3 ? fake.n_looks : 3;

        items[0] = (struct redis_reply){.kind = REDIS_INT, .integer = fake.states[i]};
        items[1] = (struct redis_reply){.kind = fake.value == NULL ? REDIS_NIL : REDIS_TEXT,
                                        .text = fake.value,
                                        .len = fake.value == NULL ? 0 : strlen(fake.value)};
        items[2] = (struct redis_reply){.kind = REDIS_TEXT, .text = "77", .len = 2};
        *reply_out = (struct redis_reply){.kind = REDIS_LIST, .items = items, .n_items = 3};
        fake.n_looks++;
    }
    return fake.result == OK ? OK : scope_fail(sc, fake.result, "down");
}

static int group_setup(void **state)
{
    (void)state;
    crypto_open();
    return config_load(stderr) ? 0 : -1;
}

static int setup(void **state)
{
    static struct scope scope;

    scope_init(&scope, arena_open(65536), 1000);
    memset(&fake, 0, sizeof(fake));
    *state = &scope;
    return 0;
}

static int teardown(void **state)
{
    struct scope *sc = *state;

    arena_close(&sc->arena);
    return 0;
}

static void test_a_fresh_value_is_told(void **state)
{
    struct cache_got got;

    fake.value = "{}";
    cache_get(*state, "profile:x", &got);
    assert_int_equal(got.state, CACHE_FRESH);
    assert_string_equal(got.text, "{}");
    assert_null(got.lease);
}

static void test_a_stale_value_is_told_while_another_builds(void **state)
{
    struct cache_got got;

    fake.states[0] = 1;
    fake.value = "old";
    cache_get(*state, "profile:x", &got);
    assert_int_equal(got.state, CACHE_STALE);
    assert_string_equal(got.text, "old");
    assert_int_equal(fake.n_looks, 1);
}

static void test_a_builder_gets_a_lease_and_puts_under_it(void **state)
{
    struct cache_got got;
    int64_t ttl_ms;

    fake.states[0] = 2;
    cache_get(*state, "profile:x", &got);
    assert_int_equal(got.state, CACHE_BUILD);
    assert_null(got.text);
    cache_put(*state, "profile:x", &got, "new", 3, 1000);
    assert_int_equal(fake.n_puts, 1);
    assert_string_equal(fake.args.text[0], "77");
    ttl_ms = strtoll(fake.args.text[2], NULL, 10);
    assert_in_range(ttl_ms, 900, 1000);
    assert_non_null(strstr(fake.keys.text[0], "}:profile:x"));
    assert_memory_equal(fake.keys.text[0], fake.keys.text[1], strlen(fake.keys.text[1]));
    assert_string_equal(fake.args.text[5], "5000"); /* 80 % of 100,000 over 16 partitions */
}

static void test_where_another_builds_and_nothing_is_there_we_wait_a_moment(void **state)
{
    struct cache_got got;

    fake.states[0] = fake.states[1] = 1;
    fake.states[2] = 0;
    cache_get(*state, "profile:x", &got);
    assert_int_equal(fake.n_looks, 3);
    assert_int_equal(got.state, CACHE_FRESH);
}

static void test_where_nobody_puts_in_time_we_build_without_a_lease(void **state)
{
    struct cache_got got;

    fake.states[0] = fake.states[1] = fake.states[2] = fake.states[3] = 1;
    cache_get(*state, "profile:x", &got);
    assert_int_equal(got.state, CACHE_BUILD);
    assert_null(got.lease);
    cache_put(*state, "profile:x", &got, "new", 3, 1000);
    assert_int_equal(fake.n_puts, 0);
}

static void test_without_redis_everybody_builds_and_nobody_fails(void **state)
{
    struct scope *sc = *state;
    struct cache_got got;

    fake.result = ERR_DEPENDENCY_UNAVAILABLE;
    cache_get(sc, "profile:x", &got);
    assert_int_equal(got.state, CACHE_BUILD);
    assert_null(got.text);
    assert_null(got.lease);
    assert_null(sc->cause);
    cache_drop(sc, "profile:x");
    assert_null(sc->cause);
}

static void test_what_is_too_large_is_not_kept(void **state)
{
    static char large[CACHE_VALUE_MAX + 1];
    struct cache_got got;

    fake.states[0] = 2;
    cache_get(*state, "x", &got);
    cache_put(*state, "x", &got, large, sizeof(large), 1000);
    assert_int_equal(fake.n_puts, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_fresh_value_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_stale_value_is_told_while_another_builds, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_builder_gets_a_lease_and_puts_under_it, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            test_where_another_builds_and_nothing_is_there_we_wait_a_moment, setup, teardown),
        cmocka_unit_test_setup_teardown(test_where_nobody_puts_in_time_we_build_without_a_lease,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_redis_everybody_builds_and_nobody_fails, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_is_too_large_is_not_kept, setup, teardown),
    };

    return cmocka_run_group_tests_name("cache", tests, group_setup, NULL);
}
