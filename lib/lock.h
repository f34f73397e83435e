/* Locks of the whole fleet in Redis, with fencing.
 *
 * A lock is held by one holder for a time, and again by whoever takes it next. Each taking has a
 * number, the fence, greater than all before it, also after Redis has lost everything (it is never
 * below the clock's microseconds). A lock in Redis is a help, not a proof: a holder may stand still
 * past its time, or a failover may forget it. So what must not happen twice carries the fence to
 * where it is written, and a smaller one is refused there. */
#ifndef LIB_LOCK_H
#define LIB_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/scope.h"

/* Take the lock of a name for ttl_ms, or hold it for ttl_ms from now if holder has it already.
 * *fence_out: the fence of the taking (the same as long as it is held on); 0: another holds it. One
 * round trip; ERR_DEPENDENCY_UNAVAILABLE: it cannot be told who holds it. */
MUST_USE enum err lock_take(struct scope *sc, const char *name, const char *holder, int64_t ttl_ms,
                            int64_t *fence_out);

/* Give it back, if holder has it still. */
MUST_USE enum err lock_leave(struct scope *sc, const char *name, const char *holder);

#endif
