/* What queue.c and queue_types.c share. */
#ifndef LIB_QUEUE_INTERNAL_H
#define LIB_QUEUE_INTERNAL_H

#include "lib/queue.h"

/* Keys of one partition, all under its hash tag; ready is the type's own. */
struct queue_keys {
    const char *jobs, *meta, *delayed, *leases, *flows, *wake, *ready;
};

/* Of a type and a partition below QUEUE_PARTITIONS_MAX. Static, never NULL. */
const struct queue_keys *queue_keys(enum job_kind kind, int partition);

/* Of any type of the queue, for the keys that all its types share; NULL where there is no such
 * queue or partition. */
const struct queue_keys *queue_keys_find(const char *queue, int partition);

/* A partition's share of the type's concurrency, at least 1. */
int64_t queue_share(enum job_kind kind, int partition);

#endif
