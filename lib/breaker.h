/* A circuit breaker for one dependency: after so many failures in a row it says no for a while,
 * then lets one probe through, whose outcome decides.
 *
 * Used by all threads of a process. A breaker tells, it does not call: who was allowed reports
 * how it went. A probe that never reports is forgotten after the same while. Times are
 * clock_mono_ms(). Nothing here blocks longer than a mutex. */
#ifndef LIB_BREAKER_H
#define LIB_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

struct breaker;

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN };

/* A closed breaker; the caller owns it and ends it with breaker_close(). */
struct breaker *breaker_open(int failures_max, int64_t open_ms);

/* Free it and clear *breaker. */
void breaker_close(struct breaker **breaker);

/* May the dependency be asked now? *is_probe_out (may be NULL): by this one probe only. */
bool breaker_allow(struct breaker *b, int64_t now_ms, bool *is_probe_out);

/* The dependency answered. */
void breaker_success(struct breaker *b);

/* It did not. */
void breaker_failure(struct breaker *b, int64_t now_ms);

/* For status and metrics. */
enum breaker_state breaker_state(const struct breaker *b);

#endif
