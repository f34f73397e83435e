/* Offsets, compared with the C library's over many zones and years. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "lib/base.h"
#include "lib/zone.h"

enum { STEP_S = 6 * 3600 + 7 };

static void compare(const char *name, int64_t from, int64_t to)
{
    struct zone z;
    int64_t t;

    assert_true(zone_load(name, &z));
    setenv("TZ", name, 1);
    tzset();
    for (t = from; t < to; t += STEP_S) {
        time_t moment = (time_t)t;
        struct tm local;

        localtime_r(&moment, &local);
        if (zone_offset_s(&z, t) != local.tm_gmtoff) {
            fail_msg("%s at %lld: %d, the C library says %ld", name, (long long)t,
                     zone_offset_s(&z, t), local.tm_gmtoff);
        }
    }
    unsetenv("TZ");
    tzset();
}

static void test_offsets_are_the_c_librarys(void **state)
{
    static const char *const zones[] = {
        "UTC",           "Europe/Berlin",    "America/New_York",  "Australia/Sydney",
        "Asia/Kolkata",  "Asia/Tokyo",       "Africa/Casablanca", "America/Sao_Paulo",
        "Asia/Tehran",   "America/St_Johns", "Pacific/Chatham",   "Australia/Lord_Howe",
        "Europe/Dublin", "America/Nuuk",     "Asia/Gaza",         "Pacific/Apia"};
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(zones); i++) {
        compare(zones[i], 0, INT64_C(3000000000)); /* 1970 to 2065 */
    }
}

static void test_what_is_no_zone_is_refused(void **state)
{
    static const char *const bad[] = {
        "", "Mars/Olympus", "/etc/passwd", "../../", "../../../etc/hosts", "zone.tab", "Europe"};
    struct zone z;
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(zone_load(bad[i], &z));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offsets_are_the_c_librarys),
        cmocka_unit_test(test_what_is_no_zone_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
