/* The breaker by a clock that the test sets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/breaker.h"

enum { MAX = 3, OPEN_MS = 1000, PROBE_MS = 5000 };

static _Atomic uint64_t *word; /* in memory that a child shares */
static struct breaker breaker = {.failures_max = MAX, .open_ms = OPEN_MS, .probe_ms = PROBE_MS};

static int setup(void **state)
{
    word = mmap(NULL, sizeof(*word), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(word, MAP_FAILED);
    breaker.word = word;
    *state = &breaker;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return munmap(word, sizeof(*word));
}

static void fail_times(struct breaker *b, int n, int64_t now_ms)
{
    while (n-- > 0) {
        breaker_failure(b, now_ms, 0);
    }
}

static bool allows(struct breaker *b, int64_t now_ms)
{
    int64_t probe;

    return breaker_allow(b, now_ms, &probe);
}

/* Its number. */
static int64_t send_probe(struct breaker *b, int64_t now_ms)
{
    int64_t probe;

    assert_true(breaker_allow(b, now_ms, &probe));
    assert_int_not_equal(probe, 0);
    return probe;
}

static void test_opens_after_failures_in_a_row(void **state)
{
    struct breaker *b = *state;

    fail_times(b, MAX - 1, 0);
    assert_true(allows(b, 0));
    fail_times(b, 1, 0);
    assert_int_equal(breaker_state(b), BREAKER_OPEN);
    assert_false(allows(b, OPEN_MS - 1));
}

static void test_a_success_in_between_starts_the_count_anew(void **state)
{
    struct breaker *b = *state;

    fail_times(b, MAX - 1, 0);
    breaker_success(b);
    fail_times(b, MAX - 1, 0);
    assert_int_equal(breaker_state(b), BREAKER_CLOSED);
}

static void test_one_probe_decides(void **state)
{
    struct breaker *b = *state;
    int64_t probe;

    fail_times(b, MAX, 0);
    probe = send_probe(b, OPEN_MS);
    assert_int_equal(breaker_state(b), BREAKER_HALF_OPEN);
    assert_false(allows(b, OPEN_MS + 1));
    breaker_failure(b, OPEN_MS + 10, probe);
    assert_false(allows(b, 2 * OPEN_MS + 9));
    (void)send_probe(b, 2 * OPEN_MS + 10);
    breaker_success(b);
    assert_int_equal(breaker_state(b), BREAKER_CLOSED);
    assert_true(breaker_allow(b, 2 * OPEN_MS + 11, &probe));
    assert_int_equal(probe, 0);
    fail_times(b, MAX - 1, 0);
    assert_int_equal(breaker_state(b), BREAKER_CLOSED);
}

static void test_the_probe_is_waited_for_whatever_fails_meanwhile(void **state)
{
    struct breaker *b = *state;
    int64_t probe;

    fail_times(b, MAX, 0);
    probe = send_probe(b, OPEN_MS);
    fail_times(b, MAX, OPEN_MS + 1); /* calls that began before it opened */
    assert_false(allows(b, OPEN_MS + PROBE_MS - 1));
    assert_int_equal(breaker_state(b), BREAKER_HALF_OPEN);
    (void)send_probe(b, OPEN_MS + PROBE_MS); /* the first one's time is over: */
    breaker_failure(b, OPEN_MS + PROBE_MS + 1, probe);
    breaker_probe_over(b, OPEN_MS + PROBE_MS + 1, probe);
    assert_false(allows(b, OPEN_MS + 2 * PROBE_MS - 1)); /* it has no say any more */
}

static void test_a_probe_that_never_reports_is_forgotten(void **state)
{
    struct breaker *b = *state;

    fail_times(b, MAX, 0);
    assert_true(allows(b, OPEN_MS));
    assert_false(allows(b, OPEN_MS + PROBE_MS - 1));
    assert_true(allows(b, OPEN_MS + PROBE_MS));
}

static void test_a_probe_that_finds_nothing_out_is_followed_by_another(void **state)
{
    struct breaker *b = *state;
    int64_t probe;

    fail_times(b, MAX, 0);
    probe = send_probe(b, OPEN_MS);
    breaker_probe_over(b, OPEN_MS + 7, probe);
    assert_int_equal(breaker_state(b), BREAKER_OPEN);
    assert_false(allows(b, 2 * OPEN_MS + 6));
    probe = send_probe(b, 2 * OPEN_MS + 7);
    breaker_success(b);
    breaker_probe_over(b, 2 * OPEN_MS + 8, probe);
    assert_int_equal(breaker_state(b), BREAKER_CLOSED);
}

static void test_a_probe_whose_sender_has_died_is_followed_at_once(void **state)
{
    struct breaker *b = *state;

    breaker_forget_probe(b);
    assert_int_equal(breaker_state(b), BREAKER_CLOSED);
    fail_times(b, MAX, 0);
    breaker_forget_probe(b); /* there is none yet */
    assert_false(allows(b, OPEN_MS - 1));
    (void)send_probe(b, OPEN_MS);
    breaker_forget_probe(b);
    (void)send_probe(b, OPEN_MS);
    assert_false(allows(b, OPEN_MS));
}

static void test_late_failures_do_not_keep_it_open(void **state)
{
    struct breaker *b = *state;

    fail_times(b, MAX, 0);
    fail_times(b, 10, OPEN_MS - 1); /* calls that began before it opened */
    assert_true(allows(b, OPEN_MS));
}

static void test_processes_that_share_the_word_act_as_one(void **state)
{
    struct breaker *b = *state;
    int status;
    pid_t child = fork();

    if (child == 0) {
        fail_times(b, MAX, 0);
        _exit(send_probe(b, OPEN_MS) > 0 ? 0 : 1); /* and dies with it */
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_false(allows(b, OPEN_MS + PROBE_MS - 1));
    (void)send_probe(b, OPEN_MS + PROBE_MS);
}

static void test_times_of_a_year_fit(void **state)
{
    struct breaker *b = *state;
    const int64_t year_ms = INT64_C(365) * 86400 * 1000;

    fail_times(b, 100000, year_ms); /* more failures than it counts */
    assert_false(allows(b, year_ms + OPEN_MS - 1));
    assert_true(allows(b, year_ms + OPEN_MS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_opens_after_failures_in_a_row, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_success_in_between_starts_the_count_anew, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_one_probe_decides, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_probe_that_never_reports_is_forgotten, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_probe_is_waited_for_whatever_fails_meanwhile,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_probe_whose_sender_has_died_is_followed_at_once,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_probe_that_finds_nothing_out_is_followed_by_another,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_late_failures_do_not_keep_it_open, setup, teardown),
        cmocka_unit_test_setup_teardown(test_processes_that_share_the_word_act_as_one, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_times_of_a_year_fit, setup, teardown),
    };

    return cmocka_run_group_tests_name("breaker", tests, NULL, NULL);
}
