/* The breaker by a clock that the test sets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/breaker.h"

enum { MAX = 3, OPEN_MS = 1000 };

static int setup(void **state)
{
    *state = breaker_open(MAX, OPEN_MS);
    return 0;
}

static int teardown(void **state)
{
    struct breaker *b = *state;

    breaker_close(&b);
    assert_null(b);
    return 0;
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
    assert_false(breaker_allow(b, 2 * OPEN_MS - 1, NULL));
    assert_true(breaker_allow(b, 2 * OPEN_MS, NULL));
}

static void test_late_failures_do_not_keep_it_open(void **state)
{
    struct breaker *b = *state;

    fail_times(b, MAX, 0);
    fail_times(b, 10, OPEN_MS - 1); /* calls that began before it opened */
    assert_true(breaker_allow(b, OPEN_MS, NULL));
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
    };

    return cmocka_run_group_tests_name("breaker", tests, NULL, NULL);
}
