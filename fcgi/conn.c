/* libfcgi reads and writes the protocol; accepting and stopping are ours. */
#include "fcgi/conn.h"

#include <errno.h>
#include <fcgiapp.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/log.h"

enum {
    LISTEN_FD = 0,     /* FastCGI 1.0, section 2.2: FCGI_LISTENSOCK_FILENO */
    IO_TIMEOUT_S = 30, /* a proxy of this machine that is silent so long within a request is gone */
    STOP_GRACE_MS = 6000, /* over the proxy's keepalive_time + keepalive_timeout */
    RETRY_ACCEPT_MS = 50  /* pause when descriptors run out */
};

struct conn {
    FCGX_Request fcgi;
    int epoll_fd;
    bool is_open; /* a request is being served */
};

static int stop_fd = -1;
static atomic_bool is_stopping;
static _Atomic int64_t stopped_at_ms;

bool conn_listen_open(void)
{
    int flags = fcntl(LISTEN_FD, F_GETFL);
    int accepts = 0;
    socklen_t len = sizeof(accepts);

    if (flags < 0 || getsockopt(LISTEN_FD, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &len) != 0 ||
        accepts == 0) {
        return false;
    }
    /* Several threads may wake for one connection: the late ones must not block in accept. */
    if (fcntl(LISTEN_FD, F_SETFL, flags | O_NONBLOCK) != 0 || FCGX_Init() != 0) {
        return false;
    }
    stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return stop_fd >= 0;
}

void conn_stop(void)
{
    uint64_t one = 1;
    ssize_t ignored;

    atomic_store(&stopped_at_ms, clock_mono_ms());
    atomic_store(&is_stopping, true);
    ignored = write(stop_fd, &one, sizeof(one)); /* stays readable: wakes every thread */
    (void)ignored;
}

bool conn_is_stopping(void)
{
    return atomic_load_explicit(&is_stopping, memory_order_relaxed);
}

struct conn *conn_open(void)
{
    struct conn *conn = calloc(1, sizeof(*conn));
    struct epoll_event wake = {.events = EPOLLIN};
    struct epoll_event listening = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.fd = LISTEN_FD};

    wake.data.fd = stop_fd;
    /* listen_sock -1: libfcgi itself must never accept, it then fails at once with EBADF */
    if (conn == NULL || FCGX_InitRequest(&conn->fcgi, -1, 0) != 0) {
        abort();
    }
    conn->fcgi.ipcFd = -1;
    conn->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (conn->epoll_fd < 0 || epoll_ctl(conn->epoll_fd, EPOLL_CTL_ADD, stop_fd, &wake) != 0 ||
        epoll_ctl(conn->epoll_fd, EPOLL_CTL_ADD, LISTEN_FD, &listening) != 0) {
        abort();
    }
    return conn;
}

void conn_close(struct conn **conn)
{
    FCGX_Free(&(*conn)->fcgi, 1);
    close((*conn)->epoll_fd);
    free(*conn);
    *conn = NULL;
}

/* Accept one connection; -1 when we stop. */
static int accept_next(struct conn *conn)
{
    const struct timeval limit = {.tv_sec = IO_TIMEOUT_S};

    while (!conn_is_stopping()) {
        struct epoll_event event;
        int fd;

        if (epoll_wait(conn->epoll_fd, &event, 1, -1) < 1 || event.data.fd != LISTEN_FD) {
            continue;
        }
        fd = accept4(LISTEN_FD, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
            setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
            return fd;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            log_event(LOG_ERROR, "accept", "no descriptors left: %d", errno);
            epoll_wait(conn->epoll_fd, &event, 0, 0);
            usleep(RETRY_ACCEPT_MS * 1000);
        }
    }
    return -1;
}

bool conn_next(struct conn *conn)
{
    for (;;) {
        if (conn->fcgi.ipcFd < 0) {
            conn->fcgi.ipcFd = accept_next(conn);
            if (conn->fcgi.ipcFd < 0) {
                return false;
            }
        }
        /* Accept_r first finishes "the request before": this keeps it from closing our socket. */
        conn->fcgi.keepConnection = 1;
        /* Fails where the proxy closed the kept connection or sent no FastCGI; libfcgi has closed
         * it then. */
        if (FCGX_Accept_r(&conn->fcgi) == 0) {
            conn->is_open = true;
            return true;
        }
        conn->fcgi.ipcFd = -1;
    }
}

bool conn_params(struct conn *conn, struct arena *arena, const struct conn_param **params_out,
                 size_t *n_out)
{
    struct conn_param *params;
    size_t n = 0, i;

    while (conn->fcgi.envp[n] != NULL) {
        if (++n > CONN_PARAMS_MAX) {
            return false;
        }
    }
    params = arena_array(arena, struct conn_param, n + 1);
    for (i = 0; i < n; i++) {
        char *copy = arena_strdup(arena, conn->fcgi.envp[i]);
        char *equals = strchr(copy, '=');

        params[i] = (struct conn_param){.name = copy, .value = ""};
        if (equals != NULL) {
            *equals = '\0';
            params[i].value = equals + 1;
        }
    }
    *params_out = params;
    *n_out = n;
    return true;
}

size_t conn_read(struct conn *conn, char *buffer, size_t size)
{
    int got = FCGX_GetStr(buffer, (int)size, conn->fcgi.in);

    return got < 0 ? 0 : (size_t)got;
}

bool conn_write(struct conn *conn, const char *bytes, size_t len)
{
    return FCGX_PutStr(bytes, (int)len, conn->fcgi.out) == (int)len;
}

bool conn_finish(struct conn *conn)
{
    bool is_whole;

    if (!conn->is_open) {
        return true;
    }
    if (conn_is_stopping() && clock_mono_ms() > atomic_load(&stopped_at_ms) + STOP_GRACE_MS) {
        conn->fcgi.keepConnection = 0;
    }
    /* Closing err before out makes one write of the reply and its end; Finish_r then only cleans
     * up. */
    FCGX_FClose(conn->fcgi.err);
    is_whole = FCGX_FClose(conn->fcgi.out) == 0;
    FCGX_Finish_r(&conn->fcgi);
    conn->is_open = false;
    return is_whole;
}
