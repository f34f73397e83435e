/* One attempt of a job, as its code sees it. A file workers/job_<type>.c includes this and lib/
 * headers, nothing else of workers/; its function is job_<type>(), and by its file it is found.
 *
 * The function does the work, says what came of it with job_result(), and returns OK; or it
 * returns an error, and the worker decides: what can never work fails at once, what a dependency
 * owes is put off, all else is tried again with back-off. It runs in one thread, on an arena of
 * its own, until the scope's deadline, which is the type's time limit. */
#ifndef WORKERS_JOB_H
#define WORKERS_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/id.h"
#include "lib/json.h"
#include "lib/media.h"
#include "lib/scope.h"

struct job;

/* The attempt's scope: arena, deadline, trace, leases. Never NULL. */
struct scope *job_scope(struct job *j);

/* Arena of the scope. */
struct arena *job_arena(struct job *j);

/* The job's id; its place is the row's. */
struct id job_id(const struct job *j);

/* Whose job it is; nil where it is nobody's. */
struct id job_user(const struct job *j);

/* Number of this claim. Keys of outputs carry it, so that no two attempts write to one key. */
int64_t job_fence(const struct job *j);

/* What the job was asked to do: a JSON object. */
const struct json *job_payload(const struct job *j);

/* The same as its text. */
const char *job_payload_text(const struct job *j);

/* An id for something that this attempt makes: owned by the job's user, the same for the same
 * claim and n, so that a later attempt can find what an earlier one left behind. */
struct id job_made_id(const struct job *j, int64_t fence, int n);

/* Tell how far it is, 0 … 99. False: stop, the job is cancelled, handed back or another's. Never
 * blocks; the worker writes it to the row at its leisure. */
bool job_progress(struct job *j, int percent);

/* Must the attempt stop? */
bool job_stopped(const struct job *j);

/* The same for media_run(). */
struct media_watch job_watch(struct job *j);

/* Say what happens, for the operator (maxboosterctl queue show): a line of up to
 * JOB_LOG_LINE_SIZE - 1 bytes. Never blocks; the last JOB_LOG_LINES of half a second are kept, and
 * those of a killed worker's last half second are lost. Nothing secret. */
void job_log(struct job *j, const char *format, ...) PRINTF_LIKE(2, 3);

enum { JOB_LOG_LINES = 16, JOB_LOG_LINE_SIZE = 240 };

/* Text of a JSON object in the arena: what the job gives. "{}" if never called. */
void job_result(struct job *j, const char *json);

/* Run fn within the transaction that ends the row, after the fence was found to hold: rows that
 * publish the result. It queries the job's place by the scope that it is given; an error rolls
 * back and fails the attempt. */
void job_publish(struct job *j, enum err (*fn)(struct job *j, struct scope *sc, void *context),
                 void *context);

/* Run fn where the attempt's outputs are not published: an error, a cancellation, another's job.
 * Best effort; the scope has a few seconds. */
void job_discard(struct job *j, void (*fn)(struct job *j, struct scope *sc, void *context),
                 void *context);

/* The functions of all types that have code. */
#include "job_protos.h"

#endif
