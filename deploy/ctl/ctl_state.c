/* Commands that look at what is there: shards, sessions. */
#include <stdio.h>
#include <string.h>

#include "deploy/ctl/ctl.h"
#include "lib/config.h"
#include "lib/id.h"
#include "lib/pg.h"
#include "lib/pg_map.h"
#include "lib/session.h"

/* One line a shard: is its database there, where, and what happens to it. */
static void print_shards(const struct pg_map *map, int database, const char *state)
{
    const struct pg_map_database *d = &map->databases[database];
    int shard;

    for (shard = 0; shard < map->n_shards; shard++) {
        if (map->database_of[shard] == database) {
            printf("shard %02d %s, %s%s%s\n", shard, state, d->location,
                   d->flags & PG_MAP_MOVING ? ", moving" : "",
                   d->flags & PG_MAP_FRESH ? ", fresh" : "");
        }
    }
}

int ctl_shards_list(struct scope *sc, int argc, char **argv)
{
    const struct pg_map *map = pg_map_now();
    int status = CTL_DONE, i;

    (void)argc, (void)argv;
    printf("map of epoch %lld%s: %d shards in %d databases\n", (long long)map->epoch,
           map->epoch == 0 ? " (the configuration's)" : "", map->n_shards, map->n_databases);
    for (i = 0; i < map->n_databases; i++) {
        int64_t latency_ms = 0;
        enum err e = pg_ping(sc, i, &latency_ms);

        print_shards(map, i,
                     e == OK ? arena_printf(sc->arena, "ok %lld ms", (long long)latency_ms)
                             : arena_printf(sc->arena, "down (%s)",
                                            sc->cause != NULL ? sc->cause : "no answer"));
        status = e == OK ? status : CTL_FAILED;
        scope_forgive(sc);
    }
    return status;
}

int ctl_sessions_count(struct scope *sc, int argc, char **argv)
{
    int64_t n;
    enum err e = session_count(sc, &n);

    (void)argc, (void)argv;
    if (e != OK) {
        return ctl_fail(sc, e, "counting sessions");
    }
    printf("%lld of %lld\n", (long long)n, (long long)config()->max_sessions);
    return CTL_DONE;
}

int ctl_sessions_revoke(struct scope *sc, int argc, char **argv)
{
    struct id user;
    enum err e;

    (void)argc;
    if (!id_parse(argv[0], strlen(argv[0]), &user) || !id_is_user(user)) {
        fprintf(stderr, "maxboosterctl: %s is not a user's id.\n", argv[0]);
        return CTL_USAGE;
    }
    e = session_end_all(sc, user, (struct id){{0}});
    if (e != OK) {
        return ctl_fail(sc, e, "revoking sessions");
    }
    printf("all sessions of %s have ended\n", argv[0]);
    return CTL_DONE;
}
