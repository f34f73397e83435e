/* The map of shards: which database holds which logical shard, and where each database is.
 *
 * Maps have an epoch. Epoch 0 is the configuration's (SHARD_COUNT, SHARD_MAP, the URLs); a later
 * one is a row of the table shard_map, which every database holds, and wins over all earlier ones.
 * A process follows: it asks one database each PG_MAP_POLL_MS, and at once where it is told that a
 * shard has moved. A map that has been published never changes and is never freed, so readers take
 * no lock; what they hold stays true of the epoch that it names. */
#ifndef LIB_PG_MAP_H
#define LIB_PG_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "lib/id.h"
#include "lib/scope.h"
#include "lib/str.h"

struct config;
struct pg_pool;

enum {
    PG_MAP_SHARDS_MAX = 4096,
    PG_MAP_DATABASES_MAX = 512,
    PG_MAP_LOCATION_MAX = 500, /* bytes */
    PG_MAP_TEXT_MAX = 1048576, /* bytes of a stored map */
    PG_MAP_POLL_MS = 1000
};

enum pg_map_flag {
    /* Being moved: transactions meet the gate at their beginning, not in the middle. */
    PG_MAP_MOVING = 1,
    /* Just moved to: writers note the epoch in the session, so no reader asks the old place. */
    PG_MAP_FRESH = 2
};

struct pg_map_database {
    const char *location; /* "host=… port=… dbname=…", no user or password; "" none */
    const char *url;      /* secret: with user, password and options; NULL where there is none */
    unsigned flags;
    int first_shard; /* the lowest that it holds; every database holds one */
    int n_shards;
    struct pg_pool *pool; /* of a published map */
};

struct pg_map {
    int64_t epoch;
    int n_shards, n_databases;
    struct pg_map_database *databases;
    int *database_of; /* by shard */
};

/* The map of the configuration, in the scope's arena. */
struct pg_map *pg_map_of_config(struct scope *sc, const struct config *cf);

/* A stored map: {"shardCount":2,"databases":[{"location":"…","flags":["moving"]}],"shards":[0,0]}.
 * Databases without a shard are left out, unknown members and flags ignored. Users and passwords
 * come from the configuration: the same database's URL, else DATABASE_URL. ERR_INTERNAL with a
 * cause for anything that is not a whole map. All in the scope's arena. */
MUST_USE enum err pg_map_parse(struct scope *sc, const struct config *cf, int64_t epoch,
                               const char *text, size_t len, struct pg_map **map_out);

/* Append the map as it is stored. */
void pg_map_write(struct strbuf *out, const struct pg_map *map);

/* The newest map that this process knows. Never NULL after pg_open(). Never blocks. */
const struct pg_map *pg_map_now(void);

/* The database of a place, an index into databases. */
static inline int pg_map_database_of(const struct pg_map *map, struct place place)
{
    return map->database_of[place.hash % (uint32_t)map->n_shards];
}

/* A place that lies on the database, for work that visits all databases. */
static inline struct place pg_map_place_on(const struct pg_map *map, int database)
{
    return (struct place){(uint32_t)map->databases[database].first_shard};
}

/* Ask the database of that location for a newer map, and follow it. ERR_DEPENDENCY_UNAVAILABLE or
 * ERR_TIMED_OUT where it does not answer. */
MUST_USE enum err pg_map_refresh(struct scope *sc, const char *location);

#endif
