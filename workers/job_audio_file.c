/* A job that makes one new audio file of its user. Each attempt makes a file of its own id; the
 * completing transaction inserts the row of the one that counts, so a file that is listed is
 * whole. */
#include <string.h>

#include "lib/event.h"
#include "lib/pg.h"
#include "lib/s3.h"
#include "lib/shape.h"
#include "lib/str.h"
#include "queries.h"
#include "workers/job_audio.h"

enum {
    LABEL_MAX = 240
}; /* bytes of the label before its extension; the column takes 255 characters */

/* What each format's files are, as the probe of an upload would say. */
static const struct format {
    const char *name, *content_type, *container;
} formats[] = {
    {"mp3", "audio/mpeg", "mp3"},  {"wav", "audio/wav", "wav"}, {"flac", "audio/flac", "flac"},
    {"m4a", "audio/mp4", "mov"},   {"aac", "audio/aac", "aac"}, {"ogg", "audio/ogg", "ogg"},
    {"opus", "audio/opus", "ogg"},
};

struct made {
    const struct format *format;
    struct id id;
    const char *origin, *key, *label, *etag, *sha256, *codec;
    int64_t size, duration_ms, sample_rate, channels, bit_depth;
};

static const struct format *format_of(const struct job *j)
{
    const char *name = json_str(json_get(job_payload(j), "format"), NULL);
    size_t i;

    for (i = 0; name != NULL && i < ARRAY_LEN(formats); i++) {
        if (strcmp(formats[i].name, name) == 0) {
            return &formats[i];
        }
    }
    return NULL;
}

static bool name_output(struct job *j, int64_t fence, int output, const char **key_out,
                        const char **content_type_out)
{
    struct arena *a = job_arena(j);
    const struct format *format = format_of(j);

    if (output != 0 || format == NULL) {
        return false;
    }
    *key_out = arena_printf(a, "audio/%s/%s.%s", id_text(a, job_user(j)),
                            id_text(a, job_made_id(j, fence, 0)), format->name);
    *content_type_out = format->content_type;
    return true;
}

/* The source's label with a mark and the new extension, cut between characters. */
static const char *label_of(struct job *j, const char *name, const char *mark,
                            const struct format *format)
{
    const char *dot;
    size_t len;

    name = name == NULL || *name == '\0' ? "audio" : name;
    dot = strrchr(name, '.');
    len = dot == NULL || dot == name ? strlen(name) : (size_t)(dot - name);

    if (len > LABEL_MAX) {
        for (len = LABEL_MAX; len > 0 && ((unsigned char)name[len] & 0xc0) == 0x80; len--) {
        }
    }
    return arena_printf(job_arena(j), "%.*s%s.%s", (int)len, name, mark, format->name);
}

static enum err read_made(struct job *j, const struct json *result, struct made *made)
{
    made->sha256 = json_str(json_get(result, "sha256"), NULL);
    made->codec = json_str(json_get(result, "codec"), NULL);
    if (made->sha256 == NULL || made->codec == NULL ||
        !json_i64(json_get(result, "size"), &made->size) ||
        !json_i64(json_get(result, "durationMs"), &made->duration_ms) ||
        !json_i64(json_get(result, "sampleRate"), &made->sample_rate) ||
        !json_i64(json_get(result, "channels"), &made->channels)) {
        return scope_fail(job_scope(j), ERR_INTERNAL, "odd result of the media child");
    }
    if (!json_i64(json_get(result, "bitDepth"), &made->bit_depth)) {
        made->bit_depth = ABSENT_I64;
    }
    return OK;
}

static enum err insert_file(struct job *j, struct scope *sc, void *context)
{
    const struct made *m = context;
    int64_t bit_rate = m->duration_ms > 0 ? m->size * 8000 / m->duration_ms : ABSENT_I64;

    TRY(pg_exec(sc,
                q_audio_insert_result(sc, m->id, job_user(j), m->key, m->origin, m->label,
                                      m->format->content_type, m->size, m->etag, m->sha256,
                                      m->format->container, m->codec, m->duration_ms,
                                      m->sample_rate, m->channels, m->bit_depth, bit_rate),
                NULL));
    memcpy(sc->traceparent, job_scope(j)->traceparent, sizeof(sc->traceparent));
    return event_add(sc, job_user(j), EVENT_AUDIO_CREATED,
                     &(struct event_data){.file = m->id,
                                          .job = job_id(j),
                                          .origin = m->origin,
                                          .file_name = m->label,
                                          .content_type = m->format->content_type,
                                          .size_bytes = m->size,
                                          .duration_ms = m->duration_ms});
}

static void tell(struct job *j, const struct made *m)
{
    struct strbuf b;

    strbuf_init(&b, job_arena(j), 1024);
    strbuf_printf(&b, "{\"fileId\":\"%s\",\"key\":", id_text(job_arena(j), m->id));
    strbuf_json(&b, m->key);
    strbuf_printf(&b, ",\"format\":\"%s\",\"size\":%lld,\"durationMs\":%lld,\"sha256\":",
                  m->format->name, (long long)m->size, (long long)m->duration_ms);
    strbuf_json(&b, m->sha256);
    strbuf_puts(&b, ",\"codec\":");
    strbuf_json(&b, m->codec);
    strbuf_printf(&b,
                  ",\"sampleRate\":%lld,\"channels\":%lld,\"bitDepth\":", (long long)m->sample_rate,
                  (long long)m->channels);
    if (m->bit_depth == ABSENT_I64) {
        strbuf_puts(&b, "null}");
    } else {
        strbuf_printf(&b, "%lld}", (long long)m->bit_depth);
    }
    job_result(j, b.data);
}

enum err job_make_file(struct job *j, const struct job_run *run, const char *mark)
{
    struct made *made = arena_new(job_arena(j), struct made);
    struct scope *sc = job_scope(j);
    const struct json *result;
    struct s3_object object;
    const char *type;

    made->format = format_of(j);
    if (!name_output(j, job_fence(j), 0, &made->key, &type)) {
        return scope_fail(sc, ERR_VALIDATION_FAILED, "the payload names no format");
    }
    made->id = job_made_id(j, job_fence(j), 0);
    made->origin = run->operation;
    TRY(job_media_run_all(j, run, name_output, &result));
    TRY(read_made(j, result, made));
    TRY(s3_head(sc, made->key, &object));
    if (object.size != made->size) {
        return scope_fail(sc, ERR_INTERNAL, "%lld bytes made, %lld stored", (long long)made->size,
                          (long long)object.size);
    }
    made->etag = object.etag;
    made->label = label_of(j, run->files[0].name, mark, made->format);
    tell(j, made);
    job_publish(j, insert_file, made);
    return OK;
}
