/* Scopes: deadlines, causes, violations, traces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/clock.h"
#include "lib/crypto.h"
#include "lib/scope.h"
#include "lib/str.h"

#define PARENT "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

static int group_setup(void **state)
{
    (void)state;
    crypto_open();
    return 0;
}

static int setup(void **state)
{
    struct arena *arena = arena_open(65536);
    struct scope *sc = arena_new(arena, struct scope);

    clock_test_set(1000000, 5000000);
    scope_init(sc, arena, 1000);
    *state = sc;
    return 0;
}

static int teardown(void **state)
{
    struct scope *sc = *state;
    struct arena *arena = sc->arena;

    scope_done(sc);
    clock_test_set(-1, -1);
    arena_close(&arena);
    return 0;
}

static void test_the_time_left_shrinks_to_nothing_and_not_below(void **state)
{
    struct scope *sc = *state;

    assert_int_equal(scope_left_ms(sc, 5000), 1000);
    assert_int_equal(scope_left_ms(sc, 300), 300);
    clock_test_set(1000000, 5999000);
    assert_int_equal(scope_left_ms(sc, 300), 1);
    clock_test_set(1000000, 6000000);
    assert_int_equal(scope_left_ms(sc, 300), 0);
    clock_test_set(1000000, 99000000);
    assert_int_equal(scope_left_ms(sc, 300), 0);
    assert_int_equal(scope_left_ms(sc, 0), 0);
}

static void test_a_new_scope_has_failed_nowhere_and_asked_no_shard(void **state)
{
    struct scope *sc = *state;

    assert_null(sc->cause);
    assert_null(sc->detail);
    assert_int_equal(sc->shard, -1);
    assert_int_equal(sc->n_violations, 0);
    assert_string_equal(sc->traceparent, "");
}

static void test_causes_and_details_are_kept_apart(void **state)
{
    struct scope *sc = *state;

    assert_int_equal(scope_fail(sc, ERR_INTERNAL, "db %d", 7), ERR_INTERNAL);
    assert_int_equal(scope_refuse(sc, ERR_CONFLICT, "name %s", "x"), ERR_CONFLICT);
    assert_string_equal(sc->cause, "db 7");
    assert_string_equal(sc->detail, "name x");
}

static void test_violations_are_collected_up_to_the_bound(void **state)
{
    struct scope *sc = *state;
    int i;

    for (i = 0; i < VIOLATIONS_MAX + 10; i++) {
        assert_int_equal(scope_violation(sc, "field", "code", "number %d", i),
                         ERR_VALIDATION_FAILED);
    }
    assert_int_equal(sc->n_violations, VIOLATIONS_MAX);
    assert_string_equal(sc->violations[0].detail, "number 0");
    assert_string_equal(sc->violations[VIOLATIONS_MAX - 1].detail, "number 31");
}

static void test_a_failure_that_was_handled_is_forgotten(void **state)
{
    struct scope *sc = *state;

    (void)scope_fail(sc, ERR_INTERNAL, "a");
    (void)scope_refuse(sc, ERR_CONFLICT, "b");
    (void)scope_violation(sc, "c", "d", "e");
    sc->retry_after_s = 9;
    scope_forgive(sc);
    assert_null(sc->cause);
    assert_null(sc->detail);
    assert_int_equal(sc->n_violations, 0);
    assert_int_equal(sc->retry_after_s, 0);
}

static void test_a_new_trace_is_well_formed_and_unlike_any_other(void **state)
{
    struct scope *sc = *state;
    char first[TRACEPARENT_SIZE];
    struct scope other;

    scope_trace_new(sc);
    memcpy(first, sc->traceparent, sizeof(first));
    assert_int_equal(strlen(first), TRACEPARENT_SIZE - 1);
    assert_memory_equal(first, "00-", 3);
    assert_int_equal(strlen(sc->request_id), 32);
    assert_memory_equal(sc->request_id, first + 3, 32);
    scope_init(&other, sc->arena, 10);
    assert_true(scope_trace_join(&other, first));
    scope_trace_new(sc);
    assert_string_not_equal(first, sc->traceparent);
}

static void test_a_trace_is_joined_with_a_span_of_our_own(void **state)
{
    struct scope *sc = *state;

    assert_true(scope_trace_join(sc, PARENT));
    assert_memory_equal(sc->traceparent, PARENT, 36);
    assert_true(memcmp(sc->traceparent + 36, PARENT + 36, 16) != 0);
    assert_string_equal(sc->traceparent + 52, "-01");
}

static void test_a_malformed_traceparent_changes_nothing(void **state)
{
    static const char *const bad[] = {
        "",
        "00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-011",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-B7AD6B7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0A",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-zz",
        "00-0af7651916cd43dd8448eb211c80319cxb7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331x01",
        "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333\"-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0\n",
    };
    struct scope *sc = *state;
    char before[TRACEPARENT_SIZE];
    size_t i;

    scope_trace_new(sc);
    memcpy(before, sc->traceparent, sizeof(before));
    for (i = 0; i < ARRAY_LEN(bad); i++) {
        if (scope_trace_join(sc, bad[i])) {
            fail_msg("%s is joined", bad[i]);
        }
        assert_string_equal(sc->traceparent, before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_time_left_shrinks_to_nothing_and_not_below, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_new_scope_has_failed_nowhere_and_asked_no_shard,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_causes_and_details_are_kept_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_violations_are_collected_up_to_the_bound, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_failure_that_was_handled_is_forgotten, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_new_trace_is_well_formed_and_unlike_any_other, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_trace_is_joined_with_a_span_of_our_own, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_malformed_traceparent_changes_nothing, setup,
                                        teardown),
    };

    return cmocka_run_group_tests_name("scope", tests, group_setup, NULL);
}
