/* Servers: which of them is a database's primary, and how far its replicas are.
 *
 * One process of the instance asks all servers every SAMPLE_MS and writes what it hears on the
 * instance's board; all processes read it there. What belongs together is found by the system
 * identifier, live: of the servers that have one identifier the primary is the one that is not in
 * recovery and has the highest timeline. For pg's own parts only. */
#ifndef LIB_PG_SERVER_H
#define LIB_PG_SERVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct pg_pool;

enum pg_role { PG_ROLE_UNKNOWN, PG_ROLE_PRIMARY, PG_ROLE_STANDBY };

/* A server on the board. Times are clock_mono_ms(), positions bytes of the log. */
struct pg_server_row {
    _Atomic uint64_t key; /* hash of its address; 0: free */
    _Atomic int64_t system_id;
    _Atomic int64_t timeline; /* of a primary */
    _Atomic int64_t lsn;      /* of a standby: replayed */
    _Atomic int64_t fresh_ms; /* of a standby: it has all that the primary had written by then */
    _Atomic int role;         /* as last heard */
};

struct pg_replica {
    struct pg_pool *pool;
    const struct pg_server_row *row;
};

/* Who plays which part for a database. Never changes once it is published, and is never freed. */
struct pg_cast {
    struct pg_pool *primary;
    int64_t system_id; /* 0: not known yet */
    struct pg_cast *older;
    int n;
    struct pg_replica replicas[];
};

/* An insert position as what has been replayed is told: at a page's beginning the former counts the
 * page's header (24 or 40 bytes, where no record can end) and the latter does not. For the usual
 * pages of 8 KiB. */
static inline int64_t pg_position(int64_t insert_lsn)
{
    return insert_lsn % 8192 <= 40 ? insert_lsn - insert_lsn % 8192 : insert_lsn;
}

/* Begin to watch servers, if DATABASE_REPLICA_n_URL names any; needs a map. Waits up to 300 ms for
 * the first look. End it. */
void pg_servers_open(void);
void pg_servers_close(void);

/* May the replica serve a read now, of somebody who has seen the log up to that position? */
bool pg_replica_may_serve(const struct pg_server_row *row, int64_t now_ms, int64_t system_id,
                          int64_t lsn);

#endif
