/* Jobs: how a handler promises one. */
#ifndef HANDLERS_JOBS_H
#define HANDLERS_JOBS_H

#include "fcgi/req.h"
#include "lib/queue.h"

/* Record a job of the signed-in user in the request's transaction, and push it to its queue after
 * the commit. payload is a JSON object with all that the worker needs. Blocks for the database; a
 * push that fails is made up for by the scheduler. */
MUST_USE enum err jobs_start(struct req *r, enum job_kind kind, const char *payload,
                             struct id *id_out);

/* The same, and reply 202 with its address. */
MUST_USE enum err jobs_accept(struct req *r, enum job_kind kind, const char *payload);

#endif
