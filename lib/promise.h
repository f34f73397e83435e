/* Promising jobs: first the row in PostgreSQL, in the caller's transaction, so that a job is there
 * exactly if what it belongs to is; after the commit the push into its queue, which may be lost,
 * since the scheduler finds rows that their queue does not know. The row is the outbox.
 *
 * What must not be promised twice carries a key. Keys are compared per type and user; a job of
 * nobody needs a place that follows from its key. */
#ifndef LIB_PROMISE_H
#define LIB_PROMISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/queue.h"

enum promise_dedup {
    PROMISE_ALWAYS,
    PROMISE_UNTIL_DONE, /* not while a job of the key is unfinished */
    PROMISE_THROTTLE,   /* nor within dedup_ms of its promise */
    PROMISE_DEBOUNCE    /* push a job of the key that has not begun back to dedup_ms from now,
                           with the new payload; at most ten times that since it was promised */
};

struct promise {
    /* asked for */
    enum job_kind kind;
    struct id user;      /* nil: nobody's */
    struct place place;  /* of the row; the user's, where there is one */
    const char *payload; /* text of a JSON object */
    int64_t delay_ms;    /* due that long from now; 0: at once */
    enum promise_dedup dedup;
    const char *dedup_key; /* 1 … 200 characters; NULL only for PROMISE_ALWAYS */
    int64_t dedup_ms;
    int wait_replicas; /* the push waits until so many replicas of Redis have it; 0: none */
    /* answered */
    struct id id;    /* of the job, or of the earlier one that stands for it */
    bool is_new;     /* a row was made */
    bool is_waiting; /* it has children: not to be pushed */
};

enum { PROMISE_MANY_MAX = 1000 };

/* Promise one job. With a dedup_key the scope must have a transaction open at the place, since who
 * decides about a key excludes others until the commit. Errors: pg_exec()'s. */
MUST_USE enum err promise_make(struct scope *sc, struct promise *p);

/* Promise up to PROMISE_MANY_MAX jobs of one shard in one statement: all or none. No dedup. */
MUST_USE enum err promise_many(struct scope *sc, struct promise *promises, size_t n);

/* Promise a flow: the parent begins once its children, 1 … PROMISE_MANY_MAX - 1 of the same place,
 * are completed; it fails where one of them does. A child may itself be the parent of a later
 * flow only through its own code. All or none; the parent's dedup is not looked at. */
MUST_USE enum err promise_flow(struct scope *sc, struct promise *parent, struct promise *children,
                               size_t n);

/* After the commit: put them into their queues. Failures are made up for by the scheduler; they are
 * forgiven in the scope. Blocks as redis.h says, for wait_replicas up to 100 ms longer. */
void promise_push(struct scope *sc, const struct promise *promises, size_t n);

#endif
