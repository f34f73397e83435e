/* audio-convert: one file in another format. */
#include "workers/job_audio.h"

enum err job_audio_convert(struct job *j)
{
    struct job_file file;
    const struct job_run run = {
        .operation = "convert", .params = job_payload_text(j), .files = &file, .n_files = 1};

    TRY(job_file_read(j, &file));
    return job_make_file(j, &run, "");
}
