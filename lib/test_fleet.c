/* The fleet's configuration: following, refusing, healing, over a fake Redis of one hash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/fleet.h"
#include "lib/redis.h"

enum { PAIRS_MAX = 8 };

/* What Redis has, and what it was asked. Only the thread that opens the fleet asks: the follower
 * waits for a minute before it does. */
static struct {
    bool is_down;
    int64_t epoch;
    const char *fields[2 * PAIRS_MAX];
    size_t n;
    char reports[8][200];
    int n_reports, n_heals;
    struct redis_args healed;
} fake;

enum err redis_eval(struct scope *sc, struct redis_script *script, const struct redis_args *keys,
                    const struct redis_args *args, struct redis_reply *reply_out)
{
    (void)keys;
    if (fake.is_down) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "down");
    }
    *reply_out = (struct redis_reply){.kind = REDIS_INT, .integer = fake.epoch};
    if (strcmp(script->name, "fleet_follow") == 0 && args->text[1][0] != '\0') {
        snprintf(fake.reports[fake.n_reports++ % 8], 200, "%s", args->text[1]);
    } else if (strcmp(script->name, "fleet_heal") == 0) {
        fake.n_heals++;
        fake.healed = *args;
        reply_out->integer = 1;
    } else if (strcmp(script->name, "fleet_set") == 0) {
        reply_out->integer = ++fake.epoch;
    }
    return OK;
}

enum err redis_do(struct scope *sc, const char *key, struct redis_reply *reply_out, ...)
{
    size_t i;

    (void)key;
    *reply_out = (struct redis_reply){.kind = REDIS_LIST, .n_items = fake.n};
    reply_out->items = arena_array(sc->arena, struct redis_reply, fake.n + 1);
    for (i = 0; i < fake.n; i++) {
        reply_out->items[i] = (struct redis_reply){
            .kind = REDIS_TEXT, .text = fake.fields[i], .len = strlen(fake.fields[i])};
    }
    return fake.is_down ? ERR_DEPENDENCY_UNAVAILABLE : OK;
}

void redis_thread_done(void)
{
}

static void hold(int64_t epoch, const char *epoch_text, const char *name, const char *value)
{
    const char *fields[] = {"epoch", epoch_text,      "by", "ann@host",
                            "at",    "1700000000000", name, value};

    fake.epoch = epoch;
    memcpy(fake.fields, fields, sizeof(fields));
    fake.n = ARRAY_LEN(fields);
}

static int setup(void **state)
{
    (void)state;
    memset(&fake, 0, sizeof(fake));
    setenv("CONFIG_POLL_MS", "60000", 1);
    setenv("LOG_LEVEL", "error", 1);
    return config_load(stderr) && config_apply(0, NULL, 0, NULL, stderr) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    fleet_close();
    return 0;
}

static void test_a_process_starts_with_what_the_fleet_was_told(void **state)
{
    (void)state;
    hold(7, "7", "RATE_LIMIT_MAX", "77");
    fleet_open("test");
    assert_int_equal(config_epoch(), 7);
    assert_int_equal(config()->rate_limit_max, 77);
    assert_int_equal(fake.n_reports, 2);
    assert_string_equal(fake.reports[0], "0|0|");
    assert_string_equal(fake.reports[1], "7|0|");
}

static void test_a_process_starts_without_redis_with_its_own_values(void **state)
{
    (void)state;
    fake.is_down = true;
    fleet_open("test");
    assert_int_equal(config_epoch(), 0);
    assert_int_equal(config()->rate_limit_max, 100);
}

static void test_what_does_not_fit_is_refused_and_told(void **state)
{
    (void)state;
    hold(8, "8", "RATE_LIMIT_MAX", "0");
    setenv("LOG_LEVEL", "error", 1);
    fleet_open("test");
    assert_int_equal(config_epoch(), 0);
    assert_int_equal(config()->rate_limit_max, 100);
    assert_non_null(strstr(fake.reports[1], "0|8|RATE_LIMIT_MAX is \"0\": allowed is"));
}

static void test_a_redis_that_forgot_is_told_again(void **state)
{
    (void)state;
    hold(9, "9", "RATE_LIMIT_MAX", "99");
    fleet_open("test");
    fleet_close();
    fake.epoch = 0;
    fake.n = 0;
    fleet_open("test");
    assert_int_equal(fake.n_heals, 1);
    assert_int_equal(fake.healed.n, 5);
    assert_string_equal(fake.healed.text[0], "9");
    assert_string_equal(fake.healed.text[1], "ann@host");
    assert_string_equal(fake.healed.text[3], "RATE_LIMIT_MAX");
    assert_string_equal(fake.healed.text[4], "99");
    assert_int_equal(config()->rate_limit_max, 99);
}

static int n_acts;
static bool is_carried;

static bool carry(const char **why_out)
{
    n_acts++;
    *why_out = "no way";
    return is_carried;
}

static void test_an_epoch_is_told_once_it_was_acted_upon(void **state)
{
    (void)state;
    hold(10, "10", "RATE_LIMIT_MAX", "66");
    fleet_act(carry);
    is_carried = true;
    fleet_open("test");
    assert_int_equal(n_acts, 1); /* the fleet's values, not ours first */
    assert_string_equal(fake.reports[1], "10|0|");
    fleet_close();
    is_carried = false;
    fleet_open("test");
    assert_int_equal(n_acts, 2);
    assert_string_equal(fake.reports[3], "-1|10|no way");
    fleet_close();
    is_carried = true;
    fleet_open("test");
    assert_string_equal(fake.reports[5], "10|0|");
    fleet_act(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_process_starts_with_what_the_fleet_was_told, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_process_starts_without_redis_with_its_own_values,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_does_not_fit_is_refused_and_told, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_redis_that_forgot_is_told_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_epoch_is_told_once_it_was_acted_upon, setup,
                                        teardown),
    };

    return cmocka_run_group_tests_name("fleet", tests, NULL, NULL);
}
