/* Commands that look at what is there: shards, sessions. */
#include <stdio.h>
#include <string.h>

#include "deploy/ctl/ctl.h"
#include "lib/config.h"
#include "lib/id.h"
#include "lib/pg.h"
#include "lib/session.h"

int ctl_shards_list(struct scope *sc, int argc, char **argv)
{
    int status = CTL_DONE, shard;

    (void)argc, (void)argv;
    for (shard = 0; shard < pg_shard_count(); shard++) {
        int64_t latency_ms = 0;
        enum err e = pg_ping(sc, shard, &latency_ms);

        if (e == OK) {
            printf("shard %02d ok %lld ms\n", shard, (long long)latency_ms);
        } else {
            printf("shard %02d down: %s\n", shard, sc->cause != NULL ? sc->cause : "no answer");
            status = CTL_FAILED;
        }
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
