/* The worker process: threads that run jobs, and those that keep their leases alive. Private to
 * workers/.
 *
 * Each pool (a queue, or one type of a queue) has threads of its own, so that no mail waits behind
 * a conversion. One thread beats for all running jobs, one reports their progress. A job that
 * runs is known by its slot in the roll. */
#ifndef WORKERS_WORKER_H
#define WORKERS_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "lib/queue.h"
#include "workers/job.h"

/* Why a running job must stop; the first reason stays. */
enum stop { STOP_NONE, STOP_CANCELLED, STOP_LOST, STOP_SHUTDOWN };

/* Code of a type: a file of workers/ (tools/gen_jobs.py). */
struct job_code {
    const char *name;
    enum err (*run)(struct job *j);
};

/* gperf's look-up of a type by its name; NULL where this program has no code for it. */
const struct job_code *job_code_lookup(const char *name, size_t len);

/* Threads that serve one queue, or one type of it. */
struct pool {
    const char *queue;
    bool kinds[JOB__COUNT]; /* that it takes, and for which there is code */
    size_t threads;
};

enum { POOLS_MAX = 16, POOL_THREADS_MAX = 256 };

/* Read a list like "audio,email=4,audio-mix=1" into up to POOLS_MAX pools. False: it names what
 * there is not; a sentence on standard error says so. Pools without code are left out, and
 * one for mail while SMTP_URL is empty. */
bool pools_read(const char *list, struct pool *pools, size_t *n_out);

/* Start the roll for n threads. */
void roll_open(size_t n);

/* Enter a leased job; its lease is extended from now on. The slot is below n of roll_open(). */
void roll_enter(size_t slot, const struct queue_lease *lease);

/* The row is claimed with this fence; its progress may be written. */
void roll_claimed(size_t slot, int64_t fence);

/* Leave: no beat and no report of this job begins afterwards. *lease_out has the newest epoch. */
void roll_leave(size_t slot, struct queue_lease *lease_out);

/* Why the slot's job must stop. */
enum stop roll_stop(size_t slot);

/* Tell how far the slot's job is. */
void roll_progress(size_t slot, int percent);

/* Keep a line that the slot's job says until it is written; of more than JOB_LOG_LINES the oldest
 * go. */
void roll_log(size_t slot, const char *line);

/* Write what is kept of the slot's job, in the calling thread, once the job's code has ended. Best
 * effort. */
void roll_say(size_t slot, struct arena *arena);

/* Stop all running jobs. */
void roll_interrupt(enum stop why);

/* Number of slots in use. */
size_t roll_busy(void);

/* Start the beating and the reporting thread, and one that listens for what is cancelled. They run
 * until roll_close(). worker: the id of the process, as in struct queue_want; it must last. */
void roll_start(char *worker);

/* End the threads. Blocks up to half a second. */
void roll_close(void);

/* One attempt of a leased job, from the claim to its end, in the calling thread. False: a
 * dependency is missing, so pause before the next. */
bool attempt_run(struct arena *arena, size_t slot, const struct queue_lease *lease);

/* Is the process to end? Set once by worker_stop(). */
bool worker_stopping(void);

/* That long from now, on CLOCK_MONOTONIC. */
struct timespec worker_deadline(int64_t ms);

/* Sleep, but not longer than until worker_stop(). */
void worker_sleep(int64_t ms);

/* Serve these pools until worker_stop(), then finish: EXIT_SUCCESS, or
 * EXIT_FAILURE where a thread or a queue cannot be had. Blocks in the calling thread, which
 * takes the signals. */
int worker_run(const char *pools);

#endif
