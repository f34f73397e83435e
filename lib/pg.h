/* PostgreSQL: pooled connections per database, prepared statements, rows into shapes. The only
 * module that knows libpq.
 *
 * Each query names its place (the owner's hash); place modulo SHARD_COUNT is its shard, and the map
 * (pg_map.h) says in which database that is. A connection is leased at the first query of a
 * scope and kept until pg_release() or the end of the scope; a second query of the same database
 * uses the same connection. A query that meets shards that have just moved goes after them.
 * Leases count over all processes of the instance (shared memory), so that DB_POOL_SIZE is the
 * instance's. Every call may block, at most until the scope's deadline. */
#ifndef LIB_PG_H
#define LIB_PG_H

#include <stddef.h>
#include <stdint.h>

#include "lib/breaker.h"
#include "lib/id.h"
#include "lib/scope.h"
#include "lib/shape.h"

enum { PG_PARAMS_MAX = 24, PG_QUERY_INDEX_MAX = 511 };

/* What a query gives; calling it by another function is our bug (ERR_INTERNAL). */
enum pg_kind { PG_ONE, PG_MANY, PG_EXEC };

/* A query with its arguments. Made only by the generated q_… functions (build/gen/queries.h),
 * which type-check them. */
struct pg_query {
    const char *name; /* statement name, unique in the program */
    const char *sql;
    int index; /* 1 … PG_QUERY_INDEX_MAX, unique in the program; 0: not to be prepared */
    enum pg_kind kind;
    bool read_only; /* may be run twice */
    struct place place;
    int n_params;
    const char *params[PG_PARAMS_MAX]; /* text form in the scope's arena; NULL is SQL NULL */
};

/* Start the pools of this process; needs config and the instance's shared memory. */
void pg_open(void);

/* Open ahead what falls to one of these processes of the connections that the instance may have in
 * use at once, so that its first requests do not wait for them. Blocks a second at most; what
 * cannot be had is done without. */
void pg_warm(int processes);

/* Close all idle connections. */
void pg_close(void);

/* Exactly one row into *out; columns that the shape does not name are left out, fields without a
 * column are absent. ERR_NOT_FOUND for none. Others: ERR_POOL_SATURATED,
 * ERR_DEPENDENCY_UNAVAILABLE (nothing was done), ERR_WRITE_UNKNOWN (connection lost during a
 * write outside a transaction, or at commit), ERR_CONFLICT (unique violation), ERR_TIMED_OUT,
 * ERR_INTERNAL. */
MUST_USE enum err pg_one(struct scope *sc, struct pg_query q, const struct shape *shape, void *out);

/* All rows: an array of structs in the arena. */
MUST_USE enum err pg_many(struct scope *sc, struct pg_query q, const struct shape *shape,
                          void *items_out, size_t *n_out);

/* No rows wanted; n_out (may be NULL) gets the number of rows changed. */
MUST_USE enum err pg_exec(struct scope *sc, struct pg_query q, int64_t *n_out);

/* Begin a transaction on the place's database; every query of the scope on that is part of it
 * until pg_commit() or pg_rollback(). Beginning twice is our bug (assertion). */
MUST_USE enum err pg_begin(struct scope *sc, struct place place);

/* Commit. ERR_WRITE_UNKNOWN where the connection was lost in between. */
MUST_USE enum err pg_commit(struct scope *sc, struct place place);

/* Roll back; never fails (a broken connection is dropped, which rolls back too). */
void pg_rollback(struct scope *sc, struct place place);

/* For a read that has no mark and must not be of the old place, since it refuses somebody where it
 * finds nothing (a log-in) or fills a cache: follow the newest map first. Asks the place's database
 * where its shards are being moved, which every process knows before they are; costs nothing
 * otherwise. */
void pg_keep_up(struct scope *sc, struct place place);

/* Reading one's own writes. Where there are replicas, or shards have just moved, a scope's writes
 * note the position in the log behind them. pg_written(): what the scope has written in the
 * place's database, false: nothing (that needs noting). pg_see(): the scope's reads of the place's
 * database are to be no older than that; may ask for a newer map. */
bool pg_written(const struct scope *sc, struct place place, struct pg_mark *mark_out);
void pg_see(struct scope *sc, struct place place, struct pg_mark mark);

/* Does the place's database have replicas that reads may go to? */
bool pg_has_replicas(struct place place);

/* Give back all connections of the scope; an open transaction is rolled back. */
void pg_release(struct scope *sc);

/* Number of logical shards, and the one of a place, by the newest map (pg_map.h). */
int pg_shard_count(void);
int pg_shard_of(struct place place);

/* A place on shard n < pg_shard_count(). */
struct place pg_place_on_shard(int shard);

/* Number of databases that hold shards, and a place on database n: what works on all rows visits
 * each database once. Both by the newest map, which may change in between: then a walk misses
 * rows or sees them twice, and a later walk mends it (who cannot wait takes pg_map_now()). */
int pg_database_count(void);
struct place pg_place_on_database(int database);

/* Is the database n < pg_database_count() reachable? One trivial query outside the pool's limit;
 * latency_ms_out as measured. */
MUST_USE enum err pg_ping(struct scope *sc, int database, int64_t *latency_ms_out);

/* What the processes of the instance have seen of a database, for metrics. */
enum pg_counter {
    PG_CONNECTS,
    PG_CONNECT_FAILURES,
    PG_LOSSES,     /* connections lost or given up in use */
    PG_WAITS,      /* leases that had to wait */
    PG_SATURATED,  /* and in vain */
    PG_BROKEN_OFF, /* refused by the open breaker */
    PG_COUNTERS
};

struct pg_pool_view {
    const char *name; /* "host:port/dbname" */
    int leases, open; /* connections in use, open ones */
    enum breaker_state breaker;
    int64_t counters[PG_COUNTERS];
};

/* The pools of this process, shared with its instance: how many, and pool i. Never blocks. */
int pg_pools(void);
void pg_pool_view(int i, struct pg_pool_view *out);

#endif
