/* How many requests may be worked on at once: a limit that finds itself.
 *
 * Each kind of work has a usual time: its mean while little goes on. When the work of a moment
 * takes a multiple of its usual time, more goes on than the machine carries, and the limit shrinks;
 * else it grows by a few (the gradient of Netflix' concurrency-limits, with the kinds kept apart).
 * Limit and permits may lie in memory that processes share: then they act as one.
 *
 * What takes long does not work but waits, for a dependency that stands still: where turns are
 * short those of it do not count any more, so it cannot use up the limit for work that does without
 * that dependency. */
#ifndef LIB_LIMITER_H
#define LIB_LIMITER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/permit.h"

enum {
    LIMITER_WORDS = 5,
    LIMITER_KINDS_MAX = 256,
    LIMITER_PERMITS_MAX = 4096,  /* of more permits no turn is found to be long */
    LIMITER_STALLED_US = 100000, /* a turn that takes longer is spent waiting */
};

/* In the caller's storage. words: LIMITER_WORDS of them, zero at first. */
struct limiter {
    struct permit_set *permits;
    _Atomic int64_t *words;
    uint16_t owner; /* takes permits; not 0 */
    int most;       /* never more than these: threads of all processes */
    _Atomic int64_t usual_us[LIMITER_KINDS_MAX];
    _Atomic int64_t since_us[LIMITER_PERMITS_MAX]; /* of this process's turns; 0: none, or over */
};

/* The right to work; all zero: none. */
struct limiter_turn {
    int permit;
    int64_t since_us; /* clock_mono_us() */
};

/* The limit of now. */
int limiter_limit(const struct limiter *l);

/* Have a turn while fewer than share_percent of the limit do, waiting for one until until_mono_us
 * (in the past: not at all). False: none came free. */
bool limiter_enter(struct limiter *l, int share_percent, int64_t until_mono_us,
                   struct limiter_turn *turn_out);

/* End the turn. took_us: how long the work of this kind took; 0: says nothing about the load (it
 * failed, or waited for others). tolerance_percent: of the usual time, above which the limit
 * shrinks; least: it never shrinks below. */
void limiter_leave(struct limiter *l, const struct limiter_turn *turn, int kind, int64_t took_us,
                   int64_t tolerance_percent, int least);

#endif
