/* Every operation is a struct call: what to ask, tried until it is answered, refused for good, or
 * out of time. What a call needs on its way lies in an arena of its own, so that a job of a
 * thousand ranges does not fill the scope's; results are copied to the scope's. Every operation
 * here may be repeated: those that change something give the same result twice, or leave an upload
 * behind that is swept. */
#include "lib/s3.h"

#include <endian.h>
#include <stdio.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crc32c.h"
#include "lib/crypto.h"
#include "lib/depend.h"
#include "lib/http.h"
#include "lib/s3_internal.h"
#include "lib/s3_wire.h"
#include "lib/sigv4.h"

/* SHA-256 of nothing: the payload hash of a request without a body. */
#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

enum { SCRATCH_BUDGET_BYTES = 2 * 1024 * 1024 }; /* 10,000 parts as XML take 1.1 MiB */
enum { XML_REPLY_MAX_BYTES = 4 * 1024 * 1024 };  /* 1,000 keys of 1,024 bytes, URL-encoded */
enum { SERVER_FAULT = 500 };                     /* statuses from here on speak of S3 itself */
enum { SMALL_REPLY_MAX_BYTES = 16384 };
/* What is signed in place of a payload's hash; over a network that is not ours TLS guards it. */
#define UNSIGNED_PAYLOAD "UNSIGNED-PAYLOAD"

enum { QUERY_MAX = 5, SIGNED_MAX = 4, UNSIGNED_MAX = 4 };
enum { CRC32C_BASE64_SIZE = 9 };
enum { PAGE_ITEMS = 1000, PARTS_MAX = 10000 }; /* S3's own limits */

struct call {
    struct scope *sc;
    struct arena *scratch;
    const struct config *cfg;
    const char *cause_before; /* the scope's; comes back where a failure was handled */
    const char *method;
    const char *key; /* NULL: the bucket */
    struct sigv4_pair query[QUERY_MAX];
    size_t n_query;
    const char *content_type;
    struct sigv4_pair check;      /* a header about the body, signed; name NULL: none */
    bool is_payload_unsigned;     /* the check speaks for the body */
    const char *range, *if_match; /* headers, NULL: none */
    const void *body;             /* NULL: none */
    size_t body_len;
    void *buffer; /* of the caller, for the reply's body */
    size_t reply_max;
    int64_t timeout_ms; /* of one try */
    int64_t retries;
    int also_ok;       /* a further status that is no failure */
    bool is_absent_ok; /* 404 is no failure */
    bool is_document;  /* a 200 may carry an error document: look */
    bool is_once;      /* it must be known whether a try was sent */
    struct http_response reply;
    struct s3_verdict verdict; /* of the last try */
    bool may_be_done;          /* an earlier try may have had its effect */
};

static void call_begin(struct call *c, struct scope *sc, const char *method, const char *key)
{
    *c = (struct call){.sc = sc,
                       .scratch = arena_open(SCRATCH_BUDGET_BYTES),
                       .cfg = config(),
                       .cause_before = sc->cause,
                       .method = method,
                       .key = key,
                       .reply_max = SMALL_REPLY_MAX_BYTES};
    c->timeout_ms = c->cfg->s3_timeout_ms;
    c->retries = c->cfg->s3_retries;
}

static enum err call_end(struct call *c, enum err e)
{
    if (e == OK) {
        c->sc->cause = c->cause_before;
    }
    arena_close(&c->scratch);
    return e;
}

static void call_query(struct call *c, const char *name, const char *value)
{
    c->query[c->n_query++] = (struct sigv4_pair){.name = name, .value = value};
}

/* Sign and send once. Range and If-Match are not signed: a cache on the way may change them. */
static enum err exchange(struct call *c, const char *payload_hash)
{
    struct arena *a = c->scratch;
    struct s3_endpoint endpoint = s3_endpoint_parse(a, c->cfg->s3_endpoint);
    struct sigv4_key key = s3_signing_key(c->cfg);
    struct sigv4_pair to_sign[SIGNED_MAX] = {{"host", endpoint.host},
                                             {"x-amz-content-sha256", payload_hash}};
    size_t n_to_sign = 2;
    struct sigv4_request sr = {.method = c->method,
                               .path = s3_object_path(a, c->cfg, c->key),
                               .query = c->query,
                               .n_query = c->n_query,
                               .headers = to_sign,
                               .payload_hash = payload_hash,
                               .wall_ms = clock_wall_ms()};
    struct http_header headers[SIGNED_MAX + UNSIGNED_MAX];
    struct http_request rq = {.method = c->method,
                              .headers = headers,
                              .body = c->body,
                              .body_len = c->body_len,
                              .connect_timeout_ms = c->cfg->s3_connect_timeout_ms,
                              .timeout_ms = c->timeout_ms,
                              .is_once = c->is_once,
                              .buffer = c->buffer,
                              .body_max = c->reply_max};
    struct sigv4_signed sig;
    enum err e;
    size_t i;

    if (c->content_type != NULL) {
        to_sign[n_to_sign++] = (struct sigv4_pair){"content-type", c->content_type};
    }
    if (c->check.name != NULL) {
        to_sign[n_to_sign++] = c->check;
    }
    sr.n_headers = n_to_sign;
    sigv4_sign(a, &key, &sr, &sig);
    rq.url = arena_printf(a, "%s%s", endpoint.base, sig.target);
    for (i = 0; i < sr.n_headers; i++) {
        headers[rq.n_headers++] = (struct http_header){to_sign[i].name, to_sign[i].value};
    }
    headers[rq.n_headers++] = (struct http_header){"x-amz-date", sig.date};
    headers[rq.n_headers++] = (struct http_header){"Authorization", sig.authorization};
    if (c->range != NULL) {
        headers[rq.n_headers++] = (struct http_header){"Range", c->range};
    }
    if (c->if_match != NULL) {
        headers[rq.n_headers++] = (struct http_header){"If-Match", c->if_match};
    }
    e = http_do(c->sc, a, &rq, &c->reply);
    c->sc->timing.s3_count += e != ERR_TIMED_OUT;
    return e;
}

/* One try, judged. */
static enum err call_try(struct call *c, const char *payload_hash)
{
    const char *code;
    int64_t probe;
    enum err e;

    e = depend_enter(c->sc, DEPEND_S3, &probe);
    if (e != OK) {
        c->verdict = (struct s3_verdict){.err = e}; /* no further try would fare better now */
        return e;
    }
    e = exchange(c, payload_hash);
    depend_leave(DEPEND_S3, probe, e == OK && c->reply.status < SERVER_FAULT);
    if (e != OK) {
        c->verdict = (struct s3_verdict){.err = e, .is_passing = e == ERR_DEPENDENCY_UNAVAILABLE};
        return e;
    }
    if (c->reply.status == c->also_ok) {
        c->verdict = (struct s3_verdict){.err = OK};
        return OK;
    }
    code = c->reply.status < 300 && !c->is_document
               ? ""
               : s3_xml_error(c->scratch, c->reply.body, c->reply.body_len);
    c->verdict = s3_judge(c->reply.status, code);
    if (c->verdict.err == OK || (c->verdict.err == ERR_NOT_FOUND && c->is_absent_ok)) {
        return OK;
    }
    return scope_fail(c->sc, c->verdict.err, "s3 %s %s: %d %s", c->method,
                      c->key != NULL ? c->key : "(bucket)", c->reply.status, code);
}

/* Wait before a further try; false where the deadline leaves no time for it. */
static bool pause_before_try(const struct call *c, int try_number)
{
    uint64_t random;
    int64_t ms;

    crypto_random(&random, sizeof(random));
    ms = s3_backoff_ms(try_number, c->cfg->s3_backoff_ms, c->cfg->s3_backoff_max_ms, random);
    if (scope_left_ms(c->sc, ms + 1) <= ms) {
        return false;
    }
    clock_nap_ms(ms);
    return true;
}

/* Try until it is answered, refused for good, or out of tries or time. */
static enum err call_run(struct call *c)
{
    int64_t began_us = clock_mono_us();
    char hash[SHA256_HEX_SIZE] = EMPTY_SHA256;
    const char *payload = c->is_payload_unsigned ? UNSIGNED_PAYLOAD : hash;
    int tries = 0;
    enum err e;

    if (c->body != NULL && !c->is_payload_unsigned) {
        crypto_sha256_hex(c->body, c->body_len, hash);
    }
    while ((e = call_try(c, payload)) != OK && c->verdict.is_passing && tries < c->retries &&
           depend_may_retry(DEPEND_S3) && pause_before_try(c, tries + 1)) {
        c->may_be_done = c->may_be_done || c->reply.sent;
        tries++;
    }
    c->sc->timing.s3_us += clock_mono_us() - began_us;
    return e;
}

static enum err bad_reply(struct call *c, const char *what)
{
    return scope_fail(c->sc, ERR_DEPENDENCY_UNAVAILABLE, "s3 %s %s: the reply %s", c->method,
                      c->key != NULL ? c->key : "(bucket)", what);
}

/* The ETag of the reply, in the scope's arena; "" where there is none. */
static const char *etag_of(const struct call *c)
{
    const char *etag = http_header(&c->reply, "etag");

    return arena_strdup(c->sc->arena, etag != NULL ? etag : "");
}

static enum err take_object(struct call *c, struct s3_object *object_out)
{
    const char *length = http_header(&c->reply, "content-length");
    const char *type = http_header(&c->reply, "content-type");
    const char *modified = http_header(&c->reply, "last-modified");

    *object_out = (struct s3_object){.etag = etag_of(c)};
    object_out->content_type = arena_strdup(c->sc->arena, type != NULL ? type : "");
    if (length == NULL || !i64_parse(length, &object_out->size) || object_out->size < 0) {
        return bad_reply(c, "has no length");
    }
    if (modified == NULL || !http_date_parse(modified, &object_out->modified_ms)) {
        return bad_reply(c, "has no time");
    }
    return OK;
}

enum err s3_head(struct scope *sc, const char *key, struct s3_object *object_out)
{
    struct call c;
    enum err e;

    call_begin(&c, sc, "HEAD", key);
    e = call_run(&c);
    if (e == OK) {
        e = take_object(&c, object_out);
    }
    return call_end(&c, e);
}

/* Is it the range that was asked for? A server that ignores Range answers 200 with the whole
 * object. */
static bool is_range_from(const struct http_response *reply, int64_t offset)
{
    const char *range = http_header(reply, "content-range");
    char expected[48];

    snprintf(expected, sizeof(expected), "bytes %lld-", (long long)offset);
    return reply->status == 206 && range != NULL && has_prefix(range, expected);
}

enum err s3_get_range(struct scope *sc, const char *key, const char *if_match, int64_t offset,
                      size_t len, void *buffer, size_t *got_out)
{
    const int range_not_satisfiable = 416; /* offset is at or behind the end */
    struct call c;
    enum err e;

    *got_out = 0;
    if (len == 0) {
        return OK;
    }
    call_begin(&c, sc, "GET", key);
    c.buffer = buffer;
    c.reply_max = len;
    c.also_ok = range_not_satisfiable;
    c.range = arena_printf(c.scratch, "bytes=%lld-%lld", (long long)offset,
                           (long long)(offset + (int64_t)len - 1));
    c.if_match = if_match;
    e = call_run(&c);
    if (e == OK && c.reply.status != range_not_satisfiable) {
        *got_out = c.reply.body_len;
        e = is_range_from(&c.reply, offset) ? OK : bad_reply(&c, "is not the range asked for");
    }
    return call_end(&c, e);
}

enum err s3_put(struct scope *sc, const char *key, const char *content_type, const void *data,
                size_t len, const char **etag_out)
{
    struct call c;
    enum err e;

    call_begin(&c, sc, "PUT", key);
    c.content_type = content_type;
    c.body = data != NULL ? data : "";
    c.body_len = len;
    e = call_run(&c);
    if (e == OK && etag_out != NULL) {
        *etag_out = etag_of(&c);
    }
    return call_end(&c, e);
}

enum err s3_delete(struct scope *sc, const char *key)
{
    struct call c;

    call_begin(&c, sc, "DELETE", key);
    c.is_absent_ok = true;
    return call_end(&c, call_run(&c));
}

enum err s3_multipart_begin(struct scope *sc, const char *key, const char *content_type,
                            enum s3_parts_by parts_by, const char **upload_id_out)
{
    struct call c;
    enum err e;

    call_begin(&c, sc, "POST", key);
    call_query(&c, "uploads", "");
    c.content_type = content_type;
    if (parts_by == S3_PARTS_BY_US) {
        c.check = (struct sigv4_pair){"x-amz-checksum-algorithm", "CRC32C"};
    }
    e = call_run(&c);
    if (e == OK) {
        const char *id = s3_xml_upload_id(c.scratch, c.reply.body, c.reply.body_len);

        *upload_id_out = arena_strdup(sc->arena, id);
        e = id != NULL ? OK : bad_reply(&c, "names no upload");
    }
    return call_end(&c, e);
}

/* As S3 has it: base64 of the number, its first byte first. */
static void crc32c_text(const void *data, size_t len, char out[CRC32C_BASE64_SIZE])
{
    uint32_t crc = htobe32(crc32c(0, data, len));
    char *c;

    base64url_encode((const uint8_t *)&crc, sizeof(crc), out);
    for (c = out; *c != '\0'; c++) {
        *c = *c == '-' ? '+' : *c == '_' ? '/' : *c;
    }
    memcpy(c, "==", 3);
}

enum err s3_multipart_put(struct scope *sc, const char *key, const char *upload_id, int number,
                          const void *data, size_t len, struct s3_part *part_out)
{
    char crc[CRC32C_BASE64_SIZE];
    struct call c;
    enum err e;

    call_begin(&c, sc, "PUT", key);
    call_query(&c, "partNumber", arena_printf(c.scratch, "%d", number));
    call_query(&c, "uploadId", upload_id);
    c.body = data != NULL ? data : "";
    c.body_len = len;
    crc32c_text(c.body, len, crc);
    c.check = (struct sigv4_pair){"x-amz-checksum-crc32c", crc};
    c.is_payload_unsigned = true;
    e = call_run(&c);
    if (e == OK) {
        *part_out = (struct s3_part){.number = number,
                                     .etag = etag_of(&c),
                                     .size = (int64_t)len,
                                     .crc32c = arena_strdup(sc->arena, crc)};
    }
    return call_end(&c, e);
}

/* A page of at most PAGE_ITEMS parts behind number *after, added to all; *after becomes 0 at the
 * last page. */
static enum err parts_page(struct scope *sc, const char *key, const char *upload_id, int *after,
                           struct s3_part *all, size_t *n)
{
    struct s3_part *page;
    size_t n_page, i;
    bool is_more;
    struct call c;
    enum err e;

    call_begin(&c, sc, "GET", key);
    call_query(&c, "max-parts", arena_printf(c.scratch, "%d", PAGE_ITEMS));
    call_query(&c, "part-number-marker", arena_printf(c.scratch, "%d", *after));
    call_query(&c, "uploadId", upload_id);
    c.reply_max = XML_REPLY_MAX_BYTES;
    e = call_run(&c);
    if (e == OK && (!s3_xml_parts(c.scratch, c.reply.body, c.reply.body_len, &page, &n_page,
                                  &is_more, after) ||
                    n_page > PARTS_MAX - *n)) {
        e = bad_reply(&c, "is no list of parts");
    }
    for (i = 0; e == OK && i < n_page; i++) {
        all[*n] = page[i];
        all[(*n)++].etag = arena_strdup(sc->arena, page[i].etag);
    }
    *after = e == OK && is_more ? *after : 0;
    return call_end(&c, e);
}

enum err s3_multipart_list(struct scope *sc, const char *key, const char *upload_id,
                           struct s3_part **parts_out, size_t *n_out)
{
    struct arena *scratch = arena_open(SCRATCH_BUDGET_BYTES);
    struct s3_part *all = arena_array(scratch, struct s3_part, PARTS_MAX);
    int after = 0;
    size_t n = 0;
    enum err e;

    do {
        e = parts_page(sc, key, upload_id, &after, all, &n);
    } while (e == OK && after > 0);
    if (e == OK) {
        *parts_out = arena_array(sc->arena, struct s3_part, n);
        memcpy(*parts_out, all, n * sizeof(*all));
        *n_out = n;
    }
    arena_close(&scratch);
    return e;
}

/* The upload is gone, and a try of ours whose reply was lost may be the reason: then the object is
 * there, with the size of its parts (where the caller knows them) and an ETag that counts them. */
static enum err settle_complete(struct scope *sc, const char *key, const struct s3_part *parts,
                                size_t n)
{
    const char *count = arena_printf(sc->arena, "-%zu\"", n);
    struct s3_object object;
    bool is_size_known = true;
    int64_t size = 0;
    size_t i;

    for (i = 0; i < n; i++) {
        is_size_known = is_size_known && parts[i].size > 0;
        size += parts[i].size;
    }
    if (s3_head(sc, key, &object) == OK && strstr(object.etag, count) != NULL &&
        (!is_size_known || object.size == size)) {
        return OK;
    }
    return scope_fail(sc, ERR_WRITE_UNKNOWN, "s3 complete %s: no reply, then no upload", key);
}

enum err s3_multipart_complete(struct scope *sc, const char *key, const char *upload_id,
                               const struct s3_part *parts, size_t n)
{
    struct strbuf body;
    struct call c;
    enum err e;

    call_begin(&c, sc, "POST", key);
    call_query(&c, "uploadId", upload_id);
    body = s3_xml_complete(c.scratch, parts, n);
    c.content_type = "application/xml";
    c.body = body.data;
    c.body_len = body.len;
    c.is_document = true;
    c.is_once = true;
    e = call_run(&c);
    if (e == ERR_NOT_FOUND && c.verdict.is_no_upload && c.may_be_done) {
        e = settle_complete(sc, key, parts, n);
    } else if (e == OK && !s3_xml_is_completed(c.scratch, c.reply.body, c.reply.body_len)) {
        e = bad_reply(&c, "does not say that the upload is complete");
    }
    return call_end(&c, e);
}

enum err s3_multipart_abort(struct scope *sc, const char *key, const char *upload_id)
{
    struct call c;

    call_begin(&c, sc, "DELETE", key);
    call_query(&c, "uploadId", upload_id);
    c.is_absent_ok = true;
    return call_end(&c, call_run(&c));
}

/* The page with its keys in the scope's arena. */
static enum err take_list(struct call *c, struct s3_listed **items_out, size_t *n_out,
                          bool *more_out)
{
    struct s3_listed *items;
    size_t n, i;

    if (!s3_xml_list(c->scratch, c->reply.body, c->reply.body_len, &items, &n, more_out)) {
        return bad_reply(c, "is no list of objects");
    }
    *items_out = arena_array(c->sc->arena, struct s3_listed, n);
    *n_out = n;
    for (i = 0; i < n; i++) {
        (*items_out)[i] = items[i];
        (*items_out)[i].key = arena_strdup(c->sc->arena, items[i].key);
    }
    return OK;
}

enum err s3_list(struct scope *sc, const char *prefix, const char *start_after,
                 struct s3_listed **items_out, size_t *n_out, bool *more_out)
{
    struct call c;
    enum err e;

    call_begin(&c, sc, "GET", NULL);
    call_query(&c, "list-type", "2");
    call_query(&c, "encoding-type", "url");
    call_query(&c, "max-keys", arena_printf(c.scratch, "%d", PAGE_ITEMS));
    call_query(&c, "prefix", prefix);
    if (start_after[0] != '\0') {
        call_query(&c, "start-after", start_after);
    }
    c.reply_max = XML_REPLY_MAX_BYTES;
    e = call_run(&c);
    if (e == OK) {
        e = take_list(&c, items_out, n_out, more_out);
    }
    return call_end(&c, e);
}

/* The page with its texts in the scope's arena. */
static enum err take_open(struct call *c, struct s3_open **items_out, size_t *n_out, bool *more_out)
{
    struct s3_open *items;
    size_t n, i;

    if (!s3_xml_open(c->scratch, c->reply.body, c->reply.body_len, &items, &n, more_out)) {
        return bad_reply(c, "is no list of uploads");
    }
    *items_out = arena_array(c->sc->arena, struct s3_open, n);
    *n_out = n;
    for (i = 0; i < n; i++) {
        (*items_out)[i].key = arena_strdup(c->sc->arena, items[i].key);
        (*items_out)[i].upload_id = arena_strdup(c->sc->arena, items[i].upload_id);
        (*items_out)[i].begun_ms = items[i].begun_ms;
    }
    return OK;
}

enum err s3_multipart_open(struct scope *sc, const struct s3_open *after,
                           struct s3_open **items_out, size_t *n_out, bool *more_out)
{
    struct call c;
    enum err e;

    call_begin(&c, sc, "GET", NULL);
    call_query(&c, "uploads", "");
    call_query(&c, "encoding-type", "url");
    call_query(&c, "max-uploads", arena_printf(c.scratch, "%d", PAGE_ITEMS));
    if (after != NULL) {
        call_query(&c, "key-marker", after->key);
        call_query(&c, "upload-id-marker", after->upload_id);
    }
    c.reply_max = XML_REPLY_MAX_BYTES;
    e = call_run(&c);
    if (e == OK) {
        e = take_open(&c, items_out, n_out, more_out);
    }
    return call_end(&c, e);
}

enum err s3_ping(struct scope *sc, int64_t limit_ms, int64_t *latency_ms_out)
{
    int64_t began_ms = clock_mono_ms();
    struct call c;
    enum err e;

    call_begin(&c, sc, "HEAD", NULL);
    c.timeout_ms = limit_ms;
    c.retries = 0;
    e = call_run(&c);
    *latency_ms_out = clock_mono_ms() - began_ms;
    /* A missing bucket is no answer to "is it there?" */
    return call_end(&c, e == ERR_NOT_FOUND ? ERR_DEPENDENCY_UNAVAILABLE : e);
}
