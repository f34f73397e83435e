/* Leases: a scope's right to one connection of a database. The map says which database that is;
 * a lease that is in a transaction keeps to the map it was taken by, any other follows. */
#include <assert.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/pg_internal.h"

enum { WARM_MS = 1000, WARM_ARENA_BYTES = 65536 };

static bool is_of(const struct pg_lease *l, struct place place)
{
    return pg_map_database_of(l->map, place) == l->database;
}

struct pg_lease *pg_lease_find(const struct scope *sc, struct place place)
{
    struct pg_lease *l = sc->leases;

    while (l != NULL && !is_of(l, place)) {
        l = l->next;
    }
    return l;
}

/* Where writes to the database go. */
static struct pg_pool *primary_of(struct pg_pool *home)
{
    const struct pg_cast *cast = pg_pool_cast(home);

    return cast == NULL ? home : cast->primary;
}

/* May the replica serve this scope, which has seen what its mark and its own writes say? What it
 * has not seen is bounded by the replica's lag alone. */
static bool may_serve(const struct scope *sc, const struct pg_server_row *row, struct pg_pool *home,
                      int64_t now_ms)
{
    const struct pg_mark *m = pg_mark_of(sc, home);

    return m == NULL ? pg_replica_may_serve(row, now_ms, 0, 0)
                     : m->system_id != 0 && pg_replica_may_serve(row, now_ms, m->system_id, m->lsn);
}

/* A lease that nothing hangs on follows the map, the cast, and what is asked for. NULL: it had to
 * be given back. */
static struct pg_lease *keep_up(struct scope *sc, struct pg_lease *l, struct place place,
                                bool on_replica, int64_t now_ms)
{
    const struct pg_map *map = pg_map_now();
    int database = pg_map_database_of(map, place);
    struct pg_pool *home = map->databases[database].pool;

    if (l->tx != PG_TX_NONE) {
        return l;
    }
    if (l->row != NULL ? !on_replica || home != l->map->databases[l->database].pool ||
                             !may_serve(sc, l->row, home, now_ms)
                       : primary_of(home) != l->pool) {
        pg_lease_give(sc, l);
        return NULL;
    }
    l->map = map;
    l->database = database;
    return l;
}

static struct pg_lease *add(struct scope *sc, const struct pg_map *map, int database,
                            struct pg_pool *pool, const struct pg_pass *pass, struct pg_conn *conn)
{
    struct pg_lease *l = arena_new(sc->arena, struct pg_lease);

    *l = (struct pg_lease){.next = sc->leases,
                           .map = map,
                           .database = database,
                           .pool = pool,
                           .pass = *pass,
                           .conn = conn};
    sc->leases = l;
    return l;
}

static enum err take_at(struct scope *sc, const struct pg_map *map, int database,
                        const struct pg_replica *replica, int64_t now_ms,
                        struct pg_lease **lease_out)
{
    struct pg_pool *pool =
        replica != NULL ? replica->pool : primary_of(map->databases[database].pool);
    int64_t wait_us = replica != NULL ? 0 : scope_left_ms(sc, config()->pool_wait_ms) * 1000;
    struct pg_conn *c = NULL;
    struct pg_pass pass;
    enum err e;

    TRY(pg_pool_enter(sc, pool, sc->leases != NULL, now_ms, wait_us, &pass));
    e = pg_pool_get(sc, pool, replica != NULL, pass.probe, now_ms, &c);
    if (e != OK) {
        pg_pool_leave(pool, &pass);
        return e;
    }
    *lease_out = add(sc, map, database, pool, &pass, c);
    (*lease_out)->row = replica != NULL ? replica->row : NULL;
    return OK;
}

/* The next replica in turn that may serve; *tries counts those looked at. NULL: no more. */
static const struct pg_replica *next_replica(const struct scope *sc, struct pg_pool *home,
                                             int64_t now_ms, int *tries)
{
    static _Thread_local unsigned turn;
    const struct pg_cast *cast = pg_pool_cast(home);

    while (cast != NULL && (*tries)++ < cast->n) {
        const struct pg_replica *r = &cast->replicas[turn++ % (unsigned)cast->n];

        if (may_serve(sc, r->row, home, now_ms)) {
            return r;
        }
    }
    return NULL;
}

/* On a replica that may serve and has room. */
static bool take_replica(struct scope *sc, const struct pg_map *map, int database, int64_t now_ms,
                         struct pg_lease **lease_out)
{
    struct pg_pool *home = map->databases[database].pool;
    const struct pg_replica *r;
    int tries = 0;

    while ((r = next_replica(sc, home, now_ms, &tries)) != NULL) {
        if (take_at(sc, map, database, r, now_ms, lease_out) == OK) {
            return true;
        }
        sc->cause = NULL; /* there are others */
        now_ms = clock_mono_ms();
    }
    return false;
}

enum err pg_lease_take(struct scope *sc, struct place place, bool on_replica, int64_t now_ms,
                       struct pg_lease **lease_out)
{
    struct pg_lease *l = pg_lease_find(sc, place);
    const struct pg_map *map;
    int database;

    if (l != NULL) {
        l = keep_up(sc, l, place, on_replica, now_ms);
    }
    if (l == NULL) {
        map = pg_map_now();
        database = pg_map_database_of(map, place);
        return on_replica && take_replica(sc, map, database, now_ms, lease_out)
                   ? OK
                   : take_at(sc, map, database, NULL, now_ms, lease_out);
    }
    *lease_out = l;
    return l->conn != NULL || l->tx == PG_TX_BROKEN ? OK : pg_lease_reconnect(sc, l);
}

enum err pg_lease_reconnect(struct scope *sc, struct pg_lease *lease)
{
    return pg_pool_reconnect(sc, lease->pool, lease->row != NULL, &lease->pass, &lease->conn);
}

enum err pg_lease_start(struct scope *sc, const struct pg_map *map, int database,
                        int64_t lease_until_us, struct pg_lease **lease_out,
                        bool *is_connecting_out)
{
    struct pg_pool *home = map->databases[database].pool;
    int64_t now_us = clock_mono_us();
    struct pg_lease *l = sc->leases;
    const struct pg_replica *r = NULL;
    struct pg_pool *pool;
    struct pg_pass pass;
    int tries = 0;

    if (sc->reads_replica) {
        r = next_replica(sc, home, now_us / 1000, &tries);
    }
    pool = r != NULL ? r->pool : primary_of(home);
    while (l != NULL && l->pool != pool) {
        l = l->next;
    }
    if (l == NULL) {
        TRY(pg_pool_enter(sc, pool, false, now_us / 1000,
                          lease_until_us > now_us ? lease_until_us - now_us : 0, &pass));
        l = add(sc, map, database, pool, &pass,
                pg_pool_pop_trusted(pool, r != NULL, now_us / 1000));
        l->row = r != NULL ? r->row : NULL;
    }
    assert(l->tx == PG_TX_NONE);
    *lease_out = l;
    *is_connecting_out = l->conn == NULL;
    return *is_connecting_out ? pg_lease_restart(sc, l) : OK;
}

enum err pg_lease_restart(struct scope *sc, struct pg_lease *lease)
{
    return pg_pool_start(sc, lease->pool, lease->row != NULL, &lease->pass, &lease->conn);
}

enum err pg_lease_connected(struct scope *sc, struct pg_lease *lease, enum pg_fate fate,
                            int64_t waited_ms, const char *why)
{
    return pg_pool_connected(sc, lease->pool, lease->pass.probe, &lease->conn, fate, waited_ms,
                             why);
}

void pg_lease_drop(struct pg_lease *lease)
{
    if (lease->conn != NULL) {
        pg_pool_discard(lease->pool, lease->conn);
        lease->conn = NULL;
    }
    if (lease->tx != PG_TX_NONE) {
        lease->tx = PG_TX_BROKEN;
    }
}

void pg_lease_lost(struct pg_lease *lease, enum pg_fate fate, int64_t waited_ms)
{
    pg_pool_trouble(lease->pool, lease->pass.probe, fate, waited_ms);
    pg_lease_drop(lease);
}

static void end(struct pg_lease *l)
{
    pg_tx_abandon(l);
    if (l->conn != NULL) {
        pg_pool_put(l->pool, l->conn);
    }
    pg_pool_leave(l->pool, &l->pass);
}

void pg_lease_give(struct scope *sc, struct pg_lease *lease)
{
    struct pg_lease **at = &sc->leases;

    while (*at != lease) {
        assert(*at != NULL);
        at = &(*at)->next;
    }
    *at = lease->next;
    end(lease);
}

void pg_release(struct scope *sc)
{
    struct pg_lease *l = sc->leases, *next;

    sc->leases = NULL;
    for (; l != NULL; l = next) {
        next = l->next;
        end(l);
    }
}

/* --- Marks: how far this scope has seen the log of a database. --- */

static struct pg_mark *find_mark(const struct scope *sc, const struct pg_pool *home)
{
    int i;

    for (i = 0; i < sc->n_marks; i++) {
        if (sc->marks[i].home == home) {
            return (struct pg_mark *)(uintptr_t)&sc->marks[i];
        }
    }
    return NULL;
}

const struct pg_mark *pg_mark_of(const struct scope *sc, const struct pg_pool *home)
{
    static const struct pg_mark unknown = {.system_id = 0};
    const struct pg_mark *m = find_mark(sc, home);

    return m == NULL && sc->has_lost_marks ? &unknown : m;
}

/* Unknown positions stay unknown: only the primary is beyond all of them. */
static void raise_mark(struct scope *sc, struct pg_pool *home, struct pg_mark to)
{
    struct pg_mark *m = find_mark(sc, home);

    if (m == NULL && sc->n_marks == SCOPE_MARKS_MAX) {
        sc->has_lost_marks = true;
        return;
    }
    if (m == NULL) {
        m = &sc->marks[sc->n_marks++];
        *m = to;
        m->home = home;
        return;
    }
    m->is_written = m->is_written || to.is_written;
    m->epoch = to.epoch > m->epoch ? to.epoch : m->epoch;
    if (m->system_id == 0 || to.system_id != m->system_id) {
        m->system_id = 0;
    } else if (to.lsn > m->lsn) {
        m->lsn = to.lsn;
    }
}

bool pg_lease_wants_position(const struct pg_lease *l)
{
    const struct pg_map_database *d = &l->map->databases[l->database];

    return l->row == NULL && (pg_pool_cast(d->pool) != NULL || d->flags & PG_MAP_FRESH);
}

void pg_lease_note(struct scope *sc, const struct pg_lease *l, int64_t lsn)
{
    struct pg_pool *home = l->map->databases[l->database].pool;
    const struct pg_cast *cast = pg_pool_cast(home);

    raise_mark(sc, home,
               (struct pg_mark){.system_id = cast != NULL && lsn != 0 ? cast->system_id : 0,
                                .lsn = pg_position(lsn),
                                .epoch = l->map->epoch,
                                .is_written = true});
}

bool pg_written(const struct scope *sc, struct place place, struct pg_mark *mark_out)
{
    const struct pg_map *map = pg_map_now();
    const struct pg_pool *home = map->databases[pg_map_database_of(map, place)].pool;
    bool is_found = false;
    int i;

    for (i = 0; i < sc->n_marks; i++) {
        const struct pg_mark *m = &sc->marks[i];

        if (m->is_written && (m->home == home || m->epoch != map->epoch)) {
            *mark_out = *m;
            is_found = true;
        }
    }
    return is_found;
}

void pg_see(struct scope *sc, struct place place, struct pg_mark mark)
{
    const struct pg_map *map;

    if (mark.epoch > pg_map_now()->epoch) {
        pg_follow_catch_up(sc, place, mark.epoch);
    }
    map = pg_map_now();
    mark.is_written = false;
    raise_mark(sc, map->databases[pg_map_database_of(map, place)].pool, mark);
}

bool pg_has_replicas(struct place place)
{
    const struct pg_map *map = pg_map_now();
    const struct pg_cast *cast =
        map == NULL ? NULL : pg_pool_cast(map->databases[pg_map_database_of(map, place)].pool);

    return cast != NULL && cast->n > 0;
}

void pg_warm(int processes)
{
    const struct config *cf = config();
    const struct pg_map *map = pg_map_now();
    int limit = pg_lease_limit(cf->db_pool_size, cf->db_max_connections,
                               cf->pool_utilization_threshold, false);
    struct scope sc;
    int i, k;

    scope_init(&sc, arena_open(WARM_ARENA_BYTES), WARM_MS);
    for (i = 0; i < map->n_databases; i++) {
        struct pg_pool *home = map->databases[i].pool;
        const struct pg_cast *cast = pg_pool_cast(home);
        int n_replicas = cast != NULL ? cast->n : 0;
        int parts = processes * map->n_databases * (1 + n_replicas);
        int n = (limit + parts - 1) / parts;

        pg_pool_warm(&sc, primary_of(home), false, n);
        for (k = 0; k < n_replicas; k++) {
            pg_pool_warm(&sc, cast->replicas[k].pool, true, n);
        }
    }
    scope_done(&sc);
    arena_close(&sc.arena);
}
