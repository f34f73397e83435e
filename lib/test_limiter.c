/* The limit of concurrency: shrinks when work gets slow, grows when it is made use of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/clock.h"
#include "lib/limiter.h"

enum { MOST = 32, LEAST = 4, TOLERANCE = 400, KIND = 3 };

static struct limiter limiter;
static _Atomic int64_t words[LIMITER_WORDS];
static void *memory;
static int64_t now_us;

static int setup(void **state)
{
    (void)state;
    now_us = 1000000;
    clock_test_set(0, now_us);
    memory = aligned_alloc(64, permit_set_size(MOST));
    memset(memory, 0, permit_set_size(MOST));
    memset((void *)words, 0, sizeof(words));
    memset((void *)&limiter, 0, sizeof(limiter));
    limiter.permits = permit_set_init(memory, MOST);
    limiter.words = words;
    limiter.owner = 1;
    limiter.most = MOST;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    clock_test_set(-1, -1);
    free(memory);
    return 0;
}

/* A window of work that takes so long each, with so many permits in use. */
static void window(int in_use, int64_t took_us)
{
    const struct limiter_turn over = {.permit = MOST, .since_us = 1}; /* long ago */
    struct limiter_turn turns[MOST + 1];
    int n = 0, i;

    while (n < in_use && limiter_enter(&limiter, 100, 0, &turns[n])) {
        n++;
    }
    for (i = 0; i < 20; i++) {
        now_us += 10000;
        clock_test_set(0, now_us);
        limiter_leave(&limiter, &over, KIND, took_us, TOLERANCE, LEAST);
    }
    for (i = 0; i < n; i++) {
        limiter_leave(&limiter, &turns[i], KIND, 0, TOLERANCE, LEAST);
    }
}

/* As many turns as there are; how many. */
static int enter_all(int share_percent, struct limiter_turn turns_out[MOST + 1])
{
    int n = 0;

    while (n <= MOST && limiter_enter(&limiter, share_percent, 0, &turns_out[n])) {
        n++;
    }
    return n;
}

static void test_at_first_all_threads_may_work(void **state)
{
    struct limiter_turn turns[MOST + 1];

    (void)state;
    assert_int_equal(limiter_limit(&limiter), MOST);
    assert_int_equal(enter_all(100, turns), MOST);
    limiter_leave(&limiter, &turns[0], KIND, 0, TOLERANCE, LEAST);
    assert_int_equal(enter_all(100, turns), 1);
}

static void test_slow_work_shrinks_the_limit_down_to_the_least_and_no_further(void **state)
{
    int i;

    (void)state;
    window(MOST, 1000);
    assert_int_equal(limiter_limit(&limiter), MOST);
    window(MOST, 8000); /* twice as slow as is tolerated: two windows, perhaps a hiccup */
    assert_int_equal(limiter_limit(&limiter), MOST);
    window(MOST, 8000);
    assert_in_range(limiter_limit(&limiter), MOST / 4, MOST / 2);
    for (i = 0; i < 10; i++) {
        window(MOST, 50000);
    }
    assert_int_equal(limiter_limit(&limiter), LEAST);
}

static void test_the_limit_comes_back_when_work_is_fast_again_and_asked_for(void **state)
{
    int i, before;

    (void)state;
    window(MOST, 1000);
    for (i = 0; i < 10; i++) {
        window(MOST, 50000);
    }
    before = limiter_limit(&limiter);
    window(0, 1000);
    assert_int_equal(limiter_limit(&limiter), before); /* nobody needs more */
    for (i = 0; i < 20; i++) {
        window(MOST, 1000);
    }
    assert_int_equal(limiter_limit(&limiter), MOST);
}

static void test_work_that_is_always_slow_is_usual(void **state)
{
    (void)state;
    window(MOST, 100000);
    window(MOST, 100000);
    assert_int_equal(limiter_limit(&limiter), MOST);
}

static void test_low_shares_leave_room_for_others(void **state)
{
    struct limiter_turn turns[MOST + 1];

    (void)state;
    assert_int_equal(enter_all(50, turns), MOST / 2);
    assert_int_equal(enter_all(100, turns), MOST / 2);
}

static void pass(int64_t us)
{
    now_us += us;
    clock_test_set(0, now_us);
}

/* A dependency stands still, and all turns with it: work that does without goes on. */
static void test_turns_that_are_spent_waiting_do_not_count(void **state)
{
    struct limiter_turn waiting[MOST + 1], working[MOST + 1];
    int i;

    (void)state;
    assert_int_equal(enter_all(100, waiting), MOST);
    pass(LIMITER_STALLED_US);
    assert_int_equal(enter_all(100, working), 0);
    pass(1);
    assert_int_equal(enter_all(100, working), MOST);
    for (i = 0; i < MOST; i++) {
        limiter_leave(&limiter, &waiting[i], KIND, 0, TOLERANCE, LEAST);
    }
    assert_int_equal(permit_count(limiter.permits, 0), MOST); /* they are not theirs any more */
    assert_int_equal(enter_all(100, waiting), 0);
    for (i = 0; i < MOST; i++) {
        limiter_leave(&limiter, &working[i], KIND, 0, TOLERANCE, LEAST);
    }
    assert_int_equal(permit_count(limiter.permits, 0), 0);
}

/* While there is room, nobody's turn is looked at: it ends with its work. */
static void test_a_long_turn_ends_where_others_need_it_only(void **state)
{
    struct limiter_turn turn, other;

    (void)state;
    assert_true(limiter_enter(&limiter, 100, 0, &turn));
    pass(10 * LIMITER_STALLED_US);
    assert_true(limiter_enter(&limiter, 100, 0, &other));
    assert_int_equal(permit_count(limiter.permits, 0), 2);
    limiter_leave(&limiter, &turn, KIND, 0, TOLERANCE, LEAST);
    limiter_leave(&limiter, &other, KIND, 0, TOLERANCE, LEAST);
    assert_int_equal(permit_count(limiter.permits, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_at_first_all_threads_may_work, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_slow_work_shrinks_the_limit_down_to_the_least_and_no_further, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_the_limit_comes_back_when_work_is_fast_again_and_asked_for, setup, teardown),
        cmocka_unit_test_setup_teardown(test_work_that_is_always_slow_is_usual, setup, teardown),
        cmocka_unit_test_setup_teardown(test_low_shares_leave_room_for_others, setup, teardown),
        cmocka_unit_test_setup_teardown(test_turns_that_are_spent_waiting_do_not_count, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_long_turn_ends_where_others_need_it_only, setup,
                                        teardown),
    };

    return cmocka_run_group_tests_name("limiter", tests, NULL, NULL);
}
