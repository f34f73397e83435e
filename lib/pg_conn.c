/* One connection. libpq is used without blocking throughout: an exchange goes forward by
 * pg_conn_step(), which never waits but says for which event it would. pg_conn_finish() waits in
 * await(), which has a deadline, so a server that stops in the middle of a word costs a bounded
 * time and its connection; who has several exchanges at once (pg_scatter.c) waits for all of them
 * together. */
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

enum stage { STAGE_CONNECTING, STAGE_SENDING, STAGE_READING };

/* What is going on with the server, and what is to be noted once it is over. */
struct exchange {
    enum stage stage;
    bool is_pipeline;
    int n_opening; /* statements of the opening, of a pipeline */
    int prepares;  /* index of the query that it prepares, 0 none */
    int n_good;    /* statements that succeeded, of a pipeline */
    int n_empty;   /* ends of results in a row, of a pipeline */
    bool is_tail;  /* the position in the log follows, behind a sync of its own */
    bool in_tail;  /* and it is that which is read now */
};

struct pg_conn {
    struct pg_conn_link link;
    PGconn *pg;
    struct timer timer;
    struct exchange exchange;
    int64_t statement_timeout_ms;
    bool standby_too, was_standby;
    int64_t lsn;                       /* after the last query that asked for it, 0 none */
    uint64_t prepared[PREPARED_WORDS]; /* bit per query index; bit 0 is the position's */
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

/* Wait for the socket until then (clock_mono_ms()). PG_FINE, PG_LATE or PG_LOST. */
static enum pg_fate await(struct pg_conn *c, short events, int64_t until_ms)
{
    struct timer *timer = &c->timer;
    bool has_timer = timer->fd >= 0;
    struct pollfd fds[2] = {{.fd = PQsocket(c->pg), .events = events}, {.events = POLLIN}};

    if (has_timer && timer->rings_ms > until_ms) {
        has_timer = set_timer(timer, until_ms);
    }
    for (;;) {
        int64_t left_ms = has_timer ? -1 : until_ms - clock_mono_ms();
        int n;

        fds[1].fd = has_timer ? timer->fd : -1;
        n = poll(fds, has_timer ? 2 : 1, has_timer ? -1 : left_ms < 0 ? 0 : (int)left_ms);
        if (n < 0 && errno != EINTR) {
            return PG_LOST;
        }
        if (n > 0 && fds[0].revents != 0) {
            return PG_FINE; /* errors and hang-ups are told by the read or write that follows */
        }
        if (n >= 0 && clock_mono_ms() >= until_ms) {
            return PG_LATE;
        }
        if (n > 0) {
            has_timer = set_timer(timer, until_ms); /* it rang for an earlier wait */
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

enum pg_fate pg_conn_late(struct pg_answer *a)
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

/* The server tells of a change with its next answer. */
static bool says_standby(const PGconn *pg)
{
    const char *standby = PQparameterStatus(pg, "in_hot_standby"); /* since PostgreSQL 14 */

    return standby != NULL && strcmp(standby, "on") == 0;
}

/* A primary does not become a standby with its connections alive: only standbys cost a look. */
bool pg_conn_is_standby(const struct pg_conn *c)
{
    return c->was_standby && says_standby(c->pg);
}

static enum pg_fate conclude_connecting(struct pg_conn *c, struct pg_answer *why)
{
    c->was_standby = says_standby(c->pg);
    if (c->was_standby && !c->standby_too) {
        keep_message(why, "the server is a standby");
        return PG_REFUSED;
    }
    PQsetnonblocking(c->pg, 1);
    PQsetNoticeProcessor(c->pg, ignore_notice, NULL);
    return PG_FINE;
}

static enum pg_fate step_connecting(struct pg_conn *c, bool is_ready, short *events_out,
                                    struct pg_answer *why)
{
    *events_out = POLLOUT;
    if (!is_ready) {
        return PG_PENDING;
    }
    switch (PQconnectPoll(c->pg)) {
    case PGRES_POLLING_OK:
        return conclude_connecting(c, why);
    case PGRES_POLLING_READING:
        *events_out = POLLIN;
        return PG_PENDING;
    case PGRES_POLLING_FAILED:
        say_lost(c->pg, why);
        /* libpq gives no SQLSTATE here, but only a server says FATAL. */
        return strstr(why->message, "FATAL") != NULL ? PG_REFUSED : PG_LOST;
    default:
        return PG_PENDING;
    }
}

enum pg_fate pg_conn_start(const struct pg_conn_options *options, struct pg_conn **conn_out,
                           struct pg_answer *why)
{
    struct pg_conn *c = calloc(1, sizeof(*c));

    *conn_out = NULL;
    *why = (struct pg_answer){.rows = NULL};
    if (c == NULL) {
        return PG_LOST;
    }
    c->link.permit = -1;
    c->statement_timeout_ms = options->statement_timeout_ms;
    c->standby_too = options->standby_too;
    c->timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    c->timer.rings_ms = INT64_MAX;
    c->exchange = (struct exchange){.stage = STAGE_CONNECTING};
    c->pg = start(options);
    if (c->pg == NULL || PQstatus(c->pg) == CONNECTION_BAD) {
        if (c->pg != NULL) {
            say_lost(c->pg, why);
        }
        pg_conn_close(&c);
        return PG_LOST;
    }
    *conn_out = c;
    return PG_PENDING;
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

/* Send what libpq still holds; the server may have to be read from meanwhile, or both sides would
 * wait. */
static enum pg_fate step_sending(struct pg_conn *c, bool is_ready, short *events_out,
                                 struct pg_answer *a)
{
    int rest;

    if (is_ready && PQconsumeInput(c->pg) == 0) {
        return say_lost(c->pg, a);
    }
    rest = PQflush(c->pg);
    if (rest > 0) {
        *events_out = POLLIN | POLLOUT;
        return PG_PENDING;
    }
    c->exchange.stage = STAGE_READING;
    return rest == 0 ? PG_FINE : say_lost(c->pg, a);
}

/* The position comes after the transaction's end, so that its commit lies before it. */
static const char position_name[] = "wal_position";
static const char position_sql[] =
    "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint";

/* The position, or why there is none: that is nobody's failure. */
static void keep_position(struct pg_conn *c, PGresult *r)
{
    if (PQresultStatus(r) == PGRES_TUPLES_OK && PQntuples(r) == 1) {
        set_prepared(c, 0);
        c->lsn = strtoll(PQgetvalue(r, 0, 0), NULL, 10);
    }
    PQclear(r);
}

/* The pipeline is over, and went as *a says; or its tail is to come. */
static enum pg_fate end_pipeline(struct pg_conn *c, struct pg_answer *a)
{
    if (c->exchange.is_tail && !c->exchange.in_tail) {
        c->exchange.in_tail = true;
        return PG_PENDING;
    }
    /* A statement stays prepared even if running it failed. */
    if (c->exchange.prepares > 0 && c->exchange.n_good > c->exchange.n_opening) {
        set_prepared(c, c->exchange.prepares);
    }
    return PQexitPipelineMode(c->pg) ? conclude(c->pg, a) : say_lost(c->pg, a);
}

/* Take a result, NULL for the end of a statement's. PG_PENDING: more are to come. */
static enum pg_fate take_result(struct pg_conn *c, PGresult *r, struct pg_answer *a)
{
    struct exchange *x = &c->exchange;

    if (r == NULL && !x->is_pipeline) {
        return conclude(c->pg, a);
    }
    if (r == NULL) {
        /* One stands between two statements; two in a row mean that nothing more comes. */
        return ++x->n_empty > 1 || PQstatus(c->pg) != CONNECTION_OK ? say_lost(c->pg, a)
                                                                    : PG_PENDING;
    }
    x->n_empty = 0;
    if (PQresultStatus(r) == PGRES_PIPELINE_SYNC) { /* comes even after errors */
        PQclear(r);
        return end_pipeline(c, a);
    }
    if (x->in_tail) {
        keep_position(c, r);
    } else {
        x->n_good += keep_result(a, r);
    }
    return PG_PENDING;
}

static enum pg_fate step_reading(struct pg_conn *c, bool is_ready, short *events_out,
                                 struct pg_answer *a)
{
    enum pg_fate fate = PG_PENDING;

    while (fate == PG_PENDING) {
        while (PQisBusy(c->pg)) {
            if (!is_ready) {
                *events_out = POLLIN;
                return PG_PENDING;
            }
            if (PQconsumeInput(c->pg) == 0) {
                return say_lost(c->pg, a);
            }
            is_ready = false;
        }
        fate = take_result(c, PQgetResult(c->pg), a);
    }
    return fate;
}

enum pg_fate pg_conn_step(struct pg_conn *c, bool is_ready, short *events_out, struct pg_answer *a)
{
    enum pg_fate fate;

    if (c->exchange.stage == STAGE_CONNECTING) {
        return step_connecting(c, is_ready, events_out, a);
    }
    if (c->exchange.stage == STAGE_SENDING) {
        fate = step_sending(c, is_ready, events_out, a);
        if (fate != PG_FINE) {
            return fate;
        }
        is_ready = false;
    }
    return step_reading(c, is_ready, events_out, a);
}

enum pg_fate pg_conn_finish(struct pg_conn *c, int64_t until_ms, struct pg_answer *a)
{
    bool is_ready = false;
    enum pg_fate fate;
    short events;

    while ((fate = pg_conn_step(c, is_ready, &events, a)) == PG_PENDING) {
        fate = await(c, events, until_ms);
        if (fate != PG_FINE) {
            return fate == PG_LATE ? pg_conn_late(a) : say_lost(c->pg, a);
        }
        is_ready = true;
    }
    return fate;
}

static bool send_plain(struct pg_conn *c, const struct pg_query *q)
{
    c->exchange = (struct exchange){.stage = STAGE_SENDING};
    return q->index > 0
               ? PQsendQueryPrepared(c->pg, q->name, q->n_params, q->params, NULL, NULL, 0)
               : PQsendQueryParams(c->pg, q->sql, q->n_params, NULL, q->params, NULL, NULL, 0);
}

static bool send_command(PGconn *pg, const char *sql)
{
    return PQsendQueryParams(pg, sql, 0, NULL, NULL, NULL, NULL, 0);
}

static bool send_position(struct pg_conn *c)
{
    bool prepare = !is_prepared(c, 0);

    return PQpipelineSync(c->pg) &&
           (!prepare || PQsendPrepare(c->pg, position_name, position_sql, 0, NULL)) &&
           PQsendQueryPrepared(c->pg, position_name, 0, NULL, NULL, NULL, 0);
}

/* Opening, preparation, query and position on one trip. */
static bool send_pipeline(struct pg_conn *c, const struct pg_query *q, enum pg_opening opening,
                          bool with_position)
{
    bool prepare = q->index > 0 && !is_prepared(c, q->index);
    PGconn *pg = c->pg;
    bool sent = PQenterPipelineMode(pg);

    c->exchange = (struct exchange){.stage = STAGE_SENDING,
                                    .is_pipeline = true,
                                    .n_opening = (int)opening,
                                    .is_tail = with_position,
                                    .prepares = prepare ? q->index : 0};
    sent = sent && (opening == PG_OPENING_NONE || send_command(pg, "BEGIN"));
    sent = sent && (opening != PG_OPENING_GATE || send_command(pg, "SELECT shard_gate()"));
    sent = sent && (!prepare || PQsendPrepare(pg, q->name, q->sql, 0, NULL));
    sent =
        sent &&
        (q->index > 0 ? PQsendQueryPrepared(pg, q->name, q->n_params, q->params, NULL, NULL, 0)
                      : PQsendQueryParams(pg, q->sql, q->n_params, NULL, q->params, NULL, NULL, 0));
    return sent && (!with_position || send_position(c)) && PQpipelineSync(pg);
}

static void clear_answer(struct pg_answer *a)
{
    a->rows = NULL;
    a->sqlstate[0] = '\0';
    a->message[0] = '\0';
}

enum pg_fate pg_conn_send(struct pg_conn *c, const struct pg_query *q, enum pg_opening opening,
                          struct pg_answer *a)
{
    bool sent;

    clear_answer(a);
    sent = opening != PG_OPENING_NONE || (q->index > 0 && !is_prepared(c, q->index))
               ? send_pipeline(c, q, opening, false)
               : send_plain(c, q);
    return sent ? PG_PENDING : say_lost(c->pg, a);
}

enum pg_fate pg_conn_query(struct pg_conn *c, const struct pg_query *q, enum pg_opening opening,
                           int64_t until_ms, struct pg_answer *a)
{
    enum pg_fate fate = pg_conn_send(c, q, opening, a);

    return fate == PG_PENDING ? pg_conn_finish(c, until_ms, a) : fate;
}

enum pg_fate pg_conn_write(struct pg_conn *c, const struct pg_query *q, int64_t until_ms,
                           struct pg_answer *a, int64_t *lsn_out)
{
    enum pg_fate fate;

    clear_answer(a);
    c->lsn = 0;
    fate = send_pipeline(c, q, PG_OPENING_NONE, true) ? pg_conn_finish(c, until_ms, a)
                                                      : say_lost(c->pg, a);
    *lsn_out = c->lsn;
    return fate;
}

enum pg_fate pg_conn_command(struct pg_conn *c, const char *sql, int64_t until_ms,
                             struct pg_answer *a)
{
    *a = (struct pg_answer){.rows = NULL};
    c->exchange = (struct exchange){.stage = STAGE_SENDING};
    return PQsendQuery(c->pg, sql) ? pg_conn_finish(c, until_ms, a) : say_lost(c->pg, a);
}

int pg_conn_socket(const struct pg_conn *c)
{
    return PQsocket(c->pg);
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
