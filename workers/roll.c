/* The roll of running jobs. Slots are written by their thread and read by the beating and the
 * reporting thread under one lock that nobody holds while waiting for Redis or PostgreSQL. What
 * a job asks in its inner loop is atomic. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/log.h"
#include "lib/pg.h"
#include "lib/redis.h"
#include "lib/shape.h"
#include "lib/str.h"
#include "queries.h"
#include "workers/attempt.h"

enum {
    STOPS_WAIT_MS = 500, /* what a closing worker may still wait for its listener */
    STOPS_PAUSE_MS = 1000
};
enum { REPORT_MS = 500, REPORT_LIMIT_MS = 2000, BEAT_ARENA_BYTES = 262144 };

struct slot {
    bool used;
    struct queue_lease lease;
    int64_t fence;     /* 0: not claimed yet */
    int64_t n_entries; /* tells this use of the slot from the next */
    int reported;      /* percent that the row has */
    size_t n_lines;    /* said so far by this job; the last JOB_LOG_LINES are in lines */
    size_t n_written;  /* of them */
    char lines[JOB_LOG_LINES][JOB_LOG_LINE_SIZE];
    _Atomic int progress;
    _Atomic int stop;
};

static struct slot *slots;
static size_t n_slots;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t closing = PTHREAD_COND_INITIALIZER;
static bool is_closing;
static pthread_t beater, reporter, listener;

void roll_open(size_t n)
{
    slots = calloc(n, sizeof(*slots));
    if (slots == NULL) {
        abort();
    }
    n_slots = n;
}

void roll_enter(size_t slot, const struct queue_lease *lease)
{
    struct slot *s = &slots[slot];

    pthread_mutex_lock(&lock);
    s->used = true;
    s->lease = *lease;
    s->fence = 0;
    s->n_entries++;
    s->reported = 0;
    s->n_lines = s->n_written = 0;
    atomic_store(&s->progress, 0);
    atomic_store(&s->stop, STOP_NONE);
    pthread_mutex_unlock(&lock);
}

void roll_claimed(size_t slot, int64_t fence)
{
    pthread_mutex_lock(&lock);
    slots[slot].fence = fence;
    pthread_mutex_unlock(&lock);
}

void roll_leave(size_t slot, struct queue_lease *lease_out)
{
    pthread_mutex_lock(&lock);
    *lease_out = slots[slot].lease;
    slots[slot].used = false;
    pthread_mutex_unlock(&lock);
}

enum stop roll_stop(size_t slot)
{
    return (enum stop)atomic_load_explicit(&slots[slot].stop, memory_order_relaxed);
}

void roll_progress(size_t slot, int percent)
{
    atomic_store_explicit(&slots[slot].progress, percent, memory_order_relaxed);
}

static void stop_slot(struct slot *s, enum stop why)
{
    int none = STOP_NONE;

    atomic_compare_exchange_strong(&s->stop, &none, (int)why);
}

void roll_interrupt(enum stop why)
{
    size_t i;

    pthread_mutex_lock(&lock);
    for (i = 0; i < n_slots; i++) {
        if (slots[i].used) {
            stop_slot(&slots[i], why);
        }
    }
    pthread_mutex_unlock(&lock);
}

size_t roll_busy(void)
{
    size_t i, n = 0;

    pthread_mutex_lock(&lock);
    for (i = 0; i < n_slots; i++) {
        n += slots[i].used;
    }
    pthread_mutex_unlock(&lock);
    return n;
}

/* Leases of one partition, at most a batch from slot *next on. */
static size_t gather(const char *queue, int partition, size_t *next, struct queue_lease *leases,
                     size_t *from)
{
    size_t n = 0;

    pthread_mutex_lock(&lock);
    for (; *next < n_slots && n < QUEUE_BATCH_MAX; (*next)++) {
        const struct slot *s = &slots[*next];

        if (s->used && strcmp(job_type(s->lease.kind)->queue, queue) == 0 &&
            queue_partition_of(s->lease.job) == partition) {
            leases[n] = s->lease;
            from[n++] = *next;
        }
    }
    pthread_mutex_unlock(&lock);
    return n;
}

static void apply(const struct queue_lease *lease, size_t slot, enum queue_beat beat)
{
    struct slot *s = &slots[slot];

    pthread_mutex_lock(&lock);
    if (s->used && strcmp(s->lease.token, lease->token) == 0) {
        memcpy(s->lease.epoch, lease->epoch, sizeof(s->lease.epoch));
        if (beat != QUEUE_BEAT_OK) {
            stop_slot(s, beat == QUEUE_BEAT_CANCELLED ? STOP_CANCELLED : STOP_LOST);
        }
    }
    pthread_mutex_unlock(&lock);
}

static void beat_partition(struct arena *arena, const char *queue, int partition)
{
    struct queue_lease leases[QUEUE_BATCH_MAX];
    enum queue_beat beats[QUEUE_BATCH_MAX];
    size_t from[QUEUE_BATCH_MAX], next = 0, n, i;
    struct scope sc;

    while ((n = gather(queue, partition, &next, leases, from)) > 0) {
        arena_reset(arena);
        scope_init(&sc, arena, config()->redis_timeout_ms);
        if (queue_extend(&sc, queue, partition, leases, n, beats) == OK) {
            for (i = 0; i < n; i++) {
                apply(&leases[i], from[i], beats[i]);
            }
        } else {
            log_event(LOG_WARN, "job.heartbeat", "%s", sc.cause == NULL ? "" : sc.cause);
        }
        scope_done(&sc);
    }
}

/* Wait unless the roll is closing; false: it is. */
static bool rest(int64_t ms)
{
    struct timespec until = worker_deadline(ms);
    bool goes_on;

    pthread_mutex_lock(&lock);
    while (!is_closing &&
           pthread_cond_clockwait(&closing, &lock, CLOCK_MONOTONIC, &until) != ETIMEDOUT) {
    }
    goes_on = !is_closing;
    pthread_mutex_unlock(&lock);
    return goes_on;
}

static void *beat(void *unused)
{
    struct arena *arena = arena_open(BEAT_ARENA_BYTES);
    size_t n, i;
    const char *const *queues = queue_names(&n);
    int partition;

    (void)unused;
    while (rest(config()->job_heartbeat_ms)) {
        for (i = 0; i < n; i++) {
            for (partition = 0; partition < queue_partitions(); partition++) {
                beat_partition(arena, queues[i], partition);
            }
        }
    }
    redis_thread_done();
    arena_close(&arena);
    return NULL;
}

static void stop_lease(const char *token)
{
    size_t i;

    pthread_mutex_lock(&lock);
    for (i = 0; i < n_slots; i++) {
        if (slots[i].used && strcmp(slots[i].lease.token, token) == 0) {
            stop_slot(&slots[i], STOP_CANCELLED);
        }
    }
    pthread_mutex_unlock(&lock);
}

/* A cancelled job's child is ended at once; heartbeats would find out too, but later. */
static void *listen_for_stops(void *worker)
{
    struct arena *arena = arena_open(BEAT_ARENA_BYTES);
    enum err e = OK;

    while (rest(e == OK ? 0 : STOPS_PAUSE_MS)) {
        char token[QUEUE_TOKEN_SIZE];
        struct scope sc;

        arena_reset(arena);
        scope_init(&sc, arena, STOPS_WAIT_MS + config()->redis_timeout_ms);
        e = queue_stops(&sc, worker, STOPS_WAIT_MS, token);
        if (e == OK && token[0] != '\0') {
            stop_lease(token);
        }
        scope_done(&sc);
    }
    redis_thread_done();
    arena_close(&arena);
    return NULL;
}

/* Why a row does not take an attempt's progress: cancelled by its owner, or another's by now. */
static enum stop why_refused(struct scope *sc, struct id job)
{
    struct job_state state;

    return attempt_state(sc, job, &state) == OK && strcmp(state.status, "cancelled") == 0
               ? STOP_CANCELLED
               : STOP_LOST;
}

void roll_log(size_t slot, const char *line)
{
    struct slot *s = &slots[slot];

    pthread_mutex_lock(&lock);
    snprintf(s->lines[s->n_lines % JOB_LOG_LINES], JOB_LOG_LINE_SIZE, "%s", line);
    s->n_lines++;
    pthread_mutex_unlock(&lock);
}

/* What a slot has to tell, copied under the lock. */
struct news {
    struct queue_lease lease;
    int64_t fence, entry;
    int percent;
    bool has_grown;
    size_t n_lines;
    const char *lines; /* JSON array; NULL: nothing was said */
};

static struct news take_news(struct arena *arena, struct slot *s)
{
    struct news news = {.percent = atomic_load(&s->progress)};
    size_t i = s->n_written;

    news.lease = s->lease;
    news.fence = s->fence;
    news.entry = s->n_entries;
    news.n_lines = s->n_lines;
    news.has_grown = s->used && s->fence > 0 && news.percent > s->reported;
    if (s->used && s->fence > 0 && s->n_lines > s->n_written) {
        struct strbuf b;

        strbuf_init(&b, arena, 1024);
        i = s->n_lines - i > JOB_LOG_LINES ? s->n_lines - JOB_LOG_LINES : i;
        for (; i < s->n_lines; i++) {
            strbuf_putc(&b, b.len == 0 ? '[' : ',');
            strbuf_json(&b, s->lines[i % JOB_LOG_LINES]);
        }
        strbuf_putc(&b, ']');
        news.lines = b.data;
    }
    return news;
}

static enum err write_lines(struct scope *sc, struct slot *s, const struct news *news)
{
    if (news->lines == NULL) {
        return OK;
    }
    TRY(pg_exec(sc, q_jobs_log(sc, news->lease.job, news->fence, news->lines), NULL));
    pthread_mutex_lock(&lock);
    if (s->used && s->n_entries == news->entry) {
        s->n_written = news->n_lines;
    }
    pthread_mutex_unlock(&lock);
    return OK;
}

void roll_say(size_t slot, struct arena *arena)
{
    struct slot *s = &slots[slot];
    struct news news;
    struct scope sc;

    pthread_mutex_lock(&lock);
    news = take_news(arena, s);
    pthread_mutex_unlock(&lock);
    scope_init(&sc, arena, REPORT_LIMIT_MS);
    (void)!write_lines(&sc, s, &news);
    scope_done(&sc);
}

/* Write one slot's progress if it has grown, and what it says. A row that does not take it is no
 * longer this attempt's. False: the database is missing, leave the rest for later. */
static bool report_slot(struct arena *arena, struct slot *s)
{
    enum stop why = STOP_NONE;
    int64_t n_rows = 0;
    struct news news;
    struct scope sc;
    enum err e;

    arena_reset(arena);
    pthread_mutex_lock(&lock);
    news = take_news(arena, s);
    pthread_mutex_unlock(&lock);
    if (!news.has_grown && news.lines == NULL) {
        return true;
    }
    scope_init(&sc, arena, REPORT_LIMIT_MS);
    e = write_lines(&sc, s, &news);
    if (e == OK && news.has_grown) {
        e = pg_exec(&sc, q_jobs_progress(&sc, news.lease.job, news.fence, news.percent), &n_rows);
        if (e == OK && n_rows == 0) {
            why = why_refused(&sc, news.lease.job);
        }
    }
    pthread_mutex_lock(&lock);
    if (e == OK && s->used && s->n_entries == news.entry && news.has_grown) {
        s->reported = news.percent;
        if (why != STOP_NONE) {
            stop_slot(s, why);
        }
    }
    pthread_mutex_unlock(&lock);
    if (e == OK && news.has_grown && why == STOP_NONE) {
        (void)!queue_tell(&sc, news.lease.user, news.lease.job, news.lease.kind, "processing",
                          news.percent);
    }
    scope_done(&sc);
    return e == OK;
}

static void *report(void *unused)
{
    struct arena *arena = arena_open(BEAT_ARENA_BYTES);
    int64_t pause_ms = REPORT_MS;
    size_t i;

    (void)unused;
    while (rest(pause_ms)) {
        bool is_good = true;

        for (i = 0; i < n_slots && is_good; i++) {
            is_good = report_slot(arena, &slots[i]);
        }
        pause_ms = is_good ? REPORT_MS : 10 * REPORT_MS;
    }
    redis_thread_done();
    arena_close(&arena);
    return NULL;
}

void roll_start(char *worker)
{
    if (pthread_create(&beater, NULL, beat, NULL) != 0 ||
        pthread_create(&reporter, NULL, report, NULL) != 0 ||
        pthread_create(&listener, NULL, listen_for_stops, worker) != 0) {
        fputs("maxbooster-worker: a thread does not start\n", stderr);
        exit(EXIT_FAILURE);
    }
}

void roll_close(void)
{
    pthread_mutex_lock(&lock);
    is_closing = true;
    pthread_cond_broadcast(&closing);
    pthread_mutex_unlock(&lock);
    pthread_join(beater, NULL);
    pthread_join(reporter, NULL);
    pthread_join(listener, NULL);
}
