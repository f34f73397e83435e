/* System calls of running processes that change files, seen by strace: proof that a program keeps
 * nothing in local files. */
#ifndef DEPLOY_CTL_READINESS_TRACE_H
#define DEPLOY_CTL_READINESS_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "lib/scope.h"

struct rd_trace;

struct rd_trace_result {
    bool is_whole;       /* strace saw the processes from its start to its end */
    size_t n_calls;      /* calls that open or change files */
    size_t n_writes;     /* of them: those that change local files */
    const char *first;   /* the first of those, as strace tells it; "" */
    const char *trouble; /* what strace itself had to say; "" */
};

/* Is a line of strace about a local file that is opened for writing, made, renamed or removed?
 * Kernel interfaces (/dev, /proc, /sys) are no files; what failed has changed nothing.
 * *is_call_out: is it a call at all? Pure. */
bool rd_trace_is_write(const char *line, bool *is_call_out);

/* Look at the processes and their children from now on; they get slower by it. Fails where there is
 * no strace or it may not look (cause). The caller owns *out. */
MUST_USE enum err rd_trace_open(struct scope *sc, const pid_t *pids, size_t n,
                                struct rd_trace **out);

/* End it and clear *t; waits until strace has let go of the processes. */
void rd_trace_close(struct scope *sc, struct rd_trace **t, struct rd_trace_result *out);

/* The path of a file that the process holds open for writing and that is neither its log (standard
 * output and error) nor a kernel interface; NULL: none. In the arena. */
const char *rd_open_file(struct arena *a, pid_t pid);

#endif
