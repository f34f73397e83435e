/* The job queue: types of jobs, and where each job waits or runs. Redis keeps order, leases and
 * delays and may be lost; the jobs row in PostgreSQL is what was promised
 * (docs/internals/queue.md).
 *
 * A queue is a hash tag: all its keys lie on one node, and every key that a script touches is
 * declared to it. Who is next is decided fairly: types share by priority, and within a type the
 * artists share evenly, however many jobs each has pushed. Every call is one script, so one
 * round trip; it blocks as redis.h says and fails with ERR_DEPENDENCY_UNAVAILABLE where Redis
 * cannot be reached. Nothing here reads or writes PostgreSQL. */
#ifndef LIB_QUEUE_H
#define LIB_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/id.h"
#include "lib/scope.h"

/* Every type of job: JOB_AUDIO_CONVERT … (job.def). */
enum job_kind {
#define JOB(symbol, small, name, queue, priority, timeout_s, concurrency, retries) JOB_##symbol,
#include "lib/job.def"
#undef JOB
    JOB__COUNT
};

/* A type of higher priority gets twice the turns of the next while both have work; none is ever
 * starved. */
enum job_priority { JOB_PRIORITY_HIGH, JOB_PRIORITY_MEDIUM, JOB_PRIORITY_LOW };

/* One row of job.def, without its figures: those come from config, by job_limits(). */
struct job_type {
    enum job_kind kind;
    const char *name;  /* "audio-convert": column type of the jobs row */
    const char *queue; /* "audio" */
    enum job_priority priority;
};

struct job_limits {
    int64_t timeout_ms;  /* of one attempt */
    int64_t concurrency; /* running at once over the whole fleet */
    int64_t retries;     /* further attempts after the first has failed */
};

/* The row of a kind below JOB__COUNT. Static, never NULL. */
const struct job_type *job_type(enum job_kind kind);

/* The row by its name; NULL where there is none. */
const struct job_type *job_type_find(const char *name);

/* Figures of a kind in the current configuration (JOB_<NAME>_TIMEOUT_S, _CONCURRENCY, _RETRIES). */
struct job_limits job_limits(enum job_kind kind);

/* Partitions of each queue (config queue_partitions). */
int queue_partitions(void);

/* Which of them a job lies in, by its place: all jobs of a user in one. */
int queue_partition_of(struct id job);

/* Names of all queues, each once, in the order of job.def: n_out of them, static. */
const char *const *queue_names(size_t *n_out);

enum {
    QUEUE_PARTITIONS_MAX = 16,
    QUEUE_PUSH_MAX = 100,  /* jobs of one queue_push_many() */
    QUEUE_BATCH_MAX = 100, /* leases of one queue_fetch(), queue_extend(), queue_finish() */
    QUEUE_TOKEN_SIZE = 34,
    QUEUE_EPOCH_SIZE = 17
};

/* Put a job into the queue of its kind. Call it after the commit of its row. user may be nil
 * (work for no account): then the job's own place counts as the one who waits. Idempotent: a job
 * that the queue knows stays as it is. Losing this call loses nothing, since the scheduler
 * pushes rows that the queue does not know; a handler ignores its error. */
MUST_USE enum err queue_push(struct scope *sc, enum job_kind kind, struct id job, struct id user);

/* One job of queue_push_many(). */
struct queue_item {
    struct id job;
    struct id user;   /* or nil */
    int64_t delay_ms; /* 0: ready at once */
};

/* Push up to QUEUE_PUSH_MAX jobs of one kind, in one round trip for each partition that gets some;
 * *n_new_out (may be NULL) were unknown till then. */
MUST_USE enum err queue_push_many(struct scope *sc, enum job_kind kind,
                                  const struct queue_item *items, size_t n, int64_t *n_new_out);

/* The right to run a job for a while, as the queue sees it. The token tells this holder from
 * every other, before or after. What guards the effect is the row's fence, not this. */
struct queue_lease {
    struct id job;
    enum job_kind kind;
    struct id user; /* nil where none */
    char token[QUEUE_TOKEN_SIZE];
    char epoch[QUEUE_EPOCH_SIZE]; /* of the queue's data; another one: Redis has lost them since */
};

/* Wait until so many replicas have what this thread has just pushed for the job, at most wait_ms.
 * ERR_DEPENDENCY_UNAVAILABLE: they have not. Without it a failover may lose the push, which the
 * scheduler makes up for within seconds. */
MUST_USE enum err queue_wait_replicas(struct scope *sc, enum job_kind kind, struct id job,
                                      int replicas, int64_t wait_ms);

/* What a worker asks for. */
struct queue_want {
    const char *queue;
    int partition;          /* below queue_partitions() */
    bool kinds[JOB__COUNT]; /* kinds that it has code for */
    const char *worker;     /* id of this process: up to 16 characters, random */
    size_t max;             /* 1 … QUEUE_BATCH_MAX; 0 only tends the queue */
};

struct queue_got {
    struct queue_lease leases[QUEUE_BATCH_MAX];
    size_t n;
    int64_t next_due_ms; /* time until a delay or a lease ends; -1: nothing to come */
    int64_t n_promoted;  /* delayed jobs that became ready */
    int64_t n_recovered; /* leases found expired; their jobs are ready again */
    bool more_due;       /* the bound of one call left some behind: call again */
    bool paused;
    char epoch[QUEUE_EPOCH_SIZE];
};

/* Promote what is due, take back expired leases, and lease up to want->max jobs that are next
 * and whose kind is below its concurrency. */
MUST_USE enum err queue_fetch(struct scope *sc, const struct queue_want *want,
                              struct queue_got *got_out);

/* Sleep until something may have become ready in the partition, at most wait_ms. OK in either
 * case. */
MUST_USE enum err queue_wait(struct scope *sc, const char *queue, int partition, int64_t wait_ms);

enum queue_beat {
    QUEUE_BEAT_OK,        /* the lease runs anew from now */
    QUEUE_BEAT_CANCELLED, /* still ours, but the job is to be stopped */
    QUEUE_BEAT_LOST       /* another holds the job, or nobody needs it any more */
};

/* Extend n leases of one partition. Where Redis has lost the queue since the fetch (another epoch),
 * the leases are entered anew, so that the loss does not double work that runs; their epoch is
 * renewed. */
MUST_USE enum err queue_extend(struct scope *sc, const char *queue, int partition,
                               struct queue_lease *leases, size_t n, enum queue_beat *beats_out);

enum queue_end {
    QUEUE_DONE,   /* the row has ended: forget the job */
    QUEUE_RETRY,  /* again after delay_ms; the artist's turn is charged again */
    QUEUE_RELEASE /* again at once, in front, free of charge: handed back */
};

/* End n leases of one partition. A lease that is no longer ours changes nothing. */
MUST_USE enum err queue_finish(struct scope *sc, const char *queue, int partition,
                               const struct queue_lease *leases, size_t n, enum queue_end end,
                               int64_t delay_ms);

/* Take a job out, once its row is cancelled. A waiting one is forgotten; the holder of a running
 * one is told at once (queue_stops()), and should that be lost, by its next heartbeat. OK for an
 * unknown job. */
MUST_USE enum err queue_cancel(struct scope *sc, enum job_kind kind, struct id job);

/* Sleep until a job that the worker of that id holds is to be stopped, at most wait_ms. token_out
 * is that of its lease, or "". */
MUST_USE enum err queue_stops(struct scope *sc, const char *worker, int64_t wait_ms,
                              char token_out[QUEUE_TOKEN_SIZE]);

struct queue_stats {
    bool paused;
    int64_t n_known, n_delayed, n_leased;
    int64_t n_due;               /* delayed ones whose time has come, not promoted yet */
    int64_t n_ready[JOB__COUNT]; /* 0 for kinds of other queues */
    int64_t n_running[JOB__COUNT];
};

/* Count what is there, over all partitions. */
MUST_USE enum err queue_stats(struct scope *sc, const char *queue, struct queue_stats *stats_out);

/* Give out no jobs until resumed. Running ones go on. */
MUST_USE enum err queue_pause(struct scope *sc, const char *queue, bool paused);

/* Tell who listens what has become of a user's job: one message on the sharded channel
 * "jobs:{userId}", {"jobId","type","status","progress"}. Nobody is told of jobs of nobody. Best
 * effort: a listener that needs certainty asks for the row. */
MUST_USE enum err queue_tell(struct scope *sc, struct id user, struct id job, enum job_kind kind,
                             const char *status, int progress);

/* Back-off before attempt number failures + 1: full jitter over [1, job_backoff_ms × 2^(failures
 * - 1)], capped at job_backoff_max_ms. random is any 64 random bits. Pure but for config(). */
int64_t queue_backoff_ms(int64_t failures, uint64_t random);

#endif
