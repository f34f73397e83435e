/* What the parts of pg share: connections (pg_conn.c), pools and leases (pg_pool.c), queries
 * (pg.c). For those and their tests only. */
#ifndef LIB_PG_INTERNAL_H
#define LIB_PG_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/pg.h"

/* --- Connections: the only code that sees libpq. --- */

struct pg_conn;

/* How a talk with the server ended. */
enum pg_fate {
    PG_PENDING, /* not yet: by pg_conn_start(), _send() and _step() only */
    PG_FINE,
    PG_REFUSED, /* the server answered with an error: sqlstate, message */
    PG_LOST,    /* the connection broke: the server may or may not have done it */
    PG_LATE     /* no answer in time; likewise */
};

enum { SQLSTATE_SIZE = 6, PG_MESSAGE_SIZE = 200 };

/* What the server said. Rows are read with pg_answer_…; pg_answer_done() frees them. */
struct pg_answer {
    void *rows;
    char sqlstate[SQLSTATE_SIZE];
    char message[PG_MESSAGE_SIZE]; /* primary message only: details hold values */
};

struct pg_conn_options {
    const char *url;
    int64_t statement_timeout_ms;
};

/* Begin to connect (name look-ups by DNS block): PG_PENDING and the caller owns *conn_out, or
 * PG_LOST and NULL. Then pg_conn_finish() or pg_conn_step(): PG_FINE, PG_LOST (nobody there),
 * PG_LATE or PG_REFUSED (the server is there but will not have us: no slots, starting up, wrong
 * password, a standby); unless fine, only close it. */
enum pg_fate pg_conn_start(const struct pg_conn_options *options, struct pg_conn **conn_out,
                           struct pg_answer *why);

/* Send a query as pg_conn_query() does; PG_PENDING, or PG_LOST. */
enum pg_fate pg_conn_send(struct pg_conn *c, const struct pg_query *q, bool begin,
                          struct pg_answer *a);

/* Go on with either as far as it goes; never waits. PG_PENDING: wait for *events_out (poll's) on
 * pg_conn_socket(), which may be another one after each step, and step again with is_ready; the
 * first step comes at once, without. */
enum pg_fate pg_conn_step(struct pg_conn *c, bool is_ready, short *events_out, struct pg_answer *a);
int pg_conn_socket(const struct pg_conn *c);

/* Step and wait until it is over, or until then. */
enum pg_fate pg_conn_finish(struct pg_conn *c, int64_t until_ms, struct pg_answer *a);

/* For who waits himself: PG_LATE, with its message. */
enum pg_fate pg_conn_late(struct pg_answer *a);

/* Close and clear *conn; NULL inside is fine. Never waits. */
void pg_conn_close(struct pg_conn **conn);

/* Run a query, prepared at its first use on this connection, behind a BEGIN where begin is set;
 * all in one round trip. After PG_LOST or PG_LATE only close it. */
enum pg_fate pg_conn_query(struct pg_conn *c, const struct pg_query *q, bool begin,
                           int64_t until_ms, struct pg_answer *a);

/* Run a command without arguments ("COMMIT"). */
enum pg_fate pg_conn_command(struct pg_conn *c, const char *sql, int64_t until_ms,
                             struct pg_answer *a);

/* False: the server has closed it or has said something unasked, which on an idle connection is
 * good-bye. One system call, never waits. */
bool pg_conn_is_quiet(const struct pg_conn *c);

/* Is it in a transaction, failed ones included? */
bool pg_conn_in_transaction(const struct pg_conn *c);

/* The statement timeout that it was opened with. */
int64_t pg_conn_statement_timeout_ms(const struct pg_conn *c);

/* A link for its pool's list and the time of its last use; the pool's to write. */
struct pg_conn_link {
    struct pg_conn *next;
    int64_t used_ms;
    int permit; /* of the open connections */
};
struct pg_conn_link *pg_conn_link(struct pg_conn *c);

/* Rows and columns of an answer. */
int pg_answer_rows(const struct pg_answer *a);
int pg_answer_columns(const struct pg_answer *a);
const char *pg_answer_column(const struct pg_answer *a, int column);

/* Text of a value and its length; NULL is SQL NULL. Lives until pg_answer_done(). */
const char *pg_answer_value(const struct pg_answer *a, int row, int column, size_t *len_out);

/* Rows changed, or returned. */
int64_t pg_answer_affected(const struct pg_answer *a);

/* The command that the server says it has run ("COMMIT", "ROLLBACK", "UPDATE 1"). */
const char *pg_answer_tag(const struct pg_answer *a);

/* Free the rows. */
void pg_answer_done(struct pg_answer *a);

/* The same for the rows alone, as an arena's clean-up. */
void pg_answer_free_rows(void *rows);

/* --- Rows. --- */

/* The first n rows into an array of the shape's structs. Texts stay in the answer. ERR_INTERNAL
 * where a column is not in the shape or a value does not parse. */
MUST_USE enum err pg_rows_read(struct scope *sc, const struct pg_query *q,
                               const struct shape *shape, const struct pg_answer *a, int n,
                               void *items);

/* Row number row into one struct. */
MUST_USE enum err pg_row_read(struct scope *sc, const struct pg_query *q, const struct shape *shape,
                              const struct pg_answer *a, int row, void *item);

/* Let the arena end the answer, since structs point into it. */
void pg_rows_keep(struct scope *sc, struct pg_answer *a);

/* --- Pools and leases. --- */

enum pg_tx {
    PG_TX_NONE,
    PG_TX_PENDING, /* begun, but BEGIN waits for the first query */
    PG_TX_OPEN,
    PG_TX_BROKEN /* its connection was lost; nothing of it was done */
};

/* A scope's right to a connection of a shard; conn is NULL while it is broken. In the scope's
 * arena. */
struct pg_lease {
    struct pg_lease *next;
    int shard;
    int permit;
    enum pg_tx tx;
    struct pg_conn *conn;
};

/* The scope's lease of the shard with a usable connection, as pg.h describes; waits at most
 * pool_wait_ms for the lease and db_connection_timeout for the connection. */
MUST_USE enum err pg_pool_lease(struct scope *sc, int shard, int64_t now_ms,
                                struct pg_lease **lease_out);

/* The scope's lease of the shard, NULL if it has none. */
struct pg_lease *pg_pool_find(const struct scope *sc, int shard);

/* The server of the lease's connection answered at that time. */
void pg_pool_heard(const struct pg_lease *lease, int64_t now_ms);

/* The lease's connection was lost (PG_LOST) or gave no answer for waited_ms (PG_LATE): drop it,
 * and distrust all idle ones of its pool. */
void pg_pool_lost(struct pg_lease *lease, enum pg_fate fate, int64_t waited_ms);

/* Drop the lease's connection for a reason of its own (stale plans). */
void pg_pool_drop(struct pg_lease *lease);

/* For one of several queries asked at once: a lease of the shard that never waits for its
 * connection (for the lease itself until lease_until_us, clock_mono_us()). is_connecting: step the
 * lease's connection, then tell pg_pool_connected(). */
MUST_USE enum err pg_pool_start(struct scope *sc, int shard, int64_t lease_until_us,
                                struct pg_lease **lease_out, bool *is_connecting_out);

/* The same for a lease that has lost its connection. */
MUST_USE enum err pg_pool_restart(struct scope *sc, struct pg_lease *lease);

/* Such a connection stands (PG_FINE), or why it does not: then it is closed. */
MUST_USE enum err pg_pool_connected(struct scope *sc, struct pg_lease *lease, enum pg_fate fate,
                                    int64_t waited_ms, const char *why);

/* Open a new connection for a lease that has lost its own. */
MUST_USE enum err pg_pool_reconnect(struct scope *sc, struct pg_lease *lease);

/* Roll back what is open, waiting a bounded time; a connection that does not answer is dropped. */
void pg_tx_abandon(struct pg_lease *lease);

/* --- Pure functions of queries, for tests. --- */

/* The error for a SQLSTATE (five characters). */
enum err pg_err_of_sqlstate(const char *sqlstate);

/* Is a connection whose server says this of no use any more? */
bool pg_is_stale(const char *sqlstate);

/* Most connections that new work may use: the threshold's share of the pool, rounded up. */
int pg_lease_limit(int64_t pool_size, int64_t max_connections, int64_t threshold_percent,
                   bool holds_one);

#endif
