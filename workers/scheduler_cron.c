/* Jobs by the clock. A tick's job and the step to the next tick are one transaction on shard 0, so
 * a tick has one job exactly, whoever dies where. The transaction also holds the leader's number
 * from PostgreSQL against the one that was written last: a leader that stood still and has been
 * followed by another makes no tick any more. */
#include <string.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/cron.h"
#include "lib/log.h"
#include "lib/pg.h"
#include "lib/promise.h"
#include "lib/str.h"
#include "queries.h"
#include "workers/scheduler.h"

enum {
    ROWS_MAX = 1000,
    TICKS_MAX = 100, /* of one schedule in one round */
    PAUSE_MS = 500,  /* between two looks at all schedules */
    LIMIT_MS = 10000,
    MISSED_MS = 60000 /* a tick later than this was missed */
};

struct cron_row {
    const char *name, *type, *schedule, *zone, *catch_up, *payload;
    bool is_paused;
    int64_t next_at;
};

static const struct field cron_fields[] = {
    F_STR(cron_row, name, "name", 1, 64, 0),
    F_STR(cron_row, type, "type", 1, 64, 0),
    F_STR(cron_row, schedule, "schedule", 1, 100, 0),
    F_STR(cron_row, zone, "zone", 1, 64, 0),
    F_STR(cron_row, catch_up, "catchUp", 1, 8, 0),
    F_JSON(cron_row, payload, "payload", 0),
    F_BOOL(cron_row, is_paused, "isPaused", 0),
    F_TIME(cron_row, next_at, "nextAt", F_OPTIONAL),
};
static const struct shape shape_cron = SHAPE(cron_row, cron_fields);

struct fence_row {
    int64_t fence;
};

static const struct field fence_fields[] = {F_I64(fence_row, fence, "fence", 1, INT64_MAX, 0)};
static const struct shape shape_fence = SHAPE(fence_row, fence_fields);

static const struct place home = {0};

/* Our number in PostgreSQL, and the lead that it was taken for. One thread: no locks. */
static struct {
    int64_t lead, fence;
} ours;

static enum err take_fence(struct scope *sc)
{
    struct fence_row row;

    if (ours.fence > 0 && ours.lead == lead_fence()) {
        return OK;
    }
    TRY(pg_one(sc, q_crons_lead(sc, home, "scheduler"), &shape_fence, &row));
    ours.lead = lead_fence();
    ours.fence = row.fence;
    return OK;
}

/* The schedule's payload with the name and the tick in front. */
static const char *payload_of(struct scope *sc, const struct cron_row *row, int64_t tick_ms)
{
    char time[CLOCK_TEXT_SIZE];
    struct strbuf b;

    clock_format(tick_ms, time);
    strbuf_init(&b, sc->arena, 128);
    strbuf_puts(&b, "{\"cron\":");
    strbuf_json(&b, row->name);
    strbuf_printf(&b, ",\"tick\":\"%s\"", time);
    if (row->payload[0] == '{' && strcmp(row->payload, "{}") != 0) {
        strbuf_putc(&b, ',');
        strbuf_puts(&b, row->payload + 1);
    } else {
        strbuf_putc(&b, '}');
    }
    return b.data;
}

/* One step: from the tick that was seen to the next, and a job where fires. *moved_out false:
 * another leads, or the schedule was changed. */
static enum err advance(struct scope *sc, const struct cron_row *row, int64_t next_ms,
                        const struct job_type *fires, bool *moved_out)
{
    struct promise p = {.kind = fires == NULL ? JOB__COUNT : fires->kind, .place = home};
    int64_t n_rows = 0;

    *moved_out = false;
    TRY(pg_begin(sc, home));
    TRY(pg_exec(sc, q_crons_advance(sc, home, row->name, row->next_at, next_ms, ours.fence),
                &n_rows));
    if (n_rows == 0) {
        pg_rollback(sc, home);
        ours.fence = 0; /* if we still lead, the next round takes a number anew */
        return OK;
    }
    if (fires != NULL) {
        p.payload = payload_of(sc, row, row->next_at);
        TRY(promise_many(sc, &p, 1));
    }
    TRY(pg_commit(sc, home));
    *moved_out = true;
    if (fires != NULL) {
        promise_push(sc, &p, 1);
        figures_count(DOOR_CRON_JOBS, 1);
        log_event(LOG_INFO, "scheduler.cron", "%s: job %s", row->name, id_text(sc->arena, p.id));
    }
    return OK;
}

/* Is there a job for the tick, and what comes next? By the policy for ticks that were missed: none:
 * they are passed over; one: they make one job; all: each makes its own. */
static bool plan_step(const struct cron *c, const struct cron_row *row, int64_t now,
                      int64_t *next_ms_out)
{
    bool is_late = now - row->next_at > MISSED_MS;
    int64_t from = strcmp(row->catch_up, "all") == 0 ? row->next_at : now;

    if (!cron_next(c, row->zone, from, next_ms_out)) {
        *next_ms_out = ABSENT_I64;
    }
    return strcmp(row->catch_up, "none") != 0 || !is_late;
}

static enum err tick(struct scope *sc, struct cron_row *row)
{
    const struct job_type *type = job_type_find(row->type);
    struct cron c;
    int64_t now = clock_wall_ms(), next_ms;
    bool moved = true;
    int n;

    if (row->is_paused || type == NULL || !cron_parse(row->schedule, &c)) {
        return OK;
    }
    if (row->next_at == ABSENT_I64) {
        return cron_next(&c, row->zone, now, &next_ms) ? advance(sc, row, next_ms, NULL, &moved)
                                                       : OK;
    }
    for (n = 0; n < TICKS_MAX && moved && row->next_at != ABSENT_I64 && row->next_at <= now &&
                !scheduler_stopping();
         n++) {
        bool fires = plan_step(&c, row, now, &next_ms);

        TRY(advance(sc, row, next_ms, fires ? type : NULL, &moved));
        pg_release(sc);
        row->next_at = next_ms;
    }
    return OK;
}

static enum err tick_all(struct scope *sc)
{
    struct cron_row *rows;
    size_t n, i;

    TRY(take_fence(sc));
    TRY(pg_many(sc, q_crons_list(sc, home, ROWS_MAX), &shape_cron, &rows, &n));
    pg_release(sc);
    for (i = 0; i < n; i++) {
        TRY(tick(sc, &rows[i]));
        pg_release(sc);
    }
    return OK;
}

void cron_round(struct arena *arena)
{
    static int64_t next_mono_ms;
    struct scope sc;

    if (clock_mono_ms() < next_mono_ms) {
        return;
    }
    arena_reset(arena);
    scope_init(&sc, arena, LIMIT_MS);
    if (tick_all(&sc) != OK) {
        log_event(LOG_WARN, "scheduler.cron", "%s", sc.cause == NULL ? "" : sc.cause);
    }
    scope_done(&sc);
    next_mono_ms = clock_mono_ms() + PAUSE_MS;
}
