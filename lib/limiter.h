/* How many requests may be worked on at once: a limit that finds itself.
 *
 * Each kind of work has a usual time: its mean while little goes on. When the work of a moment
 * takes a multiple of its usual time, more goes on than the machine carries, and the limit shrinks;
 * else it grows by a few (the gradient of Netflix' concurrency-limits, with the kinds kept apart).
 * Limit and permits may lie in memory that processes share: then they act as one. */
#ifndef LIB_LIMITER_H
#define LIB_LIMITER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/permit.h"

enum { LIMITER_WORDS = 4, LIMITER_KINDS_MAX = 256 };

/* In the caller's storage. words: LIMITER_WORDS of them, zero at first. */
struct limiter {
    struct permit_set *permits;
    _Atomic int64_t *words;
    uint16_t owner; /* takes permits; not 0 */
    int most;       /* never more than these: threads of all processes */
    _Atomic int64_t usual_us[LIMITER_KINDS_MAX];
};

/* The limit of now. */
int limiter_limit(const struct limiter *l);

/* A permit below share_percent of the limit, waiting for one until until_mono_us (in the past: not
 * at all); -1: none came free. */
int limiter_enter(struct limiter *l, int share_percent, int64_t until_mono_us);

/* Give it back. took_us: how long the work of this kind took; 0: says nothing about the load (it
 * failed, or waited for others). tolerance_percent: of the usual time, above which the limit
 * shrinks; least: it never shrinks below. */
void limiter_leave(struct limiter *l, int permit, int kind, int64_t took_us,
                   int64_t tolerance_percent, int least);

#endif
