/* Text: buffers, and decoders that take one text for one value. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/str.h"

static int setup(void **state)
{
    *state = arena_open(1 << 20);
    return 0;
}

static int teardown(void **state)
{
    struct arena *arena = *state;

    arena_close(&arena);
    return 0;
}

static const char *as_json(struct arena *a, const char *text)
{
    struct strbuf b;

    strbuf_init(&b, a, 0);
    strbuf_json(&b, text);
    assert_int_equal(strlen(b.data), b.len);
    return b.data;
}

static void test_a_buffer_grows_from_nothing_and_stays_terminated(void **state)
{
    struct strbuf b;
    size_t i;

    strbuf_init(&b, *state, 0);
    assert_string_equal(b.data, "");
    for (i = 0; i < 3000; i++) {
        strbuf_putc(&b, (char)('a' + i % 26));
        assert_int_equal(b.data[b.len], '\0');
    }
    assert_int_equal(b.len, 3000);
    for (i = 0; i < 3000; i++) {
        assert_int_equal(b.data[i], 'a' + i % 26);
    }
}

static void test_a_buffer_takes_its_own_bytes(void **state)
{
    struct strbuf b;

    strbuf_init(&b, *state, 3);
    strbuf_puts(&b, "abc");
    strbuf_add(&b, b.data, b.len); /* moves while it reads */
    assert_string_equal(b.data, "abcabc");
}

static void test_formatting_appends_text_of_any_length(void **state)
{
    struct strbuf b;

    strbuf_init(&b, *state, 0);
    strbuf_printf(&b, "%d", 1);
    strbuf_printf(&b, "%s", "");
    strbuf_printf(&b, "%300s|", "x");
    assert_int_equal(b.len, 302);
    assert_int_equal(b.data[300], 'x');
    assert_string_equal(b.data + 301, "|");
}

static void test_numbers_are_written_to_their_limits(void **state)
{
    struct strbuf b;

    strbuf_init(&b, *state, 0);
    strbuf_i64(&b, INT64_MIN);
    strbuf_putc(&b, ' ');
    strbuf_i64(&b, INT64_MAX);
    strbuf_putc(&b, ' ');
    strbuf_i64(&b, 0);
    assert_string_equal(b.data, "-9223372036854775808 9223372036854775807 0");
}

static void test_json_text_escapes_what_rfc_8259_demands(void **state)
{
    assert_string_equal(as_json(*state, NULL), "null");
    assert_string_equal(as_json(*state, ""), "\"\"");
    assert_string_equal(as_json(*state, "a\"b\\c"), "\"a\\\"b\\\\c\"");
    assert_string_equal(as_json(*state, "\b\f\n\r\t"), "\"\\b\\f\\n\\r\\t\"");
    assert_string_equal(as_json(*state, "\x01\x1f\x7f"), "\"\\u0001\\u001f\\u007f\"");
    assert_string_equal(as_json(*state, "/<>&'"), "\"/<>&'\"");
    assert_string_equal(as_json(*state, "Gr\xc3\xbc\xc3\x9f \xf0\x9f\x8e\xb5"),
                        "\"Gr\xc3\xbc\xc3\x9f \xf0\x9f\x8e\xb5\"");
}

static void test_json_text_replaces_broken_utf_8(void **state)
{
    assert_string_equal(as_json(*state, "a\xff"
                                        "b"),
                        "\"a\xef\xbf\xbd"
                        "b\"");
    assert_string_equal(as_json(*state, "\xc3"), "\"\xef\xbf\xbd\"");
    assert_string_equal(as_json(*state, "\xf0\x9f\x8e"),
                        "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    assert_string_equal(as_json(*state, "\xed\xa0\x80"),
                        "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
}

/* A client decides how many characters must be escaped: each must cost its six bytes and no
 * more. */
static void test_escapes_cost_no_memory_beside_the_buffer(void **state)
{
    struct arena *a = *state;
    char text[4001];
    struct strbuf b;
    size_t before;

    memset(text, 0x7f, sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    strbuf_init(&b, a, 6 * sizeof(text) + 2);
    before = arena_used(a);
    strbuf_json(&b, text);
    assert_int_equal(b.len, 6 * (sizeof(text) - 1) + 2);
    assert_int_equal(arena_used(a), before);
}

static void test_what_means_something_in_xml_and_html_is_escaped(void **state)
{
    struct strbuf b;

    strbuf_init(&b, *state, 16);
    strbuf_xml(&b, "<a href=\"x\">'&'</a>");
    assert_string_equal(b.data, "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
}

static void test_formatting_costs_no_memory_beside_the_buffer(void **state)
{
    struct arena *a = *state;
    struct strbuf b;
    size_t before;
    int i;

    strbuf_init(&b, a, 64 * 1024);
    before = arena_used(a);
    for (i = 0; i < 1000; i++) {
        strbuf_printf(&b, "%d and %s\n", i, "some text");
    }
    assert_int_equal(arena_used(a), before);
}

struct utf8_case {
    const char *bytes;
    bool is_valid;
};

static void test_utf_8_is_judged_by_the_table_of_rfc_3629(void **state)
{
    static const struct utf8_case cases[] = {
        {"", true},
        {"plain", true},
        {"\xc2\x80", true},
        {"\xdf\xbf", true},
        {"\xe0\xa0\x80", true},
        {"\xed\x9f\xbf", true},
        {"\xee\x80\x80", true},
        {"\xef\xbf\xbf", true},
        {"\xf0\x90\x80\x80", true},
        {"\xf4\x8f\xbf\xbf", true},
        {"\x80", false}, /* a continuation alone */
        {"\xbf", false},
        {"\xc0\x80", false}, /* overlong NUL */
        {"\xc1\xbf", false},
        {"\xe0\x9f\xbf", false}, /* overlong */
        {"\xf0\x8f\xbf\xbf", false},
        {"\xed\xa0\x80", false}, /* surrogates */
        {"\xed\xbf\xbf", false},
        {"\xf4\x90\x80\x80", false}, /* beyond U+10FFFF */
        {"\xf5\x80\x80\x80", false},
        {"\xff", false},
        {"\xfe", false},
        {"\xc3", false}, /* cut off */
        {"\xe2\x82", false},
        {"\xf0\x9f\x8e", false},
        {"\xc3\x28", false},
        {"\xe2\x28\xa1", false},
        {"\xe2\x82\x28", false},
        {"\xf0\x9f\x28\xb5", false},
        {"\xf0\x9f\x8e\x28", false},
    };
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(cases); i++) {
        if (utf8_valid(cases[i].bytes, strlen(cases[i].bytes)) != cases[i].is_valid) {
            fail_msg("case %zu", i);
        }
    }
    assert_true(utf8_valid("a\0b", 3));
    assert_false(utf8_valid("\xc3\xbc", 1)); /* the length counts, not the NUL */
}

static void test_characters_are_counted_not_bytes(void **state)
{
    (void)state;
    assert_int_equal(utf8_length(""), 0);
    assert_int_equal(utf8_length("abc"), 3);
    assert_int_equal(utf8_length("\xc3\xbc\xe2\x82\xac\xf0\x9f\x8e\xb5"), 3);
}

static void test_hexadecimal_goes_out_in_lower_case_and_comes_in_in_either(void **state)
{
    static const uint8_t bytes[] = {0x00, 0x0f, 0xa5, 0xff};
    char text[2 * sizeof(bytes) + 1];
    int c, n = 0;

    (void)state;
    hex_encode(bytes, sizeof(bytes), text);
    assert_string_equal(text, "000fa5ff");
    hex_encode(bytes, 0, text);
    assert_string_equal(text, "");
    for (c = 0; c < 256; c++) {
        n += hex_digit((char)c) >= 0;
    }
    assert_int_equal(n, 22);
    assert_int_equal(hex_digit('F'), 15);
    assert_int_equal(hex_digit('a'), 10);
    assert_int_equal(hex_digit('0'), 0);
}

static void test_base64url_has_the_vectors_of_rfc_4648(void **state)
{
    static const char *const vectors[][2] = {
        {"", ""},           {"f", "Zg"},          {"fo", "Zm8"},          {"foo", "Zm9v"},
        {"foob", "Zm9vYg"}, {"fooba", "Zm9vYmE"}, {"foobar", "Zm9vYmFy"}, {"\xfb\xff\xfe", "-__-"}};
    char text[16];
    uint8_t bytes[8];
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(vectors); i++) {
        size_t len = strlen(vectors[i][0]);

        base64url_encode((const uint8_t *)vectors[i][0], len, text);
        assert_string_equal(text, vectors[i][1]);
        assert_int_equal(base64url_length(len), strlen(text));
        assert_true(base64url_decode(text, strlen(text), bytes, len));
        assert_memory_equal(bytes, vectors[i][0], len);
    }
}

static void test_base64url_has_one_text_for_one_value(void **state)
{
    uint8_t bytes[4];

    (void)state;
    assert_true(base64url_decode("Zg", 2, bytes, 1));
    assert_false(base64url_decode("Zh", 2, bytes, 1)); /* unused bits set */
    assert_false(base64url_decode("Zm9", 3, bytes, 2));
    assert_false(base64url_decode("Zg==", 4, bytes, 1)); /* padding */
    assert_false(base64url_decode("Zg==", 4, bytes, 3));
    assert_false(base64url_decode("Z+9v", 4, bytes, 3)); /* the other alphabet */
    assert_false(base64url_decode("Z/9v", 4, bytes, 3));
    assert_false(base64url_decode("Zm\0v", 4, bytes, 3));
    assert_false(base64url_decode("Zm v", 4, bytes, 3));
    assert_false(base64url_decode("Zm9v", 4, bytes, 2)); /* other lengths */
    assert_false(base64url_decode("Zm9v", 4, bytes, 4));
    assert_false(base64url_decode("Z", 1, bytes, 0));
    assert_false(base64url_decode("Zm\xc3\xbc", 4, bytes, 3));
}

static void test_every_byte_string_survives_base64url(void **state)
{
    uint8_t in[48], out[48];
    char text[65];
    size_t len, i;

    (void)state;
    for (len = 0; len <= sizeof(in); len++) {
        for (i = 0; i < len; i++) {
            in[i] = (uint8_t)(len * 37 + i * 101);
        }
        base64url_encode(in, len, text);
        assert_int_equal(strlen(text), base64url_length(len));
        assert_true(base64url_decode(text, strlen(text), out, len));
        assert_memory_equal(in, out, len);
    }
}

static const char *decoded(struct arena *a, const char *text, bool plus_is_space)
{
    return percent_decode(a, text, strlen(text), plus_is_space);
}

static void test_percent_escapes_are_decoded_once(void **state)
{
    assert_string_equal(decoded(*state, "", false), "");
    assert_string_equal(decoded(*state, "a%20b%2fc%2F", false), "a b/c/");
    assert_string_equal(decoded(*state, "%2541", false), "%41");
    assert_string_equal(decoded(*state, "a+b", true), "a b");
    assert_string_equal(decoded(*state, "a+b", false), "a+b");
    assert_string_equal(decoded(*state, "%2B", true), "+");
    assert_string_equal(decoded(*state, "%C3%BC", false), "\xc3\xbc");
}

static void test_broken_escapes_nuls_and_foreign_bytes_are_refused(void **state)
{
    static const char *const broken[] = {"%",         "%4",   "a%",     "a%4",  "%zz", "%4z",
                                         "%%41",      "%00",  "a%00b",  "%ff",  "%C3", "%c0%80",
                                         "%ed%a0%80", "\xff", "%u0041", "% 41", "%-1"};
    size_t i;

    for (i = 0; i < ARRAY_LEN(broken); i++) {
        if (decoded(*state, broken[i], true) != NULL) {
            fail_msg("%s is decoded", broken[i]);
        }
    }
    assert_null(percent_decode(*state, "a\0b", 3, false));
    assert_null(percent_decode(*state, "%41", 2, false)); /* cut off by the length */
    assert_string_equal(percent_decode(*state, "%41%42", 3, false), "A");
}

static void test_only_unreserved_characters_stay_as_they_are(void **state)
{
    struct strbuf b;

    strbuf_init(&b, *state, 0);
    percent_encode(&b, "AZaz09-._~/ ?%+\xc3\xbc\n", false);
    assert_string_equal(b.data, "AZaz09-._~%2F%20%3F%25%2B%C3%BC%0A");
    strbuf_init(&b, *state, 0);
    percent_encode(&b, "a/b c", true);
    assert_string_equal(b.data, "a/b%20c");
}

static void test_whole_numbers_are_parsed_whole_or_not_at_all(void **state)
{
    static const char *const bad[] = {"",
                                      "-",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "1.0",
                                      "1e3",
                                      "0x1",
                                      "--1",
                                      "abc",
                                      "1a",
                                      "9223372036854775808",
                                      "-9223372036854775809",
                                      "99999999999999999999999"};
    int64_t value = 77;
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(bad); i++) {
        if (i64_parse(bad[i], &value)) {
            fail_msg("\"%s\" is parsed", bad[i]);
        }
    }
    assert_int_equal(value, 77);
    assert_true(i64_parse("9223372036854775807", &value) && value == INT64_MAX);
    assert_true(i64_parse("-9223372036854775808", &value) && value == INT64_MIN);
    assert_true(i64_parse("0", &value) && value == 0);
    assert_true(i64_parse("-12", &value) && value == -12);
}

static void test_constant_time_comparison_finds_any_difference(void **state)
{
    uint8_t a[32] = {0}, b[32] = {0};
    size_t i;

    (void)state;
    assert_true(bytes_equal_ct(a, b, sizeof(a)));
    assert_true(bytes_equal_ct(a, b, 0));
    for (i = 0; i < 8 * sizeof(a); i++) {
        b[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_false(bytes_equal_ct(a, b, sizeof(a)));
        b[i / 8] ^= (uint8_t)(1u << i % 8);
    }
}

static void test_lower_case_touches_ascii_only(void **state)
{
    const char *text = "ABZ@[az\xc3\x9c";

    assert_string_equal(ascii_lower(*state, text), "abz@[az\xc3\x9c");
    assert_string_equal(text, "ABZ@[az\xc3\x9c");
}

static void test_prefixes(void **state)
{
    (void)state;
    assert_true(has_prefix("abc", "ab"));
    assert_true(has_prefix("abc", ""));
    assert_true(has_prefix("abc", "abc"));
    assert_false(has_prefix("ab", "abc"));
    assert_false(has_prefix("xabc", "abc"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_buffer_grows_from_nothing_and_stays_terminated,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_buffer_takes_its_own_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_formatting_appends_text_of_any_length, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_numbers_are_written_to_their_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_means_something_in_xml_and_html_is_escaped, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_json_text_escapes_what_rfc_8259_demands, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_json_text_replaces_broken_utf_8, setup, teardown),
        cmocka_unit_test_setup_teardown(test_escapes_cost_no_memory_beside_the_buffer, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_formatting_costs_no_memory_beside_the_buffer, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_utf_8_is_judged_by_the_table_of_rfc_3629, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_characters_are_counted_not_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_hexadecimal_goes_out_in_lower_case_and_comes_in_in_either, setup, teardown),
        cmocka_unit_test_setup_teardown(test_base64url_has_the_vectors_of_rfc_4648, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_base64url_has_one_text_for_one_value, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_byte_string_survives_base64url, setup, teardown),
        cmocka_unit_test_setup_teardown(test_percent_escapes_are_decoded_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_broken_escapes_nuls_and_foreign_bytes_are_refused,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_only_unreserved_characters_stay_as_they_are, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_whole_numbers_are_parsed_whole_or_not_at_all, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_constant_time_comparison_finds_any_difference, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_lower_case_touches_ascii_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_prefixes, setup, teardown),
    };

    return cmocka_run_group_tests_name("str", tests, NULL, NULL);
}
