/* HTTP client: one request at a time per thread, on kept connections.
 *
 * Each thread has a libcurl handle of its own with its connections, so nothing is shared or locked;
 * it ends with the thread. Only http and https, no redirects, no proxies from the environment, no
 * signals, sockets are close-on-exec. All is bounded: time (also by the scope's deadline), header
 * bytes, body bytes. */
#ifndef LIB_HTTP_H
#define LIB_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/scope.h"

/* Limits of a reply's header, as a server of ours would have them; more is a failure. */
enum { HTTP_HEADERS_MAX = 64, HTTP_HEADER_BYTES_MAX = 16384 };

/* Bytes of the body of a reply that is not 2xx which are kept, for its error code. */
enum { HTTP_ERROR_BODY_MAX = 16384 };

struct http_header {
    const char *name;
    const char *value;
};

/* What to send. The caller keeps all of it until http_do() returns. */
struct http_request {
    const char *method; /* GET, HEAD, PUT, POST, PATCH, DELETE */
    const char *url;    /* encoded; sent as it is, dot segments too */
    const struct http_header *headers;
    size_t n_headers;
    const void *body; /* PUT, POST, PATCH: body_len bytes */
    size_t body_len;
    int64_t connect_timeout_ms;
    int64_t timeout_ms; /* of the whole exchange; the scope's deadline holds too */
    /* Send at most once: on a fresh connection. libcurl by itself repeats a request (of any method)
     * whose kept connection ends before the reply begins; the server may have done it already. */
    bool is_once;
    void *buffer;    /* takes the body of a 2xx reply; NULL: the arena does */
    size_t body_max; /* size of the buffer, or most bytes in the arena */
};

/* What came back. */
struct http_response {
    int status;       /* 0: no reply */
    const char *body; /* NUL-terminated in the arena; of other than 2xx only the beginning */
    size_t body_len;
    struct http_header headers[HTTP_HEADERS_MAX];
    size_t n_headers;
    bool sent; /* a byte of the request may have reached the server */
};

/* Do it. Blocks up to timeout_ms or the scope's deadline. The reply's texts go to arena (which may
 * be the scope's own or a shorter lived one). OK for any status.
 *
 * ERR_TIMED_OUT: the deadline was past before anything was sent. ERR_DEPENDENCY_UNAVAILABLE: no
 * connection, no whole reply in time, or one past the limits. ERR_INTERNAL: a header or URL with a
 * control character, or a method not listed. The cause is told; it holds no URL, since a URL may
 * carry a signature. */
MUST_USE enum err http_do(struct scope *sc, struct arena *arena, const struct http_request *request,
                          struct http_response *response_out);

/* Value of the first header field of that name (any case), or NULL. */
const char *http_header(const struct http_response *response, const char *name);

/* Read an HTTP date ("Fri, 24 May 2013 00:00:00 GMT") into wall clock milliseconds. False: not
 * one. */
bool http_date_parse(const char *text, int64_t *wall_ms_out);

/* Start libcurl. http_do() does it by itself; a program may call it once before its threads start,
 * so that the first request does not pay. Any thread, any number of times. */
void http_open(void);

#endif
