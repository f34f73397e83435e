/* One attempt, from the claim to its end. The row in PostgreSQL decides: the claim raises its
 * fence, and every later write carries that fence, so whatever happens to leases, one attempt at
 * most takes effect. Redis is told last. */
#include <stdlib.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/log.h"
#include "lib/pg.h"
#include "lib/str.h"
#include "queries.h"
#include "workers/worker.h"

enum {
    ROW_LIMIT_MS = 10000, /* for claiming or ending a row, waits included */
    CLAIM_PAUSE_MS = 20,
    COMPLETE_PAUSE_MS = 50,
    PAUSE_TOP_MS = 1000, /* pauses double up to this */
    DISCARD_LIMIT_MS = 5000,
    COMPLETE_LIMIT_MS = 60000 /* work that is done is worth waiting for the database */
};

struct job_row {
    struct id id, user_id;
    const char *type, *payload, *traceparent;
    int64_t attempts, stalled, fence, created_at;
};

static const struct field job_row_fields[] = {
    F_ID(job_row, id, "id", 0),
    F_ID(job_row, user_id, "userId", F_OPTIONAL),
    F_STR(job_row, type, "type", 1, 64, 0),
    F_JSON(job_row, payload, "payload", 0),
    F_STR(job_row, traceparent, "traceparent", 0, 55, F_OPTIONAL),
    F_I64(job_row, attempts, "attempts", 0, INT64_MAX, 0),
    F_I64(job_row, stalled, "stalled", 0, INT64_MAX, 0),
    F_I64(job_row, fence, "fence", 0, INT64_MAX, 0),
    F_TIME(job_row, created_at, "createdAt", 0),
};
static const struct shape shape_job_row = SHAPE(job_row, job_row_fields);

struct job_state {
    const char *status;
    int64_t fence;
};

static const struct field job_state_fields[] = {
    F_STR(job_state, status, "status", 1, 16, 0),
    F_I64(job_state, fence, "fence", 0, INT64_MAX, 0),
};
static const struct shape shape_job_state = SHAPE(job_state, job_state_fields);

struct job {
    struct scope scope;
    struct job_row row;
    const struct job_type *type;
    const struct json *payload;
    size_t slot;
    int64_t start_mono_ms;
    int64_t delay_ms; /* before the next attempt */
    const char *result;
    enum err (*publish)(struct job *j, struct scope *sc, void *context);
    void *publish_context;
    void (*discard)(struct job *j, struct scope *sc, void *context);
    void *discard_context;
};

struct scope *job_scope(struct job *j)
{
    return &j->scope;
}

struct arena *job_arena(struct job *j)
{
    return j->scope.arena;
}

struct id job_id(const struct job *j)
{
    return j->row.id;
}

struct id job_user(const struct job *j)
{
    return j->row.user_id;
}

int64_t job_fence(const struct job *j)
{
    return j->row.fence;
}

const struct json *job_payload(const struct job *j)
{
    return j->payload;
}

const char *job_payload_text(const struct job *j)
{
    return j->row.payload;
}

struct id job_made_id(const struct job *j, int64_t fence, int n)
{
    struct id id = j->row.id; /* place and time are the job's; the random part is a hash */
    uint8_t hash[SHA256_SIZE];
    uint8_t seed[sizeof(id.bytes) + 8 + 4];
    int i;

    memcpy(seed, id.bytes, sizeof(id.bytes));
    for (i = 0; i < 8; i++) {
        seed[sizeof(id.bytes) + (size_t)i] = (uint8_t)((uint64_t)fence >> (8 * i));
    }
    for (i = 0; i < 4; i++) {
        seed[sizeof(id.bytes) + 8 + (size_t)i] = (uint8_t)((uint32_t)n >> (8 * i));
    }
    crypto_sha256(seed, sizeof(seed), hash);
    id.bytes[10] = (uint8_t)((id.bytes[10] & 0xfc) | (hash[0] & 3));
    memcpy(id.bytes + 11, hash + 1, sizeof(id.bytes) - 11);
    return id;
}

bool job_progress(struct job *j, int percent)
{
    roll_progress(j->slot, percent < 0 ? 0 : percent > 99 ? 99 : percent);
    return !job_stopped(j);
}

bool job_stopped(const struct job *j)
{
    return roll_stop(j->slot) != STOP_NONE;
}

static bool watch_progress(void *context, int percent)
{
    return job_progress(context, percent);
}

struct media_watch job_watch(struct job *j)
{
    return (struct media_watch){.progress = watch_progress, .context = j};
}

void job_result(struct job *j, const char *json)
{
    j->result = json;
}

void job_publish(struct job *j, enum err (*fn)(struct job *j, struct scope *sc, void *context),
                 void *context)
{
    j->publish = fn;
    j->publish_context = context;
}

void job_discard(struct job *j, void (*fn)(struct job *j, struct scope *sc, void *context),
                 void *context)
{
    j->discard = fn;
    j->discard_context = context;
}

/* Was something missing that others provide? Then the attempt says nothing about the job. */
static bool is_outage(enum err e)
{
    return e == ERR_DEPENDENCY_UNAVAILABLE || e == ERR_POOL_SATURATED || e == ERR_OVERLOADED;
}

static int64_t backoff_ms(int64_t failures)
{
    uint64_t random;

    crypto_random(&random, sizeof(random));
    return queue_backoff_ms(failures, random);
}

/* What the row tells its owner: never an internal cause. */
static const char *error_json(struct job *j, enum err e)
{
    struct strbuf b;
    int i;

    strbuf_init(&b, j->scope.arena, 256);
    strbuf_puts(&b, "{\"code\":");
    strbuf_json(&b, err_info(e)->code);
    strbuf_puts(&b, ",\"detail\":");
    strbuf_json(&b, j->scope.detail != NULL ? j->scope.detail : err_info(e)->title);
    for (i = 0; i < j->scope.n_violations; i++) {
        const struct violation *v = &j->scope.violations[i];

        strbuf_puts(&b, i == 0 ? ",\"errors\":[{\"field\":" : ",{\"field\":");
        strbuf_json(&b, v->field);
        strbuf_puts(&b, ",\"code\":");
        strbuf_json(&b, v->code);
        strbuf_puts(&b, ",\"detail\":");
        strbuf_json(&b, v->detail);
        strbuf_putc(&b, '}');
    }
    strbuf_puts(&b, j->scope.n_violations > 0 ? "]}" : "}");
    return b.data;
}

/* Also while the process is stopping, when worker_sleep() returns at once. */
static void pause_for(int64_t ms)
{
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

/* One statement or transaction on the row, tried again while the database is away. n_rows 0: the
 * fence no longer holds. */
static enum err write_row(struct job *j, struct scope *sc, struct pg_query q)
{
    int64_t pause_ms = 50, n_rows = 0;
    enum err e;

    while ((e = pg_exec(sc, q, &n_rows)) != OK && scope_left_ms(sc, INT64_MAX) > pause_ms &&
           (is_outage(e) || e == ERR_WRITE_UNKNOWN)) {
        pg_release(sc);
        pause_for(pause_ms);
        pause_ms = pause_ms < PAUSE_TOP_MS ? 2 * pause_ms : pause_ms;
        scope_forgive(sc);
    }
    if (e == OK && n_rows == 0) {
        return scope_fail(&j->scope, ERR_CONFLICT, "the row is no longer this attempt's");
    }
    return e;
}

static enum err complete_once(struct job *j, struct scope *sc)
{
    struct place place = id_place(j->row.id);
    int64_t n_rows = 0;

    TRY(pg_begin(sc, place));
    TRY(pg_exec(sc, q_jobs_complete(sc, j->row.id, j->row.fence, j->result), &n_rows));
    if (n_rows == 0) {
        return scope_fail(&j->scope, ERR_CONFLICT, "the row is no longer this attempt's");
    }
    if (j->publish != NULL) {
        TRY(j->publish(j, sc, j->publish_context));
    }
    return pg_commit(sc, place);
}

/* Did the transaction whose outcome is unknown take effect? Only this attempt can end the row
 * under its fence. */
static bool is_completed(struct job *j, struct scope *sc)
{
    struct job_state state;

    return pg_one(sc, q_jobs_state(sc, j->row.id), &shape_job_state, &state) == OK &&
           state.fence == j->row.fence && strcmp(state.status, "completed") == 0;
}

static enum err complete(struct job *j)
{
    int64_t pause_ms = COMPLETE_PAUSE_MS;
    struct scope sc;
    enum err e;

    scope_init(&sc, j->scope.arena, COMPLETE_LIMIT_MS);
    for (;;) {
        e = complete_once(j, &sc);
        pg_release(&sc);
        if (e == ERR_WRITE_UNKNOWN && is_completed(j, &sc)) {
            e = OK;
        }
        if (e == OK || (!is_outage(e) && e != ERR_WRITE_UNKNOWN) ||
            scope_left_ms(&sc, INT64_MAX) <= pause_ms || roll_stop(j->slot) == STOP_LOST) {
            break;
        }
        pause_for(pause_ms);
        pause_ms = pause_ms < PAUSE_TOP_MS ? 2 * pause_ms : pause_ms;
        scope_forgive(&sc);
    }
    if (e != OK && j->scope.cause == NULL) {
        j->scope.cause = sc.cause;
    }
    scope_done(&sc);
    return e;
}

struct verdict {
    const char *status; /* for the log */
    enum queue_end end;
    bool is_published; /* or may be: outputs stay */
};

static struct verdict fail(struct job *j, struct scope *sc, enum err e)
{
    e = write_row(j, sc, q_jobs_fail(sc, j->row.id, j->row.fence, error_json(j, e)));
    return (struct verdict){.status = e == OK ? "failed" : "lost",
                            .end = e == OK || e == ERR_CONFLICT ? QUEUE_DONE : QUEUE_RETRY};
}

static struct verdict put_back(struct job *j, struct scope *sc, enum err e)
{
    struct pg_query q;
    const char *status;
    enum queue_end end = QUEUE_RETRY;

    if (roll_stop(j->slot) == STOP_SHUTDOWN) {
        status = "released";
        end = QUEUE_RELEASE;
        q = q_jobs_release(sc, j->row.id, j->row.fence);
    } else if (is_outage(e) && j->row.stalled < config()->stalled_max) {
        j->delay_ms = backoff_ms(j->row.stalled + 1);
        status = "postponed";
        q = q_jobs_postpone(sc, j->row.id, j->row.fence, clock_wall_ms() + j->delay_ms);
    } else {
        j->delay_ms = backoff_ms(j->row.attempts);
        status = "retry";
        q = q_jobs_retry(sc, j->row.id, j->row.fence, error_json(j, e),
                         clock_wall_ms() + j->delay_ms);
    }
    e = write_row(j, sc, q);
    if (e == ERR_CONFLICT) {
        return (struct verdict){.status = "lost", .end = QUEUE_DONE};
    }
    return (struct verdict){.status = status, .end = end};
}

/* What becomes of the job; *e is what its code returned, and then what spoiled its completion. */
static struct verdict judge(struct job *j, struct scope *sc, enum err *e)
{
    enum stop why = roll_stop(j->slot);

    if (*e == OK) {
        *e = complete(j);
        if (*e == OK) {
            return (struct verdict){"completed", QUEUE_DONE, true};
        }
        if (*e == ERR_WRITE_UNKNOWN) {
            /* Perhaps it is done: the next claim will tell, and must find what it published. */
            return (struct verdict){"unknown", QUEUE_RETRY, true};
        }
        why = *e == ERR_CONFLICT ? STOP_LOST : why;
    }
    if (why == STOP_CANCELLED || why == STOP_LOST) {
        return (struct verdict){.status = why == STOP_LOST ? "lost" : "cancelled",
                                .end = QUEUE_DONE};
    }
    if (why == STOP_SHUTDOWN || (is_outage(*e) && j->row.stalled < config()->stalled_max) ||
        (err_info(*e)->retry != RETRY_NEVER &&
         j->row.attempts <= job_limits(j->type->kind).retries)) {
        return put_back(j, sc, *e);
    }
    return fail(j, sc, *e);
}

static void log_attempt(const struct job *j, const char *status, enum err e)
{
    struct log_line l;
    char text[ID_TEXT_SIZE];

    log_begin(&l, e == OK ? LOG_INFO : LOG_WARN, "job");
    id_format(j->row.id, text);
    log_str(&l, "jobId", text);
    log_str(&l, "type", j->row.type);
    if (!id_is_nil(j->row.user_id)) {
        snprintf(text, sizeof(text), "%08x", id_place(j->row.user_id).hash);
        log_str(&l, "userHash", text);
    }
    log_str(&l, "status", status);
    log_i64(&l, "attempt", j->row.attempts);
    log_i64(&l, "stalled", j->row.stalled);
    log_i64(&l, "fence", j->row.fence);
    log_i64(&l, "durationMs", clock_mono_ms() - j->start_mono_ms);
    log_i64(&l, "ageMs", clock_wall_ms() - j->row.created_at);
    log_i64(&l, "dbUs", j->scope.timing.db_us);
    log_i64(&l, "s3Us", j->scope.timing.s3_us);
    log_str(&l, "traceparent", j->scope.traceparent);
    if (e != OK) {
        log_str(&l, "code", err_info(e)->code);
        log_str(&l, "cause", j->scope.cause);
        log_str(&l, "detail", j->scope.detail);
        if (j->scope.n_violations > 0) {
            log_str(&l, "violation", j->scope.violations[0].code);
        }
    }
    log_end(&l);
}

static enum err run_code(struct job *j)
{
    const struct job_code *code = job_code_lookup(j->type->name, strlen(j->type->name));

    if (j->row.stalled > config()->stalled_max) {
        return scope_refuse(&j->scope, ERR_INTERNAL, "The job was interrupted too often");
    }
    if (code == NULL || strcmp(j->row.type, j->type->name) != 0) {
        return scope_fail(&j->scope, ERR_VALIDATION_FAILED, "no code for type %s", j->row.type);
    }
    if (json_parse(&j->scope, j->row.payload, strlen(j->row.payload), &j->payload) != OK ||
        json_kind(j->payload) != JSON_OBJECT) {
        return scope_fail(&j->scope, ERR_VALIDATION_FAILED, "the payload is not an object");
    }
    return code->run(j);
}

static enum err claim(struct job *j, const struct queue_lease *lease)
{
    struct scope sc;
    enum err e;

    scope_init(&sc, j->scope.arena, ROW_LIMIT_MS);
    /* More threads than connections is no fault here, where nobody waits for an answer. */
    while ((e = pg_one(&sc, q_jobs_claim(&sc, lease->job), &shape_job_row, &j->row)) ==
               ERR_POOL_SATURATED &&
           scope_left_ms(&sc, CLAIM_PAUSE_MS) == CLAIM_PAUSE_MS) {
        pause_for(CLAIM_PAUSE_MS);
        scope_forgive(&sc);
    }
    if (e != OK) {
        j->scope.cause = sc.cause;
    }
    scope_done(&sc);
    return e;
}

static void end_lease(struct job *j, enum queue_end end)
{
    struct queue_lease lease;
    struct scope sc;

    roll_leave(j->slot, &lease);
    scope_init(&sc, j->scope.arena, ROW_LIMIT_MS);
    if (queue_finish(&sc, j->type->queue, &lease, 1, end, j->delay_ms) != OK) {
        /* The lease runs out by itself, and the next claim finds what the row says. */
        log_event(LOG_WARN, "job.finish", "%s", sc.cause == NULL ? "" : sc.cause);
    }
    scope_done(&sc);
}

/* No claim: the row has ended or is gone, or the database is away. */
static bool give_up(struct job *j, const struct queue_lease *lease, enum err e)
{
    j->row = (struct job_row){.id = lease->job, .user_id = lease->user, .type = j->type->name};
    j->row.created_at = clock_wall_ms();
    j->delay_ms = backoff_ms(1);
    log_attempt(j, e == ERR_NOT_FOUND ? "over" : "unclaimed", e == ERR_NOT_FOUND ? OK : e);
    end_lease(j, e == ERR_NOT_FOUND ? QUEUE_DONE : QUEUE_RETRY);
    return e == ERR_NOT_FOUND;
}

bool attempt_run(struct arena *arena, size_t slot, const struct queue_lease *lease)
{
    struct job *j = arena_new(arena, struct job);
    struct scope sc;
    struct verdict verdict;
    enum err e;

    j->slot = slot;
    j->type = job_type(lease->kind);
    j->start_mono_ms = clock_mono_ms();
    j->result = "{}";
    roll_enter(slot, lease);
    scope_init(&j->scope, arena, job_limits(lease->kind).timeout_ms);
    e = claim(j, lease);
    if (e != OK) {
        return give_up(j, lease, e);
    }
    roll_claimed(slot, j->row.fence);
    scope_init(&j->scope, arena, job_limits(lease->kind).timeout_ms);
    if (j->row.traceparent == NULL || !scope_trace_join(&j->scope, j->row.traceparent)) {
        scope_trace_new(&j->scope);
    }
    e = run_code(j);
    pg_release(&j->scope);
    scope_init(&sc, arena, ROW_LIMIT_MS);
    verdict = judge(j, &sc, &e);
    log_attempt(j, verdict.status, e);
    end_lease(j, verdict.end);
    if (!verdict.is_published && j->discard != NULL) {
        scope_done(&sc);
        scope_init(&sc, arena, DISCARD_LIMIT_MS);
        j->discard(j, &sc, j->discard_context);
    }
    scope_done(&sc);
    scope_done(&j->scope);
    return !is_outage(e);
}
