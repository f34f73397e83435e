/* Counters of this process. A type that never ran is not told. */
#include "workers/figures.h"

#include <stdatomic.h>
#include <string.h>

#include "lib/depend.h"
#include "lib/door.h"
#include "workers/worker.h"

enum { BUCKETS = 12, ENDINGS = 11 };

static const char *const endings[ENDINGS] = {"completed", "failed", "retry",     "postponed",
                                             "released",  "lost",   "cancelled", "unknown",
                                             "over",      "early",  "unclaimed"};

static const int64_t bounds_ms[BUCKETS] = {1,    2,    5,     10,    50,     250,
                                           1000, 5000, 15000, 60000, 180000, 600000};

struct histogram {
    _Atomic uint64_t buckets[BUCKETS + 1]; /* the last is +Inf; not cumulated */
    _Atomic uint64_t sum_ms;
};

static struct {
    _Atomic uint64_t ended[JOB__COUNT][ENDINGS];
    struct histogram duration[JOB__COUNT], wait[JOB__COUNT];
    _Atomic size_t threads;
} counts;

static void add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static uint64_t value(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void observe(struct histogram *h, int64_t ms)
{
    int i = 0;

    ms = ms > 0 ? ms : 0;
    while (i < BUCKETS && ms > bounds_ms[i]) {
        i++;
    }
    add(&h->buckets[i], 1);
    add(&h->sum_ms, (uint64_t)ms);
}

void figures_ended(enum job_kind kind, const char *ending, int64_t duration_ms)
{
    size_t i;

    for (i = 0; i < ENDINGS; i++) {
        if (strcmp(endings[i], ending) == 0) {
            add(&counts.ended[kind][i], 1);
        }
    }
    observe(&counts.duration[kind], duration_ms);
}

void figures_claimed(enum job_kind kind, int64_t wait_ms)
{
    observe(&counts.wait[kind], wait_ms);
}

void figures_threads(size_t n)
{
    atomic_store(&counts.threads, n);
}

static void write_histogram(struct strbuf *out, const char *name, const char *type,
                            const struct histogram *h)
{
    uint64_t running = 0;
    int i;

    for (i = 0; i <= BUCKETS; i++) {
        running += value(&h->buckets[i]);
        if (i < BUCKETS) {
            strbuf_printf(out, "%s_bucket{type=\"%s\",le=\"%g\"} %llu\n", name, type,
                          (double)bounds_ms[i] / 1000, (unsigned long long)running);
        }
    }
    strbuf_printf(out,
                  "%s_bucket{type=\"%s\",le=\"+Inf\"} %llu\n%s_sum{type=\"%s\"} %.3f\n"
                  "%s_count{type=\"%s\"} %llu\n",
                  name, type, (unsigned long long)running, name, type,
                  (double)value(&h->sum_ms) / 1000, name, type, (unsigned long long)running);
}

static bool has_run(enum job_kind kind)
{
    size_t i;
    uint64_t n = 0;

    for (i = 0; i < ENDINGS; i++) {
        n += value(&counts.ended[kind][i]);
    }
    return n > 0;
}

void figures_write(struct strbuf *out)
{
    const char *name = door_head(out, DOOR_ATTEMPTS);
    enum job_kind kind;
    size_t i;

    for (kind = 0; kind < JOB__COUNT; kind++) {
        for (i = 0; i < ENDINGS && has_run(kind); i++) {
            strbuf_printf(out, "%s{type=\"%s\",ending=\"%s\"} %llu\n", name, job_type(kind)->name,
                          endings[i], (unsigned long long)value(&counts.ended[kind][i]));
        }
    }
    name = door_head(out, DOOR_DURATION);
    for (kind = 0; kind < JOB__COUNT; kind++) {
        if (has_run(kind)) {
            write_histogram(out, name, job_type(kind)->name, &counts.duration[kind]);
        }
    }
    name = door_head(out, DOOR_WAIT);
    for (kind = 0; kind < JOB__COUNT; kind++) {
        if (has_run(kind)) {
            write_histogram(out, name, job_type(kind)->name, &counts.wait[kind]);
        }
    }
    strbuf_printf(out, "%s %zu\n", door_head(out, DOOR_THREADS), atomic_load(&counts.threads));
    strbuf_printf(out, "%s %zu\n", door_head(out, DOOR_BUSY), roll_busy());
    depend_write_states(out, door_head(out, DOOR_BREAKERS));
}
