/* The fleet's map, as the mover reads and writes it. Every database keeps it, so that a program
 * learns of a new one wherever it asks. */
#include <stdio.h>
#include <string.h>

#include "deploy/ctl/reshard.h"
#include "lib/config.h"
#include "lib/json.h"
#include "lib/pg_map.h"

/* The right to change the map is this advisory lock in each of its databases. */
#define MOVER_LOCK "x'6d626d6f766572'::bigint"

/* The map at its beginning: what the configuration says. */
static enum err configured(struct rs *rs)
{
    const struct pg_map *from = pg_map_of_config(rs->sc, config());
    struct rs_map *map = &rs->map;
    int i;

    memset(map, 0, sizeof(*map));
    map->n_shards = from->n_shards;
    map->n_databases = from->n_databases;
    for (i = 0; i < from->n_databases; i++) {
        map->databases[i].location = arena_strdup(rs->keep, from->databases[i].location);
        if (map->databases[i].location[0] == '\0') {
            return scope_fail(rs->sc, ERR_BAD_REQUEST,
                              "a shard of the configuration has no address");
        }
    }
    memcpy(map->shards, from->database_of, sizeof(*map->shards) * (size_t)map->n_shards);
    return OK;
}

/* Members of "databases" and "retired"; false: not such a map. */
static bool read_databases(struct rs *rs, const struct json *json, struct rs_map *map)
{
    const struct json *list = json_get(json, "databases"), *retired = json_get(json, "retired");
    size_t i, j;

    if (json_length(list) < 1 || json_length(list) > RS_DATABASES_MAX ||
        json_length(retired) > RS_DATABASES_MAX) {
        return false;
    }
    map->n_databases = (int)json_length(list);
    map->n_retired = (int)json_length(retired);
    for (i = 0; i < json_length(list); i++) {
        const struct json *flags = json_get(json_item(list, i), "flags");
        struct rs_database *d = &map->databases[i];

        d->location =
            arena_strdup(rs->keep, json_str(json_get(json_item(list, i), "location"), NULL));
        if (d->location == NULL) {
            return false;
        }
        for (j = 0; j < json_length(flags); j++) {
            const char *flag = json_str(json_item(flags, j), NULL);

            d->is_moving = d->is_moving || (flag != NULL && strcmp(flag, "moving") == 0);
            d->is_fresh = d->is_fresh || (flag != NULL && strcmp(flag, "fresh") == 0);
        }
    }
    for (i = 0; i < json_length(retired); i++) {
        map->retired[i] =
            arena_strdup(rs->keep, json_str(json_get(json_item(retired, i), "location"), NULL));
        if (map->retired[i] == NULL) {
            return false;
        }
    }
    return true;
}

static enum err read_map(struct rs *rs, const char *text, int64_t epoch, struct rs_map *map)
{
    const struct json *json, *shards;
    int64_t count, database;
    size_t i;

    memset(map, 0, sizeof(*map));
    map->epoch = epoch;
    TRY(json_parse(rs->sc, text, strlen(text), &json));
    shards = json_get(json, "shards");
    if (!json_i64(json_get(json, "shardCount"), &count) || count < 1 || count > RS_SHARDS_MAX ||
        json_length(shards) != (size_t)count || !read_databases(rs, json, map)) {
        return scope_fail(rs->sc, ERR_INTERNAL, "map %lld is malformed", (long long)epoch);
    }
    map->n_shards = (int)count;
    for (i = 0; i < json_length(shards); i++) {
        if (!json_i64(json_item(shards, i), &database) || database < 0 ||
            database >= map->n_databases) {
            return scope_fail(rs->sc, ERR_INTERNAL, "map %lld is malformed", (long long)epoch);
        }
        map->shards[i] = (int)database;
    }
    return OK;
}

const char *rs_map_json(struct rs *rs, const struct rs_map *map)
{
    struct strbuf b;
    int i;

    strbuf_init(&b, rs->sc->arena, 1024);
    strbuf_printf(&b, "{\"shardCount\":%d,\"databases\":[", map->n_shards);
    for (i = 0; i < map->n_databases; i++) {
        const struct rs_database *d = &map->databases[i];

        strbuf_puts(&b, i > 0 ? ",{\"location\":" : "{\"location\":");
        strbuf_json(&b, d->location);
        strbuf_printf(&b, ",\"flags\":[%s%s%s]}", d->is_moving ? "\"moving\"" : "",
                      d->is_moving && d->is_fresh ? "," : "", d->is_fresh ? "\"fresh\"" : "");
    }
    strbuf_puts(&b, "],\"shards\":[");
    for (i = 0; i < map->n_shards; i++) {
        strbuf_printf(&b, "%s%d", i > 0 ? "," : "", map->shards[i]);
    }
    strbuf_puts(&b, "],\"retired\":[");
    for (i = 0; i < map->n_retired; i++) {
        strbuf_puts(&b, i > 0 ? ",{\"location\":" : "{\"location\":");
        strbuf_json(&b, map->retired[i]);
        strbuf_putc(&b, '}');
    }
    strbuf_puts(&b, "]}");
    return b.data;
}

/* Does this database know a newer map? It becomes ours. A database that is away cannot say. */
static enum err ask(struct rs *rs, const char *location, bool *newer_out, int *away)
{
    const char *sql = "SELECT epoch, map FROM shard_map WHERE epoch > $1::bigint"
                      " ORDER BY epoch DESC LIMIT 1";
    char known[24];
    const char *params[] = {known};
    struct pg_admin *c;
    struct pg_table t;
    int64_t epoch;

    *newer_out = false;
    snprintf(known, sizeof(known), "%lld", (long long)rs->map.epoch);
    if (rs_peer(rs, location, &c) != OK) {
        fprintf(stderr, "maxboosterctl: %s\n", rs->sc->cause);
        scope_forgive(rs->sc);
        ++*away;
        return OK;
    }
    TRY(pg_admin_run(rs->sc, c, RS_ASK_MS, sql, 1, params, &t));
    if (t.n_rows == 0 || !i64_parse(pg_cell(&t, 0, 0), &epoch)) {
        return OK;
    }
    *newer_out = true;
    return read_map(rs, pg_cell(&t, 0, 1), epoch, &rs->map);
}

/* Ask all that the present map names; start over with every newer one. */
enum err rs_map_load(struct rs *rs)
{
    int i = 0, away = 0;

    TRY(configured(rs));
    while (i < rs->map.n_databases) {
        bool newer;

        TRY(ask(rs, rs->map.databases[i].location, &newer, &away));
        i = newer ? 0 : i + 1;
        away = newer ? 0 : away;
    }
    if (away > 0) {
        return scope_fail(rs->sc, ERR_DEPENDENCY_UNAVAILABLE,
                          "%d of %d databases do not answer, and each must be told of changes",
                          away, rs->map.n_databases);
    }
    return OK;
}

enum err rs_map_lock(struct rs *rs)
{
    int i;

    for (i = 0; i < rs->map.n_databases; i++) {
        struct pg_admin *c;
        bool got;

        TRY(rs_peer(rs, rs->map.databases[i].location, &c));
        TRY(rs_truth(rs, c, "SELECT pg_try_advisory_lock(" MOVER_LOCK ")", 0, NULL, &got));
        if (!got) {
            return scope_fail(rs->sc, ERR_CONFLICT, "another maxboosterctl is moving shards (%s)",
                              pg_admin_name(c));
        }
    }
    return OK;
}

static enum err write_to(struct rs *rs, const char *location)
{
    char epoch[24];
    const char *params[] = {epoch, rs_map_json(rs, &rs->map)};
    struct pg_admin *c;

    snprintf(epoch, sizeof(epoch), "%lld", (long long)rs->map.epoch);
    TRY(rs_peer(rs, location, &c));
    return pg_admin_run(rs->sc, c, RS_ASK_MS,
                        "INSERT INTO shard_map (epoch, map) VALUES ($1::bigint, $2::jsonb)"
                        " ON CONFLICT (epoch) DO NOTHING",
                        2, params, NULL);
}

enum err rs_map_publish(struct rs *rs)
{
    int i;

    rs->map.epoch++;
    for (i = 0; i < rs->map.n_databases; i++) {
        TRY(write_to(rs, rs->map.databases[i].location));
    }
    for (i = 0; i < rs->map.n_retired; i++) {
        TRY(write_to(rs, rs->map.retired[i]));
    }
    return OK;
}

static void spread_to(struct rs *rs, const char *location)
{
    if (write_to(rs, location) != OK) {
        fprintf(stderr, "maxboosterctl: warning: %s; it learns of the new map later\n",
                rs->sc->cause);
        scope_forgive(rs->sc);
        rs_peer_forget(rs, location);
    }
}

void rs_map_spread(struct rs *rs)
{
    int i;

    for (i = 0; i < rs->map.n_databases; i++) {
        spread_to(rs, rs->map.databases[i].location);
    }
    for (i = 0; i < rs->map.n_retired; i++) {
        spread_to(rs, rs->map.retired[i]);
    }
}

int rs_map_find(const struct rs_map *map, const char *location)
{
    int i;

    for (i = 0; i < map->n_databases; i++) {
        if (strcmp(map->databases[i].location, location) == 0) {
            return i;
        }
    }
    return -1;
}

bool rs_map_names(const struct rs_map *map, const char *location)
{
    int i;

    for (i = 0; i < map->n_retired; i++) {
        if (strcmp(map->retired[i], location) == 0) {
            return true;
        }
    }
    return rs_map_find(map, location) >= 0;
}

void rs_map_retire(struct rs_map *map, const char *location, bool is_retired)
{
    int i, n = 0;

    for (i = 0; i < map->n_retired; i++) {
        if (strcmp(map->retired[i], location) != 0) {
            map->retired[n++] = map->retired[i];
        }
    }
    if (is_retired && n < RS_DATABASES_MAX) {
        map->retired[n++] = location;
    }
    map->n_retired = n;
}
