/* audio-waveform: .dat and .json for each zoom, and one picture. Each job's files have keys of
 * their own below the audio file's prefix, which the sweep of a deleted file drops as a whole. The
 * usual one was made by the analysis already: the payload has what was told of it. */
#include "lib/s3.h"
#include "lib/str.h"
#include "workers/job_audio.h"

enum { FILES_PER_ZOOM = 2 };

/* The child numbers its outputs: dat and json of each zoom in order, the picture last. */
bool job_waveform_output(struct job *j, int64_t fence, int output, const char **key_out,
                         const char **content_type_out)
{
    struct arena *a = job_arena(j);
    const struct json *payload = job_payload(j), *zoom = json_get(payload, "zoom");
    const char *file = json_str(json_get(payload, "fileId"), NULL);
    int n_zooms = json_kind(zoom) == JSON_ARRAY ? (int)json_length(zoom) : 1;
    const char *prefix = arena_printf(a, "waveforms/%s/%s/%s-%lld", id_text(a, job_user(j)), file,
                                      id_text(a, job_id(j)), (long long)fence);

    if (output < 0 || output > n_zooms * FILES_PER_ZOOM) {
        return false;
    }
    if (output == n_zooms * FILES_PER_ZOOM) {
        *key_out = arena_printf(a, "%s.png", prefix);
        *content_type_out = "image/png";
    } else if (output % FILES_PER_ZOOM == 0) {
        *key_out = arena_printf(a, "%s-%d.dat", prefix, output / FILES_PER_ZOOM);
        *content_type_out = "application/octet-stream";
    } else {
        *key_out = arena_printf(a, "%s-%d.json", prefix, output / FILES_PER_ZOOM);
        *content_type_out = "application/json";
    }
    return true;
}

static enum err add_file(struct job *j, struct strbuf *b, const struct json *file)
{
    const char *format = json_str(json_get(file, "format"), NULL);
    const char *sha256 = json_str(json_get(file, "sha256"), NULL);
    const char *key, *type;
    int64_t output, zoom, size;

    if (format == NULL || sha256 == NULL || !json_i64(json_get(file, "output"), &output) ||
        !json_i64(json_get(file, "samplesPerPixel"), &zoom) ||
        !json_i64(json_get(file, "size"), &size) ||
        !job_waveform_output(j, job_fence(j), (int)output, &key, &type)) {
        return scope_fail(job_scope(j), ERR_INTERNAL, "odd result of the media child");
    }
    strbuf_puts(b, "{\"format\":");
    strbuf_json(b, format);
    strbuf_printf(b, ",\"samplesPerPixel\":%lld,\"key\":", (long long)zoom);
    strbuf_json(b, key);
    strbuf_printf(b, ",\"size\":%lld,\"sha256\":", (long long)size);
    strbuf_json(b, sha256);
    strbuf_putc(b, '}');
    return OK;
}

enum err job_waveform_tell(struct job *j, const struct json *made, const char **json_out)
{
    const struct json *files = json_get(made, "files");
    struct strbuf b;
    int64_t duration_ms;
    size_t i;

    if (!json_i64(json_get(made, "durationMs"), &duration_ms) || json_length(files) == 0) {
        return scope_fail(job_scope(j), ERR_INTERNAL, "odd result of the media child");
    }
    strbuf_init(&b, job_arena(j), 2048);
    strbuf_puts(&b, "{\"files\":[");
    for (i = 0; i < json_length(files); i++) {
        strbuf_puts(&b, i > 0 ? "," : "");
        TRY(add_file(j, &b, json_item(files, i)));
    }
    strbuf_printf(&b, "],\"durationMs\":%lld}", (long long)duration_ms);
    *json_out = b.data;
    return OK;
}

/* What the analysis has told. */
static enum err tell_again(struct job *j, const struct json *told)
{
    struct strbuf b;

    strbuf_init(&b, job_arena(j), 2048);
    json_write(&b, told);
    job_result(j, b.data);
    return OK;
}

enum err job_audio_waveform(struct job *j)
{
    const struct json *told = json_get(job_payload(j), "made"), *made;
    struct job_file file;
    const char *json;

    if (told != NULL) {
        return tell_again(j, told);
    }
    TRY(job_file_read(j, &file));
    TRY(job_media_run(j, "waveform", &file, job_waveform_output, &made));
    TRY(job_waveform_tell(j, made, &json));
    job_result(j, json);
    return OK;
}
