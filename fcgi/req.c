/* What handlers ask of a request and how they answer it. Nothing is sent here: respond.c does,
 * after the commit. */
#include "fcgi/req.h"

#include <stdatomic.h>
#include <string.h>

#include "fcgi/req_private.h"
#include "lib/config.h"
#include "lib/metrics.h"
#include "lib/pg.h"

enum { PAGE_LIMIT_DEFAULT = 20, VERSION_TEXT_MAX = 32 };

static atomic_bool is_draining; /* of the process */

struct scope *req_scope(struct req *r)
{
    return &r->scope;
}

struct arena *req_arena(struct req *r)
{
    return r->scope.arena;
}

struct id req_user(const struct req *r)
{
    return r->who.user;
}

struct place req_place(const struct req *r)
{
    return r->who.place;
}

struct id req_session(const struct req *r)
{
    return r->who.session;
}

struct id req_path_id(const struct req *r, int n)
{
    return r->match.ids[n];
}

enum err req_own_id(struct req *r, struct id *id_out)
{
    *id_out = r->match.ids[0];
    return id_place(*id_out).hash == r->who.place.hash ? OK : ERR_NOT_FOUND;
}

enum err req_body(struct req *r, const struct shape *shape, void *out)
{
    const struct json *value;

    TRY(json_parse(&r->scope, r->body_len == 0 ? "{}" : r->body,
                   r->body_len == 0 ? strlen("{}") : r->body_len, &value));
    if (json_kind(value) != JSON_OBJECT) {
        return scope_violation(&r->scope, "", "type", "the body must be a JSON object");
    }
    return shape_read(&r->scope, shape, value, "", out);
}

const char *req_param(const struct req *r, const char *name)
{
    size_t i;

    for (i = 0; i < r->n_params; i++) {
        if (strcmp(r->params[i].name, name) == 0) {
            return r->params[i].value;
        }
    }
    return NULL;
}

const char *req_header(const struct req *r, const char *cgi_name)
{
    size_t i;

    for (i = 0; i < r->n_params; i++) {
        if (has_prefix(r->params[i].name, "HTTP_") &&
            strcmp(r->params[i].name + strlen("HTTP_"), cgi_name) == 0) {
            return r->params[i].value;
        }
    }
    return NULL;
}

const char *req_address(const struct req *r)
{
    return r->address;
}

static enum err add_query(struct req *r, const char *pair, size_t len)
{
    const char *equals = memchr(pair, '=', len);
    size_t name_len = equals == NULL ? len : (size_t)(equals - pair);
    const char *name = percent_decode(r->scope.arena, pair, name_len, true);
    const char *value =
        equals == NULL ? "" : percent_decode(r->scope.arena, equals + 1, len - name_len - 1, true);

    if (name == NULL || value == NULL) {
        return scope_refuse(&r->scope, ERR_BAD_REQUEST,
                            "The query has a broken percent-escape or is not UTF-8.");
    }
    if (req_query(r, name) != NULL) {
        return scope_violation(&r->scope, name, "duplicate", "is given twice");
    }
    if (r->n_query >= QUERY_PARAMS_MAX) {
        return scope_refuse(&r->scope, ERR_BAD_REQUEST, "The query has more than %d parameters.",
                            QUERY_PARAMS_MAX);
    }
    r->query[r->n_query++] = (struct conn_param){.name = name, .value = value};
    return OK;
}

enum err req_parse_query(struct req *r, const char *text)
{
    while (*text != '\0') {
        size_t len = strcspn(text, "&");

        if (len > 0) {
            TRY(add_query(r, text, len));
        }
        text += len + (text[len] == '&');
    }
    return OK;
}

const char *req_query(const struct req *r, const char *name)
{
    size_t i;

    for (i = 0; i < r->n_query; i++) {
        if (strcmp(r->query[i].name, name) == 0) {
            return r->query[i].value;
        }
    }
    return NULL;
}

static bool is_listed(const char *const *names, const char *name)
{
    for (; *names != NULL; names++) {
        if (strcmp(*names, name) == 0) {
            return true;
        }
    }
    return false;
}

enum err req_query_only(struct req *r, const char *const *names)
{
    enum err e = OK;
    size_t i;

    for (i = 0; i < r->n_query; i++) {
        if (!is_listed(names, r->query[i].name)) {
            e = scope_violation(&r->scope, r->query[i].name, "unknown",
                                "is not a parameter of this route");
        }
    }
    return e;
}

/* A cursor is the base64url form of an id's 16 bytes. */
static bool read_cursor(const char *text, struct id *after_out)
{
    return base64url_decode(text, strlen(text), after_out->bytes, sizeof(after_out->bytes));
}

enum err req_page(struct req *r, struct req_page *page_out)
{
    const char *limit = req_query(r, "limit");
    const char *cursor = req_query(r, "cursor");
    int64_t most = config()->page_limit_max;
    enum err e = OK;

    *page_out = (struct req_page){.limit = most < PAGE_LIMIT_DEFAULT ? most : PAGE_LIMIT_DEFAULT};
    if (limit != NULL &&
        (!i64_parse(limit, &page_out->limit) || page_out->limit < 1 || page_out->limit > most)) {
        e = scope_violation(&r->scope, "limit", "range", "must be a whole number from 1 to %lld",
                            (long long)most);
    }
    if (cursor != NULL && !read_cursor(cursor, &page_out->after)) {
        e = scope_violation(&r->scope, "cursor", "format", "must be a nextCursor of this list");
    }
    return e;
}

static const char *etag_of(struct req *r, int64_t version)
{
    return arena_printf(r->scope.arena, "\"v%lld\"", (long long)version);
}

/* Does the list of entity tags (RFC 9110 section 13.1.1) hold this one? Weak tags never match. */
static bool tag_list_has(const char *list, const char *tag)
{
    size_t len = strlen(tag);

    while (*list != '\0') {
        list += strspn(list, " \t,");
        if (strncmp(list, tag, len) == 0 && strchr(" \t,", list[len]) != NULL) {
            return true; /* strchr finds the NUL too */
        }
        if (*list == '*' && strchr(" \t,", list[1]) != NULL) {
            return true;
        }
        list += strcspn(list, ",");
    }
    return false;
}

enum err req_if_match(struct req *r, int64_t version)
{
    const char *list = req_header(r, "IF_MATCH");

    if (list == NULL || tag_list_has(list, etag_of(r, version))) {
        return OK;
    }
    return scope_refuse(&r->scope, ERR_PRECONDITION_FAILED, "The entity is now at version %s.",
                        etag_of(r, version));
}

void req_reply_header(struct req *r, const char *name, const char *value)
{
    if (strpbrk(name, "\r\n:") != NULL || strpbrk(value, "\r\n") != NULL ||
        r->reply.n_headers >= REPLY_HEADERS_MAX) {
        abort(); /* our bug: values are checked before they get here */
    }
    r->reply.headers[r->reply.n_headers++] = (struct req_header_out){name, value};
}

void req_etag(struct req *r, int64_t version)
{
    req_reply_header(r, "ETag", etag_of(r, version));
}

void req_location(struct req *r, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    req_reply_header(r, "Location", arena_vprintf(r->scope.arena, format, args));
    va_end(args);
}

void req_session_cookie(struct req *r, const char *token, int64_t ttl_s)
{
    bool is_tls = has_prefix(config()->public_url, "https://");

    req_reply_header(
        r, "Set-Cookie",
        arena_printf(r->scope.arena, "%ssession=%s; Path=/; HttpOnly; SameSite=Lax; Max-Age=%lld%s",
                     is_tls ? "__Host-" : "", token, (long long)ttl_s, is_tls ? "; Secure" : ""));
}

struct strbuf req_json(struct req *r)
{
    struct strbuf b;

    strbuf_init(&b, r->scope.arena, 1024);
    return b;
}

enum err req_reply_text(struct req *r, int status, const char *content_type,
                        const struct strbuf *text)
{
    r->reply.status = status;
    r->reply.content_type = content_type;
    r->reply.body = *text;
    return OK;
}

enum err req_reply_json(struct req *r, int status, const struct strbuf *json)
{
    return req_reply_text(r, status, "application/json", json);
}

enum err req_reply(struct req *r, int status, const struct shape *shape, const void *entity)
{
    struct strbuf json = req_json(r);

    shape_write(&json, shape, entity);
    return req_reply_json(r, status, &json);
}

enum err req_reply_page(struct req *r, const struct shape *shape, const void *items, size_t n,
                        const struct req_page *page, size_t id_offset)
{
    return req_reply_page_with(r, shape, items, n, page, id_offset, "");
}

enum err req_reply_page_with(struct req *r, const struct shape *shape, const void *items, size_t n,
                             const struct req_page *page, size_t id_offset, const char *members)
{
    struct strbuf json = req_json(r);
    bool has_more = n > (size_t)page->limit;
    size_t shown = has_more ? (size_t)page->limit : n;
    char cursor[32];
    size_t i;

    strbuf_puts(&json, "{\"items\":[");
    for (i = 0; i < shown; i++) {
        if (i > 0) {
            strbuf_putc(&json, ',');
        }
        shape_write(&json, shape, (const char *)items + i * shape->size);
    }
    strbuf_puts(&json, "],\"nextCursor\":");
    if (has_more) {
        const struct id *last =
            (const struct id *)((const char *)items + (shown - 1) * shape->size + id_offset);

        base64url_encode(last->bytes, sizeof(last->bytes), cursor);
        strbuf_json(&json, cursor);
    } else {
        strbuf_puts(&json, "null");
    }
    strbuf_puts(&json, members);
    strbuf_putc(&json, '}');
    return req_reply_json(r, 200, &json);
}

enum err req_reply_empty(struct req *r, int status)
{
    r->reply.status = status;
    r->reply.content_type = NULL;
    strbuf_init(&r->reply.body, r->scope.arena, 0);
    return OK;
}

enum err req_fail(struct req *r, enum err e, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    r->scope.detail = arena_vprintf(r->scope.arena, format, args);
    va_end(args);
    return e;
}

enum err req_transaction(struct req *r)
{
    if (r->in_transaction) {
        return OK;
    }
    TRY(pg_begin(&r->scope, r->who.place));
    r->in_transaction = true;
    return OK;
}

void req_after_commit(struct req *r, void (*fn)(struct req *r, void *context), void *context)
{
    if (r->n_after_commit >= AFTER_COMMIT_MAX) {
        abort(); /* our bug: a handler registers a fixed number */
    }
    r->after_commit[r->n_after_commit++] = (struct req_after_commit_call){fn, context};
}

void req_drain(void)
{
    atomic_store(&is_draining, true);
}

bool req_is_draining(void)
{
    return atomic_load_explicit(&is_draining, memory_order_relaxed);
}

bool req_shadowed(struct req *r, const char *guard)
{
    if (!config_is_shadowed(guard)) {
        return false;
    }
    r->shadow = guard;
    r->scope.retry_after_s = 0;
    scope_forgive(&r->scope);
    metrics_add(METRIC_GUARD_SHADOWED, 1);
    return true;
}
