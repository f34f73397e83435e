/* Audio files: what an artist uploads or a job makes. The row says what may be done with the object
 * in S3: nothing before it is verified. Bytes never pass through here. */
#include "handlers/audio.h"

#include "handlers.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/event.h"
#include "lib/log.h"
#include "lib/pg.h"
#include "lib/s3.h"
#include "queries.h"

static const struct field audio_file_fields[] = {
    F_ID(audio_file, id, "id", 0),
    F_STR(audio_file, key, "key", 1, 512, 0),
    F_STR(audio_file, status, "status", 1, 32, 0),
    F_STR(audio_file, origin, "origin", 1, 32, 0),
    F_STR(audio_file, file_name, "fileName", 1, 255, 0),
    F_STR(audio_file, content_type, "contentType", 1, 127, 0),
    F_I64(audio_file, size_bytes, "size", 0, INT64_MAX, 0),
    F_STR(audio_file, etag, "etag", 1, 200, F_HIDDEN),
    F_STR(audio_file, sha256, "sha256", 64, 64, 0),
    F_I64(audio_file, duration_ms, "durationMs", 0, INT64_MAX, 0),
    F_STR(audio_file, codec, "codec", 1, 64, 0),
    F_STR(audio_file, container, "container", 1, 64, 0),
    F_I64(audio_file, sample_rate, "sampleRate", 1, INT64_MAX, 0),
    F_I64(audio_file, channels, "channels", 1, INT64_MAX, 0),
    F_I64(audio_file, bit_depth, "bitDepth", 1, INT64_MAX, 0),
    F_I64(audio_file, bit_rate, "bitRate", 0, INT64_MAX, 0),
    F_JSON(audio_file, analysis, "analysis", 0),
    F_JSON(audio_file, waveform, "waveform", F_HIDDEN),
    F_JSON(audio_file, rejection, "rejection", F_OMIT_NULL),
    F_I64(audio_file, version, "version", 1, INT64_MAX, F_HIDDEN),
    F_TIME(audio_file, created_at, "createdAt", 0),
    F_TIME(audio_file, updated_at, "updatedAt", 0),
};
const struct shape shape_audio_file = SHAPE(audio_file, audio_file_fields);

/* An object whose row has gone is garbage that the sweep takes too; nobody waits long for S3 here.
 */
enum { DROP_OBJECT_MS = 2000 };

struct audio_key_in {
    const char *key;
};

static const struct field audio_key_fields[] = {F_STR(audio_key_in, key, "key", 1, 200, 0)};
static const struct shape shape_audio_key = SHAPE(audio_key_in, audio_key_fields);

struct audio_change {
    const char *file_name;
};

static const struct field audio_change_fields[] = {
    F_STR(audio_change, file_name, "fileName", 1, 255, F_OPTIONAL | F_TRIM)};
static const struct shape shape_audio_change = SHAPE(audio_change, audio_change_fields);

struct signed_url {
    const char *url;
    int64_t expires_at;
};

static const struct field signed_url_fields[] = {
    F_STR(signed_url, url, "url", 1, 4096, 0),
    F_TIME(signed_url, expires_at, "expiresAt", 0),
};
static const struct shape shape_signed_url = SHAPE(signed_url, signed_url_fields);

const char *audio_key(struct req *r, struct id file, const struct audio_type *type)
{
    return arena_printf(req_arena(r), "audio/%s/%s.%s", id_text(req_arena(r), req_user(r)),
                        id_text(req_arena(r), file), type->name);
}

/* The file id in a key of the signed-in user; false for any other text. */
static bool own_key_parse(const struct req *r, const char *key, struct id *file_out)
{
    enum { ID_LEN = ID_TEXT_SIZE - 1, PREFIX = sizeof("audio/") - 1 };
    struct id user;

    return strlen(key) > PREFIX + ID_LEN + 1 + ID_LEN + 1 && has_prefix(key, "audio/") &&
           id_parse(key + PREFIX, ID_LEN, &user) && id_equal(user, req_user(r)) &&
           key[PREFIX + ID_LEN] == '/' && id_parse(key + PREFIX + ID_LEN + 1, ID_LEN, file_out) &&
           key[PREFIX + ID_LEN + 1 + ID_LEN] == '.';
}

enum err audio_find(struct req *r, struct id id, struct audio_file *file_out)
{
    struct scope *sc = req_scope(r);
    enum err e = pg_one(sc, q_audio_by_id(sc, req_user(r), id), &shape_audio_file, file_out);

    return e == ERR_NOT_FOUND ? req_fail(r, e, "There is no such file of yours.") : e;
}

enum err audio_find_verified(struct req *r, struct id id, struct audio_file *file_out)
{
    TRY(audio_find(r, id, file_out));
    if (strcmp(file_out->status, "verified") != 0) {
        return req_fail(r, ERR_CONFLICT, "The file is not verified but %s.", file_out->status);
    }
    return OK;
}

enum err audio_reply_created(struct req *r, const struct audio_file *file)
{
    req_etag(r, file->version);
    req_location(r, "/api/audio/%s", id_text(req_arena(r), file->id));
    return req_reply(r, 201, &shape_audio_file, file);
}

void audio_drop_object(struct req *r, const char *key)
{
    struct scope *sc = req_scope(r);
    struct scope before;
    enum err e;

    pg_release(sc);
    before = *sc;
    sc->deadline_mono_ms = clock_mono_ms() + scope_left_ms(sc, DROP_OBJECT_MS);
    e = s3_delete(sc, key);
    if (e != OK) {
        log_event(LOG_WARN, "object_left", "%s: %s", key, sc->cause != NULL ? sc->cause : "");
    }
    /* the request's own outcome stays what it was */
    sc->deadline_mono_ms = before.deadline_mono_ms;
    sc->cause = before.cause;
    sc->detail = before.detail;
    sc->retry_after_s = before.retry_after_s;
}

enum err h_audio_upload_url(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct id id = id_make_owned(req_place(r));
    struct strbuf json = req_json(r);
    struct audio_new in;
    struct audio_file file;
    char expires_at[CLOCK_TEXT_SIZE];
    int64_t expires_ms;
    const char *url;

    TRY(audio_read_new(r, &in));
    TRY(pg_one(sc,
               q_audio_insert(sc, id, req_user(r), audio_key(r, id, in.type), in.file_name,
                              in.content_type, in.size_bytes),
               &shape_audio_file, &file));
    url = s3_presign_url(sc,
                         &(struct s3_presign){.method = "PUT",
                                              .key = file.key,
                                              .content_type = file.content_type,
                                              .content_length = file.size_bytes,
                                              .ttl_s = config()->s3_url_ttl_s},
                         &expires_ms);
    clock_format(expires_ms, expires_at);
    strbuf_puts(&json, "{\"url\":");
    strbuf_json(&json, url);
    strbuf_puts(&json, ",\"method\":\"PUT\",\"headers\":{\"Content-Type\":");
    strbuf_json(&json, file.content_type);
    strbuf_printf(&json, ",\"Content-Length\":\"%lld\"},\"key\":", (long long)file.size_bytes);
    strbuf_json(&json, file.key);
    strbuf_printf(&json, ",\"fileId\":\"%s\",\"expiresAt\":\"%s\"}", id_text(sc->arena, id),
                  expires_at);
    return req_reply_json(r, 201, &json);
}

enum err h_audio_complete_upload(struct req *r)
{
    struct audio_key_in in;
    struct audio_file file;
    struct id id;

    TRY(req_body(r, &shape_audio_key, &in));
    if (!own_key_parse(r, in.key, &id)) {
        return req_fail(r, ERR_NOT_FOUND, "There is no such upload of yours.");
    }
    TRY(audio_find(r, id, &file));
    if (strcmp(file.key, in.key) != 0) {
        return req_fail(r, ERR_NOT_FOUND, "There is no such upload of yours.");
    }
    TRY(audio_settle(r, &file));
    return audio_reply_created(r, &file);
}

enum err h_audio_list(struct req *r)
{
    static const char *const known[] = {"limit", "cursor", NULL};
    struct scope *sc = req_scope(r);
    struct audio_file *files;
    struct req_page page;
    size_t n;

    TRY(req_query_only(r, known));
    TRY(req_page(r, &page));
    TRY(pg_many(sc, q_audio_list(sc, req_user(r), page.after, page.limit + 1), &shape_audio_file,
                &files, &n));
    return req_reply_page(r, &shape_audio_file, files, n, &page, offsetof(struct audio_file, id));
}

enum err h_audio_get(struct req *r)
{
    struct audio_file file;
    struct id id;

    TRY(req_own_id(r, &id));
    TRY(audio_find(r, id, &file));
    req_etag(r, file.version);
    return req_reply(r, 200, &shape_audio_file, &file);
}

/* Another request was faster between our read and our write. */
static enum err changed_meanwhile(struct req *r, enum err e)
{
    if (e != ERR_NOT_FOUND) {
        return e;
    }
    return req_header(r, "IF_MATCH") != NULL
               ? req_fail(r, ERR_PRECONDITION_FAILED, "The file has changed meanwhile.")
               : req_fail(r, ERR_CONFLICT, "The file was changed at the same moment; try again.");
}

enum err h_audio_patch(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct audio_change in;
    struct audio_file file;
    const char *label;
    struct id id;

    TRY(req_own_id(r, &id));
    TRY(req_body(r, &shape_audio_change, &in));
    if (in.file_name != NULL) {
        TRY(audio_label(r, in.file_name, &label));
    }
    TRY(audio_find(r, id, &file));
    TRY(req_if_match(r, file.version));
    if (in.file_name != NULL) {
        TRY(req_transaction(r));
        TRY(changed_meanwhile(r,
                              pg_one(sc, q_audio_rename(sc, req_user(r), id, file.version, label),
                                     &shape_audio_file, &file)));
        TRY(event_add(sc, req_user(r), EVENT_AUDIO_RENAMED,
                      &(struct event_data){
                          .file = id, .file_name = file.file_name, .version = file.version}));
    }
    req_etag(r, file.version);
    return req_reply(r, 200, &shape_audio_file, &file);
}

static void drop_after_commit(struct req *r, void *context)
{
    audio_drop_object(r, context);
}

enum err h_audio_delete(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct audio_file file;
    struct id id;

    TRY(req_own_id(r, &id));
    TRY(audio_find(r, id, &file));
    TRY(req_if_match(r, file.version));
    TRY(req_transaction(r));
    TRY(changed_meanwhile(r, pg_one(sc, q_audio_soft_delete(sc, req_user(r), id, file.version),
                                    &shape_audio_file, &file)));
    TRY(event_add(sc, req_user(r), EVENT_AUDIO_DELETED, &(struct event_data){.file = id}));
    req_after_commit(r, drop_after_commit, arena_strdup(sc->arena, file.key));
    return req_reply_empty(r, 204);
}

enum err h_audio_url(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct signed_url out;
    struct audio_file file;
    struct id id;

    TRY(req_own_id(r, &id));
    TRY(audio_find_verified(r, id, &file));
    out.url = s3_presign_url(sc,
                             &(struct s3_presign){.method = "GET",
                                                  .key = file.key,
                                                  .content_length = -1,
                                                  .download_name = audio_download_name(
                                                      sc->arena, file.file_name, file.key),
                                                  .ttl_s = config()->s3_url_ttl_s},
                             &out.expires_at);
    return req_reply(r, 200, &shape_signed_url, &out);
}
