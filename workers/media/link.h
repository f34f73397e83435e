/* The child's end of the protocol of lib/media_proto.h.
 *
 * There is one link per process and one job per link. A parent that is gone or breaks the protocol
 * ends the process at once: there is nobody left to tell. Everything here blocks until the parent
 * answers. */
#ifndef WORKERS_MEDIA_LINK_H
#define WORKERS_MEDIA_LINK_H

#include <stddef.h>
#include <stdint.h>

#include "lib/media_proto.h"

struct link;

/* Take the job from the parent and map the shared memory. The start lives as long as the link;
 * *params_out is a NUL-terminated text of "name=value\n" lines. */
struct link *link_open(const struct media_start **start_out, const char **params_out);

/* Copy up to len bytes of a source from offset; fewer only at its end, 0 there. */
size_t link_read(struct link *l, uint32_t source, int64_t offset, void *buffer, size_t len);

/* Append to an output. */
void link_write(struct link *l, uint32_t output, const void *data, size_t len);

/* Replace bytes that were written, within the first MEDIA_REWRITABLE ones. */
void link_rewrite(struct link *l, uint32_t output, int64_t offset, const void *data, size_t len);

/* The output is complete. Returns before the parent has stored it. */
void link_finish(struct link *l, uint32_t output);

/* Tell how far we are; sends only what is new. */
void link_progress(struct link *l, int percent);

/* The job is done. */
void link_result(struct link *l, const char *json);

/* The job has failed, for source number source. param: name of the parameter for
 * MEDIA_FAULT_PARAM, else NULL. */
void link_fail(struct link *l, enum media_fault fault, int64_t value, uint32_t source,
               const char *param);

#endif
