/* One row of state per dependency. The common way through is two additions and two reads. */
#include "lib/depend.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/instance.h"
#include "lib/metrics.h"
#include "lib/redis.h"
#include "lib/smtp.h"

enum {
    PERCENT = 100, /* a further try costs as much; a first one earns RETRY_BUDGET_PERCENT */
    RESERVE =
        30 * PERCENT /* tries of a process that has just begun, and most that it can save up */
};

struct guard {
    const char *name;
    bool has_breaker; /* Redis holds back each of its nodes by itself */
    struct breaker breaker;
    atomic_int n_inside, n_waiting;
    atomic_long saved;
    pthread_mutex_t lock;
    pthread_cond_t place_free;
};

#define GUARD_ROW(n, b)                                                                       \
    {                                                                                         \
        .name = (n), .has_breaker = (b), .saved = RESERVE, .lock = PTHREAD_MUTEX_INITIALIZER, \
        .place_free = PTHREAD_COND_INITIALIZER                                                \
    }

static struct guard guards[DEPEND__COUNT] = {[DEPEND_REDIS] = GUARD_ROW("redis", false),
                                             [DEPEND_S3] = GUARD_ROW("s3", true),
                                             [DEPEND_SMTP] = GUARD_ROW("smtp", true)};
static int n_threads;
static bool is_open;

/* A probe of a dependency that hangs holds a thread until its time is over, and no second one shall
 * join it; so only one whose process has died is forgotten. */
static int64_t probe_ms(enum depend d)
{
    int64_t limit_ms = d == DEPEND_SMTP ? SMTP_TIME_MAX_MS : config()->s3_timeout_ms;

    return limit_ms + config()->depend_breaker_open_ms;
}

void depend_open(int threads)
{
    enum depend d;

    n_threads = threads;
    is_open = true;
    for (d = 0; d < DEPEND__COUNT; d++) {
        if (guards[d].has_breaker) {
            guards[d].breaker =
                (struct breaker){.word = instance_pool(guards[d].name).breaker,
                                 .failures_max = (int)config()->depend_breaker_failures,
                                 .open_ms = config()->depend_breaker_open_ms,
                                 .probe_ms = probe_ms(d)};
        }
    }
}

static bool try_place(struct guard *g, int most)
{
    int n = atomic_load(&g->n_inside);

    while (n < most) {
        if (atomic_compare_exchange_weak(&g->n_inside, &n, n + 1)) {
            return true;
        }
    }
    return false;
}

static bool wait_for_place(struct guard *g, int most, int64_t wait_ms)
{
    struct timespec until;
    bool has_place;
    int result = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += wait_ms / 1000;
    until.tv_nsec += wait_ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&g->lock);
    atomic_fetch_add(&g->n_waiting, 1);
    while (!(has_place = try_place(g, most)) && result != ETIMEDOUT) {
        result = pthread_cond_clockwait(&g->place_free, &g->lock, CLOCK_MONOTONIC, &until);
    }
    atomic_fetch_sub(&g->n_waiting, 1);
    pthread_mutex_unlock(&g->lock);
    return has_place;
}

static void give_place(struct guard *g)
{
    atomic_fetch_sub(&g->n_inside, 1);
    if (atomic_load(&g->n_waiting) > 0) {
        pthread_mutex_lock(&g->lock);
        pthread_cond_signal(&g->place_free);
        pthread_mutex_unlock(&g->lock);
    }
}

/* Places of this process: at least one, and all where there are no bulkheads. */
static int places(void)
{
    int most = (int)(n_threads * config()->bulkhead_percent / PERCENT);

    return n_threads == 0 ? INT32_MAX : most > 1 ? most : 1;
}

enum err depend_enter(struct scope *sc, enum depend d, int64_t *probe_out)
{
    struct guard *g = &guards[d];
    int most;

    *probe_out = 0;
    if (!is_open) {
        return OK;
    }
    most = places();
    if (!try_place(g, most) &&
        !wait_for_place(g, most, scope_left_ms(sc, config()->bulkhead_wait_ms))) {
        metrics_add(METRIC_BULKHEAD_REFUSALS, 1);
        return scope_fail(sc, ERR_OVERLOADED, "%s: %d threads wait for it already", g->name, most);
    }
    if (g->breaker.word != NULL && !breaker_allow(&g->breaker, clock_mono_ms(), probe_out)) {
        give_place(g);
        metrics_add(METRIC_BROKEN_OFF, 1);
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "%s: left alone after its failures",
                          g->name);
    }
    return OK;
}

void depend_leave(enum depend d, int64_t probe, bool has_answered)
{
    struct guard *g = &guards[d];
    long saved = atomic_load_explicit(&g->saved, memory_order_relaxed);

    if (!is_open) {
        return;
    }
    if (saved < RESERVE) {
        atomic_fetch_add(&g->saved, config()->retry_budget_percent);
    }
    if (g->breaker.word != NULL && has_answered) {
        breaker_success(&g->breaker);
    } else if (g->breaker.word != NULL) {
        breaker_failure(&g->breaker, clock_mono_ms(), probe);
    }
    give_place(g);
}

bool depend_may_retry(enum depend d)
{
    long saved = atomic_load(&guards[d].saved);

    if (!is_open) {
        return true;
    }
    while (saved >= PERCENT) {
        if (atomic_compare_exchange_weak(&guards[d].saved, &saved, saved - PERCENT)) {
            metrics_add(METRIC_RETRIES, 1);
            return true;
        }
    }
    metrics_add(METRIC_RETRIES_REFUSED, 1);
    return false;
}

enum breaker_state depend_state(enum depend d)
{
    return d == DEPEND_REDIS                ? redis_breaker()
           : guards[d].breaker.word == NULL ? BREAKER_CLOSED
                                            : breaker_state(&guards[d].breaker);
}

void depend_write_states(struct strbuf *out, const char *name)
{
    enum depend d;

    for (d = 0; d < DEPEND__COUNT; d++) {
        strbuf_printf(out, "%s{dependency=\"%s\"} %d\n", name, guards[d].name,
                      (int)depend_state(d));
    }
}
