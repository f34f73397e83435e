/* One hiredis context per thread. It is dropped at any doubt: an answer that comes late must never
 * be taken for the answer to the next command. */
#include "lib/redis.h"

#include <hiredis/hiredis.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/time.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/str.h"

enum { BACKOFF_FIRST_MS = 20, BACKOFF_MAX_MS = 500, REPLY_DEPTH_MAX = 8 };

/* A thread's connection. */
static _Thread_local struct connection {
    redisContext *context;
    int64_t timeout_ms;    /* as set on the socket */
    int64_t retry_mono_ms; /* not before, after a failure */
    int64_t backoff_ms;
} conn;

/* Parts of redis://[user][:password]@host[:port]. */
struct address {
    char host[256];
    char password[256];
    int port;
};

static bool parse_url(const char *url, struct address *out)
{
    const char *rest = has_prefix(url, "redis://") ? url + strlen("redis://") : NULL;
    const char *at, *colon;
    size_t host_len;
    int64_t port = 6379;
    char port_text[8];

    *out = (struct address){.port = 0};
    if (rest == NULL) {
        return false;
    }
    at = strrchr(rest, '@');
    if (at != NULL) {
        const char *secret = memchr(rest, ':', (size_t)(at - rest));

        secret = secret == NULL ? rest : secret + 1;
        if ((size_t)(at - secret) >= sizeof(out->password)) {
            return false;
        }
        memcpy(out->password, secret, (size_t)(at - secret));
        rest = at + 1;
    }
    host_len = strcspn(rest, ":/,");
    if (host_len == 0 || host_len >= sizeof(out->host)) {
        return false;
    }
    memcpy(out->host, rest, host_len);
    colon = rest[host_len] == ':' ? rest + host_len + 1 : NULL;
    if (colon != NULL) {
        size_t len = strcspn(colon, "/,");

        if (len >= sizeof(port_text)) {
            return false;
        }
        memcpy(port_text, colon, len);
        port_text[len] = '\0';
        if (!i64_parse(port_text, &port) || port < 1 || port > 65535) {
            return false;
        }
    }
    out->port = (int)port;
    return true;
}

static struct timeval timeval_of(int64_t ms)
{
    return (struct timeval){.tv_sec = (time_t)(ms / 1000),
                            .tv_usec = (suseconds_t)(ms % 1000 * 1000)};
}

/* Close the connection and hold the next one back. */
static void drop(void)
{
    if (conn.context != NULL) {
        redisFree(conn.context);
        conn.context = NULL;
    }
    conn.backoff_ms = conn.backoff_ms == 0 ? BACKOFF_FIRST_MS : conn.backoff_ms * 2;
    if (conn.backoff_ms > BACKOFF_MAX_MS) {
        conn.backoff_ms = BACKOFF_MAX_MS;
    }
    conn.retry_mono_ms = clock_mono_ms() + conn.backoff_ms;
}

void redis_thread_done(void)
{
    if (conn.context != NULL) {
        redisFree(conn.context);
    }
    conn = (struct connection){0};
}

static enum err unavailable(struct scope *sc, const char *doing)
{
    const char *why = conn.context == NULL ? "no memory" : conn.context->errstr;
    enum err e = scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "redis: %s: %s", doing, why);

    drop();
    return e;
}

static enum err authenticate(struct scope *sc, const char *password)
{
    redisReply *reply;
    bool is_good;

    if (*password == '\0') {
        return OK;
    }
    reply = redisCommand(conn.context, "AUTH %s", password);
    is_good = reply != NULL && reply->type == REDIS_REPLY_STATUS;
    if (reply != NULL) {
        freeReplyObject(reply);
    }
    return is_good ? OK : unavailable(sc, "AUTH is refused");
}

/* Have a connection whose socket times out after limit_ms. */
static enum err connect_within(struct scope *sc, int64_t limit_ms)
{
    struct address address;

    if (limit_ms <= 0) {
        return scope_fail(sc, ERR_TIMED_OUT, "redis: no time left");
    }
    if (conn.context == NULL) {
        if (clock_mono_ms() < conn.retry_mono_ms) {
            return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "redis: waiting to connect again");
        }
        if (!parse_url(config()->redis_url, &address)) {
            return scope_fail(sc, ERR_INTERNAL, "redis: REDIS_URL is not redis://host:port");
        }
        conn.context = redisConnectWithTimeout(address.host, address.port, timeval_of(limit_ms));
        if (conn.context == NULL || conn.context->err != 0) {
            return unavailable(sc, "connect");
        }
        redisEnableKeepAlive(conn.context);
        conn.timeout_ms = -1;
    }
    if (conn.timeout_ms != limit_ms) {
        bool is_new = conn.timeout_ms == -1;

        redisSetTimeout(conn.context, timeval_of(limit_ms));
        conn.timeout_ms = limit_ms;
        if (is_new) {
            TRY(authenticate(sc, parse_url(config()->redis_url, &address) ? address.password : ""));
        }
    }
    return OK;
}

static void copy_reply(struct arena *a, const redisReply *from, struct redis_reply *to, int depth)
{
    size_t i;

    *to = (struct redis_reply){.kind = REDIS_NIL};
    switch (from->type) {
    case REDIS_REPLY_INTEGER:
        to->kind = REDIS_INT;
        to->integer = from->integer;
        break;
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
    case REDIS_REPLY_ERROR:
        to->kind = from->type == REDIS_REPLY_ERROR ? REDIS_ERROR : REDIS_TEXT;
        to->text = arena_strndup(a, from->str, from->len);
        to->len = from->len;
        break;
    case REDIS_REPLY_ARRAY:
        to->kind = REDIS_LIST;
        if (depth >= REPLY_DEPTH_MAX) {
            break;
        }
        to->n_items = from->elements;
        to->items = arena_array(a, struct redis_reply, from->elements + 1);
        for (i = 0; i < from->elements; i++) {
            copy_reply(a, from->element[i], &to->items[i], depth + 1);
        }
        break;
    default:
        break;
    }
}

/* Send one command and take its reply; Redis's own errors come back as REDIS_ERROR. */
static enum err run(struct scope *sc, const struct redis_args *args, int64_t limit_ms,
                    struct redis_reply *reply_out)
{
    int64_t start_us = clock_mono_us();
    redisReply *reply;
    /* hiredis takes const char **: the array is its own, the texts stay untouched */
    const char **argv = (const char **)(uintptr_t)args->text;

    TRY(connect_within(sc, limit_ms));
    reply = redisCommandArgv(conn.context, (int)args->n, argv, args->len);
    sc->timing.redis_us += clock_mono_us() - start_us;
    sc->timing.redis_count++;
    if (reply == NULL) {
        return unavailable(sc, args->text[0]);
    }
    conn.backoff_ms = 0;
    copy_reply(sc->arena, reply, reply_out, 0);
    freeReplyObject(reply);
    return OK;
}

static int64_t command_limit_ms(const struct scope *sc)
{
    return scope_left_ms(sc, config()->redis_timeout_ms);
}

static enum err refused(struct scope *sc, const char *what, const struct redis_reply *reply)
{
    return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "redis: %s: %s", what, reply->text);
}

enum err redis_call(struct scope *sc, const char *key, const struct redis_args *args,
                    struct redis_reply *reply_out)
{
    (void)key; /* one node: nothing to route */
    TRY(run(sc, args, command_limit_ms(sc), reply_out));
    return reply_out->kind == REDIS_ERROR ? refused(sc, args->text[0], reply_out) : OK;
}

enum err redis_wait(struct scope *sc, const char *key, const struct redis_args *args,
                    int64_t wait_ms, struct redis_reply *reply_out)
{
    (void)key;
    TRY(run(sc, args, config()->redis_timeout_ms + wait_ms, reply_out));
    return reply_out->kind == REDIS_ERROR ? refused(sc, args->text[0], reply_out) : OK;
}

enum err redis_do(struct scope *sc, const char *key, struct redis_reply *reply_out, ...)
{
    struct redis_args args = {0};
    const char *word;
    va_list words;

    va_start(words, reply_out);
    while ((word = va_arg(words, const char *)) != NULL) {
        redis_arg(&args, word);
    }
    va_end(words);
    return redis_call(sc, key, &args, reply_out);
}

static void append_args(struct redis_args *to, const struct redis_args *from)
{
    size_t i;

    for (i = 0; i < from->n; i++) {
        redis_arg_bytes(to, from->text[i], from->len[i]);
    }
}

/* Ask the server for the script's SHA-1 once per program: SCRIPT LOAD tells it. */
static enum err learn_sha1(struct scope *sc, struct redis_script *script, int64_t limit_ms)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct redis_args load = {0};
    struct redis_reply reply;

    if (atomic_load_explicit(&script->is_known, memory_order_acquire)) {
        return OK;
    }
    redis_arg(&load, "SCRIPT");
    redis_arg(&load, "LOAD");
    redis_arg(&load, script->source);
    TRY(run(sc, &load, limit_ms, &reply));
    if (reply.kind != REDIS_TEXT || reply.len != sizeof(script->sha1) - 1) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "redis: %s does not load: %s",
                          script->name, reply.kind == REDIS_ERROR ? reply.text : "odd reply");
    }
    pthread_mutex_lock(&lock);
    if (!atomic_load_explicit(&script->is_known, memory_order_relaxed)) {
        memcpy(script->sha1, reply.text, sizeof(script->sha1));
        atomic_store_explicit(&script->is_known, true, memory_order_release);
    }
    pthread_mutex_unlock(&lock);
    return OK;
}

enum err redis_eval(struct scope *sc, struct redis_script *script, const struct redis_args *keys,
                    const struct redis_args *args, struct redis_reply *reply_out)
{
    struct redis_args command = {0};
    int64_t limit_ms = command_limit_ms(sc);

    TRY(learn_sha1(sc, script, limit_ms));
    redis_arg(&command, "EVALSHA");
    redis_arg(&command, script->sha1);
    redis_arg_i64(sc, &command, (int64_t)keys->n);
    append_args(&command, keys);
    append_args(&command, args);
    TRY(run(sc, &command, limit_ms, reply_out));
    if (reply_out->kind == REDIS_ERROR && has_prefix(reply_out->text, "NOSCRIPT")) {
        command.text[0] = "EVAL";
        command.len[0] = strlen("EVAL");
        command.text[1] = script->source;
        command.len[1] = strlen(script->source);
        TRY(run(sc, &command, limit_ms, reply_out));
    }
    return reply_out->kind == REDIS_ERROR ? refused(sc, script->name, reply_out) : OK;
}

void redis_arg_bytes(struct redis_args *args, const void *bytes, size_t len)
{
    if (args->n >= REDIS_ARGS_MAX) {
        abort(); /* our bug: the number of arguments never depends on input */
    }
    args->text[args->n] = bytes;
    args->len[args->n++] = len;
}

void redis_arg(struct redis_args *args, const char *text)
{
    redis_arg_bytes(args, text, strlen(text));
}

void redis_arg_i64(struct scope *sc, struct redis_args *args, int64_t value)
{
    redis_arg(args, arena_printf(sc->arena, "%lld", (long long)value));
}
