/* A request as handlers see it: queries, pages, bodies, entity tags. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "fcgi/req_private.h"
#include "fcgi/test_fixture.h"
#include "lib/config.h"
#include "lib/crypto.h"

#define ID "01890a5d-ac96-774b-bcce-b302099a8057"

enum { PARAMS_MAX = 4 };

static struct conn_param params[PARAMS_MAX];

static int group_setup(void **state)
{
    (void)state;
    crypto_open();
    return config_load(stderr) ? 0 : -1;
}

static int setup(void **state)
{
    struct req *r = fixture_req(state);

    r->params = params;
    r->body = "";
    return 0;
}

static void give_header(struct req *r, const char *name, const char *value)
{
    r->n_params = 1;
    params[0] = (struct conn_param){.name = name, .value = value};
}

/* Parse a query into a request without parameters. */
static enum err query(struct req *r, const char *text)
{
    r->n_query = 0;
    scope_forgive(&r->scope);
    return req_parse_query(r, text);
}

static void test_query_parameters_are_decoded(void **state)
{
    struct req *r = *state;

    assert_int_equal(query(r, "a=1&b=x%20y+z&c&d=&%65=%3D%26"), OK);
    assert_string_equal(req_query(r, "a"), "1");
    assert_string_equal(req_query(r, "b"), "x y z");
    assert_string_equal(req_query(r, "c"), "");
    assert_string_equal(req_query(r, "d"), "");
    assert_string_equal(req_query(r, "e"), "=&");
    assert_null(req_query(r, "f"));
    assert_null(req_query(r, "A"));
}

static void test_a_value_may_hold_equal_signs(void **state)
{
    assert_int_equal(query(*state, "a=b=c==&q=%61"), OK);
    assert_string_equal(req_query(*state, "a"), "b=c==");
}

static void test_empty_pairs_are_nothing(void **state)
{
    struct req *r = *state;

    assert_int_equal(query(r, ""), OK);
    assert_int_equal(query(r, "&&&"), OK);
    assert_int_equal(r->n_query, 0);
    assert_int_equal(query(r, "&a=1&&b=2&"), OK);
    assert_int_equal(r->n_query, 2);
}

static void test_a_name_given_twice_is_a_violation(void **state)
{
    struct req *r = *state;

    assert_int_equal(query(r, "a=1&b=2&%61=3"), ERR_VALIDATION_FAILED);
    assert_int_equal(r->scope.n_violations, 1);
    assert_string_equal(r->scope.violations[0].field, "a");
    assert_string_equal(r->scope.violations[0].code, "duplicate");
    assert_int_equal(query(r, "a&a"), ERR_VALIDATION_FAILED);
    assert_int_equal(query(r, "=1&=2"), ERR_VALIDATION_FAILED);
}

static void test_broken_queries_are_refused(void **state)
{
    static const char *const bad[] = {"a=%", "a=%4", "%zz=1", "a=%00", "a=%ff", "a=\xff", "%c0%80"};
    size_t i;

    for (i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(query(*state, bad[i]), ERR_BAD_REQUEST);
    }
}

static void test_the_number_of_parameters_is_bounded(void **state)
{
    struct req *r = *state;
    struct strbuf text;
    int i;

    strbuf_init(&text, r->scope.arena, 1000);
    for (i = 0; i < QUERY_PARAMS_MAX; i++) {
        strbuf_printf(&text, "p%d=&", i);
    }
    assert_int_equal(query(r, text.data), OK);
    strbuf_puts(&text, "more");
    assert_int_equal(query(r, text.data), ERR_BAD_REQUEST);
    assert_int_equal(r->n_query, QUERY_PARAMS_MAX);
}

static void test_only_known_parameters_pass(void **state)
{
    static const char *const known[] = {"limit", "q", NULL};
    struct req *r = *state;

    assert_int_equal(query(r, "limit=1&q=x"), OK);
    assert_int_equal(req_query_only(r, known), OK);
    assert_int_equal(query(r, "limit=1&Q=x&y"), OK);
    assert_int_equal(req_query_only(r, known), ERR_VALIDATION_FAILED);
    assert_int_equal(r->scope.n_violations, 2);
}

static void test_a_page_has_a_bounded_limit(void **state)
{
    static const char *const bad[] = {"limit=0",
                                      "limit=-1",
                                      "limit=101",
                                      "limit=",
                                      "limit=1.5",
                                      "limit=x",
                                      "limit=99999999999999999999"};
    struct req_page page;
    size_t i;

    assert_int_equal(query(*state, ""), OK);
    assert_int_equal(req_page(*state, &page), OK);
    assert_int_equal(page.limit, 20);
    assert_true(id_is_nil(page.after));
    assert_int_equal(query(*state, "limit=1"), OK);
    assert_int_equal(req_page(*state, &page), OK);
    assert_int_equal(page.limit, 1);
    assert_int_equal(query(*state, "limit=100"), OK);
    assert_int_equal(req_page(*state, &page), OK);
    for (i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(query(*state, bad[i]), OK);
        assert_int_equal(req_page(*state, &page), ERR_VALIDATION_FAILED);
    }
}

static void test_a_foreign_cursor_is_a_violation(void **state)
{
    static const char *const bad[] = {"cursor=",
                                      "cursor=x",
                                      "cursor=" ID,
                                      "cursor=AAAAAAAAAAAAAAAAAAAAAB", /* unused bits */
                                      "cursor=AAAAAAAAAAAAAAAAAAAAAAA",
                                      "cursor=AAAAAAAAAAAAAAAAAAAAA%3D"};
    struct req *r = *state;
    struct req_page page;
    size_t i;

    for (i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(query(r, bad[i]), OK);
        assert_int_equal(req_page(r, &page), ERR_VALIDATION_FAILED);
        assert_string_equal(r->scope.violations[0].field, "cursor");
    }
}

struct thing {
    struct id id;
};

static const struct field thing_fields[] = {F_ID(thing, id, "id", 0)};
static const struct shape shape_thing = SHAPE(thing, thing_fields);

static void test_the_cursor_of_a_page_leads_to_the_next(void **state)
{
    struct req *r = *state;
    struct req_page page = {.limit = 2}, next;
    struct thing things[3];
    const struct json *reply;
    int i;

    for (i = 0; i < 3; i++) {
        things[i].id = id_make_owned((struct place){(uint32_t)i});
    }
    assert_int_equal(req_reply_page(r, &shape_thing, things, 3, &page, offsetof(struct thing, id)),
                     OK);
    assert_int_equal(json_parse(&r->scope, r->reply.body.data, r->reply.body.len, &reply), OK);
    assert_int_equal(json_length(json_get(reply, "items")), 2);
    assert_int_equal(query(r, arena_printf(r->scope.arena, "cursor=%s",
                                           json_str(json_get(reply, "nextCursor"), NULL))),
                     OK);
    assert_int_equal(req_page(r, &next), OK);
    assert_true(id_equal(next.after, things[1].id));
}

static void test_the_last_page_has_no_cursor(void **state)
{
    struct req *r = *state;
    struct req_page page = {.limit = 2};
    struct thing things[2] = {{{{1}}}, {{{2}}}};

    assert_int_equal(req_reply_page(r, &shape_thing, things, 2, &page, 0), OK);
    assert_non_null(strstr(r->reply.body.data, "],\"nextCursor\":null}"));
    assert_int_equal(req_reply_page_with(r, &shape_thing, NULL, 0, &page, 0, ",\"partial\":true"),
                     OK);
    assert_string_equal(r->reply.body.data, "{\"items\":[],\"nextCursor\":null,\"partial\":true}");
}

static void test_if_match_holds_for_the_version_alone(void **state)
{
    static const struct {
        const char *list;
        bool matches;
    } cases[] = {
        {"\"v7\"", true},
        {"*", true},
        {"\"v6\", \"v7\"", true},
        {"\"v7\",\"v6\"", true},
        {"  \"v7\"  ", true},
        {"\"x\",\t\"v7\"", true},
        {"\"v70\"", false},
        {"\"v\"", false},
        {"v7", false},
        {"W/\"v7\"", false},
        {"\"V7\"", false},
        {"", false},
        {"\"v7\"x", false},
        {"\"v6\"", false},
        {",,,", false},
        {"\"v7", false},
        {"W/\"v6\", W/\"v7\"", false},
        {"*x", false},
    };
    struct req *r = *state;
    size_t i;

    assert_int_equal(req_if_match(r, 7), OK); /* without the field */
    for (i = 0; i < ARRAY_LEN(cases); i++) {
        give_header(r, "HTTP_IF_MATCH", cases[i].list);
        if (req_if_match(r, 7) != (cases[i].matches ? OK : ERR_PRECONDITION_FAILED)) {
            fail_msg("If-Match: %s", cases[i].list);
        }
    }
}

static void test_headers_are_found_by_their_whole_name(void **state)
{
    struct req *r = *state;

    give_header(r, "HTTP_IF_MATCH", "x");
    assert_string_equal(req_header(r, "IF_MATCH"), "x");
    assert_null(req_header(r, "IF_MATC"));
    assert_null(req_header(r, "MATCH"));
    give_header(r, "IF_MATCH", "x"); /* the server's own variable is no header */
    assert_null(req_header(r, "IF_MATCH"));
    assert_string_equal(req_param(r, "IF_MATCH"), "x");
}

static void test_an_absent_body_counts_as_an_empty_object(void **state)
{
    struct req *r = *state;
    struct thing t;

    assert_int_equal(req_body(r, &shape_thing, &t), ERR_VALIDATION_FAILED);
    assert_string_equal(r->scope.violations[0].code, "required");
}

static enum err body(struct req *r, const char *text, struct thing *t)
{
    scope_forgive(&r->scope);
    r->body = text;
    r->body_len = strlen(text);
    return req_body(r, &shape_thing, t);
}

static void test_a_body_is_an_object_by_its_shape(void **state)
{
    struct thing t;

    assert_int_equal(body(*state, "{\"id\":\"" ID "\"}", &t), OK);
    assert_int_equal(body(*state, "[]", &t), ERR_VALIDATION_FAILED);
    assert_int_equal(body(*state, "null", &t), ERR_VALIDATION_FAILED);
    assert_int_equal(body(*state, "7", &t), ERR_VALIDATION_FAILED);
    assert_int_equal(body(*state, "{", &t), ERR_BAD_JSON);
    assert_int_equal(body(*state, " ", &t), ERR_BAD_JSON);
    assert_int_equal(body(*state, "{\"id\":\"" ID "\",\"x\":1}", &t), ERR_VALIDATION_FAILED);
}

/* A body of a repeated piece, as large as a body may be. */
static const char *large_body(struct arena *a, const char *start, const char *piece,
                              const char *end)
{
    size_t most = (size_t)config()->body_max_bytes - strlen(end);
    struct strbuf b;

    strbuf_init(&b, a, (size_t)config()->body_max_bytes);
    strbuf_puts(&b, start);
    while (b.len + strlen(piece) <= most) {
        strbuf_puts(&b, piece);
    }
    strbuf_puts(&b, end);
    return b.data;
}

/* The hard cap of the arena ends the process, so a client must not get anywhere near it. */
static void test_no_body_costs_more_than_a_few_times_its_size(void **state)
{
    static const char *const bodies[][3] = {
        {"{\"", "\x7f", "\":1}"},
        {"{\"", "\\u0001", "\":1}"},
        {"{\"x\":1", ",\"\":1", "}"},
        {"{\"id\":\"", "\x7f", "\"}"},
        {"{\"id\":[", "[],", "1]}"},
        {"{\"id\":\"", " ", "\"}"},
        {"{\"id\":", " ", "1}"},
        {"", "[", ""},
        {"{\"\xf0\x9f\x8e\xb5", "\xf0\x9f\x8e\xb5", "\":1}"},
    };
    struct req *r = *state;
    struct thing t;
    size_t i;

    for (i = 0; i < ARRAY_LEN(bodies); i++) {
        struct arena *own = arena_open(1 << 20);
        size_t most = (size_t)config()->body_max_bytes;

        arena_reset(r->scope.arena);
        (void)body(r, large_body(own, bodies[i][0], bodies[i][1], bodies[i][2]), &t);
        respond_problem(r, ERR_VALIDATION_FAILED);
        if (arena_used(r->scope.arena) > most) {
            fail_msg("body %zu costs %zu bytes", i, arena_used(r->scope.arena));
        }
        arena_close(&own);
    }
}

static void test_another_owners_id_is_not_found(void **state)
{
    struct req *r = *state;
    struct id id;

    r->who.place = (struct place){0x12345678};
    r->match.ids[0] = id_make_owned(r->who.place);
    assert_int_equal(req_own_id(r, &id), OK);
    assert_true(id_equal(id, r->match.ids[0]));
    r->match.ids[0] = id_make_owned((struct place){0x12345679});
    assert_int_equal(req_own_id(r, &id), ERR_NOT_FOUND);
}

static void test_the_session_cookie_is_out_of_reach_for_scripts_and_other_sites(void **state)
{
    struct req *r = *state;

    req_session_cookie(r, "tok", 60);
    assert_string_equal(fixture_sent(r, "Set-Cookie"),
                        "session=tok; Path=/; HttpOnly; SameSite=Lax; Max-Age=60");
    setenv("PUBLIC_URL", "https://example.com", 1);
    assert_true(config_load(stderr));
    r->reply.n_headers = 0;
    req_session_cookie(r, "", 0);
    unsetenv("PUBLIC_URL");
    assert_true(config_load(stderr));
    assert_string_equal(fixture_sent(r, "Set-Cookie"),
                        "__Host-session=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0; Secure");
}

static void test_etag_and_location_are_set(void **state)
{
    struct req *r = *state;

    req_etag(r, 12);
    req_location(r, "/api/%s", "x");
    assert_string_equal(fixture_sent(r, "ETag"), "\"v12\"");
    assert_string_equal(fixture_sent(r, "Location"), "/api/x");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_query_parameters_are_decoded, setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_value_may_hold_equal_signs, setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_empty_pairs_are_nothing, setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_name_given_twice_is_a_violation, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_broken_queries_are_refused, setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_the_number_of_parameters_is_bounded, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_only_known_parameters_pass, setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_page_has_a_bounded_limit, setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_foreign_cursor_is_a_violation, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_the_cursor_of_a_page_leads_to_the_next, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_the_last_page_has_no_cursor, setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_if_match_holds_for_the_version_alone, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_headers_are_found_by_their_whole_name, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_an_absent_body_counts_as_an_empty_object, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_body_is_an_object_by_its_shape, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_no_body_costs_more_than_a_few_times_its_size, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_another_owners_id_is_not_found, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(
            test_the_session_cookie_is_out_of_reach_for_scripts_and_other_sites, setup,
            fixture_teardown),
        cmocka_unit_test_setup_teardown(test_etag_and_location_are_set, setup, fixture_teardown),
    };

    return cmocka_run_group_tests_name("req", tests, group_setup, NULL);
}
