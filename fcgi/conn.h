/* FastCGI connections: accept, read, reply, and stop without cutting anything. The only module that
 * knows libfcgi.
 *
 * Each thread has one conn. We accept ourselves and hand libfcgi the descriptor, so that a stop is
 * an event in an epoll set and not a signal that may be lost between check and accept (libfcgi,
 * os_unix.c: "There's a window here"). A connection belongs to a thread only while a request is
 * served: kept ones (fastcgi_keep_conn) wait in the epoll set of the process, so their number has
 * nothing to do with that of the threads. We do not close a kept connection ourselves: the proxy
 * may just be sending on it; it closes each after a short time (keepalive_time,
 * keepalive_timeout), so that a stopping process gets free. */
#ifndef FCGI_CONN_H
#define FCGI_CONN_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/arena.h"

struct conn;

/* Once per process, before threads: take the listening socket (descriptor 0, as spawn-fcgi passes
 * it). False: it is no socket. */
bool conn_listen_open(void);

/* Ask all threads to stop; safe from any thread. closes_door: nobody else serves the socket, so
 * whoever connects from now on is refused at once (and may go elsewhere, as nothing was sent), and
 * whoever has connected is served. Only a unix socket can do that. */
void conn_stop(bool closes_door);

/* Has conn_stop() been called? */
bool conn_is_stopping(void);

/* One per thread; the caller ends it with conn_close(). Aborts where the process has no descriptors
 * left at start. */
struct conn *conn_open(void);

/* End it and clear *conn. */
void conn_close(struct conn **conn);

/* Wait for the next request. False: the process stops and nothing is left on this thread's
 * connection. */
bool conn_next(struct conn *conn);

struct conn_param {
    const char *name;
    const char *value;
};

/* Copy the request's parameters into the arena: libfcgi's own strings die with the request. At most
 * CONN_PARAMS_MAX; false where there are more. */
bool conn_params(struct conn *conn, struct arena *arena, const struct conn_param **params_out,
                 size_t *n_out);

enum { CONN_PARAMS_MAX = 256 };

/* Read up to size bytes of the body; returns how many came. Blocks at most the socket's time
 * limit. */
size_t conn_read(struct conn *conn, char *buffer, size_t size);

/* Write bytes of the reply (CGI header, then body). False: the proxy has gone. */
bool conn_write(struct conn *conn, const char *bytes, size_t len);

/* Finish the request: flush the reply; the connection is kept if the proxy asked so. False: the
 * reply did not leave whole. */
bool conn_finish(struct conn *conn);

#endif
