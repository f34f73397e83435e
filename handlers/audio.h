/* Audio files: their shape, and what chunked uploads and jobs share with them. */
#ifndef HANDLERS_AUDIO_H
#define HANDLERS_AUDIO_H

#include "fcgi/req.h"
#include "handlers/audio_type.h"

/* A row of audio_files. Texts live in the request's arena. */
struct audio_file {
    struct id id;
    const char *key, *status, *origin, *file_name, *content_type;
    int64_t size_bytes;
    const char *etag, *sha256, *container, *codec;
    int64_t duration_ms, sample_rate, channels, bit_depth, bit_rate;
    const char *analysis, *waveform, *rejection; /* JSON */
    int64_t version, created_at, updated_at;
};

extern const struct shape shape_audio_file;

/* A file that a client announces, judged and canonical. */
struct audio_new {
    const struct audio_type *type;
    const char *file_name;    /* a label: no path parts, part of no key */
    const char *content_type; /* as the table of types spells it */
    int64_t size_bytes;
};

/* Read {fileName, contentType, size} from the body. In this order: 422 for the form of the members,
 * 415 for a type that is not allowed, 413 for too large a size, 422 for bounds. */
MUST_USE enum err audio_read_new(struct req *r, struct audio_new *new_out);

/* Read a file name for an existing file: the label without path parts. 422. */
MUST_USE enum err audio_label(struct req *r, const char *text, const char **label_out);

/* The key of a file of the signed-in user. */
const char *audio_key(struct req *r, struct id file, const struct audio_type *type);

/* The signed-in user's file, ERR_NOT_FOUND for another's or a deleted one. Blocks for the database.
 */
MUST_USE enum err audio_find(struct req *r, struct id id, struct audio_file *file_out);

/* The same, but ERR_CONFLICT where it is not verified. */
MUST_USE enum err audio_find_verified(struct req *r, struct id id, struct audio_file *file_out);

/* Judge an uploaded object by its size and real content and settle the row once and for all:
 * verified (OK, *file is as it is now) or rejected. A file settled before gets the same answer
 * without a look at S3. Gives the database connection back before it talks to S3, so no transaction
 * may be open. Blocks for S3, the probe and the database.
 *
 * ERR_CONFLICT: nothing is there yet, or it changed meanwhile. ERR_UNSUPPORTED_MEDIA_TYPE,
 * ERR_MEDIA_INVALID, ERR_VALIDATION_FAILED: rejected. ERR_OVERLOADED: MEDIA_PROBE_CONCURRENCY
 * probes run in this process. */
MUST_USE enum err audio_settle(struct req *r, struct audio_file *file);

/* Reply 201 with the file, its ETag and Location. */
enum err audio_reply_created(struct req *r, const struct audio_file *file);

/* Delete an object whose row is gone or rejected, within a short time; a failure is only logged.
 * Gives the database connection back first, so no transaction may be open. */
void audio_drop_object(struct req *r, const char *key);

#endif
