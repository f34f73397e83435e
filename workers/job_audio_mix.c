/* audio-mix: several files added up to one. The child is told nothing of keys and names. */
#include <string.h>

#include "lib/str.h"
#include "workers/job_audio.h"

static bool is_for_child(const char *name)
{
    static const char *const others[] = {"fileId", "key", "etag", "fileName", "size", "durationMs"};
    size_t i;

    for (i = 0; i < ARRAY_LEN(others); i++) {
        if (strcmp(name, others[i]) == 0) {
            return false;
        }
    }
    return true;
}

struct copy {
    struct strbuf *json;
    bool first;
};

static bool copy_member(void *context, const char *name, const struct json *value)
{
    struct copy *c = context;

    if (is_for_child(name) && strcmp(name, "tracks") != 0) {
        strbuf_puts(c->json, c->first ? "" : ",");
        c->first = false;
        strbuf_json(c->json, name);
        strbuf_putc(c->json, ':');
        json_write(c->json, value);
    }
    return true;
}

static void copy_members(struct strbuf *json, const struct json *object, bool first)
{
    struct copy c = {.json = json, .first = first};

    json_each(object, copy_member, &c);
}

static const char *child_params(struct job *j, const struct json *tracks)
{
    struct strbuf json;
    size_t i;

    strbuf_init(&json, job_arena(j), 1024);
    strbuf_puts(&json, "{\"tracks\":[");
    for (i = 0; i < json_length(tracks); i++) {
        strbuf_puts(&json, i > 0 ? ",{" : "{");
        copy_members(&json, json_item(tracks, i), true);
        strbuf_putc(&json, '}');
    }
    strbuf_putc(&json, ']');
    copy_members(&json, job_payload(j), false);
    strbuf_putc(&json, '}');
    return json.data;
}

enum err job_audio_mix(struct job *j)
{
    const struct json *tracks = json_get(job_payload(j), "tracks");
    size_t i, n = json_length(tracks);
    struct job_file *files;
    struct job_run run;

    if (n < 1 || n > MEDIA_SOURCES_MAX) {
        return scope_fail(job_scope(j), ERR_VALIDATION_FAILED, "the payload has %zu tracks", n);
    }
    files = arena_array(job_arena(j), struct job_file, n);
    for (i = 0; i < n; i++) {
        TRY(job_file_of(j, json_item(tracks, i), &files[i]));
    }
    run = (struct job_run){
        .operation = "mix", .params = child_params(j, tracks), .files = files, .n_files = n};
    return job_make_file(j, &run, " (mix)");
}
