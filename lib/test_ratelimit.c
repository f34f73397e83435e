/* Rate limits: what is asked of Redis, and what is made of its answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/clock.h"
#include "lib/ratelimit.h"
#include "lib/redis.h"

static const struct rate_policy policy = {.name = "default", .quota = 100, .window_ms = 60000};

/* A Redis that notes what it is asked and answers what it is told. */
static struct {
    enum err result;
    struct redis_reply reply;
    struct redis_args keys, args;
    const char *word, *key;
} fake;

enum err redis_eval(struct scope *sc, struct redis_script *script, const struct redis_args *keys,
                    const struct redis_args *args, struct redis_reply *reply_out)
{
    (void)sc;
    assert_non_null(strstr(script->source, "gcra(KEYS[1]"));
    fake.keys = *keys;
    fake.args = *args;
    *reply_out = fake.reply;
    return fake.result;
}

enum err redis_do(struct scope *sc, const char *key, struct redis_reply *reply_out, ...)
{
    va_list words;

    (void)sc;
    va_start(words, reply_out);
    fake.word = va_arg(words, const char *);
    fake.key = va_arg(words, const char *);
    assert_null(va_arg(words, const char *));
    va_end(words);
    assert_string_equal(key, fake.key);
    return fake.result;
}

static int setup(void **state)
{
    struct arena *arena = arena_open(65536);
    struct scope *sc = arena_new(arena, struct scope);

    scope_init(sc, arena, 1000);
    memset(&fake, 0, sizeof(fake));
    *state = sc;
    return 0;
}

static int teardown(void **state)
{
    struct scope *sc = *state;
    struct arena *arena = sc->arena;

    arena_close(&arena);
    return 0;
}

static struct redis_reply list_of(struct redis_reply *items, size_t n)
{
    return (struct redis_reply){.kind = REDIS_LIST, .items = items, .n_items = n};
}

static void test_the_key_carries_the_subject_as_its_hash_tag(void **state)
{
    struct scope *sc = *state;

    assert_string_equal(rate_key(sc->arena, "10.0.0.1", "critical"), "rate:{10.0.0.1}:critical");
}

static void test_a_charge_sends_quota_and_window_and_reads_the_verdict(void **state)
{
    struct redis_reply items[4] = {{.kind = REDIS_INT, .integer = 1},
                                   {.kind = REDIS_INT, .integer = 42},
                                   {.kind = REDIS_INT, .integer = 35000},
                                   {.kind = REDIS_INT, .integer = 0}};
    struct rate_verdict verdict;

    fake.reply = list_of(items, 4);
    assert_int_equal(rate_charge(*state, "u", &policy, &verdict), OK);
    assert_int_equal(fake.keys.n, 1);
    assert_string_equal(fake.keys.text[0], "rate:{u}:default");
    assert_int_equal(fake.args.n, 3);
    assert_string_equal(fake.args.text[0], "100");
    assert_string_equal(fake.args.text[1], "60000");
    assert_string_equal(fake.args.text[2], "1");
    assert_true(verdict.is_allowed);
    assert_int_equal(verdict.remaining, 42);
    assert_int_equal(verdict.reset_ms, 35000);
    assert_int_equal(verdict.retry_ms, 0);
}

static void test_a_refusal_says_when_to_come_back(void **state)
{
    struct redis_reply items[4] = {{.kind = REDIS_INT, .integer = 0},
                                   {.kind = REDIS_INT, .integer = 0},
                                   {.kind = REDIS_INT, .integer = 60000},
                                   {.kind = REDIS_INT, .integer = 600}};
    struct rate_verdict verdict;

    fake.reply = list_of(items, 4);
    assert_int_equal(rate_charge(*state, "u", &policy, &verdict), OK);
    assert_false(verdict.is_allowed);
    assert_int_equal(verdict.retry_ms, 600);
}

static void test_an_odd_answer_is_our_fault_and_no_verdict(void **state)
{
    struct redis_reply items[5] = {{.kind = REDIS_INT},
                                   {.kind = REDIS_INT},
                                   {.kind = REDIS_INT},
                                   {.kind = REDIS_INT},
                                   {.kind = REDIS_INT}};
    struct rate_verdict verdict;

    fake.reply = (struct redis_reply){.kind = REDIS_INT, .integer = 1};
    assert_int_equal(rate_charge(*state, "u", &policy, &verdict), ERR_INTERNAL);
    fake.reply = list_of(items, 3);
    assert_int_equal(rate_charge(*state, "u", &policy, &verdict), ERR_INTERNAL);
    fake.reply = list_of(items, 5);
    assert_int_equal(rate_charge(*state, "u", &policy, &verdict), ERR_INTERNAL);
    items[3].kind = REDIS_TEXT;
    fake.reply = list_of(items, 4);
    assert_int_equal(rate_charge(*state, "u", &policy, &verdict), ERR_INTERNAL);
}

static void test_a_lost_redis_is_told_as_such(void **state)
{
    struct rate_verdict verdict;

    fake.result = ERR_DEPENDENCY_UNAVAILABLE;
    assert_int_equal(rate_charge(*state, "u", &policy, &verdict), ERR_DEPENDENCY_UNAVAILABLE);
    assert_int_equal(rate_forget(*state, "u", &policy), ERR_DEPENDENCY_UNAVAILABLE);
}

static void test_forgetting_deletes_just_that_key(void **state)
{
    assert_int_equal(rate_forget(*state, "u", &policy), OK);
    assert_string_equal(fake.word, "DEL");
    assert_string_equal(fake.key, "rate:{u}:default");
}

static void test_a_cost_is_within_one_and_the_quota(void **state)
{
    struct redis_reply items[4] = {
        {.kind = REDIS_INT}, {.kind = REDIS_INT}, {.kind = REDIS_INT}, {.kind = REDIS_INT}};
    struct rate_policy dear = policy;
    struct rate_verdict verdict;

    fake.reply = list_of(items, 4);
    dear.cost = 7;
    assert_int_equal(rate_charge(*state, "u", &dear, &verdict), OK);
    assert_string_equal(fake.args.text[2], "7");
    dear.cost = 1000; /* would never pass */
    assert_int_equal(rate_cost(&dear), 100);
    dear.cost = -1;
    assert_int_equal(rate_cost(&dear), 1);
}

static int charge_locally(const char *subject, const struct rate_policy *p, int64_t share, int n)
{
    struct rate_verdict verdict;
    int n_allowed = 0;

    while (n-- > 0) {
        rate_charge_locally(subject, p, share, &verdict);
        n_allowed += verdict.is_allowed;
        assert_true(verdict.is_allowed || verdict.retry_ms > 0);
    }
    return n_allowed;
}

static void test_without_redis_a_process_admits_its_share(void **state)
{
    struct rate_policy dear = policy;

    (void)state;
    clock_test_set(0, 1000000);
    assert_int_equal(charge_locally("a", &policy, 1, 300), 100);
    assert_int_equal(charge_locally("b", &policy, 4, 300), 25);
    clock_test_set(0, 1000000 + 600000); /* one of 100 in 60 s */
    assert_int_equal(charge_locally("a", &policy, 1, 3), 1);
    dear.cost = 10;
    assert_int_equal(charge_locally("c", &dear, 1, 300), 10);
    dear.quota = 1;
    assert_int_equal(charge_locally("d", &dear, 8, 300), 1);
    clock_test_set(-1, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_key_carries_the_subject_as_its_hash_tag, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_charge_sends_quota_and_window_and_reads_the_verdict,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_refusal_says_when_to_come_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_odd_answer_is_our_fault_and_no_verdict, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_lost_redis_is_told_as_such, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_cost_is_within_one_and_the_quota, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_redis_a_process_admits_its_share, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_forgetting_deletes_just_that_key, setup, teardown),
    };

    return cmocka_run_group_tests_name("ratelimit", tests, NULL, NULL);
}
