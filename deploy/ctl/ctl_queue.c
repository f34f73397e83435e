/* Queues as the operator sees them, in Redis. */
#include <inttypes.h>
#include <string.h>

#include "deploy/ctl/ctl.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/pg.h"
#include "lib/queue.h"
#include "queries.h"

enum { DRAIN_LOOK_MS = 500, DRAIN_LIMIT_MS = 600000 };

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
    printf("%s%s: %" PRId64 " known, %" PRId64 " delayed, %" PRId64 " to be done now\n", name,
           s.paused ? " (paused)" : "", s.n_known, s.n_delayed, s.n_known - s.n_delayed + s.n_due);
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

/* The row first: it is what the scheduler tells Redis, should we die in between. */
static int set_paused(struct scope *sc, const char *queue, bool paused)
{
    const struct place home = {0};
    enum err e;

    if (!is_queue(queue)) {
        return CTL_USAGE;
    }
    e = pg_exec(sc,
                paused ? q_queue_pauses_set(sc, home, queue) : q_queue_pauses_drop(sc, home, queue),
                NULL);
    if (e == OK) {
        e = queue_pause(sc, queue, paused);
    }
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
            clock_nap_ms(DRAIN_LOOK_MS);
        }
    }
    if (status == CTL_DONE) {
        printf("nothing of queue %s runs; %" PRId64 " jobs wait for `queue resume`\n", argv[0],
               s.n_known);
    }
    return status;
}
