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
        breaker_failure(b, now_ms);
    }
}

static void test_opens_after_failures_in_a_row(void **state)
{
    struct breaker *b = *state;

    fail_times(b, MAX - 1, 0);
    assert_true(breaker_allow(b, 0, NULL));
    fail_times(b, 1, 0);
    assert_int_equal(breaker_state(b), BREAKER_OPEN);
    assert_false(breaker_allow(b, OPEN_MS - 1, NULL));
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
    bool is_probe;

    fail_times(b, MAX, 0);
    assert_true(breaker_allow(b, OPEN_MS, &is_probe));
    assert_true(is_probe);
    assert_int_equal(breaker_state(b), BREAKER_HALF_OPEN);
    assert_false(breaker_allow(b, OPEN_MS + 1, &is_probe));
    assert_false(is_probe);
    breaker_failure(b, OPEN_MS + 10);
    assert_false(breaker_allow(b, 2 * OPEN_MS + 9, NULL));
    assert_true(breaker_allow(b, 2 * OPEN_MS + 10, NULL));
    breaker_success(b);
    assert_int_equal(breaker_state(b), BREAKER_CLOSED);
    assert_true(breaker_allow(b, 2 * OPEN_MS + 11, &is_probe));
    assert_false(is_probe);
    fail_times(b, MAX - 1, 0);
    assert_int_equal(breaker_state(b), BREAKER_CLOSED);
}

static void test_a_probe_that_never_reports_is_forgotten(void **state)
{
    struct breaker *b = *state;

    fail_times(b, MAX, 0);
    assert_true(breaker_allow(b, OPEN_MS, NULL));
    assert_false(breaker_allow(b, OPEN_MS + PROBE_MS - 1, NULL));
    assert_true(breaker_allow(b, OPEN_MS + PROBE_MS, NULL));
}

static void test_late_failures_do_not_keep_it_open(void **state)
{
    struct breaker *b = *state;

    fail_times(b, MAX, 0);
    fail_times(b, 10, OPEN_MS - 1); /* calls that began before it opened */
    assert_true(breaker_allow(b, OPEN_MS, NULL));
}

static void test_processes_that_share_the_word_act_as_one(void **state)
{
    struct breaker *b = *state;
    bool is_probe;
    int status;
    pid_t child = fork();

    if (child == 0) {
        fail_times(b, MAX, 0);
        _exit(breaker_allow(b, OPEN_MS, &is_probe) && is_probe ? 0 : 1); /* and dies with it */
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_false(breaker_allow(b, OPEN_MS + PROBE_MS - 1, NULL));
    assert_true(breaker_allow(b, OPEN_MS + PROBE_MS, &is_probe));
    assert_true(is_probe);
}

static void test_times_of_a_year_fit(void **state)
{
    struct breaker *b = *state;
    const int64_t year_ms = INT64_C(365) * 86400 * 1000;

    fail_times(b, 100000, year_ms); /* more failures than it counts */
    assert_false(breaker_allow(b, year_ms + OPEN_MS - 1, NULL));
    assert_true(breaker_allow(b, year_ms + OPEN_MS, NULL));
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
        cmocka_unit_test_setup_teardown(test_late_failures_do_not_keep_it_open, setup, teardown),
        cmocka_unit_test_setup_teardown(test_processes_that_share_the_word_act_as_one, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_times_of_a_year_fit, setup, teardown),
    };

    return cmocka_run_group_tests_name("breaker", tests, NULL, NULL);
}
