/* libfcgi reads and writes the protocol; accepting, waiting and stopping are ours.
 *
 * A connection (link) that waits for its next request belongs to no thread: it lies in the epoll
 * set of the process, armed for one event. Whichever thread is free takes what has been ready for
 * longest, serves one request, and arms the link again. So the number of kept connections and the
 * number of threads have nothing to do with each other. */
#include "fcgi/conn.h"

#include <errno.h>
#include <fcgiapp.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
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
    STOP_POLL_MS = 20,    /* how often a stopping thread looks whether all links have gone */
    WAIT_MS = 250,        /* bounds what a thread that misses the word to stop may oversleep */
    RETRY_ACCEPT_MS = 50, /* pause when descriptors run out */
    LINKS_MAX = 512,      /* of this process; further connections wait in the backlog */
    DRAIN_MAX = 1048576   /* bytes of a body that nobody read, before the connection is given up */
};

struct link {
    FCGX_Request fcgi;
    atomic_bool is_waiting; /* hands what a thread wrote here to the next one that takes it */
};

struct conn {
    struct link *link; /* whose request is being served */
};

static int poll_fd = -1, stop_fd = -1;
static atomic_bool is_stopping;
static _Atomic int64_t stopped_at_ms;
/* What the epoll set tells for the two that are no links. */
static char listening, stopping;

/* Guards the two below: the listening socket is in the epoll set while more links have room. */
static pthread_mutex_t links_lock = PTHREAD_MUTEX_INITIALIZER;
static int n_links;
static bool is_listening;

/* More connections may wait to be accepted. The listening socket has one place in the queue of what
 * is ready, and one connection a turn would let those wait for a whole round of all others. */
static atomic_bool has_backlog;

static bool watch(int fd, void *what, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events, .data.ptr = what};

    return epoll_ctl(poll_fd, operation, fd, &event) == 0;
}

/* Count links, and accept more or leave them in the backlog. Returns how many there are. */
static int count_links(int change)
{
    bool should_listen;
    int n;

    pthread_mutex_lock(&links_lock);
    n_links += change;
    n = n_links;
    should_listen = n < LINKS_MAX && !conn_is_stopping();
    if (should_listen != is_listening) {
        /* Exclusive: one process wakes for a connection, not all that share the socket. */
        is_listening = watch(LISTEN_FD, &listening, EPOLLIN | EPOLLEXCLUSIVE,
                             should_listen ? EPOLL_CTL_ADD : EPOLL_CTL_DEL)
                           ? should_listen
                           : is_listening;
    }
    pthread_mutex_unlock(&links_lock);
    return n;
}

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
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (stop_fd < 0 || poll_fd < 0 ||
        !watch(stop_fd, &stopping, EPOLLIN | EPOLLONESHOT, EPOLL_CTL_ADD)) {
        return false;
    }
    count_links(0);
    return is_listening;
}

bool conn_is_stopping(void)
{
    return atomic_load_explicit(&is_stopping, memory_order_relaxed);
}

struct conn *conn_open(void)
{
    struct conn *conn = calloc(1, sizeof(*conn));

    if (conn == NULL) {
        abort();
    }
    return conn;
}

void conn_close(struct conn **conn)
{
    free(*conn);
    *conn = NULL;
}

static void link_close(struct link *link)
{
    FCGX_Free(&link->fcgi, 1);
    free(link);
    count_links(-1);
}

/* Let any thread have it when its next request comes. */
static void link_arm(struct link *link, int operation)
{
    int fd = link->fcgi.ipcFd;

    atomic_store_explicit(&link->is_waiting, true, memory_order_release);
    if (!watch(fd, link, EPOLLIN | EPOLLONESHOT, operation)) {
        link_close(link);
    }
}

/* Accept one connection, if one waits. */
static bool accept_one(void)
{
    const struct timeval limit = {.tv_sec = IO_TIMEOUT_S};
    struct link *link;
    int fd;

    fd = accept4(LISTEN_FD, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            log_event(LOG_ERROR, "accept", "no descriptors left: %d", errno);
            usleep(RETRY_ACCEPT_MS * 1000);
        }
        return false;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    link = calloc(1, sizeof(*link));
    /* listen_sock -1: libfcgi itself must never accept, it then fails at once with EBADF */
    if (link == NULL || FCGX_InitRequest(&link->fcgi, -1, 0) != 0) {
        abort();
    }
    link->fcgi.ipcFd = fd;
    count_links(1);
    link_arm(link, EPOLL_CTL_ADD);
    return true;
}

/* The same, and tell whether there may be more for us: one was there, and links have room. */
static bool accept_more(void)
{
    return !conn_is_stopping() && accept_one() && count_links(0) < LINKS_MAX;
}

static bool is_unix_socket(void)
{
    int domain = AF_UNSPEC;
    socklen_t len = sizeof(domain);

    return getsockopt(LISTEN_FD, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}

void conn_stop(bool closes_door)
{
    uint64_t one = 1;
    ssize_t ignored;

    if (closes_door && is_unix_socket() && shutdown(LISTEN_FD, SHUT_RDWR) == 0) {
        while (accept_one()) {
        }
    }
    atomic_store(&stopped_at_ms, clock_mono_ms());
    atomic_store(&is_stopping, true);
    ignored = write(stop_fd, &one,
                    sizeof(one)); /* stays readable: each thread that sees it wakes the next */
    (void)ignored;
}

/* Nothing is left to serve, or the proxy keeps its connections longer than it should. */
static bool is_over(void)
{
    return count_links(0) == 0 || clock_mono_ms() > atomic_load(&stopped_at_ms) + STOP_GRACE_MS;
}

/* The next link that has something to read; NULL when we have stopped. */
static struct link *wait_ready(void)
{
    for (;;) {
        struct epoll_event event;
        bool stops = conn_is_stopping();

        if (stops && is_over()) {
            return NULL;
        }
        if (atomic_load_explicit(&has_backlog, memory_order_relaxed)) {
            atomic_store_explicit(&has_backlog, accept_more(), memory_order_relaxed);
        }
        if (epoll_wait(poll_fd, &event, 1, stops ? STOP_POLL_MS : WAIT_MS) < 1) {
            continue;
        }
        if (event.data.ptr == &listening) {
            atomic_store_explicit(&has_backlog, accept_more(), memory_order_relaxed);
        } else if (event.data.ptr != &stopping) {
            return event.data.ptr;
        } else if (!stops) {
            /* Armed again by each thread that did not know yet: so it wakes one after the other.
             * One that learnt of the stop elsewhere breaks the chain; WAIT_MS is for the rest. */
            (void)watch(stop_fd, &stopping, EPOLLIN | EPOLLONESHOT, EPOLL_CTL_MOD);
        }
    }
}

bool conn_next(struct conn *conn)
{
    struct link *link;

    while ((link = wait_ready()) != NULL) {
        atomic_exchange_explicit(&link->is_waiting, false, memory_order_acquire);
        /* Accept_r first finishes "the request before": this keeps it from closing our socket. */
        link->fcgi.keepConnection = 1;
        /* Fails where the proxy closed it or sent no FastCGI; libfcgi has closed it then. */
        if (FCGX_Accept_r(&link->fcgi) == 0) {
            conn->link = link;
            return true;
        }
        link_close(link);
    }
    return false;
}

bool conn_params(struct conn *conn, struct arena *arena, const struct conn_param **params_out,
                 size_t *n_out)
{
    char **envp = conn->link->fcgi.envp;
    struct conn_param *params;
    size_t n = 0, i;

    while (envp[n] != NULL) {
        if (++n > CONN_PARAMS_MAX) {
            return false;
        }
    }
    params = arena_array(arena, struct conn_param, n + 1);
    for (i = 0; i < n; i++) {
        char *copy = arena_strdup(arena, envp[i]);
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
    int got = FCGX_GetStr(buffer, (int)size, conn->link->fcgi.in);

    return got < 0 ? 0 : (size_t)got;
}

bool conn_write(struct conn *conn, const char *bytes, size_t len)
{
    return FCGX_PutStr(bytes, (int)len, conn->link->fcgi.out) == (int)len;
}

/* Read what is left of the request, its last record included: libfcgi would take it for the begin
 * of the next request. False: too much, or broken. */
static bool drain(FCGX_Stream *in)
{
    char waste[4096];
    size_t total = 0;
    int n;

    while ((n = FCGX_GetStr(waste, sizeof(waste), in)) > 0) {
        total += (size_t)n;
        if (total > DRAIN_MAX) {
            return false;
        }
    }
    return FCGX_GetError(in) == 0;
}

bool conn_finish(struct conn *conn)
{
    struct link *link = conn->link;
    bool is_whole;

    if (link == NULL) {
        return true;
    }
    conn->link = NULL;
    if (!drain(link->fcgi.in) ||
        (conn_is_stopping() && clock_mono_ms() > atomic_load(&stopped_at_ms) + STOP_GRACE_MS)) {
        link->fcgi.keepConnection = 0;
    }
    /* Closing err before out makes one write of reply and end; Finish_r then only cleans up. */
    FCGX_FClose(link->fcgi.err);
    is_whole = FCGX_FClose(link->fcgi.out) == 0;
    FCGX_Finish_r(&link->fcgi);
    if (link->fcgi.ipcFd < 0) {
        link_close(link);
    } else {
        link_arm(link, EPOLL_CTL_MOD);
    }
    return is_whole;
}
