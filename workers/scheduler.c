/* maxbooster-scheduler: a round every SCHEDULER_TICK_MS, as long as it leads. */
#include "workers/scheduler.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/bus.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/depend.h"
#include "lib/fleet.h"
#include "lib/harden.h"
#include "lib/instance.h"
#include "lib/lock.h"
#include "lib/log.h"
#include "lib/pg.h"
#include "lib/redis.h"
#include "lib/str.h"

enum {
    EXIT_CONFIG = 78, /* EX_CONFIG */
    ARENA_BYTES = 8 << 20,
    CALL_LIMIT_MS = 5000,
    LOCK_TTL_MS = 3000,
    LOCK_FRESH_MS = 500,
    TEND_CALLS_MAX = 50,
    QUEUES_MAX = 16
};

#define LOCK_NAME "scheduler"

/* One thread: no locks. */
static struct {
    char id[33];
    int64_t renewed_mono_ms; /* start of the last good renewal */
    int64_t fence;           /* 0: we do not lead */
} lead;

static struct {
    char epoch[QUEUE_EPOCH_SIZE];
    int64_t lost_mono_ms; /* 0: never */
    bool is_paused;
} seen[QUEUES_MAX][QUEUE_PARTITIONS_MAX];

static sigset_t signals;

static void resign(const char *why)
{
    if (lead.fence != 0) {
        log_event(LOG_WARN, "scheduler.lead", "no longer leading: %s", why);
    }
    lead.fence = 0;
}

bool lead_keep(struct arena *arena)
{
    int64_t now = clock_mono_ms(), fence = 0;
    struct scope sc;
    enum err e;

    if (lead.fence != 0 && now - lead.renewed_mono_ms < LOCK_FRESH_MS) {
        return true;
    }
    scope_init(&sc, arena, CALL_LIMIT_MS);
    e = lock_take(&sc, LOCK_NAME, lead.id, LOCK_TTL_MS, &fence);
    if (e != OK && lead.fence != 0 && now - lead.renewed_mono_ms < LOCK_TTL_MS) {
        return true;
    }
    if (e != OK || fence == 0) {
        resign(e == OK ? "another does" : sc.cause == NULL ? "" : sc.cause);
        return false;
    }
    if (lead.fence != fence) {
        log_event(LOG_INFO, "scheduler.lead", "leading, with fence %lld", (long long)fence);
    }
    lead.fence = fence;
    lead.renewed_mono_ms = now;
    return true;
}

int64_t lead_fence(void)
{
    return lead.fence;
}

void lead_leave(struct arena *arena)
{
    struct scope sc;

    if (lead.fence != 0) {
        scope_init(&sc, arena, CALL_LIMIT_MS);
        (void)!lock_leave(&sc, LOCK_NAME, lead.id);
    }
}

bool scheduler_stopping(void)
{
    sigset_t pending;

    return sigpending(&pending) == 0 &&
           (sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1);
}

static void note_epoch(size_t i, int partition, const char *queue, const char *epoch)
{
    if (strcmp(seen[i][partition].epoch, epoch) != 0) {
        /* Also at the start: what happened before is not known. */
        seen[i][partition].lost_mono_ms = clock_mono_ms();
        memcpy(seen[i][partition].epoch, epoch, sizeof(seen[i][partition].epoch));
        log_event(LOG_INFO, "scheduler.epoch", "queue %s:%d is of epoch %s", queue, partition,
                  epoch);
    }
}

static void tend(struct arena *arena, size_t i, int partition, const char *queue)
{
    const struct queue_want want = {.queue = queue, .partition = partition, .worker = "scheduler"};
    int64_t n_promoted = 0, n_recovered = 0;
    struct queue_got got = {.more_due = true};
    int calls;

    for (calls = 0; got.more_due && calls < TEND_CALLS_MAX; calls++) {
        struct scope sc;

        arena_reset(arena);
        scope_init(&sc, arena, CALL_LIMIT_MS);
        if (queue_fetch(&sc, &want, &got) != OK) {
            log_event(LOG_WARN, "scheduler.tend", "%s", sc.cause == NULL ? "" : sc.cause);
            return;
        }
        note_epoch(i, partition, queue, got.epoch);
        seen[i][partition].is_paused = got.paused;
        n_promoted += got.n_promoted;
        n_recovered += got.n_recovered;
    }
    figures_count(DOOR_PROMOTED, n_promoted);
    figures_count(DOOR_RECOVERED, n_recovered);
    if (n_recovered > 0) {
        log_event(LOG_WARN, "scheduler.recovered", "%lld jobs of queue %s had lost their worker",
                  (long long)n_recovered, queue);
    }
}

void queues_tend(struct arena *arena)
{
    size_t n, i;
    const char *const *queues = queue_names(&n);
    int partition;

    for (i = 0; i < n && i < QUEUES_MAX; i++) {
        for (partition = 0; partition < queue_partitions(); partition++) {
            tend(arena, i, partition, queues[i]);
        }
    }
}

int64_t queues_lost_ms(const char *queue)
{
    size_t n, i;
    const char *const *queues = queue_names(&n);
    int64_t latest = 0;
    int partition;

    for (i = 0; i < n && i < QUEUES_MAX; i++) {
        for (partition = 0; strcmp(queues[i], queue) == 0 && partition < queue_partitions();
             partition++) {
            int64_t lost_ms = seen[i][partition].lost_mono_ms;

            latest = lost_ms > latest ? lost_ms : latest;
        }
    }
    return latest == 0 ? -1 : clock_mono_ms() - latest;
}

bool queues_pause_is(const char *queue, bool paused)
{
    size_t n, i;
    const char *const *queues = queue_names(&n);
    int partition;

    for (i = 0; i < n && i < QUEUES_MAX; i++) {
        for (partition = 0; strcmp(queues[i], queue) == 0 && partition < queue_partitions();
             partition++) {
            if (seen[i][partition].is_paused != paused) {
                return false;
            }
        }
    }
    return true;
}

/* Wait a tick; false: the process is to end. */
static bool wait_tick(void)
{
    int64_t ms = config()->scheduler_tick_ms;
    const struct timespec tick = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    int number = sigtimedwait(&signals, NULL, &tick);

    if (number == SIGHUP) {
        config_reload_logged();
    }
    return number != SIGTERM && number != SIGINT;
}

static void run(void)
{
    struct arena *arena = arena_open(ARENA_BYTES);

    do {
        arena_reset(arena);
        if (lead_keep(arena)) {
            queues_tend(arena);
            pauses_round(arena);
            putback_round(arena);
            cron_round(arena);
            outbox_round(arena);
            sweep_round(arena);
            figures_round(arena);
        }
        figures_lead(lead_fence() > 0);
    } while (wait_tick());
    arena_reset(arena);
    lead_leave(arena);
    redis_thread_done();
    arena_close(&arena);
}

int main(void)
{
    struct instance_plan plan = {.path = NULL};
    uint8_t random[16];

    log_open("scheduler");
    if (!config_load(stderr)) {
        return EXIT_CONFIG;
    }
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    harden_process();
    harden_follow_supervisor();
    crypto_open();
    if (!redis_may_start(stderr) || !bus_may_start(stderr)) {
        return EXIT_CONFIG;
    }
    crypto_random(random, sizeof(random));
    hex_encode(random, sizeof(random), lead.id);
    instance_open(&plan);
    pg_open();
    depend_open(0);
    fleet_open("scheduler");
    (void)door_open((int)config()->metrics_port, figures_write);
    log_event(LOG_INFO, "start", "a round every %lld ms", (long long)config()->scheduler_tick_ms);
    run();
    fleet_close();
    pg_close();
    log_event(LOG_INFO, "stopped", "done");
    return EXIT_SUCCESS;
}
