/* Permits in memory shared by fork(). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/permit.h"

static struct permit_set *shared_set(int capacity)
{
    void *p = mmap(NULL, permit_set_size(capacity), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(p, MAP_FAILED);
    return permit_set_init(p, capacity);
}

static void test_no_more_permits_than_the_limit(void **state)
{
    struct permit_set *set = shared_set(10);

    (void)state;
    assert_int_equal(permit_try(set, 1, 2, 7), 1);
    assert_int_equal(permit_try(set, 1, 2, 0), 0);
    assert_int_equal(permit_try(set, 1, 2, 0), -1);
    assert_int_equal(permit_try(set, 2, 3, 0), 2); /* a higher limit still finds one */
    assert_int_equal(permit_try(set, 1, 0, 0), -1);
    assert_int_equal(permit_try(set, 1, 100, -5), 3);
    assert_int_equal(permit_count(set, 1), 3);
    assert_int_equal(permit_count(set, 0), 4);
    permit_give(set, 1);
    assert_int_equal(permit_try(set, 3, 2, 0), 1);
    assert_int_equal(permit_reclaim(set, 1), 2);
    assert_int_equal(permit_count(set, 0), 2);
}

static void test_waiting_ends_at_its_time(void **state)
{
    struct permit_set *set = shared_set(1);
    int64_t start_us = clock_mono_us();

    (void)state;
    assert_int_equal(permit_try(set, 1, 1, 0), 0);
    assert_int_equal(permit_take(set, 1, 1, 0, start_us - 1), -1);
    assert_int_equal(permit_take(set, 1, 1, 0, start_us + 20000), -1);
    assert_true(clock_mono_us() - start_us >= 20000);
}

enum { CONTENDERS = 8, ROUNDS = 3000, CONTENDED = 2 };

struct arena_of_contenders {
    struct permit_set *set;
    _Atomic int inside, most_inside, failures;
};

static void contend(struct arena_of_contenders *a, uint16_t owner)
{
    int i;

    for (i = 0; i < ROUNDS; i++) {
        int now, most;
        int permit =
            permit_take(a->set, owner, CONTENDED, i, clock_mono_us() + 10 * INT64_C(1000000));

        if (permit < 0) {
            atomic_fetch_add(&a->failures, 1);
            return;
        }
        now = atomic_fetch_add(&a->inside, 1) + 1;
        most = atomic_load(&a->most_inside);
        while (now > most && !atomic_compare_exchange_weak(&a->most_inside, &most, now)) {
        }
        if (i % 64 == 0) {
            sched_yield();
        }
        atomic_fetch_sub(&a->inside, 1);
        permit_give(a->set, permit);
    }
}

static void test_processes_share_permits_and_none_is_forgotten(void **state)
{
    struct arena_of_contenders *a =
        mmap(NULL, sizeof(*a), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t children[CONTENDERS];
    int i;

    (void)state;
    a->set = shared_set(CONTENDED);
    for (i = 0; i < CONTENDERS; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            contend(a, (uint16_t)(i + 1));
            _exit(0);
        }
    }
    for (i = 0; i < CONTENDERS; i++) {
        assert_int_equal(waitpid(children[i], NULL, 0), children[i]);
    }
    assert_int_equal(atomic_load(&a->failures), 0); /* a lost wake-up would be a 10 s wait */
    assert_in_range(atomic_load(&a->most_inside), 1, CONTENDED);
    assert_int_equal(permit_count(a->set, 0), 0);
}

static void test_random_kills_leak_nothing(void **state)
{
    struct arena_of_contenders *a =
        mmap(NULL, sizeof(*a), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int round;

    (void)state;
    a->set = shared_set(CONTENDED);
    for (round = 0; round < 40; round++) {
        pid_t child = fork();
        int64_t until_us = clock_mono_us() + 100 + 37 * round;

        if (child == 0) {
            for (;;) {
                contend(a, 9);
            }
        }
        while (clock_mono_us() < until_us) {
        }
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, NULL, 0), child);
        permit_reclaim(a->set, 9);
        assert_int_equal(permit_count(a->set, 0), 0);
        assert_int_equal(permit_take(a->set, 1, 1, 0, 0), 0); /* usable as before */
        permit_give(a->set, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_more_permits_than_the_limit),
        cmocka_unit_test(test_waiting_ends_at_its_time),
        cmocka_unit_test(test_processes_share_permits_and_none_is_forgotten),
        cmocka_unit_test(test_random_kills_leak_nothing),
    };

    return cmocka_run_group_tests_name("permit", tests, NULL, NULL);
}
