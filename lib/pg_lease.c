/* Leases: a scope's right to one connection of a database. The map says which database that is;
 * a lease that is in a transaction keeps to the map it was taken by, any other follows. */
#include <assert.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/pg_internal.h"

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

/* A lease that nothing hangs on follows the map. NULL: it had to be given back. */
static struct pg_lease *keep_up(struct scope *sc, struct pg_lease *l, const struct pg_map *map,
                                struct place place)
{
    int database = pg_map_database_of(map, place);

    if (l->tx != PG_TX_NONE) {
        return l;
    }
    if (map->databases[database].pool != l->pool) {
        pg_lease_give(sc, l);
        return NULL;
    }
    l->map = map;
    l->database = database;
    return l;
}

static struct pg_lease *add(struct scope *sc, const struct pg_map *map, int database, int permit,
                            struct pg_conn *conn)
{
    struct pg_lease *l = arena_new(sc->arena, struct pg_lease);

    *l = (struct pg_lease){.next = sc->leases,
                           .map = map,
                           .database = database,
                           .pool = map->databases[database].pool,
                           .permit = permit,
                           .conn = conn};
    sc->leases = l;
    return l;
}

static enum err take_new(struct scope *sc, const struct pg_map *map, int database, int64_t now_ms,
                         struct pg_lease **lease_out)
{
    struct pg_pool *pool = map->databases[database].pool;
    struct pg_conn *c = NULL;
    int permit;
    enum err e;

    TRY(pg_pool_enter(sc, pool, sc->leases != NULL, now_ms,
                      scope_left_ms(sc, config()->pool_wait_ms) * 1000, &permit));
    e = pg_pool_get(sc, pool, false, now_ms, &c);
    if (e != OK) {
        pg_pool_leave(pool, permit);
        return e;
    }
    *lease_out = add(sc, map, database, permit, c);
    return OK;
}

enum err pg_lease_take(struct scope *sc, struct place place, int64_t now_ms,
                       struct pg_lease **lease_out)
{
    const struct pg_map *map = pg_map_now();
    struct pg_lease *l = pg_lease_find(sc, place);

    if (l != NULL && l->map != map) {
        l = keep_up(sc, l, map, place);
    }
    if (l == NULL) {
        return take_new(sc, map, pg_map_database_of(map, place), now_ms, lease_out);
    }
    *lease_out = l;
    return l->conn != NULL || l->tx == PG_TX_BROKEN ? OK : pg_lease_reconnect(sc, l);
}

enum err pg_lease_reconnect(struct scope *sc, struct pg_lease *lease)
{
    return pg_pool_reconnect(sc, lease->pool, false, &lease->conn);
}

enum err pg_lease_start(struct scope *sc, const struct pg_map *map, int database,
                        int64_t lease_until_us, struct pg_lease **lease_out,
                        bool *is_connecting_out)
{
    struct pg_pool *pool = map->databases[database].pool;
    int64_t now_us = clock_mono_us();
    struct pg_lease *l = sc->leases;
    int permit;

    while (l != NULL && l->pool != pool) {
        l = l->next;
    }
    if (l == NULL) {
        TRY(pg_pool_enter(sc, pool, false, now_us / 1000,
                          lease_until_us > now_us ? lease_until_us - now_us : 0, &permit));
        l = add(sc, map, database, permit, pg_pool_pop_trusted(pool, false, now_us / 1000));
    }
    assert(l->tx == PG_TX_NONE);
    *lease_out = l;
    *is_connecting_out = l->conn == NULL;
    return *is_connecting_out ? pg_lease_restart(sc, l) : OK;
}

enum err pg_lease_restart(struct scope *sc, struct pg_lease *lease)
{
    return pg_pool_start(sc, lease->pool, false, &lease->conn);
}

enum err pg_lease_connected(struct scope *sc, struct pg_lease *lease, enum pg_fate fate,
                            int64_t waited_ms, const char *why)
{
    return pg_pool_connected(sc, lease->pool, &lease->conn, fate, waited_ms, why);
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
    pg_pool_trouble(lease->pool, fate, waited_ms);
    pg_lease_drop(lease);
}

static void end(struct pg_lease *l)
{
    pg_tx_abandon(l);
    if (l->conn != NULL) {
        pg_pool_put(l->pool, l->conn);
    }
    pg_pool_leave(l->pool, l->permit);
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
