/* Presigned URLs, made and recognised. A URL is recognised by making it again from the time and
 * length of life that it tells: it is ours only if the same bytes come out. So there is one way to
 * sign, none to read a signature, and no leniency in between. */
#include "lib/s3.h"

#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/s3_internal.h"
#include "lib/s3_wire.h"
#include "lib/sigv4.h"

enum { CLOCK_SKEW_MS = 5 * 60 * 1000 }; /* a URL may come from a machine whose clock is ahead */

struct sigv4_key s3_signing_key(const struct config *cfg)
{
    return (struct sigv4_key){.access_key_id = cfg->aws_access_key_id,
                              .secret_access_key = cfg->aws_secret_access_key,
                              .region = cfg->aws_region,
                              .service = "s3"};
}

/* "/bucket/key" (path style). */
const char *s3_object_path(struct arena *a, const struct config *cfg, const char *key)
{
    struct strbuf path;

    strbuf_init(&path, a, 256);
    strbuf_putc(&path, '/');
    strbuf_puts(&path, cfg->s3_bucket);
    if (key != NULL) {
        strbuf_putc(&path, '/');
        strbuf_puts(&path, key);
    }
    return path.data;
}

/* Where clients reach S3. */
static struct s3_endpoint public_endpoint(struct arena *a, const struct config *cfg)
{
    bool is_given = cfg->s3_public_endpoint[0] != '\0';

    return s3_endpoint_parse(a, is_given ? cfg->s3_public_endpoint : cfg->s3_endpoint);
}

/* The request target of a presigned URL of that time. */
static const char *presigned_target(struct arena *a, const struct s3_presign *what,
                                    const char *disposition, int64_t wall_ms)
{
    const struct config *cfg = config();
    struct sigv4_key key = s3_signing_key(cfg);
    struct sigv4_pair headers[3] = {{"host", public_endpoint(a, cfg).host}}, query[3];
    struct sigv4_request sr = {.method = what->method,
                               .path = s3_object_path(a, cfg, what->key),
                               .query = query,
                               .headers = headers,
                               .n_headers = 1,
                               .wall_ms = wall_ms};
    char number[24], length[24];
    struct sigv4_signed sig;

    if (what->content_type != NULL) {
        headers[sr.n_headers++] = (struct sigv4_pair){"content-type", what->content_type};
    }
    if (what->content_length >= 0) {
        snprintf(length, sizeof(length), "%lld", (long long)what->content_length);
        headers[sr.n_headers++] = (struct sigv4_pair){"content-length", length};
    }
    if (what->upload_id != NULL) {
        snprintf(number, sizeof(number), "%d", what->part_number);
        query[sr.n_query++] = (struct sigv4_pair){"partNumber", number};
        query[sr.n_query++] = (struct sigv4_pair){"uploadId", what->upload_id};
    }
    if (disposition != NULL) {
        query[sr.n_query++] = (struct sigv4_pair){"response-content-disposition", disposition};
    }
    sigv4_presign(a, &key, &sr, what->ttl_s, &sig);
    return sig.target;
}

const char *s3_presign_url(struct scope *sc, const struct s3_presign *what, int64_t *expires_ms_out)
{
    struct arena *a = sc->arena;
    int64_t wall_ms = clock_wall_ms();
    const char *disposition =
        what->download_name == NULL ? NULL : s3_disposition(a, what->download_name);

    if (expires_ms_out != NULL) {
        *expires_ms_out = (wall_ms / 1000 + what->ttl_s) * 1000;
    }
    return arena_printf(a, "%s%s", public_endpoint(a, config()).base,
                        presigned_target(a, what, disposition, wall_ms));
}

/* The decoded value of a query parameter; NULL where it is missing or broken. */
static const char *parameter(struct arena *a, const char *query, const char *name)
{
    size_t name_len = strlen(name);

    while (query != NULL && *query != '\0') {
        size_t len = strcspn(query, "&");

        if (len > name_len && memcmp(query, name, name_len) == 0 && query[name_len] == '=') {
            return percent_decode(a, query + name_len + 1, len - name_len - 1, false);
        }
        query += len + (query[len] == '&');
    }
    return NULL;
}

/* "20130524T000000Z" */
static bool parse_date(struct arena *a, const char *text, int64_t *wall_ms_out)
{
    if (text == NULL || strlen(text) != SIGV4_DATE_SIZE - 1) {
        return false;
    }
    return clock_parse(arena_printf(a, "%.4s-%.2s-%.2sT%.2s:%.2s:%.2sZ", text, text + 4, text + 6,
                                    text + 9, text + 11, text + 13),
                       wall_ms_out);
}

/* It becomes a header field of a reply. */
static bool is_one_line(const char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < ' ' || *text == 0x7f) {
            return false;
        }
    }
    return true;
}

bool s3_presigned_is_ours(struct scope *sc, const char *host, const char *target,
                          const char **disposition_out)
{
    struct arena *a = sc->arena;
    const char *bucket = arena_printf(a, "/%s/", config()->s3_bucket), *query, *ttl, *made;
    struct s3_presign what = {.method = "GET", .content_length = -1};
    int64_t now_ms = clock_wall_ms(), wall_ms;

    query = strchr(target, '?');
    if (query == NULL || !has_prefix(target, bucket) ||
        strcmp(host, public_endpoint(a, config()).host) != 0) {
        return false;
    }
    what.key = percent_decode(a, target + strlen(bucket), (size_t)(query - target) - strlen(bucket),
                              false);
    ttl = parameter(a, query + 1, "X-Amz-Expires");
    *disposition_out = parameter(a, query + 1, "response-content-disposition");
    if (what.key == NULL || what.key[0] == '\0' || ttl == NULL || !i64_parse(ttl, &what.ttl_s) ||
        !parse_date(a, parameter(a, query + 1, "X-Amz-Date"), &wall_ms) ||
        wall_ms > now_ms + CLOCK_SKEW_MS || what.ttl_s <= 0 || what.ttl_s > SIGV4_TTL_MAX_S ||
        wall_ms + what.ttl_s * 1000 <= now_ms ||
        (*disposition_out != NULL && !is_one_line(*disposition_out))) {
        return false;
    }
    made = presigned_target(a, &what, *disposition_out, wall_ms);
    return strlen(made) == strlen(target) && bytes_equal_ct(made, target, strlen(made));
}
