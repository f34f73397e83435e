/* Jobs: how a handler promises one. */
#ifndef HANDLERS_JOBS_H
#define HANDLERS_JOBS_H

#include "fcgi/req.h"
#include "lib/queue.h"

/* Record a job of the signed-in user in the request's transaction, push it to its queue after the
 * commit, and reply 202 with its address. payload is a JSON object with all that the worker needs.
 * Blocks for the database; a push that fails is made up for by the scheduler. */
MUST_USE enum err jobs_accept(struct req *r, enum job_kind kind, const char *payload);

#endif
