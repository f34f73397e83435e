/* One attempt, from the claim to its end. The row in PostgreSQL decides: the claim raises its
 * fence, and every later write carries that fence, so whatever happens to leases, one attempt at
 * most takes effect. Redis is told last. */
#include <stdlib.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/log.h"
#include "lib/pg.h"
#include "lib/str.h"
#include "queries.h"
#include "workers/attempt.h"
#include "workers/figures.h"

enum { CLAIM_PAUSE_MS = 20, DISCARD_LIMIT_MS = 5000, TELL_LIMIT_MS = 1000 };

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
    F_TIME(job_row, run_at, "runAt", 0),
};
static const struct shape shape_job_row = SHAPE(job_row, job_row_fields);

static const struct field job_state_fields[] = {
    F_STR(job_state, status, "status", 1, 16, 0),
    F_I64(job_state, fence, "fence", 0, INT64_MAX, 0),
    F_I64(job_state, waits_for, "waitsFor", 0, INT64_MAX, 0),
    F_I64(job_state, due_in_ms, "dueInMs", INT64_MIN, INT64_MAX, 0),
};
static const struct shape shape_job_state = SHAPE(job_state, job_state_fields);

enum err attempt_state(struct scope *sc, struct id job, struct job_state *state_out)
{
    return pg_one(sc, q_jobs_state(sc, job), &shape_job_state, state_out);
}

static void log_attempt(const struct job *j, const char *status, enum err e)
{
    int64_t duration_ms = clock_mono_ms() - j->start_mono_ms;
    struct log_line l;
    char text[ID_TEXT_SIZE];

    figures_ended(j->type->kind, status, duration_ms);

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
    log_i64(&l, "durationMs", duration_ms);
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
        ending_pause(CLAIM_PAUSE_MS);
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
    if (queue_finish(&sc, j->type->queue, queue_partition_of(lease.job), &lease, 1, end,
                     j->delay_ms) != OK) {
        /* The lease runs out by itself, and the next claim finds what the row says. */
        log_event(LOG_WARN, "job.finish", "%s", sc.cause == NULL ? "" : sc.cause);
    }
    scope_done(&sc);
}

/* Why there is nothing to claim: the row has ended or is gone, or its time has not come (it was
 * pushed back; the clocks differ). *early_ms_out above 0: come back then. */
static enum err ask_why(struct job *j, const struct queue_lease *lease, int64_t *early_ms_out)
{
    struct job_state state;
    struct scope sc;
    enum err e;

    *early_ms_out = 0;
    scope_init(&sc, j->scope.arena, ROW_LIMIT_MS);
    e = attempt_state(&sc, lease->job, &state);
    if (e == OK && strcmp(state.status, "queued") == 0 && state.waits_for == 0) {
        *early_ms_out = state.due_in_ms > 0 ? state.due_in_ms + 1 : 1;
    }
    scope_done(&sc);
    return e == ERR_NOT_FOUND ? OK : e;
}

/* No claim: there is nothing to do, or not yet, or the database is away. */
static bool give_up(struct job *j, const struct queue_lease *lease, enum err e)
{
    int64_t early_ms = 0;

    if (e == ERR_NOT_FOUND) {
        e = ask_why(j, lease, &early_ms);
    }
    j->row = (struct job_row){.id = lease->job, .user_id = lease->user, .type = j->type->name};
    j->row.created_at = clock_wall_ms();
    j->delay_ms = early_ms > 0 ? early_ms : ending_backoff_ms(1);
    log_attempt(j, e != OK ? "unclaimed" : early_ms > 0 ? "early" : "over", e);
    end_lease(j, e == OK && early_ms == 0 ? QUEUE_DONE : QUEUE_RETRY);
    return e == OK;
}

/* Tell the owner's listeners; nobody waits for it. */
static void tell(struct job *j, const char *status, int progress)
{
    struct scope sc;

    scope_init(&sc, j->scope.arena, TELL_LIMIT_MS);
    (void)!queue_tell(&sc, j->row.user_id, j->row.id, j->type->kind, status, progress);
    scope_done(&sc);
}

/* What the job's row says now, in its owner's words; NULL: no change that he sees. */
static const char *told_status(const char *verdict)
{
    static const struct {
        const char *verdict, *status;
    } words[] = {{"completed", "completed"},
                 {"failed", "failed"},
                 {"retry", "queued"},
                 {"postponed", "queued"},
                 {"released", "queued"}};
    size_t i;

    for (i = 0; i < ARRAY_LEN(words); i++) {
        if (strcmp(words[i].verdict, verdict) == 0) {
            return words[i].status;
        }
    }
    return NULL;
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
    if (j->row.fence == 1) {
        figures_claimed(lease->kind, clock_wall_ms() - j->row.run_at);
    }
    tell(j, "processing", 0);
    scope_init(&j->scope, arena, job_limits(lease->kind).timeout_ms);
    if (j->row.traceparent == NULL || !scope_trace_join(&j->scope, j->row.traceparent)) {
        scope_trace_new(&j->scope);
    }
    e = run_code(j);
    pg_release(&j->scope);
    roll_say(slot, arena);
    scope_init(&sc, arena, ROW_LIMIT_MS);
    verdict = ending_judge(j, &sc, &e);
    ending_mark(j, &sc);
    log_attempt(j, verdict.status, e);
    end_lease(j, verdict.end);
    if (told_status(verdict.status) != NULL) {
        tell(j, told_status(verdict.status), verdict.is_published ? 100 : 0);
    }
    if (!verdict.is_published && j->discard != NULL) {
        scope_done(&sc);
        scope_init(&sc, arena, DISCARD_LIMIT_MS);
        j->discard(j, &sc, j->discard_context);
    }
    scope_done(&sc);
    scope_done(&j->scope);
    return !ending_is_outage(e);
}
