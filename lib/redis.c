/* Commands, scripts and pipelines on top of one exchange with one node. With a cluster the
 * exchange is redis_cluster.c's to route; with one node there is nothing to decide. */
#include "lib/redis.h"

#include <pthread.h>
#include <stdarg.h>

#include "lib/config.h"
#include "lib/depend.h"
#include "lib/log.h"
#include "lib/redis_internal.h"
#include "lib/str.h"

enum {
    ERROR_TEXT_MAX = 200, /* of what a server says, in causes */
    START_ARENA_BYTES = 1 << 20
};

struct redis_pipeline {
    const char *key;
    struct arena *arena;
    struct redis_command *commands;
    size_t n, cap;
};

static bool is_cluster(void)
{
    return config()->redis_cluster_nodes > 0;
}

static enum err malformed(struct scope *sc)
{
    return scope_fail(sc, ERR_INTERNAL,
                      "REDIS_URL is malformed: it is redis://[[user]:password@]host[:port], or a "
                      "comma list of them; write a comma or a percent sign of the password as "
                      "%%2C or %%25.");
}

/* Send to the only node there is. */
static enum err run_single(struct scope *sc, const struct redis_command *commands, size_t n,
                           int64_t limit_ms, struct redis_reply *replies_out)
{
    const char *why;

    if (redis_seeds()->n == 0) {
        return malformed(sc);
    }
    if (limit_ms <= 0) {
        return scope_fail(sc, ERR_TIMED_OUT, "redis: no time left");
    }
    if (redis_exchange(sc, 0, false, commands, n, limit_ms, replies_out, &why) != REDIS_FINE) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "redis: %s", why);
    }
    return OK;
}

/* Send one command and take its reply; Redis's own errors come back as REDIS_ERROR. */
static enum err run_outside(struct scope *sc, const char *key, const struct redis_args *args,
                            int64_t limit_ms, struct redis_reply *reply_out)
{
    const struct redis_command command = {args->n, args->text, args->len};

    if (!is_cluster()) {
        return run_single(sc, &command, 1, limit_ms, reply_out);
    }
    return redis_seeds()->n == 0 ? malformed(sc)
                                 : redis_cluster_run(sc, key, &command, limit_ms, reply_out);
}

/* The same within the bulkhead. Nodes are held back by redis_node.c, so no breaker counts here. */
static enum err run(struct scope *sc, const char *key, const struct redis_args *args,
                    int64_t limit_ms, struct redis_reply *reply_out)
{
    int64_t probe;
    enum err e;

    TRY(depend_enter(sc, DEPEND_REDIS, &probe));
    e = run_outside(sc, key, args, limit_ms, reply_out);
    depend_leave(DEPEND_REDIS, probe, e == OK);
    return e;
}

static int64_t command_limit_ms(const struct scope *sc)
{
    return scope_left_ms(sc, config()->redis_timeout_ms);
}

static enum err refused(struct scope *sc, const char *what, const struct redis_reply *reply)
{
    return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "redis: %s: %.*s", what, ERROR_TEXT_MAX,
                      reply->text);
}

enum err redis_call(struct scope *sc, const char *key, const struct redis_args *args,
                    struct redis_reply *reply_out)
{
    TRY(run(sc, key, args, command_limit_ms(sc), reply_out));
    return reply_out->kind == REDIS_ERROR ? refused(sc, args->text[0], reply_out) : OK;
}

enum err redis_wait(struct scope *sc, const char *key, const struct redis_args *args,
                    int64_t wait_ms, struct redis_reply *reply_out)
{
    TRY(run_outside(sc, key, args, config()->redis_timeout_ms + wait_ms, reply_out));
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

/* --- Scripts. --- */

static void append_args(struct redis_args *to, const struct redis_args *from)
{
    size_t i;

    for (i = 0; i < from->n; i++) {
        redis_arg_bytes(to, from->text[i], from->len[i]);
    }
}

/* Ask a server for the script's SHA-1 once per program: SCRIPT LOAD tells it. */
static enum err learn_sha1(struct scope *sc, const char *key, struct redis_script *script,
                           int64_t limit_ms)
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
    TRY(run(sc, key, &load, limit_ms, &reply));
    if (reply.kind != REDIS_TEXT || reply.len != sizeof(script->sha1) - 1) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "redis: %s does not load: %.*s",
                          script->name, ERROR_TEXT_MAX,
                          reply.kind == REDIS_ERROR ? reply.text : "odd reply");
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
    const char *key = keys->n > 0 ? keys->text[0] : "";
    int64_t limit_ms = command_limit_ms(sc);

    TRY(learn_sha1(sc, key, script, limit_ms));
    redis_arg(&command, "EVALSHA");
    redis_arg(&command, script->sha1);
    redis_arg_i64(sc, &command, (int64_t)keys->n);
    append_args(&command, keys);
    append_args(&command, args);
    TRY(run(sc, key, &command, limit_ms, reply_out));
    if (reply_out->kind == REDIS_ERROR && has_prefix(reply_out->text, "NOSCRIPT")) {
        command.text[0] = "EVAL";
        command.len[0] = strlen("EVAL");
        command.text[1] = script->source;
        command.len[1] = strlen(script->source);
        TRY(run(sc, key, &command, limit_ms, reply_out));
    }
    return reply_out->kind == REDIS_ERROR ? refused(sc, script->name, reply_out) : OK;
}

/* --- Arguments. --- */

/* --- Pipelines. --- */

struct redis_pipeline *redis_pipeline_make(struct scope *sc, const char *key)
{
    struct redis_pipeline *p = arena_new(sc->arena, struct redis_pipeline);

    p->key = key;
    p->arena = sc->arena;
    return p;
}

static struct redis_command *next_command(struct redis_pipeline *p)
{
    if (p->n == p->cap) {
        struct redis_command *old = p->commands;

        p->cap = p->cap == 0 ? 8 : p->cap * 2;
        p->commands = arena_array(p->arena, struct redis_command, p->cap);
        if (p->n > 0) {
            memcpy(p->commands, old, p->n * sizeof(*old));
        }
    }
    return &p->commands[p->n++];
}

void redis_pipeline_add(struct redis_pipeline *p, ...)
{
    struct redis_command *command = next_command(p);
    const char **text;
    size_t *len, i;
    va_list words;

    va_start(words, p);
    while (va_arg(words, const char *) != NULL) {
        command->n++;
    }
    va_end(words);
    text = arena_array(p->arena, const char *, command->n);
    len = arena_array(p->arena, size_t, command->n);
    va_start(words, p);
    for (i = 0; i < command->n; i++) {
        text[i] = va_arg(words, const char *);
        len[i] = strlen(text[i]);
    }
    va_end(words);
    command->text = text;
    command->len = len;
}

/* All to the node that has the slot; then, one by one, those that it sends elsewhere. */
static enum err run_routed(struct scope *sc, const struct redis_pipeline *p, int64_t limit_ms,
                           struct redis_reply *replies)
{
    enum redis_fate fate;
    const char *why;
    size_t i;
    int node;

    TRY(redis_cluster_node(sc, p->key, limit_ms, &node));
    fate = redis_exchange(sc, node, false, p->commands, p->n, limit_ms, replies, &why);
    if (fate == REDIS_LOST) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "redis: %s", why);
    }
    for (i = 0; i < p->n; i++) {
        struct redis_address to;
        int slot;

        if (fate == REDIS_UNSENT || redis_turn_of(&replies[i], &slot, &to) != REDIS_TURN_NONE) {
            TRY(redis_cluster_run(sc, p->key, &p->commands[i], command_limit_ms(sc), &replies[i]));
        }
    }
    return OK;
}

enum err redis_pipeline_run(struct scope *sc, const struct redis_pipeline *p,
                            struct redis_reply **replies_out)
{
    int64_t limit_ms = command_limit_ms(sc);
    struct redis_reply *replies = arena_array(sc->arena, struct redis_reply, p->n + 1);
    int64_t probe;
    enum err e;
    size_t i;

    *replies_out = replies;
    if (p->n == 0) {
        return OK;
    }
    TRY(depend_enter(sc, DEPEND_REDIS, &probe));
    if (!is_cluster()) {
        e = run_single(sc, p->commands, p->n, limit_ms, replies);
    } else {
        e = redis_seeds()->n == 0 ? malformed(sc) : run_routed(sc, p, limit_ms, replies);
    }
    depend_leave(DEPEND_REDIS, probe, e == OK);
    TRY(e);
    for (i = 0; i < p->n; i++) {
        if (replies[i].kind == REDIS_ERROR) {
            return refused(sc, p->commands[i].text[0], &replies[i]);
        }
    }
    return OK;
}

/* --- At the start. --- */

/* Judge one server by INFO: unlike CONFIG, hosted ones allow it too. */
static enum err check_node(struct scope *sc, int node)
{
    static const char *const text[] = {"INFO", "memory"};
    static const size_t len[] = {4, 6};
    static const char field[] = "maxmemory_policy:";
    const struct redis_command command = {ARRAY_LEN(text), text, len};
    struct redis_address address;
    struct redis_reply reply;
    const char *why, *policy;

    if (redis_exchange(sc, node, false, &command, 1, command_limit_ms(sc), &reply, &why) !=
        REDIS_FINE) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "redis: %s", why);
    }
    policy = reply.kind == REDIS_TEXT ? strstr(reply.text, field) : NULL;
    if (policy == NULL) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "redis: INFO: %.*s", ERROR_TEXT_MAX,
                          reply.kind == REDIS_ERROR ? reply.text : "no maxmemory_policy");
    }
    policy += sizeof(field) - 1;
    if (has_prefix(policy, "noeviction")) {
        return OK;
    }
    (void)redis_node_address(node, &address);
    return scope_fail(sc, ERR_INTERNAL,
                      "Redis at %s:%d evicts keys (maxmemory-policy %.*s), so it would lose "
                      "sessions and jobs when its memory is full: set maxmemory-policy noeviction.",
                      address.host, address.port, (int)strcspn(policy, "\r\n"), policy);
}

enum err redis_check_eviction(struct scope *sc)
{
    int nodes[REDIS_NODES_MAX] = {0};
    size_t n = 1, i;

    if (redis_seeds()->n == 0) {
        return malformed(sc);
    }
    if (is_cluster()) {
        TRY(redis_cluster_masters(sc, command_limit_ms(sc), nodes, ARRAY_LEN(nodes), &n));
    }
    for (i = 0; i < n; i++) {
        TRY(check_node(sc, nodes[i]));
    }
    return OK;
}

bool redis_may_start(FILE *faults)
{
    struct arena *arena = arena_open(START_ARENA_BYTES);
    struct scope sc;
    enum err e;

    scope_init(&sc, arena, 3 * config()->redis_timeout_ms);
    e = redis_check_eviction(&sc);
    if (e == ERR_INTERNAL) {
        fprintf(faults, "%s\n", sc.cause);
    } else if (e != OK) {
        log_event(LOG_WARN, "redis.check", "Redis cannot be asked yet: %s", sc.cause);
    }
    redis_thread_done();
    arena_close(&arena);
    return e != ERR_INTERNAL;
}
