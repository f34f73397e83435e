/* The end of an attempt: one fenced write decides, and only then the queue is told. */
#include <stdlib.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/pg.h"
#include "lib/session.h"
#include "lib/str.h"
#include "queries.h"
#include "workers/attempt.h"

enum {
    COMPLETE_PAUSE_MS = 50,
    PAUSE_TOP_MS = 1000,      /* pauses double up to this */
    COMPLETE_LIMIT_MS = 60000 /* work that is done is worth waiting for the database */
};

struct ended {
    struct id id;
};

static const struct field ended_fields[] = {F_ID(ended, id, "id", 0)};
static const struct shape shape_ended = SHAPE(ended, ended_fields);

struct completed {
    struct id id, parent_id, parent_user_id;
    const char *parent_type;
    bool parent_ready;
};

static const struct field completed_fields[] = {
    F_ID(completed, id, "id", 0),
    F_ID(completed, parent_id, "parentId", F_OPTIONAL),
    F_ID(completed, parent_user_id, "parentUserId", F_OPTIONAL),
    F_STR(completed, parent_type, "parentType", 1, 64, F_OPTIONAL),
    F_BOOL(completed, parent_ready, "parentReady", 0),
};
static const struct shape shape_completed = SHAPE(completed, completed_fields);

bool ending_is_outage(enum err e)
{
    return e == ERR_DEPENDENCY_UNAVAILABLE || e == ERR_POOL_SATURATED || e == ERR_OVERLOADED;
}

int64_t ending_backoff_ms(int64_t failures)
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

void ending_pause(int64_t ms)
{
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

static enum err not_ours(struct job *j)
{
    return scope_fail(&j->scope, ERR_CONFLICT, "the row is no longer this attempt's");
}

static enum err one_row(struct scope *sc, struct pg_query q, int64_t *n_rows)
{
    struct ended row;
    enum err e = pg_one(sc, q, &shape_ended, &row);

    *n_rows = e == OK;
    return e == ERR_NOT_FOUND ? OK : e;
}

/* One statement or transaction on the row, tried again while the database is away. n_rows 0: the
 * fence no longer holds. */
static enum err write_row(struct job *j, struct scope *sc, struct pg_query q)
{
    int64_t pause_ms = COMPLETE_PAUSE_MS, n_rows = 0;
    enum err e;

    while ((e = q.kind == PG_EXEC ? pg_exec(sc, q, &n_rows) : one_row(sc, q, &n_rows)) != OK &&
           scope_left_ms(sc, INT64_MAX) > pause_ms &&
           (ending_is_outage(e) || e == ERR_WRITE_UNKNOWN)) {
        pg_release(sc);
        ending_pause(pause_ms);
        pause_ms = pause_ms < PAUSE_TOP_MS ? 2 * pause_ms : pause_ms;
        scope_forgive(sc);
    }
    if (e == OK && n_rows == 0) {
        return not_ours(j);
    }
    return e;
}

static enum err complete_once(struct job *j, struct scope *sc, struct completed *ended_out)
{
    struct place place = id_place(j->row.id);
    enum err e;

    TRY(pg_begin(sc, place));
    e = pg_one(sc, q_jobs_complete(sc, j->row.id, j->row.fence, j->result), &shape_completed,
               ended_out);
    if (e != OK) {
        return e == ERR_NOT_FOUND ? not_ours(j) : e;
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

    return attempt_state(sc, j->row.id, &state) == OK && state.fence == j->row.fence &&
           strcmp(state.status, "completed") == 0;
}

/* The last of its children has ended. Where this is lost, the scheduler finds the parent. */
static void push_parent(struct scope *sc, const struct completed *ended)
{
    const struct job_type *type = ended->parent_ready ? job_type_find(ended->parent_type) : NULL;

    if (type != NULL && queue_push(sc, type->kind, ended->parent_id, ended->parent_user_id) != OK) {
        scope_forgive(sc);
    }
}

void ending_mark(const struct job *j, struct scope *sc)
{
    const char *cause = sc->cause;
    struct pg_mark mark;

    /* Where it cannot be kept, readers may for a moment be told what was true before. */
    if (!id_is_nil(j->row.user_id) && pg_written(sc, id_place(j->row.id), &mark) &&
        session_mark(sc, j->row.user_id, mark) != OK) {
        sc->cause = cause;
    }
}

static enum err complete(struct job *j)
{
    struct completed ended = {.parent_ready = false};
    int64_t pause_ms = COMPLETE_PAUSE_MS;
    struct scope sc;
    enum err e;

    scope_init(&sc, j->scope.arena, COMPLETE_LIMIT_MS);
    for (;;) {
        e = complete_once(j, &sc, &ended);
        pg_release(&sc);
        if (e == ERR_WRITE_UNKNOWN && is_completed(j, &sc)) {
            e = OK;
        }
        if (e == OK || (!ending_is_outage(e) && e != ERR_WRITE_UNKNOWN) ||
            scope_left_ms(&sc, INT64_MAX) <= pause_ms || roll_stop(j->slot) == STOP_LOST) {
            break;
        }
        ending_pause(pause_ms);
        pause_ms = pause_ms < PAUSE_TOP_MS ? 2 * pause_ms : pause_ms;
        scope_forgive(&sc);
    }
    if (e != OK && j->scope.cause == NULL) {
        j->scope.cause = sc.cause;
    }
    if (e == OK) {
        push_parent(&sc, &ended);
    }
    ending_mark(j, &sc);
    scope_done(&sc);
    return e;
}

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
    } else if (ending_is_outage(e) && j->row.stalled < config()->stalled_max) {
        j->delay_ms = ending_backoff_ms(j->row.stalled + 1);
        status = "postponed";
        q = q_jobs_postpone(sc, j->row.id, j->row.fence, clock_wall_ms() + j->delay_ms);
    } else {
        j->delay_ms = ending_backoff_ms(j->row.attempts);
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

struct verdict ending_judge(struct job *j, struct scope *sc, enum err *e)
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
    if (why == STOP_SHUTDOWN || (ending_is_outage(*e) && j->row.stalled < config()->stalled_max) ||
        (err_info(*e)->retry != RETRY_NEVER &&
         j->row.attempts <= job_limits(j->type->kind).retries)) {
        return put_back(j, sc, *e);
    }
    return fail(j, sc, *e);
}
