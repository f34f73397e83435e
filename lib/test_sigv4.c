/* The signer against the published vectors of AWS: the Signature Version 4 test suite (those of its
 * cases that S3's rules share: no path normalisation), and the worked examples of the S3 API
 * reference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lib/clock.h"
#include "lib/crypto.h"
#include "lib/sigv4.h"

enum { PAIRS_MAX = 5 };

#define EMPTY_HASH "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

struct vector {
    const char *name;
    const char *method;
    const char *path;
    struct sigv4_pair query[PAIRS_MAX];
    struct sigv4_pair headers[PAIRS_MAX]; /* without x-amz-date, which the signer adds */
    const char *body;
    const char *signed_headers;
    const char *signature;
};

static const struct sigv4_key suite_key = {.access_key_id = "AKIDEXAMPLE",
                                           .secret_access_key =
                                               "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
                                           .region = "us-east-1",
                                           .service = "service"};
static const struct sigv4_key s3_key = {.access_key_id = "AKIAIOSFODNN7EXAMPLE",
                                        .secret_access_key =
                                            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                                        .region = "us-east-1",
                                        .service = "s3"};

#define SUITE_HOST                      \
    {                                   \
        "Host", "example.amazonaws.com" \
    }
#define UNRESERVED "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

/* 2015-08-30T12:36:00Z */
static const struct vector suite[] = {
    {.name = "get-vanilla",
     .method = "GET",
     .path = "/",
     .headers = {SUITE_HOST},
     .signed_headers = "host;x-amz-date",
     .signature = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {.name = "get-vanilla-query-order-key-case",
     .method = "GET",
     .path = "/",
     .query = {{"Param2", "value2"}, {"Param1", "value1"}},
     .headers = {SUITE_HOST},
     .signed_headers = "host;x-amz-date",
     .signature = "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
    {.name = "get-unreserved",
     .method = "GET",
     .path = "/" UNRESERVED,
     .headers = {SUITE_HOST},
     .signed_headers = "host;x-amz-date",
     .signature = "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"},
    {.name = "get-utf8",
     .method = "GET",
     .path = "/\xe1\x88\xb4",
     .headers = {SUITE_HOST},
     .signed_headers = "host;x-amz-date",
     .signature = "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"},
    {.name = "get-vanilla-utf8-query",
     .method = "GET",
     .path = "/",
     .query = {{"\xe1\x88\xb4", "bar"}},
     .headers = {SUITE_HOST},
     .signed_headers = "host;x-amz-date",
     .signature = "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
    {.name = "get-space",
     .method = "GET",
     .path = "/example space/",
     .headers = {SUITE_HOST},
     .signed_headers = "host;x-amz-date",
     .signature = "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"},
    {.name = "get-header-key-duplicate",
     .method = "GET",
     .path = "/",
     .headers =
         {SUITE_HOST, {"My-Header1", "value2"}, {"My-Header1", "value2"}, {"My-Header1", "value1"}},
     .signed_headers = "host;my-header1;x-amz-date",
     .signature = "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"},
    {.name = "get-header-value-order",
     .method = "GET",
     .path = "/",
     .headers = {SUITE_HOST,
                 {"My-Header1", "value4"},
                 {"My-Header1", "value1"},
                 {"My-Header1", "value3"},
                 {"My-Header1", "value2"}},
     .signed_headers = "host;my-header1;x-amz-date",
     .signature = "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"},
    {.name = "get-header-value-trim",
     .method = "GET",
     .path = "/",
     .headers = {SUITE_HOST, {"My-Header1", " value1"}, {"My-Header2", " \"a   b   c\""}},
     .signed_headers = "host;my-header1;my-header2;x-amz-date",
     .signature = "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
    {.name = "post-vanilla",
     .method = "POST",
     .path = "/",
     .headers = {SUITE_HOST},
     .signed_headers = "host;x-amz-date",
     .signature = "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
    {.name = "post-vanilla-query",
     .method = "POST",
     .path = "/",
     .query = {{"Param1", "value1"}},
     .headers = {SUITE_HOST},
     .signed_headers = "host;x-amz-date",
     .signature = "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11"},
    {.name = "post-header-key-sort",
     .method = "POST",
     .path = "/",
     .headers = {SUITE_HOST, {"My-Header1", "value1"}},
     .signed_headers = "host;my-header1;x-amz-date",
     .signature = "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c"},
    {.name = "post-header-value-case",
     .method = "POST",
     .path = "/",
     .headers = {SUITE_HOST, {"My-Header1", "VALUE1"}},
     .signed_headers = "host;my-header1;x-amz-date",
     .signature = "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d"},
    {.name = "post-x-www-form-urlencoded",
     .method = "POST",
     .path = "/",
     .headers = {SUITE_HOST, {"Content-Type", "application/x-www-form-urlencoded"}},
     .body = "Param1=value1",
     .signed_headers = "content-type;host;x-amz-date",
     .signature = "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"},
};

#define S3_HOST                                  \
    {                                            \
        "Host", "examplebucket.s3.amazonaws.com" \
    }

/* "Authenticating Requests: Using the Authorization Header", 2013-05-24T00:00:00Z */
static const struct vector s3_examples[] = {
    {.name = "GET object",
     .method = "GET",
     .path = "/test.txt",
     .headers = {S3_HOST, {"Range", "bytes=0-9"}, {"x-amz-content-sha256", EMPTY_HASH}},
     .signed_headers = "host;range;x-amz-content-sha256;x-amz-date",
     .signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
    {.name = "PUT object",
     .method = "PUT",
     .path = "/test$file.text",
     .headers = {S3_HOST,
                 {"Date", "Fri, 24 May 2013 00:00:00 GMT"},
                 {"x-amz-storage-class", "REDUCED_REDUNDANCY"},
                 {"x-amz-content-sha256",
                  "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"}},
     .body = "Welcome to Amazon S3.",
     .signed_headers = "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
     .signature = "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
    {.name = "GET bucket lifecycle",
     .method = "GET",
     .path = "/",
     .query = {{"lifecycle", ""}},
     .headers = {S3_HOST, {"x-amz-content-sha256", EMPTY_HASH}},
     .signed_headers = "host;x-amz-content-sha256;x-amz-date",
     .signature = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
    {.name = "GET bucket (list objects)",
     .method = "GET",
     .path = "/",
     .query = {{"max-keys", "2"}, {"prefix", "J"}},
     .headers = {S3_HOST, {"x-amz-content-sha256", EMPTY_HASH}},
     .signed_headers = "host;x-amz-content-sha256;x-amz-date",
     .signature = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
};

static int64_t wall(const char *text)
{
    int64_t wall_ms = 0;

    assert_true(clock_parse(text, &wall_ms));
    return wall_ms;
}

static size_t count(const struct sigv4_pair *pairs)
{
    size_t n = 0;

    while (n < PAIRS_MAX && pairs[n].name != NULL) {
        n++;
    }
    return n;
}

static void check(struct arena *a, const struct sigv4_key *key, const struct vector *v,
                  const char *time)
{
    const char *body = v->body != NULL ? v->body : "";
    char hash[SHA256_HEX_SIZE];
    struct sigv4_request r = {.method = v->method,
                              .path = v->path,
                              .query = v->query,
                              .n_query = count(v->query),
                              .headers = v->headers,
                              .n_headers = count(v->headers),
                              .payload_hash = hash,
                              .wall_ms = wall(time)};
    struct sigv4_signed out;
    const char *expected;

    crypto_sha256_hex(body, strlen(body), hash);
    sigv4_sign(a, key, &r, &out);
    if (strcmp(out.signature, v->signature) != 0) {
        print_error("vector %s\n", v->name);
    }
    assert_string_equal(out.signature, v->signature);
    expected = arena_printf(a,
                            "AWS4-HMAC-SHA256 Credential=%s/%.8s/%s/%s/aws4_request, "
                            "SignedHeaders=%s, Signature=%s",
                            key->access_key_id, out.date, key->region, key->service,
                            v->signed_headers, v->signature);
    assert_string_equal(out.authorization, expected);
}

static void test_signatures_are_those_of_the_test_suite(void **state)
{
    struct arena *a = *state;
    size_t i;

    for (i = 0; i < ARRAY_LEN(suite); i++) {
        check(a, &suite_key, &suite[i], "2015-08-30T12:36:00Z");
    }
}

static void test_signatures_are_those_of_the_s3_reference(void **state)
{
    struct arena *a = *state;
    size_t i;

    for (i = 0; i < ARRAY_LEN(s3_examples); i++) {
        check(a, &s3_key, &s3_examples[i], "2013-05-24T00:00:00Z");
    }
}

/* "Authenticating Requests: Using Query Parameters" */
static void test_presigned_url_is_that_of_the_s3_reference(void **state)
{
    struct arena *a = *state;
    struct sigv4_pair host = S3_HOST;
    struct sigv4_request r = {.method = "GET",
                              .path = "/test.txt",
                              .headers = &host,
                              .n_headers = 1,
                              .wall_ms = wall("2013-05-24T00:00:00.999Z")};
    struct sigv4_signed out;

    sigv4_presign(a, &s3_key, &r, 86400, &out);
    assert_string_equal(
        out.target,
        "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%"
        "2F20130524"
        "%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400"
        "&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404");
    assert_null(out.authorization);
}

static void test_canonical_request_is_built_as_specified(void **state)
{
    struct arena *a = *state;
    const struct sigv4_pair query[] = {{"b", "2"}, {"a b", "x/y&z="}, {"b", "10"}, {"B", ""}};
    const struct sigv4_pair headers[] = {
        {"X-B", "\t two \r\n  words "}, {"host", "h:7070"}, {"x-a", ""}, {"X-b", "again"}};
    struct sigv4_request r = {.method = "PUT",
                              .path = "/bucket/a/../b//c%20+~*",
                              .query = query,
                              .n_query = ARRAY_LEN(query),
                              .headers = headers,
                              .n_headers = ARRAY_LEN(headers)};
    struct strbuf b;

    strbuf_init(&b, a, 0);
    sigv4_canonical(&b, &r);
    assert_string_equal(b.data, "PUT\n"
                                "/bucket/a/../b//c%2520%2B~%2A\n"
                                "B=&a%20b=x%2Fy%26z%3D&b=10&b=2\n"
                                "host:h:7070\nx-a:\nx-b:two words,again\n\n"
                                "host;x-a;x-b\n"
                                "UNSIGNED-PAYLOAD");
}

/* The suite's day, region, service and secret each change the derived key; one that is kept must
 * not be used for another. */
static void test_kept_key_is_never_used_for_another(void **state)
{
    struct arena *a = *state;
    int round;

    for (round = 0; round < 2; round++) {
        struct sigv4_key other = suite_key;
        struct sigv4_signed out;
        struct sigv4_request r = {.method = "GET",
                                  .path = "/",
                                  .headers = suite[0].headers,
                                  .n_headers = 1,
                                  .payload_hash = EMPTY_HASH,
                                  .wall_ms = wall("2015-08-30T12:36:00Z")};

        check(a, &suite_key, &suite[0], "2015-08-30T12:36:00Z");
        other.secret_access_key = "another";
        sigv4_sign(a, &other, &r, &out);
        assert_string_not_equal(out.signature, suite[0].signature);
        check(a, &suite_key, &suite[0], "2015-08-30T12:36:00Z");
        other = suite_key;
        other.region = "eu-west-1";
        sigv4_sign(a, &other, &r, &out);
        assert_string_not_equal(out.signature, suite[0].signature);
        check(a, &s3_key, &s3_examples[0], "2013-05-24T00:00:00Z");
    }
}

/* A secret too long to keep signs all the same; the value is botocore's. */
static void test_long_secret_signs(void **state)
{
    struct arena *a = *state;
    struct sigv4_key key = suite_key;
    char secret[301];
    struct sigv4_signed first, second;
    struct sigv4_request r = {.method = "GET",
                              .path = "/",
                              .headers = suite[0].headers,
                              .n_headers = 1,
                              .payload_hash = EMPTY_HASH,
                              .wall_ms = wall("2015-08-30T12:36:00Z")};

    memset(secret, 's', 300);
    secret[300] = '\0';
    key.secret_access_key = secret;
    sigv4_sign(a, &key, &r, &first);
    sigv4_sign(a, &key, &r, &second);
    assert_string_equal(first.signature,
                        "e90a4934c083472a7216b656488675f271dd56e2f71f118fbc4654586766a99c");
    assert_string_equal(second.signature, first.signature);
}

static void test_life_of_a_url_is_clamped(void **state)
{
    struct arena *a = *state;
    struct sigv4_request r = {.method = "GET", .path = "/"};
    struct sigv4_signed out;

    sigv4_presign(a, &s3_key, &r, 0, &out);
    assert_non_null(strstr(out.target, "&X-Amz-Expires=1&"));
    sigv4_presign(a, &s3_key, &r, INT64_MAX, &out);
    assert_non_null(strstr(out.target, "&X-Amz-Expires=604800&"));
}

static void test_date_is_iso_8601_basic(void **state)
{
    char text[SIGV4_DATE_SIZE];

    (void)state;
    sigv4_date(wall("2026-11-23T14:02:23.987Z"), text);
    assert_string_equal(text, "20261123T140223Z");
    sigv4_date(0, text);
    assert_string_equal(text, "19700101T000000Z");
}

static int setup(void **state)
{
    *state = arena_open(1 << 20);
    return 0;
}

static int teardown(void **state)
{
    struct arena *a = *state;

    arena_close(&a);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_signatures_are_those_of_the_test_suite, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_signatures_are_those_of_the_s3_reference, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_presigned_url_is_that_of_the_s3_reference, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_canonical_request_is_built_as_specified, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_kept_key_is_never_used_for_another, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_secret_signs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_life_of_a_url_is_clamped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_date_is_iso_8601_basic, setup, teardown),
    };

    crypto_open();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
