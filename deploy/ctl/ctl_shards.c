/* Commands that move shards between databases; the work is done in reshard_*.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/ctl/ctl.h"
#include "deploy/ctl/reshard.h"
#include "lib/config.h"

enum { ARENA_BYTES = 16 * 1024 * 1024, PAUSE_MAX_MS = 2000 };

/* What was asked for. */
struct request {
    const char *word;         /* the one that is no option, or NULL */
    const char *to, *rest_to; /* locations or their pattern */
    int64_t pause_max_ms;
    bool is_dry_run, drop;
};

static bool read_words(int argc, char **argv, struct request *r)
{
    int i;

    *r = (struct request){.pause_max_ms = PAUSE_MAX_MS};
    for (i = 0; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;

        if (strcmp(argv[i], "--dry-run") == 0) {
            r->is_dry_run = true;
        } else if (strcmp(argv[i], "--drop") == 0) {
            r->drop = true;
        } else if (!has_prefix(argv[i], "--") && r->word == NULL) {
            r->word = argv[i];
        } else if (value != NULL && strcmp(argv[i], "--to") == 0) {
            r->to = argv[++i];
        } else if (value != NULL && strcmp(argv[i], "--rest-to") == 0) {
            r->rest_to = argv[++i];
        } else if (value == NULL || strcmp(argv[i], "--max-wait-ms") != 0 ||
                   !i64_parse(argv[++i], &r->pause_max_ms) || r->pause_max_ms < 1) {
            fprintf(stderr, "maxboosterctl: '%s' is not understood here.\n", argv[i]);
            return false;
        }
    }
    return true;
}

/* Run a command with the newest map, alone among all movers. */
static int with_fleet(int argc, char **argv, enum err (*fn)(struct rs *rs, const struct request *r),
                      const char *doing)
{
    struct arena *arena = arena_open(ARENA_BYTES);
    struct request request;
    struct scope sc;
    struct rs *rs = calloc(1, sizeof(*rs));
    int status = CTL_DONE;
    enum err e;

    if (rs == NULL || !read_words(argc, argv, &request)) {
        free(rs);
        arena_close(&arena);
        return CTL_USAGE;
    }
    scope_init(&sc, arena, INT32_MAX);
    e = rs_init(rs, &sc);
    rs->pause_max_ms = request.pause_max_ms;
    e = e == OK ? rs_map_load(rs) : e;
    e = e == OK ? rs_map_lock(rs) : e;
    e = e == OK ? rs_map_load(rs) : e; /* who had the lock before may have written another */
    if (e == OK && rs->map.epoch > 0) {
        rs_map_spread(rs);
    }
    e = e == OK ? fn(rs, &request) : e;
    if (e != OK) {
        status = ctl_fail(&sc, e, doing);
    }
    rs_done(rs);
    free(rs);
    scope_done(&sc);
    arena_close(&arena);
    return status;
}

/* Call fn for the open run of each database, those without shards included, until an error. */
static enum err each_run(struct rs *rs, enum err (*fn)(struct rs *rs, struct rs_run *run), int *n)
{
    const char *locations[2 * RS_DATABASES_MAX];
    struct rs_run *run = arena_new(rs->keep, struct rs_run);
    int i, count = 0;

    for (i = 0; i < rs->map.n_databases; i++) {
        locations[count++] = rs->map.databases[i].location;
    }
    for (i = 0; i < rs->map.n_retired; i++) {
        locations[count++] = rs->map.retired[i];
    }
    for (*n = 0, i = 0; i < count; i++) {
        bool found;

        rs_forget(rs);
        if (!rs_map_names(&rs->map, locations[i])) {
            continue; /* the end of another run has taken it away */
        }
        TRY(rs_run_find(rs, locations[i], run, &found));
        if (found) {
            ++*n;
            rs_say(rs, "move %s of %s is %s", run->id, run->source, run->state);
            TRY(fn(rs, run));
        }
    }
    return OK;
}

static enum err nothing(struct rs *rs, struct rs_run *run)
{
    int i, j;

    for (i = 0; i < run->n_targets; i++) {
        for (j = 0; j < run->targets[i].n_shards; j++) {
            rs_say(rs, "  shard %d: %s", run->targets[i].shards[j], run->targets[i].location);
        }
    }
    return OK;
}

/* --- Plans. --- */

/* The shards that a database holds. */
static int shards_of(const struct rs_map *map, int database, int *out)
{
    int i, n = 0;

    for (i = 0; i < map->n_shards; i++) {
        if (map->shards[i] == database) {
            out[n++] = i;
        }
    }
    return n;
}

/* A location from an operator, in the form that maps have. */
static const char *canonical(struct rs *rs, const char *text)
{
    const char *location = pg_location_of(rs->keep, text);

    return location != NULL ? location : text; /* check_target() refuses it */
}

/* Tell how large the source is. */
static enum err describe(struct rs *rs, const struct rs_run *run)
{
    struct pg_admin *c;
    struct pg_table t;
    int i, j;

    TRY(rs_peer(rs, run->source, &c));
    TRY(pg_admin_run(rs->sc, c, RS_ASK_MS,
                     "SELECT pg_size_pretty(pg_database_size(current_database())),"
                     " (SELECT coalesce(sum(n_live_tup), 0) FROM pg_stat_user_tables)",
                     0, NULL, &t));
    rs_say(rs, "plan: leave %s (%s, about %s rows)", run->source, pg_cell(&t, 0, 0),
           pg_cell(&t, 0, 1));
    for (i = 0; i < run->n_targets; i++) {
        for (j = 0; j < run->targets[i].n_shards; j++) {
            rs_say(rs, "  shard %d of %d goes to %s%s", run->targets[i].shards[j], run->shard_count,
                   run->targets[i].location,
                   run->targets[i].is_made ? " (to be made)" : " (there, empty)");
        }
    }
    return OK;
}

static enum err plan_move(struct rs *rs, const struct request *r, int shard, struct rs_run *run)
{
    int shards[RS_SHARDS_MAX], database = rs->map.shards[shard], i;
    int n = shards_of(&rs->map, database, shards);
    struct rs_target *rest = &run->targets[1];

    memset(run, 0, sizeof(*run));
    run->source = rs->map.databases[database].location;
    run->shard_count = rs->map.n_shards;
    run->n_targets = n > 1 ? 2 : 1;
    run->targets[0] =
        (struct rs_target){.location = canonical(rs, r->to), .n_shards = 1, .shards = {shard}};
    if (n > 1 && r->rest_to == NULL) {
        return scope_fail(
            rs->sc, ERR_BAD_REQUEST,
            "the database holds %d more shard(s), which must leave it too, so that no "
            "row is in two places: say where with --rest-to",
            n - 1);
    }
    rest->location = n > 1 ? canonical(rs, r->rest_to) : NULL;
    for (i = 0; i < n; i++) {
        if (shards[i] != shard) {
            rest->shards[rest->n_shards++] = shards[i];
        }
    }
    if (n > 1 && strcmp(rest->location, run->targets[0].location) == 0) {
        return scope_fail(rs->sc, ERR_BAD_REQUEST, "--to and --rest-to are the same");
    }
    return OK;
}

/* The open run that takes this shard to that location; another open one is in the way. */
static enum err find_move(struct rs *rs, int shard, const char *to, struct rs_run *run,
                          bool *found_out)
{
    int i, j, n = rs->map.n_databases + rs->map.n_retired;

    *found_out = false;
    for (i = 0; i < n && !*found_out; i++) {
        const char *location = i < rs->map.n_databases ? rs->map.databases[i].location
                                                       : rs->map.retired[i - rs->map.n_databases];
        bool found;

        TRY(rs_run_find(rs, location, run, &found));
        for (j = 0; found && j < run->n_targets; j++) {
            *found_out = *found_out || (run->targets[j].shards[0] == shard &&
                                        strcmp(run->targets[j].location, to) == 0);
        }
        if (found && !*found_out) {
            return scope_fail(rs->sc, ERR_CONFLICT,
                              "the move %s of %s is %s: end it first ('shards status' tells more)",
                              run->id, run->source, run->state);
        }
    }
    return OK;
}

static enum err move(struct rs *rs, const struct request *r)
{
    struct rs_run *run = arena_new(rs->keep, struct rs_run);
    int64_t shard;
    bool found;

    if (r->word == NULL || r->to == NULL || !i64_parse(r->word, &shard) || shard < 0 ||
        shard >= rs->map.n_shards) {
        return scope_fail(rs->sc, ERR_BAD_REQUEST,
                          "give the number of a shard (0 to %d) and --to LOCATION",
                          rs->map.n_shards - 1);
    }
    TRY(find_move(rs, (int)shard, canonical(rs, r->to), run, &found));
    if (!found) {
        if (strcmp(rs->map.databases[rs->map.shards[shard]].location, canonical(rs, r->to)) == 0) {
            rs_say(rs, "shard %d is there already", (int)shard);
            return OK;
        }
        TRY(plan_move(rs, r, (int)shard, run));
        TRY(rs_run_check(rs, run));
        TRY(describe(rs, run));
        if (r->is_dry_run) {
            rs_say(rs, "nothing stands against it; nothing was done");
            return OK;
        }
        TRY(rs_run_plan(rs, run));
    } else {
        rs_say(rs, "going on with move %s, which is %s", run->id, run->state);
    }
    return rs_run_forward(rs, run);
}

/* --- Split. --- */

/* Where a shard of a split goes: the pattern with its number, or beside the present place. */
static const char *place_of(struct rs *rs, const struct request *r, const char *source, int count,
                            int shard)
{
    const char *mark = r->to != NULL ? strstr(r->to, "{shard}") : NULL;
    const char *name = pg_conninfo_get(rs->keep, source, "dbname");
    size_t len;

    if (mark != NULL) {
        return canonical(rs, arena_printf(rs->keep, "%.*s%02d%s", (int)(mark - r->to), r->to, shard,
                                          mark + strlen("{shard}")));
    }
    name = name != NULL ? name : "shard";
    len = strcspn(name, "0123456789");
    len = len > 0 && name[len - 1] == '_' ? len - 1 : len;
    return pg_location_beside(rs->keep, source,
                              arena_printf(rs->keep, "%.*s_%d_%02d", (int)len, name, count, shard));
}

/* A run for the database, each of whose shards gets a database of its own. */
static void plan_split(struct rs *rs, const struct request *r, const struct rs_map *map,
                       int database, struct rs_run *run)
{
    int shards[RS_SHARDS_MAX], i, n = shards_of(map, database, shards);

    memset(run, 0, sizeof(*run));
    run->source = map->databases[database].location;
    run->shard_count = map->n_shards;
    run->n_targets = n > RS_TARGETS_MAX ? RS_TARGETS_MAX : n;
    for (i = 0; i < run->n_targets; i++) {
        run->targets[i] = (struct rs_target){
            .location = canonical(rs, place_of(rs, r, run->source, map->n_shards, shards[i])),
            .n_shards = 1,
            .shards = {shards[i]}};
    }
}

/* The number of shards to come to: given, or such that each of them is alone. */
static enum err target_count(struct rs *rs, const struct request *r, int *out)
{
    int shards[RS_SHARDS_MAX], i;
    int64_t count = 2 * rs->map.n_shards;

    for (i = 0; i < rs->map.n_databases; i++) {
        count = shards_of(&rs->map, i, shards) > 1 ? rs->map.n_shards : count;
    }
    if ((r->word != NULL && !i64_parse(r->word, &count)) ||
        (count != rs->map.n_shards && count != 2 * rs->map.n_shards) || count > RS_SHARDS_MAX) {
        return scope_fail(rs->sc, ERR_BAD_REQUEST,
                          "%d shards can be split into %d (most: %d), or, where a database holds "
                          "several, be moved apart",
                          rs->map.n_shards, 2 * rs->map.n_shards, RS_SHARDS_MAX);
    }
    if (r->to != NULL && strstr(r->to, "{shard}") == NULL) {
        return scope_fail(rs->sc, ERR_BAD_REQUEST, "--to needs {shard}, for the shard's number");
    }
    *out = (int)count;
    return OK;
}

/* Each shard s of N becomes s and s + N in the same database: place modulo 2N is one of the two, so
 * this alone moves nothing. */
static void double_map(struct rs_map *map)
{
    int i;

    for (i = 0; i < map->n_shards; i++) {
        map->shards[map->n_shards + i] = map->shards[i];
    }
    map->n_shards *= 2;
}

/* Check or run the split of every database that is to be split. */
static enum err split_each(struct rs *rs, const struct request *r, const struct rs_map *map,
                           bool is_check, int *n_out)
{
    struct rs_run *run = arena_new(rs->keep, struct rs_run);
    int shards[RS_SHARDS_MAX], i;

    for (*n_out = 0, i = 0; i < map->n_databases; i++) {
        bool found;

        rs_forget(rs);
        TRY(rs_run_find(rs, map->databases[i].location, run, &found));
        if (found || shards_of(map, i, shards) < 2) {
            continue;
        }
        plan_split(rs, r, map, i, run);
        ++*n_out;
        TRY(rs_run_check(rs, run));
        TRY(describe(rs, run));
        if (!is_check) {
            TRY(rs_run_plan(rs, run));
            TRY(rs_run_forward(rs, run));
        }
    }
    return OK;
}

/* Runs that an earlier attempt has left. */
static enum err go_on(struct rs *rs, struct rs_run *run)
{
    return strcmp(run->state, "moved") == 0 ? OK : rs_run_forward(rs, run);
}

static enum err split(struct rs *rs, const struct request *r)
{
    struct rs_map *map = arena_new(rs->keep, struct rs_map);
    int count, n = 0, n_open;

    TRY(target_count(rs, r, &count));
    *map = rs->map;
    if (count != map->n_shards) {
        TRY(each_run(rs, nothing, &n_open));
        if (n_open > 0) {
            return scope_fail(rs->sc, ERR_CONFLICT, "%d move(s) must be cleaned up first", n_open);
        }
        double_map(map);
    }
    TRY(split_each(rs, r, map, true, &n));
    if (r->is_dry_run) {
        rs_say(rs, "%d database(s) to split, nothing stands against it; nothing was done", n);
        return OK;
    }
    if (count != rs->map.n_shards) {
        rs->map = *map;
        TRY(rs_map_publish(rs));
        rs_say(rs, "step double: %d shards, each pair still in one database", count);
    }
    TRY(each_run(rs, go_on, &n_open));
    *map = rs->map;
    return split_each(rs, r, map, false, &n);
}

/* --- The rest. --- */

static enum err status(struct rs *rs, const struct request *r)
{
    int i, n;

    (void)r;
    rs_say(rs, "map %lld: %d shards in %d databases", (long long)rs->map.epoch, rs->map.n_shards,
           rs->map.n_databases);
    for (i = 0; i < rs->map.n_shards; i++) {
        const struct rs_database *d = &rs->map.databases[rs->map.shards[i]];

        rs_say(rs, "shard %02d %s%s%s", i, d->location, d->is_moving ? " (about to move)" : "",
               d->is_fresh ? " (has just moved)" : "");
    }
    TRY(each_run(rs, nothing, &n));
    if (n == 0) {
        rs_say(rs, "no move is open");
    }
    return OK;
}

static enum err need_one(struct rs *rs, int n)
{
    return n > 0 ? OK : scope_fail(rs->sc, ERR_NOT_FOUND, "no move is open");
}

static enum err way_back(struct rs *rs, const struct request *r)
{
    int n;

    (void)r;
    TRY(each_run(rs, rs_run_back, &n));
    return need_one(rs, n);
}

static enum err abort_run(struct rs *rs, struct rs_run *run)
{
    return strcmp(run->state, "moved") == 0 ? OK : rs_run_abort(rs, run);
}

static enum err abort_all(struct rs *rs, const struct request *r)
{
    int n;

    (void)r;
    TRY(each_run(rs, abort_run, &n));
    return need_one(rs, n);
}

static enum err clean_keep(struct rs *rs, struct rs_run *run)
{
    return rs_run_clean_up(rs, run, false);
}

static enum err clean_drop(struct rs *rs, struct rs_run *run)
{
    return rs_run_clean_up(rs, run, true);
}

static enum err clean_up(struct rs *rs, const struct request *r)
{
    int n, n_retired = rs->map.n_retired;

    TRY(each_run(rs, r->drop ? clean_drop : clean_keep, &n));
    if (n == 0 && n_retired > 0) { /* a clean-up was interrupted at its very end */
        rs->map.n_retired = 0;
        return rs_map_publish(rs);
    }
    return need_one(rs, n);
}

int ctl_shards_status(struct scope *sc, int argc, char **argv)
{
    (void)sc;
    return with_fleet(argc, argv, status, "looking at the shards");
}

int ctl_shards_move(struct scope *sc, int argc, char **argv)
{
    (void)sc;
    return with_fleet(argc, argv, move, "moving the shard");
}

int ctl_shards_split(struct scope *sc, int argc, char **argv)
{
    (void)sc;
    return with_fleet(argc, argv, split, "splitting the shards");
}

int ctl_shards_way_back(struct scope *sc, int argc, char **argv)
{
    (void)sc;
    return with_fleet(argc, argv, way_back, "going back");
}

int ctl_shards_abort(struct scope *sc, int argc, char **argv)
{
    (void)sc;
    return with_fleet(argc, argv, abort_all, "aborting");
}

int ctl_shards_clean_up(struct scope *sc, int argc, char **argv)
{
    (void)sc;
    return with_fleet(argc, argv, clean_up, "cleaning up");
}
