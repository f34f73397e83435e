/* What a worker counts, for its door. Counting never blocks. Private to workers/. */
#ifndef WORKERS_FIGURES_H
#define WORKERS_FIGURES_H

#include <stdint.h>

#include "lib/queue.h"
#include "lib/str.h"

/* An attempt ended; ending is one of the words of the log line. */
void figures_ended(enum job_kind kind, const char *ending, int64_t duration_ms);

/* A job was claimed for the first time, so long after it was due. */
void figures_claimed(enum job_kind kind, int64_t wait_ms);

/* The worker has so many threads for jobs. */
void figures_threads(size_t n);

/* Append all of it. */
void figures_write(struct strbuf *out);

#endif
