/* Threads that serve queues. A thread fetches, runs, and fetches again; only when nothing is
 * ready does it sleep at the queue's wake list, so picking up costs one round trip and a job's
 * end leads straight to the next. */
#include "workers/worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/log.h"
#include "lib/redis.h"
#include "lib/str.h"
#include "workers/figures.h"

enum {
    THREADS_MAX = 1024,
    JOB_ARENA_BYTES = 8 << 20, /* a long file is many S3 requests of a few KiB each */
    STACK_BYTES = 1024 * 1024,
    FETCH_LIMIT_MS = 10000,
    WAIT_MS = 1000,        /* a sleeper looks at least this often: a wake may have been lost */
    OUTAGE_PAUSE_MS = 250, /* after an attempt that met an outage: so would the next */
    PAUSE_MS = 1000,       /* while a dependency is missing */
    GRACE_MS = 2000,       /* what runs may finish by itself before it is interrupted */
    STOP_LIMIT_MS = 8000   /* then the process ends regardless; leases run out */
};

struct server {
    pthread_t thread;
    const struct pool *pool;
    size_t slot;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t stop_asked = PTHREAD_COND_INITIALIZER;
static _Atomic bool is_stopping;
static _Atomic size_t n_serving;
static char worker_id[17];

bool worker_stopping(void)
{
    return atomic_load_explicit(&is_stopping, memory_order_relaxed);
}

struct timespec worker_deadline(int64_t ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    return until;
}

void worker_sleep(int64_t ms)
{
    struct timespec until = worker_deadline(ms);

    pthread_mutex_lock(&lock);
    while (!worker_stopping() &&
           pthread_cond_clockwait(&stop_asked, &lock, CLOCK_MONOTONIC, &until) != ETIMEDOUT) {
    }
    pthread_mutex_unlock(&lock);
}

/* Fetch from the thread's own partition first, then from the others. */
static enum err fetch(struct scope *sc, const struct server *s, struct queue_got *got_out)
{
    struct queue_want want = {.queue = s->pool->queue, .worker = worker_id, .max = 1};
    int n = queue_partitions(), i;

    memcpy(want.kinds, s->pool->kinds, sizeof(want.kinds));
    for (i = 0; i < n; i++) {
        want.partition = (int)((s->slot + (size_t)i) % (size_t)n);
        TRY(queue_fetch(sc, &want, got_out));
        if (got_out->n > 0) {
            return OK;
        }
    }
    return OK;
}

/* Sleep at the own partition; with several, others must be looked at as well. */
static enum err wait_for_job(struct scope *sc, const struct server *s, const struct queue_got *got)
{
    int n = queue_partitions();
    int64_t wait_ms = WAIT_MS / n;

    if (got->next_due_ms >= 0 && got->next_due_ms < wait_ms && !got->paused) {
        wait_ms = got->next_due_ms;
    }
    return queue_wait(sc, s->pool->queue, (int)(s->slot % (size_t)n), wait_ms);
}

/* Fetch and run one job, or sleep until there may be one. */
static void serve_one(struct arena *arena, const struct server *s)
{
    struct queue_got got;
    struct scope sc;
    enum err e;

    arena_reset(arena);
    scope_init(&sc, arena, FETCH_LIMIT_MS);
    e = fetch(&sc, s, &got);
    if (e == OK && got.n == 0) {
        e = wait_for_job(&sc, s, &got);
    }
    if (e != OK) {
        log_event(LOG_WARN, "job.fetch", "%s", sc.cause == NULL ? "" : sc.cause);
        worker_sleep(PAUSE_MS);
    }
    scope_done(&sc);
    if (e == OK && got.n > 0 && !attempt_run(arena, s->slot, &got.leases[0])) {
        worker_sleep(OUTAGE_PAUSE_MS);
    }
}

static void *serve(void *context)
{
    struct server *s = context;
    struct arena *arena = arena_open(JOB_ARENA_BYTES);

    while (!worker_stopping()) {
        serve_one(arena, s);
    }
    redis_thread_done();
    arena_close(&arena);
    atomic_fetch_sub(&n_serving, 1);
    return NULL;
}

static bool start_thread(struct server *s, const pthread_attr_t *attributes)
{
    atomic_fetch_add(&n_serving, 1);
    return pthread_create(&s->thread, attributes, serve, s) == 0 && pthread_detach(s->thread) == 0;
}

static bool start(struct server *servers, const struct pool *pools, size_t n_pools)
{
    pthread_attr_t attributes;
    bool is_good = true;
    size_t pool, i, n = 0;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    for (pool = 0; pool < n_pools; pool++) {
        for (i = 0; i < pools[pool].threads && is_good; i++, n++) {
            servers[n] = (struct server){.pool = &pools[pool], .slot = n};
            is_good = start_thread(&servers[n], &attributes);
        }
    }
    pthread_attr_destroy(&attributes);
    return is_good;
}

static void wait_for_servers(int64_t limit_ms)
{
    int64_t until = clock_mono_ms() + limit_ms;
    const struct timespec pause = {.tv_nsec = 10000000};

    while (atomic_load(&n_serving) > 0 && clock_mono_ms() < until) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    }
}

static void stop(void)
{
    log_event(LOG_INFO, "stop", "taking no more jobs; %zu run", roll_busy());
    pthread_mutex_lock(&lock);
    atomic_store(&is_stopping, true);
    pthread_cond_broadcast(&stop_asked);
    pthread_mutex_unlock(&lock);
    wait_for_servers(GRACE_MS);
    roll_interrupt(STOP_SHUTDOWN);
    wait_for_servers(STOP_LIMIT_MS);
}

static void mind_signals(void)
{
    sigset_t signals;
    int number = 0;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    while (number != SIGTERM && number != SIGINT) {
        if (sigwait(&signals, &number) == 0 && number == SIGHUP) {
            config_reload_logged();
        }
    }
}

int worker_run(const char *list)
{
    static struct server servers[THREADS_MAX];
    static struct pool pools[POOLS_MAX];
    uint8_t random[8];
    size_t n_pools, n_threads = 0, i;

    if (!pools_read(list, pools, &n_pools)) {
        return EXIT_FAILURE;
    }
    for (i = 0; i < n_pools; i++) {
        n_threads += pools[i].threads;
    }
    if (n_threads > THREADS_MAX) {
        fprintf(stderr, "maxbooster-worker: more than %d threads in all\n", THREADS_MAX);
        return EXIT_FAILURE;
    }
    crypto_random(random, sizeof(random));
    hex_encode(random, sizeof(random), worker_id);
    roll_open(n_threads + 1);
    roll_start(worker_id);
    figures_threads(n_threads);
    if (!start(servers, pools, n_pools)) {
        fputs("maxbooster-worker: a thread does not start\n", stderr);
        return EXIT_FAILURE;
    }
    log_event(LOG_INFO, "start", "serving %s, %d threads in all", list, (int)n_threads);
    mind_signals();
    stop();
    roll_close();
    log_event(LOG_INFO, "stopped", "%zu jobs were left to their leases", roll_busy());
    return EXIT_SUCCESS;
}
