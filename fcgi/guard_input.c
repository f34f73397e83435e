/* What came is judged before anything is asked of a dependency: types (415), then sizes (413), then
 * encodings. */
#include <string.h>
#include <strings.h>

#include "fcgi/req_private.h"
#include "lib/config.h"

/* Is the media type JSON, in UTF-8 if a charset is told? */
static bool is_json_type(const char *type)
{
    size_t len = strcspn(type, "; \t");
    const char *charset = strcasestr(type, "charset=");

    if (len != strlen("application/json") || strncasecmp(type, "application/json", len) != 0) {
        return false;
    }
    return charset == NULL || strncasecmp(charset + strlen("charset="), "utf-8", 5) == 0 ||
           strncasecmp(charset + strlen("charset="), "\"utf-8\"", 7) == 0;
}

/* Length of the body as the proxy tells it; false: not a number. */
static bool body_length(const struct req *r, int64_t *length_out)
{
    const char *text = req_param(r, "CONTENT_LENGTH");

    *length_out = 0;
    return text == NULL || *text == '\0' || (i64_parse(text, length_out) && *length_out >= 0);
}

static enum err read_body(struct req *r, size_t length)
{
    char *body = arena_alloc(r->scope.arena, length + 1);

    r->body = body;
    r->body_len = conn_read(r->conn, body, length);
    if (r->body_len < length) {
        return scope_refuse(&r->scope, ERR_BAD_REQUEST, "The body ended after %zu of %zu bytes.",
                            r->body_len, length);
    }
    return OK;
}

enum err guard_input(struct req *r)
{
    const char *type = req_param(r, "CONTENT_TYPE");
    const char *query = req_param(r, "QUERY_STRING");
    int64_t length;

    if (!body_length(r, &length)) {
        return scope_refuse(&r->scope, ERR_BAD_REQUEST, "Content-Length is not a number.");
    }
    if (length > 0 && r->is_unsafe && (type == NULL || !is_json_type(type))) {
        return scope_refuse(&r->scope, ERR_UNSUPPORTED_MEDIA_TYPE,
                            "The body must be application/json in UTF-8.");
    }
    if (length > config()->body_max_bytes) {
        return scope_refuse(&r->scope, ERR_PAYLOAD_TOO_LARGE, "A body may have %lld bytes.",
                            (long long)config()->body_max_bytes);
    }
    r->body = "";
    if (length > 0 && r->is_unsafe) {
        TRY(read_body(r, (size_t)length));
    }
    return query == NULL ? OK : req_parse_query(r, query);
}
