/* Maps as values: made of the configuration, read from and written as JSON. Following them is
 * pg_follow.c's. */
#include "lib/pg_map.h"

#include <string.h>

#include "lib/config.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/pg_internal.h"

static const struct {
    const char *name;
    unsigned flag;
} flag_names[] = {{"moving", PG_MAP_MOVING}, {"fresh", PG_MAP_FRESH}};

static struct pg_map *make(struct scope *sc, int64_t epoch, int n_shards, int n_databases)
{
    struct pg_map *map = arena_new(sc->arena, struct pg_map);

    map->epoch = epoch;
    map->n_shards = n_shards;
    map->n_databases = n_databases;
    map->databases = arena_array(sc->arena, struct pg_map_database, (size_t)n_databases);
    map->database_of = arena_array(sc->arena, int, (size_t)n_shards);
    return map;
}

/* The first database of that location: two names of one are one. */
static int first_alike(const struct pg_map *map, int database)
{
    int i = 0;

    while (strcmp(map->databases[i].location, map->databases[database].location) != 0) {
        i++;
    }
    return i;
}

/* Count the shards of each database, and close the gaps that databases without one leave. */
static void settle(struct scope *sc, struct pg_map *map)
{
    int *new_index = arena_array(sc->arena, int, (size_t)map->n_databases);
    int i, n = 0;

    for (i = 0; i < map->n_databases; i++) {
        new_index[i] = first_alike(map, i);
    }
    for (i = map->n_shards - 1; i >= 0; i--) {
        struct pg_map_database *d;

        map->database_of[i] = new_index[map->database_of[i]];
        d = &map->databases[map->database_of[i]];
        d->first_shard = i;
        d->n_shards++;
    }
    for (i = 0; i < map->n_databases; i++) {
        new_index[i] = n;
        if (map->databases[i].n_shards > 0) {
            map->databases[n++] = map->databases[i];
        }
    }
    for (i = 0; i < map->n_shards; i++) {
        map->database_of[i] = new_index[map->database_of[i]];
    }
    map->n_databases = n;
}

/* --- Of the configuration. --- */

/* URL of the configuration's database n; NULL: it has none. */
static const char *url_of(const struct config *cf, int n)
{
    const char *url = n < (int)ARRAY_LEN(cf->database_shard_url) ? cf->database_shard_url[n] : "";

    if (*url == '\0' && n == 0) {
        url = cf->database_url;
    }
    return *url == '\0' ? NULL : url;
}

static struct pg_map_database database_of_config(struct scope *sc, const struct config *cf, int n)
{
    struct pg_map_database d = {.location = "", .url = url_of(cf, n)};

    if (d.url == NULL) {
        log_event(LOG_WARN, "shard_without_address",
                  "database %d has no DATABASE_SHARD_%02d_URL: its users cannot be served", n, n);
    } else if (!pg_conninfo_location(sc->arena, d.url, &d.location)) {
        log_event(LOG_ERROR, "shard_without_address",
                  "DATABASE_SHARD_%02d_URL is no connection string: its users cannot be served", n);
        d.url = NULL;
        d.location = "";
    }
    return d;
}

/* The next number of a comma list that config.c has judged. */
static int next_number(const char **list)
{
    int n = 0;

    for (; **list >= '0' && **list <= '9'; (*list)++) {
        n = n * 10 + (**list - '0');
    }
    *list += **list == ',';
    return n;
}

struct pg_map *pg_map_of_config(struct scope *sc, const struct config *cf)
{
    int n = (int)cf->shard_count, i, n_databases = 1;
    struct pg_map *map = make(sc, 0, n, (int)ARRAY_LEN(cf->database_shard_url));
    const char *list = cf->shard_map;

    for (i = 0; i < n; i++) {
        map->database_of[i] = *cf->shard_map == '\0' ? i : next_number(&list);
        if (map->database_of[i] >= n_databases) {
            n_databases = map->database_of[i] + 1;
        }
    }
    map->n_databases = n_databases;
    for (i = 0; i < n_databases; i++) {
        map->databases[i] = database_of_config(sc, cf, i);
    }
    settle(sc, map);
    return map;
}

/* --- Stored. --- */

static enum err odd(struct scope *sc, int64_t epoch, const char *what)
{
    return scope_fail(sc, ERR_INTERNAL, "shard_map %lld: %s", (long long)epoch, what);
}

static bool read_int(const struct json *value, int64_t min, int64_t max, int *out)
{
    int64_t n;

    if (!json_i64(value, &n) || n < min || n > max) {
        return false;
    }
    *out = (int)n;
    return true;
}

static unsigned read_flags(const struct json *list)
{
    unsigned flags = 0;
    size_t i, k;

    for (i = 0; i < json_length(list); i++) {
        const char *name = json_str(json_item(list, i), NULL);

        for (k = 0; name != NULL && k < ARRAY_LEN(flag_names); k++) {
            flags |= strcmp(name, flag_names[k].name) == 0 ? flag_names[k].flag : 0;
        }
    }
    return flags;
}

/* The configuration's URL of that database, else DATABASE_URL's credentials and options with that
 * location. */
static const char *url_for(struct scope *sc, const struct config *cf, const char *location)
{
    const char *known;
    int i;

    for (i = 0; i < (int)ARRAY_LEN(cf->database_shard_url); i++) {
        const char *url = url_of(cf, i);

        if (url != NULL && pg_conninfo_location(sc->arena, url, &known) &&
            strcmp(known, location) == 0) {
            return url;
        }
    }
    return pg_conninfo_at(sc->arena, cf->database_url, location);
}

static enum err read_database(struct scope *sc, const struct config *cf, int64_t epoch,
                              const struct json *value, struct pg_map_database *out)
{
    size_t len;
    const char *text = json_str(json_get(value, "location"), &len);

    if (text == NULL || len == 0 || len > PG_MAP_LOCATION_MAX || strlen(text) != len) {
        return odd(sc, epoch, "a database has no location");
    }
    if (!pg_conninfo_is_location(text) || !pg_conninfo_location(sc->arena, text, &out->location)) {
        return odd(sc, epoch, "a location is more or less than host, port and dbname");
    }
    out->url = url_for(sc, cf, out->location);
    if (out->url == NULL) {
        return odd(sc, epoch, "DATABASE_URL is no connection string");
    }
    out->flags = read_flags(json_get(value, "flags"));
    return OK;
}

enum err pg_map_parse(struct scope *sc, const struct config *cf, int64_t epoch, const char *text,
                      size_t len, struct pg_map **map_out)
{
    const struct json *root, *databases, *shards;
    struct pg_map *map;
    int n_shards, i;

    if (len > PG_MAP_TEXT_MAX || json_parse(sc, text, len, &root) != OK) {
        return odd(sc, epoch, "no JSON");
    }
    databases = json_get(root, "databases");
    shards = json_get(root, "shards");
    if (epoch < 1 || !read_int(json_get(root, "shardCount"), 1, PG_MAP_SHARDS_MAX, &n_shards) ||
        json_length(shards) != (size_t)n_shards) {
        return odd(sc, epoch, "shardCount and shards do not agree");
    }
    if (json_length(databases) < 1 || json_length(databases) > PG_MAP_DATABASES_MAX) {
        return odd(sc, epoch, "no databases, or too many");
    }
    map = make(sc, epoch, n_shards, (int)json_length(databases));
    for (i = 0; i < map->n_databases; i++) {
        TRY(read_database(sc, cf, epoch, json_item(databases, (size_t)i), &map->databases[i]));
    }
    for (i = 0; i < n_shards; i++) {
        if (!read_int(json_item(shards, (size_t)i), 0, map->n_databases - 1,
                      &map->database_of[i])) {
            return odd(sc, epoch, "a shard is in no database");
        }
    }
    settle(sc, map);
    *map_out = map;
    return OK;
}

static void write_database(struct strbuf *out, const struct pg_map_database *d)
{
    const char *comma = "";
    size_t i;

    strbuf_puts(out, "{\"location\":");
    strbuf_json(out, d->location);
    strbuf_puts(out, ",\"flags\":[");
    for (i = 0; i < ARRAY_LEN(flag_names); i++) {
        if (d->flags & flag_names[i].flag) {
            strbuf_printf(out, "%s\"%s\"", comma, flag_names[i].name);
            comma = ",";
        }
    }
    strbuf_puts(out, "]}");
}

void pg_map_write(struct strbuf *out, const struct pg_map *map)
{
    int i;

    strbuf_printf(out, "{\"shardCount\":%d,\"databases\":[", map->n_shards);
    for (i = 0; i < map->n_databases; i++) {
        strbuf_puts(out, i > 0 ? "," : "");
        write_database(out, &map->databases[i]);
    }
    strbuf_puts(out, "],\"shards\":[");
    for (i = 0; i < map->n_shards; i++) {
        strbuf_printf(out, "%s%d", i > 0 ? "," : "", map->database_of[i]);
    }
    strbuf_puts(out, "]}");
}
