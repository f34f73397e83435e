/* What a scheduler counts, and what its leader knows of the queues: asked every few seconds in the
 * scheduler's thread, told by the door's. */
#include <pthread.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/depend.h"
#include "lib/door.h"
#include "lib/log.h"
#include "lib/pg.h"
#include "lib/shape.h"
#include "queries.h"
#include "workers/scheduler.h"

enum { SWEEPS_MAX = 24, QUEUES_MAX = 16, ASK_MS = 5000, LIMIT_MS = 10000 };

struct sweep_count {
    const char *name;
    int64_t good, bad, swept;
};

struct type_figures {
    int64_t ready, running, concurrency, oldest_ms, dead;
};

struct queue_figures {
    int64_t ready, delayed, leased, work;
    bool paused;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* All of it under the lock. */
static struct {
    int64_t counts[DOOR__COUNT];
    struct sweep_count sweeps[SWEEPS_MAX];
    bool leads;
    int64_t round_mono_ms;
    bool is_known; /* the two below */
    struct type_figures types[JOB__COUNT];
    struct queue_figures queues[QUEUES_MAX];
} told;

struct figures_row {
    int64_t oldest_at, dead;
};

static const struct field figures_row_fields[] = {
    F_TIME(figures_row, oldest_at, "oldestAt", F_OPTIONAL),
    F_I64(figures_row, dead, "dead", 0, INT64_MAX, 0),
};
static const struct shape shape_figures = SHAPE(figures_row, figures_row_fields);

void figures_count(enum door_metric metric, int64_t n)
{
    pthread_mutex_lock(&lock);
    told.counts[metric] += n;
    pthread_mutex_unlock(&lock);
}

void figures_swept(const char *name, int64_t n, bool is_good)
{
    size_t i;

    pthread_mutex_lock(&lock);
    for (i = 0;
         i < SWEEPS_MAX && told.sweeps[i].name != NULL && strcmp(told.sweeps[i].name, name) != 0;
         i++) {
    }
    if (i < SWEEPS_MAX) {
        told.sweeps[i].name = name;
        told.sweeps[i].good += is_good;
        told.sweeps[i].bad += !is_good;
        told.sweeps[i].swept += n;
    }
    pthread_mutex_unlock(&lock);
}

static enum err ask_queue(struct scope *sc, const char *queue, struct queue_figures *q,
                          struct type_figures *types)
{
    struct queue_stats s;
    enum job_kind kind;

    TRY(queue_stats(sc, queue, &s));
    *q = (struct queue_figures){.delayed = s.n_delayed,
                                .leased = s.n_leased,
                                .work = s.n_due + s.n_leased,
                                .paused = s.paused};
    for (kind = 0; kind < JOB__COUNT; kind++) {
        if (strcmp(job_type(kind)->queue, queue) == 0) {
            types[kind].ready = s.n_ready[kind];
            types[kind].running = s.n_running[kind];
            types[kind].concurrency = job_limits(kind).concurrency;
            q->ready += s.n_ready[kind];
            q->work += s.n_ready[kind];
        }
    }
    return OK;
}

static enum err ask_rows(struct scope *sc, enum job_kind kind, struct type_figures *t)
{
    int64_t now = clock_wall_ms();
    struct figures_row row;
    int database;

    for (database = 0; database < pg_database_count(); database++) {
        TRY(pg_one(sc, q_jobs_figures(sc, pg_place_on_database(database), job_type(kind)->name),
                   &shape_figures, &row));
        pg_release(sc);
        t->dead += row.dead;
        if (row.oldest_at != ABSENT_I64 && now - row.oldest_at > t->oldest_ms) {
            t->oldest_ms = now - row.oldest_at;
        }
    }
    return OK;
}

static enum err ask(struct scope *sc, struct queue_figures *queues, struct type_figures *types)
{
    size_t n, i;
    const char *const *names = queue_names(&n);
    enum job_kind kind;

    for (i = 0; i < n && i < QUEUES_MAX; i++) {
        TRY(ask_queue(sc, names[i], &queues[i], types));
    }
    for (kind = 0; kind < JOB__COUNT; kind++) {
        TRY(ask_rows(sc, kind, &types[kind]));
    }
    return OK;
}

void figures_round(struct arena *arena)
{
    static int64_t next_mono_ms;
    struct queue_figures queues[QUEUES_MAX] = {{.paused = false}};
    struct type_figures types[JOB__COUNT] = {{.ready = 0}};
    struct scope sc;
    bool is_known;

    if (config()->metrics_port == 0 || clock_mono_ms() < next_mono_ms) {
        return;
    }
    next_mono_ms = clock_mono_ms() + ASK_MS;
    arena_reset(arena);
    scope_init(&sc, arena, LIMIT_MS);
    is_known = ask(&sc, queues, types) == OK;
    if (!is_known) {
        log_event(LOG_WARN, "scheduler.figures", "%s", sc.cause == NULL ? "" : sc.cause);
    }
    scope_done(&sc);
    pthread_mutex_lock(&lock);
    told.is_known = is_known;
    memcpy(told.queues, queues, sizeof(queues));
    memcpy(told.types, types, sizeof(types));
    pthread_mutex_unlock(&lock);
}

void figures_lead(bool leads)
{
    pthread_mutex_lock(&lock);
    told.leads = leads;
    told.round_mono_ms = clock_mono_ms();
    told.is_known = told.is_known && leads;
    pthread_mutex_unlock(&lock);
}

static void write_queues(struct strbuf *out)
{
    size_t n, i;
    const char *const *names = queue_names(&n);
    const char *name = door_head(out, DOOR_KNOWN);

    for (i = 0; i < n && i < QUEUES_MAX; i++) {
        const struct queue_figures *q = &told.queues[i];

        strbuf_printf(out,
                      "%s{queue=\"%s\",state=\"ready\"} %lld\n"
                      "%s{queue=\"%s\",state=\"delayed\"} %lld\n"
                      "%s{queue=\"%s\",state=\"leased\"} %lld\n",
                      name, names[i], (long long)q->ready, name, names[i], (long long)q->delayed,
                      name, names[i], (long long)q->leased);
    }
    name = door_head(out, DOOR_PAUSED);
    for (i = 0; i < n && i < QUEUES_MAX; i++) {
        strbuf_printf(out, "%s{queue=\"%s\"} %d\n", name, names[i], told.queues[i].paused);
    }
    name = door_head(out, DOOR_WORK);
    for (i = 0; i < n && i < QUEUES_MAX; i++) {
        strbuf_printf(out, "%s{queue=\"%s\"} %lld\n", name, names[i],
                      (long long)told.queues[i].work);
    }
}

static void write_types(struct strbuf *out, enum door_metric metric, size_t offset, double scale)
{
    const char *name = door_head(out, metric);
    enum job_kind kind;

    for (kind = 0; kind < JOB__COUNT; kind++) {
        int64_t value;

        memcpy(&value, (const char *)&told.types[kind] + offset, sizeof(value));
        strbuf_printf(out, "%s{type=\"%s\"} %.15g\n", name, job_type(kind)->name,
                      (double)value * scale);
    }
}

static void write_sweeps(struct strbuf *out)
{
    const char *name = door_head(out, DOOR_SWEEPS);
    size_t i;

    for (i = 0; i < SWEEPS_MAX && told.sweeps[i].name != NULL; i++) {
        const struct sweep_count *s = &told.sweeps[i];

        strbuf_printf(out,
                      "%s{sweep=\"%s\",outcome=\"good\"} %lld\n"
                      "%s{sweep=\"%s\",outcome=\"failed\"} %lld\n",
                      name, s->name, (long long)s->good, name, s->name, (long long)s->bad);
    }
    name = door_head(out, DOOR_SWEPT);
    for (i = 0; i < SWEEPS_MAX && told.sweeps[i].name != NULL; i++) {
        strbuf_printf(out, "%s{sweep=\"%s\"} %lld\n", name, told.sweeps[i].name,
                      (long long)told.sweeps[i].swept);
    }
}

void figures_write(struct strbuf *out)
{
    static const enum door_metric counted[] = {DOOR_PROMOTED, DOOR_RECOVERED, DOOR_PUT_BACK,
                                               DOOR_CRON_JOBS};
    size_t i;

    pthread_mutex_lock(&lock);
    strbuf_printf(out, "%s %d\n", door_head(out, DOOR_LEADING), told.leads);
    strbuf_printf(out, "%s %.3f\n", door_head(out, DOOR_TICK_AGE),
                  (double)(clock_mono_ms() - told.round_mono_ms) / 1000);
    for (i = 0; i < ARRAY_LEN(counted); i++) {
        strbuf_printf(out, "%s %lld\n", door_head(out, counted[i]),
                      (long long)told.counts[counted[i]]);
    }
    write_sweeps(out);
    if (told.is_known) {
        write_queues(out);
        write_types(out, DOOR_READY, offsetof(struct type_figures, ready), 1);
        write_types(out, DOOR_RUNNING, offsetof(struct type_figures, running), 1);
        write_types(out, DOOR_CONCURRENCY, offsetof(struct type_figures, concurrency), 1);
        write_types(out, DOOR_OLDEST, offsetof(struct type_figures, oldest_ms), 1e-3);
        write_types(out, DOOR_DEAD, offsetof(struct type_figures, dead), 1);
    }
    pthread_mutex_unlock(&lock);
    depend_write_states(out, door_head(out, DOOR_BREAKERS));
}
