/* Breaker, bulkhead and budget of a dependency, in memory of this process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/depend.h"
#include "lib/instance.h"

enum { THREADS = 8, PLACES = 6 }; /* BULKHEAD_PERCENT is 75 */

static int group_setup(void **state)
{
    const struct instance_plan plan = {.path = NULL, .area_bytes = 64};

    (void)state;
    setenv("BULKHEAD_WAIT_MS", "0", 1);
    if (!config_load(stderr)) {
        return -1;
    }
    instance_open(&plan);
    depend_open(THREADS);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    instance_close();
    return 0;
}

static int setup(void **state)
{
    static struct scope scope;

    clock_test_set(0, 1000000);
    scope_init(&scope, arena_open(16384), 1000);
    *state = &scope;
    return 0;
}

static int teardown(void **state)
{
    struct scope *sc = *state;

    clock_test_set(-1, -1);
    arena_close(&sc->arena);
    return 0;
}

static enum err enter(struct scope *sc, enum depend d)
{
    int64_t probe;

    return depend_enter(sc, d, &probe);
}

static void ask(struct scope *sc, enum depend d, bool has_answered)
{
    int64_t probe;

    assert_int_equal(depend_enter(sc, d, &probe), OK);
    depend_leave(d, probe, has_answered);
}

static void test_one_that_fails_is_left_alone_and_one_probe_decides(void **state)
{
    struct scope *sc = *state;
    int64_t probe;
    int i;

    for (i = 0; i < 5; i++) { /* DEPEND_BREAKER_FAILURES */
        ask(sc, DEPEND_S3, false);
    }
    assert_int_equal(depend_state(DEPEND_S3), BREAKER_OPEN);
    assert_int_equal(enter(sc, DEPEND_S3), ERR_DEPENDENCY_UNAVAILABLE);
    assert_non_null(strstr(sc->cause, "s3: left alone"));
    ask(sc, DEPEND_SMTP, true);           /* another one has nothing to do with it */
    clock_test_set(0, 1000000 + 1000000); /* DEPEND_BREAKER_OPEN_MS later */
    assert_int_equal(depend_enter(sc, DEPEND_S3, &probe), OK);
    assert_int_equal(depend_state(DEPEND_S3), BREAKER_HALF_OPEN);
    assert_int_equal(enter(sc, DEPEND_S3), ERR_DEPENDENCY_UNAVAILABLE);
    depend_leave(DEPEND_S3, probe, false);
    assert_int_equal(enter(sc, DEPEND_S3), ERR_DEPENDENCY_UNAVAILABLE);
    clock_test_set(0, 1000000 + 2000000);
    ask(sc, DEPEND_S3, true);
    assert_int_equal(depend_state(DEPEND_S3), BREAKER_CLOSED);
    ask(sc, DEPEND_S3, true);
}

static void test_a_part_of_the_threads_may_wait_for_one_and_the_rest_does_not(void **state)
{
    struct scope *sc = *state;
    int i;

    for (i = 0; i < PLACES; i++) {
        assert_int_equal(enter(sc, DEPEND_REDIS), OK);
    }
    assert_int_equal(enter(sc, DEPEND_REDIS), ERR_OVERLOADED);
    ask(sc, DEPEND_S3, true);
    depend_leave(DEPEND_REDIS, 0, true);
    assert_int_equal(enter(sc, DEPEND_REDIS), OK);
    for (i = 0; i < PLACES; i++) {
        depend_leave(DEPEND_REDIS, 0, true);
    }
}

static void *come_and_go(void *unused)
{
    struct arena *arena = arena_open(16384);
    struct scope sc;
    int i;

    (void)unused;
    for (i = 0; i < 2000; i++) {
        scope_init(&sc, arena, 10000);
        assert_int_equal(enter(&sc, DEPEND_SMTP), OK);
        depend_leave(DEPEND_SMTP, 0, true);
        arena_reset(arena);
    }
    arena_close(&arena);
    return NULL;
}

static void test_threads_hand_places_on_to_each_other(void **state)
{
    pthread_t threads[2 * THREADS];
    size_t i;

    (void)state;
    clock_test_set(-1, -1);
    setenv("BULKHEAD_WAIT_MS", "10000", 1);
    assert_true(config_reload(NULL, stderr));
    for (i = 0; i < ARRAY_LEN(threads); i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, NULL), 0);
    }
    for (i = 0; i < ARRAY_LEN(threads); i++) {
        pthread_join(threads[i], NULL);
    }
    setenv("BULKHEAD_WAIT_MS", "0", 1);
    assert_true(config_reload(NULL, stderr));
}

static void test_further_tries_are_a_share_of_the_first_ones(void **state)
{
    struct scope *sc = *state;
    int i;

    for (i = 0; depend_may_retry(DEPEND_S3); i++) {
        assert_true(i < 100);
    }
    assert_int_equal(i, 30); /* the reserve */
    for (i = 0; i < 50; i++) {
        ask(sc, DEPEND_S3, true);
    }
    for (i = 0; depend_may_retry(DEPEND_S3); i++) {
    }
    assert_int_equal(i, 5); /* RETRY_BUDGET_PERCENT of 50 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_one_that_fails_is_left_alone_and_one_probe_decides,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_a_part_of_the_threads_may_wait_for_one_and_the_rest_does_not, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads_hand_places_on_to_each_other, setup, teardown),
        cmocka_unit_test_setup_teardown(test_further_tries_are_a_share_of_the_first_ones, setup,
                                        teardown),
    };

    return cmocka_run_group_tests_name("depend", tests, group_setup, group_teardown);
}
