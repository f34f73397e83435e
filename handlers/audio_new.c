/* What a client announces before an upload. The order of judgement is the contract's: form, type,
 * size, bounds; so the shape reads members by their kind only, and bounds come last. */
#include "handlers/audio.h"
#include "lib/config.h"

enum { FILE_NAME_MAX = 255 };

struct announced {
    const char *file_name, *content_type;
    int64_t size;
};

/* The body's own limit bounds the texts here. */
static const struct field announced_fields[] = {
    F_STR(announced, file_name, "fileName", 0, INT64_MAX, F_TRIM),
    F_STR(announced, content_type, "contentType", 0, INT64_MAX, 0),
    F_I64(announced, size, "size", INT64_MIN, INT64_MAX, 0),
};
static const struct shape shape_announced = SHAPE(announced, announced_fields);

/* What is behind the last separator of either kind of system. */
static const char *last_component(const char *path)
{
    const char *p, *start = path;

    for (p = path; *p != '\0'; p++) {
        if (*p == '/' || *p == '\\') {
            start = p + 1;
        }
    }
    return start;
}

enum err audio_label(struct req *r, const char *text, const char **label_out)
{
    const char *label = last_component(text);

    if (text[0] == '\0' || utf8_length(text) > FILE_NAME_MAX) {
        return scope_violation(req_scope(r), "fileName", "length", "must have 1 to %d characters",
                               FILE_NAME_MAX);
    }
    label += strspn(label, " \t");
    if (label[0] == '\0' || strcmp(label, ".") == 0 || strcmp(label, "..") == 0) {
        return scope_violation(req_scope(r), "fileName", "format",
                               "must have a name behind its last separator");
    }
    *label_out = label;
    return OK;
}

enum err audio_read_new(struct req *r, struct audio_new *new_out)
{
    const struct config *cfg = config();
    struct announced in;
    enum err e = OK;

    TRY(req_body(r, &shape_announced, &in));
    new_out->type = audio_type_declared(req_arena(r), in.content_type, &new_out->content_type);
    if (new_out->type == NULL || !audio_type_in(new_out->type, cfg->allowed_file_types)) {
        return req_fail(r, ERR_UNSUPPORTED_MEDIA_TYPE, "Files of these types can be uploaded: %s.",
                        cfg->allowed_file_types);
    }
    if (in.size > cfg->max_file_size) {
        return req_fail(r, ERR_PAYLOAD_TOO_LARGE, "A file may have up to %lld bytes.",
                        (long long)cfg->max_file_size);
    }
    if (in.size < 1) {
        e = scope_violation(req_scope(r), "size", "range", "must be from 1 to %lld",
                            (long long)cfg->max_file_size);
    }
    new_out->size_bytes = in.size;
    if (audio_label(r, in.file_name, &new_out->file_name) != OK) {
        e = ERR_VALIDATION_FAILED;
    }
    return e;
}
