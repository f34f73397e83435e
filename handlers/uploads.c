/* Chunked uploads: S3 multipart uploads whose parts the client sends by presigned URLs. What has
 * arrived is what S3 lists, so a client that lost everything but the id goes on from there; the row
 * only says how the whole is cut. */
#include "handlers.h"
#include "handlers/audio.h"
#include "handlers/signer.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/log.h"
#include "lib/pg.h"
#include "queries.h"

/* Larger files get larger parts: a list of all parts stays far below a request's memory. */
enum { PARTS_MAX = 1000, PART_STEP_BYTES = 1048576, PART_URLS_MAX = 100 };

struct upload {
    struct id id, file_id;
    const char *key, *s3_upload_id, *status, *file_name, *content_type;
    int64_t size_bytes, part_bytes, part_count, version, created_at, updated_at, expires_at;
    const char *parts; /* JSON */
};

/* The last one is not in rows. */
static const struct field upload_fields[] = {
    F_ID(upload, id, "id", 0),
    F_ID(upload, file_id, "fileId", 0),
    F_STR(upload, key, "key", 1, 512, 0),
    F_STR(upload, s3_upload_id, "s3UploadId", 1, 1024, F_HIDDEN),
    F_STR(upload, status, "status", 1, 32, 0),
    F_STR(upload, file_name, "fileName", 1, 255, 0),
    F_STR(upload, content_type, "contentType", 1, 127, 0),
    F_I64(upload, size_bytes, "size", 1, INT64_MAX, 0),
    F_I64(upload, part_bytes, "partSize", 1, INT64_MAX, 0),
    F_I64(upload, part_count, "partCount", 1, INT64_MAX, 0),
    F_I64(upload, version, "version", 1, INT64_MAX, F_HIDDEN),
    F_TIME(upload, created_at, "createdAt", 0),
    F_TIME(upload, updated_at, "updatedAt", 0),
    F_TIME(upload, expires_at, "expiresAt", 0),
    F_JSON(upload, parts, "parts", 0),
};
static const struct shape shape_upload = SHAPE(upload, upload_fields);
static const struct shape shape_upload_row = {.name = "upload",
                                              .size = sizeof(struct upload),
                                              .fields = upload_fields,
                                              .n_fields = ARRAY_LEN(upload_fields) - 1};

static const struct field upload_begun_fields[] = {
    F_ID(upload, id, "id", 0),
    F_ID(upload, file_id, "fileId", 0),
    F_STR(upload, key, "key", 1, 512, 0),
    F_I64(upload, part_bytes, "partSize", 1, INT64_MAX, 0),
    F_I64(upload, part_count, "partCount", 1, INT64_MAX, 0),
    F_TIME(upload, expires_at, "expiresAt", 0),
};
static const struct shape shape_upload_begun = SHAPE(upload, upload_begun_fields);

struct parts_in {
    const struct json *part_numbers;
};

static const struct field parts_in_fields[] = {F_ANY(parts_in, part_numbers, "partNumbers", 0)};
static const struct shape shape_parts_in = SHAPE(parts_in, parts_in_fields);

struct complete_in {
    const struct json *parts;
};

static const struct field complete_in_fields[] = {F_ANY(complete_in, parts, "parts", F_OPTIONAL)};
static const struct shape shape_complete_in = SHAPE(complete_in, complete_in_fields);

struct complete_part {
    int64_t part_number;
    const char *etag;
};

static const struct field complete_part_fields[] = {
    F_I64(complete_part, part_number, "partNumber", 1, 10000, 0),
    F_STR(complete_part, etag, "etag", 1, 200, 0),
};
static const struct shape shape_complete_part = SHAPE(complete_part, complete_part_fields);

/* The upload that the path names, if it is the signed-in user's. */
static enum err find_upload(struct req *r, struct upload *upload_out)
{
    struct scope *sc = req_scope(r);
    struct id id;
    enum err e = req_own_id(r, &id);

    if (e == OK) {
        e = pg_one(sc, q_uploads_by_id(sc, req_user(r), id), &shape_upload_row, upload_out);
    }
    return e == ERR_NOT_FOUND ? req_fail(r, e, "There is no such upload of yours.") : e;
}

static bool is_status(const struct upload *u, const char *status)
{
    return strcmp(u->status, status) == 0;
}

static enum err refuse_unless_open(struct req *r, const struct upload *u)
{
    if (!is_status(u, "open")) {
        return req_fail(r, ERR_CONFLICT, "The upload is %s.", u->status);
    }
    if (u->expires_at < clock_wall_ms()) {
        return req_fail(r, ERR_CONFLICT, "The upload has expired.");
    }
    return OK;
}

static int64_t part_size(const struct upload *u, int64_t number)
{
    return number < u->part_count ? u->part_bytes
                                  : u->size_bytes - (u->part_count - 1) * u->part_bytes;
}

static int64_t choose_part_bytes(int64_t size_bytes)
{
    int64_t least = (size_bytes + PARTS_MAX - 1) / PARTS_MAX;
    int64_t part = config()->multipart_part_bytes;

    if (part >= least) {
        return part;
    }
    return (least + PART_STEP_BYTES - 1) / PART_STEP_BYTES * PART_STEP_BYTES;
}

static enum err insert_rows(struct req *r, const struct audio_new *in, const struct upload *new,
                            struct upload *upload_out)
{
    struct scope *sc = req_scope(r);
    struct audio_file file;

    TRY(req_transaction(r));
    TRY(pg_one(sc,
               q_audio_insert(sc, new->file_id, req_user(r), new->key, in->file_name,
                              in->content_type, in->size_bytes),
               &shape_audio_file, &file));
    return pg_one(sc,
                  q_uploads_insert(sc, new->id, req_user(r), new->file_id, new->key,
                                   new->s3_upload_id, in->content_type, in->file_name,
                                   in->size_bytes, new->part_bytes, new->expires_at),
                  &shape_upload_row, upload_out);
}

enum err h_uploads_create(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct upload new = {.id = id_make_owned(req_place(r)), .file_id = id_make_owned(req_place(r))};
    struct upload upload;
    struct audio_new in;
    enum err e;

    TRY(audio_read_new(r, &in));
    new.key = audio_key(r, new.file_id, in.type);
    new.part_bytes = choose_part_bytes(in.size_bytes);
    new.expires_at = clock_wall_ms() + config()->upload_ttl_s * 1000;
    /* S3 first: should we die in between, S3 holds an upload without parts and no row tells of one
     * that is not there. */
    TRY(s3_multipart_begin(sc, new.key, in.content_type, S3_PARTS_BY_CLIENT, &new.s3_upload_id));
    e = insert_rows(r, &in, &new, &upload);
    if (e != OK && e != ERR_WRITE_UNKNOWN) {
        const char *cause = sc->cause;

        if (s3_multipart_abort(sc, new.key, new.s3_upload_id) != OK) {
            log_event(LOG_WARN, "upload_left", "%s: %s", new.key, sc->cause);
        }
        sc->cause = cause;
    }
    TRY(e);
    req_location(r, "/api/uploads/multipart/%s", id_text(sc->arena, upload.id));
    return req_reply(r, 201, &shape_upload_begun, &upload);
}

/* Number i of the list: whole, in range, and not among those before it. */
static enum err read_part_number(struct req *r, const struct upload *u, const struct json *list,
                                 size_t i, int64_t *numbers)
{
    struct scope *sc = req_scope(r);
    const char *field = arena_printf(sc->arena, "partNumbers[%zu]", i);
    size_t j;

    if (!json_i64(json_item(list, i), &numbers[i])) {
        return scope_violation(sc, field, "type", "must be a whole number");
    }
    if (numbers[i] < 1 || numbers[i] > u->part_count) {
        return scope_violation(sc, field, "range", "must be from 1 to %lld",
                               (long long)u->part_count);
    }
    for (j = 0; j < i; j++) {
        if (numbers[j] == numbers[i]) {
            return scope_violation(sc, field, "duplicate", "is asked for twice");
        }
    }
    return OK;
}

static void write_part_url(struct signer *signer, struct strbuf *json, const struct upload *u,
                           int64_t number)
{
    struct s3_presign what = {.method = "PUT",
                              .key = u->key,
                              .content_length = part_size(u, number),
                              .upload_id = u->s3_upload_id,
                              .part_number = (int)number,
                              .ttl_s = config()->s3_url_ttl_s};
    char expires_at[CLOCK_TEXT_SIZE];
    int64_t expires_ms;

    strbuf_printf(json, "{\"partNumber\":%lld,\"url\":", (long long)number);
    signer_put(signer, json, &what, &expires_ms);
    clock_format(expires_ms, expires_at);
    strbuf_printf(json, ",\"headers\":{\"Content-Length\":\"%lld\"},\"expiresAt\":\"%s\"}",
                  (long long)what.content_length, expires_at);
}

enum err h_uploads_parts(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct strbuf json = req_json(r);
    int64_t numbers[PART_URLS_MAX] = {0};
    struct signer signer;
    struct parts_in in;
    struct upload upload;
    enum err e = OK;
    size_t i, n;

    TRY(req_body(r, &shape_parts_in, &in));
    n = json_length(in.part_numbers);
    if (json_kind(in.part_numbers) != JSON_ARRAY) {
        return scope_violation(sc, "partNumbers", "type", "must be an array");
    }
    if (n < 1 || n > PART_URLS_MAX) {
        return scope_violation(sc, "partNumbers", "length", "must have 1 to %d numbers",
                               PART_URLS_MAX);
    }
    TRY(find_upload(r, &upload));
    for (i = 0; i < n; i++) {
        if (read_part_number(r, &upload, in.part_numbers, i, numbers) != OK) {
            e = ERR_VALIDATION_FAILED;
        }
    }
    TRY(e);
    TRY(refuse_unless_open(r, &upload));
    signer_init(&signer, r);
    strbuf_puts(&json, "{\"parts\":[");
    for (i = 0; i < n; i++) {
        strbuf_puts(&json, i > 0 ? "," : "");
        write_part_url(&signer, &json, &upload, numbers[i]);
    }
    strbuf_puts(&json, "]}");
    return req_reply_json(r, 200, &json);
}

static const char *parts_json(struct req *r, const struct s3_part *parts, size_t n)
{
    struct strbuf json = req_json(r);
    size_t i;

    strbuf_putc(&json, '[');
    for (i = 0; i < n; i++) {
        strbuf_printf(&json, "%s{\"partNumber\":%d,\"size\":%lld,\"etag\":", i > 0 ? "," : "",
                      parts[i].number, (long long)parts[i].size);
        strbuf_json(&json, parts[i].etag);
        strbuf_putc(&json, '}');
    }
    strbuf_putc(&json, ']');
    return json.data;
}

enum err h_uploads_get(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct s3_part *parts = NULL;
    struct upload upload;
    size_t n = 0;
    enum err e;

    TRY(find_upload(r, &upload));
    if (is_status(&upload, "open")) {
        pg_release(sc);
        e = s3_multipart_list(sc, upload.key, upload.s3_upload_id, &parts, &n);
        if (e == ERR_NOT_FOUND) {
            n = 0; /* joined or swept this very moment */
            scope_forgive(sc);
        } else {
            TRY(e);
        }
    }
    upload.parts = parts_json(r, parts, n);
    req_etag(r, upload.version);
    return req_reply(r, 200, &shape_upload, &upload);
}

/* Are all parts there, each of its size? */
static enum err check_parts(struct req *r, const struct upload *u, const struct s3_part *parts,
                            size_t n)
{
    int64_t number;

    for (number = 1; number <= u->part_count; number++) {
        const struct s3_part *p = &parts[number - 1];

        if ((size_t)number > n || p->number != number) {
            return req_fail(r, ERR_CONFLICT, "Part %lld has not been sent yet.", (long long)number);
        }
        if (p->size != part_size(u, number)) {
            return req_fail(r, ERR_CONFLICT, "Part %lld has %lld bytes instead of %lld.",
                            (long long)number, (long long)p->size, (long long)part_size(u, number));
        }
    }
    if (n > (size_t)u->part_count) {
        return req_fail(r, ERR_CONFLICT, "There is a part %d, but %lld is the last.",
                        parts[n - 1].number, (long long)u->part_count);
    }
    return OK;
}

/* ETags are compared without the quotes, which some clients drop. */
static bool same_etag(const char *a, const char *b)
{
    size_t len_a, len_b;

    a += *a == '"';
    b += *b == '"';
    len_a = strcspn(a, "\"");
    len_b = strcspn(b, "\"");
    return len_a == len_b && memcmp(a, b, len_a) == 0;
}

/* Read the client's list, which must name every part once, in any order: etags_out[number - 1]. */
static enum err read_client_parts(struct req *r, const struct upload *u, const struct json *list,
                                  const char **etags_out)
{
    struct scope *sc = req_scope(r);
    struct complete_part part;
    enum err e = OK;
    size_t i;

    if (json_kind(list) != JSON_ARRAY) {
        return scope_violation(sc, "parts", "type", "must be an array");
    }
    if (json_length(list) != (size_t)u->part_count) {
        return scope_violation(sc, "parts", "length", "must name all %lld parts",
                               (long long)u->part_count);
    }
    for (i = 0; i < json_length(list); i++) {
        const char *prefix = arena_printf(sc->arena, "parts[%zu].", i);

        if (shape_read(sc, &shape_complete_part, json_item(list, i), prefix, &part) != OK) {
            e = ERR_VALIDATION_FAILED;
        } else if (part.part_number > u->part_count || etags_out[part.part_number - 1] != NULL) {
            e = scope_violation(sc, arena_printf(sc->arena, "%spartNumber", prefix),
                                part.part_number > u->part_count ? "range" : "duplicate",
                                "must name each of the %lld parts once", (long long)u->part_count);
        } else {
            etags_out[part.part_number - 1] = part.etag;
        }
    }
    return e;
}

static enum err check_client_parts(struct req *r, const struct upload *u, const char **etags,
                                   const struct s3_part *parts)
{
    int64_t i;

    for (i = 0; etags != NULL && i < u->part_count; i++) {
        if (!same_etag(etags[i], parts[i].etag)) {
            return req_fail(r, ERR_CONFLICT, "Part %lld is another one than you name.",
                            (long long)i + 1);
        }
    }
    return OK;
}

/* S3 does not know the upload. If the object is there, an earlier request has joined it and was cut
 * off. */
static enum err find_joined(struct req *r, const struct upload *u)
{
    struct scope *sc = req_scope(r);
    struct s3_object object;
    enum err e;

    scope_forgive(sc);
    e = s3_head(sc, u->key, &object);
    if (e == ERR_NOT_FOUND || (e == OK && object.size != u->size_bytes)) {
        return req_fail(r, ERR_CONFLICT, "The upload is gone; begin a new one.");
    }
    return e;
}

/* Make the object of the parts that S3 holds. Talks to S3 only. */
static enum err join_parts(struct req *r, const struct upload *u, const char **etags)
{
    struct scope *sc = req_scope(r);
    struct s3_part *parts;
    size_t n;
    enum err e;

    e = s3_multipart_list(sc, u->key, u->s3_upload_id, &parts, &n);
    if (e == OK) {
        TRY(check_parts(r, u, parts, n));
        TRY(check_client_parts(r, u, etags, parts));
        e = s3_multipart_complete(sc, u->key, u->s3_upload_id, parts, n);
    }
    return e == ERR_NOT_FOUND ? find_joined(r, u) : e;
}

/* Record that the object is joined. Lost against an abort: nothing stays. */
static enum err mark_completed(struct req *r, struct upload *u)
{
    struct scope *sc = req_scope(r);
    enum err e = pg_one(sc, q_uploads_complete(sc, req_user(r), u->id), &shape_upload_row, u);

    if (e != ERR_NOT_FOUND) {
        return e;
    }
    scope_forgive(sc);
    TRY(find_upload(r, u));
    if (is_status(u, "completed")) {
        return OK;
    }
    audio_drop_object(r, u->key);
    return req_fail(r, ERR_CONFLICT, "The upload is %s.", u->status);
}

enum err h_uploads_complete(struct req *r)
{
    struct complete_in in;
    struct upload upload;
    struct audio_file file;
    const char **etags = NULL;

    TRY(req_body(r, &shape_complete_in, &in));
    TRY(find_upload(r, &upload));
    if (in.parts != NULL) {
        etags = arena_array(req_arena(r), const char *, (size_t)upload.part_count);
        TRY(read_client_parts(r, &upload, in.parts, etags));
    }
    if (is_status(&upload, "aborted")) {
        return req_fail(r, ERR_CONFLICT, "The upload is aborted.");
    }
    TRY(audio_find(r, upload.file_id, &file));
    if (is_status(&upload, "open")) {
        pg_release(req_scope(r));
        TRY(join_parts(r, &upload, etags));
        TRY(mark_completed(r, &upload));
    }
    TRY(audio_settle(r, &file));
    return audio_reply_created(r, &file);
}

/* Another request has ended the upload between our read and our write. */
static enum err ended_meanwhile(struct req *r)
{
    struct upload upload;

    scope_forgive(req_scope(r));
    TRY(find_upload(r, &upload));
    return is_status(&upload, "aborted")
               ? req_reply_empty(r, 204)
               : req_fail(r, ERR_CONFLICT, "The upload was completed at the same moment.");
}

enum err h_uploads_delete(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct upload upload;
    int64_t n_aborted;

    TRY(find_upload(r, &upload));
    if (is_status(&upload, "aborted") && req_idem_retried(r)) {
        return req_reply_empty(r, 204);
    }
    TRY(req_if_match(r, upload.version));
    if (is_status(&upload, "completed")) {
        return req_fail(r, ERR_CONFLICT, "The upload is completed; delete the file instead.");
    }
    if (is_status(&upload, "open")) {
        pg_release(sc);
        /* S3 first: an abort that fails leaves the row open, for the client to try again and for
         * the sweep */
        TRY(s3_multipart_abort(sc, upload.key, upload.s3_upload_id));
        TRY(req_transaction(r));
        TRY(pg_exec(sc, q_uploads_abort(sc, req_user(r), upload.id), &n_aborted));
        if (n_aborted == 0) {
            return ended_meanwhile(r);
        }
        TRY(pg_exec(sc, q_audio_delete(sc, req_user(r), upload.file_id), NULL));
    }
    return req_reply_empty(r, 204);
}
