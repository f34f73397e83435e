/* The common case, closed and without failures, is one atomic read; everything else is under the
 * mutex. */
#include "lib/breaker.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct breaker {
    _Atomic int state;
    _Atomic int failures; /* in a row */
    int failures_max;
    int64_t open_ms;
    int64_t until_ms; /* OPEN: end of the while; HALF_OPEN: end of the probe's */
    pthread_mutex_t mutex;
};

struct breaker *breaker_open(int failures_max, int64_t open_ms)
{
    struct breaker *b = calloc(1, sizeof(*b));

    if (b == NULL) {
        abort();
    }
    b->failures_max = failures_max;
    b->open_ms = open_ms;
    pthread_mutex_init(&b->mutex, NULL);
    return b;
}

void breaker_close(struct breaker **breaker)
{
    if (*breaker != NULL) {
        pthread_mutex_destroy(&(*breaker)->mutex);
        free(*breaker);
        *breaker = NULL;
    }
}

bool breaker_allow(struct breaker *b, int64_t now_ms, bool *is_probe_out)
{
    bool is_probe = false, is_allowed;

    if (is_probe_out != NULL) {
        *is_probe_out = false;
    }
    if (atomic_load_explicit(&b->state, memory_order_relaxed) == BREAKER_CLOSED) {
        return true;
    }
    pthread_mutex_lock(&b->mutex);
    if (b->state != BREAKER_CLOSED && now_ms >= b->until_ms) {
        b->state = BREAKER_HALF_OPEN;
        b->until_ms = now_ms + b->open_ms;
        is_probe = true;
    }
    is_allowed = is_probe || b->state == BREAKER_CLOSED;
    pthread_mutex_unlock(&b->mutex);
    if (is_probe_out != NULL) {
        *is_probe_out = is_probe;
    }
    return is_allowed;
}

void breaker_success(struct breaker *b)
{
    if (atomic_load_explicit(&b->failures, memory_order_relaxed) == 0) {
        return;
    }
    pthread_mutex_lock(&b->mutex);
    b->failures = 0;
    b->state = BREAKER_CLOSED;
    pthread_mutex_unlock(&b->mutex);
}

void breaker_failure(struct breaker *b, int64_t now_ms)
{
    pthread_mutex_lock(&b->mutex);
    b->failures++;
    if (b->state == BREAKER_HALF_OPEN ||
        (b->state == BREAKER_CLOSED && b->failures >= b->failures_max)) {
        b->state = BREAKER_OPEN;
        b->until_ms = now_ms + b->open_ms;
    }
    pthread_mutex_unlock(&b->mutex);
}

enum breaker_state breaker_state(const struct breaker *b)
{
    return (enum breaker_state)atomic_load_explicit(&b->state, memory_order_relaxed);
}
