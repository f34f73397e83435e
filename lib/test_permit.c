/* Permits: each given out once, none lost, whoever waits is woken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "lib/clock.h"
#include "lib/permit.h"

enum { CAPACITY = 5, ME = 1, OTHER = 2, PATIENCE_US = 20000000 };

static int setup(void **state)
{
    void *memory = aligned_alloc(64, permit_set_size(CAPACITY));

    memset(memory, 0, permit_set_size(CAPACITY));
    *state = permit_set_init(memory, CAPACITY);
    assert_ptr_equal(*state, memory);
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static void test_a_set_is_whole_cache_lines(void **state)
{
    int n;

    (void)state;
    for (n = 1; n < 2000; n += 37) {
        assert_int_equal(permit_set_size(n) % 64, 0);
        assert_true(permit_set_size(n) >= (size_t)n * sizeof(uint16_t));
    }
}

static void test_each_permit_is_given_out_once(void **state)
{
    bool taken[CAPACITY] = {false};
    int i;

    for (i = 0; i < CAPACITY; i++) {
        int permit = permit_try(*state, ME, CAPACITY, 3);

        assert_in_range(permit, 0, CAPACITY - 1);
        assert_false(taken[permit]);
        taken[permit] = true;
    }
    assert_int_equal(permit_try(*state, ME, CAPACITY, 0), -1);
    assert_int_equal(permit_count(*state, 0), CAPACITY);
}

static void test_a_limit_below_the_capacity_holds(void **state)
{
    assert_in_range(permit_try(*state, ME, 2, 99), 0, 1);
    assert_in_range(permit_try(*state, ME, 2, -99), 0, 1);
    assert_int_equal(permit_try(*state, ME, 2, 0), -1);
    assert_in_range(permit_try(*state, ME, 3, 0), 2, 2);
    assert_int_equal(permit_try(*state, ME, 0, 0), -1);
}

static void test_a_permit_given_back_is_there_again(void **state)
{
    int permit = permit_try(*state, ME, 1, 0);

    assert_int_equal(permit_try(*state, OTHER, 1, 0), -1);
    permit_give(*state, permit);
    assert_int_equal(permit_count(*state, 0), 0);
    assert_int_equal(permit_try(*state, OTHER, 1, 0), permit);
}

static void test_the_dead_lose_theirs_and_nobody_elses(void **state)
{
    (void)permit_try(*state, ME, CAPACITY, 0);
    (void)permit_try(*state, OTHER, CAPACITY, 0);
    (void)permit_try(*state, OTHER, CAPACITY, 0);
    assert_int_equal(permit_count(*state, OTHER), 2);
    assert_int_equal(permit_reclaim(*state, OTHER), 2);
    assert_int_equal(permit_reclaim(*state, OTHER), 0);
    assert_int_equal(permit_count(*state, ME), 1);
    assert_int_equal(permit_count(*state, 0), 1);
}

static void test_a_wait_in_vain_ends_and_is_seen(void **state)
{
    int permit = permit_try(*state, ME, 1, 0);

    assert_false(permit_is_awaited(*state));
    assert_int_equal(permit_take(*state, OTHER, 1, 0, clock_mono_us() + 1000), -1);
    assert_true(permit_is_awaited(*state));
    permit_give(*state, permit);
    assert_in_range(permit_take(*state, OTHER, 1, 0, clock_mono_us()), 0, 0);
}

static void *take_one(void *set)
{
    return (void *)(intptr_t)permit_take(set, OTHER, 1, 0, clock_mono_us() + PATIENCE_US);
}

static void test_whoever_waits_is_woken(void **state)
{
    int permit = permit_try(*state, ME, 1, 0);
    int64_t until_us = clock_mono_us() + PATIENCE_US;
    pthread_t thread;
    void *got;

    assert_int_equal(pthread_create(&thread, NULL, take_one, *state), 0);
    while (!permit_is_awaited(*state) && clock_mono_us() < until_us) {
        sched_yield();
    }
    permit_give(*state, permit);
    pthread_join(thread, &got);
    assert_int_equal((intptr_t)got, 0);
    assert_int_equal(permit_count(*state, OTHER), 1);
}

static struct permit_set *contested;
static atomic_int holders, rounds;

static void *contend(void *most_out)
{
    int i, *most = most_out;

    for (i = 0; i < 2000; i++) {
        int permit = permit_take(contested, ME, 2, i, clock_mono_us() + PATIENCE_US);
        int now = atomic_fetch_add(&holders, 1) + 1;

        *most = now > *most ? now : *most;
        if (permit < 0) {
            return NULL;
        }
        atomic_fetch_sub(&holders, 1);
        permit_give(contested, permit);
        atomic_fetch_add(&rounds, 1);
    }
    return NULL;
}

static void test_never_more_than_the_limit_hold_one(void **state)
{
    enum { THREADS = 6 };
    pthread_t threads[THREADS];
    int most[THREADS] = {0}, i;

    contested = *state;
    for (i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, contend, &most[i]), 0);
    }
    for (i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_in_range(most[i], 1, 2);
    }
    assert_int_equal(atomic_load(&rounds), THREADS * 2000); /* nobody waited in vain */
    assert_int_equal(permit_count(*state, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_set_is_whole_cache_lines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_each_permit_is_given_out_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_limit_below_the_capacity_holds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_permit_given_back_is_there_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_dead_lose_theirs_and_nobody_elses, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_wait_in_vain_ends_and_is_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(test_whoever_waits_is_woken, setup, teardown),
        cmocka_unit_test_setup_teardown(test_never_more_than_the_limit_hold_one, setup, teardown),
    };

    return cmocka_run_group_tests_name("permit", tests, NULL, NULL);
}
