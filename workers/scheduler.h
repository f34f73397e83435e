/* The scheduler: what must happen although nobody asks. Private to workers/scheduler*.c; one
 * thread.
 *
 * Any number run and one leads: the holder of a lock in Redis, with a number that grows by each
 * change of leader. All that a leader does is idempotent or conditional, so two of them for a
 * moment do no harm. */
#ifndef WORKERS_SCHEDULER_H
#define WORKERS_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/door.h"
#include "lib/queue.h"
#include "lib/scope.h"

/* Do we lead? Takes or renews the lock where its last renewal is not fresh; false also while
 * Redis is away and the lock has run out. Call it before each piece of work. Blocks as redis.h
 * says. */
bool lead_keep(struct arena *arena);

/* Our number among the leaders so far, which grows; 0: we do not lead. Never blocks. */
int64_t lead_fence(void);

/* Give the lock up, so that another leads at once. */
void lead_leave(struct arena *arena);

/* Is the process to end? */
bool scheduler_stopping(void);

/* Promote what is due and recover expired leases in every queue; learn of queues that Redis has
 * lost. */
void queues_tend(struct arena *arena);

/* Has Redis lost the queue lately, and how long ago was that seen? -1: no. */
int64_t queues_lost_ms(const char *queue);

/* Did each partition of the queue say so when it was last tended? */
bool queues_pause_is(const char *queue, bool paused);

/* Tell queues that they are paused, or not, where they said otherwise than the rows of shard 0 when
 * they were tended. Call it before putback_round(), so that what was lost does not run on. */
void pauses_round(struct arena *arena);

/* Push rows that their queue does not know: a bounded number of each shard, going round. Faster
 * after a loss. */
void putback_round(struct arena *arena);

/* Relay domain events to the bus: all that wait, shard by shard, a bounded number of each. */
void outbox_round(struct arena *arena);

/* Make the jobs of the schedules whose time has come. */
void cron_round(struct arena *arena);

/* All sweeps, once SWEEP_INTERVAL_S has passed since the last. */
void sweep_round(struct arena *arena);

/* What the door tells (scheduler_figures.c). Counting never blocks for long. */
void figures_count(enum door_metric metric, int64_t n);

/* A round of a sweep has dealt with n. name: a literal. */
void figures_swept(const char *name, int64_t n, bool is_good);

/* A round ended; do we lead? */
void figures_lead(bool leads);

/* Ask the queues and the rows for their figures, every few seconds where a door wants them. */
void figures_round(struct arena *arena);

/* Append all of it; called by the door's thread. */
void figures_write(struct strbuf *out);

#endif
