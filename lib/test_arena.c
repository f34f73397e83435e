/* Arenas: budget, hard cap, clean-ups. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/arena.h"

enum { BUDGET = 4096, HARD_CAP = 16 * BUDGET };

static int setup(void **state)
{
    *state = arena_open(BUDGET);
    return 0;
}

static int teardown(void **state)
{
    struct arena *arena = *state;

    arena_close(&arena);
    assert_null(arena);
    return 0;
}

static bool is_zero(const unsigned char *p, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        if (p[i] != 0) {
            return false;
        }
    }
    return true;
}

static void test_pieces_are_zeroed_and_aligned_for_any_type(void **state)
{
    size_t size;

    for (size = 0; size < 200; size++) {
        unsigned char *p = arena_alloc(*state, size);

        assert_int_equal((uintptr_t)p % _Alignof(max_align_t), 0);
        assert_true(is_zero(p, size));
        memset(p, 0xff, size);
    }
}

static void test_memory_that_was_used_is_zeroed_again_after_a_reset(void **state)
{
    memset(arena_alloc(*state, 3000), 0xff, 3000);
    arena_reset(*state);
    assert_true(is_zero(arena_alloc(*state, 3000), 3000));
}

static void test_pieces_do_not_overlap_when_blocks_are_added(void **state)
{
    struct arena *arena = *state;
    unsigned char *pieces[60];
    size_t i, k;

    for (i = 0; i < ARRAY_LEN(pieces); i++) {
        pieces[i] = arena_alloc(arena, 700 + i);
        memset(pieces[i], (int)i, 700 + i);
    }
    for (i = 0; i < ARRAY_LEN(pieces); i++) {
        for (k = 0; k < 700 + i; k++) {
            assert_int_equal(pieces[i][k], i);
        }
    }
}

static void test_a_piece_larger_than_any_block_is_served(void **state)
{
    unsigned char *p = arena_alloc(*state, HARD_CAP - 64);

    assert_true(is_zero(p, HARD_CAP - 64));
}

static void test_the_budget_mark_is_sticky_until_the_reset(void **state)
{
    struct arena *arena = *state;

    arena_alloc(arena, BUDGET);
    assert_false(arena_over_budget(arena));
    arena_alloc(arena, 1);
    assert_true(arena_over_budget(arena));
    assert_true(arena_used(arena) > BUDGET);
    arena_reset(arena);
    assert_false(arena_over_budget(arena));
    assert_int_equal(arena_used(arena), 0);
}

/* Does allocating first and then second bytes abort? In a child, since it would end the test. */
static bool aborts(size_t first, size_t second)
{
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        struct arena *arena = arena_open(BUDGET);

        signal(SIGABRT, SIG_DFL); /* cmocka's handler would go on with the test */
        (void)!freopen("/dev/null", "w", stderr);
        arena_alloc(arena, first);
        arena_alloc(arena, second);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_the_hard_cap_ends_the_process(void **state)
{
    (void)state;
    assert_false(aborts(HARD_CAP - 16, 16));
    assert_true(aborts(HARD_CAP - 16, 17));
    assert_true(aborts(HARD_CAP + 1, 0));
    assert_true(aborts(0, SIZE_MAX));
    assert_true(aborts(0, SIZE_MAX - 8));
    assert_true(aborts(16, SIZE_MAX / 2));
}

struct trail {
    char order[8];
    size_t n;
    struct arena *arena;
};

static void note_a(void *p)
{
    struct trail *t = p;

    t->order[t->n++] = 'a';
}

static void note_b(void *p)
{
    struct trail *t = p;

    t->order[t->n++] = 'b';
}

static void register_b(void *p)
{
    struct trail *t = p;

    arena_defer(t->arena, note_b, t);
    t->order[t->n++] = 'r';
}

static void test_clean_ups_run_once_and_the_latest_first(void **state)
{
    struct trail t = {.arena = *state};

    arena_defer(*state, note_a, &t);
    arena_defer(*state, note_b, &t);
    arena_defer(*state, note_a, &t);
    arena_reset(*state);
    assert_string_equal(t.order, "aba");
    arena_reset(*state);
    assert_string_equal(t.order, "aba");
}

static void test_a_clean_up_may_register_another(void **state)
{
    struct trail t = {.arena = *state};

    arena_defer(*state, note_a, &t);
    arena_defer(*state, register_b, &t);
    arena_reset(*state);
    assert_string_equal(t.order, "rba");
}

static void test_closing_runs_the_clean_ups(void **state)
{
    struct trail t = {0};
    struct arena *arena = arena_open(BUDGET), *none = NULL;

    (void)state;
    arena_defer(arena, note_a, &t);
    arena_close(&arena);
    assert_null(arena);
    assert_string_equal(t.order, "a");
    arena_close(&none);
}

static void test_copies_of_text_end_with_a_nul(void **state)
{
    assert_null(arena_strdup(*state, NULL));
    assert_string_equal(arena_strdup(*state, ""), "");
    assert_string_equal(arena_strdup(*state, "abc"), "abc");
    assert_string_equal(arena_strndup(*state, "abcdef", 3), "abc");
    assert_string_equal(arena_strndup(*state, NULL, 0), "");
}

static void test_the_room_shrinks_by_what_is_given_out(void **state)
{
    size_t room = arena_room(*state);

    (void)arena_alloc(*state, 1000);
    assert_int_equal(arena_room(*state), room - arena_used(*state));
    arena_reset(*state);
    assert_int_equal(arena_room(*state), room);
}

static void test_formatted_text_of_any_length_is_whole(void **state)
{
    static const int widths[] = {0, 1, 254, 255, 256, 257, 5000};
    size_t i;

    for (i = 0; i < ARRAY_LEN(widths); i++) {
        const char *text = arena_printf(*state, "%*s", widths[i], "");

        assert_int_equal(strlen(text), widths[i]);
    }
    assert_string_equal(arena_printf(*state, "%s-%d", "x", -7), "x--7");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pieces_are_zeroed_and_aligned_for_any_type, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_memory_that_was_used_is_zeroed_again_after_a_reset,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_pieces_do_not_overlap_when_blocks_are_added, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_piece_larger_than_any_block_is_served, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_budget_mark_is_sticky_until_the_reset, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_hard_cap_ends_the_process, setup, teardown),
        cmocka_unit_test_setup_teardown(test_clean_ups_run_once_and_the_latest_first, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_clean_up_may_register_another, setup, teardown),
        cmocka_unit_test_setup_teardown(test_closing_runs_the_clean_ups, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copies_of_text_end_with_a_nul, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_room_shrinks_by_what_is_given_out, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_formatted_text_of_any_length_is_whole, setup,
                                        teardown),
    };

    return cmocka_run_group_tests_name("arena", tests, NULL, NULL);
}
