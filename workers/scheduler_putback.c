/* Putting back: rows in PostgreSQL are what was promised, so every unfinished one is shown to
 * its queue again and again; the queue takes those that it does not know. Databases are walked in
 * order of their last change, a bounded number of rows a round, so a long backlog costs little;
 * after a loss of Redis the walk starts anew and hurries. */
#include <string.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/log.h"
#include "lib/pg.h"
#include "lib/pg_map.h"
#include "lib/shape.h"
#include "queries.h"
#include "workers/scheduler.h"

enum {
    BATCH = 500,
    HURRY_BATCHES = 40, /* of each database a round, after a loss */
    HURRY_MS = 60000,   /* a loss counts as recent that long */
    AGE_MS = 3000,      /* younger rows are on their way */
    PAUSE_MS = 2000,    /* between two walks of a database */
    QUERY_LIMIT_MS = 10000
};

struct unfinished {
    struct id id, user_id;
    const char *type, *status;
    int64_t run_at, updated_at;
};

static const struct field unfinished_fields[] = {
    F_ID(unfinished, id, "id", 0),
    F_ID(unfinished, user_id, "userId", F_OPTIONAL),
    F_STR(unfinished, type, "type", 1, 64, 0),
    F_STR(unfinished, status, "status", 1, 16, 0),
    F_TIME(unfinished, run_at, "runAt", 0),
    F_TIME(unfinished, updated_at, "updatedAt", 0),
};
static const struct shape shape_unfinished = SHAPE(unfinished, unfinished_fields);

/* Where the walk of each database is. One thread: no locks. */
static struct walk {
    int64_t after_updated_at;
    struct id after_id;
    int64_t start_mono_ms; /* of this walk; the next one waits */
    int64_t age_ms;        /* younger rows are on their way */
    bool is_begun;
} walks[PG_MAP_DATABASES_MAX];
static int64_t walks_epoch;

/* Workers that live enter their leases anew with the next heartbeat: leave them the time, or
 * work would be doubled. */
static bool is_left_alone(const struct unfinished *row, const struct job_type *type)
{
    int64_t lost_ms = queues_lost_ms(type->queue);

    return strcmp(row->status, "processing") == 0 && lost_ms >= 0 &&
           lost_ms < 3 * config()->job_heartbeat_ms + AGE_MS;
}

/* Push the rows of one kind. */
static enum err push_kind(struct scope *sc, enum job_kind kind, const struct unfinished *rows,
                          size_t n, int64_t *n_new)
{
    struct queue_item items[QUEUE_PUSH_MAX];
    int64_t now = clock_wall_ms(), n_more;
    size_t i, n_items = 0;

    for (i = 0; i <= n; i++) {
        const struct job_type *type = i < n ? job_type_find(rows[i].type) : NULL;

        if (n_items == QUEUE_PUSH_MAX || (i == n && n_items > 0)) {
            TRY(queue_push_many(sc, kind, items, n_items, &n_more));
            *n_new += n_more;
            n_items = 0;
        }
        if (type != NULL && type->kind == kind && !is_left_alone(&rows[i], type)) {
            items[n_items++] = (struct queue_item){rows[i].id, rows[i].user_id,
                                                   rows[i].run_at > now ? rows[i].run_at - now : 0};
        }
    }
    return OK;
}

/* The next rows of a database. False: the walk is at its end, or something is missing. */
static bool walk_on(struct arena *arena, int database, int64_t *n_new)
{
    struct walk *w = &walks[database];
    struct unfinished *rows;
    struct scope sc;
    enum job_kind kind;
    size_t n = 0;
    enum err e;

    arena_reset(arena);
    scope_init(&sc, arena, QUERY_LIMIT_MS);
    e = pg_many(&sc,
                q_jobs_unfinished(&sc, pg_place_on_database(database), clock_wall_ms() - w->age_ms,
                                  w->is_begun ? w->after_updated_at : ABSENT_I64, w->after_id,
                                  BATCH),
                &shape_unfinished, &rows, &n);
    pg_release(&sc);
    for (kind = 0; kind < JOB__COUNT && e == OK && n > 0; kind++) {
        e = push_kind(&sc, kind, rows, n, n_new);
    }
    if (e != OK) {
        log_event(LOG_WARN, "scheduler.putback", "database %d: %s", database,
                  sc.cause == NULL ? err_info(e)->code : sc.cause);
    } else if (n > 0) {
        w->is_begun = true;
        w->after_updated_at = rows[n - 1].updated_at;
        w->after_id = rows[n - 1].id;
    }
    scope_done(&sc);
    return e == OK && n == BATCH;
}

/* When Redis lost a queue last, on the monotonic clock; -1: not within HURRY_MS. */
static int64_t loss_mono_ms(void)
{
    size_t n, i;
    const char *const *queues = queue_names(&n);
    int64_t latest_ms = HURRY_MS;

    for (i = 0; i < n; i++) {
        int64_t lost_ms = queues_lost_ms(queues[i]);

        latest_ms = lost_ms >= 0 && lost_ms < latest_ms ? lost_ms : latest_ms;
    }
    return latest_ms < HURRY_MS ? clock_mono_ms() - latest_ms : -1;
}

/* Is there something to walk on? After a loss a walk begins anew at once, with the youngest rows:
 * what is pushed twice is known, and who is put back late is served late. */
static bool begin(struct walk *w, int64_t lost_at_ms)
{
    int64_t now = clock_mono_ms();
    bool is_behind = lost_at_ms >= 0 && w->start_mono_ms <= lost_at_ms;

    if (!is_behind && (w->is_begun || now - w->start_mono_ms < PAUSE_MS)) {
        return w->is_begun;
    }
    *w = (struct walk){.start_mono_ms = now, .age_ms = is_behind ? 0 : AGE_MS};
    return true;
}

void putback_round(struct arena *arena)
{
    int64_t lost_at_ms = loss_mono_ms(), n_new = 0;
    int batches = lost_at_ms >= 0 ? HURRY_BATCHES : 1, i, database;
    bool goes_on[ARRAY_LEN(walks)] = {false};

    if (walks_epoch != pg_map_now()->epoch) { /* the numbers mean other databases now */
        walks_epoch = pg_map_now()->epoch;
        memset(walks, 0, sizeof(walks));
    }
    for (database = 0; database < pg_database_count(); database++) {
        goes_on[database] = begin(&walks[database], lost_at_ms);
    }
    for (i = 0; i < batches; i++) { /* in turns, so that no database's artists come first */
        for (database = 0;
             database < pg_database_count() && lead_keep(arena) && !scheduler_stopping();
             database++) {
            if (goes_on[database]) {
                goes_on[database] = walk_on(arena, database, &n_new);
                walks[database].is_begun = goes_on[database];
            }
        }
    }
    figures_count(DOOR_PUT_BACK, n_new);
    if (n_new > 0) {
        log_event(LOG_WARN, "scheduler.putback", "%lld jobs were unknown to their queue",
                  (long long)n_new);
    }
}
