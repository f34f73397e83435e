/* A circuit breaker for one dependency: after so many failures in a row it says no for a while,
 * then lets one probe through, whose outcome decides.
 *
 * Its state is one word, which may lie in memory that processes share: then they act as one, and
 * one probe is let through for all of them. A breaker tells, it does not call: who was allowed
 * reports how it went. While a probe is under way only its own failure counts: calls that began
 * before it opened may fail late. A probe that does not report is forgotten after probe_ms, which
 * is longer than one may take, and another one is let through. Times are clock_mono_ms(). Nothing
 * here blocks; no crash leaves anything half done. */
#ifndef LIB_BREAKER_H
#define LIB_BREAKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN };

/* Made in the caller's storage, no done needed. A word of 0 is closed. */
struct breaker {
    _Atomic uint64_t *word;
    int failures_max; /* 1 … 65535 */
    int64_t open_ms, probe_ms;
};

/* May the dependency be asked now? *probe_out: 0, or the probe's number where it may be asked by
 * this one probe only, which goes with its report. */
bool breaker_allow(const struct breaker *b, int64_t now_ms, int64_t *probe_out);

/* The dependency answered. */
void breaker_success(const struct breaker *b);

/* It did not. */
void breaker_failure(const struct breaker *b, int64_t now_ms, int64_t probe);

/* The probe has ended, and has found nothing out unless it has reported: open again. */
void breaker_probe_over(const struct breaker *b, int64_t now_ms, int64_t probe);

/* Who has sent the probe that is under way, if there is one, may have died: wait for it no more. */
void breaker_forget_probe(const struct breaker *b);

/* For status and metrics. */
enum breaker_state breaker_state(const struct breaker *b);

#endif
