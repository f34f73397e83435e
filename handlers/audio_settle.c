/* The judgement of an uploaded object. It is made once: one conditional UPDATE moves the row to
 * verified or rejected, and whoever comes later, or at the same moment, reads that row and gets the
 * same answer. Who verifies it starts its analysis, in the same transaction. */
#include <stdatomic.h>

#include "handlers/audio.h"
#include "handlers/jobs.h"
#include "handlers/payload.h"
#include "lib/config.h"
#include "lib/event.h"
#include "lib/media.h"
#include "lib/pg.h"
#include "lib/s3.h"
#include "queries.h"

/* Probes that run in this process. Each holds a thread of the API for up to MEDIA_PROBE_TIMEOUT_MS.
 */
static atomic_int_fast64_t n_probing;

/* Why a row was rejected, as the column holds it: the API's error code, its detail and violations.
 */
struct rejection {
    const char *code, *detail;
    const struct json *errors;
};

static const struct field rejection_fields[] = {
    F_STR(rejection, code, "code", 1, 64, 0),
    F_STR(rejection, detail, "detail", 1, 500, 0),
    F_ANY(rejection, errors, "errors", F_OPTIONAL),
};
static const struct shape shape_rejection = SHAPE(rejection, rejection_fields);

struct rejection_item {
    const char *field, *code, *detail;
};

static const struct field rejection_item_fields[] = {
    F_STR(rejection_item, field, "field", 1, 100, 0),
    F_STR(rejection_item, code, "code", 1, 64, 0),
    F_STR(rejection_item, detail, "detail", 1, 500, 0),
};
static const struct shape shape_rejection_item = SHAPE(rejection_item, rejection_item_fields);

/* The errors that reject a file. */
static enum err rejection_err(const char *code)
{
    static const enum err known[] = {ERR_UNSUPPORTED_MEDIA_TYPE, ERR_MEDIA_INVALID,
                                     ERR_VALIDATION_FAILED};
    size_t i;

    for (i = 0; i < ARRAY_LEN(known); i++) {
        if (strcmp(err_info(known[i])->code, code) == 0) {
            return known[i];
        }
    }
    return ERR_MEDIA_INVALID;
}

/* Give the answer again that the row holds. */
static enum err refuse_again(struct req *r, const struct audio_file *file)
{
    struct scope *sc = req_scope(r);
    const struct json *value;
    struct rejection why;
    struct rejection_item item;
    size_t i;

    TRY(json_parse(sc, file->rejection, strlen(file->rejection), &value));
    TRY(shape_read(sc, &shape_rejection, value, "", &why));
    for (i = 0; i < json_length(why.errors); i++) {
        TRY(shape_read(sc, &shape_rejection_item, json_item(why.errors, i), "", &item));
        (void)scope_violation(sc, item.field, item.code, "%s", item.detail);
    }
    return req_fail(r, rejection_err(why.code), "%s", why.detail);
}

/* The answer of the first time: what the analysis has added since is not part of it. */
static enum err verified_before(struct audio_file *file)
{
    if (strcmp(file->origin, "upload") == 0) {
        file->analysis = NULL;
        file->sha256 = NULL;
    }
    return OK;
}

/* The row as somebody else has just settled it. */
static enum err settled_by_another(struct req *r, struct audio_file *file)
{
    scope_forgive(req_scope(r));
    TRY(audio_find(r, file->id, file));
    if (strcmp(file->status, "verified") == 0) {
        return verified_before(file);
    }
    if (strcmp(file->status, "rejected") == 0) {
        return refuse_again(r, file);
    }
    return req_fail(r, ERR_CONFLICT, "The file was changed at the same moment; try again.");
}

static const char *rejection_json(struct scope *sc, enum err e, const char *detail)
{
    struct strbuf json;
    int i;

    strbuf_init(&json, sc->arena, 256);
    strbuf_printf(&json, "{\"code\":\"%s\",\"detail\":", err_info(e)->code);
    strbuf_json(&json, detail);
    for (i = 0; i < sc->n_violations; i++) {
        const struct violation *v = &sc->violations[i];

        strbuf_puts(&json, i == 0 ? ",\"errors\":[{\"field\":" : ",{\"field\":");
        strbuf_json(&json, v->field);
        strbuf_puts(&json, ",\"code\":");
        strbuf_json(&json, v->code);
        strbuf_puts(&json, ",\"detail\":");
        strbuf_json(&json, v->detail);
        strbuf_putc(&json, '}');
    }
    strbuf_puts(&json, sc->n_violations > 0 ? "]}" : "}");
    return json.data;
}

/* Move the row to rejected, and tell so. */
static enum err store_rejection(struct req *r, struct audio_file *file, const char *etag,
                                enum err e, const char *detail)
{
    struct scope *sc = req_scope(r);
    const char *json = rejection_json(sc, e, detail);

    TRY(pg_begin(sc, req_place(r)));
    TRY(pg_one(sc, q_audio_mark_rejected(sc, req_user(r), file->id, etag, json), &shape_audio_file,
               file));
    TRY(event_add(sc, req_user(r), EVENT_AUDIO_REJECTED,
                  &(struct event_data){.file = file->id, .code = err_info(e)->code}));
    return pg_commit(sc, req_place(r));
}

/* Reject the file with e, the detail and the violations of the scope; return e. */
static enum err reject(struct req *r, struct audio_file *file, const char *etag, enum err e,
                       const char *detail)
{
    struct scope *sc = req_scope(r);
    enum err stored = store_rejection(r, file, etag, e, detail);

    pg_release(sc); /* which rolls back what did not commit */
    if (stored == ERR_NOT_FOUND) {
        return settled_by_another(r, file);
    }
    TRY(stored);
    audio_drop_object(r, file->key);
    return req_fail(r, e, "%s", detail);
}

struct pinned_object {
    const char *key, *etag;
};

static enum err read_object(void *context, struct scope *sc, int64_t offset, size_t len,
                            void *buffer, size_t *got_out)
{
    const struct pinned_object *o = context;

    return s3_get_range(sc, o->key, o->etag, offset, len, buffer, got_out);
}

static enum err probe(struct req *r, const struct audio_file *file, const char *etag,
                      struct media_probe *probe_out)
{
    struct scope *sc = req_scope(r);
    struct pinned_object object = {.key = file->key, .etag = etag};
    struct media_source source = {
        .read = read_object, .context = &object, .size = file->size_bytes};
    enum err e = media_probe(sc, &source, probe_out);

    if (e == ERR_PRECONDITION_FAILED || e == ERR_NOT_FOUND) {
        return req_fail(r, ERR_CONFLICT,
                        "The object was replaced while it was looked at; ask again.");
    }
    return e;
}

/* Is the object there, and as long as announced? Moves the row from pending to uploaded. */
static enum err find_object(struct req *r, struct audio_file *file, struct s3_object *object_out)
{
    struct scope *sc = req_scope(r);
    enum err e = s3_head(sc, file->key, object_out);

    if (e == ERR_NOT_FOUND) {
        return req_fail(r, ERR_CONFLICT, "Nothing has been uploaded under this key yet.");
    }
    TRY(e);
    if (object_out->size != file->size_bytes) {
        (void)scope_violation(sc, "size", "value", "%lld bytes were announced, %lld came",
                              (long long)file->size_bytes, (long long)object_out->size);
        return reject(r, file, object_out->etag, ERR_VALIDATION_FAILED,
                      "The object has another size than announced.");
    }
    e = pg_one(sc, q_audio_mark_uploaded(sc, req_user(r), file->id, object_out->etag),
               &shape_audio_file, file);
    if (e == ERR_NOT_FOUND) {
        return settled_by_another(r, file);
    }
    TRY(e);
    pg_release(sc);
    return OK;
}

/* Did the probe find something else than audio that it knows, rather than bad audio? */
static bool is_other_content(const struct scope *sc)
{
    static const char *const codes[] = {"not_audio", "no_audio", "unsupported_codec"};
    size_t i;

    for (i = 0; i < ARRAY_LEN(codes); i++) {
        if (sc->n_violations > 0 && strcmp(sc->violations[0].code, codes[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_settled(const struct audio_file *file)
{
    return strcmp(file->status, "verified") == 0 || strcmp(file->status, "rejected") == 0;
}

/* The file is good. Of several callers one finds the row unsettled, and only that one gets past the
 * UPDATE: there is one analysis. */
static enum err verify(struct req *r, struct audio_file *file, const struct s3_object *object,
                       const struct media_probe *found)
{
    struct scope *sc = req_scope(r);
    struct strbuf payload;
    struct id job;
    enum err e;

    TRY(req_transaction(r));
    e = pg_one(sc,
               q_audio_mark_verified(sc, req_user(r), file->id, object->etag, object->size,
                                     found->container, found->codec, found->duration_ms,
                                     found->sample_rate, found->channels, found->bit_depth,
                                     found->bit_rate),
               &shape_audio_file, file);
    if (e == ERR_NOT_FOUND) {
        return settled_by_another(r, file);
    }
    TRY(e);
    TRY(event_add(sc, req_user(r), EVENT_AUDIO_VERIFIED,
                  &(struct event_data){.file = file->id,
                                       .file_name = file->file_name,
                                       .content_type = file->content_type,
                                       .size_bytes = file->size_bytes,
                                       .duration_ms = file->duration_ms}));
    payload = payload_begin(r, file);
    strbuf_putc(&payload, '}');
    return jobs_start(r, JOB_AUDIO_ANALYSE, payload.data, &job);
}

static enum err judge(struct req *r, struct audio_file *file)
{
    struct scope *sc = req_scope(r);
    const struct audio_type *type;
    const char *canonical;
    struct s3_object object;
    struct media_probe found;
    enum err e;

    TRY(find_object(r, file, &object));
    if (is_settled(file)) {
        return OK;
    }
    e = probe(r, file, object.etag, &found);
    if (e == ERR_MEDIA_INVALID) {
        return is_other_content(sc)
                   ? reject(r, file, object.etag, ERR_UNSUPPORTED_MEDIA_TYPE,
                            "The content is not audio of a type that can be uploaded.")
                   : reject(r, file, object.etag, e, "The content cannot be used as audio.");
    }
    TRY(e);
    type = audio_type_declared(sc->arena, file->content_type, &canonical);
    if (type == NULL || !audio_type_fits(type, &found)) {
        return reject(r, file, object.etag, ERR_UNSUPPORTED_MEDIA_TYPE,
                      arena_printf(sc->arena, "The content is %s in %s, which is not %s.",
                                   found.codec, found.container, file->content_type));
    }
    return verify(r, file, &object, &found);
}

enum err audio_settle(struct req *r, struct audio_file *file)
{
    enum err e;

    if (strcmp(file->status, "verified") == 0) {
        return verified_before(file);
    }
    if (strcmp(file->status, "rejected") == 0) {
        return refuse_again(r, file);
    }
    if (atomic_fetch_add(&n_probing, 1) >= config()->media_probe_concurrency) {
        e = req_fail(r, ERR_OVERLOADED, "Too many uploads are being looked at.");
    } else {
        pg_release(req_scope(r));
        e = judge(r, file);
    }
    atomic_fetch_sub(&n_probing, 1);
    return e;
}
