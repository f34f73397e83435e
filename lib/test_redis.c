/* Redis: replies, scripts and faults, by a server of canned replies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/config.h"
#include "lib/redis.h"

enum { REPLIES_MAX = 8, SEEN_BYTES = 8192 };

/* A server of canned replies, one per command it reads; "" is silence, NULL closes. */
static struct {
    int listener;
    int port;
    pthread_t thread;
    const char *replies[REPLIES_MAX];
    char seen[SEEN_BYTES]; /* what came, for looking at once the thread has ended */
    size_t n_seen;
} server;

static void *serve(void *unused)
{
    int fd = accept(server.listener, NULL, NULL);
    char buffer[4096];
    size_t i = 0;
    ssize_t got;

    while (fd >= 0 && (got = read(fd, buffer, sizeof(buffer))) > 0) {
        size_t room = sizeof(server.seen) - 1 - server.n_seen;
        size_t n = (size_t)got < room ? (size_t)got : room;

        memcpy(server.seen + server.n_seen, buffer, n);
        server.n_seen += n;
        if (i >= REPLIES_MAX || server.replies[i] == NULL) {
            break;
        }
        (void)!write(fd, server.replies[i], strlen(server.replies[i]));
        i++;
    }
    if (fd >= 0) {
        close(fd);
    }
    return unused;
}

static bool listen_anywhere(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);

    server.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(server.listener, (struct sockaddr *)&at, sizeof(at)) != 0 ||
        listen(server.listener, 4) != 0 ||
        getsockname(server.listener, (struct sockaddr *)&at, &len) != 0) {
        return false;
    }
    server.port = ntohs(at.sin_port);
    return true;
}

static void use_url(const char *format, int port)
{
    char url[200];

    snprintf(url, sizeof(url), format, port);
    setenv("REDIS_URL", url, 1);
    setenv("REDIS_TIMEOUT_MS", "2000", 1);
    assert_true(config_load(stderr));
}

static int setup(void **state)
{
    static struct scope scope;

    memset(&server, 0, sizeof(server));
    assert_true(listen_anywhere());
    use_url("redis://127.0.0.1:%d", server.port);
    scope_init(&scope, arena_open(1 << 20), 10000);
    *state = &scope;
    return 0;
}

static int teardown(void **state)
{
    struct scope *sc = *state;

    redis_thread_done();
    close(server.listener);
    arena_close(&sc->arena);
    return 0;
}

static void start(void)
{
    assert_int_equal(pthread_create(&server.thread, NULL, serve, NULL), 0);
}

/* Our side closes, so the server's thread ends; then what it saw may be read. */
static void finish(void)
{
    redis_thread_done();
    pthread_join(server.thread, NULL);
}

static enum err ping(struct scope *sc, struct redis_reply *reply)
{
    return redis_do(sc, "", reply, "PING", NULL);
}

static void test_every_kind_of_reply_is_copied(void **state)
{
    struct redis_reply r;

    server.replies[0] = "+PONG\r\n";
    server.replies[1] = ":-42\r\n";
    server.replies[2] = "$3\r\nabc\r\n";
    server.replies[3] = "$-1\r\n";
    server.replies[4] = "*3\r\n:1\r\n$1\r\nx\r\n*1\r\n$-1\r\n";
    start();
    assert_int_equal(ping(*state, &r), OK);
    assert_int_equal(r.kind, REDIS_TEXT);
    assert_string_equal(r.text, "PONG");
    assert_int_equal(ping(*state, &r), OK);
    assert_int_equal(r.kind, REDIS_INT);
    assert_int_equal(r.integer, -42);
    assert_int_equal(ping(*state, &r), OK);
    assert_string_equal(r.text, "abc");
    assert_int_equal(r.len, 3);
    assert_int_equal(ping(*state, &r), OK);
    assert_int_equal(r.kind, REDIS_NIL);
    assert_int_equal(ping(*state, &r), OK);
    assert_int_equal(r.kind, REDIS_LIST);
    assert_int_equal(r.n_items, 3);
    assert_int_equal(r.items[0].integer, 1);
    assert_string_equal(r.items[1].text, "x");
    assert_int_equal(r.items[2].items[0].kind, REDIS_NIL);
    finish();
    assert_int_equal(((struct scope *)*state)->timing.redis_count, 5);
}

static void test_an_error_of_redis_is_told_and_the_connection_stays(void **state)
{
    struct scope *sc = *state;
    struct redis_reply r;

    server.replies[0] = "-OOM command not allowed\r\n";
    server.replies[1] = "+PONG\r\n";
    start();
    assert_int_equal(ping(sc, &r), ERR_DEPENDENCY_UNAVAILABLE);
    assert_non_null(strstr(sc->cause, "OOM"));
    assert_null(sc->detail);
    assert_int_equal(ping(sc, &r), OK);
    finish();
}

static void test_bytes_of_arguments_are_counted_not_escaped(void **state)
{
    struct redis_args args = {0};
    struct redis_reply r;

    server.replies[0] = "+OK\r\n";
    start();
    redis_arg(&args, "SET");
    redis_arg_bytes(&args, "a\r\nb", 4);
    redis_arg_i64(*state, &args, INT64_MIN);
    assert_int_equal(redis_call(*state, "a", &args, &r), OK);
    finish();
    assert_string_equal(server.seen, "*3\r\n$3\r\nSET\r\n$4\r\na\r\nb\r\n$20\r\n"
                                     "-9223372036854775808\r\n");
}

static void test_a_script_that_the_server_forgot_is_sent_again(void **state)
{
    static struct redis_script script = {.name = "test", .source = "return 1"};
    struct redis_args keys = {0}, args = {0};
    struct redis_reply r;

    server.replies[0] = "$40\r\n0123456789012345678901234567890123456789\r\n";
    server.replies[1] = "-NOSCRIPT No matching script\r\n";
    server.replies[2] = ":1\r\n";
    start();
    redis_arg(&keys, "k");
    assert_int_equal(redis_eval(*state, &script, &keys, &args, &r), OK);
    assert_int_equal(r.integer, 1);
    finish();
    assert_non_null(strstr(server.seen, "LOAD"));
    assert_non_null(strstr(server.seen, "EVALSHA"));
    assert_non_null(strstr(server.seen, "$4\r\nEVAL\r\n$8\r\nreturn 1\r\n$1\r\n1\r\n$1\r\nk\r\n"));
}

static void test_a_silent_server_costs_the_limit_once_and_then_nothing(void **state)
{
    struct scope *sc = *state;
    struct redis_reply r;

    setenv("REDIS_TIMEOUT_MS", "30", 1);
    assert_true(config_load(stderr));
    server.replies[0] = "";
    start();
    assert_int_equal(ping(sc, &r), ERR_DEPENDENCY_UNAVAILABLE);
    assert_int_equal(ping(sc, &r), ERR_DEPENDENCY_UNAVAILABLE);
    assert_non_null(strstr(sc->cause, "waiting to connect again"));
    finish();
}

static void test_a_server_that_hangs_up_is_unavailable(void **state)
{
    struct redis_reply r;

    start();
    assert_int_equal(ping(*state, &r), ERR_DEPENDENCY_UNAVAILABLE);
    finish();
}

static void test_what_is_no_redis_is_unavailable(void **state)
{
    struct redis_reply r;

    server.replies[0] = "HTTP/1.1 400 Bad Request\r\n\r\n";
    start();
    assert_int_equal(ping(*state, &r), ERR_DEPENDENCY_UNAVAILABLE);
    finish();
}

static void test_a_password_goes_first(void **state)
{
    struct redis_reply r;

    use_url("redis://:p%%40ss word@127.0.0.1:%d", server.port);
    server.replies[0] = "+OK\r\n";
    server.replies[1] = "+PONG\r\n";
    start();
    assert_int_equal(ping(*state, &r), OK);
    finish();
    assert_ptr_equal(strstr(server.seen, "*2\r\n$4\r\nAUTH\r\n$11\r\np%40ss word\r\n"),
                     server.seen);
}

static void test_a_wrong_password_is_unavailable(void **state)
{
    struct redis_reply r;

    use_url("redis://:wrong@127.0.0.1:%d", server.port);
    server.replies[0] = "-WRONGPASS invalid\r\n";
    start();
    assert_int_equal(ping(*state, &r), ERR_DEPENDENCY_UNAVAILABLE);
    finish();
}

static void test_nobody_listening_is_unavailable(void **state)
{
    struct redis_reply r;

    close(server.listener);
    server.listener = -1;
    assert_int_equal(ping(*state, &r), ERR_DEPENDENCY_UNAVAILABLE);
}

static void test_without_time_nothing_is_asked(void **state)
{
    struct scope *sc = *state;
    struct redis_reply r;

    scope_init(sc, sc->arena, 0);
    assert_int_equal(ping(sc, &r), ERR_TIMED_OUT);
}

static void test_an_address_that_is_none_is_told(void **state)
{
    static const char *const bad[] = {
        "http://127.0.0.1:%d", "redis://:%d",     "redis://",    "",
        "redis://h:0",         "redis://h:65536", "redis://h:x", "redis://h:123456789"};
    struct scope *sc = *state;
    struct redis_reply r;
    size_t i;

    for (i = 0; i < ARRAY_LEN(bad); i++) {
        use_url(bad[i], 1);
        assert_int_equal(ping(sc, &r), ERR_INTERNAL);
        assert_non_null(strstr(sc->cause, "REDIS_URL"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_kind_of_reply_is_copied, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_error_of_redis_is_told_and_the_connection_stays,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_bytes_of_arguments_are_counted_not_escaped, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_script_that_the_server_forgot_is_sent_again, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_silent_server_costs_the_limit_once_and_then_nothing,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_server_that_hangs_up_is_unavailable, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_redis_is_unavailable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_password_goes_first, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_wrong_password_is_unavailable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nobody_listening_is_unavailable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_time_nothing_is_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_address_that_is_none_is_told, setup, teardown),
    };

    return cmocka_run_group_tests_name("redis", tests, NULL, NULL);
}
