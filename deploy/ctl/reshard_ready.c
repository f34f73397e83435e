/* Before a move begins: every reason against it, each with what to do about it. */
#include <stdio.h>
#include <string.h>

#include "deploy/ctl/reshard.h"

/* What a server must have free for a run of n targets: slots for the streams, for what notes
 * changes, and for the workers that copy (two a subscription); workers to follow and to copy. */
enum { SLOTS_A_TARGET = 4, WORKERS_A_TARGET = 3, VERSION_MIN = 15 };

static int refuse(const char *where, const char *format, ...) PRINTF_LIKE(2, 3);
static int refuse(const char *where, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fprintf(stderr, "maxboosterctl: %s: ", where);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return 1;
}

static const char server_sql[] =
    "SELECT current_setting('server_version_num')::int / 10000,"
    " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)::int,"
    " (current_setting('wal_level') = 'logical')::int,"
    " current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots),"
    " current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication),"
    " current_setting('max_logical_replication_workers')::int"
    "   - (SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL),"
    " current_setting('max_worker_processes')::int - (SELECT count(*) FROM pg_stat_activity"
    "   WHERE backend_type IN ('logical replication worker', 'parallel worker'))";

/* Faults of the server of a location, told; *n_out counts them. */
static enum err check_server(struct rs *rs, const char *location, int n_targets, int *n_out)
{
    static const char *const settings[] = {"max_replication_slots", "max_wal_senders",
                                           "max_logical_replication_workers",
                                           "max_worker_processes"};
    int64_t values[7], needed[] = {SLOTS_A_TARGET * n_targets, SLOTS_A_TARGET * n_targets,
                                   WORKERS_A_TARGET * n_targets, WORKERS_A_TARGET * n_targets};
    struct pg_admin *server;
    struct pg_table t;
    const char *name;
    int i;

    TRY(rs_server(rs, location, &server));
    TRY(pg_admin_run(rs->sc, server, RS_ASK_MS, server_sql, 0, NULL, &t));
    name = pg_admin_name(server);
    for (i = 0; i < 7; i++) {
        if (!i64_parse(pg_cell(&t, 0, i), &values[i])) {
            return scope_fail(rs->sc, ERR_INTERNAL, "%s: not a number", name);
        }
    }
    if (values[0] < VERSION_MIN) {
        *n_out += refuse(name, "PostgreSQL %lld; %d is needed", (long long)values[0], VERSION_MIN);
    }
    if (values[1] == 0) {
        *n_out += refuse(name, "the role is no superuser, which subscriptions need; set "
                               "DATABASE_ADMIN_URL");
    }
    if (values[2] == 0) {
        *n_out += refuse(name, "wal_level is not logical; set it and restart the server");
    }
    for (i = 0; i < 4; i++) {
        if (values[3 + i] < needed[i]) {
            *n_out += refuse(name, "%lld of %s are free, %lld are needed; raise it and restart",
                             (long long)values[3 + i], settings[i], (long long)needed[i]);
        }
    }
    return OK;
}

static enum err check_target(struct rs *rs, const struct rs_run *run, struct rs_target *t,
                             int *n_out)
{
    enum rs_presence presence;

    if (pg_location_of(rs->sc->arena, t->location) == NULL) {
        *n_out += refuse(t->location, "is not a place: give host=… port=… dbname=…, nothing else");
        return OK;
    }
    if (rs_map_find(&rs->map, t->location) >= 0 || strcmp(run->source, t->location) == 0) {
        *n_out += refuse(t->location, "holds shards already");
        return OK;
    }
    TRY(check_server(rs, t->location, run->n_targets, n_out));
    TRY(rs_target_look(rs, t->location, &presence));
    t->is_made = presence == RS_ABSENT;
    if (presence == RS_FILLED) {
        *n_out += refuse(t->location, "is not empty; drop the database, or take another");
    }
    return OK;
}

/* Is something else of replication in the way at the source? */
static enum err check_source(struct rs *rs, const struct rs_run *run, int *n_out)
{
    struct pg_admin *c;
    bool is_true;

    TRY(rs_peer(rs, run->source, &c));
    TRY(rs_truth(rs, c, "SELECT EXISTS (SELECT FROM shard_closed)", 0, NULL, &is_true));
    if (is_true) {
        *n_out += refuse(run->source, "is closed: its shards have moved away");
    }
    TRY(rs_truth(rs, c, "SELECT pg_is_in_recovery()", 0, NULL, &is_true));
    if (is_true) {
        *n_out += refuse(run->source, "is a standby; give the primary's address");
    }
    TRY(rs_truth(rs, c,
                 "SELECT EXISTS (SELECT FROM pg_database WHERE datname = current_database()"
                 " AND datlocprovider <> 'c')",
                 0, NULL, &is_true));
    if (is_true) {
        fprintf(stderr,
                "maxboosterctl: %s: its locale is ICU's; make the target databases by hand "
                "with the same one\n",
                run->source);
    }
    return OK;
}

/* Every shard of the source goes to one target, and no other shard does. */
static enum err check_shards(struct rs *rs, const struct rs_run *run)
{
    int source = rs_map_find(&rs->map, run->source), i, j, n = 0, n_source = 0;
    bool seen[RS_SHARDS_MAX] = {false}, well = true;

    for (i = 0; i < run->n_targets; i++) {
        for (j = 0; j < run->targets[i].n_shards; j++, n++) {
            int shard = run->targets[i].shards[j];

            well = well && shard < run->shard_count && !seen[shard];
            seen[shard] = true;
        }
    }
    for (i = 0; i < run->shard_count; i++) { /* of a map that is still to be doubled, too */
        n_source += rs->map.shards[i % rs->map.n_shards] == source;
        well = well && seen[i] == (rs->map.shards[i % rs->map.n_shards] == source);
    }
    if (!well || n != n_source) {
        return scope_fail(rs->sc, ERR_CONFLICT,
                          "%s holds too many shards for one move (%d targets at most)", run->source,
                          RS_TARGETS_MAX);
    }
    return OK;
}

enum err rs_run_check(struct rs *rs, struct rs_run *run)
{
    struct pg_admin *c;
    int i, n = 0;

    TRY(check_shards(rs, run));
    TRY(check_source(rs, run, &n));
    TRY(check_server(rs, run->source, run->n_targets, &n));
    for (i = 0; i < run->n_targets; i++) {
        TRY(check_target(rs, run, &run->targets[i], &n));
    }
    TRY(rs_peer(rs, run->source, &c));
    TRY(rs_tables_load(rs, c));
    return n == 0 ? OK
                  : scope_fail(rs->sc, ERR_CONFLICT, "%d thing(s) stand against it, see above", n);
}
