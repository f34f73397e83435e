/* Queries: lease, run, map rows. What a failure means depends on three things: did the server
 * answer, may the statement be run twice, and is it part of a transaction. fail() and its callers
 * are the one place that decides. */
#include "lib/pg.h"

#include <assert.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/pg_internal.h"

enum {
    ROLLBACK_MS = 1000, /* longer, and closing the connection is the better rollback */
    MOVES_MAX = 3,      /* that one query goes after */
    REPLICA_MS = 1000   /* longer, and the primary is asked */
};

enum err pg_err_of_sqlstate(const char *sqlstate)
{
    static const struct {
        const char *prefix;
        enum err e;
    } table[] = {
        {"23505", ERR_CONFLICT},               /* unique_violation */
        {"23P01", ERR_CONFLICT},               /* exclusion_violation */
        {"MB001", ERR_DEPENDENCY_UNAVAILABLE}, /* the shard has moved: try again, elsewhere */
        {"57014", ERR_TIMED_OUT},              /* query_canceled: statement_timeout */
        {"55P03", ERR_TIMED_OUT},              /* lock_not_available: lock_timeout */
        {"40", ERR_DEPENDENCY_UNAVAILABLE},    /* serialization failure, deadlock: try again */
        {"08", ERR_DEPENDENCY_UNAVAILABLE},    /* connection exceptions */
        {"53", ERR_DEPENDENCY_UNAVAILABLE},    /* connections, memory or disk used up */
        {"57P", ERR_DEPENDENCY_UNAVAILABLE},   /* shutting down, starting up */
        {"58", ERR_DEPENDENCY_UNAVAILABLE},    /* its disk fails */
        {"25006", ERR_DEPENDENCY_UNAVAILABLE}, /* read only: it has become a standby */
        {"25P03", ERR_DEPENDENCY_UNAVAILABLE}, /* idle in transaction for too long */
    };
    size_t i;

    for (i = 0; i < ARRAY_LEN(table); i++) {
        if (strncmp(sqlstate, table[i].prefix, strlen(table[i].prefix)) == 0) {
            return table[i].e;
        }
    }
    return ERR_INTERNAL;
}

bool pg_is_stale(const char *sqlstate)
{
    return strcmp(sqlstate, "0A000") == 0 || /* cached plan must not change result type */
           strcmp(sqlstate, "26000") == 0 || /* prepared statement does not exist */
           strcmp(sqlstate, "42P05") == 0 || /* or exists already */
           strcmp(sqlstate, "25006") == 0 || /* the server has become a standby */
           strncmp(sqlstate, "57P", 3) == 0; /* it is going down */
}

/* Did the server refuse the statement before it did anything, for a reason that a new connection
 * cures? */
static bool is_cured_by_reconnect(const char *sqlstate)
{
    return strcmp(sqlstate, "0A000") == 0 || strcmp(sqlstate, "26000") == 0 ||
           strcmp(sqlstate, "42P05") == 0;
}

/* Did the gate refuse it, because the shards are elsewhere now? Then nothing of it was done. */
static bool has_moved(enum pg_fate fate, const struct pg_answer *a)
{
    return fate == PG_REFUSED && strcmp(a->sqlstate, "MB001") == 0;
}

/* When to give up waiting for an answer. */
static int64_t answer_until_ms(const struct scope *sc, int64_t now_ms)
{
    int64_t until_ms = now_ms + config()->db_statement_timeout_ms + PG_ANSWER_GRACE_MS;

    return until_ms < sc->deadline_mono_ms ? until_ms : sc->deadline_mono_ms;
}

/* The error of a talk that did not end well. */
static enum err fail(struct scope *sc, const struct pg_lease *l, const char *name,
                     enum pg_fate fate, bool is_write, bool in_tx, const struct pg_answer *a)
{
    enum err e = fate == PG_LATE ? ERR_TIMED_OUT : ERR_DEPENDENCY_UNAVAILABLE;

    if (fate == PG_REFUSED) {
        e = pg_err_of_sqlstate(a->sqlstate);
    } else if (is_write && !in_tx) {
        e = ERR_WRITE_UNKNOWN;
    }
    return scope_fail(sc, e, "shard %d: %s: %s: %s%s%s", sc->shard, pg_pool_name(l->pool), name,
                      a->message, a->sqlstate[0] != '\0' ? " " : "", a->sqlstate);
}

static enum pg_opening opening_of(const struct pg_lease *l)
{
    if (l->tx != PG_TX_PENDING) {
        return PG_OPENING_NONE;
    }
    return l->map->databases[l->database].flags & PG_MAP_MOVING ? PG_OPENING_GATE
                                                                : PG_OPENING_BEGIN;
}

/* Run once on the lease's connection and take note of what that says about the connection. */
static enum pg_fate talk(struct scope *sc, struct pg_lease *l, const struct pg_query *q,
                         int64_t start_us, struct pg_answer *a)
{
    int64_t until_ms = answer_until_ms(sc, start_us / 1000), end_us, lsn = 0;
    bool is_noted = !q->read_only && l->tx == PG_TX_NONE && pg_lease_wants_position(l);
    enum pg_fate fate;

    if (l->row != NULL && until_ms > start_us / 1000 + REPLICA_MS) {
        until_ms = start_us / 1000 + REPLICA_MS;
    }
    fate = is_noted ? pg_conn_write(l->conn, q, until_ms, a, &lsn)
                    : pg_conn_query(l->conn, q, opening_of(l), until_ms, a);
    if (is_noted && fate != PG_REFUSED) {
        pg_lease_note(sc, l, lsn);
    }
    l->has_written = l->has_written || !q->read_only;
    end_us = clock_mono_us();
    sc->timing.db_us += end_us - start_us;
    sc->timing.db_count++;
    sc->timing.replica_count += l->row != NULL;
    if (l->tx == PG_TX_PENDING) {
        l->tx = PG_TX_OPEN;
    }
    if (fate == PG_LOST || fate == PG_LATE) {
        pg_lease_lost(l, fate, (end_us - start_us) / 1000);
        return fate;
    }
    pg_pool_heard(l->pool, l->conn, end_us / 1000);
    if (fate == PG_REFUSED && pg_is_stale(a->sqlstate)) {
        pg_lease_drop(l);
    }
    return fate;
}

/* Learn from the database that refused where its shards are, and take a lease there. */
static enum err go_after(struct scope *sc, const struct pg_query *q, struct pg_lease **lease)
{
    struct pg_lease *l = *lease;
    struct pg_pool *old = l->pool;
    bool has_begun = l->tx != PG_TX_NONE;
    int64_t now_ms = clock_mono_ms();
    enum pg_fate fate;

    pg_tx_abandon(l);
    if (l->conn != NULL) {
        fate = pg_follow_ask(l->conn, answer_until_ms(sc, now_ms));
        if (fate == PG_LOST || fate == PG_LATE) {
            pg_lease_lost(l, fate, clock_mono_ms() - now_ms);
        }
    }
    sc->shard = pg_shard_of(q->place);
    TRY(pg_lease_take(sc, q->place, false, clock_mono_ms(), lease));
    if ((*lease)->pool == old) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE,
                          "shard %d: %s: it has moved, and %s does not know where to", sc->shard,
                          q->name, pg_pool_name(old));
    }
    (*lease)->tx = has_begun ? PG_TX_PENDING : PG_TX_NONE;
    return OK;
}

/* Did a replica fail where the primary may well answer? That is also so where it was asked to
 * cancel a query whose rows the primary has cleaned up (40001). */
static bool is_for_the_primary(const struct pg_lease *l, enum pg_fate fate,
                               const struct pg_answer *a)
{
    return l->row != NULL &&
           (fate != PG_REFUSED || pg_err_of_sqlstate(a->sqlstate) == ERR_DEPENDENCY_UNAVAILABLE);
}

/* Did it fail in a way that running it once more can do no harm, and may help? */
static bool is_worth_another(enum pg_fate fate, const struct pg_query *q, bool in_tx, bool is_first,
                             const struct pg_answer *a)
{
    if (in_tx && !is_first) {
        return false;
    }
    return (fate == PG_LOST && (q->read_only || is_first)) ||
           (fate == PG_REFUSED && is_cured_by_reconnect(a->sqlstate));
}

/* Run the query on the lease; again on a new connection, or where its shard has moved to, if that
 * can do no harm. */
static enum err run_on(struct scope *sc, const struct pg_query *q, struct pg_lease *l,
                       int64_t start_us, struct pg_answer *a)
{
    bool in_tx = l->tx != PG_TX_NONE;
    bool is_first = l->tx == PG_TX_PENDING; /* of its transaction: without it nothing is done */
    int tries, n_moves = 0;
    enum pg_fate fate;

    for (tries = 0;; tries++, start_us = clock_mono_us()) {
        if (l->tx == PG_TX_BROKEN) {
            return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE,
                              "shard %d: %s: the transaction's connection was lost", sc->shard,
                              q->name);
        }
        fate = talk(sc, l, q, start_us, a);
        if (fate == PG_FINE) {
            return OK;
        }
        pg_answer_done(a);
        if (has_moved(fate, a) && in_tx && !is_first) {
            pg_follow_hint(l->pool);
        } else if (has_moved(fate, a) && n_moves++ < MOVES_MAX) {
            TRY(go_after(sc, q, &l));
            continue;
        }
        if (is_for_the_primary(l, fate, a)) {
            pg_lease_give(sc, l);
            TRY(pg_lease_take(sc, q->place, false, clock_mono_ms(), &l));
            n_moves++; /* its first try there */
            continue;
        }
        if (tries - n_moves > 0 || !is_worth_another(fate, q, in_tx, is_first, a)) {
            return fail(sc, l, q->name, fate, !q->read_only, in_tx, a);
        }
        TRY(pg_lease_reconnect(sc, l));
        l->tx = is_first ? PG_TX_PENDING : PG_TX_NONE;
    }
}

/* Run the query. On OK the caller ends *a. */
static enum err run(struct scope *sc, const struct pg_query *q, enum pg_kind kind,
                    struct pg_answer *a)
{
    int64_t start_us, waited_us = sc->timing.pool_wait_us;
    struct pg_lease *l;

    if (q->kind != kind) {
        return scope_fail(sc, ERR_INTERNAL, "%s is called as another kind", q->name);
    }
    start_us = clock_mono_us();
    if (start_us / 1000 >= sc->deadline_mono_ms) {
        return scope_fail(sc, ERR_TIMED_OUT, "%s: no time left to ask", q->name);
    }
    sc->shard = pg_shard_of(q->place);
    TRY(pg_lease_take(sc, q->place, q->read_only && sc->reads_replica, start_us / 1000, &l));
    if (sc->timing.pool_wait_us != waited_us) {
        start_us = clock_mono_us();
    }
    return run_on(sc, q, l, start_us, a);
}

enum err pg_one(struct scope *sc, struct pg_query q, const struct shape *shape, void *out)
{
    struct pg_answer a;
    enum err e;

    TRY(run(sc, &q, PG_ONE, &a));
    switch (pg_answer_rows(&a)) {
    case 0:
        e = ERR_NOT_FOUND;
        break;
    case 1:
        e = pg_rows_read(sc, &q, shape, &a, 1, out);
        break;
    default:
        e = scope_fail(sc, ERR_INTERNAL, "%s: more than one row", q.name);
    }
    pg_rows_keep(sc, &a);
    return e;
}

enum err pg_many(struct scope *sc, struct pg_query q, const struct shape *shape, void *items_out,
                 size_t *n_out)
{
    struct pg_answer a;
    void *items;
    enum err e;
    int n;

    *n_out = 0;
    TRY(run(sc, &q, PG_MANY, &a));
    n = pg_answer_rows(&a);
    items = arena_alloc(sc->arena, (size_t)n * shape->size);
    e = pg_rows_read(sc, &q, shape, &a, n, items);
    pg_rows_keep(sc, &a);
    if (e == OK) {
        *(void **)items_out = items;
        *n_out = (size_t)n;
    }
    return e;
}

enum err pg_exec(struct scope *sc, struct pg_query q, int64_t *n_out)
{
    struct pg_answer a;

    TRY(run(sc, &q, PG_EXEC, &a));
    if (n_out != NULL) {
        *n_out = pg_answer_affected(&a);
    }
    pg_answer_done(&a);
    return OK;
}

/* --- Transactions. --- */

enum err pg_begin(struct scope *sc, struct place place)
{
    struct pg_lease *l;

    sc->shard = pg_shard_of(place);
    TRY(pg_lease_take(sc, place, false, clock_mono_ms(), &l));
    assert(l->tx == PG_TX_NONE);
    l->tx = PG_TX_PENDING;
    l->has_written = false;
    return OK;
}

/* Whether COMMIT was done when the connection broke is not known. That a failed transaction
 * answers COMMIT with ROLLBACK is PostgreSQL's way. */
static enum err commit(struct scope *sc, struct pg_lease *l)
{
    static const struct pg_query q = {.name = "commit", .sql = "COMMIT", .kind = PG_EXEC};
    bool is_noted = l->has_written && pg_lease_wants_position(l);
    int64_t start_us = clock_mono_us(), until_ms = answer_until_ms(sc, start_us / 1000), lsn = 0;
    struct pg_answer a;
    enum pg_fate fate = is_noted ? pg_conn_write(l->conn, &q, until_ms, &a, &lsn)
                                 : pg_conn_command(l->conn, "COMMIT", until_ms, &a);
    enum err e = OK;

    if (is_noted && fate != PG_REFUSED) {
        pg_lease_note(sc, l, lsn);
    }

    sc->timing.db_us += clock_mono_us() - start_us;
    sc->timing.db_count++;
    if (fate != PG_FINE) {
        e = fail(sc, l, "COMMIT", fate, true, false, &a);
    } else if (strcmp(pg_answer_tag(&a), "COMMIT") != 0) {
        e = scope_fail(sc, ERR_INTERNAL, "shard %d: a failed transaction was committed", sc->shard);
    }
    pg_answer_done(&a);
    l->tx = PG_TX_NONE;
    if (fate == PG_LOST || fate == PG_LATE) {
        pg_lease_lost(l, fate, (clock_mono_us() - start_us) / 1000);
    }
    return e;
}

enum err pg_commit(struct scope *sc, struct place place)
{
    struct pg_lease *l = pg_lease_find(sc, place);
    enum pg_tx tx;

    assert(l != NULL && l->tx != PG_TX_NONE);
    sc->shard = pg_shard_of(place);
    tx = l->tx;
    if (tx == PG_TX_OPEN && scope_left_ms(sc, 1) == 0) {
        pg_tx_abandon(l);
        return scope_fail(sc, ERR_TIMED_OUT, "shard %d: no time left to commit", sc->shard);
    }
    if (tx == PG_TX_OPEN) {
        return commit(sc, l);
    }
    l->tx = PG_TX_NONE;
    return tx == PG_TX_PENDING
               ? OK
               : scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE,
                            "shard %d: the transaction's connection was lost", sc->shard);
}

void pg_tx_abandon(struct pg_lease *l)
{
    enum pg_tx tx = l->tx;
    struct pg_answer a;
    enum pg_fate fate;

    l->tx = PG_TX_NONE;
    if (tx != PG_TX_OPEN || l->conn == NULL) {
        return;
    }
    fate = pg_conn_command(l->conn, "ROLLBACK", clock_mono_ms() + ROLLBACK_MS, &a);
    pg_answer_done(&a);
    if (fate != PG_FINE) {
        pg_lease_lost(l, fate, ROLLBACK_MS);
    }
}

void pg_rollback(struct scope *sc, struct place place)
{
    struct pg_lease *l = pg_lease_find(sc, place);

    if (l != NULL) {
        pg_tx_abandon(l);
    }
}

/* --- Life. --- */

void pg_open(void)
{
    pg_pools_open();
    pg_follow_open();
    pg_servers_open();
}

void pg_close(void)
{
    pg_servers_close();
    pg_follow_stop();
    pg_pools_close(); /* the pools' thread reads the map */
    pg_follow_close();
}
