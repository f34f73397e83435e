/* Shapes: JSON in, rows in, JSON out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "lib/crypto.h"
#include "lib/shape.h"

#define ID "01890a5d-ac96-774b-bcce-b302099a8057"

struct thing {
    struct id id;
    const char *title;
    const char *format;
    int64_t count;
    double gain;
    bool loud;
    int64_t made_at;
    const char *extra;
    const struct json *any;
    const char *secret;
    int64_t version;
};

static const char *const formats[] = {"mp3", "wav", NULL};
static const struct field thing_fields[] = {
    F_ID(thing, id, "id", F_OPTIONAL),
    F_STR(thing, title, "title", 2, 5, F_TRIM),
    F_WORD(thing, format, "format", formats, F_OPTIONAL),
    F_I64(thing, count, "count", -3, 10, F_OPTIONAL),
    F_F64(thing, gain, "gain", -60, 12, F_OPTIONAL),
    F_BOOL(thing, loud, "loud", F_OPTIONAL),
    F_TIME(thing, made_at, "madeAt", F_OPTIONAL),
    F_JSON(thing, extra, "extra", F_OPTIONAL | F_OMIT_NULL),
    F_ANY(thing, any, "any", F_OPTIONAL),
    F_STR(thing, secret, "secret", 0, 10, F_HIDDEN),
    F_I64(thing, version, "version", 0, INT64_MAX, F_OUT_ONLY),
};
static const struct shape shape_thing = SHAPE(thing, thing_fields);

static int setup(void **state)
{
    struct arena *arena = arena_open(128 * 1024);
    struct scope *sc = arena_new(arena, struct scope);

    crypto_open();
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

static enum err read_text(struct scope *sc, const char *text, struct thing *out)
{
    const struct json *value;

    scope_forgive(sc);
    assert_int_equal(json_parse(sc, text, strlen(text), &value), OK);
    return shape_read(sc, &shape_thing, value, "", out);
}

/* The text must be refused with just this violation. */
static void assert_violation(struct scope *sc, const char *text, const char *field,
                             const char *code)
{
    struct thing t;

    assert_int_equal(read_text(sc, text, &t), ERR_VALIDATION_FAILED);
    if (sc->n_violations != 1 || strcmp(sc->violations[0].field, field) != 0 ||
        strcmp(sc->violations[0].code, code) != 0) {
        fail_msg("%s: %d violations, the first %s %s", text, sc->n_violations,
                 sc->violations[0].field, sc->violations[0].code);
    }
}

static const char *written(struct scope *sc, const struct thing *t)
{
    struct strbuf b;

    strbuf_init(&b, sc->arena, 0);
    shape_write(&b, &shape_thing, t);
    return b.data;
}

static void test_a_whole_object_is_read(void **state)
{
    struct thing t;

    assert_int_equal(read_text(*state,
                               "{\"id\":\"" ID
                               "\",\"title\":\"abc\",\"format\":\"wav\",\"count\":10,"
                               "\"gain\":-60,\"loud\":true,\"madeAt\":\"1970-01-01T00:00:01Z\","
                               "\"extra\":{\"a\":[1]},\"any\":[1,2]}",
                               &t),
                     OK);
    assert_string_equal(id_text(((struct scope *)*state)->arena, t.id), ID);
    assert_string_equal(t.title, "abc");
    assert_ptr_equal(t.format, formats[1]);
    assert_int_equal(t.count, 10);
    assert_true(t.gain == -60);
    assert_true(t.loud);
    assert_int_equal(t.made_at, 1000);
    assert_string_equal(t.extra, "{\"a\":[1]}");
    assert_int_equal(json_length(t.any), 2);
}

static void test_what_is_missing_or_null_is_absent(void **state)
{
    static const char *const texts[] = {
        "{\"title\":\"abc\"}",
        "{\"title\":\"abc\",\"id\":null,\"format\":null,\"count\":null,\"gain\":null,\"loud\":null,"
        "\"madeAt\":null,\"extra\":null,\"any\":null}"};
    size_t i;

    for (i = 0; i < ARRAY_LEN(texts); i++) {
        struct thing t;

        memset(&t, 0x55, sizeof(t));
        assert_int_equal(read_text(*state, texts[i], &t), OK);
        assert_true(id_is_nil(t.id));
        assert_null(t.format);
        assert_int_equal(t.count, ABSENT_I64);
        assert_true(isnan(t.gain));
        assert_false(t.loud);
        assert_int_equal(t.made_at, ABSENT_I64);
        assert_null(t.extra);
        assert_null(t.any);
        assert_null(t.secret);
        assert_int_equal(t.version, ABSENT_I64);
    }
}

static void test_a_required_member_is_demanded(void **state)
{
    assert_violation(*state, "{}", "title", "required");
    assert_violation(*state, "{\"title\":null}", "title", "required");
}

static void test_members_that_no_client_may_set_are_unknown(void **state)
{
    assert_violation(*state, "{\"title\":\"abc\",\"x\":1}", "x", "unknown");
    assert_violation(*state, "{\"title\":\"abc\",\"version\":1}", "version", "unknown");
    assert_violation(*state, "{\"title\":\"abc\",\"secret\":\"s\"}", "secret", "unknown");
    assert_violation(*state, "{\"title\":\"abc\",\"Title\":\"abc\"}", "Title", "unknown");
    assert_violation(*state, "{\"title\":\"abc\",\"\":1}", "", "unknown");
    assert_violation(*state, "{\"title\":\"abc\",\"x\":null}", "x", "unknown");
}

static void test_each_kind_refuses_the_others(void **state)
{
    static const char *const values[] = {"true", "1", "1.5", "\"\xc3\xbc\xc3\xbc\"", "[]", "{}"};
    static const struct {
        const char *member;
        const char *fits; /* indexes of values that are of its type */
    } members[] = {{"id", "3"},    {"title", "3"}, {"format", "3"}, {"count", "1"},
                   {"gain", "12"}, {"loud", "0"},  {"madeAt", "3"}};
    struct scope *sc = *state;
    size_t m, v;

    for (m = 0; m < ARRAY_LEN(members); m++) {
        for (v = 0; v < ARRAY_LEN(values); v++) {
            const char *text = arena_printf(sc->arena,
                                            strcmp(members[m].member, "title") == 0
                                                ? "{\"%s\":%s}"
                                                : "{\"title\":\"abc\",\"%s\":%s}",
                                            members[m].member, values[v]);
            struct thing t;

            if (strchr(members[m].fits, (int)('0' + v)) == NULL) {
                assert_violation(sc, text, members[m].member, "type");
            } else if (read_text(sc, text, &t) != OK) {
                assert_string_not_equal(sc->violations[0].code, "type");
            }
        }
    }
}

static void test_bounds_of_numbers_are_exact(void **state)
{
    struct thing t;

    assert_int_equal(read_text(*state, "{\"title\":\"abc\",\"count\":-3,\"gain\":12}", &t), OK);
    assert_violation(*state, "{\"title\":\"abc\",\"count\":-4}", "count", "range");
    assert_violation(*state, "{\"title\":\"abc\",\"count\":11}", "count", "range");
    assert_violation(*state, "{\"title\":\"abc\",\"count\":9223372036854775808}", "count", "range");
    assert_violation(*state, "{\"title\":\"abc\",\"count\":1.0}", "count", "type");
    assert_violation(*state, "{\"title\":\"abc\",\"gain\":12.000001}", "gain", "range");
    assert_violation(*state, "{\"title\":\"abc\",\"gain\":-60.01}", "gain", "range");
    assert_violation(*state, "{\"title\":\"abc\",\"gain\":1e400}", "gain", "type");
}

static void test_length_counts_characters_behind_the_trimming(void **state)
{
    struct thing t;

    assert_int_equal(read_text(*state, "{\"title\":\"  ab  \"}", &t), OK);
    assert_string_equal(t.title, "ab");
    assert_int_equal(read_text(*state, "{\"title\":\"\\r\\n ab\\t\"}", &t), OK);
    assert_string_equal(t.title, "ab");
    assert_int_equal(
        read_text(*state, "{\"title\":\"\xc3\xbc\xe2\x82\xac\xf0\x9f\x8e\xb5xy\"}", &t), OK);
    assert_violation(*state, "{\"title\":\"a\"}", "title", "length");
    assert_violation(*state, "{\"title\":\" a \"}", "title", "length");
    assert_violation(*state, "{\"title\":\"      \"}", "title", "length");
    assert_violation(*state, "{\"title\":\"abcdef\"}", "title", "length");
}

static void test_control_characters_are_refused(void **state)
{
    assert_violation(*state, "{\"title\":\"a\\nb\"}", "title", "format");
    assert_violation(*state, "{\"title\":\"a\\u0000b\"}", "title", "format");
    assert_violation(*state, "{\"title\":\"ab\\u0000\"}", "title", "format");
    assert_violation(*state, "{\"title\":\"a\\u001bb\"}", "title", "format");
    assert_violation(*state,
                     "{\"title\":\"a\x7f"
                     "b\"}",
                     "title", "format");
    assert_violation(*state, "{\"title\":\"a\\u009bb\"}", "title", "format"); /* C1: CSI */
}

static void test_words_ids_and_times_are_whole(void **state)
{
    assert_violation(*state, "{\"title\":\"abc\",\"format\":\"ogg\"}", "format", "value");
    assert_violation(*state, "{\"title\":\"abc\",\"format\":\"MP3\"}", "format", "value");
    assert_violation(*state, "{\"title\":\"abc\",\"format\":\"\"}", "format", "value");
    assert_violation(*state, "{\"title\":\"abc\",\"format\":\"mp3\\u0000x\"}", "format", "value");
    assert_violation(*state, "{\"title\":\"abc\",\"id\":\"" ID "\\u0000\"}", "id", "format");
    assert_violation(*state, "{\"title\":\"abc\",\"id\":\"x\"}", "id", "format");
    assert_violation(*state, "{\"title\":\"abc\",\"madeAt\":\"yesterday\"}", "madeAt", "format");
    assert_violation(*state, "{\"title\":\"abc\",\"madeAt\":\"1970-01-01T00:00:00Z\\u0000x\"}",
                     "madeAt", "format");
}

static void test_all_faults_are_told_at_once(void **state)
{
    struct scope *sc = *state;
    struct thing t;

    assert_int_equal(read_text(sc, "{\"x\":1,\"title\":\"a\",\"count\":99,\"loud\":1}", &t),
                     ERR_VALIDATION_FAILED);
    assert_int_equal(sc->n_violations, 4);
}

static void test_paths_of_nested_objects_carry_their_prefix(void **state)
{
    struct scope *sc = *state;
    const struct json *value;
    struct thing t;

    assert_int_equal(json_parse(sc, "{\"x\":1}", 7, &value), OK);
    assert_int_equal(shape_read(sc, &shape_thing, value, "tracks[2].", &t), ERR_VALIDATION_FAILED);
    assert_string_equal(sc->violations[0].field, "tracks[2].x");
    assert_string_equal(sc->violations[1].field, "tracks[2].title");
    assert_int_equal(shape_read(sc, &shape_thing, NULL, "tracks[3]", &t), ERR_VALIDATION_FAILED);
    assert_string_equal(sc->violations[2].field, "tracks[3]");
    assert_string_equal(sc->violations[2].code, "type");
}

/* A client chooses the names of unknown members: what is told of them must stay small. */
static void test_a_huge_unknown_name_is_told_in_short(void **state)
{
    struct scope *sc = *state;
    char *text = arena_alloc(sc->arena, 60010);
    const struct json *value;
    struct thing t;
    size_t before;

    memcpy(text, "{\"title\":\"abc\",\"", 16);
    memset(text + 16, 0x7f, 59980);
    memcpy(text + 16 + 59980, "\":1}", 4);
    assert_int_equal(json_parse(sc, text, strlen(text), &value), OK);
    before = arena_used(sc->arena);
    assert_int_equal(shape_read(sc, &shape_thing, value, "", &t), ERR_VALIDATION_FAILED);
    assert_int_equal(sc->n_violations, 1);
    assert_in_range(strlen(sc->violations[0].field), 10, 100);
    assert_in_range(arena_used(sc->arena) - before, 1, 1000);
}

static void test_a_name_is_cut_between_characters(void **state)
{
    struct scope *sc = *state;
    struct strbuf b;
    struct thing t;
    size_t shift, i;

    for (shift = 0; shift < 4; shift++) {
        strbuf_init(&b, sc->arena, 0);
        strbuf_puts(&b, "{\"title\":\"abc\",\"");
        strbuf_puts(&b, "aaaa" + shift);
        for (i = 0; i < 100; i++) {
            strbuf_puts(&b, "\xf0\x9f\x8e\xb5");
        }
        strbuf_puts(&b, "\":1}");
        assert_int_equal(read_text(sc, b.data, &t), ERR_VALIDATION_FAILED);
        assert_true(utf8_valid(sc->violations[0].field, strlen(sc->violations[0].field)));
    }
}

static void test_unknown_members_beyond_the_bound_cost_nothing(void **state)
{
    struct scope *sc = *state;
    struct strbuf b;
    struct thing t;
    int i;

    strbuf_init(&b, sc->arena, 40000);
    for (i = 0; i < 3000; i++) {
        strbuf_printf(&b, "%s\"m%d\":1", i == 0 ? "{" : ",", i);
    }
    strbuf_puts(&b, "}");
    assert_int_equal(read_text(sc, b.data, &t), ERR_VALIDATION_FAILED);
    assert_int_equal(sc->n_violations, VIOLATIONS_MAX);
}

static void test_columns_are_read_from_postgresqls_text(void **state)
{
    static const char *const texts[] = {
        ID, "title", "wav", "-7", "0.25", "t", "1970-01-01 00:00:01.5+00", "{\"a\": 1}"};
    struct scope *sc = *state;
    struct thing t;
    size_t i;

    shape_clear(&shape_thing, &t);
    for (i = 0; i < ARRAY_LEN(texts); i++) {
        assert_int_equal(shape_set_text(sc, &thing_fields[i], texts[i], strlen(texts[i]), &t), OK);
    }
    assert_string_equal(id_text(sc->arena, t.id), ID);
    assert_string_equal(t.title, "title");
    assert_string_equal(t.format, "wav");
    assert_int_equal(t.count, -7);
    assert_true(t.gain == 0.25);
    assert_true(t.loud);
    assert_int_equal(t.made_at, 1500);
    assert_string_equal(t.extra, "{\"a\": 1}");
    for (i = 0; i < ARRAY_LEN(texts); i++) {
        assert_int_equal(shape_set_text(sc, &thing_fields[i], NULL, 0, &t), OK);
    }
    assert_int_equal(t.count, ABSENT_I64);
    assert_null(t.title);
}

static void test_a_column_that_does_not_parse_is_our_fault(void **state)
{
    static const struct {
        int field;
        const char *text;
    } bad[] = {{0, "x"}, {0, ""}, {3, "1.5"},   {3, ""},
               {4, "x"}, {4, ""}, {4, "1e999"}, {6, "infinity"}};
    struct scope *sc = *state;
    struct thing t;
    size_t i;

    for (i = 0; i < ARRAY_LEN(bad); i++) {
        const struct field *f = &thing_fields[bad[i].field];

        assert_int_equal(shape_set_text(sc, f, bad[i].text, strlen(bad[i].text), &t), ERR_INTERNAL);
        assert_non_null(strstr(sc->cause, f->column));
    }
    assert_int_equal(shape_set_text(sc, &thing_fields[8], "1", 1, &t), ERR_INTERNAL);
}

static void test_objects_are_written_in_the_order_of_the_table(void **state)
{
    struct thing t;

    assert_int_equal(read_text(*state,
                               "{\"title\":\"a\\\"b\",\"count\":-3,\"gain\":0.1,\"loud\":true,"
                               "\"madeAt\":\"1970-01-01T00:00:01Z\",\"extra\":[1],\"any\":1}",
                               &t),
                     OK);
    t.secret = "never shown";
    t.version = 7;
    assert_string_equal(
        written(*state, &t),
        "{\"id\":null,\"title\":\"a\\\"b\",\"format\":null,\"count\":-3,\"gain\":0.1,"
        "\"loud\":true,\"madeAt\":\"1970-01-01T00:00:01.000Z\",\"extra\":[1],"
        "\"version\":7}");
}

static void test_absent_values_are_written_as_null_or_left_out(void **state)
{
    struct thing t;

    shape_clear(&shape_thing, &t);
    t.gain = INFINITY; /* JSON has no word for it */
    assert_string_equal(written(*state, &t),
                        "{\"id\":null,\"title\":null,\"format\":null,\"count\":null,\"gain\":null,"
                        "\"loud\":false,\"madeAt\":null,\"version\":null}");
}

static void test_what_is_written_is_read_back(void **state)
{
    static const double gains[] = {0, -0.0, 0.1, 1.0 / 3, -59.999999999999, 11.25, 1e-30};
    struct scope *sc = *state;
    size_t i;

    for (i = 0; i < ARRAY_LEN(gains); i++) {
        const struct json *value;
        const char *text;
        struct thing t;
        double back;

        shape_clear(&shape_thing, &t);
        t.gain = gains[i];
        text = written(sc, &t);
        assert_int_equal(json_parse(sc, text, strlen(text), &value), OK);
        assert_true(json_double(json_get(value, "gain"), &back));
        assert_true(fabs(back - gains[i]) <= fabs(gains[i]) * 1e-14);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_whole_object_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_missing_or_null_is_absent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_required_member_is_demanded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_members_that_no_client_may_set_are_unknown, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_each_kind_refuses_the_others, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounds_of_numbers_are_exact, setup, teardown),
        cmocka_unit_test_setup_teardown(test_length_counts_characters_behind_the_trimming, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_control_characters_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_words_ids_and_times_are_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(test_all_faults_are_told_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_paths_of_nested_objects_carry_their_prefix, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_huge_unknown_name_is_told_in_short, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_name_is_cut_between_characters, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown_members_beyond_the_bound_cost_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_columns_are_read_from_postgresqls_text, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_column_that_does_not_parse_is_our_fault, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_objects_are_written_in_the_order_of_the_table, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_absent_values_are_written_as_null_or_left_out, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_is_written_is_read_back, setup, teardown),
    };

    return cmocka_run_group_tests_name("shape", tests, NULL, NULL);
}
