/* What the parts of pg share: connection strings (pg_conninfo.c), connections (pg_conn.c), pools
 * (pg_pool.c), leases (pg_lease.c), queries (pg.c), following the map (pg_follow.c). For those and
 * their tests only. */
#ifndef LIB_PG_INTERNAL_H
#define LIB_PG_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/pg.h"
#include "lib/pg_map.h"
#include "lib/pg_server.h"

/* --- Connection strings, as libpq reads them. --- */

/* Where a connection string leads, without who goes there: "host=… port=… dbname=…", the same text
 * for the same place. False: it is no connection string. */
MUST_USE bool pg_conninfo_location(struct arena *a, const char *url, const char **location_out);

/* Does it say nothing but where? */
bool pg_conninfo_is_location(const char *text);

/* The connection string that leads to the location as url leads to its own: same user, password and
 * options. NULL where one of them is no connection string. */
const char *pg_conninfo_at(struct arena *a, const char *url, const char *location);

/* The same, but taking only the database's name from the location: url's server stays. */
const char *pg_conninfo_of_server(struct arena *a, const char *url, const char *location);

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

enum {
    SQLSTATE_SIZE = 6,
    PG_MESSAGE_SIZE = 200,
    PG_ANSWER_GRACE_MS = 500 /* a statement that its timeout has ended is told to us within this */
};

/* What the server said. Rows are read with pg_answer_…; pg_answer_done() frees them. */
struct pg_answer {
    void *rows;
    char sqlstate[SQLSTATE_SIZE];
    char message[PG_MESSAGE_SIZE]; /* primary message only: details hold values */
};

struct pg_conn_options {
    const char *url;
    int64_t statement_timeout_ms;
    bool standby_too; /* else a standby is refused */
};

/* What travels in front of a query, in the same round trip; the value counts its statements. */
enum pg_opening {
    PG_OPENING_NONE = 0,
    PG_OPENING_BEGIN = 1,
    PG_OPENING_GATE = 2 /* BEGIN, then the gate of a database that is being moved */
};

/* Begin to connect (name look-ups by DNS block): PG_PENDING and the caller owns *conn_out, or
 * PG_LOST and NULL. Then pg_conn_finish() or pg_conn_step(): PG_FINE, PG_LOST (nobody there),
 * PG_LATE or PG_REFUSED (the server is there but will not have us: no slots, starting up, wrong
 * password, a standby); unless fine, only close it. */
enum pg_fate pg_conn_start(const struct pg_conn_options *options, struct pg_conn **conn_out,
                           struct pg_answer *why);

/* Send a query as pg_conn_query() does; PG_PENDING, or PG_LOST. */
enum pg_fate pg_conn_send(struct pg_conn *c, const struct pg_query *q, enum pg_opening opening,
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

/* Run a query, prepared at its first use on this connection, behind its opening. After PG_LOST or
 * PG_LATE only close it. */
enum pg_fate pg_conn_query(struct pg_conn *c, const struct pg_query *q, enum pg_opening opening,
                           int64_t until_ms, struct pg_answer *a);

/* Run a query that ends a transaction (its own, or by COMMIT) and learn the position in the log
 * behind it, all in one round trip; 0 where it could not be learnt. */
enum pg_fate pg_conn_write(struct pg_conn *c, const struct pg_query *q, int64_t until_ms,
                           struct pg_answer *a, int64_t *lsn_out);

/* Run a command without arguments ("COMMIT"). */
enum pg_fate pg_conn_command(struct pg_conn *c, const char *sql, int64_t until_ms,
                             struct pg_answer *a);

/* False: the server has closed it or has said something unasked, which on an idle connection is
 * good-bye. One system call, never waits. */
bool pg_conn_is_quiet(const struct pg_conn *c);

/* Is it in a transaction, failed ones included? */
bool pg_conn_in_transaction(const struct pg_conn *c);

/* Did its server say last that it is a standby? */
bool pg_conn_is_standby(const struct pg_conn *c);

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

/* --- Pools: one per database on a server, for as long as the process lives. --- */

struct pg_pool;

/* The pool of the database at that location (pg_conninfo_location()), made now where it is new;
 * later calls need no url. url NULL: there is no address, and every use fails. Keeps copies. May
 * wait for the instance's memory when it makes one. */
struct pg_pool *pg_pool_of(const char *location, const char *url);

/* A map of that epoch names the pool; idle connections of one that the newest map does not name are
 * closed soon. */
void pg_pool_want(struct pg_pool *p, int64_t epoch);

/* Who plays which part for the database (pg_server.h); NULL: the pool is its own primary, and there
 * are no replicas. */
const struct pg_cast *pg_pool_cast(const struct pg_pool *p);
void pg_pool_set_cast(struct pg_pool *p, const struct pg_cast *cast);

/* For people: "host:port/dbname". */
const char *pg_pool_name(const struct pg_pool *p);
const char *pg_pool_location(const struct pg_pool *p);

/* The right to use a connection. */
struct pg_pass {
    int permit;
    int64_t probe; /* number of the breaker's, 0: none; it is over as the pass ends */
};

/* Get one: ERR_DEPENDENCY_UNAVAILABLE at once while the breaker is open, ERR_POOL_SATURATED after
 * wait_us. Whoever holds a connection already may take the last ones. */
MUST_USE enum err pg_pool_enter(struct scope *sc, struct pg_pool *p, bool holds_one, int64_t now_ms,
                                int64_t wait_us, struct pg_pass *pass_out);
void pg_pool_leave(struct pg_pool *p, const struct pg_pass *pass);

/* A connection, idle and fit or new; not a standby's unless standby_too. */
MUST_USE enum err pg_pool_get(struct scope *sc, struct pg_pool *p, bool standby_too, int64_t probe,
                              int64_t now_ms, struct pg_conn **conn_out);

/* A new connection in place of one that was lost; the pass may become the breaker's probe. */
MUST_USE enum err pg_pool_reconnect(struct scope *sc, struct pg_pool *p, bool standby_too,
                                    struct pg_pass *pass, struct pg_conn **conn_out);

/* An idle connection that needs no question before it is trusted, NULL: there is none. Else begin
 * a new one, step it (pg_conn.c), and tell how it went: never waits. */
struct pg_conn *pg_pool_pop_trusted(struct pg_pool *p, bool standby_too, int64_t now_ms);
MUST_USE enum err pg_pool_start(struct scope *sc, struct pg_pool *p, bool standby_too,
                                struct pg_pass *pass, struct pg_conn **conn_out);
MUST_USE enum err pg_pool_connected(struct scope *sc, struct pg_pool *p, int64_t probe,
                                    struct pg_conn **conn, enum pg_fate fate, int64_t waited_ms,
                                    const char *why);

/* n new idle ones, fewer where one cannot be had. */
void pg_pool_warm(struct scope *sc, struct pg_pool *p, bool standby_too, int n);

/* Back to the idle ones, or closed where it is in no state for that. */
void pg_pool_put(struct pg_pool *p, struct pg_conn *c);
void pg_pool_discard(struct pg_pool *p, struct pg_conn *c);

/* The connection's server answered at that time. */
void pg_pool_heard(struct pg_pool *p, struct pg_conn *c, int64_t now_ms);

/* A connection was lost (PG_LOST) or gave no answer for waited_ms (PG_LATE): distrust all idle ones
 * that were used before. */
void pg_pool_trouble(struct pg_pool *p, int64_t probe, enum pg_fate fate, int64_t waited_ms);

/* Run a query beside the leases, so that a saturated pool is not taken for a dead database. What
 * the server refuses is OK here too, and told by a->sqlstate; the caller ends *a on OK. */
MUST_USE enum err pg_pool_ask(struct scope *sc, struct pg_pool *p, bool standby_too,
                              const struct pg_query *q, struct pg_answer *a);

/* Is there an idle connection? Close them all; does the breaker hold back, or is there no
 * address? */
bool pg_pool_has_idle(struct pg_pool *p);
void pg_pool_close_idle(struct pg_pool *p);
bool pg_pool_is_left_alone(const struct pg_pool *p);

/* Start and end the thread that closes idle connections; the end closes all. */
void pg_pools_open(void);
void pg_pools_close(void);

/* --- Leases. --- */

enum pg_tx {
    PG_TX_NONE,
    PG_TX_PENDING, /* begun, but BEGIN waits for the first query */
    PG_TX_OPEN,
    PG_TX_BROKEN /* its connection was lost; nothing of it was done */
};

/* A scope's right to a connection of a database; conn is NULL while it is broken. In the scope's
 * arena. */
struct pg_lease {
    struct pg_lease *next;
    const struct pg_map *map;        /* by which the database was found */
    int database;                    /* in that map */
    struct pg_pool *pool;            /* of its primary, or of a replica */
    const struct pg_server_row *row; /* the replica's; NULL: the primary */
    bool has_written;                /* in its transaction */
    struct pg_pass pass;
    enum pg_tx tx;
    struct pg_conn *conn;
};

/* The scope's lease of the place's database with a usable connection, as pg.h describes. Waits at
 * most pool_wait_ms for the lease and db_connection_timeout for the connection. A lease that is in
 * no transaction follows the map. on_replica: a replica will do, if one may serve the scope now. */
MUST_USE enum err pg_lease_take(struct scope *sc, struct place place, bool on_replica,
                                int64_t now_ms, struct pg_lease **lease_out);

/* The scope's lease of the place's database, NULL if it has none. */
struct pg_lease *pg_lease_find(const struct scope *sc, struct place place);

/* The lease's connection was lost (PG_LOST) or gave no answer for waited_ms (PG_LATE). */
void pg_lease_lost(struct pg_lease *lease, enum pg_fate fate, int64_t waited_ms);

/* Drop the lease's connection for a reason of its own (stale plans). */
void pg_lease_drop(struct pg_lease *lease);

/* A new connection for a lease that has lost its own. */
MUST_USE enum err pg_lease_reconnect(struct scope *sc, struct pg_lease *lease);

/* Does a write there have to note its position in the log? Note it; 0: it could not be learnt. */
bool pg_lease_wants_position(const struct pg_lease *lease);
void pg_lease_note(struct scope *sc, const struct pg_lease *lease, int64_t lsn);

/* What the scope has seen of the database's log, NULL: nothing. */
const struct pg_mark *pg_mark_of(const struct scope *sc, const struct pg_pool *home);

/* Give one lease back; what is open is rolled back. */
void pg_lease_give(struct scope *sc, struct pg_lease *lease);

/* For one of several queries asked at once: a lease of the database that never waits for its
 * connection (for the lease itself until lease_until_us, clock_mono_us()), taken as new work.
 * is_connecting: step the lease's connection, then tell pg_lease_connected(). */
MUST_USE enum err pg_lease_start(struct scope *sc, const struct pg_map *map, int database,
                                 int64_t lease_until_us, struct pg_lease **lease_out,
                                 bool *is_connecting_out);

/* The same for a lease that has lost its connection. */
MUST_USE enum err pg_lease_restart(struct scope *sc, struct pg_lease *lease);

/* Such a connection stands (PG_FINE), or why it does not: then it is closed. */
MUST_USE enum err pg_lease_connected(struct scope *sc, struct pg_lease *lease, enum pg_fate fate,
                                     int64_t waited_ms, const char *why);

/* Roll back what is open, waiting a bounded time; a connection that does not answer is dropped. */
void pg_tx_abandon(struct pg_lease *lease);

/* --- Following the map. --- */

/* Publish the configuration's map, then the newest that any of its databases holds; after that a
 * thread follows. Waits a bounded time for databases that do not answer. */
void pg_follow_open(void);

/* End the thread; then, when nobody asks for the map any more, forget all maps. */
void pg_follow_stop(void);
void pg_follow_close(void);

/* Ask that connection's database for a newer map than this process has, and publish it. */
enum pg_fate pg_follow_ask(struct pg_conn *c, int64_t until_ms);

/* Somebody has seen a map of that epoch: look for it, at the place's database first. */
void pg_follow_catch_up(struct scope *sc, struct place place, int64_t epoch);

/* Have the thread ask that database soon. */
void pg_follow_hint(struct pg_pool *p);

/* --- Pure functions of queries, for tests. --- */

/* The error for a SQLSTATE (five characters). */
enum err pg_err_of_sqlstate(const char *sqlstate);

/* Is a connection whose server says this of no use any more? */
bool pg_is_stale(const char *sqlstate);

/* Most connections that new work may use: the threshold's share of the pool, rounded up. */
int pg_lease_limit(int64_t pool_size, int64_t max_connections, int64_t threshold_percent,
                   bool holds_one);

#endif
