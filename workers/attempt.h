/* What the parts of an attempt share: the job as its code sees it (job.c), claim and course
 * (attempt.c), the roll of those that run (roll.c), the end (ending.c). For those only. */
#ifndef WORKERS_ATTEMPT_H
#define WORKERS_ATTEMPT_H

#include "lib/queue.h"
#include "workers/worker.h"

enum { ROW_LIMIT_MS = 10000 /* for claiming or ending a row, waits included */ };

struct job_row {
    struct id id, user_id;
    const char *type, *payload, *traceparent;
    int64_t attempts, stalled, fence, created_at, run_at;
};

struct job {
    struct scope scope;
    struct job_row row;
    const struct job_type *type;
    const struct json *payload;
    size_t slot;
    int64_t start_mono_ms;
    int64_t delay_ms; /* before the next attempt */
    const char *result;
    enum err (*publish)(struct job *j, struct scope *sc, void *context);
    void *publish_context;
    void (*discard)(struct job *j, struct scope *sc, void *context);
    void *discard_context;
};

/* Where a job stands. */
struct job_state {
    const char *status;
    int64_t fence, waits_for, due_in_ms; /* below 0: it is due */
};

/* Ask the row, whoever owns it. */
MUST_USE enum err attempt_state(struct scope *sc, struct id job, struct job_state *state_out);

/* How an attempt ended. */
struct verdict {
    const char *status; /* for the log */
    enum queue_end end;
    bool is_published; /* or may be: outputs stay */
};

/* End the row as *e, what the job's code returned, demands; *e is then what spoiled a completion,
 * if anything did. Blocks for the database, a completion up to a minute. */
struct verdict ending_judge(struct job *j, struct scope *sc, enum err *e);

/* What the scope has written of the job is to be seen by its user's next read (session_mark()). */
void ending_mark(const struct job *j, struct scope *sc);

/* Was something missing that others provide? Then the attempt says nothing about the job. */
bool ending_is_outage(enum err e);

/* Jittered time until the next attempt, after so many failures. */
int64_t ending_backoff_ms(int64_t failures);

/* Sleep, also while the process is stopping, when worker_sleep() returns at once. */
void ending_pause(int64_t ms);

#endif
