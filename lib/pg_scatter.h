/* One question to all databases at once, and one page of the answers.
 *
 * The databases are asked side by side from the calling thread, over connections of the pools,
 * each with its own time limit; one that is down, full or silent costs its rows and no more than
 * that time. What came is merged by key, and the caller learns how many shards are missing. */
#ifndef LIB_PG_SCATTER_H
#define LIB_PG_SCATTER_H

#include <stddef.h>

#include "lib/pg.h"

struct pg_page {
    void *items; /* array of the shape's structs, in the arena */
    size_t n;
    int n_shards;        /* asked */
    int n_shards_failed; /* of them: no answer */
};

/* The first max rows of all shards. q is read-only, its place is not looked at; each database
 * gives rows in ascending order of its first column, a uuid, and needs to give no more than max.
 *
 * Waits at most DB_SCATTER_TIMEOUT_MS (and POOL_WAIT_MS for leases), never past the scope's
 * deadline. OK with n_shards_failed > 0 is an honest part of the answer, and the log has the
 * causes; where no database answered, the error of one of them. The scope must not be in a
 * transaction; its leases are the caller's to give back. */
MUST_USE enum err pg_scatter_page(struct scope *sc, struct pg_query q, const struct shape *shape,
                                  size_t max, struct pg_page *page_out);

#endif
