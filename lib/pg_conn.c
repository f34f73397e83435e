/* One connection. libpq is used without blocking throughout: whatever waits, waits in await(),
 * which has a deadline, so a server that stops in the middle of a word costs a bounded time and
 * its connection. */
#include <postgresql/libpq-fe.h>

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/pg_internal.h"

enum { PREPARED_WORDS = (PG_QUERY_INDEX_MAX + 64) / 64 };

/* A descriptor that becomes readable at rings_ms. Setting a timer for each wait, as poll() with a
 * time limit does, costs as much as 4 % of a short query; this one is set anew only where it
 * would ring too late, or has rung. */
struct timer {
    int fd; /* -1: none to be had, poll() does it */
    int64_t rings_ms;
};

struct pg_conn {
    struct pg_conn_link link;
    PGconn *pg;
    struct timer timer;
    int64_t statement_timeout_ms;
    uint64_t prepared[PREPARED_WORDS]; /* bit per query index */
};

/* A wait with its end (clock_mono_ms()). */
struct wait {
    int64_t until_ms;
    struct timer *timer; /* may be NULL */
};

static bool is_prepared(const struct pg_conn *c, int index)
{
    return c->prepared[index / 64] >> (index % 64) & 1;
}

static void set_prepared(struct pg_conn *c, int index)
{
    c->prepared[index / 64] |= UINT64_C(1) << (index % 64);
}

static bool set_timer(struct timer *t, int64_t at_ms)
{
    struct itimerspec spec = {
        .it_value = {.tv_sec = at_ms / 1000, .tv_nsec = at_ms % 1000 * 1000000 + 1}};

    t->rings_ms = timerfd_settime(t->fd, TFD_TIMER_ABSTIME, &spec, NULL) == 0 ? at_ms : INT64_MAX;
    return t->rings_ms == at_ms;
}

/* Wait for the socket, or for w's timer. PG_FINE, PG_LATE or PG_LOST. */
static enum pg_fate await(const PGconn *pg, short events, const struct wait *w)
{
    bool has_timer = w->timer != NULL && w->timer->fd >= 0;
    struct pollfd fds[2] = {{.fd = PQsocket(pg), .events = events}, {.events = POLLIN}};

    if (has_timer && w->timer->rings_ms > w->until_ms) {
        has_timer = set_timer(w->timer, w->until_ms);
    }
    for (;;) {
        int64_t left_ms = has_timer ? -1 : w->until_ms - clock_mono_ms();
        int n;

        fds[1].fd = has_timer ? w->timer->fd : -1;
        n = poll(fds, has_timer ? 2 : 1, has_timer ? -1 : left_ms < 0 ? 0 : (int)left_ms);
        if (n < 0 && errno != EINTR) {
            return PG_LOST;
        }
        if (n > 0 && fds[0].revents != 0) {
            return PG_FINE; /* errors and hang-ups are told by the read or write that follows */
        }
        if (n >= 0 && clock_mono_ms() >= w->until_ms) {
            return PG_LATE;
        }
        if (n > 0) {
            has_timer = set_timer(w->timer, w->until_ms); /* it rang for an earlier wait */
        }
    }
}

static void keep_message(struct pg_answer *a, const char *text)
{
    size_t len = strcspn(text, "\n");

    snprintf(a->message, sizeof(a->message), "%.*s", (int)len, text);
}

static enum pg_fate say_lost(const PGconn *pg, struct pg_answer *a)
{
    keep_message(a, PQerrorMessage(pg));
    return PG_LOST;
}

static enum pg_fate say_late(struct pg_answer *a)
{
    keep_message(a, "no answer in time");
    return PG_LATE;
}

static void ignore_notice(void *arg, const char *message)
{
    (void)arg;
    (void)message;
}

/* Start connecting. What stands before dbname is a default that the URL may override. */
static PGconn *start(const struct pg_conn_options *o)
{
    char options[200];
    const char *keywords[] = {"application_name",
                              "gssencmode",
                              "connect_timeout",
                              "keepalives_idle",
                              "keepalives_interval",
                              "keepalives_count",
                              "tcp_user_timeout",
                              "client_encoding",
                              "dbname",
                              "options",
                              NULL};
    /* A dead peer is found after 15 + 3 * 5 s while idle, 15 s after unanswered bytes. */
    const char *values[] = {"maxbooster", "disable", "0",    "15",    "5", "3",
                            "15000",      "UTF8",    o->url, options, NULL};

    /* Text forms that clock_parse() reads; a transaction whose client stands still must not hold
     * its locks for ever (60 s is beyond every request). */
    snprintf(options, sizeof(options),
             "-c datestyle=ISO -c timezone=UTC -c intervalstyle=postgres"
             " -c statement_timeout=%lld -c idle_in_transaction_session_timeout=60000",
             (long long)o->statement_timeout_ms);
    return PQconnectStartParams(keywords, values, 1);
}

/* Drive the connection until it stands. */
static enum pg_fate finish_connecting(PGconn *pg, int64_t until_ms, struct pg_answer *why)
{
    PostgresPollingStatusType step = PGRES_POLLING_WRITING;
    struct wait w = {.until_ms = until_ms};

    if (pg == NULL || PQstatus(pg) == CONNECTION_BAD) {
        return pg == NULL ? PG_LOST : say_lost(pg, why);
    }
    while (step != PGRES_POLLING_OK) {
        enum pg_fate fate = await(pg, step == PGRES_POLLING_READING ? POLLIN : POLLOUT, &w);

        if (fate != PG_FINE) {
            return fate == PG_LATE ? say_late(why) : say_lost(pg, why);
        }
        step = PQconnectPoll(pg);
        if (step == PGRES_POLLING_FAILED) {
            say_lost(pg, why);
            /* libpq gives no SQLSTATE here, but only a server says FATAL. */
            return strstr(why->message, "FATAL") != NULL ? PG_REFUSED : PG_LOST;
        }
    }
    return PG_FINE;
}

enum pg_fate pg_conn_open(const struct pg_conn_options *options, int64_t until_ms,
                          struct pg_conn **conn_out, struct pg_answer *why)
{
    PGconn *pg = start(options);
    enum pg_fate fate;
    const char *standby;
    struct pg_conn *c;

    *conn_out = NULL;
    *why = (struct pg_answer){.rows = NULL};
    fate = finish_connecting(pg, until_ms, why);
    if (fate == PG_FINE) {
        standby = PQparameterStatus(pg, "in_hot_standby"); /* reported since PostgreSQL 14 */
        if (standby != NULL && strcmp(standby, "on") == 0) {
            keep_message(why, "the server is a standby");
            fate = PG_REFUSED;
        }
    }
    c = fate == PG_FINE ? calloc(1, sizeof(*c)) : NULL;
    if (c == NULL) {
        PQfinish(pg);
        return fate == PG_FINE ? PG_LOST : fate;
    }
    PQsetnonblocking(pg, 1);
    PQsetNoticeProcessor(pg, ignore_notice, NULL);
    c->pg = pg;
    c->statement_timeout_ms = options->statement_timeout_ms;
    c->link.permit = -1;
    c->timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    c->timer.rings_ms = INT64_MAX;
    *conn_out = c;
    return PG_FINE;
}

void pg_conn_close(struct pg_conn **conn)
{
    if (*conn != NULL) {
        PQfinish((*conn)->pg);
        if ((*conn)->timer.fd >= 0) {
            close((*conn)->timer.fd);
        }
        free(*conn);
        *conn = NULL;
    }
}

bool pg_conn_is_quiet(const struct pg_conn *c)
{
    struct pollfd fd = {.fd = PQsocket(c->pg), .events = POLLIN};

    return PQstatus(c->pg) == CONNECTION_OK && poll(&fd, 1, 0) == 0;
}

bool pg_conn_in_transaction(const struct pg_conn *c)
{
    return PQtransactionStatus(c->pg) != PQTRANS_IDLE;
}

int64_t pg_conn_statement_timeout_ms(const struct pg_conn *c)
{
    return c->statement_timeout_ms;
}

struct pg_conn_link *pg_conn_link(struct pg_conn *c)
{
    return &c->link;
}

/* Send what libpq still holds; the server may have to be read from meanwhile, or both sides would
 * wait. */
static enum pg_fate flush(PGconn *pg, struct wait *w, struct pg_answer *a)
{
    int rest;

    while ((rest = PQflush(pg)) > 0) {
        enum pg_fate fate = await(pg, POLLIN | POLLOUT, w);

        if (fate != PG_FINE) {
            return fate == PG_LATE ? say_late(a) : say_lost(pg, a);
        }
        if (PQconsumeInput(pg) == 0) {
            return say_lost(pg, a);
        }
    }
    return rest == 0 ? PG_FINE : say_lost(pg, a);
}

/* The next result, or NULL where the current statement has no more. */
static enum pg_fate next_result(PGconn *pg, struct wait *w, PGresult **result, struct pg_answer *a)
{
    while (PQisBusy(pg)) {
        enum pg_fate fate = await(pg, POLLIN, w);

        if (fate != PG_FINE) {
            return fate == PG_LATE ? say_late(a) : say_lost(pg, a);
        }
        if (PQconsumeInput(pg) == 0) {
            return say_lost(pg, a);
        }
    }
    *result = PQgetResult(pg);
    return PG_FINE;
}

/* Put a result into the answer; the first error wins over rows, rows over an earlier BEGIN's. False
 * for an error. */
static bool keep_result(struct pg_answer *a, PGresult *r)
{
    ExecStatusType status = PQresultStatus(r);
    const char *text;

    if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK) {
        PQclear(a->rows);
        a->rows = r;
        return true;
    }
    if (a->sqlstate[0] == '\0' && status != PGRES_PIPELINE_ABORTED) {
        text = PQresultErrorField(r, PG_DIAG_SQLSTATE);
        snprintf(a->sqlstate, sizeof(a->sqlstate), "%s", text != NULL ? text : "XX000");
        text = PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY);
        keep_message(a, text != NULL ? text : PQresultErrorMessage(r));
    }
    PQclear(r);
    return false;
}

/* How the whole went, when all results are there. */
static enum pg_fate conclude(PGconn *pg, struct pg_answer *a)
{
    if (PQstatus(pg) != CONNECTION_OK) {
        return PG_LOST; /* after a FATAL, keep_result() has its words */
    }
    return a->sqlstate[0] != '\0' ? PG_REFUSED : PG_FINE;
}

/* All results of one statement sent the plain way. */
static enum pg_fate gather(PGconn *pg, struct wait *w, struct pg_answer *a)
{
    enum pg_fate fate;
    PGresult *r;

    fate = flush(pg, w, a);
    if (fate != PG_FINE) {
        return fate;
    }
    for (;;) {
        fate = next_result(pg, w, &r, a);
        if (fate != PG_FINE) {
            return fate;
        }
        if (r == NULL) {
            return conclude(pg, a);
        }
        keep_result(a, r);
    }
}

/* All results up to the pipeline's end, which comes even after errors. *n_good counts the
 * statements that succeeded. */
static enum pg_fate gather_pipeline(PGconn *pg, struct wait *w, struct pg_answer *a, int *n_good)
{
    enum pg_fate fate;
    PGresult *r;
    int empty = 0;

    fate = flush(pg, w, a);
    if (fate != PG_FINE) {
        return fate;
    }
    for (;;) {
        fate = next_result(pg, w, &r, a);
        if (fate != PG_FINE) {
            return fate;
        }
        if (r == NULL) {
            /* One stands between two statements; two in a row mean that nothing more comes. */
            if (++empty > 1 || PQstatus(pg) != CONNECTION_OK) {
                return say_lost(pg, a);
            }
            continue;
        }
        empty = 0;
        if (PQresultStatus(r) == PGRES_PIPELINE_SYNC) {
            PQclear(r);
            return PQexitPipelineMode(pg) ? conclude(pg, a) : say_lost(pg, a);
        }
        *n_good += keep_result(a, r);
    }
}

static enum pg_fate run_plain(struct pg_conn *c, const struct pg_query *q, struct wait *w,
                              struct pg_answer *a)
{
    int sent = q->index > 0
                   ? PQsendQueryPrepared(c->pg, q->name, q->n_params, q->params, NULL, NULL, 0)
                   : PQsendQueryParams(c->pg, q->sql, q->n_params, NULL, q->params, NULL, NULL, 0);

    return sent ? gather(c->pg, w, a) : say_lost(c->pg, a);
}

/* BEGIN, preparation and query on one trip. */
static enum pg_fate run_pipeline(struct pg_conn *c, const struct pg_query *q, bool begin,
                                 struct wait *w, struct pg_answer *a)
{
    bool prepare = q->index > 0 && !is_prepared(c, q->index);
    PGconn *pg = c->pg;
    enum pg_fate fate;
    bool sent = PQenterPipelineMode(pg);
    int n_good = 0;

    sent = sent && (!begin || PQsendQueryParams(pg, "BEGIN", 0, NULL, NULL, NULL, NULL, 0));
    sent = sent && (!prepare || PQsendPrepare(pg, q->name, q->sql, 0, NULL));
    sent =
        sent &&
        (q->index > 0 ? PQsendQueryPrepared(pg, q->name, q->n_params, q->params, NULL, NULL, 0)
                      : PQsendQueryParams(pg, q->sql, q->n_params, NULL, q->params, NULL, NULL, 0));
    if (!sent || !PQpipelineSync(pg)) {
        return say_lost(pg, a);
    }
    fate = gather_pipeline(pg, w, a, &n_good);
    /* A statement stays prepared even if running it failed. */
    if (prepare && n_good > begin) {
        set_prepared(c, q->index);
    }
    return fate;
}

enum pg_fate pg_conn_query(struct pg_conn *c, const struct pg_query *q, bool begin,
                           int64_t until_ms, struct pg_answer *a)
{
    struct wait w = {.until_ms = until_ms, .timer = &c->timer};

    a->rows = NULL;
    a->sqlstate[0] = '\0';
    a->message[0] = '\0';
    if (begin || (q->index > 0 && !is_prepared(c, q->index))) {
        return run_pipeline(c, q, begin, &w, a);
    }
    return run_plain(c, q, &w, a);
}

enum pg_fate pg_conn_command(struct pg_conn *c, const char *sql, int64_t until_ms,
                             struct pg_answer *a)
{
    struct wait w = {.until_ms = until_ms, .timer = &c->timer};

    *a = (struct pg_answer){.rows = NULL};
    return PQsendQuery(c->pg, sql) ? gather(c->pg, &w, a) : say_lost(c->pg, a);
}

int pg_answer_rows(const struct pg_answer *a)
{
    return PQntuples(a->rows);
}

int pg_answer_columns(const struct pg_answer *a)
{
    return PQnfields(a->rows);
}

const char *pg_answer_column(const struct pg_answer *a, int column)
{
    return PQfname(a->rows, column);
}

const char *pg_answer_value(const struct pg_answer *a, int row, int column, size_t *len_out)
{
    *len_out = (size_t)PQgetlength(a->rows, row, column);
    if (*len_out == 0 && PQgetisnull(a->rows, row, column)) {
        return NULL;
    }
    return PQgetvalue(a->rows, row, column);
}

int64_t pg_answer_affected(const struct pg_answer *a)
{
    const char *text = PQcmdTuples(a->rows);

    return text[0] == '\0' ? 0 : strtoll(text, NULL, 10);
}

const char *pg_answer_tag(const struct pg_answer *a)
{
    return PQcmdStatus(a->rows);
}

void pg_answer_done(struct pg_answer *a)
{
    PQclear(a->rows);
    a->rows = NULL;
}

void pg_answer_free_rows(void *rows)
{
    PQclear(rows);
}
