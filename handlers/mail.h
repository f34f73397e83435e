/* E-mail jobs, as handlers promise them. */
#ifndef HANDLERS_MAIL_H
#define HANDLERS_MAIL_H

#include "lib/id.h"
#include "lib/scope.h"

/* Insert an email-send job at a place, in the open transaction if there is one: template
 * ("welcome", "password-reset"), address, and the recipient's name (NULL: unknown). user may be
 * nil. The job's id comes back for mail_push(). Errors: pg_one()'s. */
MUST_USE enum err mail_promise(struct scope *sc, struct place place, struct id user,
                               const char *template, const char *email, const char *name,
                               struct id *job_out);

/* Put it into the queue after the commit; a failure is repaired by the scheduler. Blocks as redis.h
 * says. */
void mail_push(struct scope *sc, struct id job, struct id user);

#endif
