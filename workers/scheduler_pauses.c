/* Pauses of queues: rows on shard 0 are what the operator decided. Redis may lose it, and says what
 * it thinks whenever a queue is tended; so it is told again only where that differs. */
#include <string.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "lib/pg.h"
#include "lib/shape.h"
#include "queries.h"
#include "workers/scheduler.h"

enum {
    ROWS_MAX = 100,
    PAUSE_MS = 1000, /* between two looks, unless a queue was lost since */
    LIMIT_MS = 5000
};

struct pause_row {
    const char *queue;
};

static const struct field pause_fields[] = {F_STR(pause_row, queue, "queue", 1, 64, 0)};
static const struct shape shape_pause = SHAPE(pause_row, pause_fields);

static const struct place home = {0};

static bool is_among(const struct pause_row *rows, size_t n, const char *queue)
{
    size_t i;

    for (i = 0; i < n; i++) {
        if (strcmp(rows[i].queue, queue) == 0) {
            return true;
        }
    }
    return false;
}

static enum err tell(struct scope *sc)
{
    struct pause_row *rows;
    size_t n, n_queues, i;
    const char *const *queues = queue_names(&n_queues);

    TRY(pg_many(sc, q_queue_pauses_list(sc, home, ROWS_MAX), &shape_pause, &rows, &n));
    for (i = 0; i < n_queues; i++) {
        bool should = is_among(rows, n, queues[i]);

        if (!queues_pause_is(queues[i], should)) {
            log_event(LOG_WARN, "scheduler.pause", "queue %s %s", queues[i],
                      should ? "is paused again" : "goes on");
            TRY(queue_pause(sc, queues[i], should));
        }
    }
    return OK;
}

void pauses_round(struct arena *arena)
{
    static int64_t told_mono_ms; /* one thread */
    int64_t now = clock_mono_ms();
    size_t n, i;
    const char *const *queues = queue_names(&n);
    bool is_due = told_mono_ms == 0 || now - told_mono_ms >= PAUSE_MS;
    struct scope sc;
    enum err e;

    for (i = 0; i < n && !is_due; i++) {
        int64_t lost_ms = queues_lost_ms(queues[i]);

        is_due = lost_ms >= 0 && now - lost_ms > told_mono_ms;
    }
    if (!is_due) {
        return;
    }
    arena_reset(arena);
    scope_init(&sc, arena, LIMIT_MS);
    e = tell(&sc);
    pg_release(&sc);
    if (e != OK) {
        log_event(LOG_WARN, "scheduler.pause", "%s",
                  sc.cause == NULL ? err_info(e)->code : sc.cause);
    }
    scope_done(&sc);
    told_mono_ms = now;
}
