/* Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): the key's record and the effect are
 * one transaction on the user's shard. So a crash leaves both or neither, and a repeated request
 * replays exactly what was answered. */
#include <string.h>

#include "fcgi/req_private.h"
#include "lib/crypto.h"
#include "lib/pg.h"
#include "queries.h"

enum { KEY_LENGTH_MAX = 255 };

#define ANSWER_TTL_MS ((int64_t)24 * 3600 * 1000) /* as the API promises */

struct idem_record {
    bool locked;
    const char *fingerprint; /* NULL: no answer yet */
    int64_t status;
    const char *body;
    const char *headers; /* JSON object of the fields that belong to the answer */
};

static const struct field idem_fields[] = {
    F_BOOL(idem_record, locked, "locked", 0),
    F_STR(idem_record, fingerprint, "fingerprint", 0, 64, 0),
    F_I64(idem_record, status, "status", 200, 299, 0),
    F_STR(idem_record, body, "body", 0, INT64_MAX, 0),
    F_JSON(idem_record, headers, "headers", 0),
};
static const struct shape shape_idem_record = SHAPE(idem_record, idem_fields);

static bool is_key(const char *text)
{
    size_t len = strlen(text), i;

    for (i = 0; i < len; i++) {
        if (text[i] < 0x21 || text[i] > 0x7e) {
            return false;
        }
    }
    return len >= 1 && len <= KEY_LENGTH_MAX;
}

static const char *fingerprint_of(struct req *r)
{
    struct crypto_sha256_stream stream;
    uint8_t hash[SHA256_SIZE];
    char *hex = arena_alloc(r->scope.arena, SHA256_HEX_SIZE);

    crypto_sha256_begin(&stream);
    crypto_sha256_add(&stream, r->method, strlen(r->method) + 1);
    crypto_sha256_add(&stream, r->path, strlen(r->path) + 1);
    crypto_sha256_add(&stream, r->body, r->body_len);
    crypto_sha256_end(&stream, hash);
    hex_encode(hash, sizeof(hash), hex);
    return hex;
}

static bool replay_header(void *context, const char *name, const struct json *value)
{
    const char *text = json_str(value, NULL);

    if (text != NULL) {
        req_reply_header(context, name, text);
    }
    return true;
}

static enum err replay(struct req *r, const struct idem_record *record)
{
    const struct json *headers;

    TRY(json_parse(&r->scope, record->headers, strlen(record->headers), &headers));
    r->idem.is_replay = true;
    r->reply.status = (int)record->status;
    r->reply.content_type = *record->body == '\0' ? NULL : "application/json";
    strbuf_init(&r->reply.body, r->scope.arena, 0);
    strbuf_puts(&r->reply.body, record->body);
    json_each(headers, replay_header, r);
    req_reply_header(r, "Idempotency-Replayed", "true");
    return OK;
}

/* Take the key from the request, if there is one. */
static enum err read_key(struct req *r)
{
    const char *key = req_header(r, "IDEMPOTENCY_KEY");

    if (key != NULL && !is_key(key)) {
        return scope_refuse(&r->scope, ERR_BAD_REQUEST,
                            "Idempotency-Key must have 1 to %d visible ASCII characters.",
                            KEY_LENGTH_MAX);
    }
    r->idem.key = key;
    return OK;
}

enum err req_idem_replay(struct req *r, struct id owner, bool *is_replay_out)
{
    struct scope *sc = &r->scope;
    struct idem_record record;

    *is_replay_out = false;
    TRY(read_key(r));
    if (r->idem.key == NULL) {
        return OK;
    }
    r->idem.fingerprint = fingerprint_of(r);
    TRY(pg_one(sc, q_idempotency_begin(sc, owner, r->idem.key, ANSWER_TTL_MS), &shape_idem_record,
               &record));
    if (!record.locked) {
        return ERR_IDEMPOTENCY_RUNNING;
    }
    if (record.fingerprint == NULL) {
        return OK;
    }
    if (strcmp(record.fingerprint, r->idem.fingerprint) != 0) {
        return ERR_IDEMPOTENCY_MISMATCH;
    }
    *is_replay_out = true;
    return replay(r, &record);
}

enum err guard_idem(struct req *r)
{
    bool is_replay;

    if (!r->match.route->idem || req_header(r, "IDEMPOTENCY_KEY") == NULL) {
        return OK;
    }
    TRY(read_key(r));
    TRY(req_transaction(r));
    return req_idem_replay(r, r->who.user, &is_replay);
}

enum err guard_idem_store(struct req *r)
{
    return r->match.route->idem ? req_idem_store(r, r->who.user) : OK;
}

enum err req_idem_store(struct req *r, struct id owner)
{
    struct scope *sc = &r->scope;
    struct strbuf headers;
    const char *separator = "{";
    int i;

    if (r->idem.key == NULL || r->idem.is_replay) {
        return OK;
    }
    strbuf_init(&headers, sc->arena, 128);
    for (i = 0; i < r->reply.n_headers; i++) {
        if (!has_prefix(r->reply.headers[i].name, "RateLimit")) {
            strbuf_puts(&headers, separator);
            strbuf_json(&headers, r->reply.headers[i].name);
            strbuf_putc(&headers, ':');
            strbuf_json(&headers, r->reply.headers[i].value);
            separator = ",";
        }
    }
    strbuf_puts(&headers, *separator == '{' ? "{}" : "}");
    TRY(pg_exec(sc, q_idempotency_expire(sc, owner, r->idem.key, ANSWER_TTL_MS), NULL));
    return pg_exec(sc,
                   q_idempotency_store(sc, owner, r->idem.key, r->idem.fingerprint, r->reply.status,
                                       r->reply.body.data, headers.data),
                   NULL);
}
