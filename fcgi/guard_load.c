/* Too much to do: what cannot be answered in time is refused before it costs anything, low classes
 * first.
 *
 * Age. The proxy tells when it passed the request on, so the age is the time spent in sockets and
 * in the epoll set, waiting for a thread. As long as some requests wait hardly at all, a long wait
 * is a burst, and tolerated; when most of an interval waited longer than the target, the queue
 * stands, and only a short wait is (CoDel, RFC 8289, with a bound as in B. Maurer, "Fail at
 * Scale", ACM Queue 2015). The proxy and we read clocks that NTP keeps together.
 *
 * Concurrency. A limit that finds itself (lib/limiter.h), shared by the processes of the instance:
 * when requests get slower than they usually are, fewer are worked on at once, low classes only
 * below a share of the limit; held against requests once a queue has stood. One that waits for a
 * dependency does not count for long.
 *
 * Memory. Above a threshold bulk is refused, above the next one best effort too, and above the last
 * the process ends in order, one of an instance at a time. */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "fcgi/req_private.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/instance.h"
#include "lib/limiter.h"
#include "lib/log.h"
#include "lib/metrics.h"

enum {
    AGE_MAX_MS =
        60000, /* older than any proxy waits: its clock is wrong, and its word worth nothing */
    SECONDS_DIGITS = 12, /* of seconds since 1970: as many as matter, and no overflow */
    MEMORY_EVERY_MS = 1000,
    ALL_MILLI = 1000,
    QUICK_SHARE = 16,  /* a request's weight in the share of quick ones */
    QUICK_MILLI = 250, /* fewer are quick where a queue stands */
    WAITING_PART = 4,  /* so much of a process's threads may wait for turns: others must refuse */
    RETRY_S = 1        /* a standing queue is gone by then, or the next answer is this one again */
};

/* How much longer than bulk a class may wait. */
static const int patience[] = {
    [CLASS_BULK] = 1, [CLASS_BEST_EFFORT] = 2, [CLASS_NORMAL] = 4, [CLASS_CRITICAL] = 50};

/* Share of the limit of concurrency that a class may use, in percent; critical needs no permit. */
static const int shares[] = {[CLASS_BULK] = 60, [CLASS_BEST_EFFORT] = 80, [CLASS_NORMAL] = 100};

static struct limiter limiter;

enum memory_level { MEMORY_FINE, MEMORY_WARN, MEMORY_NO_BULK, MEMORY_NO_BEST_EFFORT, MEMORY_END };

/* Of this process, shared by its threads; each word stands by itself. */
static _Atomic int quick_milli =
    ALL_MILLI;                         /* share of late that waited no longer than the target */
static _Atomic int64_t above_since_ms; /* since when that has been small; 0: it is not */
static _Atomic int64_t last_seen_ms;
static _Atomic int64_t memory_looked_ms;
static _Atomic int memory_level;
static _Atomic bool is_ending;
static _Atomic int64_t strict_until_ms; /* until then the limit of concurrency is held */
static atomic_int n_waiting;            /* threads that wait for their request's turn */

/* Milliseconds since the proxy passed the request on; 0 where it tells nothing, or nonsense. */
static int64_t age_of(const struct req *r)
{
    const char *text = req_param(r, "REQUEST_START"); /* seconds with three decimals */
    size_t n_digits = text == NULL ? 0 : strspn(text, "0123456789");
    int64_t age_ms;

    if (n_digits < 1 || n_digits > SECONDS_DIGITS || text[n_digits] != '.' ||
        strspn(text + n_digits + 1, "0123456789") != 3 || text[n_digits + 4] != '\0') {
        return 0;
    }
    age_ms =
        clock_wall_ms() - strtoll(text, NULL, 10) * 1000 - strtoll(text + n_digits + 1, NULL, 10);
    return age_ms > 0 && age_ms <= AGE_MAX_MS ? age_ms : 0;
}

/* Note a request's age. Does the queue stand? The threads of a process take what is ready almost in
 * order, so in the longest queue some hardly wait: what counts is what becomes of most. */
static bool queue_stands(int64_t age_ms, int64_t target_ms, int64_t interval_ms)
{
    int64_t now = clock_mono_ms();
    int64_t before = atomic_exchange(&last_seen_ms, now), since;
    int quick = atomic_load_explicit(&quick_milli, memory_order_relaxed);

    /* Nobody came for long: what was says nothing. */
    quick = now - before > interval_ms ? ALL_MILLI : quick;
    quick += ((age_ms <= target_ms ? ALL_MILLI : 0) - quick) / QUICK_SHARE;
    atomic_store_explicit(&quick_milli, quick, memory_order_relaxed);
    since = atomic_load(&above_since_ms);
    if (quick >= QUICK_MILLI) {
        since = 0;
    } else if (since == 0) {
        since = now;
    }
    atomic_store(&above_since_ms, since);
    return since != 0 && now - since >= interval_ms;
}

static enum err judge_age(struct req *r, bool *stands_out)
{
    const struct config *c = config();
    enum route_class class = r->match.route->class;
    int64_t age_ms = age_of(r), most_ms;

    *stands_out = false;
    metrics_add(METRIC_QUEUE_TIME_US, age_ms * 1000);
    r->queue_us = age_ms * 1000;
    if (c->queue_delay_target_ms == 0) {
        return OK;
    }
    *stands_out = queue_stands(age_ms, c->queue_delay_target_ms, c->queue_delay_interval_ms);
    most_ms = *stands_out ? c->queue_delay_target_ms : c->queue_delay_interval_ms;
    if (age_ms <= most_ms * patience[class]) {
        return OK;
    }
    r->scope.retry_after_s = RETRY_S;
    (void)scope_fail(&r->scope, ERR_OVERLOADED, "load: waited %lld ms for a thread",
                     (long long)age_ms);
    return scope_refuse(&r->scope, ERR_OVERLOADED, "Too many requests wait; try again.");
}

void guard_load_open(void)
{
    struct instance_pool shared = instance_pool("requests");

    limiter.permits = shared.opens;
    limiter.words = shared.counters;
    limiter.owner = instance_owner();
    limiter.most = (int)(config()->api_processes * config()->api_threads);
}

/* Is the limit held against requests? Only once a queue has stood, and for as long as somebody is
 * refused for it: what takes long for a moment (a stall of the disk, a fresh pool) may have all
 * threads, and is over before a queue stands. Without shedding by age the limit always holds. */
static bool is_strict(bool stands, bool has_refused)
{
    int64_t now = clock_mono_ms();

    if (stands || has_refused) {
        atomic_store(&strict_until_ms, now + config()->degradation_hold_ms);
    }
    return now < atomic_load(&strict_until_ms) || config()->queue_delay_target_ms == 0;
}

/* Have a turn, waiting for it a moment where no queue stands and not many wait already; or do
 * without one. */
static bool have_turn(struct req *r, bool stands)
{
    bool strict = is_strict(stands, false);
    bool waits = strict && !stands;
    bool may_wait =
        waits && atomic_fetch_add(&n_waiting, 1) < (int)config()->api_threads / WAITING_PART;
    int64_t until_us = may_wait ? clock_mono_us() + config()->queue_delay_target_ms * 1000 : 0;
    bool has_turn = limiter_enter(&limiter, shares[r->match.route->class], until_us, &r->turn);

    atomic_fetch_sub(&n_waiting, waits);
    return has_turn || !strict || !is_strict(false, true);
}

static enum err judge_concurrency(struct req *r, bool stands)
{
    enum route_class class = r->match.route->class;

    if (limiter.permits == NULL || class == CLASS_CRITICAL ||
        config()->load_tolerance_percent == 0 || have_turn(r, stands)) {
        return OK;
    }
    r->scope.retry_after_s = RETRY_S;
    (void)scope_fail(&r->scope, ERR_OVERLOADED, "load: %d requests are worked on",
                     limiter_limit(&limiter) * shares[class] / 100);
    return scope_refuse(&r->scope, ERR_OVERLOADED, "The server works on enough; try again.");
}

void guard_load_done(struct req *r, enum err e)
{
    int64_t took_us = clock_mono_us() - r->start_us - r->scope.timing.s3_us;

    if (r->turn.since_us == 0) {
        return;
    }
    /* What failed, or was refused at once, took another time than the work usually takes. */
    limiter_leave(&limiter, &r->turn, r->match.route->index, e == OK ? took_us : 0,
                  config()->load_tolerance_percent, (int)config()->load_concurrency_min);
    r->turn = (struct limiter_turn){.since_us = 0};
    metrics_gauge(METRIC_GAUGE_CONCURRENCY_LIMIT, limiter_limit(&limiter));
}

/* Private resident memory: what is shared is the instance's file. -1: not told. */
static int64_t memory_bytes(void)
{
    long long size, resident, shared;
    char text[128];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

    if (fd >= 0) {
        close(fd);
    }
    if (n <= 0) {
        return -1;
    }
    text[n] = '\0';
    if (sscanf(text, "%lld %lld %lld", &size, &resident, &shared) != 3) {
        return -1;
    }
    return (resident - shared) * sysconf(_SC_PAGESIZE);
}

/* May this process end now? One of an instance at a time: whoever holds a lock on the instance's
 * file, which ends with the process. */
static bool is_our_turn(void)
{
    const char *shm = config()->instance_shm;
    int fd = *shm == '\0' ? -1 : open(shm, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0) {
        return true; /* an instance by itself */
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        close(fd);
        return false;
    }
    return true; /* fd stays open: it is the lock */
}

static void recycle(int64_t bytes)
{
    bool not_yet = false;

    if (!conn_is_stopping() && atomic_compare_exchange_strong(&is_ending, &not_yet, true)) {
        if (!is_our_turn()) {
            atomic_store(&is_ending, false);
            return;
        }
        log_event(LOG_WARN, "memory.recycle", "%lld MiB: this process ends, a fresh one follows",
                  (long long)(bytes >> 20));
        metrics_add(METRIC_RECYCLED, 1);
        kill(getpid(), SIGTERM); /* the thread that takes signals stops us in order */
    }
}

static void look_at_memory(void)
{
    const struct config *c = config();
    int64_t bytes = memory_bytes(), mib = bytes >> 20;
    int level = mib > c->memory_recycle_threshold            ? MEMORY_END
                : mib > c->memory_shed_best_effort_threshold ? MEMORY_NO_BEST_EFFORT
                : mib > c->memory_shed_bulk_threshold        ? MEMORY_NO_BULK
                : mib > c->memory_warning_threshold          ? MEMORY_WARN
                                                             : MEMORY_FINE;
    int before = atomic_exchange(&memory_level, level);

    metrics_gauge(METRIC_GAUGE_PROCESS_MEMORY, bytes);
    if (level != before) {
        log_event(level > MEMORY_FINE ? LOG_WARN : LOG_INFO, "memory", "%lld MiB: %s",
                  (long long)mib,
                  level >= MEMORY_NO_BEST_EFFORT ? "bulk and best effort are refused"
                  : level == MEMORY_NO_BULK      ? "bulk is refused"
                  : level == MEMORY_WARN         ? "above MEMORY_WARNING_THRESHOLD"
                                                 : "all are served");
    }
    if (level == MEMORY_END) {
        recycle(bytes);
    }
}

static enum err judge_memory(struct req *r)
{
    int64_t now = clock_mono_ms(), looked = atomic_load(&memory_looked_ms);
    enum route_class class = r->match.route->class;
    int level;

    if (now - looked >= MEMORY_EVERY_MS &&
        atomic_compare_exchange_strong(&memory_looked_ms, &looked, now)) {
        look_at_memory();
    }
    level = atomic_load_explicit(&memory_level, memory_order_relaxed);
    if (level < MEMORY_NO_BULK) {
        return OK;
    }
    metrics_layer(LAYER_MEMORY);
    if (class == CLASS_BULK || (class == CLASS_BEST_EFFORT && level >= MEMORY_NO_BEST_EFFORT)) {
        r->scope.retry_after_s = RETRY_S;
        (void)scope_fail(&r->scope, ERR_OVERLOADED, "load: memory is short");
        return scope_refuse(&r->scope, ERR_OVERLOADED, "Memory is short; try again later.");
    }
    return OK;
}

enum err guard_load(struct req *r)
{
    enum route_class class = r->match.route->class;
    bool stands;
    enum err e;

    if (r->match.route->rate == RATE_FREE && class == CLASS_CRITICAL) {
        return OK; /* a probe must tell the truth under load too */
    }
    e = judge_memory(r);
    if (e == OK) {
        e = judge_age(r, &stands);
    }
    if (e == OK) {
        e = judge_concurrency(r, stands);
    }
    if (e != OK && !config_is_shadowed("load")) {
        metrics_add(METRIC_SHED_BULK, class == CLASS_BULK);
        metrics_add(METRIC_SHED_BEST_EFFORT, class == CLASS_BEST_EFFORT);
        metrics_add(METRIC_SHED_NORMAL, class == CLASS_NORMAL);
    }
    return e;
}
