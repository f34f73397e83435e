/* What the jobs on one audio file share: where its bytes are, and the objects that an attempt
 * makes. Private to workers/job_audio_*.c. */
#ifndef WORKERS_JOB_AUDIO_H
#define WORKERS_JOB_AUDIO_H

#include <stddef.h>
#include <stdint.h>

#include "lib/media.h"
#include "workers/job.h"

/* The file that a payload is about. */
struct job_file {
    struct id id;
    const char *key, *etag, *name;
    int64_t size;
};

/* Read one from an object of the payload. ERR_VALIDATION_FAILED. */
MUST_USE enum err job_file_of(struct job *j, const struct json *object, struct job_file *file_out);

/* Read it from the payload itself. ERR_VALIDATION_FAILED. */
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

/* One run of the media child on several files. */
struct job_run {
    const char *operation, *params; /* params: a JSON object */
    const struct job_file *files;
    size_t n_files;
    const struct media_source *source; /* instead of the one file's object; NULL: that */
};

/* The same as job_media_run() for such a run. */
MUST_USE enum err job_media_run_all(struct job *j, const struct job_run *run, job_output_fn *output,
                                    const struct json **result_out);

/* The files of a waveform: a job_output_fn, and what a job tells of them, {"files","durationMs"},
 * from the child's word. ERR_INTERNAL. */
bool job_waveform_output(struct job *j, int64_t fence, int output, const char **key_out,
                         const char **content_type_out);
MUST_USE enum err job_waveform_tell(struct job *j, const struct json *made, const char **json_out);

/* Make a new audio file of the user in the payload's format, S3 to S3, and tell of it; the row is
 * inserted by the completing transaction, with the operation as its origin. It is called after the
 * first source, with the mark behind the name. Blocks as job_media_run() does. */
MUST_USE enum err job_make_file(struct job *j, const struct job_run *run, const char *mark);

#endif
