/* The client against a peer of this test: a thread that answers each request with bytes written
 * here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/http.h"
#include "lib/str.h"

enum { EXCHANGES_MAX = 4, REQUEST_MAX = 65536 };

/* What the peer does with one request. */
struct answer {
    const char *text; /* NULL: no answer; the peer waits until the client goes */
    bool is_last;     /* close the connection behind it */
};

struct peer {
    int listener, port, accepted;
    pthread_t thread;
    const struct answer *answers;
    size_t n;
    char requests[EXCHANGES_MAX][REQUEST_MAX];
};

struct fixture {
    struct arena *arena;
    struct scope scope;
    struct http_response response;
    struct peer peer;
};

/* Read a whole request: the header and as much body as it says. False: the client went. */
static bool read_request(int fd, char *out)
{
    size_t len = 0, want = REQUEST_MAX;

    while (len < want && len < REQUEST_MAX - 1) {
        ssize_t n = read(fd, out + len, REQUEST_MAX - 1 - len);
        const char *end, *length;

        if (n <= 0) {
            return false;
        }
        len += (size_t)n;
        out[len] = '\0';
        end = strstr(out, "\r\n\r\n");
        length = strcasestr(out, "\r\nContent-Length: ");
        if (end != NULL) {
            want = (size_t)(end - out) + 4;
            want += length != NULL ? (size_t)strtoll(length + 18, NULL, 10) : 0;
        }
    }
    return true;
}

static void write_all(int fd, const char *text)
{
    size_t left = strlen(text);

    while (left > 0) {
        ssize_t n = send(fd, text, left, MSG_NOSIGNAL);

        if (n <= 0) {
            return; /* the client may have had enough */
        }
        text += n;
        left -= (size_t)n;
    }
}

static void *serve(void *context)
{
    struct peer *p = context;
    int fd = -1;
    size_t i;
    char c;

    for (i = 0; i < p->n; i++) {
        if (fd < 0) {
            fd = accept(p->listener, NULL, NULL);
            p->accepted++;
        }
        if (!read_request(fd, p->requests[i])) {
            close(fd);
            fd = -1;
            continue;
        }
        if (p->answers[i].text == NULL) {
            while (read(fd, &c, 1) > 0) {
            }
        } else {
            write_all(fd, p->answers[i].text);
        }
        if (p->answers[i].is_last || p->answers[i].text == NULL) {
            close(fd);
            fd = -1;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return NULL;
}

/* Bind a port of the loopback; nothing listens there yet. */
static void peer_bind(struct peer *p)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);

    p->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(p->listener >= 0);
    assert_int_equal(bind(p->listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(getsockname(p->listener, (struct sockaddr *)&address, &len), 0);
    p->port = ntohs(address.sin_port);
}

static void peer_start(struct fixture *f, const struct answer *answers, size_t n)
{
    peer_bind(&f->peer);
    assert_int_equal(listen(f->peer.listener, 8), 0);
    f->peer.answers = answers;
    f->peer.n = n;
    assert_int_equal(pthread_create(&f->peer.thread, NULL, serve, &f->peer), 0);
}

static void peer_end(struct fixture *f)
{
    assert_int_equal(pthread_join(f->peer.thread, NULL), 0);
    close(f->peer.listener);
}

static struct http_request request_to(struct fixture *f, const char *method, const char *target)
{
    return (struct http_request){
        .method = method,
        .url = arena_printf(f->arena, "http://127.0.0.1:%d%s", f->peer.port, target),
        .connect_timeout_ms = 2000,
        .timeout_ms = 5000,
        .body_max = 1000};
}

static enum err run(struct fixture *f, const struct http_request *rq)
{
    return http_do(&f->scope, f->arena, rq, &f->response);
}

static void test_reply_comes_with_status_headers_and_body(void **state)
{
    static const struct answer answers[] = {
        {"HTTP/1.1 100 Continue\r\nX-Early: yes\r\n\r\n"
         "HTTP/1.1 200 OK\r\nETag:  \"abc\" \r\nX-Empty:\r\nContent-Length: 5\r\n\r\nhello",
         true}};
    struct fixture *f = *state;
    struct http_request rq;

    peer_start(f, answers, 1);
    rq = request_to(f, "GET", "/a/../b//%20?x=1");
    assert_int_equal(run(f, &rq), OK);
    peer_end(f);
    assert_int_equal(f->response.status, 200);
    assert_string_equal(f->response.body, "hello");
    assert_int_equal(f->response.body_len, 5);
    assert_string_equal(http_header(&f->response, "etag"), "\"abc\"");
    assert_string_equal(http_header(&f->response, "x-empty"), "");
    assert_null(http_header(&f->response, "x-early"));
    assert_true(f->response.sent);
    assert_true(has_prefix(f->peer.requests[0], "GET /a/../b//%20?x=1 HTTP/1.1\r\n"));
}

static void test_body_and_headers_go_out_as_given(void **state)
{
    static const struct answer answers[] = {{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false},
                                            {"HTTP/1.1 204 No Content\r\n\r\n", false},
                                            {"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", true}};
    const struct http_header headers[] = {{"Host", "s3.example:9"}, {"Content-Type", "audio/x"}};
    struct fixture *f = *state;
    struct http_request rq;

    peer_start(f, answers, 3);
    rq = request_to(f, "PUT", "/k");
    rq.headers = headers;
    rq.n_headers = 2;
    rq.body = "da\0ta";
    rq.body_len = 5;
    assert_int_equal(run(f, &rq), OK);
    rq = request_to(f, "POST", "/k?uploads=");
    assert_int_equal(run(f, &rq), OK);
    assert_int_equal(f->response.status, 204);
    rq = request_to(f, "HEAD", "/k");
    assert_int_equal(run(f, &rq), OK);
    assert_string_equal(http_header(&f->response, "content-length"), "7");
    peer_end(f);
    assert_int_equal(f->peer.accepted, 1); /* one connection for all three */
    assert_non_null(strstr(f->peer.requests[0], "\r\nHost: s3.example:9\r\n"));
    assert_non_null(strstr(f->peer.requests[0], "\r\nContent-Type: audio/x\r\n"));
    assert_non_null(strstr(f->peer.requests[0], "\r\nContent-Length: 5\r\n"));
    assert_null(strstr(f->peer.requests[0], "Expect"));
    assert_memory_equal(strstr(f->peer.requests[0], "\r\n\r\n") + 4, "da\0ta", 5);
    assert_true(has_prefix(f->peer.requests[1], "POST /k?uploads= HTTP/1.1\r\n"));
    assert_non_null(strstr(f->peer.requests[1], "\r\nContent-Length: 0\r\n"));
    assert_null(strcasestr(f->peer.requests[1], "content-type"));
    assert_null(strstr(f->peer.requests[1], "s3.example"));
}

static void test_connection_that_the_server_closed_is_replaced(void **state)
{
    static const struct answer answers[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true},
        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true}};
    struct fixture *f = *state;
    struct http_request rq;

    peer_start(f, answers, 2);
    rq = request_to(f, "PUT", "/k");
    rq.body = "body";
    rq.body_len = 4;
    assert_int_equal(run(f, &rq), OK);
    assert_int_equal(run(f, &rq), OK);
    peer_end(f);
    assert_string_equal(f->response.body, "ok");
    assert_int_equal(f->peer.accepted, 2);
    assert_non_null(strstr(f->peer.requests[1], "\r\n\r\nbody"));
}

static void test_body_goes_into_the_buffer_up_to_its_size(void **state)
{
    static const struct answer answers[] = {
        {"HTTP/1.1 206 Partial\r\nContent-Length: 4\r\n\r\nwxyz", true},
        {"HTTP/1.1 206 Partial\r\nContent-Length: 5\r\n\r\nvwxyz", true}};
    struct fixture *f = *state;
    struct http_request rq;
    char buffer[5] = "1234";

    peer_start(f, answers, 2);
    rq = request_to(f, "GET", "/");
    rq.buffer = buffer;
    rq.body_max = 4;
    assert_int_equal(run(f, &rq), OK);
    assert_int_equal(f->response.body_len, 4);
    assert_string_equal(buffer, "wxyz");
    assert_int_equal(run(f, &rq), ERR_DEPENDENCY_UNAVAILABLE);
    peer_end(f);
    assert_int_equal(f->response.status, 0);
    assert_non_null(strstr(f->scope.cause, "body of the reply is too large"));
    assert_int_equal(buffer[4], '\0');
}

static void test_body_of_an_error_leaves_the_buffer_alone_and_is_cut(void **state)
{
    struct fixture *f = *state;
    struct answer answer = {.is_last = true};
    char *body = arena_alloc(f->arena, 20001), buffer[5] = "1234";
    struct http_request rq;

    memset(body, 'x', 20000);
    answer.text =
        arena_printf(f->arena, "HTTP/1.1 503 Busy\r\nContent-Length: 20000\r\n\r\n%s", body);
    peer_start(f, &answer, 1);
    rq = request_to(f, "GET", "/");
    rq.buffer = buffer;
    rq.body_max = 4;
    assert_int_equal(run(f, &rq), OK);
    peer_end(f);
    assert_int_equal(f->response.status, 503);
    assert_int_equal(f->response.body_len, HTTP_ERROR_BODY_MAX);
    assert_string_equal(buffer, "1234");
}

static void fails(struct fixture *f, const char *answer, const char *cause)
{
    struct answer answers[] = {{answer, true}};
    struct http_request rq;

    peer_start(f, answers, 1);
    rq = request_to(f, "GET", "/");
    assert_int_equal(run(f, &rq), ERR_DEPENDENCY_UNAVAILABLE);
    peer_end(f);
    assert_int_equal(f->response.status, 0);
    assert_true(f->response.sent);
    if (strstr(f->scope.cause, cause) == NULL) {
        print_error("cause: %s\n", f->scope.cause);
    }
    assert_non_null(strstr(f->scope.cause, cause));
}

static void test_reply_that_is_cut_or_no_http_is_a_failure(void **state)
{
    struct fixture *f = *state;

    fails(f, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "remaining to read");
    fails(f, "", "Empty reply");
    fails(f, "SSH-2.0-OpenSSH_9.2\r\n", "HTTP/0.9");
    fails(f, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "chunk");
}

static void test_header_of_the_reply_is_bounded(void **state)
{
    struct fixture *f = *state;
    struct strbuf many, large;
    int i;

    strbuf_init(&many, f->arena, 4096);
    strbuf_init(&large, f->arena, 32768);
    strbuf_puts(&many, "HTTP/1.1 200 OK\r\n");
    strbuf_puts(&large, "HTTP/1.1 200 OK\r\n");
    for (i = 0; i <= HTTP_HEADERS_MAX; i++) {
        strbuf_puts(&many, "X-A: b\r\n");
        strbuf_printf(&large, "X-A: %0300d\r\n", i);
    }
    strbuf_puts(&many, "\r\n");
    strbuf_puts(&large, "\r\n");
    fails(f, many.data, "too many header fields");
    fails(f, large.data, "header of the reply is too large");
}

static void test_redirects_are_not_followed(void **state)
{
    static const struct answer answers[] = {
        {"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", true}};
    struct fixture *f = *state;
    struct http_request rq;

    peer_start(f, answers, 1);
    rq = request_to(f, "GET", "/");
    assert_int_equal(run(f, &rq), OK);
    peer_end(f);
    assert_int_equal(f->response.status, 302);
}

static void test_silent_server_costs_no_more_than_the_time_limit(void **state)
{
    static const struct answer answers[] = {{NULL, true}, {NULL, true}};
    struct fixture *f = *state;
    int64_t began_ms = clock_mono_ms();
    struct http_request rq;

    peer_start(f, answers, 2);
    rq = request_to(f, "GET", "/");
    rq.timeout_ms = 40;
    assert_int_equal(run(f, &rq), ERR_DEPENDENCY_UNAVAILABLE);
    rq.timeout_ms = 60000;
    f->scope.deadline_mono_ms = clock_mono_ms() + 40;
    assert_int_equal(run(f, &rq), ERR_DEPENDENCY_UNAVAILABLE);
    peer_end(f);
    assert_true(f->response.sent);
    assert_true(clock_mono_ms() - began_ms < 5000);
}

static void test_nothing_is_sent_past_the_deadline(void **state)
{
    struct fixture *f = *state;
    struct http_request rq = request_to(f, "GET", "/");

    f->scope.deadline_mono_ms = clock_mono_ms() - 1;
    assert_int_equal(run(f, &rq), ERR_TIMED_OUT);
    assert_false(f->response.sent);
}

static void test_refused_connection_has_sent_nothing(void **state)
{
    struct fixture *f = *state;
    struct http_request rq;

    peer_bind(&f->peer);
    rq = request_to(f, "GET", "/");
    assert_int_equal(run(f, &rq), ERR_DEPENDENCY_UNAVAILABLE);
    close(f->peer.listener);
    assert_false(f->response.sent);
    assert_non_null(strstr(f->scope.cause, "onnect"));
    assert_null(strstr(f->scope.cause, "http://"));
}

static void test_request_that_could_be_two_is_not_sent(void **state)
{
    const struct http_header bad[] = {{"X-A", "b\r\nX-C: d"}, {"X\n", "b"}, {"X-A", "b\x7f"}};
    struct fixture *f = *state;
    struct http_request rq = request_to(f, "GET", "/");
    size_t i;

    for (i = 0; i < ARRAY_LEN(bad); i++) {
        rq.headers = &bad[i];
        rq.n_headers = 1;
        assert_int_equal(run(f, &rq), ERR_INTERNAL);
    }
    rq = request_to(f, "GET", "/ HTTP/1.1\r\nX-A: b");
    assert_int_equal(run(f, &rq), ERR_INTERNAL);
    rq = request_to(f, "TRACE", "/");
    assert_int_equal(run(f, &rq), ERR_INTERNAL);
}

static void test_other_protocols_are_refused(void **state)
{
    struct fixture *f = *state;
    struct http_request rq = request_to(f, "GET", "/");

    rq.url = "file:///etc/hostname";
    assert_int_equal(run(f, &rq), ERR_DEPENDENCY_UNAVAILABLE);
    rq.url = "ftp://127.0.0.1/";
    assert_int_equal(run(f, &rq), ERR_DEPENDENCY_UNAVAILABLE);
    assert_int_equal(f->response.body_len, 0);
}

static void test_http_dates_are_read(void **state)
{
    int64_t wall_ms = 0;

    (void)state;
    assert_true(http_date_parse("Fri, 24 May 2013 00:00:01 GMT", &wall_ms));
    assert_int_equal(wall_ms, 1369353601000);
    assert_false(http_date_parse("yesterday or so", &wall_ms));
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->arena = arena_open(1 << 20);
    scope_init(&f->scope, f->arena, 10000);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    arena_close(&f->arena);
    free(f);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reply_comes_with_status_headers_and_body),
        TEST(test_body_and_headers_go_out_as_given),
        TEST(test_connection_that_the_server_closed_is_replaced),
        TEST(test_body_goes_into_the_buffer_up_to_its_size),
        TEST(test_body_of_an_error_leaves_the_buffer_alone_and_is_cut),
        TEST(test_reply_that_is_cut_or_no_http_is_a_failure),
        TEST(test_header_of_the_reply_is_bounded),
        TEST(test_redirects_are_not_followed),
        TEST(test_silent_server_costs_no_more_than_the_time_limit),
        TEST(test_nothing_is_sent_past_the_deadline),
        TEST(test_refused_connection_has_sent_nothing),
        TEST(test_request_that_could_be_two_is_not_sent),
        TEST(test_other_protocols_are_refused),
        TEST(test_http_dates_are_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
