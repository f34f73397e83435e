/* Presigned URLs at a fixed time, with signatures that botocore gives for the same requests. The
 * operations are tested against a real server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/s3.h"
#include "lib/str.h"

#define BUCKET "http://127.0.0.1:8081/maxbooster-uploads/"
#define ALGORITHM "X-Amz-Algorithm=AWS4-HMAC-SHA256"
#define REST                                                                    \
    "&X-Amz-Credential=AKIDEXAMPLE%2F20261123%2Feu-north-1%2Fs3%2Faws4_request" \
    "&X-Amz-Date=20261123T140223Z"

static int64_t now_ms;

static void test_upload_url_signs_type_and_length(void **state)
{
    struct s3_presign what = {.method = "PUT",
                              .key = "audio/u/f.mp3",
                              .content_type = "audio/mpeg",
                              .content_length = 12345,
                              .ttl_s = 900};
    struct scope *sc = *state;
    int64_t expires_ms;

    assert_string_equal(s3_presign_url(sc, &what, &expires_ms), BUCKET
                        "audio/u/f.mp3?" ALGORITHM REST "&X-Amz-Expires=900"
                        "&X-Amz-SignedHeaders=content-length%3Bcontent-type%3Bhost&X-Amz-Signature="
                        "e4edcfc1c50a5f12ce3b47ede18dae1bb079b61f2b12784eb06b22418d9ee78e");
    assert_int_equal(expires_ms, now_ms / 1000 * 1000 + 900000);
}

static void test_part_url_names_upload_and_number(void **state)
{
    struct s3_presign what = {.method = "PUT",
                              .key = "audio/u/f.wav",
                              .content_length = -1,
                              .upload_id = "id/+=",
                              .part_number = 7,
                              .ttl_s = 60};
    struct scope *sc = *state;

    assert_string_equal(s3_presign_url(sc, &what, NULL), BUCKET
                        "audio/u/f.wav?" ALGORITHM REST "&X-Amz-Expires=60&X-Amz-SignedHeaders=host"
                        "&partNumber=7&uploadId=id%2F%2B%3D&X-Amz-Signature="
                        "4965025254343d89fe16de1cfef0a070f69bd44648768936b84a3bd60366f315");
}

static void test_download_url_carries_the_file_name(void **state)
{
    struct s3_presign what = {.method = "GET",
                              .key = "audio/a b+\xc3\xa9.mp3",
                              .content_length = -1,
                              .download_name = "Caf\xc3\xa9.mp3",
                              .ttl_s = 900};
    struct scope *sc = *state;

    assert_string_equal(
        s3_presign_url(sc, &what, NULL), BUCKET
        "audio/a%20b%2B%C3%A9.mp3?" ALGORITHM REST "&X-Amz-Expires=900&X-Amz-SignedHeaders=host"
        "&response-content-disposition=attachment%3B%20filename%3D%22Caf__.mp3%22%3B%20"
        "filename%2A%3DUTF-8%27%27Caf%25C3%25A9.mp3&X-Amz-Signature="
        "28d0bda3397f9b35e6536c7e1e0bee8db373a2dd03190255c6115071899ea98b");
}

static void test_presigning_needs_little_memory_and_no_request(void **state)
{
    struct s3_presign what = {.method = "PUT",
                              .key = "audio/018f4a2e-7c3b-7def-8abc-0123456789ab/"
                                     "9f86d081-884c-8d65-9a2f-eaa0c55ad015.flac",
                              .content_type = "audio/flac",
                              .content_length = 1,
                              .ttl_s = 900};
    struct scope *sc = *state;

    s3_presign_url(sc, &what, NULL);
    assert_true(arena_used(sc->arena) < 8192);
    assert_int_equal(sc->timing.s3_count, 0);
}

static void test_empty_range_needs_no_request(void **state)
{
    struct scope *sc = *state;
    size_t got = 1;

    assert_int_equal(s3_get_range(sc, "k", NULL, 0, 0, NULL, &got), OK);
    assert_int_equal(got, 0);
    assert_int_equal(sc->timing.s3_count, 0);
}

static void test_nothing_is_asked_past_the_deadline(void **state)
{
    struct scope *sc = *state;
    struct s3_object object;

    sc->deadline_mono_ms = clock_mono_ms() - 1;
    assert_int_equal(s3_head(sc, "k", &object), ERR_TIMED_OUT);
    assert_int_equal(sc->timing.s3_count, 0);
    assert_non_null(sc->cause);
}

/* A presigned GET, and what the cache is told of it; the disposition in *name_out. */
static bool is_ours(struct scope *sc, const char *url, const char **name_out)
{
    return s3_presigned_is_ours(sc, "127.0.0.1:8081", url + strlen("http://127.0.0.1:8081"),
                                name_out);
}

static void test_a_url_of_ours_is_known_until_it_is_over(void **state)
{
    struct s3_presign what = {.method = "GET",
                              .key = "audio/u/f.mp3",
                              .content_length = -1,
                              .download_name = "a \"b\".mp3",
                              .ttl_s = 900};
    struct scope *sc = *state;
    const char *url = s3_presign_url(sc, &what, NULL), *name = NULL;

    assert_true(is_ours(sc, url, &name));
    assert_non_null(strstr(name, "filename="));
    clock_test_set(now_ms + 898000, -1);
    assert_true(is_ours(sc, url, &name));
    clock_test_set(now_ms + 900000, -1);
    assert_false(is_ours(sc, url, &name));
    clock_test_set(now_ms - 299000, -1);
    assert_true(is_ours(sc, url, &name));
    clock_test_set(now_ms - 301000, -1);
    assert_false(is_ours(sc, url, &name));
    clock_test_set(now_ms, -1);
    what.download_name = NULL;
    assert_true(is_ours(sc, s3_presign_url(sc, &what, NULL), &name));
    assert_null(name);
}

static void test_no_other_url_is_known(void **state)
{
    struct s3_presign what = {
        .method = "GET", .key = "audio/u/f.mp3", .content_length = -1, .ttl_s = 900};
    struct scope *sc = *state;
    const char *url = s3_presign_url(sc, &what, NULL), *name, *other;
    size_t i, start = strlen("http://127.0.0.1:8081");
    char *changed = arena_strdup(sc->arena, url);

    /* Every single character counts. */
    for (i = start; url[i] != '\0'; i++) {
        changed[i] = url[i] == 'x' ? 'y' : 'x';
        assert_false(is_ours(sc, changed, &name));
        changed[i] = '\0';
        assert_false(is_ours(sc, changed, &name));
        changed[i] = url[i];
    }
    assert_false(s3_presigned_is_ours(sc, "127.0.0.1", url + start, &name));
    assert_false(s3_presigned_is_ours(sc, "127.0.0.1:8081", "", &name));
    assert_false(s3_presigned_is_ours(sc, "127.0.0.1:8081", "/maxbooster-uploads/?", &name));
    what.method = "PUT";
    other = s3_presign_url(sc, &what, NULL);
    assert_false(is_ours(sc, other, &name));
}

static int setup(void **state)
{
    struct arena *a = arena_open(1 << 17);
    struct scope *sc = arena_new(a, struct scope);

    scope_init(sc, a, 1000);
    *state = sc;
    return 0;
}

static int teardown(void **state)
{
    struct arena *a = ((struct scope *)*state)->arena;

    arena_close(&a);
    return 0;
}

/* Everything that presigning reads, whatever the environment of the run holds. */
static int configure(void **state)
{
    (void)state;
    setenv("S3_ENDPOINT", "http://10.0.0.1:7070", 1);
    setenv("S3_PUBLIC_ENDPOINT", "http://127.0.0.1:8081/", 1);
    setenv("S3_BUCKET", "maxbooster-uploads", 1);
    setenv("AWS_REGION", "eu-north-1", 1);
    setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", 1);
    if (!config_load(stderr) || !clock_parse("2026-11-23T14:02:23.987Z", &now_ms)) {
        return 1;
    }
    clock_test_set(now_ms, -1);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_upload_url_signs_type_and_length),
        TEST(test_part_url_names_upload_and_number),
        TEST(test_download_url_carries_the_file_name),
        TEST(test_a_url_of_ours_is_known_until_it_is_over),
        TEST(test_no_other_url_is_known),
        TEST(test_presigning_needs_little_memory_and_no_request),
        TEST(test_empty_range_needs_no_request),
        TEST(test_nothing_is_asked_past_the_deadline),
    };

    crypto_open();
    return cmocka_run_group_tests(tests, configure, NULL);
}
