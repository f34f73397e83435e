/* Outputs are named by job, fence and number alone, so a later claim can find what an earlier
 * one left when it was killed. */
#include "workers/job_audio.h"

#include <string.h>

#include "lib/media_s3.h"
#include "lib/s3.h"

enum {
    OUTPUTS_MAX = 64,
    EARLIER_MAX = 20 /* claims looked back at; more than STALLED_MAX and retries usually allow */
};

struct outputs {
    struct job *job;
    job_output_fn *name;
};

enum err job_file_of(struct job *j, const struct json *object, struct job_file *file_out)
{
    const char *id = json_str(json_get(object, "fileId"), NULL);

    *file_out = (struct job_file){.key = json_str(json_get(object, "key"), NULL),
                                  .etag = json_str(json_get(object, "etag"), NULL),
                                  .name = json_str(json_get(object, "fileName"), NULL)};
    if (id == NULL || !id_parse(id, strlen(id), &file_out->id) || file_out->key == NULL ||
        !json_i64(json_get(object, "size"), &file_out->size) || id_is_nil(job_user(j))) {
        return scope_fail(job_scope(j), ERR_VALIDATION_FAILED, "the payload names no file");
    }
    return OK;
}

enum err job_file_read(struct job *j, struct job_file *file_out)
{
    return job_file_of(j, job_payload(j), file_out);
}

static void on_target(void *context, int output, const char **key_out,
                      const char **content_type_out)
{
    const struct outputs *o = context;

    if (!o->name(o->job, job_fence(o->job), output, key_out, content_type_out)) {
        *key_out = NULL;
        *content_type_out = NULL;
    }
}

static void delete_outputs(struct outputs *o, struct scope *sc, int64_t fence)
{
    const char *key, *type;
    int i;

    for (i = 0; i < OUTPUTS_MAX && o->name(o->job, fence, i, &key, &type); i++) {
        if (s3_delete(sc, key) != OK) {
            return;
        }
    }
}

static void on_discard(struct job *j, struct scope *sc, void *context)
{
    delete_outputs(context, sc, job_fence(j));
}

/* What claims before this one may have left: their workers were killed, or could not reach S3. */
static void delete_earlier(struct outputs *o)
{
    struct scope sc;
    int64_t fence = job_fence(o->job), first = fence > EARLIER_MAX ? fence - EARLIER_MAX : 1;

    scope_init(&sc, job_arena(o->job), 5000);
    for (; first < fence; first++) {
        delete_outputs(o, &sc, first);
    }
    scope_done(&sc);
}

enum err job_media_run_all(struct job *j, const struct job_run *run, job_output_fn *output,
                           const struct json **result_out)
{
    struct scope *sc = job_scope(j);
    struct outputs *o = arena_new(sc->arena, struct outputs);
    const struct media_watch watch = job_watch(j);
    struct media_source *sources = arena_array(sc->arena, struct media_source, run->n_files);
    struct media_s3_sink *sink;
    struct media_sink media_sink;
    const char *result = NULL;
    enum err e;
    size_t i;

    *o = (struct outputs){.job = j, .name = output};
    job_discard(j, on_discard, o);
    for (i = 0; i < run->n_files; i++) {
        const struct job_file *file = &run->files[i];

        media_source_s3(sc, file->key, file->etag, file->size, &sources[i]);
    }
    if (run->source != NULL) {
        sources[0] = *run->source;
    }
    sink = media_s3_sink_open(sc, on_target, o, &media_sink);
    e = media_run(sc, run->operation, run->params, sources, run->n_files, &media_sink, &watch,
                  scope_left_ms(sc, INT64_MAX), &result);
    media_s3_sink_close(&sink);
    delete_earlier(o);
    TRY(e);
    return json_parse(sc, result, strlen(result), result_out);
}

enum err job_media_run(struct job *j, const char *operation, const struct job_file *file,
                       job_output_fn *output, const struct json **result_out)
{
    const struct job_run run = {
        .operation = operation, .params = job_payload_text(j), .files = file, .n_files = 1};

    return job_media_run_all(j, &run, output, result_out);
}
