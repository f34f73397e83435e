/* Time: what is written, what is read, and a clock that a test sets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "lib/base.h"
#include "lib/clock.h"

static const char *text_of(int64_t ms)
{
    static char text[CLOCK_TEXT_SIZE];

    clock_format(ms, text);
    return text;
}

static void test_times_are_written_with_milliseconds_in_utc(void **state)
{
    (void)state;
    assert_string_equal(text_of(0), "1970-01-01T00:00:00.000Z");
    assert_string_equal(text_of(1), "1970-01-01T00:00:00.001Z");
    assert_string_equal(text_of(951782399999), "2000-02-28T23:59:59.999Z");
    assert_string_equal(text_of(951868799000), "2000-02-29T23:59:59.000Z");
    assert_string_equal(text_of(1795442543123), "2026-11-23T14:02:23.123Z");
}

static void test_times_out_of_range_are_clamped(void **state)
{
    (void)state;
    assert_string_equal(text_of(-1), "1970-01-01T00:00:00.000Z");
    assert_string_equal(text_of(INT64_MIN), "1970-01-01T00:00:00.000Z");
    assert_string_equal(text_of(253402300799999), "9999-12-31T23:59:59.999Z");
    assert_string_equal(text_of(253402300800000), "9999-12-31T23:59:59.999Z");
    assert_string_equal(text_of(INT64_MAX), "9999-12-31T23:59:59.999Z");
}

struct parse_case {
    const char *text;
    int64_t ms;
};

static void test_every_form_that_we_are_given_is_read(void **state)
{
    static const struct parse_case cases[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"1970-01-01t00:00:00z", 0},
        {"1970-01-01T00:00:00.1Z", 100},
        {"1970-01-01T00:00:00.12Z", 120},
        {"1970-01-01T00:00:00.123Z", 123},
        {"1970-01-01T00:00:00.1239999999999Z", 123},
        {"1970-01-01T02:00:00+02:00", 0},
        {"1969-12-31T22:30:00-01:30", 0},
        {"1970-01-01T00:00:00-00:00", 0},
        {"2026-11-23 14:02:23.123456+00", 1795442543123},
        {"2026-11-23 16:02:23.123456+02", 1795442543123},
        {"2026-11-23 19:32:23.123+0530", 1795442543123},
        {"2000-02-29T23:59:59Z", 951868799000},
        {"1969-12-31T23:59:59.999Z", -1},
        {"9999-12-31T23:59:59.999Z", 253402300799999},
        {"2016-12-31T23:59:60Z", 1483228800000}, /* a leap second counts as the next one */
        {"2017-01-01T01:59:60+02:00", 1483228800000},
    };
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(cases); i++) {
        int64_t ms = -77;

        if (!clock_parse(cases[i].text, &ms) || ms != cases[i].ms) {
            fail_msg("%s gives %lld", cases[i].text, (long long)ms);
        }
    }
}

static void test_what_is_no_time_is_refused(void **state)
{
    static const char *const bad[] = {"",
                                      "2026",
                                      "2026-11-23",
                                      "2026-11-23T14:02:23",
                                      "2026-11-23T14:02Z",
                                      "now",
                                      "infinity",
                                      "2026-11-23T14:02:23.Z",
                                      "2026-11-23T14:02:23,5Z",
                                      "2026-11-23T14:02:23Zx",
                                      "2026-11-23T14:02:23 Z",
                                      "2026-11-23_14:02:23Z",
                                      "2026-1-23T14:02:23Z",
                                      "2026-13-01T00:00:00Z",
                                      "2026-00-01T00:00:00Z",
                                      "2026-01-00T00:00:00Z",
                                      "2026-02-29T00:00:00Z",
                                      "2026-02-31T00:00:00Z",
                                      "2026-04-31T00:00:00Z",
                                      "2100-02-29T00:00:00Z",
                                      "2026-01-01T24:00:00Z",
                                      "2026-01-01T00:60:00Z",
                                      "2026-01-01T00:00:61Z",
                                      "2026-01-01T00:00:00+24:00",
                                      "2026-01-01T00:00:00+00:60",
                                      "2026-01-01T00:00:00+",
                                      "2026-01-01T00:00:00+1",
                                      "2026-01-01T00:00:00+01:",
                                      "2026-01-01T00:00:00+01:0",
                                      "2026-01-01T00:00:00+01:000",
                                      "2026-01-01T00:00:00*01:00",
                                      " 2026-01-01T00:00:00Z",
                                      "+026-01-01T00:00:00Z",
                                      "-026-01-01T00:00:00Z",
                                      "2026-01-01T-1:00:00Z",
                                      "20260101T000000Z",
                                      "12026-01-01T00:00:00Z"};
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(bad); i++) {
        int64_t ms;

        if (clock_parse(bad[i], &ms)) {
            fail_msg("\"%s\" is read", bad[i]);
        }
    }
}

static void test_what_is_written_is_read_back(void **state)
{
    int64_t ms, back;
    char text[CLOCK_TEXT_SIZE];

    (void)state;
    for (ms = 0; ms < 253402300799999; ms += 8640123457) {
        clock_format(ms, text);
        assert_int_equal(strlen(text), CLOCK_TEXT_SIZE - 1);
        assert_true(clock_parse(text, &back));
        assert_int_equal(back, ms);
    }
}

static void test_a_test_sets_both_clocks_and_lets_them_go(void **state)
{
    int64_t mono;

    (void)state;
    clock_test_set(5000, 7000123);
    assert_int_equal(clock_wall_ms(), 5000);
    assert_int_equal(clock_mono_us(), 7000123);
    assert_int_equal(clock_mono_ms(), 7000);
    clock_test_set(-1, -1);
    assert_true(clock_wall_ms() > INT64_C(1700000000000));
    mono = clock_mono_us();
    assert_true(clock_mono_us() >= mono);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times_are_written_with_milliseconds_in_utc),
        cmocka_unit_test(test_times_out_of_range_are_clamped),
        cmocka_unit_test(test_every_form_that_we_are_given_is_read),
        cmocka_unit_test(test_what_is_no_time_is_refused),
        cmocka_unit_test(test_what_is_written_is_read_back),
        cmocka_unit_test(test_a_test_sets_both_clocks_and_lets_them_go),
    };

    return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
