/* S3 as the source and the sink of media_run(). Knows s3.h.
 *
 * An output up to MULTIPART_PART_BYTES is one PUT; a larger one is a multipart upload whose parts
 * go out from a thread of the sink's own while the child works on. The first part is kept until
 * the end, since its beginning may still be corrected. */
#ifndef LIB_MEDIA_S3_H
#define LIB_MEDIA_S3_H

#include "lib/media.h"

/* Read an object by ranges, pinned to its ETag: if it is replaced meanwhile, reading fails with
 * ERR_PRECONDITION_FAILED. key and etag (NULL: whatever is there) must outlive the source, which
 * lives in the scope's arena. */
void media_source_s3(struct scope *sc, const char *key, const char *etag, int64_t size,
                     struct media_source *source_out);

/* Say where an output goes: its key and content type, which must live as long as the sink. A NULL
 * key: no such output is expected, and the run fails. */
typedef void media_s3_target(void *context, int output, const char **key_out,
                             const char **content_type_out);

struct media_s3_sink;

/* Make a sink. It lives in the scope's arena and ends with media_s3_sink_close(); it belongs to
 * the thread that runs the child. */
struct media_s3_sink *media_s3_sink_open(struct scope *sc, media_s3_target *target, void *context,
                                         struct media_sink *sink_out);

/* End it: what is not finished is aborted at S3 (best effort, a few seconds, also past the scope's
 * deadline), finished objects stay. Call it after media_run(), whatever that returned. Clears
 * *sink. */
void media_s3_sink_close(struct media_s3_sink **sink);

#endif
