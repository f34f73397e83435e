/* What the jobs on one audio file share: where its bytes are, and the objects that an attempt
 * makes. Private to workers/job_audio_*.c. */
#ifndef WORKERS_JOB_AUDIO_H
#define WORKERS_JOB_AUDIO_H

#include <stddef.h>
#include <stdint.h>

#include "workers/job.h"

/* The file that a payload is about. */
struct job_file {
    struct id id;
    const char *key, *etag, *name;
    int64_t size;
};

/* Read it from the payload. ERR_VALIDATION_FAILED. */
MUST_USE enum err job_file_read(struct job *j, struct job_file *file_out);

/* Key and content type of output number output of the claim with that fence; false: there is no
 * such output. Pure. */
typedef bool job_output_fn(struct job *j, int64_t fence, int output, const char **key_out,
                           const char **content_type_out);

/* Run an operation of the media child on the file, S3 to S3; *result_out is the child's result.
 * What the attempt wrote is deleted where it is not published, and so is what earlier claims
 * have left. Blocks until done, stopped or out of time. */
MUST_USE enum err job_media_run(struct job *j, const char *operation, const struct job_file *file,
                                job_output_fn *output, const struct json **result_out);

#endif
