/* The life of a request, in one place: identify, route, guard, handle, commit, answer, account. */
#include <string.h>

#include "fcgi/req_private.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/log.h"
#include "lib/metrics.h"
#include "lib/pg.h"
#include "lib/session.h"

struct guard {
    const char *name;
    enum err (*check)(struct req *r);
};

static const struct guard guards[] = {
#define GUARD(name, doc) {#name, guard_##name},
#include "fcgi/guards.def"
#undef GUARD
};

/* A request id of the client's is taken if it is harmless in logs and headers. */
static bool is_request_id(const char *text)
{
    size_t len = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

    return text[len] == '\0' && len >= 8 && len <= REQUEST_ID_MAX;
}

/* Trace and request id, taken on from outside where well-formed. */
static void identify(struct req *r)
{
    const char *parent = req_header(r, "TRACEPARENT");
    const char *id = req_header(r, "X_REQUEST_ID");

    scope_trace_new(&r->scope);
    if (parent != NULL) {
        (void)scope_trace_join(&r->scope, parent);
    }
    if (id == NULL || !is_request_id(id)) {
        id = req_param(r, "REQUEST_ID"); /* the proxy's */
    }
    if (id != NULL && is_request_id(id)) {
        snprintf(r->scope.request_id, sizeof(r->scope.request_id), "%s", id);
    }
}

/* Method, path and address from the parameters. */
static enum err read_line(struct req *r)
{
    const char *uri = req_param(r, "REQUEST_URI");
    const char *method = req_param(r, "REQUEST_METHOD");
    const char *address = req_param(r, "REMOTE_ADDR");

    r->method = method == NULL ? "" : method;
    r->is_unsafe = strcmp(r->method, "GET") != 0 && strcmp(r->method, "HEAD") != 0;
    r->address = address == NULL || *address == '\0' ? "unknown" : address;
    r->path = "/";
    if (uri == NULL || *uri != '/') {
        return scope_refuse(&r->scope, ERR_BAD_REQUEST, "The request has no path.");
    }
    r->path = arena_strndup(r->scope.arena, uri, strcspn(uri, "?#"));
    return router_find(&r->scope, r->method, r->path, &r->match);
}

static enum err run_guards(struct req *r)
{
    size_t i;

    for (i = 0; i < ARRAY_LEN(guards) && r->reply.status == 0; i++) {
        enum err e = guards[i].check(r);

        if (e != OK && !req_shadowed(r, guards[i].name)) {
            r->guard = guards[i].name;
            return e;
        }
    }
    return OK;
}

/* Store the answer of an Idempotency-Key, and commit what is open, or roll it back. */
static enum err settle(struct req *r, enum err e)
{
    if (e == OK) {
        e = guard_idem_store(r);
    }
    if (r->in_transaction && e == OK) {
        e = pg_commit(&r->scope, r->who.place);
    } else if (r->in_transaction) {
        pg_rollback(&r->scope, r->who.place);
    }
    if (e != OK && e != ERR_WRITE_UNKNOWN) {
        guard_idem_release(r);
    }
    return e;
}

/* Before the reply: whoever has read it may ask the next question at once, of any instance. If the
 * mark cannot be kept, the time after which no replica in use can lack the write is waited for. */
static void keep_mark(struct req *r)
{
    const char *cause = r->scope.cause;
    struct timespec pause = {0};
    struct pg_mark mark;
    int64_t wait_ms;

    if (!r->who.is_signed_in || !pg_written(&r->scope, r->who.place, &mark) ||
        session_mark(&r->scope, r->who.user, mark) == OK) {
        return;
    }
    r->scope.cause = cause; /* the request's own outcome stays */
    wait_ms = scope_left_ms(&r->scope, config()->db_max_replica_lag_ms);
    pause.tv_sec = wait_ms / 1000;
    pause.tv_nsec = wait_ms % 1000 * 1000000;
    nanosleep(&pause, NULL);
}

static enum err serve(struct req *r)
{
    int64_t guarded_us;
    enum err e;
    int i;

    TRY(read_line(r));
    r->scope.reads_replica = !r->is_unsafe;
    e = run_guards(r);
    guarded_us = clock_mono_us();
    r->guard_us = guarded_us - r->start_us;
    if (e == OK && r->reply.status == 0) {
        e = r->match.route->h(r);
    }
    e = settle(r, e);
    if (r->scope.leases != NULL) {
        pg_release(&r->scope);
    }
    if (r->scope.n_marks > 0) {
        keep_mark(r);
    }
    for (i = 0; e == OK && i < r->n_after_commit; i++) {
        r->after_commit[i].fn(r, r->after_commit[i].context);
    }
    r->handler_us = clock_mono_us() - guarded_us;
    return e;
}

static void log_request(const struct req *r, enum err e, bool is_sent)
{
    const struct scope_timing *t = &r->scope.timing;
    int64_t total_us = clock_mono_us() - r->start_us;
    enum log_level level = r->reply.status >= 500 ? LOG_ERROR : LOG_INFO;
    struct log_line l;
    char user[16];

    log_begin(&l, level, "request");
    log_str(&l, "requestId", r->scope.request_id);
    log_str(&l, "traceparent", r->scope.traceparent);
    log_str(&l, "method", r->method);
    log_str(&l, "route", r->match.route == NULL ? "none" : r->match.route->key);
    if (r->match.route == NULL) {
        log_str(&l, "path", arena_strndup(r->scope.arena, r->path, strnlen(r->path, 200)));
    }
    log_i64(&l, "status", r->reply.status);
    log_str(&l, "address", r->address);
    if (r->who.is_signed_in) {
        snprintf(user, sizeof(user), "%08x", r->who.place.hash);
        log_str(&l, "userHash", user);
    }
    if (r->scope.shard >= 0) {
        log_i64(&l, "shard", r->scope.shard);
    }
    log_i64(&l, "totalUs", total_us);
    log_i64(&l, "queueUs", r->queue_us);
    log_i64(&l, "guardUs", r->guard_us);
    log_i64(&l, "poolWaitUs", t->pool_wait_us);
    log_i64(&l, "dbUs", t->db_us);
    log_i64(&l, "redisUs", t->redis_us);
    log_i64(&l, "s3Us", t->s3_us);
    log_i64(&l, "handlerUs", r->handler_us);
    log_i64(&l, "writeUs", r->write_us);
    log_i64(&l, "dbCount", t->db_count);
    log_i64(&l, "redisCount", t->redis_count);
    log_i64(&l, "s3Count", t->s3_count);
    log_i64(&l, "arenaBytes", (int64_t)arena_used(r->scope.arena));
    log_i64(&l, "bytesOut", (int64_t)r->reply.body.len);
    if (e != OK) {
        log_str(&l, "code", err_info(e)->code);
        log_str(&l, "guard", r->guard);
        log_str(&l, "cause", r->scope.cause);
    }
    log_str(&l, "shadow", r->shadow);
    if (arena_over_budget(r->scope.arena)) {
        log_str(&l, "arena", "over budget");
    }
    if (!is_sent) {
        log_str(&l, "reply", "not sent");
    }
    log_end(&l);
}

/* Counters beside the histogram. */
static void count_request(const struct req *r, enum err e, bool is_sent)
{
    const struct scope_timing *t = &r->scope.timing;

    metrics_request(r->match.route == NULL ? -1 : r->match.route->index, r->reply.status,
                    clock_mono_us() - r->start_us);
    metrics_add(METRIC_REPLIES_UNSENT, !is_sent);
    metrics_add(METRIC_ARENA_OVER_BUDGET, arena_over_budget(r->scope.arena));
    metrics_add(METRIC_GUARD_REFUSALS, r->guard != NULL);
    metrics_add(METRIC_RATE_LIMITED, e == ERR_RATE_LIMITED);
    metrics_add(METRIC_POOL_SATURATED, e == ERR_POOL_SATURATED);
    metrics_add(METRIC_OVERLOADED, e == ERR_OVERLOADED);
    metrics_add(METRIC_SESSIONS_REFUSED, e == ERR_SESSION_CAPACITY);
    metrics_add(METRIC_DEPENDENCY_UNAVAILABLE, e == ERR_DEPENDENCY_UNAVAILABLE);
    metrics_add(METRIC_DB_CALLS, t->db_count);
    metrics_add(METRIC_DB_REPLICA_CALLS, t->replica_count);
    metrics_add(METRIC_REDIS_CALLS, t->redis_count);
    metrics_add(METRIC_S3_CALLS, t->s3_count);
    metrics_add(METRIC_DB_TIME_US, t->db_us);
    metrics_add(METRIC_REDIS_TIME_US, t->redis_us);
    metrics_add(METRIC_S3_TIME_US, t->s3_us);
}

/* Which layers of degradation this reply shows. */
static void note_layers(const struct req *r, enum err e)
{
    if (e == ERR_RATE_LIMITED && r->guard != NULL) {
        metrics_layer(LAYER_RATE_LIMITER);
    } else if (e == ERR_SESSION_CAPACITY) {
        metrics_layer(LAYER_SESSION_GUARD);
    } else if (e == ERR_OVERLOADED || e == ERR_POOL_SATURATED) {
        metrics_layer(LAYER_CONNECTION_GUARD);
    } else if (e == ERR_DEPENDENCY_UNAVAILABLE) {
        metrics_layer(LAYER_DEPENDENCY);
    }
}

void dispatch(struct conn *conn, struct arena *arena)
{
    struct req *r = arena_new(arena, struct req);
    int64_t answered_us;
    bool is_sent;
    enum err e;

    metrics_gauge_add(METRIC_GAUGE_ACTIVE_REQUESTS, 1);
    scope_init(&r->scope, arena, config()->request_timeout_ms);
    r->conn = conn;
    r->start_us = clock_mono_us();
    r->method = r->path = r->address = "";
    if (conn_params(conn, arena, &r->params, &r->n_params)) {
        identify(r);
        e = serve(r);
        guard_load_done(r, e);
    } else {
        scope_trace_new(&r->scope);
        e = ERR_HEADERS_TOO_LARGE;
    }
    if (e == OK && r->reply.status == 0) {
        e = scope_fail(&r->scope, ERR_INTERNAL, "the handler did not reply");
    }
    if (e != OK) {
        respond_problem(r, e);
    }
    answered_us = clock_mono_us();
    metrics_gauge_add(METRIC_GAUGE_ACTIVE_REQUESTS, -1);
    is_sent = respond_write(r) && conn_finish(conn);
    r->write_us = clock_mono_us() - answered_us;
    log_request(r, e, is_sent);
    count_request(r, e, is_sent);
    note_layers(r, e);
    scope_done(&r->scope);
    arena_reset(arena);
}
