/* The word holds state, failures in a row, and a time: each change is one compare-and-swap. The
 * common case, closed and without failures, is one read of 0. */
#include "lib/breaker.h"

enum { FAILURES_MAX = 0xffff };

/* The word in parts. until_ms: OPEN: end of the while; HALF_OPEN: end of the probe's, which is also
 * its number: two probes are at least open_ms apart. */
struct parts {
    enum breaker_state state;
    int failures;
    int64_t until_ms;
};

static struct parts parts_of(uint64_t word)
{
    return (struct parts){.state = (enum breaker_state)(word & 3),
                          .failures = (int)(word >> 2 & FAILURES_MAX),
                          .until_ms = (int64_t)(word >> 18)};
}

static uint64_t word_of(struct parts p)
{
    return (uint64_t)p.until_ms << 18 | (uint64_t)p.failures << 2 | (uint64_t)p.state;
}

bool breaker_allow(const struct breaker *b, int64_t now_ms, int64_t *probe_out)
{
    uint64_t word = atomic_load_explicit(b->word, memory_order_relaxed);

    *probe_out = 0;
    for (;;) {
        struct parts p = parts_of(word);

        if (p.state == BREAKER_CLOSED) {
            return true;
        }
        if (now_ms < p.until_ms) {
            return false;
        }
        p.state = BREAKER_HALF_OPEN;
        p.until_ms = now_ms + b->probe_ms;
        if (atomic_compare_exchange_weak(b->word, &word, word_of(p))) {
            *probe_out = p.until_ms;
            return true;
        }
    }
}

void breaker_success(const struct breaker *b)
{
    if (atomic_load_explicit(b->word, memory_order_relaxed) != 0) {
        atomic_store(b->word, 0);
    }
}

/* Does the word wait for this probe? */
static bool is_awaited(struct parts p, int64_t probe)
{
    return probe != 0 && p.state == BREAKER_HALF_OPEN && p.until_ms == probe;
}

void breaker_failure(const struct breaker *b, int64_t now_ms, int64_t probe)
{
    uint64_t word = atomic_load_explicit(b->word, memory_order_relaxed);
    struct parts p;

    do {
        p = parts_of(word);
        p.failures += p.failures < FAILURES_MAX;
        if (is_awaited(p, probe) || (p.state == BREAKER_CLOSED && p.failures >= b->failures_max)) {
            p.state = BREAKER_OPEN;
            p.until_ms = now_ms + b->open_ms;
        }
    } while (!atomic_compare_exchange_weak(b->word, &word, word_of(p)));
}

void breaker_probe_over(const struct breaker *b, int64_t now_ms, int64_t probe)
{
    uint64_t word = atomic_load_explicit(b->word, memory_order_relaxed);
    struct parts p;

    do {
        p = parts_of(word);
        if (!is_awaited(p, probe)) {
            return;
        }
        p.state = BREAKER_OPEN;
        p.until_ms = now_ms + b->open_ms;
    } while (!atomic_compare_exchange_weak(b->word, &word, word_of(p)));
}

void breaker_forget_probe(const struct breaker *b)
{
    uint64_t word = atomic_load_explicit(b->word, memory_order_relaxed);
    struct parts p;

    do {
        p = parts_of(word);
        if (p.state != BREAKER_HALF_OPEN) {
            return;
        }
        p.until_ms = 0;
    } while (!atomic_compare_exchange_weak(b->word, &word, word_of(p)));
}

enum breaker_state breaker_state(const struct breaker *b)
{
    return parts_of(atomic_load_explicit(b->word, memory_order_relaxed)).state;
}
