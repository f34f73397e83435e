/* One libcurl easy handle a thread; it keeps its connections from request to request. A request
 * sets its options and leaves none behind (curl_easy_reset keeps connections, not options): nothing
 * leaks from one request into the next, and the handle never points at memory that has ended. */
#include "lib/http.h"

#include <curl/curl.h>
#include <pthread.h>
#include <strings.h>
#include <sys/socket.h>

#include "lib/str.h"

/* A kept connection older than this is not used again: nginx closes idle ones after 75 s by
 * default. */
enum { CONNECTION_IDLE_MAX_S = 60 };

/* Connections that a thread keeps: S3 and perhaps two services more. */
enum { CONNECTIONS_KEPT = 4 };

/* Receive buffer of a thread; larger ones no longer cost fewer wake-ups on loopback. */
enum { RECEIVE_BYTES = 65536 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t handle_key;

/* One exchange, as the callbacks see it. */
struct exchange {
    struct arena *arena;
    const struct http_request *request;
    struct http_response *response;
    struct strbuf body; /* where the arena takes it */
    size_t header_bytes;
    const char *broken; /* why a callback ended the exchange, NULL: it did not */
    bool is_cut;        /* an error's body was longer than is kept */
    char message[CURL_ERROR_SIZE];
};

static void handle_end(void *handle)
{
    curl_easy_cleanup(handle);
}

static void start_once(void)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK ||
        pthread_key_create(&handle_key, handle_end) != 0) {
        fprintf(stderr, "http: libcurl does not start\n");
        abort();
    }
}

void http_open(void)
{
    pthread_once(&once, start_once);
}

/* The thread's handle, without options; NULL: no memory. */
static CURL *handle_of_thread(void)
{
    CURL *handle;

    http_open();
    handle = pthread_getspecific(handle_key);
    if (handle != NULL) {
        return handle;
    }
    handle = curl_easy_init();
    if (handle != NULL && pthread_setspecific(handle_key, handle) != 0) {
        curl_easy_cleanup(handle);
        return NULL;
    }
    return handle;
}

/* Children of ours (the media program) must not inherit connections. */
static curl_socket_t open_socket(void *context, curlsocktype purpose, struct curl_sockaddr *address)
{
    (void)context;
    (void)purpose;
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static size_t end_exchange(struct exchange *x, const char *why)
{
    x->broken = why;
    return 0; /* fewer bytes than were passed: libcurl ends the transfer */
}

static bool is_success(const struct exchange *x)
{
    return x->response->status >= 200 && x->response->status < 300;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* A status line: what came before it (100 Continue) is forgotten. */
static void status_line(struct exchange *x, const char *line, size_t len)
{
    const char *at = memchr(line, ' ', len);
    struct http_response *rs = x->response;

    rs->n_headers = 0;
    rs->status = 0;
    while (at != NULL && ++at < line + len && *at >= '0' && *at <= '9' && rs->status < 100) {
        rs->status = rs->status * 10 + (*at - '0');
    }
}

static size_t on_header(char *data, size_t size, size_t n, void *context)
{
    struct exchange *x = context;
    struct http_response *rs = x->response;
    size_t len = size * n, name_len;
    const char *colon = memchr(data, ':', len), *value, *end = data + len;

    x->header_bytes += len;
    if (x->header_bytes > HTTP_HEADER_BYTES_MAX) {
        return end_exchange(x, "the header of the reply is too large");
    }
    if (len >= 5 && memcmp(data, "HTTP/", 5) == 0) {
        status_line(x, data, len);
        return len;
    }
    if (colon == NULL) {
        return len; /* the empty line */
    }
    if (rs->n_headers == HTTP_HEADERS_MAX) {
        return end_exchange(x, "the reply has too many header fields");
    }
    name_len = (size_t)(colon - data);
    for (value = colon + 1; value < end && is_blank(*value); value++) {
    }
    while (end > value && is_blank(end[-1])) {
        end--;
    }
    rs->headers[rs->n_headers++] =
        (struct http_header){.name = arena_strndup(x->arena, data, name_len),
                             .value = arena_strndup(x->arena, value, (size_t)(end - value))};
    return len;
}

/* The body of an error: its beginning is enough. */
static size_t take_error_body(struct exchange *x, const char *data, size_t len)
{
    size_t room = HTTP_ERROR_BODY_MAX - x->body.len;

    strbuf_add(&x->body, data, len < room ? len : room);
    if (len > room) {
        x->is_cut = true;
        return 0;
    }
    return len;
}

static size_t on_body(char *data, size_t size, size_t n, void *context)
{
    struct exchange *x = context;
    const struct http_request *rq = x->request;
    struct http_response *rs = x->response;
    size_t len = size * n;

    if (!is_success(x)) {
        return take_error_body(x, data, len);
    }
    if (len > rq->body_max - rs->body_len) {
        return end_exchange(x, "the body of the reply is too large");
    }
    if (rq->buffer != NULL) {
        memcpy((char *)rq->buffer + rs->body_len, data, len);
    } else {
        strbuf_add(&x->body, data, len);
    }
    rs->body_len += len;
    return len;
}

static bool is_clean(const char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f) {
            return false;
        }
    }
    return true;
}

/* The request is ours, but a value in it may have come from far: nothing in it may end a line. */
static bool is_safe(const struct http_request *rq)
{
    size_t i;

    for (i = 0; i < rq->n_headers; i++) {
        if (!is_clean(rq->headers[i].name) || !is_clean(rq->headers[i].value)) {
            return false;
        }
    }
    return is_clean(rq->url);
}

static struct curl_slist *slist_add(struct arena *a, struct curl_slist *rest, char *line)
{
    struct curl_slist *item = arena_new(a, struct curl_slist);

    *item = (struct curl_slist){.data = line, .next = rest};
    return item;
}

/* The header list in the arena. libcurl only reads it, so its own allocation is not needed. */
static struct curl_slist *header_list(struct arena *a, const struct http_request *rq)
{
    struct curl_slist *list = NULL;
    bool has_type = false;
    size_t i;

    for (i = rq->n_headers; i-- > 0;) {
        const struct http_header *h = &rq->headers[i];

        has_type = has_type || strcasecmp(h->name, "content-type") == 0;
        list = slist_add(a, list, arena_printf(a, "%s: %s", h->name, h->value));
    }
    /* An empty value takes back what libcurl would send by itself. */
    if (!has_type) {
        list = slist_add(a, list, arena_strdup(a, "Content-Type:"));
    }
    return slist_add(a, list, arena_strdup(a, "Expect:"));
}

static void set_limits(CURL *c, const struct http_request *rq, int64_t left_ms)
{
    int64_t connect_ms = rq->connect_timeout_ms < left_ms ? rq->connect_timeout_ms : left_ms;

    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)left_ms);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)connect_ms);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_MAXAGE_CONN, (long)CONNECTION_IDLE_MAX_S);
    curl_easy_setopt(c, CURLOPT_MAXCONNECTS, (long)CONNECTIONS_KEPT);
    curl_easy_setopt(c, CURLOPT_BUFFERSIZE, (long)RECEIVE_BYTES);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, open_socket);
}

/* False: a method that is not listed. */
static bool set_method(CURL *c, const struct http_request *rq)
{
    if (strcmp(rq->method, "GET") == 0) {
        curl_easy_setopt(c, CURLOPT_HTTPGET, 1L);
        return true;
    }
    if (strcmp(rq->method, "HEAD") == 0) {
        curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
        return true;
    }
    if (strcmp(rq->method, "PUT") == 0 || strcmp(rq->method, "POST") == 0 ||
        strcmp(rq->method, "PATCH") == 0) {
        /* libcurl reads the body where it lies, and can send it again on a fresh connection. */
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, rq->body != NULL ? rq->body : "");
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE,
                         (curl_off_t)(rq->body != NULL ? rq->body_len : 0));
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, rq->method);
        return true;
    }
    if (strcmp(rq->method, "DELETE") == 0) {
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, "DELETE");
        return true;
    }
    return false;
}

static enum err outcome(struct scope *sc, CURL *c, struct exchange *x, CURLcode code)
{
    long request_bytes = 0;

    curl_easy_getinfo(c, CURLINFO_REQUEST_SIZE, &request_bytes);
    x->response->sent = request_bytes > 0;
    if (x->request->buffer == NULL || !is_success(x)) {
        x->response->body = x->body.data;
        x->response->body_len = x->body.len;
    } else {
        x->response->body = x->request->buffer;
    }
    if (code == CURLE_OK || (x->is_cut && x->broken == NULL)) {
        return OK;
    }
    x->response->status = 0;
    return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "http %s: %s", x->request->method,
                      x->broken != NULL       ? x->broken
                      : x->message[0] != '\0' ? x->message
                                              : curl_easy_strerror(code));
}

enum err http_do(struct scope *sc, struct arena *arena, const struct http_request *request,
                 struct http_response *response_out)
{
    struct exchange x = {.arena = arena, .request = request, .response = response_out};
    int64_t left_ms = scope_left_ms(sc, request->timeout_ms);
    enum err e;
    CURL *c;

    response_out->status = 0;
    response_out->body = "";
    response_out->body_len = 0;
    response_out->n_headers = 0;
    response_out->sent = false;
    if (left_ms <= 0) {
        return scope_fail(sc, ERR_TIMED_OUT, "http %s: no time left", request->method);
    }
    if (!is_safe(request)) {
        return scope_fail(sc, ERR_INTERNAL, "http: control character in the request");
    }
    c = handle_of_thread();
    if (c == NULL || !set_method(c, request)) {
        return scope_fail(sc, ERR_INTERNAL, "http: no handle, or method %s", request->method);
    }
    strbuf_init(&x.body, arena, 0);
    set_limits(c, request, left_ms);
    curl_easy_setopt(c, CURLOPT_URL, request->url);
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_FRESH_CONNECT, request->is_once ? 1L : 0L);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, header_list(arena, request));
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, &x);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &x);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, x.message);
    e = outcome(sc, c, &x, curl_easy_perform(c));
    curl_easy_reset(c);
    return e;
}

const char *http_header(const struct http_response *response, const char *name)
{
    size_t i;

    for (i = 0; i < response->n_headers; i++) {
        if (strcasecmp(response->headers[i].name, name) == 0) {
            return response->headers[i].value;
        }
    }
    return NULL;
}

bool http_date_parse(const char *text, int64_t *wall_ms_out)
{
    time_t seconds = curl_getdate(text, NULL);

    if (seconds == -1) {
        return false;
    }
    *wall_ms_out = (int64_t)seconds * 1000;
    return true;
}
