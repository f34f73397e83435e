/* JSON in: strict, bounded, and no byte too far. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "lib/json.h"

static int setup(void **state)
{
    struct arena *arena = arena_open(1 << 20);
    struct scope *sc = arena_new(arena, struct scope);

    scope_init(sc, arena, 1000);
    *state = sc;
    return 0;
}

static int teardown(void **state)
{
    struct scope *sc = *state;
    struct arena *arena = sc->arena;

    arena_close(&arena);
    return 0;
}

/* Parse from memory that ends with the text, so that a byte too far is seen. */
static enum err parse_bytes(struct scope *sc, const char *text, size_t len, const struct json **out)
{
    char *exact = malloc(len + 1);
    enum err e;

    memcpy(exact, text, len);
    exact[len] = '}';
    e = json_parse(sc, exact, len, out);
    free(exact);
    return e;
}

static const struct json *parsed(struct scope *sc, const char *text)
{
    const struct json *value = NULL;

    if (parse_bytes(sc, text, strlen(text), &value) != OK) {
        fail_msg("%s: %s", text, sc->detail);
    }
    return value;
}

static void test_every_kind_of_value_is_read(void **state)
{
    int64_t number;
    double real;
    bool truth;

    assert_int_equal(json_kind(parsed(*state, "null")), JSON_NULL);
    assert_int_equal(json_kind(parsed(*state, "{}")), JSON_OBJECT);
    assert_int_equal(json_kind(parsed(*state, " [ ] ")), JSON_ARRAY);
    assert_true(json_truth(parsed(*state, "true"), &truth) && truth);
    assert_true(json_truth(parsed(*state, "false"), &truth) && !truth);
    assert_true(json_i64(parsed(*state, "12"), &number) && number == 12);
    assert_true(json_i64(parsed(*state, "-12 "), &number) && number == -12);
    assert_true(json_i64(parsed(*state, "0"), &number) && number == 0);
    assert_true(json_double(parsed(*state, "0.5"), &real) && real == 0.5);
    assert_true(json_double(parsed(*state, "1e3"), &real) && real == 1000);
    assert_true(json_double(parsed(*state, "7"), &real) && real == 7);
    assert_string_equal(json_str(parsed(*state, "\"a\""), NULL), "a");
    assert_string_equal(json_str(parsed(*state, "\"\""), NULL), "");
}

static void test_lenient_forms_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        " ",
        "\t\r\n",
        "{",
        "}",
        "[",
        "]",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{'a':1}",
        "'a'",
        "\"a",
        "\"a\\\"",
        "\"\\x41\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"a\nb\"",
        "\"a\tb\"",
        "\"\x01\"",
        "tru",
        "TRUE",
        "True",
        "nul",
        "Null",
        "NULL",
        "NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "inf",
        "+1",
        "01",
        "-01",
        "00",
        "-",
        "--1",
        "1.",
        ".5",
        "-.5",
        "1e",
        "1e+",
        "1.e3",
        "0x10",
        "1 2",
        "1,2",
        "{}{}",
        "{} x",
        "[]]",
        "null null",
        "/* c */ 1",
        "1 // c",
        "[1 /* c */]",
        "{\"a\":1 \"b\":2}",
        "{\"a\" 1}",
        "[1 2]",
        "\xef\xbb\xbf{}",
        "\"\xff\"",
        "\"\xc0\x80\"",
        "\"\xed\xa0\x80\"",
        "{\"\xff\":1}",
        "undefined",
        "{\"a\":NaN}",
        "[-Infinity]",
        "{\"a\":01}",
        "[1.]",
        "[1e]",
        "[-]",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
    };
    struct scope *sc = *state;
    size_t i;

    for (i = 0; i < ARRAY_LEN(bad); i++) {
        const struct json *value;
        enum err e = parse_bytes(sc, bad[i], strlen(bad[i]), &value);

        if (e != ERR_BAD_JSON) {
            print_error("%s is read\n", bad[i]);
            sc->shard = 99;
        } else {
            assert_non_null(sc->detail);
        }
    }
    assert_int_equal(sc->shard, -1);
}

static void test_a_nul_is_refused_raw_and_as_an_escape_in_a_name(void **state)
{
    struct scope *sc = *state;
    const struct json *value;

    assert_int_equal(parse_bytes(sc, "\"a\0b\"", 5, &value), ERR_BAD_JSON);
    assert_int_equal(parse_bytes(sc, "{}\0", 3, &value), ERR_BAD_JSON);
    assert_int_equal(parse_bytes(sc, "{\"name\\u0000x\":1}", 17, &value), ERR_BAD_JSON);
    assert_int_equal(parse_bytes(sc, "{\"a\":{\"\\u0000\":1}}", 18, &value), ERR_BAD_JSON);
}

static void test_an_escaped_nul_in_a_value_shows_by_the_length(void **state)
{
    const struct json *value = parsed(*state, "\"a\\u0000b\"");
    size_t len;

    assert_string_equal(json_str(value, &len), "a");
    assert_int_equal(len, 3);
}

static void test_duplicate_names_are_refused_at_any_depth(void **state)
{
    static const char *const bad[] = {"{\"a\":1,\"a\":1}",
                                      "{\"a\":1,\"b\":2,\"a\":3}",
                                      "[{\"a\":{\"b\":1,\"b\":2}}]",
                                      "{\"a\":1,\"\\u0061\":2}",
                                      "{\"a\":{\"x\":1},\"a\":{\"y\":2,\"z\":3}}",
                                      "{\"\":1,\"\":2}"};
    struct scope *sc = *state;
    const struct json *value;
    size_t i;

    for (i = 0; i < ARRAY_LEN(bad); i++) {
        if (parse_bytes(sc, bad[i], strlen(bad[i]), &value) != ERR_BAD_JSON) {
            fail_msg("%s is read", bad[i]);
        }
        assert_string_equal(sc->detail, "a member name occurs twice in one object");
    }
    /* the same name in different objects, and colons within texts, are none */
    (void)parsed(sc, "{\"a\":{\"a\":[{\"a\":1},{\"a\":2}]}}");
    (void)parsed(sc, "{\"a:b\":\":\",\"c\\\":\":\"\\\\\",\"d\":\"::\"}");
}

static enum err parse_nested(struct scope *sc, int depth)
{
    const struct json *value;
    char text[200];

    memset(text, '[', (size_t)depth);
    memset(text + depth, ']', (size_t)depth);
    return parse_bytes(sc, text, 2 * (size_t)depth, &value);
}

static void test_depth_is_bounded(void **state)
{
    assert_int_equal(parse_nested(*state, JSON_DEPTH_MAX), OK);
    assert_int_equal(parse_nested(*state, JSON_DEPTH_MAX + 1), ERR_BAD_JSON);
    assert_int_equal(parse_nested(*state, 100), ERR_BAD_JSON);
}

static void test_whole_numbers_beyond_int64_are_none(void **state)
{
    int64_t n;
    double real;

    assert_true(json_i64(parsed(*state, "9223372036854775806"), &n));
    assert_int_equal(n, INT64_MAX - 1);
    assert_true(json_i64(parsed(*state, "-9223372036854775807"), &n));
    assert_false(json_i64(parsed(*state, "9223372036854775808"), &n));
    assert_false(json_i64(parsed(*state, "18446744073709551615"), &n));
    assert_false(json_i64(parsed(*state, "18446744073709551616"), &n));
    assert_false(json_i64(parsed(*state, "99999999999999999999999999"), &n));
    assert_false(json_i64(parsed(*state, "-9223372036854775809"), &n));
    assert_false(json_i64(parsed(*state, "1.0"), &n));
    assert_false(json_i64(parsed(*state, "1e2"), &n));
    assert_false(json_i64(parsed(*state, "\"1\""), &n));
    assert_false(json_i64(parsed(*state, "true"), &n));
    assert_false(json_double(parsed(*state, "1e999"), &real));
    assert_false(json_double(parsed(*state, "-1e999"), &real));
    assert_false(json_double(parsed(*state, "\"1\""), &real));
    assert_true(json_double(parsed(*state, "1e-999"), &real));
    assert_true(real == 0);
}

static void test_escapes_become_utf_8(void **state)
{
    assert_string_equal(json_str(parsed(*state, "\"\\u00fc\\u20ac\\ud83c\\udfb5\""), NULL),
                        "\xc3\xbc\xe2\x82\xac\xf0\x9f\x8e\xb5");
    assert_string_equal(json_str(parsed(*state, "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""), NULL),
                        "\"\\/\b\f\n\r\t");
}

static void test_members_and_items_are_found(void **state)
{
    const struct json *o = parsed(*state, "{\"a\":[1,null,\"x\"],\"n\":null}");
    const struct json *list = json_get(o, "a");

    assert_true(json_has(o, "n"));
    assert_null(json_get(o, "n"));
    assert_false(json_has(o, "x"));
    assert_null(json_get(o, "x"));
    assert_int_equal(json_length(list), 3);
    assert_null(json_item(list, 1));
    assert_string_equal(json_str(json_item(list, 2), NULL), "x");
}

static void test_other_kinds_have_no_members_and_no_items(void **state)
{
    static const char *const texts[] = {"null", "1", "\"a\"", "[]", "true", "1.5"};
    bool truth;
    size_t i;

    for (i = 0; i < ARRAY_LEN(texts); i++) {
        const struct json *value = parsed(*state, texts[i]);

        assert_null(json_get(value, "a"));
        assert_false(json_has(value, "a"));
        assert_int_equal(json_length(value), 0);
    }
    assert_int_equal(json_length(parsed(*state, "{\"a\":1}")), 0);
    assert_null(json_str(parsed(*state, "1"), NULL));
    assert_false(json_truth(parsed(*state, "1"), &truth));
    assert_false(json_truth(NULL, &truth));
}

static bool stop_at_b(void *context, const char *name, const struct json *value)
{
    strbuf_puts(context, name);
    (void)value;
    return *name != 'b';
}

static void test_members_are_visited_until_the_visitor_stops(void **state)
{
    struct scope *sc = *state;
    struct strbuf seen;

    strbuf_init(&seen, sc->arena, 0);
    json_each(parsed(sc, "{\"a\":1,\"b\":2,\"c\":3}"), stop_at_b, &seen);
    assert_string_equal(seen.data, "ab");
    json_each(parsed(sc, "[1,2]"), stop_at_b, &seen);
    json_each(NULL, stop_at_b, &seen);
    assert_string_equal(seen.data, "ab");
}

static void test_what_was_read_is_written_compactly(void **state)
{
    static const char *const texts[] = {"{\"a\":[1,-2,0.5,true,false,null],\"b\":{\"c\":\"\"}}",
                                        "[]",
                                        "{}",
                                        "null",
                                        "\"a/b\\\"\\\\\\n\"",
                                        "9223372036854775807",
                                        "[1e+20]",
                                        "[0.10]"};
    struct scope *sc = *state;
    size_t i;

    for (i = 0; i < ARRAY_LEN(texts); i++) {
        struct strbuf b;

        strbuf_init(&b, sc->arena, 0);
        json_write(&b, parsed(sc, texts[i]));
        assert_string_equal(b.data, texts[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_kind_of_value_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lenient_forms_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_nul_is_refused_raw_and_as_an_escape_in_a_name, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_an_escaped_nul_in_a_value_shows_by_the_length, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_duplicate_names_are_refused_at_any_depth, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_depth_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_whole_numbers_beyond_int64_are_none, setup, teardown),
        cmocka_unit_test_setup_teardown(test_escapes_become_utf_8, setup, teardown),
        cmocka_unit_test_setup_teardown(test_members_and_items_are_found, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_kinds_have_no_members_and_no_items, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_members_are_visited_until_the_visitor_stops, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_was_read_is_written_compactly, setup, teardown),
    };

    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
