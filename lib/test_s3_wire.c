/* What S3 says, rightly read or refused, and what it is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lib/clock.h"
#include "lib/s3_wire.h"

#define XMLNS " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\""
#define PROLOG "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"

static void check_endpoint(struct arena *a, const char *text, const char *base, const char *host)
{
    struct s3_endpoint e = s3_endpoint_parse(a, text);

    assert_string_equal(e.base, base);
    assert_string_equal(e.host, host);
}

static void test_host_is_what_a_client_sends(void **state)
{
    struct arena *a = *state;

    check_endpoint(a, "http://127.0.0.1:7070", "http://127.0.0.1:7070", "127.0.0.1:7070");
    check_endpoint(a, "http://s3.example/", "http://s3.example", "s3.example");
    check_endpoint(a, "http://s3.example:80", "http://s3.example:80", "s3.example");
    check_endpoint(a, "https://s3.example:443/x?y", "https://s3.example:443", "s3.example");
    check_endpoint(a, "https://s3.example:80", "https://s3.example:80", "s3.example:80");
    check_endpoint(a, "http://[::1]:8081", "http://[::1]:8081", "[::1]:8081");
    check_endpoint(a, "", "", "");
}

static void test_disposition_is_safe_for_any_name(void **state)
{
    struct arena *a = *state;
    char *longest = arena_alloc(a, 2000);
    const char *cut;

    assert_string_equal(s3_disposition(a, "take 1.mp3"), "attachment; filename=\"take 1.mp3\"");
    assert_string_equal(s3_disposition(a, "a\"b\\c;d'e.wav"),
                        "attachment; filename=\"a_b_c;d'e.wav\"; "
                        "filename*=UTF-8''a%22b_c%3Bd%27e.wav");
    assert_string_equal(s3_disposition(a, "Caf\xc3\xa9 100%.flac"),
                        "attachment; filename=\"Caf__ 100_.flac\"; "
                        "filename*=UTF-8''Caf%C3%A9%20100%25.flac");
    assert_string_equal(s3_disposition(a, "x\r\nSet-Cookie: a=b\x7f/../y"),
                        "attachment; filename=\"x__Set-Cookie: a=b__.._y\"");
    assert_string_equal(s3_disposition(a, ""), "attachment; filename=\"download\"");
    assert_string_equal(s3_disposition(a, "\xff\xfe.mp3"), "attachment; filename=\"__.mp3\"");
    memset(longest, 'x', 511);
    memcpy(longest + 511, "\xc3\xa9\xc3\xa9", 5);
    cut = s3_disposition(a, longest);
    assert_null(strchr(cut, '%')); /* no half of a character */
    assert_int_equal(strlen(cut), strlen("attachment; filename=\"\"") + 511);
}

static void check_verdict(int status, const char *code, enum err e, bool is_passing)
{
    struct s3_verdict v = s3_judge(status, code);

    assert_int_equal(v.err, e);
    assert_int_equal(v.is_passing, is_passing);
}

static void test_replies_are_judged(void **state)
{
    (void)state;
    check_verdict(200, "", OK, false);
    check_verdict(206, "", OK, false);
    check_verdict(404, "", ERR_NOT_FOUND, false);
    check_verdict(404, "NoSuchKey", ERR_NOT_FOUND, false);
    check_verdict(404, "NoSuchBucket", ERR_DEPENDENCY_UNAVAILABLE, false);
    check_verdict(412, "PreconditionFailed", ERR_PRECONDITION_FAILED, false);
    check_verdict(403, "SignatureDoesNotMatch", ERR_DEPENDENCY_UNAVAILABLE, false);
    check_verdict(301, "", ERR_DEPENDENCY_UNAVAILABLE, false);
    check_verdict(400, "RequestTimeout", ERR_DEPENDENCY_UNAVAILABLE, true);
    check_verdict(400, "InvalidPart", ERR_CONFLICT, false);
    check_verdict(409, "OperationAborted", ERR_DEPENDENCY_UNAVAILABLE, true);
    check_verdict(409, "BucketNotEmpty", ERR_DEPENDENCY_UNAVAILABLE, false);
    check_verdict(429, "", ERR_DEPENDENCY_UNAVAILABLE, true);
    check_verdict(500, "InternalError", ERR_DEPENDENCY_UNAVAILABLE, true);
    check_verdict(501, "NotImplemented", ERR_DEPENDENCY_UNAVAILABLE, false);
    check_verdict(502, "", ERR_DEPENDENCY_UNAVAILABLE, true);
    check_verdict(503, "SlowDown", ERR_DEPENDENCY_UNAVAILABLE, true);
    check_verdict(504, "", ERR_DEPENDENCY_UNAVAILABLE, true);
    assert_true(s3_judge(404, "NoSuchUpload").is_no_upload);
    assert_false(s3_judge(404, "NoSuchKey").is_no_upload);
}

static void test_success_that_carries_an_error_is_an_error(void **state)
{
    (void)state;
    check_verdict(200, "InternalError", ERR_DEPENDENCY_UNAVAILABLE, true);
    check_verdict(200, "InvalidPart", ERR_CONFLICT, false);
    check_verdict(200, "NoSuchUpload", ERR_NOT_FOUND, false);
    assert_true(s3_judge(200, "NoSuchUpload").is_no_upload);
}

static const char *error_of(struct arena *a, const char *xml)
{
    return s3_xml_error(a, xml, strlen(xml));
}

static void test_error_code_is_read_even_of_a_cut_document(void **state)
{
    struct arena *a = *state;

    assert_string_equal(error_of(a, PROLOG "<Error><Code>NoSuchKey</Code><Message>x</Message>"
                                           "</Error>"),
                        "NoSuchKey");
    assert_string_equal(error_of(a, "<Error><Code>SlowDown</Code><Mess"), "SlowDown");
    assert_string_equal(error_of(a, "<Other><Code>NoSuchKey</Code></Other>"), "");
    assert_string_equal(error_of(a, "<html>502</html>"), "");
    assert_string_equal(error_of(a, ""), "");
    assert_string_equal(error_of(a, "\xff\xff"), "");
}

static void test_document_types_and_depth_are_refused(void **state)
{
    static const char bomb[] =
        "<!DOCTYPE e [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><Error><Code>&b;</Code></Error>";
    static const char external[] = "<!DOCTYPE e SYSTEM \"file:///etc/passwd\">"
                                   "<Error><Code>X</Code></Error>";
    struct arena *a = *state;
    struct strbuf deep;
    int i;

    assert_string_equal(error_of(a, bomb), "");
    assert_string_equal(error_of(a, external), "");
    strbuf_init(&deep, a, 256);
    strbuf_puts(&deep, "<CompleteMultipartUploadResult>");
    for (i = 0; i < 20; i++) {
        strbuf_puts(&deep, "<x>");
    }
    for (i = 0; i < 20; i++) {
        strbuf_puts(&deep, "</x>");
    }
    strbuf_puts(&deep, "</CompleteMultipartUploadResult>");
    assert_false(s3_xml_is_completed(a, deep.data, deep.len));
}

static void test_text_of_an_element_is_bounded(void **state)
{
    struct arena *a = *state;
    struct strbuf xml;

    strbuf_init(&xml, a, 16384);
    strbuf_puts(&xml, "<InitiateMultipartUploadResult><UploadId>");
    strbuf_printf(&xml, "%09000d", 1);
    strbuf_puts(&xml, "</UploadId></InitiateMultipartUploadResult>");
    assert_null(s3_xml_upload_id(a, xml.data, xml.len));
}

static void test_upload_id_is_read(void **state)
{
    static const char xml[] =
        PROLOG "<InitiateMultipartUploadResult" XMLNS "><Bucket>b</Bucket><Key>k</Key>"
               "<UploadId>a-b&amp;c</UploadId></InitiateMultipartUploadResult>";
    struct arena *a = *state;

    assert_string_equal(s3_xml_upload_id(a, xml, strlen(xml)), "a-b&c");
    assert_null(s3_xml_upload_id(a, xml, strlen(xml) - 3));
    assert_null(s3_xml_upload_id(a, "<UploadId>x</UploadId>", 22));
    assert_null(s3_xml_upload_id(a, "", 0));
}

static void test_completion_is_only_what_says_so(void **state)
{
    static const char good[] = PROLOG "<CompleteMultipartUploadResult" XMLNS
                                      "><ETag>\"x-2\"</ETag></CompleteMultipartUploadResult>";
    struct arena *a = *state;

    assert_true(s3_xml_is_completed(a, good, strlen(good)));
    assert_false(s3_xml_is_completed(a, good, strlen(good) - 1));
    assert_false(s3_xml_is_completed(a, "<Error><Code>X</Code></Error>", 29));
    assert_false(s3_xml_is_completed(a, "", 0));
}

static bool read_parts(struct arena *a, const char *xml, struct s3_part **parts, size_t *n,
                       bool *is_more, int *next)
{
    return s3_xml_parts(a, xml, strlen(xml), parts, n, is_more, next);
}

#define PART(number, etag, size)                                                                 \
    "<Part><PartNumber>" number "</PartNumber><LastModified>2026-11-23T14:02:23Z</LastModified>" \
    "<ETag>" etag "</ETag><Size>" size "</Size></Part>"

static void test_parts_are_read(void **state)
{
    struct arena *a = *state;
    struct s3_part *parts;
    bool is_more;
    size_t n;
    int next;

    assert_true(read_parts(a,
                           PROLOG
                           "<ListPartsResult" XMLNS "><UploadId>u</UploadId>"
                           "<NextPartNumberMarker>7</NextPartNumberMarker>"
                           "<IsTruncated>true</IsTruncated>" PART("1", "&quot;e1&quot;", "5242880")
                               PART("7", "&quot;e7&quot;", "3") "</ListPartsResult>",
                           &parts, &n, &is_more, &next));
    assert_int_equal(n, 2);
    assert_int_equal(parts[0].number, 1);
    assert_string_equal(parts[0].etag, "\"e1\"");
    assert_int_equal(parts[0].size, 5242880);
    assert_int_equal(parts[1].number, 7);
    assert_true(is_more);
    assert_int_equal(next, 7);
    assert_true(read_parts(a, "<ListPartsResult><IsTruncated>true</IsTruncated></ListPartsResult>",
                           &parts, &n, &is_more, &next));
    assert_int_equal(n, 0);
    assert_false(is_more); /* or it would be asked for ever */
}

static void test_parts_that_make_no_sense_are_refused(void **state)
{
    static const char *const bad[] = {
        "<ListPartsResult>" PART("0", "e", "1") "</ListPartsResult>",
        "<ListPartsResult>" PART("10001", "e", "1") "</ListPartsResult>",
        "<ListPartsResult>" PART("x", "e", "1") "</ListPartsResult>",
        "<ListPartsResult>" PART("1", "e", "-1") "</ListPartsResult>",
        "<ListPartsResult>" PART("1", "e", "99999999999999999999") "</ListPartsResult>",
        "<ListPartsResult><Part><PartNumber>1</PartNumber></Part></ListPartsResult>",
        "<ListBucketResult></ListBucketResult>",
        "<ListPartsResult>",
    };
    struct arena *a = *state;
    struct s3_part *parts;
    bool is_more;
    size_t n, i;
    int next;

    for (i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(read_parts(a, bad[i], &parts, &n, &is_more, &next));
    }
}

static void test_listing_is_read_and_decoded(void **state)
{
    static const char xml[] =
        PROLOG "<ListBucketResult" XMLNS "><Prefix>a%2B</Prefix><IsTruncated>true</IsTruncated>"
               "<Contents><Key>a%2Bb+c%C3%A9/%25</Key><Size>9</Size>"
               "<LastModified>2026-11-23T14:02:23.000Z</LastModified></Contents>"
               "<Contents><Key>%FF</Key><Size>1</Size></Contents>"
               "<CommonPrefixes><Prefix>p</Prefix></CommonPrefixes>"
               "<EncodingType>url</EncodingType></ListBucketResult>";
    static const char plain[] = "<ListBucketResult><Contents><Key>a%2B+b</Key><Size>0</Size>"
                                "</Contents></ListBucketResult>";
    struct arena *a = *state;
    struct s3_listed *items;
    int64_t wall_ms;
    bool is_more;
    size_t n;

    assert_true(s3_xml_list(a, xml, strlen(xml), &items, &n, &is_more));
    assert_int_equal(n, 1);
    assert_string_equal(items[0].key, "a+b c\xc3\xa9/%");
    assert_int_equal(items[0].size, 9);
    assert_true(clock_parse("2026-11-23T14:02:23Z", &wall_ms));
    assert_int_equal(items[0].modified_ms, wall_ms);
    assert_true(is_more);
    assert_true(s3_xml_list(a, plain, strlen(plain), &items, &n, &is_more));
    assert_string_equal(items[0].key, "a%2B+b");
    assert_false(is_more);
    assert_false(s3_xml_list(a, "<ListBucketResult", 17, &items, &n, &is_more));
}

static void test_open_uploads_are_read(void **state)
{
    static const char xml[] =
        "<ListMultipartUploadsResult" XMLNS "><EncodingType>url</EncodingType>"
        "<Upload><Key>a%2Fb%20c</Key><UploadId>u-1</UploadId>"
        "<Initiated>2026-11-23T14:02:23.000Z</Initiated></Upload>"
        "<IsTruncated>true</IsTruncated></ListMultipartUploadsResult>";
    static const char nameless[] =
        "<ListMultipartUploadsResult><Upload><Key>k</Key></Upload></ListMultipartUploadsResult>";
    struct arena *a = *state;
    struct s3_open *items;
    int64_t wall_ms;
    bool is_more;
    size_t n;

    assert_true(s3_xml_open(a, xml, strlen(xml), &items, &n, &is_more));
    assert_int_equal(n, 1);
    assert_string_equal(items[0].key, "a/b c");
    assert_string_equal(items[0].upload_id, "u-1");
    assert_true(clock_parse("2026-11-23T14:02:23Z", &wall_ms));
    assert_int_equal(items[0].begun_ms, wall_ms);
    assert_true(is_more);
    assert_false(s3_xml_open(a, nameless, strlen(nameless), &items, &n, &is_more));
    assert_false(s3_xml_open(a, "<ListBucketResult/>", 19, &items, &n, &is_more));
}

static void test_page_of_more_than_a_thousand_is_refused(void **state)
{
    struct arena *a = *state;
    struct s3_listed *items;
    struct strbuf xml;
    bool is_more;
    size_t n;
    int i;

    strbuf_init(&xml, a, 65536);
    strbuf_puts(&xml, "<ListBucketResult>");
    for (i = 0; i <= 1000; i++) {
        strbuf_puts(&xml, "<Contents><Key>k</Key></Contents>");
    }
    strbuf_puts(&xml, "</ListBucketResult>");
    assert_false(s3_xml_list(a, xml.data, xml.len, &items, &n, &is_more));
}

static void test_completion_document_is_escaped(void **state)
{
    const struct s3_part parts[] = {{.number = 1, .etag = "\"e<1>&\""},
                                    {.number = 2, .etag = "x", .crc32c = "4waSgw=="}};
    struct strbuf xml = s3_xml_complete(*state, parts, 2);

    assert_string_equal(
        xml.data, "<CompleteMultipartUpload" XMLNS "><Part><PartNumber>1</PartNumber>"
                  "<ETag>&quot;e&lt;1&gt;&amp;&quot;</ETag></Part><Part><PartNumber>2</PartNumber>"
                  "<ETag>x</ETag><ChecksumCRC32C>4waSgw==</ChecksumCRC32C></Part>"
                  "</CompleteMultipartUpload>");
}

static void test_back_off_doubles_up_to_its_bound_with_full_jitter(void **state)
{
    (void)state;
    assert_int_equal(s3_backoff_ms(1, 50, 2000, 50), 50);
    assert_int_equal(s3_backoff_ms(1, 50, 2000, 51), 0);
    assert_int_equal(s3_backoff_ms(2, 50, 2000, 100), 100);
    assert_int_equal(s3_backoff_ms(3, 50, 2000, 200), 200);
    assert_int_equal(s3_backoff_ms(7, 50, 2000, 2000), 2000);
    assert_int_equal(s3_backoff_ms(7, 50, 2000, 2001), 0);
    assert_int_equal(s3_backoff_ms(1000, 50, 2000, 2000), 2000);
    assert_in_range(s3_backoff_ms(5, 60000, 100, UINT64_MAX), 0, 100);
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_host_is_what_a_client_sends),
        TEST(test_disposition_is_safe_for_any_name),
        TEST(test_replies_are_judged),
        TEST(test_success_that_carries_an_error_is_an_error),
        TEST(test_error_code_is_read_even_of_a_cut_document),
        TEST(test_document_types_and_depth_are_refused),
        TEST(test_text_of_an_element_is_bounded),
        TEST(test_upload_id_is_read),
        TEST(test_completion_is_only_what_says_so),
        TEST(test_parts_are_read),
        TEST(test_parts_that_make_no_sense_are_refused),
        TEST(test_listing_is_read_and_decoded),
        TEST(test_open_uploads_are_read),
        TEST(test_page_of_more_than_a_thousand_is_refused),
        TEST(test_completion_document_is_escaped),
        TEST(test_back_off_doubles_up_to_its_bound_with_full_jitter),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
