/* Reads in any order against the hash of the whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lib/media_hash.h"

enum { SIZE = 3 * MEDIA_IN_BLOCK + 12345, ARENA_BYTES = 1 << 20 };

static unsigned char file[SIZE];
static struct {
    int64_t read, ends_at;
    enum err e;
} source;

static enum err read_file(void *context, struct scope *sc, int64_t offset, size_t len, void *buffer,
                          size_t *got_out)
{
    int64_t left = source.ends_at - offset;

    (void)context;
    if (source.e != OK) {
        return scope_fail(sc, source.e, "no");
    }
    *got_out = left <= 0 ? 0 : (int64_t)len < left ? len : (size_t)left;
    memcpy(buffer, file + offset, *got_out);
    source.read += (int64_t)*got_out;
    return OK;
}

static const struct media_source plain = {.read = read_file, .size = SIZE};

struct fixture {
    struct arena *arena;
    struct scope sc;
    struct media_source wrapped;
    struct media_hash *hash;
};

static struct fixture fx;

static int set_up(void **state)
{
    size_t i;
    uint32_t x = 1;

    (void)state;
    for (i = 0; i < SIZE; i++) {
        x = x * 1664525 + 1013904223;
        file[i] = (unsigned char)(x >> 24);
    }
    source.read = 0;
    source.ends_at = SIZE;
    source.e = OK;
    fx.arena = arena_open(ARENA_BYTES);
    scope_init(&fx.sc, fx.arena, 60000);
    fx.hash = media_hash_make(&fx.sc, &plain, &fx.wrapped);
    assert_int_equal(fx.wrapped.size, SIZE);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    scope_done(&fx.sc);
    arena_close(&fx.arena);
    return 0;
}

/* Read as a child does, and let it spoil what it was given. */
static void child_reads(int64_t offset, size_t len)
{
    static unsigned char shared[MEDIA_IN_BLOCK];
    size_t got, want = offset + (int64_t)len > SIZE ? (size_t)(SIZE - offset) : len;

    assert_int_equal(fx.wrapped.read(fx.wrapped.context, &fx.sc, offset, len, shared, &got), OK);
    assert_int_equal(got, want);
    assert_memory_equal(shared, file + offset, got);
    memset(shared, 0, sizeof(shared));
}

static void is_whole(int64_t read_in_all)
{
    char want[SHA256_HEX_SIZE], hex[SHA256_HEX_SIZE];

    crypto_sha256_hex(file, SIZE, want);
    assert_int_equal(media_hash_end(fx.hash, &fx.sc, NULL, hex), OK);
    assert_string_equal(hex, want);
    assert_int_equal(source.read, read_in_all);
}

static void in_order_it_is_read_once(void **state)
{
    int64_t at;

    (void)state;
    for (at = 0; at < SIZE; at += MEDIA_IN_BLOCK) {
        child_reads(at, MEDIA_IN_BLOCK);
    }
    is_whole(SIZE);
}

static void overlaps_and_jumps_cost_what_they_skip(void **state)
{
    (void)state;
    child_reads(0, 1000);
    child_reads(SIZE - 5000, 5000); /* a tag at the end */
    child_reads(500, 1000);         /* again, and on */
    child_reads(2000, 1000);        /* a gap of 500 before it */
    child_reads(0, 100);
    is_whole(1000 + 5000 + 1000 + 1000 + 100 + SIZE - 1500);
}

static void what_nobody_read_is_read_in_the_end(void **state)
{
    (void)state;
    is_whole(SIZE);
}

static void a_source_that_ends_early_has_no_hash(void **state)
{
    char hex[SHA256_HEX_SIZE];

    (void)state;
    source.ends_at = SIZE - 1;
    assert_int_equal(media_hash_end(fx.hash, &fx.sc, NULL, hex), ERR_DEPENDENCY_UNAVAILABLE);
}

static void an_error_of_the_source_comes_back(void **state)
{
    char hex[SHA256_HEX_SIZE];
    size_t got;

    (void)state;
    source.e = ERR_PRECONDITION_FAILED;
    assert_int_equal(fx.wrapped.read(fx.wrapped.context, &fx.sc, 0, 10, hex, &got),
                     ERR_PRECONDITION_FAILED);
    assert_int_equal(media_hash_end(fx.hash, &fx.sc, NULL, hex), ERR_PRECONDITION_FAILED);
}

static bool stop(void *context, int percent)
{
    (void)context;
    assert_int_equal(percent, MEDIA_HASH_PERCENT);
    return false;
}

static void it_stops_when_told(void **state)
{
    const struct media_watch watch = {.progress = stop};
    char hex[SHA256_HEX_SIZE];

    (void)state;
    assert_int_equal(media_hash_end(fx.hash, &fx.sc, &watch, hex), ERR_CONFLICT);
    assert_int_equal(source.read, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(in_order_it_is_read_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(overlaps_and_jumps_cost_what_they_skip, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_nobody_read_is_read_in_the_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_source_that_ends_early_has_no_hash, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_error_of_the_source_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(it_stops_when_told, set_up, tear_down),
    };

    crypto_open();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
