/* Fuzzing of the canonicalisation: whatever path, query and headers hold, the canonical path and
 * query are made of safe characters only, decode to what was given, and do not depend on the order
 * of the parameters. */
#include <stdio.h>

#include "lib/crypto.h"
#include "lib/sigv4.h"

enum { PAIRS_MAX = 12, INPUT_MAX = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "broken: %s\n", what);
        abort();
    }
}

/* The next text of the input; texts end with a NUL. */
static const char *take(const char **at, const char *end)
{
    const char *text = *at;

    *at += strlen(text);
    *at += *at < end;
    return text;
}

static bool is_safe(const char *text, size_t len, const char *further)
{
    size_t i;

    for (i = 0; i < len; i++) {
        char c = text[i];

        if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
              strchr(further, c) != NULL)) {
            return false;
        }
    }
    return true;
}

static void check_canonical(struct arena *a, const struct sigv4_request *r)
{
    const char *path, *query, *headers, *decoded;
    struct strbuf b;

    strbuf_init(&b, a, 0);
    sigv4_canonical(&b, r);
    demand(strlen(b.data) == b.len, "no NUL inside");
    path = strchr(b.data, '\n') + 1;
    query = strchr(path, '\n') + 1;
    headers = strchr(query, '\n') + 1;
    demand(is_safe(path, (size_t)(query - path - 1), "-._~%/"), "path of safe characters");
    demand(is_safe(query, (size_t)(headers - query - 1), "-._~%&="), "query of safe characters");
    decoded = percent_decode(a, path, (size_t)(query - path - 1), false);
    demand(decoded == NULL || strcmp(decoded, r->path) == 0, "path decodes to itself");
    demand(has_prefix(b.data + b.len - strlen("UNSIGNED-PAYLOAD"), "UNSIGNED-PAYLOAD"),
           "payload hash at the end");
}

/* The parameters in any order give one signature. */
static void check_order(struct arena *a, const struct sigv4_key *key, struct sigv4_request *r,
                        int64_t ttl_s)
{
    struct sigv4_pair reversed[PAIRS_MAX];
    struct sigv4_signed first, second;
    size_t i;

    for (i = 0; i < r->n_query; i++) {
        reversed[i] = r->query[r->n_query - 1 - i];
    }
    sigv4_presign(a, key, r, ttl_s, &first);
    r->query = reversed;
    sigv4_presign(a, key, r, ttl_s, &second);
    demand(strcmp(first.target, second.target) == 0, "order of parameters has no effect");
    demand(strlen(first.signature) == 64 && is_safe(first.signature, 64, ""), "64 hex digits");
    demand(is_safe(first.target, strlen(first.target), "-._~%&=/?"), "target of safe characters");
    sigv4_sign(a, key, r, &second);
    demand(strstr(second.authorization, second.signature) != NULL, "signature in the header");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct sigv4_key key = {.access_key_id = "AKIDEXAMPLE",
                                         .secret_access_key = "secret",
                                         .region = "us-east-1",
                                         .service = "s3"};
    struct sigv4_pair query[PAIRS_MAX], headers[PAIRS_MAX];
    struct sigv4_request r = {.method = "GET", .query = query, .headers = headers};
    const char *at, *end;
    struct arena *a;

    if (size < 2 || size > INPUT_MAX) {
        return 0;
    }
    a = arena_open(1 << 20);
    at = arena_strndup(a, (const char *)data + 2, size - 2);
    end = at + size - 2;
    r.n_query = data[0] % (PAIRS_MAX + 1);
    r.n_headers = data[1] % (PAIRS_MAX + 1);
    r.wall_ms = (int64_t)data[0] << 36;
    r.path = take(&at, end);
    for (size_t i = 0; i < r.n_query; i++) {
        query[i].name = take(&at, end);
        query[i].value = take(&at, end);
    }
    for (size_t i = 0; i < r.n_headers; i++) {
        headers[i].name = take(&at, end);
        headers[i].value = take(&at, end);
    }
    check_canonical(a, &r);
    check_order(a, &key, &r, data[1]);
    arena_close(&a);
    return 0;
}
