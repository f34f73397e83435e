/* Single jobs as the operator sees them: the rows. */
#include <inttypes.h>
#include <string.h>

#include "deploy/ctl/ctl.h"
#include "lib/clock.h"
#include "lib/pg.h"
#include "lib/queue.h"
#include "lib/shape.h"
#include "queries.h"

enum { DEAD_PAGE = 100, LOG_LINES = 1000, CALL_MS = 30000 };

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

struct shown {
    struct id id, user_id, parent_id;
    const char *type, *status, *error, *dedup_key;
    int64_t progress, attempts, stalled, fence, waits_for;
    int64_t run_at, created_at, started_at, finished_at;
};

static const struct field shown_fields[] = {
    F_ID(shown, id, "id", 0),
    F_ID(shown, user_id, "userId", F_OPTIONAL),
    F_STR(shown, type, "type", 1, 64, 0),
    F_STR(shown, status, "status", 1, 16, 0),
    F_I64(shown, progress, "progress", 0, INT64_MAX, 0),
    F_I64(shown, attempts, "attempts", 0, INT64_MAX, 0),
    F_I64(shown, stalled, "stalled", 0, INT64_MAX, 0),
    F_I64(shown, fence, "fence", 0, INT64_MAX, 0),
    F_JSON(shown, error, "error", F_OPTIONAL),
    F_ID(shown, parent_id, "parentId", F_OPTIONAL),
    F_I64(shown, waits_for, "waitsFor", 0, INT64_MAX, 0),
    F_STR(shown, dedup_key, "dedupKey", 0, 200, F_OPTIONAL),
    F_TIME(shown, run_at, "runAt", 0),
    F_TIME(shown, created_at, "createdAt", 0),
    F_TIME(shown, started_at, "startedAt", F_OPTIONAL),
    F_TIME(shown, finished_at, "finishedAt", F_OPTIONAL),
};
static const struct shape shape_shown = SHAPE(shown, shown_fields);

struct said {
    int64_t at, fence;
    const char *line;
};

static const struct field said_fields[] = {
    F_TIME(said, at, "at", 0),
    F_I64(said, fence, "fence", 0, INT64_MAX, 0),
    F_STR(said, line, "line", 0, 500, 0),
};
static const struct shape shape_said = SHAPE(said, said_fields);

/* What to do with a failed job; false: stop, a sentence was printed. */
typedef bool (*dead_fn)(struct scope *sc, const struct dead *job);

/* All failed jobs of a type, page by page. */
static int each_dead(struct scope *sc, const char *type, dead_fn fn)
{
    int database;

    for (database = 0; database < pg_database_count(); database++) {
        struct id after = {{0}};
        struct dead *rows;
        size_t n = DEAD_PAGE, i;

        while (n == DEAD_PAGE) {
            enum err e;

            arena_reset(sc->arena);
            scope_init(sc, sc->arena, CALL_MS);
            e = pg_many(sc, q_jobs_dead(sc, pg_place_on_database(database), type, after, DEAD_PAGE),
                        &shape_dead, &rows, &n);
            pg_release(sc);
            if (e != OK) {
                return ctl_fail(sc, e, "dead jobs");
            }
            for (i = 0; i < n; i++) {
                after = rows[i].id;
                if (!fn(sc, &rows[i])) {
                    return CTL_FAILED;
                }
            }
        }
    }
    return CTL_DONE;
}

static bool print_dead(struct scope *sc, const struct dead *job)
{
    char time[CLOCK_TEXT_SIZE];

    clock_format(job->finished_at, time);
    printf("%s %s %s attempts=%" PRId64 " stalled=%" PRId64 " %s\n", time,
           id_text(sc->arena, job->id), job->type, job->attempts, job->stalled,
           job->error == NULL ? "" : job->error);
    return true;
}

int ctl_queue_dead(struct scope *sc, int argc, char **argv)
{
    enum job_kind kind;
    int status = CTL_DONE;

    if (argc > 0) {
        return each_dead(sc, argv[0], print_dead);
    }
    for (kind = 0; kind < JOB__COUNT && status == CTL_DONE; kind++) {
        status = each_dead(sc, job_type(kind)->name, print_dead);
    }
    return status;
}

/* A failed job gets all its attempts anew. */
static bool retry(struct scope *sc, const struct dead *dead)
{
    const char *text = id_text(sc->arena, dead->id);
    const struct job_type *type;
    struct revived job;
    enum err e = pg_one(sc, q_jobs_revive(sc, dead->id), &shape_revived, &job);

    if (e != OK) {
        (void)ctl_fail(sc, e, "queue retry");
        return false;
    }
    pg_release(sc);
    type = job_type_find(job.type);
    if (type != NULL && queue_push(sc, type->kind, job.id, job.user_id) != OK) {
        printf("job %s is queued; the scheduler will push it\n", text);
        scope_forgive(sc);
        return true;
    }
    printf("job %s is queued\n", text);
    return true;
}

static bool drop(struct scope *sc, const struct dead *dead)
{
    int64_t n = 0;
    enum err e = pg_exec(sc, q_jobs_drop(sc, dead->id), &n);

    pg_release(sc);
    if (e != OK || n == 0) {
        (void)ctl_fail(sc, e == OK ? ERR_NOT_FOUND : e, "queue drop");
        return false;
    }
    printf("job %s is forgotten\n", id_text(sc->arena, dead->id));
    return true;
}

/* One job by its id, or all failed ones of a type. */
static int one_or_all(struct scope *sc, const char *word, dead_fn fn)
{
    struct dead job = {.type = NULL};

    if (id_parse(word, strlen(word), &job.id)) {
        return fn(sc, &job) ? CTL_DONE : CTL_FAILED;
    }
    if (job_type_find(word) == NULL) {
        fprintf(stderr, "maxboosterctl: %s is no job id and no job type.\n", word);
        return CTL_USAGE;
    }
    return each_dead(sc, word, fn);
}

int ctl_queue_retry(struct scope *sc, int argc, char **argv)
{
    (void)argc;
    return one_or_all(sc, argv[0], retry);
}

int ctl_queue_drop(struct scope *sc, int argc, char **argv)
{
    (void)argc;
    return one_or_all(sc, argv[0], drop);
}

static void print_time(const char *name, int64_t ms)
{
    char text[CLOCK_TEXT_SIZE];

    if (ms != ABSENT_I64) {
        clock_format(ms, text);
        printf("  %-12s %s\n", name, text);
    }
}

static void print_shown(struct scope *sc, const struct shown *j)
{
    printf("%s %s %s %" PRId64 " %%\n  attempts=%" PRId64 " stalled=%" PRId64 " fence=%" PRId64
           " waitsFor=%" PRId64 "\n",
           id_text(sc->arena, j->id), j->type, j->status, j->progress, j->attempts, j->stalled,
           j->fence, j->waits_for);
    print_time("created", j->created_at);
    print_time("due", j->run_at);
    print_time("started", j->started_at);
    print_time("finished", j->finished_at);
    if (!id_is_nil(j->parent_id)) {
        printf("  %-12s %s\n", "parent", id_text(sc->arena, j->parent_id));
    }
    if (j->dedup_key != NULL) {
        printf("  %-12s %s\n", "key", j->dedup_key);
    }
    if (j->error != NULL) {
        printf("  %-12s %s\n", "error", j->error);
    }
}

int ctl_queue_show(struct scope *sc, int argc, char **argv)
{
    char time[CLOCK_TEXT_SIZE];
    struct shown job;
    struct said *lines;
    struct id id;
    size_t n, i;
    enum err e;

    (void)argc;
    if (!id_parse(argv[0], strlen(argv[0]), &id)) {
        fprintf(stderr, "maxboosterctl: %s is no job id.\n", argv[0]);
        return CTL_USAGE;
    }
    e = pg_one(sc, q_jobs_show(sc, id), &shape_shown, &job);
    if (e == OK) {
        e = pg_many(sc, q_jobs_logs(sc, id, LOG_LINES), &shape_said, &lines, &n);
    }
    if (e != OK) {
        return ctl_fail(sc, e, "queue show");
    }
    print_shown(sc, &job);
    for (i = 0; i < n; i++) {
        clock_format(lines[i].at, time);
        printf("%s [%" PRId64 "] %s\n", time, lines[i].fence, lines[i].line);
    }
    return CTL_DONE;
}
