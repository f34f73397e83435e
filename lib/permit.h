/* Permits: a counted right that processes share and that no crash can leak.
 *
 * A set lies in shared memory and holds one word per permit: the owner's number, or 0 while it is
 * free. Taking is one compare-and-swap, so at every moment each permit names who has it; when an
 * owner died, permit_reclaim() frees exactly its permits. Waiting is a futex on the set. All
 * functions may be called by threads and processes at once. */
#ifndef LIB_PERMIT_H
#define LIB_PERMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base.h"

struct permit_set;

/* Bytes of a set of that many permits (a multiple of 64). */
size_t permit_set_size(int capacity);

/* Make a set of zeroed, 64-byte aligned memory that the caller keeps. Once per memory, before it
 * is shared; other processes then find the set at the same place. */
struct permit_set *permit_set_init(void *memory, int capacity);

/* A permit below limit for owner (1 … 65535), or -1: none is free. hint is where to look first;
 * any number will do, the permit last used is best. Never blocks. */
int permit_try(struct permit_set *set, uint16_t owner, int limit, int hint);

/* The same, waiting for a free one until until_mono_us (clock_mono_us()). */
int permit_take(struct permit_set *set, uint16_t owner, int limit, int hint, int64_t until_mono_us);

/* Give a permit back and wake one that waits. */
void permit_give(struct permit_set *set, int permit);

/* Does somebody wait, or has waited in vain since the last permit was given back? */
bool permit_is_awaited(const struct permit_set *set);

/* Free all permits of an owner that is dead; returns how many. */
int permit_reclaim(struct permit_set *set, uint16_t owner);

/* Number of permits below limit that are taken. */
int permit_count_below(const struct permit_set *set, int limit);

/* Number of permits that are taken; of that owner only where owner is not 0. */
int permit_count(const struct permit_set *set, uint16_t owner);

#endif
