/* The one place that renders replies and problems (RFC 9457). No cause ever gets in here: only
 * err.def's words and what a handler or a guard chose to tell. */
#include <string.h>

#include "fcgi/req_private.h"
#include "lib/clock.h"

enum { RETRY_AFTER_DEFAULT_S = 1 };

static void write_violations(struct strbuf *b, const struct scope *sc)
{
    int i;

    strbuf_puts(b, ",\"errors\":[");
    for (i = 0; i < sc->n_violations; i++) {
        const struct violation *v = &sc->violations[i];

        strbuf_puts(b, i > 0 ? ",{\"field\":" : "{\"field\":");
        strbuf_json(b, v->field);
        strbuf_puts(b, ",\"code\":");
        strbuf_json(b, v->code);
        strbuf_puts(b, ",\"detail\":");
        strbuf_json(b, v->detail);
        strbuf_putc(b, '}');
    }
    strbuf_putc(b, ']');
}

/* What a handler has set speaks of an effect that did not happen; the guards' limits hold all the
 * same. */
static void keep_limits_only(struct req_reply_out *reply)
{
    int i, n = 0;

    for (i = 0; i < reply->n_headers; i++) {
        if (has_prefix(reply->headers[i].name, "RateLimit")) {
            reply->headers[n++] = reply->headers[i];
        }
    }
    reply->n_headers = n;
}

void respond_problem(struct req *r, enum err e)
{
    const struct err_info *info = err_info(e);
    struct scope *sc = &r->scope;
    struct strbuf b;

    strbuf_init(&b, sc->arena, 512);
    strbuf_puts(&b, "{\"type\":\"/problems/");
    strbuf_puts(&b, info->code);
    strbuf_puts(&b, "\",\"title\":");
    strbuf_json(&b, info->title);
    strbuf_printf(&b, ",\"status\":%d,\"detail\":", info->http_status);
    strbuf_json(&b, sc->detail != NULL ? sc->detail : info->title);
    strbuf_puts(&b, ",\"instance\":");
    strbuf_json(&b, sc->request_id);
    strbuf_puts(&b, ",\"code\":\"");
    strbuf_puts(&b, info->code);
    strbuf_puts(&b, "\",\"requestId\":");
    strbuf_json(&b, sc->request_id);
    if (sc->n_violations > 0) {
        write_violations(&b, sc);
    }
    strbuf_putc(&b, '}');
    r->reply.status = info->http_status;
    r->reply.content_type = "application/problem+json";
    r->reply.body = b;
    keep_limits_only(&r->reply);
    if (e == ERR_METHOD_NOT_ALLOWED) {
        req_reply_header(r, "Allow", arena_strdup(sc->arena, r->match.allow));
    }
    if (e == ERR_UNAUTHENTICATED) {
        req_reply_header(r, "WWW-Authenticate", "Bearer");
    }
    if (info->retry == RETRY_LATER || info->http_status == 503) {
        int after = sc->retry_after_s > 0 ? sc->retry_after_s : RETRY_AFTER_DEFAULT_S;

        req_reply_header(r, "Retry-After", arena_printf(sc->arena, "%d", after));
    }
}

/* The reason phrase (RFC 9110 section 15) of the statuses that we use. */
static const char *reason(int status)
{
    static const struct {
        int status;
        const char *text;
    } reasons[] = {{200, "OK"},
                   {201, "Created"},
                   {202, "Accepted"},
                   {204, "No Content"},
                   {400, "Bad Request"},
                   {401, "Unauthorized"},
                   {403, "Forbidden"},
                   {404, "Not Found"},
                   {405, "Method Not Allowed"},
                   {408, "Request Timeout"},
                   {409, "Conflict"},
                   {412, "Precondition Failed"},
                   {413, "Content Too Large"},
                   {414, "URI Too Long"},
                   {415, "Unsupported Media Type"},
                   {422, "Unprocessable Content"},
                   {429, "Too Many Requests"},
                   {431, "Request Header Fields Too Large"},
                   {500, "Internal Server Error"},
                   {503, "Service Unavailable"}};
    size_t i;

    for (i = 0; i < ARRAY_LEN(reasons); i++) {
        if (reasons[i].status == status) {
            return reasons[i].text;
        }
    }
    return "Unknown";
}

bool respond_write(struct req *r)
{
    struct strbuf head;
    int i;

    strbuf_init(&head, r->scope.arena, 1024);
    strbuf_puts(&head, "Status: ");
    strbuf_i64(&head, r->reply.status);
    strbuf_putc(&head, ' ');
    strbuf_puts(&head, reason(r->reply.status));
    strbuf_puts(&head, "\r\nX-Request-Id: ");
    strbuf_puts(&head, r->scope.request_id);
    if (r->reply.content_type != NULL) {
        strbuf_puts(&head, "\r\nContent-Type: ");
        strbuf_puts(&head, r->reply.content_type);
        strbuf_puts(&head, "\r\nContent-Length: ");
        strbuf_i64(&head, (int64_t)r->reply.body.len);
    }
    strbuf_puts(&head, "\r\nCache-Control: no-store");
    for (i = 0; i < r->reply.n_headers; i++) {
        strbuf_puts(&head, "\r\n");
        strbuf_puts(&head, r->reply.headers[i].name);
        strbuf_puts(&head, ": ");
        strbuf_puts(&head, r->reply.headers[i].value);
    }
    strbuf_puts(&head, "\r\n\r\n");
    return conn_write(r->conn, head.data, head.len) &&
           (strcmp(r->method, "HEAD") == 0 ||
            conn_write(r->conn, r->reply.body.data, r->reply.body.len));
}
