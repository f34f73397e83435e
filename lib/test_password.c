/* Password hashes: the queue, and judging. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>

#include "breached_passwords.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/password.h"

enum { PATIENCE_MS = 20000 };

static int group_setup(void **state)
{
    (void)state;
    setenv("PASSWORD_HASH_MEMORY_KIB", "64", 1);
    setenv("PASSWORD_HASH_PASSES", "1", 1);
    setenv("PASSWORD_HASH_QUEUE", "1", 1);
    crypto_open();
    return config_load(stderr) ? 0 : -1;
}

static int setup(void **state)
{
    static struct scope scope;

    scope_init(&scope, arena_open(65536), PATIENCE_MS);
    *state = &scope;
    return 0;
}

static int teardown(void **state)
{
    struct scope *sc = *state;

    arena_close(&sc->arena);
    return 0;
}

static void *hash_in_a_thread(void *result_out)
{
    struct arena *arena = arena_open(65536);
    char hash[PASSWORD_HASH_SIZE];
    enum err *result = result_out;
    struct scope sc;

    scope_init(&sc, arena, PATIENCE_MS);
    do { /* the hasty one may be in the queue just now */
        arena_reset(arena);
        sched_yield();
        *result = password_hash(&sc, "waiting", hash);
    } while (*result == ERR_OVERLOADED && scope_left_ms(&sc, 1) > 0);
    arena_close(&arena);
    return NULL;
}

static enum err hash_without_time(void)
{
    struct arena *arena = arena_open(65536);
    char hash[PASSWORD_HASH_SIZE];
    struct scope sc;
    enum err e;

    scope_init(&sc, arena, 0);
    e = password_hash(&sc, "hasty", hash);
    arena_close(&arena);
    return e;
}

/* First of all, while no thread hashes: what is queued stays queued. */
static void test_a_full_queue_refuses_and_whoever_waits_is_served(void **state)
{
    enum err result = ERR_INTERNAL, e = ERR_TIMED_OUT;
    int64_t until_ms = clock_mono_ms() + PATIENCE_MS;
    pthread_t thread;

    (void)state;
    assert_int_equal(hash_without_time(), ERR_TIMED_OUT); /* withdrawn: the queue is empty again */
    assert_int_equal(pthread_create(&thread, NULL, hash_in_a_thread, &result), 0);
    while (e == ERR_TIMED_OUT && clock_mono_ms() < until_ms) {
        sched_yield();
        e = hash_without_time();
    }
    password_open();
    pthread_join(thread, NULL);
    assert_int_equal(e, ERR_OVERLOADED);
    assert_int_equal(result, OK);
}

static void test_a_password_fits_its_hash_and_no_other(void **state)
{
    char hash[PASSWORD_HASH_SIZE];
    bool fits;

    assert_int_equal(password_hash(*state, "correct horse", hash), OK);
    assert_int_equal(password_fits(*state, hash, "correct horse", &fits), OK);
    assert_true(fits);
    assert_int_equal(password_fits(*state, hash, "Correct horse", &fits), OK);
    assert_false(fits);
}

static void test_without_an_account_nothing_fits(void **state)
{
    bool fits = true;

    assert_int_equal(password_fits(*state, NULL, "anything", &fits), OK);
    assert_false(fits);
}

static void test_a_hash_that_is_broken_fits_nothing(void **state)
{
    bool fits = true;

    assert_int_equal(password_fits(*state, "", "x", &fits), OK);
    assert_false(fits);
    assert_int_equal(password_fits(*state, "$argon2id$nonsense", "x", &fits), OK);
    assert_false(fits);
}

static void test_an_endless_password_is_refused_before_it_is_hashed(void **state)
{
    static char text[5000];
    char hash[PASSWORD_HASH_SIZE];

    memset(text, 'x', sizeof(text) - 1);
    assert_int_equal(password_hash(*state, text, hash), ERR_INTERNAL);
}

static void test_whoever_comes_back_after_a_refusal_is_served(void **state)
{
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    enum err results[THREADS];
    int i, served = 0;

    (void)state;
    for (i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, hash_in_a_thread, &results[i]), 0);
    }
    for (i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        served += results[i] == OK;
    }
    assert_int_equal(served, THREADS);
}

static void test_what_attackers_try_first_is_known_in_any_case(void **state)
{
    (void)state;
    assert_true(password_is_breached("password"));
    assert_true(password_is_breached("PassWord"));
    assert_true(password_is_breached("123456789"));
    assert_true(password_is_breached("qwertyuiop"));
    assert_false(password_is_breached(""));
    assert_false(password_is_breached("password "));
    assert_false(password_is_breached("correct horse battery staple"));
    assert_false(password_is_breached("\xff\xfe"));
}

static void test_the_list_is_sorted_so_that_each_of_it_is_found(void **state)
{
    size_t i;

    (void)state;
    assert_true(breached_passwords_count > 1000);
    for (i = 0; i < breached_passwords_count; i++) {
        assert_true(password_is_breached(breached_passwords[i]));
    }
}

/* Last of all. */
static void test_closing_ends_the_threads(void **state)
{
    (void)state;
    password_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_full_queue_refuses_and_whoever_waits_is_served,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_password_fits_its_hash_and_no_other, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_without_an_account_nothing_fits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_hash_that_is_broken_fits_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_endless_password_is_refused_before_it_is_hashed,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_whoever_comes_back_after_a_refusal_is_served, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_attackers_try_first_is_known_in_any_case, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_list_is_sorted_so_that_each_of_it_is_found, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_closing_ends_the_threads, setup, teardown),
    };

    return cmocka_run_group_tests_name("password", tests, group_setup, NULL);
}
