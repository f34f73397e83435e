/* One hiredis context per thread and node. It is dropped at any doubt: an answer that comes late
 * must never be taken for the answer to the next command. Replies are built by the parser right in
 * the scope's arena, counted as they grow, so a server cannot make us hold more than a bound. */
#include <hiredis/hiredis.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/redis_internal.h"
#include "lib/str.h"

enum {
    LOOK_AFTER_MS = 20,    /* a connection that lay idle that long is looked at before its use */
    IDLE_MAX_MS = 60000,   /* then it is closed: slots move, and a node's connections are few */
    SWEEP_EVERY_MS = 1000, /* how often a thread looks for idle ones */
    READ_BYTES = 16384
};

struct connection {
    redisContext *context;
    uint32_t generation; /* of the node when it was opened */
    bool has_answered;
    int64_t timeout_ms; /* as set on the socket */
    int64_t used_mono_ms;
};

/* A thread's connections, by node. */
struct table {
    int n; /* numbers below have a place */
    int64_t sweep_mono_ms;
    struct connection *connections;
};

static _Thread_local struct table table;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;

/* What one exchange is about. */
struct talk {
    struct scope *sc;
    int node;
    struct connection *c;
    int64_t until_ms;
    int64_t limit_ms;
    size_t n_read, read_max; /* bytes from the wire */
    const char *why;
};

/* Where the parser puts a reply. */
struct sink {
    struct arena *arena;
    struct redis_reply *root;
    size_t left; /* bytes of the arena that replies may still take */
    bool is_full;
};

/* --- The parser's functions. hiredis calls them, and gives back what they return as the parent
 * of what follows. --- */

static bool take(struct sink *sink, size_t bytes)
{
    sink->is_full = sink->is_full || bytes > sink->left;
    sink->left -= sink->is_full ? 0 : bytes;
    return !sink->is_full;
}

static struct redis_reply *place(const redisReadTask *task, enum redis_kind kind)
{
    struct sink *sink = task->privdata;
    struct redis_reply *reply = sink->root;

    if (task->parent != NULL) {
        reply = &((struct redis_reply *)task->parent->obj)->items[task->idx];
    }
    *reply = (struct redis_reply){.kind = kind};
    return reply;
}

static void *make_string(const redisReadTask *task, char *text, size_t len)
{
    struct sink *sink = task->privdata;
    struct redis_reply *reply;

    if (!take(sink, len + 1)) {
        return NULL;
    }
    reply = place(task, task->type == REDIS_REPLY_ERROR ? REDIS_ERROR : REDIS_TEXT);
    reply->text = arena_strndup(sink->arena, text, len);
    reply->len = len;
    return reply;
}

static void *make_array(const redisReadTask *task, int n)
{
    struct sink *sink = task->privdata;
    struct redis_reply *reply;

    if (n < 0 || !take(sink, ((size_t)n + 1) * sizeof(struct redis_reply))) {
        return NULL;
    }
    reply = place(task, REDIS_LIST);
    reply->items = arena_array(sink->arena, struct redis_reply, (size_t)n + 1);
    reply->n_items = (size_t)n;
    return reply;
}

static void *make_integer(const redisReadTask *task, long long value)
{
    struct redis_reply *reply = place(task, REDIS_INT);

    reply->integer = value;
    return reply;
}

static void *make_nil(const redisReadTask *task)
{
    return place(task, REDIS_NIL);
}

static void leave(void *reply)
{
    (void)reply; /* it is the arena's */
}

static redisReplyObjectFunctions functions = {.createString = make_string,
                                              .createArray = make_array,
                                              .createInteger = make_integer,
                                              .createNil = make_nil,
                                              .freeObject = leave};

/* --- Opening and closing. --- */

static void drop(struct connection *c)
{
    if (c->context != NULL) {
        redisFree(c->context);
    }
    *c = (struct connection){.context = NULL};
}

static void close_all(void)
{
    int i;

    for (i = 0; i < table.n; i++) {
        drop(&table.connections[i]);
    }
    free(table.connections);
    table = (struct table){.n = 0};
}

static void at_thread_end(void *unused)
{
    (void)unused;
    close_all();
}

static void make_key(void)
{
    if (pthread_key_create(&key, at_thread_end) != 0) {
        abort(); /* at the first use of the process: 1,024 keys, of which it needs a few */
    }
}

void redis_thread_done(void)
{
    close_all();
}

void redis_disconnect(int node)
{
    if (node < table.n) {
        drop(&table.connections[node]);
    }
}

/* This thread's place for the node; NULL: no memory. */
static struct connection *connection_of(int node)
{
    if (node >= table.n) {
        int n = node < 8 ? 8 : node * 2 > REDIS_NODES_MAX ? REDIS_NODES_MAX : node * 2;
        struct connection *grown = realloc(table.connections, (size_t)n * sizeof(*grown));

        if (grown == NULL) {
            return NULL;
        }
        memset(grown + table.n, 0, (size_t)(n - table.n) * sizeof(*grown));
        table.connections = grown;
        table.n = n;
        pthread_once(&key_once, make_key);
        (void)pthread_setspecific(key, grown); /* any value but NULL has at_thread_end called */
    }
    return &table.connections[node];
}

/* Close what has been idle for long, and what leads to nodes that are gone. */
static void sweep(int64_t now_ms)
{
    int i;

    table.sweep_mono_ms = now_ms + SWEEP_EVERY_MS;
    for (i = 0; i < table.n; i++) {
        struct connection *c = &table.connections[i];

        if (c->context != NULL &&
            (now_ms - c->used_mono_ms > IDLE_MAX_MS || c->generation != redis_node_generation(i))) {
            drop(c);
        }
    }
}

/* What has a server to say that was not asked? Good-bye, or an answer that nobody waits for. */
static bool is_stale(const struct connection *c)
{
    char byte;

    return recv(c->context->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 ||
           (errno != EAGAIN && errno != EINTR);
}

static struct timeval timeval_of(int64_t ms)
{
    return (struct timeval){.tv_sec = (time_t)(ms / 1000),
                            .tv_usec = (suseconds_t)(ms % 1000 * 1000)};
}

static void set_timeout(struct connection *c, int64_t ms)
{
    if (c->timeout_ms != ms) {
        redisSetTimeout(c->context, timeval_of(ms));
        c->timeout_ms = ms;
    }
}

/* --- Talking. --- */

/* Note why, with the node's name. */
static enum redis_fate fail(struct talk *t, enum redis_fate fate, const char *doing,
                            const char *what)
{
    struct redis_address address;

    (void)redis_node_address(t->node, &address);
    t->why =
        arena_printf(t->sc->arena, "%s:%d: %s: %.200s", address.host, address.port, doing, what);
    return fate;
}

/* The same, and the connection is of no use any more. */
static enum redis_fate lose(struct talk *t, enum redis_fate fate, const char *doing,
                            const char *what)
{
    fail(t, fate, doing, what);
    /* One that never answered says that the node does not serve; another tells of itself only. */
    if (!t->c->has_answered) {
        redis_node_failed(t->node, false);
    }
    drop(t->c);
    return fate;
}

static enum redis_fate late(struct talk *t, enum redis_fate fate, const char *doing)
{
    /* A caller with little time left has found out nothing. */
    if (t->limit_ms >= config()->redis_timeout_ms) {
        redis_node_failed(t->node, true);
    }
    fail(t, fate, doing, "no answer in time");
    drop(t->c);
    return fate;
}

/* Wait for the socket; false: the time is up. */
static bool await(const struct talk *t, short events)
{
    struct pollfd fd = {.fd = t->c->context->fd, .events = events};
    int64_t left_ms;

    while ((left_ms = t->until_ms - clock_mono_ms()) > 0) {
        int n = poll(&fd, 1, (int)left_ms);

        if (n > 0 || (n < 0 && errno != EINTR)) {
            return true; /* an error shows at the next read or write */
        }
    }
    return false;
}

/* Send what is in the context's buffer. The socket's own time limit covers the first write. */
static enum redis_fate flush(struct talk *t, const char *doing)
{
    enum redis_fate fate = REDIS_UNSENT;
    int done = 0;

    for (;;) {
        errno = 0;
        if (redisBufferWrite(t->c->context, &done) != REDIS_OK) {
            return errno == EAGAIN ? late(t, fate, doing)
                                   : lose(t, fate, doing, t->c->context->errstr);
        }
        if (done) {
            return REDIS_FINE;
        }
        fate = REDIS_LOST;
        if (!await(t, POLLOUT)) {
            return late(t, fate, doing);
        }
    }
}

/* Read once and feed the parser. */
static enum redis_fate read_more(struct talk *t, const char *doing)
{
    char bytes[READ_BYTES];
    bool is_first = t->n_read == 0;
    ssize_t n;

    /* The socket's own time limit covers the first read, which most replies need alone. */
    do {
        if (!is_first && !await(t, POLLIN)) {
            return late(t, REDIS_LOST, doing);
        }
        n = is_first ? read(t->c->context->fd, bytes, sizeof(bytes))
                     : recv(t->c->context->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN && is_first) {
            return late(t, REDIS_LOST, doing);
        }
        is_first = false;
    } while (n < 0 && (errno == EINTR || errno == EAGAIN));
    if (n <= 0) {
        char text[64];

        return lose(t, REDIS_LOST, doing,
                    n == 0 ? "closed by the server" : strerror_r(errno, text, sizeof(text)));
    }
    t->n_read += (size_t)n;
    if (t->n_read > t->read_max) {
        return lose(t, REDIS_LOST, doing, "the reply is too large");
    }
    if (redisReaderFeed(t->c->context->reader, bytes, (size_t)n) != REDIS_OK) {
        return lose(t, REDIS_LOST, doing, t->c->context->reader->errstr);
    }
    return REDIS_FINE;
}

/* Take one reply. */
static enum redis_fate receive(struct talk *t, struct sink *sink, struct redis_reply *reply_out,
                               const char *doing)
{
    redisReader *reader = t->c->context->reader;

    sink->root = reply_out;
    reader->privdata = sink;
    for (;;) {
        enum redis_fate fate;
        void *reply = NULL;

        if (redisReaderGetReply(reader, &reply) != REDIS_OK) {
            return lose(t, REDIS_LOST, doing,
                        sink->is_full ? "the reply is too large" : reader->errstr);
        }
        if (reply != NULL) {
            return REDIS_FINE;
        }
        fate = read_more(t, doing);
        if (fate != REDIS_FINE) {
            return fate;
        }
    }
}

static bool append(struct connection *c, const struct redis_command *command)
{
    /* hiredis takes const char **: the array is the caller's, the texts stay untouched */
    const char **argv = (const char **)(uintptr_t)command->text;

    return redisAppendCommandArgv(c->context, (int)command->n, argv, command->len) == REDIS_OK;
}

/* Send the commands and take their replies. */
static enum redis_fate talk(struct talk *t, bool asking, const struct redis_command *commands,
                            size_t n, struct redis_reply *replies_out)
{
    static const char *const asking_text[] = {"ASKING"};
    static const size_t asking_len[] = {6};
    static const struct redis_command asking_command = {1, asking_text, asking_len};
    size_t room = arena_room(t->sc->arena) / 2; /* the rest is the caller's */
    struct sink sink = {.arena = t->sc->arena,
                        .left = room < REDIS_REPLY_MAX_BYTES ? room : REDIS_REPLY_MAX_BYTES};
    const char *doing = commands[0].text[0];
    struct redis_reply ignored;
    enum redis_fate fate;
    size_t i;

    /* A byte of a reply takes at least one of the arena, but for what frames it. */
    t->read_max = sink.left + n * 64;
    t->n_read = 0;
    for (i = 0; i < n; i++) {
        if ((asking && !append(t->c, &asking_command)) || !append(t->c, &commands[i])) {
            return lose(t, REDIS_UNSENT, doing, "no memory");
        }
    }
    fate = flush(t, doing);
    for (i = 0; i < n && fate == REDIS_FINE; i++) {
        if (asking) {
            fate = receive(t, &sink, &ignored, doing);
        }
        if (fate == REDIS_FINE) {
            fate = receive(t, &sink, &replies_out[i], doing);
        }
    }
    return fate;
}

static enum redis_fate authenticate(struct talk *t)
{
    const struct redis_seeds *seeds = redis_seeds();
    const char *text[3] = {"AUTH", seeds->user, seeds->password};
    size_t len[3] = {4, strlen(seeds->user), strlen(seeds->password)};
    struct redis_command command = {3, text, len};
    struct redis_reply reply = {.kind = REDIS_NIL};
    enum redis_fate fate;

    if (*seeds->password == '\0') {
        return REDIS_FINE;
    }
    if (*seeds->user == '\0') {
        text[1] = text[2];
        len[1] = len[2];
        command.n = 2;
    }
    fate = talk(t, false, &command, 1, &reply);
    if (fate == REDIS_FINE && reply.kind != REDIS_TEXT) {
        fate = lose(t, REDIS_UNSENT, "AUTH", reply.kind == REDIS_ERROR ? reply.text : "odd reply");
    }
    return fate == REDIS_FINE ? REDIS_FINE : REDIS_UNSENT;
}

/* Have a connection whose socket times out after limit_ms. */
static enum redis_fate connect_node(struct talk *t)
{
    struct connection *c = t->c;
    struct redis_address address;

    c->generation = redis_node_address(t->node, &address);
    c->context = redisConnectWithTimeout(address.host, address.port, timeval_of(t->limit_ms));
    if (c->context == NULL || c->context->err != 0) {
        return lose(t, REDIS_UNSENT, "connect",
                    c->context == NULL ? "no memory" : c->context->errstr);
    }
    (void)fcntl(c->context->fd, F_SETFD, FD_CLOEXEC);
    redisEnableKeepAlive(c->context);
    c->context->reader->fn = &functions;
    c->timeout_ms = -1;
    set_timeout(c, t->limit_ms);
    return authenticate(t);
}

/* One try on what connection there is, or on a new one. *was_open_out tells. */
static enum redis_fate try_once(struct talk *t, bool asking, const struct redis_command *commands,
                                size_t n, struct redis_reply *replies_out, bool *was_open_out)
{
    struct connection *c = t->c;
    int64_t now_ms = t->until_ms - t->limit_ms;
    enum redis_fate fate;

    *was_open_out = c->context != NULL;
    if (*was_open_out && (c->generation != redis_node_generation(t->node) ||
                          (now_ms - c->used_mono_ms >= LOOK_AFTER_MS && is_stale(c)))) {
        drop(c);
        *was_open_out = false;
    }
    if (!redis_node_may_try(t->node, *was_open_out, t->limit_ms)) {
        return fail(t, REDIS_UNSENT, "held back", "it failed a moment ago");
    }
    if (*was_open_out) {
        set_timeout(c, t->limit_ms);
    } else {
        fate = connect_node(t);
        if (fate != REDIS_FINE) {
            return fate;
        }
    }
    fate = talk(t, asking, commands, n, replies_out);
    if (fate == REDIS_FINE) {
        redis_node_answered(t->node, !c->has_answered);
        c->has_answered = true;
        c->used_mono_ms = now_ms;
    }
    return fate;
}

enum redis_fate redis_exchange(struct scope *sc, int node, bool asking,
                               const struct redis_command *commands, size_t n, int64_t limit_ms,
                               struct redis_reply *replies_out, const char **why_out)
{
    int64_t start_us = clock_mono_us(), now_ms = start_us / 1000;
    struct talk t = {.sc = sc, .node = node, .limit_ms = limit_ms, .until_ms = now_ms + limit_ms};
    bool blocks = limit_ms > config()->redis_timeout_ms; /* means to: its wait says nothing */
    enum redis_fate fate = REDIS_UNSENT;
    bool was_open = false;

    t.c = connection_of(node);
    if (limit_ms <= 0 || t.c == NULL) {
        *why_out = limit_ms <= 0 ? "no time left" : "no memory";
        return REDIS_UNSENT;
    }
    if (now_ms >= table.sweep_mono_ms) {
        sweep(now_ms);
    }
    if (!blocks) {
        redis_node_asked(node, now_ms);
    }
    fate = try_once(&t, asking, commands, n, replies_out, &was_open);
    if (fate == REDIS_UNSENT && was_open && t.c->context == NULL && clock_mono_ms() < t.until_ms) {
        fate = try_once(&t, asking, commands, n, replies_out, &was_open);
    }
    if (!blocks) {
        redis_node_told(node, fate == REDIS_FINE, clock_mono_ms());
    }
    sc->timing.redis_us += clock_mono_us() - start_us;
    sc->timing.redis_count++;
    *why_out = t.why;
    return fate;
}
