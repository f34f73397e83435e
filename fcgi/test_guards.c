/* Guards that ask nobody: tokens, origins, types and sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "fcgi/req_private.h"
#include "fcgi/test_fixture.h"
#include "lib/clock.h"
#include "lib/config.h"

enum { PARAMS_MAX = 8 };

static struct conn_param params[PARAMS_MAX];
static const struct route plain = {.key = "POST /x", .rate = RATE_NORMAL};
static const struct route critical = {.key = "POST /login", .rate = RATE_CRITICAL};

static struct {
    const char *bytes;
    size_t len;
} client;

/* The client's body, as far as it came. */
size_t conn_read(struct conn *conn, char *buffer, size_t size)
{
    size_t n = size < client.len ? size : client.len;

    (void)conn;
    memcpy(buffer, client.bytes, n);
    return n;
}

bool conn_is_stopping(void)
{
    return false;
}

static int group_setup(void **state)
{
    (void)state;
    setenv("PUBLIC_URL", "http://127.0.0.1:8080", 1);
    setenv("QUEUE_DELAY_TARGET_MS", "20", 1);
    setenv("QUEUE_DELAY_INTERVAL_MS", "100", 1);
    return config_load(stderr) ? 0 : -1;
}

static int setup(void **state)
{
    struct req *r = fixture_req(state);

    r->params = params;
    r->method = "POST";
    r->is_unsafe = true;
    r->match.route = &plain;
    client.bytes = "";
    client.len = 0;
    return 0;
}

static void give(struct req *r, const char *name, const char *value)
{
    assert_true(r->n_params < PARAMS_MAX);
    params[r->n_params++] = (struct conn_param){.name = name, .value = value};
}

static void test_the_cookie_is_found_among_others(void **state)
{
    static const struct {
        const char *field;
        const char *token;
    } cases[] = {
        {"session=abc", "abc"},
        {"a=b; session=abc", "abc"},
        {"a=b;session=abc;c=d", "abc"},
        {"session=abc; session=def", "abc"},
        {" ; ;session=abc", "abc"},
        {"session=", ""},
        {"session=a=b", "a=b"},
        {"xsession=abc", NULL},
        {"session", NULL},
        {"session x=abc", NULL},
        {"Session=abc", NULL},
        {"a=session=abc", NULL},
        {"__Host-session=abc", NULL}, /* that one is for TLS */
        {"", NULL},
        {";;;", NULL},
        {"=;=;=", NULL},
    };
    size_t i;

    for (i = 0; i < ARRAY_LEN(cases); i++) {
        struct req *r = *state;
        const char *token;

        r->n_params = 0;
        r->who = (struct req_identity){0};
        give(r, "HTTP_COOKIE", cases[i].field);
        token = req_token(r);
        if ((token == NULL) != (cases[i].token == NULL) ||
            (token != NULL && strcmp(token, cases[i].token) != 0)) {
            fail_msg("%s gives %s", cases[i].field, token);
        }
        assert_int_equal(r->who.by_cookie, token != NULL);
    }
}

static void test_a_bearer_token_goes_before_the_cookie(void **state)
{
    struct req *r = *state;

    give(r, "HTTP_COOKIE", "session=cookie");
    give(r, "HTTP_AUTHORIZATION", "bearer  tok");
    assert_string_equal(req_token(r), "tok");
    assert_false(r->who.by_cookie);
}

static void test_other_authorization_leaves_the_cookie(void **state)
{
    struct req *r = *state;

    give(r, "HTTP_AUTHORIZATION", "Basic eDp5");
    assert_null(req_token(r));
    give(r, "HTTP_COOKIE", "session=cookie");
    assert_string_equal(req_token(r), "cookie");
    assert_true(r->who.by_cookie);
}

struct origin_case {
    const char *origin, *site, *host;
    bool passes;
};

static void test_unsafe_requests_by_cookie_come_from_our_own_pages(void **state)
{
    static const struct origin_case cases[] = {
        {NULL, NULL, "x", true}, /* no browser */
        {"http://127.0.0.1:8080", NULL, "x", true},
        {"http://127.0.0.1:8080", "same-origin", "x", true},
        {"HTTP://127.0.0.1:8080", NULL, "x", true},
        {"http://x", "same-origin", "x", true},
        {NULL, "same-origin", "x", true},
        {NULL, "none", "x", true},
        {"http://evil", NULL, "x", false},
        {"http://evil", "same-origin", "x", false},
        {"http://127.0.0.1:8081", NULL, "x", false},
        {"http://127.0.0.1:8080.evil", NULL, "x", false},
        {"http://127.0.0.1:808", NULL, "x", false},
        {"null", NULL, "x", false},
        {"", NULL, "x", false},
        {"x", NULL, "x", false},
        {"http://x:1", NULL, "x", false},
        {"http://xx", NULL, "x", false},
        {"http://", NULL, "", false},
        {NULL, "cross-site", "x", false},
        {NULL, "same-site", "x", false},
        {NULL, "", "x", false},
        {"http://127.0.0.1:8080", "cross-site", "x", false},
        {"http://evil", NULL, NULL, false},
    };
    struct req *r = *state;
    size_t i;

    for (i = 0; i < ARRAY_LEN(cases); i++) {
        r->n_params = 0;
        r->who.by_cookie = true;
        if (cases[i].origin != NULL) {
            give(r, "HTTP_ORIGIN", cases[i].origin);
        }
        if (cases[i].site != NULL) {
            give(r, "HTTP_SEC_FETCH_SITE", cases[i].site);
        }
        if (cases[i].host != NULL) {
            give(r, "HTTP_HOST", cases[i].host);
        }
        if (guard_csrf(r) != (cases[i].passes ? OK : ERR_CROSS_ORIGIN)) {
            fail_msg("case %zu", i);
        }
    }
}

static void test_origins_matter_only_where_a_cookie_could_do_harm(void **state)
{
    struct req *r = *state;

    give(r, "HTTP_ORIGIN", "http://evil");
    assert_int_equal(guard_csrf(r), OK); /* a Bearer token: no site can send it for another */
    r->match.route = &critical;
    assert_int_equal(guard_csrf(r), ERR_CROSS_ORIGIN); /* a log-in sets a cookie */
    r->match.route = &plain;
    r->who.by_cookie = true;
    r->is_unsafe = false;
    assert_int_equal(guard_csrf(r), OK);
}

/* Judge a request with this type and length; the body is what the client holds. */
static enum err input(struct req *r, const char *type, const char *length)
{
    r->n_params = 0;
    r->n_query = 0;
    if (type != NULL) {
        give(r, "CONTENT_TYPE", type);
    }
    if (length != NULL) {
        give(r, "CONTENT_LENGTH", length);
    }
    return guard_input(r);
}

static void test_bodies_are_json_in_utf_8(void **state)
{
    static const char *const good[] = {
        "application/json", "Application/JSON", "application/json;charset=utf-8",
        "application/json; charset=UTF-8", "application/json; charset=\"utf-8\""};
    static const char *const bad[] = {"",
                                      "text/plain",
                                      "application/jsonx",
                                      "application/json2",
                                      "application/x-www-form-urlencoded",
                                      "application/json; charset=utf-16",
                                      "application/json; charset=latin1",
                                      "json",
                                      " application/json"};
    size_t i;

    client.bytes = "{}";
    client.len = 2;
    for (i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(input(*state, good[i], "2"), OK);
    }
    for (i = 0; i < ARRAY_LEN(bad); i++) {
        if (input(*state, bad[i], "2") != ERR_UNSUPPORTED_MEDIA_TYPE) {
            fail_msg("%s passes", bad[i]);
        }
    }
    assert_int_equal(input(*state, NULL, "2"), ERR_UNSUPPORTED_MEDIA_TYPE);
}

static void test_types_are_judged_before_sizes(void **state)
{
    assert_int_equal(input(*state, "text/plain", "99999999"), ERR_UNSUPPORTED_MEDIA_TYPE);
    assert_int_equal(input(*state, "application/json", "65537"), ERR_PAYLOAD_TOO_LARGE);
    assert_int_equal(input(*state, "application/json", "9223372036854775807"),
                     ERR_PAYLOAD_TOO_LARGE);
}

static void test_a_length_that_is_no_number_is_refused(void **state)
{
    static const char *const bad[] = {"x", "-1", "1x", "9223372036854775808", " 1", "+1", "1.0"};
    size_t i;

    for (i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(input(*state, "application/json", bad[i]), ERR_BAD_REQUEST);
    }
}

static void test_without_a_body_no_type_is_needed(void **state)
{
    struct req *r = *state;

    assert_int_equal(input(r, NULL, NULL), OK);
    assert_int_equal(r->body_len, 0);
    assert_int_equal(input(r, NULL, ""), OK);
    assert_int_equal(input(r, "text/plain", "0"), OK);
}

static void test_a_body_that_breaks_off_is_refused(void **state)
{
    client.bytes = "{\"a\"";
    client.len = 4;
    assert_int_equal(input(*state, "application/json", "9"), ERR_BAD_REQUEST);
    assert_int_equal(input(*state, "application/json", "4"), OK);
}

static void test_the_query_is_judged_with_the_input(void **state)
{
    struct req *r = *state;

    r->n_params = 0;
    give(r, "QUERY_STRING", "a=%zz");
    assert_int_equal(guard_input(r), ERR_BAD_REQUEST);
}

#define NOW_MS INT64_C(1764000000000)

/* Judge a request of this class that has waited so long, as the proxy tells it, at a moment. */
static enum err load(struct req *r, enum route_class class, int64_t age_ms, int64_t mono_ms)
{
    struct route route = {.key = "GET /y", .rate = RATE_NORMAL, .class = class};
    int64_t start_ms = NOW_MS + mono_ms - age_ms;
    char start[32];
    enum err e;

    clock_test_set(NOW_MS + mono_ms, mono_ms * 1000);
    snprintf(start, sizeof(start), "%lld.%03d", (long long)(start_ms / 1000),
             (int)(start_ms % 1000));
    r->n_params = 0;
    give(r, "REQUEST_START", start);
    r->match.route = &route;
    e = guard_load(r);
    r->match.route = &plain;
    clock_test_set(-1, -1);
    return e;
}

static void test_a_burst_may_wait_longer_than_a_standing_queue(void **state)
{
    struct req *r = *state;
    int64_t at;
    int i;

    assert_int_equal(load(r, CLASS_BULK, 100, 1000000), OK); /* QUEUE_DELAY_INTERVAL_MS */
    assert_int_equal(load(r, CLASS_BULK, 101, 1000001), ERR_OVERLOADED);
    assert_int_equal(load(r, CLASS_NORMAL, 0, 1000002), OK); /* nobody waits: no queue */
    for (at = 1000010; at < 1000110; at++) {
        assert_int_equal(load(r, CLASS_NORMAL, 90, at), OK);
        assert_int_equal(load(r, CLASS_NORMAL, at % 10 == 0 ? 0 : 90, at), OK); /* out of order */
    }
    /* 100 ms long most have waited more than QUEUE_DELAY_TARGET_MS (20) */
    for (; load(r, CLASS_NORMAL, 90, at) == OK; at++) {
        assert_in_range(at, 1000110, 1000130); /* until most had, that is */
    }
    assert_int_equal(load(r, CLASS_NORMAL, 80, at), OK);
    assert_int_equal(load(r, CLASS_BEST_EFFORT, 41, at), ERR_OVERLOADED);
    assert_int_equal(load(r, CLASS_BEST_EFFORT, 40, at), OK);
    assert_int_equal(load(r, CLASS_BULK, 21, at), ERR_OVERLOADED);
    assert_int_equal(load(r, CLASS_CRITICAL, 1000, at), OK);
    assert_int_equal(load(r, CLASS_CRITICAL, 1001, at), ERR_OVERLOADED);
    for (i = 0; i < 8; i++) {
        assert_int_equal(load(r, CLASS_BULK, 20, at), OK); /* some wait hardly at all */
    }
    assert_int_equal(load(r, CLASS_BULK, 90, at), OK); /* it stands no longer */
}

static void test_a_pause_ends_what_was_a_standing_queue(void **state)
{
    struct req *r = *state;
    int i;

    for (i = 0; i < 100; i++) {
        assert_int_equal(load(r, CLASS_NORMAL, 90, 2000000), OK);
    }
    assert_int_equal(load(r, CLASS_NORMAL, 90, 2000101), OK);
    assert_int_equal(load(r, CLASS_NORMAL, 90, 2000102), OK);
}

static void test_probes_are_served_however_long_they_waited(void **state)
{
    static const struct route probe = {
        .key = "GET /health", .rate = RATE_FREE, .class = CLASS_CRITICAL};
    struct req *r = *state;

    give(r, "REQUEST_START", "1764000000.000");
    r->match.route = &probe;
    clock_test_set(NOW_MS + 59000, 0);
    assert_int_equal(guard_load(r), OK);
    clock_test_set(-1, -1);
}

static void test_an_age_that_nobody_can_have_counts_as_none(void **state)
{
    static const char *const starts[] = {"",
                                         "x",
                                         "1763999990",
                                         "1763999990.",
                                         "1763999990.00",
                                         "1763999990.0000",
                                         "-1.000",
                                         "1764000009.000",
                                         "1763990000.000",
                                         "9999999999999.000",
                                         "1763999990.abc"};
    struct req *r = *state;
    size_t i;

    clock_test_set(NOW_MS, 3000000000);
    for (i = 0; i < ARRAY_LEN(starts); i++) {
        r->n_params = 0;
        give(r, "REQUEST_START", starts[i]);
        if (guard_load(r) != OK || r->queue_us != 0) {
            fail_msg("%s is believed", starts[i]);
        }
    }
    clock_test_set(-1, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_cookie_is_found_among_others, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_bearer_token_goes_before_the_cookie, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_other_authorization_leaves_the_cookie, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_unsafe_requests_by_cookie_come_from_our_own_pages,
                                        setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_origins_matter_only_where_a_cookie_could_do_harm,
                                        setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_bodies_are_json_in_utf_8, setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_types_are_judged_before_sizes, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_length_that_is_no_number_is_refused, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_without_a_body_no_type_is_needed, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_body_that_breaks_off_is_refused, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_the_query_is_judged_with_the_input, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_burst_may_wait_longer_than_a_standing_queue, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_pause_ends_what_was_a_standing_queue, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_probes_are_served_however_long_they_waited, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_an_age_that_nobody_can_have_counts_as_none, setup,
                                        fixture_teardown),
    };

    return cmocka_run_group_tests_name("guards", tests, group_setup, NULL);
}
