/* Schedules, above all at the changes of the clocks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lib/clock.h"
#include "lib/cron.h"

static int64_t at(const char *text)
{
    int64_t ms = 0;

    assert_true(clock_parse(text, &ms));
    return ms;
}

static void expect(const char *schedule, const char *zone, const char *after, const char *next)
{
    char text[CLOCK_TEXT_SIZE];
    struct cron c;
    int64_t ms;

    assert_true(cron_parse(schedule, &c));
    assert_true(cron_next(&c, zone, at(after), &ms));
    clock_format(ms, text);
    assert_string_equal(text, next);
}

static void test_fields_are_lists_of_ranges_with_steps(void **state)
{
    (void)state;
    expect("*/15 * * * *", "UTC", "2026-03-01T10:07:31.500Z", "2026-03-01T10:15:00.000Z");
    expect("*/15 * * * *", "UTC", "2026-03-01T10:45:00.000Z", "2026-03-01T11:00:00.000Z");
    expect("5,20-22 3 * * *", "UTC", "2026-03-01T03:20:00.000Z", "2026-03-01T03:21:00.000Z");
    expect("0 0 1 1 *", "UTC", "2026-01-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z");
    expect("0 0 29 2 *", "UTC", "2026-03-01T00:00:00.000Z", "2028-02-29T00:00:00.000Z");
    expect("*/2 * * * * *", "UTC", "2026-03-01T00:00:00.000Z", "2026-03-01T00:00:02.000Z");
    expect("30 0 0 * * 7", "UTC", "2026-03-02T00:00:00.000Z", "2026-03-08T00:00:30.000Z");
}

static void test_a_day_or_a_weekday_is_enough_where_both_are_given(void **state)
{
    (void)state;
    expect("0 12 13 * 5", "UTC", "2026-03-01T00:00:00.000Z", "2026-03-06T12:00:00.000Z");
    expect("0 12 13 * 5", "UTC", "2026-03-06T12:00:00.000Z", "2026-03-13T12:00:00.000Z");
    expect("0 12 * * 1-5", "UTC", "2026-03-06T12:00:00.000Z", "2026-03-09T12:00:00.000Z");
}

static void test_an_hour_that_is_left_out_loses_no_tick(void **state)
{
    (void)state;
    /* Berlin, 29 March 2026: 02:00 becomes 03:00, which is 01:00 UTC. */
    expect("30 2 * * *", "Europe/Berlin", "2026-03-28T02:00:00.000Z", "2026-03-29T01:00:00.000Z");
    expect("30 2 * * *", "Europe/Berlin", "2026-03-29T01:00:00.000Z", "2026-03-30T00:30:00.000Z");
    expect("30 1,2 * * *", "Europe/Berlin", "2026-03-29T00:30:00.000Z", "2026-03-29T01:00:00.000Z");
    expect("30 * * * *", "Europe/Berlin", "2026-03-29T00:30:00.000Z", "2026-03-29T01:30:00.000Z");
}

static void test_an_hour_that_comes_twice_doubles_no_tick(void **state)
{
    (void)state;
    /* Berlin, 25 October 2026: 03:00 becomes 02:00, at 01:00 UTC. */
    expect("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00.000Z", "2026-10-25T00:30:00.000Z");
    expect("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00.000Z", "2026-10-26T01:30:00.000Z");
    expect("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:30:00.000Z", "2026-10-25T01:00:00.000Z");
}

static void test_what_is_no_schedule_is_refused(void **state)
{
    static const char *const bad[] = {
        "",           "* * * *",    "* * * * * * *", "60 * * * *",  "* 24 * * *",   "* * 0 * *",
        "* * * 13 *", "* * * * 8",  "5-1 * * * *",   "*/0 * * * *", "a * * * *",    "1,, * * * *",
        "1- * * * *", "* * * * *x", "99999 * * * *", "-1 * * * *",  "1\t* * * * *",
    };
    struct cron c;
    int64_t ms;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_false(cron_parse(bad[i], &c));
    }
    assert_true(cron_parse("0 0 30 2 *", &c));
    assert_false(cron_next(&c, "UTC", 0, &ms));
    assert_false(cron_next(&c, "Mars/Olympus", 0, &ms));
    assert_false(cron_zone_is_known("../../etc/passwd"));
    assert_false(cron_zone_is_known(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields_are_lists_of_ranges_with_steps),
        cmocka_unit_test(test_a_day_or_a_weekday_is_enough_where_both_are_given),
        cmocka_unit_test(test_an_hour_that_is_left_out_loses_no_tick),
        cmocka_unit_test(test_an_hour_that_comes_twice_doubles_no_tick),
        cmocka_unit_test(test_what_is_no_schedule_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
