/* The sink against an S3 that lives here and can fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>

#include "lib/config.h"
#include "lib/media_s3.h"
#include "lib/s3.h"

enum { PART = 5242880, PARTS = 8, ARENA_BYTES = 1 << 20 };

/* The fake: one object, one upload. */
static struct {
    pthread_mutex_t mutex;
    unsigned char *object;
    size_t object_len;
    unsigned char *parts[PARTS];
    size_t lens[PARTS];
    bool begun, completed, aborted;
    int n_puts, n_gets, fail_part;
    int order[PARTS], n_order;
} s3 = {.mutex = PTHREAD_MUTEX_INITIALIZER};

enum err s3_put(struct scope *sc, const char *key, const char *content_type, const void *data,
                size_t len, const char **etag_out)
{
    (void)sc;
    (void)etag_out;
    assert_string_equal(key, "k0");
    assert_string_equal(content_type, "audio/x");
    s3.object = malloc(len + 1);
    memcpy(s3.object, data, len);
    s3.object_len = len;
    s3.n_puts++;
    return OK;
}

enum err s3_multipart_begin(struct scope *sc, const char *key, const char *content_type,
                            enum s3_parts_by parts_by, const char **upload_id_out)
{
    assert_int_equal(parts_by, S3_PARTS_BY_US);
    (void)key;
    (void)content_type;
    s3.begun = true;
    *upload_id_out = arena_strdup(sc->arena, "u");
    return OK;
}

enum err s3_multipart_put(struct scope *sc, const char *key, const char *upload_id, int number,
                          const void *data, size_t len, struct s3_part *part_out)
{
    enum err e = OK;

    (void)key;
    (void)upload_id;
    (void)pthread_mutex_lock(&s3.mutex);
    if (number == s3.fail_part) {
        e = scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "no room");
    } else {
        s3.parts[number - 1] = malloc(len);
        memcpy(s3.parts[number - 1], data, len);
        s3.lens[number - 1] = len;
        s3.order[s3.n_order++] = number;
        *part_out = (struct s3_part){.number = number,
                                     .etag = arena_printf(sc->arena, "\"e%d\"", number),
                                     .size = (int64_t)len,
                                     .crc32c = arena_printf(sc->arena, "c%d", number)};
    }
    (void)pthread_mutex_unlock(&s3.mutex);
    return e;
}

enum err s3_multipart_complete(struct scope *sc, const char *key, const char *upload_id,
                               const struct s3_part *parts, size_t n)
{
    size_t i;

    (void)sc;
    (void)key;
    (void)upload_id;
    s3.object = malloc(n * PART);
    s3.object_len = 0;
    for (i = 0; i < n; i++) {
        char text[32];

        (void)snprintf(text, sizeof(text), "\"e%zu\"", i + 1);
        assert_string_equal(parts[i].etag, text);
        (void)snprintf(text, sizeof(text), "c%zu", i + 1);
        assert_string_equal(parts[i].crc32c, text);
        assert_int_equal(parts[i].number, i + 1);
        assert_int_equal(parts[i].size, s3.lens[i]);
        memcpy(s3.object + s3.object_len, s3.parts[i], s3.lens[i]);
        s3.object_len += s3.lens[i];
    }
    s3.completed = true;
    return OK;
}

enum err s3_multipart_abort(struct scope *sc, const char *key, const char *upload_id)
{
    (void)sc;
    (void)key;
    (void)upload_id;
    s3.aborted = true;
    return OK;
}

enum err s3_get_range(struct scope *sc, const char *key, const char *if_match, int64_t offset,
                      size_t len, void *buffer, size_t *got_out)
{
    size_t left = s3.object_len - (size_t)offset;

    (void)sc;
    (void)key;
    assert_null(if_match);
    s3.n_gets++;
    *got_out = len < left ? len : left;
    memcpy(buffer, s3.object + offset, *got_out);
    return OK;
}

static void on_target(void *context, int output, const char **key_out,
                      const char **content_type_out)
{
    assert_int_equal(output, 0);
    *key_out = context;
    *content_type_out = "audio/x";
}

struct world {
    struct arena *arena;
    struct scope sc;
    struct media_sink sink;
    struct media_s3_sink *s;
    unsigned char *want;
    size_t len;
};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    size_t i;

    for (i = 0; i < PARTS; i++) {
        free(s3.parts[i]);
        s3.parts[i] = NULL;
    }
    free(s3.object);
    s3.object = NULL;
    s3.begun = s3.completed = s3.aborted = false;
    s3.n_puts = s3.n_gets = s3.fail_part = s3.n_order = 0;
    w->arena = arena_open(ARENA_BYTES);
    scope_init(&w->sc, w->arena, 20000);
    w->s = media_s3_sink_open(&w->sc, on_target, (void *)(uintptr_t) "k0", &w->sink);
    w->want = malloc((size_t)PARTS * PART);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;

    if (w->s != NULL) {
        media_s3_sink_close(&w->s);
    }
    arena_close(&w->arena);
    free(w->want);
    free(w);
    return 0;
}

/* Write len bytes in uneven pieces. */
static enum err write_all(struct world *w, size_t len)
{
    size_t at = 0, i;

    for (i = 0; i < len; i++) {
        w->want[i] = (unsigned char)(i * 2246822519u >> 11);
    }
    w->len = len;
    while (at < len) {
        size_t n = len - at < 262144 ? len - at : 262144 - at % 77;

        TRY(w->sink.write(w->sink.context, &w->sc, 0, w->want + at, n));
        at += n;
    }
    return OK;
}

static void finish_and_compare(struct world *w)
{
    struct media_output made;
    char hash[SHA256_HEX_SIZE];

    assert_int_equal(w->sink.finish(w->sink.context, &w->sc, 0, &made), OK);
    assert_int_equal(s3.object_len, w->len);
    assert_memory_equal(s3.object, w->want, w->len);
    crypto_sha256_hex(w->want, w->len, hash);
    assert_string_equal(made.sha256, hash);
    assert_int_equal(made.size, w->len);
}

static void correct(struct world *w, size_t offset, const char *with)
{
    memcpy(w->want + offset, with, strlen(with));
    assert_int_equal(
        w->sink.rewrite(w->sink.context, &w->sc, 0, (int64_t)offset, with, strlen(with)), OK);
}

static void test_a_small_output_is_one_put(void **state)
{
    struct world *w = *state;

    assert_int_equal(write_all(w, 1000), OK);
    correct(w, 4, "size");
    finish_and_compare(w);
    assert_int_equal(s3.n_puts, 1);
    assert_false(s3.begun);
    assert_int_equal(s3.n_gets, 0);
}

static void test_an_empty_output_is_an_empty_object(void **state)
{
    struct world *w = *state;

    assert_int_equal(write_all(w, 0), OK);
    finish_and_compare(w);
}

static void test_exactly_one_part_is_still_one_put(void **state)
{
    struct world *w = *state;

    assert_int_equal(write_all(w, PART), OK);
    finish_and_compare(w);
    assert_int_equal(s3.n_puts, 1);
}

static void test_a_large_output_goes_out_in_parts_the_first_last(void **state)
{
    struct world *w = *state;

    assert_int_equal(write_all(w, (size_t)3 * PART + 5), OK);
    finish_and_compare(w);
    assert_int_equal(s3.n_order, 4);
    assert_int_equal(s3.order[0], 2);
    assert_int_equal(s3.n_gets, 0); /* hashed while it streamed by */
    media_s3_sink_close(&w->s);
    assert_false(s3.aborted);
}

static void test_a_corrected_large_output_is_hashed_as_it_is_stored(void **state)
{
    struct world *w = *state;

    assert_int_equal(write_all(w, (size_t)2 * PART), OK);
    correct(w, 0, "RIFF");
    correct(w, PART - 4, "last");
    finish_and_compare(w);
    assert_true(s3.n_gets > 0);
}

static void test_a_correction_that_changes_nothing_costs_nothing(void **state)
{
    struct world *w = *state;

    assert_int_equal(write_all(w, (size_t)2 * PART), OK);
    assert_int_equal(w->sink.rewrite(w->sink.context, &w->sc, 0, 100, w->want + 100, 50), OK);
    finish_and_compare(w);
    assert_int_equal(s3.n_gets, 0);
}

static void test_a_correction_behind_the_first_part_is_refused(void **state)
{
    struct world *w = *state;

    assert_int_equal(write_all(w, (size_t)2 * PART), OK);
    assert_int_equal(w->sink.rewrite(w->sink.context, &w->sc, 0, PART - 1, "xy", 2), ERR_INTERNAL);
}

static void test_a_part_that_fails_fails_the_output_and_the_rest_is_aborted(void **state)
{
    struct world *w = *state;
    struct media_output made;
    enum err e;

    s3.fail_part = 2;
    e = write_all(w, (size_t)5 * PART);
    if (e == OK) {
        e = w->sink.finish(w->sink.context, &w->sc, 0, &made);
    }
    assert_int_equal(e, ERR_DEPENDENCY_UNAVAILABLE);
    assert_string_equal(w->sc.cause, "no room");
    media_s3_sink_close(&w->s);
    assert_true(s3.aborted);
    assert_false(s3.completed);
}

static void test_an_output_without_an_end_is_aborted(void **state)
{
    struct world *w = *state;

    assert_int_equal(write_all(w, (size_t)2 * PART), OK);
    media_s3_sink_close(&w->s);
    assert_true(s3.begun && s3.aborted);
    assert_int_equal(s3.n_puts, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_small_output_is_one_put, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_empty_output_is_an_empty_object, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exactly_one_part_is_still_one_put, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_large_output_goes_out_in_parts_the_first_last, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_corrected_large_output_is_hashed_as_it_is_stored,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_correction_that_changes_nothing_costs_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_correction_behind_the_first_part_is_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            test_a_part_that_fails_fails_the_output_and_the_rest_is_aborted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_output_without_an_end_is_aborted, setup, teardown),
    };

    crypto_open();
    (void)setenv("MULTIPART_PART_BYTES", "5242880", 1);
    if (!config_load(stderr)) {
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
