/* A cache-aside store in Redis, shared by the fleet: ask, build what is missing, put.
 *
 * One caller builds a value at a time (a lease, as in R. Nishtala et al., "Scaling Memcache at
 * Facebook", NSDI 2013); the others get the stale value meanwhile, or wait a moment where there is
 * none. cache_drop() makes every lease void that was given before, so what was read before a change
 * is never put after it. Entries live for a jittered time, then stay as stale ones for
 * cache_stale_ms. The number of keys has a budget, cache_max_keys: above cache_eviction_threshold
 * those that expire first go. No failure of the cache is a failure of the caller: without Redis
 * every ask says "build". See docs/internals/cache.md. */
#ifndef LIB_CACHE_H
#define LIB_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "lib/scope.h"

enum cache_state {
    CACHE_FRESH, /* text is the value */
    CACHE_STALE, /* text is the value of a while ago; somebody builds a new one */
    CACHE_BUILD  /* build it and put it; text is the value of a while ago, or NULL */
};

struct cache_got {
    enum cache_state state;
    const char *text; /* in the scope's arena, NUL behind it */
    size_t len;
    const char *lease; /* for cache_put(); NULL: there is no use in it */
};

/* Ask for a name ("profile:0199…", up to CACHE_NAME_MAX bytes). One round trip, and where somebody
 * else builds what is not there at all, up to CACHE_WAIT_MS more. Redis's failures are forgiven. */
void cache_get(struct scope *sc, const char *name, struct cache_got *got_out);

/* Put what was built under the lease of cache_get(), for about ttl_ms. Does nothing where the name
 * was dropped since. */
void cache_put(struct scope *sc, const char *name, const struct cache_got *got, const char *text,
               size_t len, int64_t ttl_ms);

/* What the name stood for has changed: after the commit. A loss is mended by the entry's end. */
void cache_drop(struct scope *sc, const char *name);

enum { CACHE_NAME_MAX = 200, CACHE_WAIT_MS = 100, CACHE_VALUE_MAX = 65536 };

#endif
