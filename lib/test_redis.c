/* Redis: addresses, slots and hold-back by themselves; replies, scripts and faults by a server of
 * canned replies. What a real cluster does is tested in integration/test_redis.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/instance.h"
#include "lib/redis_internal.h"

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
    assert_non_null(strstr(sc->cause, "held back"));
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
    assert_ptr_equal(strstr(server.seen, "*2\r\n$4\r\nAUTH\r\n$9\r\np@ss word\r\n"), server.seen);
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

static void test_a_reply_that_would_not_fit_is_refused_before_it_is_stored(void **state)
{
    static const char *const large[] = {"*2000000000\r\n", "*-2\r\n",
                                        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n"};
    struct scope *sc = *state;
    struct redis_reply r;
    size_t i;

    for (i = 0; i < ARRAY_LEN(large); i++) {
        size_t used = arena_used(sc->arena);

        server.replies[0] = large[i];
        close(server.listener);
        assert_true(listen_anywhere());
        use_url("redis://127.0.0.1:%d", server.port);
        start();
        assert_int_equal(ping(sc, &r), ERR_DEPENDENCY_UNAVAILABLE);
        assert_in_range(arena_used(sc->arena) - used, 0, 4096);
        finish();
    }
}

static void test_a_reply_is_bounded_by_what_the_arena_has_room_for(void **state)
{
    static char text[70000];
    struct arena *small = arena_open(4096); /* 64 KiB and no more */
    struct redis_reply r;
    struct scope sc;

    (void)state;
    scope_init(&sc, small, 10000);
    snprintf(text, sizeof(text), "$60000\r\n%060000d\r\n", 0);
    server.replies[0] = text;
    start();
    assert_int_equal(ping(&sc, &r), ERR_DEPENDENCY_UNAVAILABLE);
    assert_non_null(strstr(sc.cause, "too large"));
    finish();
    arena_close(&small);
}

static void test_a_pipeline_is_sent_at_once_and_answered_in_order(void **state)
{
    struct redis_pipeline *p = redis_pipeline_make(*state, "a");
    struct redis_reply *replies;

    assert_int_equal(redis_pipeline_run(*state, p, &replies), OK);
    server.replies[0] = ":1\r\n$1\r\nx\r\n";
    start();
    redis_pipeline_add(p, "INCR", "a", NULL);
    redis_pipeline_add(p, "GET", "b", NULL);
    assert_int_equal(redis_pipeline_run(*state, p, &replies), OK);
    assert_int_equal(replies[0].integer, 1);
    assert_string_equal(replies[1].text, "x");
    finish();
    assert_string_equal(server.seen,
                        "*2\r\n$4\r\nINCR\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n");
}

static void test_one_refusal_fails_a_pipeline(void **state)
{
    struct redis_pipeline *p = redis_pipeline_make(*state, "a");
    struct redis_reply *replies;

    server.replies[0] = "-WRONGTYPE no\r\n:2\r\n";
    start();
    redis_pipeline_add(p, "INCR", "a", NULL);
    redis_pipeline_add(p, "INCR", "b", NULL);
    assert_int_equal(redis_pipeline_run(*state, p, &replies), ERR_DEPENDENCY_UNAVAILABLE);
    finish();
}

static void test_a_server_that_evicts_is_told_and_others_pass(void **state)
{
    struct scope *sc = *state;

    server.replies[0] = "$41\r\nmaxmemory:0\r\nmaxmemory_policy:volatile-\r\n\r\n";
    server.replies[1] = "$27\r\nmaxmemory_policy:noeviction\r\n";
    server.replies[2] = "-NOPERM no\r\n";
    start();
    assert_int_equal(redis_check_eviction(sc), ERR_INTERNAL);
    assert_non_null(strstr(sc->cause, "maxmemory-policy volatile-)"));
    assert_int_equal(redis_check_eviction(sc), OK);
    assert_int_equal(redis_check_eviction(sc), ERR_DEPENDENCY_UNAVAILABLE);
    finish();
}

/* The server is the only master of all slots; it puts off, sends to itself, and hangs up. */
static void test_a_command_goes_again_only_where_it_was_not_run(void **state)
{
    struct scope *sc = *state;
    char slots[80], moved[40], ask[40];
    struct redis_reply r;

    setenv("REDIS_CLUSTER_NODES", "1", 1);
    use_url("redis://127.0.0.1:%d", server.port);
    unsetenv("REDIS_CLUSTER_NODES");
    snprintf(slots, sizeof(slots), "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$-1\r\n:%d\r\n", server.port);
    snprintf(moved, sizeof(moved), "-MOVED 15495 :%d\r\n", server.port);
    snprintf(ask, sizeof(ask), "-ASK 15495 127.0.0.1:%d\r\n", server.port);
    server.replies[0] = slots;
    server.replies[1] = moved;
    server.replies[2] = "-TRYAGAIN later\r\n";
    server.replies[3] = ask;
    server.replies[4] = "+OK\r\n$1\r\nx\r\n"; /* to ASKING and GET */
    server.replies[5] = NULL;
    start();
    assert_int_equal(redis_do(sc, "a", &r, "GET", "a", NULL), OK);
    assert_string_equal(r.text, "x");
    assert_int_equal(redis_nodes(), 1);
    assert_int_equal(redis_do(sc, "a", &r, "INCR", "a", NULL), ERR_DEPENDENCY_UNAVAILABLE);
    finish();
    assert_non_null(strstr(server.seen, "*1\r\n$6\r\nASKING\r\n*2\r\n$3\r\nGET"));
    assert_null(strstr(strstr(server.seen, "INCR") + 1, "INCR"));
}

static void test_addresses_are_read_with_all_their_parts(void **state)
{
    struct redis_seeds s;

    (void)state;
    assert_true(redis_url_parse("redis://h", &s));
    assert_int_equal(s.n, 1);
    assert_string_equal(s.addresses[0].host, "h");
    assert_int_equal(s.addresses[0].port, 6379);
    assert_string_equal(s.password, "");
    assert_true(redis_url_parse("redis://ann:a%2Cb%25%zz@c@10.0.0.1:1/0", &s));
    assert_string_equal(s.user, "ann");
    assert_string_equal(s.password, "a,b%%zz@c");
    assert_string_equal(s.addresses[0].host, "10.0.0.1");
    assert_int_equal(s.addresses[0].port, 1);
    assert_true(redis_url_parse("redis://:p@a:1,redis://:p@b:2/,[::1]:3,[fe80::1]", &s));
    assert_int_equal(s.n, 4);
    assert_string_equal(s.user, "");
    assert_string_equal(s.password, "p");
    assert_string_equal(s.addresses[1].host, "b");
    assert_string_equal(s.addresses[2].host, "::1");
    assert_int_equal(s.addresses[2].port, 3);
    assert_string_equal(s.addresses[3].host, "fe80::1");
    assert_int_equal(s.addresses[3].port, 6379);
}

static void test_what_is_no_address_is_refused(void **state)
{
    static const char *const bad[] = {"",
                                      "h",
                                      "http://h",
                                      "redis://",
                                      "redis://:80",
                                      "redis://h:",
                                      "redis://h:0",
                                      "redis://h:65536",
                                      "redis://h:1x",
                                      "redis://h/1",
                                      "redis://h,",
                                      "redis://,h",
                                      "redis://[::1",
                                      "redis://[]",
                                      "redis://[::1]x",
                                      "redis://:a%00b@h"};
    char many[1000] = "redis://h", *end = many + strlen(many);
    struct redis_seeds s;
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(redis_url_parse(bad[i], &s));
    }
    for (i = 1; i <= REDIS_SEEDS_MAX; i++) {
        end += snprintf(end, (size_t)(many + sizeof(many) - end), ",h");
    }
    assert_false(redis_url_parse(many, &s));
    end[-2] = '\0';
    assert_true(redis_url_parse(many, &s));
}

static int slot(const char *key)
{
    return redis_slot(key, strlen(key));
}

/* The first is the check value of CRC-16/XMODEM, 0x31c3; the others a server's CLUSTER KEYSLOT. */
static void test_slots_are_those_of_the_cluster_specification(void **state)
{
    (void)state;
    assert_int_equal(slot("123456789"), 0x31c3);
    assert_int_equal(slot(""), 0);
    assert_int_equal(slot("foo"), 12182);
    assert_int_equal(slot("bar"), 5061);
    assert_int_equal(slot("somekey"), 11058);
    assert_int_equal(slot("audio"), 9965);
    assert_int_equal(slot("user1000"), 3443);
    assert_int_equal(slot("\xc3\xbc"), 9552);
}

static void test_the_first_non_empty_tag_decides_the_slot(void **state)
{
    (void)state;
    assert_int_equal(slot("{user1000}.following"), slot("user1000"));
    assert_int_equal(slot("a{user1000}b{c}"), slot("user1000"));
    assert_int_equal(slot("foo{}{bar}"), 8363); /* an empty tag: all of the key */
    assert_int_equal(slot("foo{{bar}}zap"), slot("{bar"));
    assert_int_equal(slot("{audio"), 8403); /* no end: all of the key */
    assert_int_equal(slot("}audio{"), 2099);
}

/* Build replies as a server would. */
static struct redis_reply number(int64_t value)
{
    return (struct redis_reply){.kind = REDIS_INT, .integer = value};
}

static struct redis_reply text(const char *value)
{
    return (struct redis_reply){.kind = REDIS_TEXT, .text = value, .len = strlen(value)};
}

static struct redis_reply list(struct redis_reply *items, size_t n)
{
    return (struct redis_reply){.kind = REDIS_LIST, .items = items, .n_items = n};
}

static void test_the_map_names_a_master_for_each_range(void **state)
{
    struct scope *sc = *state;
    struct redis_reply a[] = {text("10.0.0.1"), number(7000), text("id")};
    struct redis_reply b[] = {text(""), number(7001), text("id")};
    struct redis_reply unknown[] = {text("?"), number(7002), text("id")};
    struct redis_reply row0[] = {number(0), number(99), list(a, 3), list(b, 3)};
    struct redis_reply row1[] = {number(100), number(16383), list(b, 3)};
    struct redis_reply row2[] = {number(5), number(5), list(a, 3), list(b, 3)};
    struct redis_reply row3[] = {number(6), number(6), list(unknown, 3)};
    struct redis_reply rows[] = {list(row0, 4), list(row1, 3), list(row2, 4), list(row3, 3)};
    struct redis_reply reply = list(rows, 4);
    struct redis_address asked = {.host = "10.9.9.9", .port = 1};
    struct redis_range *ranges;
    size_t n;
    int nodes;

    assert_true(redis_ranges_parse(sc->arena, &reply, &asked, &ranges, &n, &nodes));
    assert_int_equal(n, 3);
    assert_int_equal(nodes, 3); /* a and its replica, b; the row of a again adds none */
    assert_int_equal(ranges[0].first, 0);
    assert_int_equal(ranges[0].last, 99);
    assert_string_equal(ranges[0].master.host, "10.0.0.1");
    assert_int_equal(ranges[0].master.port, 7000);
    assert_string_equal(ranges[1].master.host, "10.9.9.9"); /* "": the one that was asked */
    assert_int_equal(ranges[1].master.port, 7001);
}

static void test_what_is_no_map_is_refused(void **state)
{
    struct scope *sc = *state;
    struct redis_reply node[] = {text("h"), number(7000)}, port0[] = {text("h"), number(0)};
    struct redis_reply short_row[] = {number(0), number(1)};
    struct redis_reply turned[] = {number(9), number(1), list(node, 2)};
    struct redis_reply beyond[] = {number(0), number(16384), list(node, 2)};
    struct redis_reply odd[] = {text("0"), number(1), list(node, 2)};
    struct redis_reply nobody[] = {number(0), number(1), list(port0, 2)};
    struct redis_reply rows[] = {list(short_row, 2), list(turned, 3), list(beyond, 3),
                                 list(odd, 3),       list(nobody, 3), number(1)};
    struct redis_address asked = {.host = "h", .port = 1};
    struct redis_reply reply = text("OK");
    struct redis_range *ranges;
    size_t n, i;
    int nodes;

    assert_false(redis_ranges_parse(sc->arena, &reply, &asked, &ranges, &n, &nodes));
    reply = list(rows, 0);
    assert_false(redis_ranges_parse(sc->arena, &reply, &asked, &ranges, &n, &nodes));
    for (i = 0; i < ARRAY_LEN(rows); i++) {
        reply = list(&rows[i], 1);
        assert_false(redis_ranges_parse(sc->arena, &reply, &asked, &ranges, &n, &nodes));
    }
}

static enum redis_turn turn_of(const char *message, int *slot_out, struct redis_address *out)
{
    struct redis_reply reply = text(message);

    reply.kind = REDIS_ERROR;
    return redis_turn_of(&reply, slot_out, out);
}

static void test_redirections_are_told_from_other_errors(void **state)
{
    static const char *const none[] = {
        "MOVED",        "MOVED 1",   "MOVED 1 host",  "MOVED x h:1",     "MOVED 16384 h:1",
        "MOVED -1 h:1", "ASK 1 h:0", "ASK 1 h:65536", "ERR MOVED 1 h:1", "OOM"};
    struct redis_address a;
    struct redis_reply good = text("MOVED 1 h:1");
    size_t i;
    int s;

    (void)state;
    assert_int_equal(turn_of("MOVED 3999 127.0.0.1:6381", &s, &a), REDIS_TURN_MOVED);
    assert_int_equal(s, 3999);
    assert_string_equal(a.host, "127.0.0.1");
    assert_int_equal(a.port, 6381);
    assert_int_equal(turn_of("ASK 0 ::1:6381", &s, &a), REDIS_TURN_ASK);
    assert_string_equal(a.host, "::1");
    assert_int_equal(turn_of("MOVED 1 :6381", &s, &a), REDIS_TURN_MOVED);
    assert_string_equal(a.host, "");
    assert_int_equal(turn_of("TRYAGAIN x", &s, &a), REDIS_TURN_WAIT);
    assert_int_equal(turn_of("CLUSTERDOWN x", &s, &a), REDIS_TURN_WAIT);
    assert_int_equal(turn_of("LOADING x", &s, &a), REDIS_TURN_WAIT);
    for (i = 0; i < ARRAY_LEN(none); i++) {
        assert_int_equal(turn_of(none[i], &s, &a), REDIS_TURN_NONE);
    }
    assert_int_equal(redis_turn_of(&good, &s, &a), REDIS_TURN_NONE); /* a value, no error */
}

/* What is thought of a node is the instance's, by the node's address. */
static void test_hold_back_is_shared_by_the_processes_of_an_instance(void **state)
{
    const struct instance_plan plan = {.path = NULL};
    _Atomic int64_t *topic;
    int node;

    (void)state;
    clock_test_set(0, 1000000000);
    (void)redis_seeds(); /* outside of that memory */
    instance_open(&plan);
    topic = instance_topic("redis shared:2");
    node = redis_node_of(&(struct redis_address){.host = "shared", .port = 2});
    redis_node_failed(node, false);
    assert_int_equal(atomic_load(&topic[0]), 1);
    assert_int_equal(redis_breaker(), BREAKER_OPEN);
    redis_node_answered(node, true);
    assert_int_equal(atomic_load(&topic[0]), 0);
    assert_int_equal(redis_breaker(), BREAKER_CLOSED);
    atomic_store(&topic[0], 1); /* another process has failed, and its while is over */
    clock_test_set(0, 1001000000);
    assert_int_equal(redis_breaker(), BREAKER_HALF_OPEN);
    assert_true(redis_node_may_try(node, false, 1000));
    assert_false(redis_node_may_try(node, false, 1000));
    redis_node_answered(node, true);
    redis_nodes_keep((const bool[REDIS_NODES_MAX]){false}); /* its memory goes with the instance */
    instance_close();
    clock_test_set(-1, -1);
}

/* A node that failed is probed by one caller at a time, at growing intervals. */
static void test_a_node_that_failed_is_held_back_for_all_but_one(void **state)
{
    int64_t at_ms = 1000000, hold_ms, i;
    int node;

    (void)state;
    clock_test_set(0, at_ms * 1000);
    node = redis_node_of(&(struct redis_address){.host = "held", .port = 1});
    assert_true(redis_node_may_try(node, false, 1000));
    for (i = 0; i < 16; i++) {
        redis_node_failed(node, false); /* sixteen threads see the same failure */
    }
    assert_true(redis_node_is_held(node));
    assert_false(redis_node_may_try(node, false, 1000));
    assert_true(redis_node_may_try(node, true, 1000)); /* who has a connection goes on */
    clock_test_set(0, (at_ms += 20) * 1000);
    assert_true(redis_node_may_try(node, false, 1000)); /* the prober */
    assert_false(redis_node_may_try(node, false, 1000));
    for (i = 0; i < 10; i++) {
        redis_node_failed(node, true);
        clock_test_set(0, (at_ms += 500) * 1000);
    }
    clock_test_set(0, at_ms * 1000);
    redis_node_failed(node, true);
    for (hold_ms = 0; redis_node_is_held(node); hold_ms++) {
        clock_test_set(0, (at_ms + hold_ms) * 1000);
    }
    assert_in_range(hold_ms, 300, 502);
    assert_true(redis_node_may_try(node, true, 1000)); /* silent: one probes, connected or not */
    assert_false(redis_node_may_try(node, true, 1000));
    redis_node_answered(node, false);
    assert_true(redis_node_may_try(node, false, 1000));
    assert_false(redis_node_is_held(node));
    clock_test_set(-1, -1);
}

/* One that stands still is found out before anybody's time is up; one answer acquits it. */
static void test_a_node_that_answers_none_of_several_is_silent(void **state)
{
    int64_t at_ms = 1000000, wait_ms = config()->bulkhead_wait_ms;
    int node;

    (void)state;
    clock_test_set(0, at_ms * 1000);
    node = redis_node_of(&(struct redis_address){.host = "still", .port = 1});
    redis_node_asked(node, at_ms);
    redis_node_asked(node, at_ms);
    clock_test_set(0, (at_ms + wait_ms) * 1000);
    assert_true(redis_node_may_try(node, true, 1000)); /* two wait: perhaps for dear work */
    redis_node_asked(node, at_ms + wait_ms);
    clock_test_set(0, (at_ms + wait_ms - 1) * 1000);
    assert_true(redis_node_may_try(node, true, 1000));
    redis_node_told(node, true, at_ms + wait_ms - 1); /* it works */
    redis_node_asked(node, at_ms + wait_ms);
    clock_test_set(0, (at_ms + wait_ms + 1) * 1000);
    assert_true(redis_node_may_try(node, true, 1000));
    clock_test_set(0, (at_ms + 2 * wait_ms - 1) * 1000);
    assert_false(redis_node_may_try(node, true, 1000));
    clock_test_set(0, (at_ms + 2 * wait_ms + 19) * 1000);
    assert_true(redis_node_may_try(node, true, 1000)); /* the prober */
    assert_false(redis_node_may_try(node, true, 1000));
    redis_node_told(node, true, at_ms + 2 * wait_ms + 19);
    redis_node_answered(node, false);
    redis_node_told(node, false, at_ms + 2 * wait_ms + 19);
    redis_node_told(node, false, at_ms + 2 * wait_ms + 19);
    assert_true(redis_node_may_try(node, true, 1000));
    clock_test_set(-1, -1);
}

static void test_numbers_of_nodes_that_are_gone_are_used_anew(void **state)
{
    static bool kept[REDIS_NODES_MAX];
    struct redis_address a = {.host = "gone"}, seen;
    uint32_t generation;
    int first, n = 0;

    (void)state;
    a.port = 1;
    first = redis_node_of(&a);
    generation = redis_node_generation(first);
    assert_int_equal(redis_node_of(&a), first);
    assert_int_equal(redis_node_address(first, &seen), generation);
    assert_int_equal(seen.port, 1);
    while (redis_node_of(&a) >= 0) {
        a.port++;
        n++;
    }
    assert_in_range(n, 1000, REDIS_NODES_MAX);
    redis_nodes_keep(kept);
    assert_int_equal(redis_node_generation(first), 0);
    assert_true(redis_node_generation(0) != 0); /* a seed stays */
    assert_true(redis_node_of(&a) >= 0);
    assert_true(redis_node_generation(first) != generation);
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
        cmocka_unit_test_setup_teardown(
            test_a_reply_that_would_not_fit_is_refused_before_it_is_stored, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_reply_is_bounded_by_what_the_arena_has_room_for,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_pipeline_is_sent_at_once_and_answered_in_order,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_refusal_fails_a_pipeline, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_server_that_evicts_is_told_and_others_pass, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_command_goes_again_only_where_it_was_not_run, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_addresses_are_read_with_all_their_parts, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_address_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slots_are_those_of_the_cluster_specification, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_first_non_empty_tag_decides_the_slot, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_map_names_a_master_for_each_range, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_map_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_redirections_are_told_from_other_errors, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_hold_back_is_shared_by_the_processes_of_an_instance,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_node_that_failed_is_held_back_for_all_but_one, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_node_that_answers_none_of_several_is_silent, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_numbers_of_nodes_that_are_gone_are_used_anew, setup,
                                        teardown),
    };

    return cmocka_run_group_tests_name("redis", tests, NULL, NULL);
}
