/* What stands between us and a dependency that fails, hangs or is slow: a breaker, a bulkhead, and
 * a budget of further tries.
 *
 * Breaker: after so many failures in a row nobody asks for a while, then one probe does; its state
 * is shared by the processes of the instance (breaker.h; Redis has one for each node, redis.h).
 * Bulkhead: at most bulkhead_percent of the process's threads wait for one dependency at once,
 * further ones for bulkhead_wait_ms at most, so that one that hangs leaves threads to routes that
 * do without it. Budget: further tries are at most retry_budget_percent of the first ones, after a
 * reserve, so that an outage is not answered by a multiple of the load. For any thread; before
 * depend_open() all say yes. */
#ifndef LIB_DEPEND_H
#define LIB_DEPEND_H

#include <stdbool.h>

#include "lib/breaker.h"
#include "lib/scope.h"
#include "lib/str.h"

enum depend { DEPEND_REDIS, DEPEND_S3, DEPEND_SMTP, DEPEND__COUNT };

/* Once per process, behind instance_open() and before threads. threads: those that wait for
 * dependencies; 0: no bulkheads. */
void depend_open(int threads);

/* May it be asked now? ERR_DEPENDENCY_UNAVAILABLE while the breaker is open, ERR_OVERLOADED where
 * no place came free in time, each with its cause. OK: ask, then depend_leave() with *probe_out,
 * the breaker's probe. */
MUST_USE enum err depend_enter(struct scope *sc, enum depend d, int64_t *probe_out);

/* It has answered, or not. A refusal is an answer. */
void depend_leave(enum depend d, int64_t probe, bool has_answered);

/* May a failed call be tried again? Each call to this counts as a further try. */
bool depend_may_retry(enum depend d);

/* Its breaker's state. */
enum breaker_state depend_state(enum depend d);

/* Append a sample of the named metric for each dependency: its breaker's state. */
void depend_write_states(struct strbuf *out, const char *name);

#endif
