/* Queues as the operator sees them: what waits and runs is asked of Redis, what has failed of
 * the rows. */
#include <inttypes.h>
#include <string.h>

#include "deploy/ctl/ctl.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/pg.h"
#include "lib/queue.h"
#include "lib/shape.h"
#include "queries.h"

enum { DEAD_PAGE = 100, DRAIN_LOOK_MS = 500, DRAIN_LIMIT_MS = 600000 };

struct dead {
    struct id id, user_id;
    const char *type, *error;
    int64_t attempts, stalled, finished_at;
};

static const struct field dead_fields[] = {
    F_ID(dead, id, "id", 0),
    F_ID(dead, user_id, "userId", F_OPTIONAL),
    F_STR(dead, type, "type", 1, 64, 0),
    F_I64(dead, attempts, "attempts", 0, INT64_MAX, 0),
    F_I64(dead, stalled, "stalled", 0, INT64_MAX, 0),
    F_JSON(dead, error, "error", F_OPTIONAL),
    F_TIME(dead, finished_at, "finishedAt", F_OPTIONAL),
};
static const struct shape shape_dead = SHAPE(dead, dead_fields);

struct revived {
    struct id id, user_id;
    const char *type;
};

static const struct field revived_fields[] = {
    F_ID(revived, id, "id", 0),
    F_ID(revived, user_id, "userId", F_OPTIONAL),
    F_STR(revived, type, "type", 1, 64, 0),
};
static const struct shape shape_revived = SHAPE(revived, revived_fields);

static bool is_queue(const char *name)
{
    size_t n, i;
    const char *const *names = queue_names(&n);

    for (i = 0; i < n; i++) {
        if (strcmp(names[i], name) == 0) {
            return true;
        }
    }
    fprintf(stderr, "maxboosterctl: there is no queue \"%s\".\n", name);
    return false;
}

static int print_queue(struct scope *sc, const char *name)
{
    struct queue_stats s;
    enum job_kind kind;
    enum err e = queue_stats(sc, name, &s);

    if (e != OK) {
        return ctl_fail(sc, e, "queue stats");
    }
    printf("%s%s: %" PRId64 " known, %" PRId64 " delayed\n", name, s.paused ? " (paused)" : "",
           s.n_known, s.n_delayed);
    for (kind = 0; kind < JOB__COUNT; kind++) {
        if (strcmp(job_type(kind)->queue, name) == 0) {
            printf("  %-22s %8" PRId64 " ready %6" PRId64 " running of %" PRId64 "\n",
                   job_type(kind)->name, s.n_ready[kind], s.n_running[kind],
                   job_limits(kind).concurrency);
        }
    }
    return CTL_DONE;
}

int ctl_queue_stats(struct scope *sc, int argc, char **argv)
{
    size_t n, i;
    const char *const *names = queue_names(&n);
    int status = CTL_DONE;

    if (argc > 0) {
        return is_queue(argv[0]) ? print_queue(sc, argv[0]) : CTL_USAGE;
    }
    for (i = 0; i < n && status == CTL_DONE; i++) {
        status = print_queue(sc, names[i]);
    }
    return status;
}

static int set_paused(struct scope *sc, const char *queue, bool paused)
{
    enum err e;

    if (!is_queue(queue)) {
        return CTL_USAGE;
    }
    e = queue_pause(sc, queue, paused);
    if (e != OK) {
        return ctl_fail(sc, e, "queue pause");
    }
    printf("queue %s %s\n", queue,
           paused ? "gives out no more jobs; what runs goes on" : "goes on");
    return CTL_DONE;
}

int ctl_queue_pause(struct scope *sc, int argc, char **argv)
{
    (void)argc;
    return set_paused(sc, argv[0], true);
}

int ctl_queue_resume(struct scope *sc, int argc, char **argv)
{
    (void)argc;
    return set_paused(sc, argv[0], false);
}

/* Pause, then wait until nothing of the queue runs. */
int ctl_queue_drain(struct scope *sc, int argc, char **argv)
{
    const struct timespec look = {.tv_nsec = DRAIN_LOOK_MS * 1000000L};
    int64_t until = clock_mono_ms() + DRAIN_LIMIT_MS;
    struct queue_stats s = {.n_leased = 1};
    int status = set_paused(sc, argv[0], true);

    (void)argc;
    while (status == CTL_DONE && s.n_leased > 0) {
        enum err e;

        arena_reset(sc->arena);
        scope_init(sc, sc->arena, DRAIN_LIMIT_MS);
        e = queue_stats(sc, argv[0], &s);
        if (e != OK) {
            return ctl_fail(sc, e, "queue drain");
        }
        if (clock_mono_ms() > until) {
            fprintf(stderr, "maxboosterctl: %" PRId64 " jobs of queue %s still run.\n", s.n_leased,
                    argv[0]);
            return CTL_FAILED;
        }
        if (s.n_leased > 0) {
            clock_nanosleep(CLOCK_MONOTONIC, 0, &look, NULL);
        }
    }
    if (status == CTL_DONE) {
        printf("nothing of queue %s runs; %" PRId64 " jobs wait for `queue resume`\n", argv[0],
               s.n_known);
    }
    return status;
}

int ctl_queue_dead(struct scope *sc, int argc, char **argv)
{
    const char *type = argc > 0 ? argv[0] : NULL;
    int shard;

    for (shard = 0; shard < pg_shard_count(); shard++) {
        struct id after = {{0}};
        struct dead *rows;
        size_t n = DEAD_PAGE, i;

        while (n == DEAD_PAGE) {
            char time[CLOCK_TEXT_SIZE];
            enum err e =
                pg_many(sc, q_jobs_dead(sc, pg_place_on_shard(shard), type, after, DEAD_PAGE),
                        &shape_dead, &rows, &n);

            if (e != OK) {
                return ctl_fail(sc, e, "queue dead");
            }
            for (i = 0; i < n; i++) {
                clock_format(rows[i].finished_at, time);
                printf("%s %s %s attempts=%" PRId64 " stalled=%" PRId64 " %s\n", time,
                       id_text(sc->arena, rows[i].id), rows[i].type, rows[i].attempts,
                       rows[i].stalled, rows[i].error == NULL ? "" : rows[i].error);
                after = rows[i].id;
            }
        }
    }
    return CTL_DONE;
}

/* A failed job gets all its attempts anew. */
int ctl_queue_retry(struct scope *sc, int argc, char **argv)
{
    const struct job_type *type;
    struct revived job;
    struct id id;
    enum err e;

    (void)argc;
    if (!id_parse(argv[0], strlen(argv[0]), &id)) {
        fprintf(stderr, "maxboosterctl: %s is no job id.\n", argv[0]);
        return CTL_USAGE;
    }
    e = pg_one(sc, q_jobs_revive(sc, id), &shape_revived, &job);
    if (e != OK) {
        return ctl_fail(sc, e, "queue retry");
    }
    pg_release(sc);
    type = job_type_find(job.type);
    if (type != NULL && queue_push(sc, type->kind, job.id, job.user_id) != OK) {
        printf("job %s is queued; the scheduler will push it\n", argv[0]);
        return CTL_DONE;
    }
    printf("job %s is queued\n", argv[0]);
    return CTL_DONE;
}
