/* Locks: what is asked of Redis, and what is made of its answer. The scripts themselves run in
 * integration/test_guards.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/lock.h"
#include "lib/redis.h"

static struct {
    enum err result;
    struct redis_reply reply;
    struct redis_args keys, args;
    const char *script;
} fake;

enum err redis_eval(struct scope *sc, struct redis_script *script, const struct redis_args *keys,
                    const struct redis_args *args, struct redis_reply *reply_out)
{
    (void)sc;
    fake.script = script->name;
    fake.keys = *keys;
    fake.args = *args;
    *reply_out = fake.reply;
    return fake.result;
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

static void test_both_keys_of_a_lock_share_its_tag(void **state)
{
    int64_t fence = -1;

    fake.reply = (struct redis_reply){.kind = REDIS_INT, .integer = 1764000000000001};
    assert_int_equal(lock_take(*state, "scheduler", "me", 5000, &fence), OK);
    assert_int_equal(fence, 1764000000000001);
    assert_int_equal(fake.keys.n, 2);
    assert_string_equal(fake.keys.text[0], "lock:{scheduler}");
    assert_string_equal(fake.keys.text[1], "lock:{scheduler}:fence");
    assert_string_equal(fake.args.text[0], "me");
    assert_string_equal(fake.args.text[1], "5000");
    assert_int_equal(lock_leave(*state, "scheduler", "me"), OK);
    assert_string_equal(fake.script, "lock_leave");
    assert_string_equal(fake.keys.text[0], "lock:{scheduler}");
}

static void test_a_lock_that_another_holds_has_no_fence_for_us(void **state)
{
    int64_t fence = -1;

    fake.reply = (struct redis_reply){.kind = REDIS_INT, .integer = 0};
    assert_int_equal(lock_take(*state, "x", "me", 1, &fence), OK);
    assert_int_equal(fence, 0);
}

static void test_without_an_answer_nobody_holds_a_lock(void **state)
{
    int64_t fence = -1;

    fake.result = ERR_DEPENDENCY_UNAVAILABLE;
    assert_int_equal(lock_take(*state, "x", "me", 1, &fence), ERR_DEPENDENCY_UNAVAILABLE);
    fake.result = OK;
    fake.reply = (struct redis_reply){.kind = REDIS_TEXT};
    assert_int_equal(lock_take(*state, "x", "me", 1, &fence), ERR_INTERNAL);
    assert_int_equal(fence, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_both_keys_of_a_lock_share_its_tag, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_lock_that_another_holds_has_no_fence_for_us, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_without_an_answer_nobody_holds_a_lock, setup,
                                        teardown),
    };

    return cmocka_run_group_tests_name("lock", tests, NULL, NULL);
}
