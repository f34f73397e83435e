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

enum {
    THREADS_MAX = 1024,
    QUEUES_MAX = 16,
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
    const char *queue;
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

static struct queue_want want_of(const char *queue)
{
    struct queue_want want = {.queue = queue, .worker = worker_id, .max = 1};
    enum job_kind kind;

    for (kind = 0; kind < JOB__COUNT; kind++) {
        const char *name = job_type(kind)->name;

        want.kinds[kind] = job_code_lookup(name, strlen(name)) != NULL;
    }
    return want;
}

/* Fetch and run one job, or sleep until there may be one. */
static void serve_one(struct arena *arena, const struct server *s, const struct queue_want *want)
{
    struct queue_got got;
    struct scope sc;
    enum err e;

    arena_reset(arena);
    scope_init(&sc, arena, FETCH_LIMIT_MS);
    e = queue_fetch(&sc, want, &got);
    if (e == OK && got.n == 0) {
        int64_t wait_ms = got.next_due_ms >= 0 && got.next_due_ms < WAIT_MS && !got.paused
                              ? got.next_due_ms
                              : WAIT_MS;

        e = queue_wait(&sc, s->queue, wait_ms);
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
    struct queue_want want = want_of(s->queue);

    while (!worker_stopping()) {
        serve_one(arena, s, &want);
    }
    redis_thread_done();
    arena_close(&arena);
    atomic_fetch_sub(&n_serving, 1);
    return NULL;
}

/* Split the list; a queue that cannot be served is left out with a line in the log, an unknown
 * one is an error. */
static bool choose(const char *list, const char **queues, size_t *n_out)
{
    size_t n_known, i;
    const char *const *known = queue_names(&n_known);

    *n_out = 0;
    while (*list != '\0') {
        size_t len = strcspn(list, ",");

        for (i = 0; i < n_known; i++) {
            if (strlen(known[i]) == len && strncmp(known[i], list, len) == 0) {
                break;
            }
        }
        if (i == n_known || *n_out == QUEUES_MAX) {
            fprintf(stderr, "maxbooster-worker: there is no queue \"%.*s\"\n", (int)len, list);
            return false;
        }
        if (strcmp(known[i], "email") == 0 && *config()->smtp_url == '\0') {
            log_event(LOG_WARN, "worker.queue", "SMTP_URL is empty: e-mail jobs wait");
        } else {
            queues[(*n_out)++] = known[i];
        }
        list += len + (list[len] == ',');
    }
    return true;
}

static bool start(struct server *servers, const char *const *queues, size_t n_queues)
{
    size_t threads = (size_t)config()->worker_threads, i;
    pthread_attr_t attributes;
    bool is_good = true;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    for (i = 0; i < n_queues * threads && is_good; i++) {
        servers[i] = (struct server){.queue = queues[i / threads], .slot = i};
        atomic_fetch_add(&n_serving, 1);
        is_good = pthread_create(&servers[i].thread, &attributes, serve, &servers[i]) == 0;
        if (is_good) {
            pthread_detach(servers[i].thread);
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
    const char *queues[QUEUES_MAX];
    uint8_t random[8];
    size_t n_queues;

    if (!choose(list, queues, &n_queues)) {
        return EXIT_FAILURE;
    }
    if (n_queues * (size_t)config()->worker_threads > THREADS_MAX) {
        fprintf(stderr, "maxbooster-worker: more than %d threads in all\n", THREADS_MAX);
        return EXIT_FAILURE;
    }
    crypto_random(random, sizeof(random));
    hex_encode(random, sizeof(random), worker_id);
    roll_open(THREADS_MAX);
    roll_start();
    if (!start(servers, queues, n_queues)) {
        fputs("maxbooster-worker: a thread does not start\n", stderr);
        return EXIT_FAILURE;
    }
    log_event(LOG_INFO, "start", "serving %s, %d threads each", list,
              (int)config()->worker_threads);
    mind_signals();
    stop();
    roll_close();
    log_event(LOG_INFO, "stopped", "%zu jobs were left to their leases", roll_busy());
    return EXIT_SUCCESS;
}
