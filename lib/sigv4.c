/* A signature is HMAC(derived key, text that names the time and the hash of the canonical request).
 * All texts are built on the caller's arena; only the derived key outlives a call, per thread. */
#include "lib/sigv4.h"

#include <string.h>

#include "lib/clock.h"
#include "lib/crypto.h"

#define ALGORITHM "AWS4-HMAC-SHA256"

enum { DAY_LEN = 8 };                       /* "20130524" */
enum { SECRET_MAX = 128, SCOPE_MAX = 128 }; /* longer ones work, but their key is not kept */
enum { CANONICAL_USUAL = 1024 };            /* bytes of a usual canonical request */

/* The derived key of the last signature of this thread. */
struct derived {
    char secret[SECRET_MAX + 1];
    char scope[SCOPE_MAX + 1];
    uint8_t key[SHA256_SIZE];
};

static _Thread_local struct derived kept;

void sigv4_date(int64_t wall_ms, char out[SIGV4_DATE_SIZE])
{
    char rfc3339[CLOCK_TEXT_SIZE]; /* 2013-05-24T00:00:00.000Z */
    const char *at;
    size_t n = 0;

    clock_format(wall_ms, rfc3339);
    for (at = rfc3339; *at != '.' && n < SIGV4_DATE_SIZE - 2; at++) {
        if (*at != '-' && *at != ':') {
            out[n++] = *at;
        }
    }
    out[n++] = 'Z';
    out[n] = '\0';
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Sort by name, then by value where by_value; otherwise equal names keep their order. The lists are
 * short (a dozen), and this sort is stable. */
static void sort_pairs(struct sigv4_pair *pairs, size_t n, bool by_value)
{
    size_t i, j;

    for (i = 1; i < n; i++) {
        struct sigv4_pair moving = pairs[i];

        for (j = i; j > 0; j--) {
            int order = strcmp(pairs[j - 1].name, moving.name);

            if (order == 0 && by_value) {
                order = strcmp(pairs[j - 1].value, moving.value);
            }
            if (order <= 0) {
                break;
            }
            pairs[j] = pairs[j - 1];
        }
        pairs[j] = moving;
    }
}

static const char *encoded(struct arena *a, const char *text)
{
    struct strbuf b;

    strbuf_init(&b, a, strlen(text) * 3);
    percent_encode(&b, text, false);
    return b.data;
}

/* The order is that of the encoded texts, as the specification has it. */
static void add_query(struct strbuf *out, const struct sigv4_pair *query, size_t n)
{
    struct sigv4_pair *sorted = arena_array(out->arena, struct sigv4_pair, n);
    size_t i;

    for (i = 0; i < n; i++) {
        sorted[i] = (struct sigv4_pair){.name = encoded(out->arena, query[i].name),
                                        .value = encoded(out->arena, query[i].value)};
    }
    sort_pairs(sorted, n, true);
    for (i = 0; i < n; i++) {
        if (i > 0) {
            strbuf_putc(out, '&');
        }
        strbuf_puts(out, sorted[i].name);
        strbuf_putc(out, '=');
        strbuf_puts(out, sorted[i].value);
    }
}

/* Copies of the headers with lower-case names, in order. */
static struct sigv4_pair *sorted_headers(struct arena *a, const struct sigv4_pair *headers,
                                         size_t n)
{
    struct sigv4_pair *sorted = arena_array(a, struct sigv4_pair, n);
    size_t i;

    for (i = 0; i < n; i++) {
        sorted[i] =
            (struct sigv4_pair){.name = ascii_lower(a, headers[i].name), .value = headers[i].value};
    }
    sort_pairs(sorted, n, false);
    return sorted;
}

/* The value without space around it, and one space for each run of it inside. */
static void add_trimmed(struct strbuf *out, const char *value)
{
    bool is_begun = false, is_pending = false;

    for (; *value != '\0'; value++) {
        if (is_space(*value)) {
            is_pending = is_begun;
            continue;
        }
        if (is_pending) {
            strbuf_putc(out, ' ');
        }
        strbuf_putc(out, *value);
        is_begun = true;
        is_pending = false;
    }
}

/* One line for each name; values of the same name are joined by commas. */
static void add_headers(struct strbuf *out, const struct sigv4_pair *sorted, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        bool is_same = i > 0 && strcmp(sorted[i - 1].name, sorted[i].name) == 0;

        if (!is_same) {
            strbuf_puts(out, i > 0 ? "\n" : "");
            strbuf_puts(out, sorted[i].name);
        }
        strbuf_putc(out, is_same ? ',' : ':');
        add_trimmed(out, sorted[i].value);
    }
    strbuf_puts(out, n > 0 ? "\n" : "");
}

static void add_names(struct strbuf *out, const struct sigv4_pair *sorted, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        if (i > 0 && strcmp(sorted[i - 1].name, sorted[i].name) == 0) {
            continue;
        }
        strbuf_puts(out, i > 0 ? ";" : "");
        strbuf_puts(out, sorted[i].name);
    }
}

/* The canonical request of encoded path and query, and sorted headers. */
static void add_canonical(struct strbuf *out, const struct sigv4_request *r, const char *path,
                          const char *query, const struct sigv4_pair *sorted)
{
    strbuf_puts(out, r->method);
    strbuf_putc(out, '\n');
    strbuf_puts(out, path);
    strbuf_putc(out, '\n');
    strbuf_puts(out, query);
    strbuf_putc(out, '\n');
    add_headers(out, sorted, r->n_headers);
    strbuf_putc(out, '\n');
    add_names(out, sorted, r->n_headers);
    strbuf_putc(out, '\n');
    strbuf_puts(out, r->payload_hash != NULL ? r->payload_hash : "UNSIGNED-PAYLOAD");
}

static const char *encoded_path(struct arena *a, const char *path)
{
    struct strbuf b;

    strbuf_init(&b, a, strlen(path) * 3);
    percent_encode(&b, path, true);
    return b.data;
}

static const char *encoded_query(struct arena *a, const struct sigv4_pair *query, size_t n)
{
    struct strbuf b;

    strbuf_init(&b, a, CANONICAL_USUAL);
    add_query(&b, query, n);
    return b.data;
}

void sigv4_canonical(struct strbuf *out, const struct sigv4_request *request)
{
    struct arena *a = out->arena;

    add_canonical(out, request, encoded_path(a, request->path),
                  encoded_query(a, request->query, request->n_query),
                  sorted_headers(a, request->headers, request->n_headers));
}

/* HMAC chain over day, region, service and a constant. */
static void derive(struct arena *a, const struct sigv4_key *key, const char *day,
                   uint8_t out[SHA256_SIZE])
{
    char *first = arena_printf(a, "AWS4%s", key->secret_access_key);

    crypto_hmac_sha256(first, strlen(first), day, DAY_LEN, out);
    crypto_hmac_sha256(out, SHA256_SIZE, key->region, strlen(key->region), out);
    crypto_hmac_sha256(out, SHA256_SIZE, key->service, strlen(key->service), out);
    crypto_hmac_sha256(out, SHA256_SIZE, "aws4_request", strlen("aws4_request"), out);
}

/* The derived key, kept or new. scope ("20130524/us-east-1/s3/aws4_request") begins with the
 * day. */
static void derived_key(struct arena *a, const struct sigv4_key *key, const char *scope,
                        uint8_t out[SHA256_SIZE])
{
    size_t secret_len = strlen(key->secret_access_key), scope_len = strlen(scope);

    if (kept.scope[0] != '\0' && strcmp(kept.scope, scope) == 0 &&
        strcmp(kept.secret, key->secret_access_key) == 0) {
        memcpy(out, kept.key, SHA256_SIZE);
        return;
    }
    derive(a, key, scope, out);
    if (secret_len <= SECRET_MAX && scope_len <= SCOPE_MAX) {
        memcpy(kept.secret, key->secret_access_key, secret_len + 1);
        memcpy(kept.scope, scope, scope_len + 1);
        memcpy(kept.key, out, SHA256_SIZE);
    }
}

static const char *scope_text(struct arena *a, const struct sigv4_key *key, const char *date)
{
    struct strbuf b;

    strbuf_init(&b, a, SCOPE_MAX);
    strbuf_add(&b, date, DAY_LEN);
    strbuf_putc(&b, '/');
    strbuf_puts(&b, key->region);
    strbuf_putc(&b, '/');
    strbuf_puts(&b, key->service);
    strbuf_puts(&b, "/aws4_request");
    return b.data;
}

/* 64 hex digits: the signature of a canonical request. */
static const char *signature(struct arena *a, const struct sigv4_key *key, const char *date,
                             const char *scope, const struct strbuf *canonical)
{
    char hash[SHA256_HEX_SIZE];
    uint8_t secret[SHA256_SIZE], mac[SHA256_SIZE];
    char *hex = arena_alloc(a, SHA256_HEX_SIZE);
    struct strbuf text;

    crypto_sha256_hex(canonical->data, canonical->len, hash);
    strbuf_init(&text, a, 256);
    strbuf_puts(&text, ALGORITHM "\n");
    strbuf_puts(&text, date);
    strbuf_putc(&text, '\n');
    strbuf_puts(&text, scope);
    strbuf_putc(&text, '\n');
    strbuf_puts(&text, hash);
    derived_key(a, key, scope, secret);
    crypto_hmac_sha256(secret, sizeof(secret), text.data, text.len, mac);
    hex_encode(mac, sizeof(mac), hex);
    return hex;
}

/* Encoded path and query as one request target. */
static const char *target_text(struct arena *a, const char *path, const char *query,
                               const char *signature_hex)
{
    struct strbuf b;

    strbuf_init(&b, a, strlen(path) + strlen(query) + 128);
    strbuf_puts(&b, path);
    if (query[0] != '\0') {
        strbuf_putc(&b, '?');
        strbuf_puts(&b, query);
    }
    if (signature_hex != NULL) {
        strbuf_puts(&b, "&X-Amz-Signature=");
        strbuf_puts(&b, signature_hex);
    }
    return b.data;
}

/* The list with room for more pairs behind it. */
static struct sigv4_pair *pairs_copy(struct arena *a, const struct sigv4_pair *pairs, size_t n,
                                     size_t more)
{
    struct sigv4_pair *copy = arena_array(a, struct sigv4_pair, n + more);

    if (n > 0) {
        memcpy(copy, pairs, n * sizeof(*pairs));
    }
    return copy;
}

void sigv4_sign(struct arena *a, const struct sigv4_key *key, const struct sigv4_request *request,
                struct sigv4_signed *out)
{
    struct sigv4_request r = *request;
    char *date = arena_alloc(a, SIGV4_DATE_SIZE);
    struct sigv4_pair *headers = pairs_copy(a, r.headers, r.n_headers, 1);
    const char *path = encoded_path(a, r.path), *scope, *query;
    struct strbuf canonical, names;

    sigv4_date(r.wall_ms, date);
    scope = scope_text(a, key, date);
    headers[r.n_headers++] = (struct sigv4_pair){.name = "x-amz-date", .value = date};
    headers = sorted_headers(a, headers, r.n_headers);
    query = encoded_query(a, r.query, r.n_query);
    strbuf_init(&canonical, a, CANONICAL_USUAL);
    add_canonical(&canonical, &r, path, query, headers);
    strbuf_init(&names, a, 128);
    add_names(&names, headers, r.n_headers);
    *out = (struct sigv4_signed){.target = target_text(a, path, query, NULL),
                                 .date = date,
                                 .signature = signature(a, key, date, scope, &canonical)};
    out->authorization = arena_printf(a,
                                      ALGORITHM " Credential=%s/%s, SignedHeaders=%s, "
                                                "Signature=%s",
                                      key->access_key_id, scope, names.data, out->signature);
}

void sigv4_presign(struct arena *a, const struct sigv4_key *key,
                   const struct sigv4_request *request, int64_t ttl_s, struct sigv4_signed *out)
{
    struct sigv4_request r = *request;
    struct sigv4_pair *headers = sorted_headers(a, r.headers, r.n_headers);
    struct sigv4_pair *query = pairs_copy(a, r.query, r.n_query, 5);
    char *date = arena_alloc(a, SIGV4_DATE_SIZE);
    const char *path = encoded_path(a, r.path), *scope, *query_text;
    struct strbuf canonical, names, seconds, credential;

    sigv4_date(r.wall_ms, date);
    scope = scope_text(a, key, date);
    strbuf_init(&names, a, 128);
    add_names(&names, headers, r.n_headers);
    strbuf_init(&seconds, a, 16);
    strbuf_i64(&seconds, ttl_s < 1 ? 1 : ttl_s > SIGV4_TTL_MAX_S ? SIGV4_TTL_MAX_S : ttl_s);
    strbuf_init(&credential, a, 256);
    strbuf_puts(&credential, key->access_key_id);
    strbuf_putc(&credential, '/');
    strbuf_puts(&credential, scope);
    query[r.n_query++] = (struct sigv4_pair){"X-Amz-Algorithm", ALGORITHM};
    query[r.n_query++] = (struct sigv4_pair){"X-Amz-Credential", credential.data};
    query[r.n_query++] = (struct sigv4_pair){"X-Amz-Date", date};
    query[r.n_query++] = (struct sigv4_pair){"X-Amz-Expires", seconds.data};
    query[r.n_query++] = (struct sigv4_pair){"X-Amz-SignedHeaders", names.data};
    query_text = encoded_query(a, query, r.n_query);
    strbuf_init(&canonical, a, CANONICAL_USUAL);
    add_canonical(&canonical, &r, path, query_text, headers);
    *out = (struct sigv4_signed){.date = date,
                                 .signature = signature(a, key, date, scope, &canonical)};
    out->target = target_text(a, path, query_text, out->signature);
}
