/* Replies and problems, as they go to the proxy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "fcgi/req_private.h"
#include "fcgi/test_fixture.h"

static struct {
    char text[65536];
    size_t len;
    bool is_gone;
} proxy;

/* The proxy: takes what is written, or is gone. */
bool conn_write(struct conn *conn, const char *bytes, size_t len)
{
    (void)conn;
    assert_true(proxy.len + len < sizeof(proxy.text));
    memcpy(proxy.text + proxy.len, bytes, len);
    proxy.len += len;
    proxy.text[proxy.len] = '\0';
    return !proxy.is_gone;
}

static int setup(void **state)
{
    struct req *r = fixture_req(state);

    memset(&proxy, 0, sizeof(proxy));
    memcpy(r->scope.request_id, "req-12345678", 13);
    r->method = "GET";
    return 0;
}

static const struct json *problem(struct req *r, enum err e)
{
    const struct json *value;

    respond_problem(r, e);
    assert_string_equal(r->reply.content_type, "application/problem+json");
    assert_int_equal(json_parse(&r->scope, r->reply.body.data, r->reply.body.len, &value), OK);
    return value;
}

static const char *member(const struct json *value, const char *name)
{
    return json_str(json_get(value, name), NULL);
}

static void test_a_problem_has_the_members_of_rfc_9457_and_ours(void **state)
{
    struct req *r = *state;
    const struct json *value;
    int64_t status;

    (void)scope_refuse(&r->scope, ERR_CONFLICT, "a \"quoted\" detail");
    value = problem(r, ERR_CONFLICT);
    assert_string_equal(member(value, "type"), "/problems/conflict");
    assert_string_equal(member(value, "title"), err_info(ERR_CONFLICT)->title);
    assert_true(json_i64(json_get(value, "status"), &status) && status == 409);
    assert_string_equal(member(value, "detail"), "a \"quoted\" detail");
    assert_string_equal(member(value, "instance"), "req-12345678");
    assert_string_equal(member(value, "requestId"), "req-12345678");
    assert_string_equal(member(value, "code"), "conflict");
    assert_false(json_has(value, "errors"));
    assert_int_equal(r->reply.status, 409);
}

static void test_the_cause_never_reaches_the_client(void **state)
{
    struct req *r = *state;

    (void)scope_fail(&r->scope, ERR_INTERNAL, "SELECT secret FROM users");
    (void)problem(r, ERR_INTERNAL);
    assert_null(strstr(r->reply.body.data, "SELECT"));
}

static void test_violations_are_listed(void **state)
{
    struct req *r = *state;
    const struct json *errors;

    (void)scope_violation(&r->scope, "a\"b", "unknown", "is \xff odd");
    (void)scope_violation(&r->scope, "c", "range", "x");
    errors = json_get(problem(r, ERR_VALIDATION_FAILED), "errors");
    assert_int_equal(json_length(errors), 2);
    assert_string_equal(member(json_item(errors, 0), "field"), "a\"b");
    assert_string_equal(member(json_item(errors, 0), "detail"), "is \xef\xbf\xbd odd");
    assert_string_equal(member(json_item(errors, 1), "code"), "range");
}

static void test_every_429_and_503_says_when_to_come_back(void **state)
{
    struct req *r = *state;
    int e;

    for (e = OK + 1; e < ERR__COUNT; e++) {
        int status = err_info((enum err)e)->http_status;

        r->reply = (struct req_reply_out){.status = 0};
        (void)problem(r, (enum err)e);
        if (status == 429 || status == 503) {
            assert_string_equal(fixture_sent(r, "Retry-After"), "1");
        }
        arena_reset(r->scope.arena);
    }
    r->reply = (struct req_reply_out){.status = 0};
    r->scope.retry_after_s = 77;
    (void)problem(r, ERR_RATE_LIMITED);
    assert_string_equal(fixture_sent(r, "Retry-After"), "77");
}

static void test_a_wrong_method_and_a_missing_session_name_what_would_do(void **state)
{
    struct req *r = *state;

    memcpy(r->match.allow, "GET, HEAD", 10);
    (void)problem(r, ERR_METHOD_NOT_ALLOWED);
    assert_string_equal(fixture_sent(r, "Allow"), "GET, HEAD");
    (void)problem(r, ERR_UNAUTHENTICATED);
    assert_string_equal(fixture_sent(r, "WWW-Authenticate"), "Bearer");
}

/* A handler may have set fields before its commit failed: they speak of what did not happen. */
static void test_a_problem_drops_what_the_handler_had_set_but_keeps_the_limits(void **state)
{
    struct req *r = *state;

    req_reply_header(r, "RateLimit-Policy", "p");
    req_reply_header(r, "RateLimit", "l");
    req_reply_header(r, "ETag", "\"v9\"");
    req_reply_header(r, "Location", "/api/x");
    req_reply_header(r, "Set-Cookie", "session=x");
    (void)problem(r, ERR_WRITE_UNKNOWN);
    assert_null(fixture_sent(r, "ETag"));
    assert_null(fixture_sent(r, "Location"));
    assert_null(fixture_sent(r, "Set-Cookie"));
    assert_string_equal(fixture_sent(r, "RateLimit-Policy"), "p");
    assert_string_equal(fixture_sent(r, "RateLimit"), "l");
}

static void test_a_problem_fits_behind_as_many_fields_as_there_may_be(void **state)
{
    struct req *r = *state;
    int i;

    for (i = 0; i < REPLY_HEADERS_MAX; i++) {
        req_reply_header(r, "X-Test", "y");
    }
    (void)problem(r, ERR_UNAUTHENTICATED);
    assert_string_equal(fixture_sent(r, "WWW-Authenticate"), "Bearer");
}

static void test_a_reply_is_written_as_cgi_wants_it(void **state)
{
    struct req *r = *state;
    struct strbuf json = req_json(r);

    strbuf_puts(&json, "{\"a\":1}");
    req_reply_header(r, "ETag", "\"v1\"");
    assert_int_equal(req_reply_json(r, 200, &json), OK);
    assert_true(respond_write(r));
    assert_string_equal(proxy.text, "Status: 200 OK\r\nX-Request-Id: req-12345678\r\n"
                                    "Content-Type: application/json\r\nContent-Length: 7\r\n"
                                    "Cache-Control: no-store\r\nETag: \"v1\"\r\n\r\n{\"a\":1}");
}

static void test_a_reply_to_head_has_the_length_and_no_body(void **state)
{
    struct req *r = *state;
    struct strbuf json = req_json(r);

    r->method = "HEAD";
    strbuf_puts(&json, "{\"a\":1}");
    assert_int_equal(req_reply_json(r, 200, &json), OK);
    assert_true(respond_write(r));
    assert_non_null(strstr(proxy.text, "Content-Length: 7\r\n"));
    assert_null(strchr(proxy.text, '{'));
}

static void test_an_empty_reply_has_no_type(void **state)
{
    struct req *r = *state;

    assert_int_equal(req_reply_empty(r, 204), OK);
    assert_true(respond_write(r));
    assert_null(strstr(proxy.text, "Content-"));
}

static void test_a_proxy_that_has_gone_is_told(void **state)
{
    struct req *r = *state;

    proxy.is_gone = true;
    assert_int_equal(req_reply_empty(r, 204), OK);
    assert_false(respond_write(r));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_problem_has_the_members_of_rfc_9457_and_ours, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_the_cause_never_reaches_the_client, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_violations_are_listed, setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_every_429_and_503_says_when_to_come_back, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(
            test_a_wrong_method_and_a_missing_session_name_what_would_do, setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(
            test_a_problem_drops_what_the_handler_had_set_but_keeps_the_limits, setup,
            fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_problem_fits_behind_as_many_fields_as_there_may_be,
                                        setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_reply_is_written_as_cgi_wants_it, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_reply_to_head_has_the_length_and_no_body, setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_an_empty_reply_has_no_type, setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_proxy_that_has_gone_is_told, setup,
                                        fixture_teardown),
    };

    return cmocka_run_group_tests_name("respond", tests, NULL, NULL);
}
