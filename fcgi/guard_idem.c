/* Idempotency-Key (draft-ietf-httpapi-idempotency-key-header).
 *
 * IDEM_TRANSACTION: the key's record and the effect are one transaction on the user's shard. So a
 * crash leaves both or neither, and a repeated request replays exactly what was answered.
 *
 * IDEM_CLAIM: where the work takes long or touches S3 or Redis, the key is claimed first, in a
 * transaction of its own, and the answer takes the claim's place in the transaction that completes
 * the effect. A crash in between leaves the claim; once that is stale the same request takes it
 * over and does the work again, each step of which may be repeated. docs/internals/idempotency.md
 * goes through the steps of each route. */
#include <string.h>

#include "fcgi/req_private.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/pg.h"
#include "queries.h"

enum { KEY_LENGTH_MAX = 255, CLAIM_BYTES = 16, STATUS_CLAIMED = 102 };

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

/* A hash of the request, keyed by a secret that the database does not have: bodies hold passwords,
 * and a plain hash could be tried out by whoever reads the table. extra (may be "") is hashed too.
 */
static const char *fingerprint_of(struct req *r, const char *extra)
{
    const char *secret = config()->aws_secret_access_key;
    struct crypto_sha256_stream stream;
    uint8_t hash[SHA256_SIZE], mac[SHA256_SIZE];
    char *hex = arena_alloc(r->scope.arena, SHA256_HEX_SIZE);

    crypto_sha256_begin(&stream);
    crypto_sha256_add(&stream, r->method, strlen(r->method) + 1);
    crypto_sha256_add(&stream, r->path, strlen(r->path) + 1);
    crypto_sha256_add(&stream, extra, strlen(extra) + 1);
    crypto_sha256_add(&stream, r->body, r->body_len);
    crypto_sha256_end(&stream, hash);
    crypto_hmac_sha256(secret, strlen(secret), hash, sizeof(hash), mac);
    hex_encode(mac, sizeof(mac), hex);
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
    r->idem.fingerprint = fingerprint_of(r, "");
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

struct idem_claimed {
    int64_t old_status; /* absent: there was nothing */
    const char *old_body;
};

static const struct field claimed_fields[] = {
    F_I64(idem_claimed, old_status, "oldStatus", 0, 599, F_OPTIONAL),
    F_STR(idem_claimed, old_body, "oldBody", 0, INT64_MAX, F_OPTIONAL),
};
static const struct shape shape_idem_claimed = SHAPE(idem_claimed, claimed_fields);

/* No request works longer than its time; twice that is left to a process that stood still. */
static int64_t stale_ms(void)
{
    return 2 * config()->request_timeout_ms;
}

/* The key could not be claimed: somebody has it. */
static enum err judge_holder(struct req *r, struct id owner, bool *is_replay_out)
{
    struct scope *sc = &r->scope;
    struct idem_record record;
    enum err e =
        pg_one(sc, q_idempotency_peek(sc, owner, r->idem.key), &shape_idem_record, &record);

    pg_release(sc);
    if (e == ERR_NOT_FOUND) { /* given back this very moment */
        scope_forgive(sc);
        return ERR_IDEMPOTENCY_RUNNING;
    }
    TRY(e);
    if (strcmp(record.fingerprint, r->idem.fingerprint) != 0) {
        return ERR_IDEMPOTENCY_MISMATCH;
    }
    if (record.status == STATUS_CLAIMED) {
        return ERR_IDEMPOTENCY_RUNNING;
    }
    *is_replay_out = true;
    return replay(r, &record);
}

static enum err claim(struct req *r, struct id owner, const char *extra, bool may_repeat,
                      const char **kept_out, bool *is_replay_out)
{
    struct scope *sc = &r->scope;
    uint8_t random[CLAIM_BYTES];
    char *name = arena_alloc(sc->arena, 2 * CLAIM_BYTES + 1);
    struct idem_claimed was;
    enum err e;

    *kept_out = NULL;
    *is_replay_out = false;
    TRY(read_key(r));
    if (r->idem.key == NULL) {
        return OK;
    }
    crypto_random(random, sizeof(random));
    hex_encode(random, sizeof(random), name);
    r->idem.fingerprint = fingerprint_of(r, extra);
    e = pg_one(sc,
               q_idempotency_claim(sc, owner, r->idem.key, r->idem.fingerprint, name, stale_ms(),
                                   ANSWER_TTL_MS, may_repeat),
               &shape_idem_claimed, &was);
    pg_release(sc); /* the work may take long, and not for the database's sake */
    if (e == ERR_NOT_FOUND) {
        scope_forgive(sc);
        return judge_holder(r, owner, is_replay_out);
    }
    TRY(e);
    r->idem.claim = name;
    r->idem.owner = owner;
    r->idem.is_retried = was.old_status == STATUS_CLAIMED;
    if (may_repeat && was.old_status != STATUS_CLAIMED) {
        *kept_out = was.old_body;
    }
    return OK;
}

enum err req_idem_repeatable(struct req *r, struct id owner, const char **kept_out)
{
    bool is_replay;

    return claim(r, owner, "", true, kept_out, &is_replay);
}

void req_idem_keep(struct req *r, const char *text)
{
    r->idem.kept = text;
}

bool req_idem_retried(const struct req *r)
{
    return r->idem.is_retried;
}

enum err guard_idem(struct req *r)
{
    enum route_idem kind = r->match.route->idem;
    struct session_claim session;
    const char *extra = "", *kept;
    bool is_replay;

    if (req_header(r, "IDEMPOTENCY_KEY") == NULL || kind == IDEM_NONE || kind == IDEM_HANDLER) {
        return OK;
    }
    if (kind == IDEM_TRANSACTION) {
        TRY(read_key(r));
        TRY(req_transaction(r));
        return req_idem_replay(r, r->who.user, &is_replay);
    }
    if (kind == IDEM_ENDING && session_claim(r->who.token, &session)) {
        extra = arena_strdup(r->scope.arena, session.hash_hex);
    }
    return claim(r, r->who.user, extra, false, &kept, &is_replay);
}

enum err guard_idem_ended(struct req *r, const struct session_claim *session)
{
    struct scope *sc = &r->scope;
    struct idem_record record;
    enum err e;

    if (r->match.route->idem != IDEM_ENDING || req_header(r, "IDEMPOTENCY_KEY") == NULL) {
        return OK;
    }
    TRY(read_key(r));
    e = pg_one(sc, q_idempotency_peek(sc, session->user, r->idem.key), &shape_idem_record, &record);
    pg_release(sc);
    if (e == ERR_NOT_FOUND) {
        scope_forgive(sc);
        return OK;
    }
    TRY(e);
    if (strcmp(record.fingerprint, fingerprint_of(r, session->hash_hex)) != 0) {
        return OK;
    }
    if (record.status != STATUS_CLAIMED) {
        return replay(r, &record);
    }
    /* It was cut off, but the session is gone: what it was to do is done. */
    req_session_cookie(r, "", 0);
    return req_reply_empty(r, 204);
}

/* The reply's own fields, as JSON; limits are of the moment. */
static const char *headers_json(struct req *r)
{
    struct strbuf headers;
    const char *separator = "{";
    int i;

    strbuf_init(&headers, r->scope.arena, 128);
    for (i = 0; i < r->reply.n_headers && r->idem.kept == NULL; i++) {
        if (!has_prefix(r->reply.headers[i].name, "RateLimit")) {
            strbuf_puts(&headers, separator);
            strbuf_json(&headers, r->reply.headers[i].name);
            strbuf_putc(&headers, ':');
            strbuf_json(&headers, r->reply.headers[i].value);
            separator = ",";
        }
    }
    strbuf_puts(&headers, *separator == '{' ? "{}" : "}");
    return headers.data;
}

/* The answer in place of our claim. */
static enum err finish_claim(struct req *r)
{
    struct scope *sc = &r->scope;
    const char *body = r->idem.kept != NULL         ? r->idem.kept
                       : r->reply.body.data == NULL ? ""
                                                    : r->reply.body.data;
    int64_t n_rows;

    TRY(pg_exec(sc,
                q_idempotency_finish(sc, r->idem.owner, r->idem.key, r->idem.claim, r->reply.status,
                                     body, headers_json(r)),
                &n_rows));
    /* We stood still for so long that another has taken the key over: it answers, not we. */
    return n_rows == 1 ? OK : ERR_IDEMPOTENCY_RUNNING;
}

enum err guard_idem_store(struct req *r)
{
    if (r->idem.claim != NULL) {
        return finish_claim(r);
    }
    return r->match.route->idem == IDEM_TRANSACTION && r->in_transaction
               ? req_idem_store(r, r->who.user)
               : OK;
}

void guard_idem_release(struct req *r)
{
    struct scope *sc = &r->scope;
    struct scope before = *sc;

    if (r->idem.claim == NULL) {
        return;
    }
    /* A claim that stays is stale after a while. */
    (void)!pg_exec(sc, q_idempotency_release(sc, r->idem.owner, r->idem.key, r->idem.claim), NULL);
    sc->cause = before.cause;
    sc->detail = before.detail;
    sc->retry_after_s = before.retry_after_s;
}

enum err req_idem_store(struct req *r, struct id owner)
{
    struct scope *sc = &r->scope;

    if (r->idem.key == NULL || r->idem.is_replay) {
        return OK;
    }
    TRY(pg_exec(sc, q_idempotency_expire(sc, owner, r->idem.key, ANSWER_TTL_MS), NULL));
    return pg_exec(sc,
                   q_idempotency_store(sc, owner, r->idem.key, r->idem.fingerprint, r->reply.status,
                                       r->reply.body.data, headers_json(r)),
                   NULL);
}
