/* Tables and back-off of the queue; what its scripts do is tested against a real Redis. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lib/config.h"
#include "lib/queue.h"

static int load_config(void **state)
{
    (void)state;
    return config_load(stderr) ? 0 : -1;
}

static void test_every_row_has_its_settings_with_its_figures_as_defaults(void **state)
{
    (void)state;
#define JOB(symbol, small, name, queue, priority, timeout_s, concurrency_, retries_) \
    assert_int_equal(job_limits(JOB_##symbol).timeout_ms, (timeout_s)*1000);         \
    assert_int_equal(job_limits(JOB_##symbol).concurrency, concurrency_);            \
    assert_int_equal(job_limits(JOB_##symbol).retries, retries_);
#include "lib/job.def"
#undef JOB
}

static void test_types_are_found_by_their_names_only(void **state)
{
    enum job_kind kind;

    (void)state;
    for (kind = 0; kind < JOB__COUNT; kind++) {
        assert_ptr_equal(job_type_find(job_type(kind)->name), job_type(kind));
        assert_int_equal(job_type(kind)->kind, kind);
    }
    assert_null(job_type_find(""));
    assert_null(job_type_find("audio"));
    assert_null(job_type_find("Audio-Convert"));
    assert_int_equal(job_type(JOB_ANALYTICS_ANOMALY)->priority, JOB_PRIORITY_LOW);
}

static void test_queues_are_named_once(void **state)
{
    static const char *const expected[] = {"audio", "csv", "analytics", "email", "distribution"};
    size_t n, i;
    const char *const *names = queue_names(&n);

    (void)state;
    assert_int_equal(n, ARRAY_LEN(expected));
    for (i = 0; i < n; i++) {
        assert_string_equal(names[i], expected[i]);
    }
}

/* Full jitter: anything from 1 ms to a bound that doubles with each failure up to the cap. */
static void test_back_off_doubles_under_a_cap_with_full_jitter(void **state)
{
    int64_t first = config()->job_backoff_ms, cap = config()->job_backoff_max_ms;

    (void)state;
    assert_int_equal(queue_backoff_ms(1, 0), 1);
    assert_int_equal(queue_backoff_ms(1, (uint64_t)first - 1), first);
    assert_int_equal(queue_backoff_ms(1, (uint64_t)first), 1);
    assert_int_equal(queue_backoff_ms(2, (uint64_t)first * 2 - 1), first * 2);
    assert_int_equal(queue_backoff_ms(3, (uint64_t)first * 4 - 1), first * 4);
    assert_int_equal(queue_backoff_ms(60, (uint64_t)cap - 1), cap);
    assert_int_equal(queue_backoff_ms(INT64_MAX, (uint64_t)cap - 1), cap);
    assert_in_range(queue_backoff_ms(0, UINT64_MAX), 1, first);
    assert_in_range(queue_backoff_ms(INT64_MAX, UINT64_MAX), 1, cap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_row_has_its_settings_with_its_figures_as_defaults),
        cmocka_unit_test(test_types_are_found_by_their_names_only),
        cmocka_unit_test(test_queues_are_named_once),
        cmocka_unit_test(test_back_off_doubles_under_a_cap_with_full_jitter),
    };

    return cmocka_run_group_tests(tests, load_config, NULL);
}
