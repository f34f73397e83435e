/* The gate and the cut-over. Writers hold the gate's advisory lock shared until their transaction
 * ends (triggers see to that); the mover takes it exclusively, so that nothing is being written
 * any more, lets the new side come level, compares what has changed last, and decides. Whatever
 * takes too long ends in opening the gate again, as does the mover's death: the lock is its
 * session's. */
#include <stdio.h>
#include <string.h>

#include "deploy/ctl/reshard.h"
#include "lib/clock.h"

enum {
    TRIES = 20,
    RETRY_NAP_MS = 1000,
    LOCK_MS = 500,
    TRIGGER_TRIES = 60,
    TRIGGER_NAP_MS = 250,
    FINISH_MS = 60000
};

/* Change a table that is in use: behind a long transaction we must not wait with everybody behind
 * us, so the wait is short, and there are many. */
static enum err change_table(struct rs *rs, struct pg_admin *c, const char *sql)
{
    enum err e = ERR_TIMED_OUT;
    int tries;

    for (tries = 0; tries < TRIGGER_TRIES && e == ERR_TIMED_OUT; tries++) {
        if (tries > 0) {
            clock_nap_ms(TRIGGER_NAP_MS);
        }
        e = rs_do(rs, c, RS_ASK_MS, "SET LOCAL lock_timeout = %d; %s", LOCK_MS, sql);
    }
    return e;
}

/* Is the gate of a table there? To ask costs no lock, to make it anew would. */
static enum err has_gate(struct rs *rs, struct pg_admin *c, const struct rs_table *t, bool *out)
{
    return rs_truth(rs, c,
                    "SELECT EXISTS (SELECT FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid"
                    " WHERE g.tgname = 'shard_gate' AND c.relname = $1::text"
                    " AND c.relnamespace = 'public'::regnamespace)",
                    1, &t->name, out);
}

/* Have the gate of each table, or have none. */
static enum err set_gates(struct rs *rs, const char *location, bool wanted)
{
    struct pg_admin *c;
    int i;

    TRY(rs_peer(rs, location, &c));
    for (i = 0; i < rs->n_tables; i++) {
        const char *name = pg_quote_name(rs->sc->arena, rs->tables[i].name);
        bool is_there;

        TRY(has_gate(rs, c, &rs->tables[i], &is_there));
        if (is_there != wanted) {
            TRY(change_table(
                rs, c,
                arena_printf(rs->sc->arena,
                             wanted ? "CREATE TRIGGER shard_gate BEFORE INSERT OR UPDATE OR DELETE"
                                      " OR TRUNCATE ON public.%s FOR EACH STATEMENT"
                                      " EXECUTE FUNCTION shard_gate_trigger()"
                                    : "DROP TRIGGER shard_gate ON public.%s",
                             name)));
        }
    }
    return OK;
}

enum err rs_gate_make(struct rs *rs, const char *location)
{
    return set_gates(rs, location, true);
}

enum err rs_gate_remove(struct rs *rs, const char *location)
{
    return set_gates(rs, location, false);
}

/* The databases that a cut-over closes: the source, or (back) the targets. */
static int n_closing(const struct rs_cut *cut)
{
    return cut->is_back ? cut->run->n_targets : 1;
}

static const char *closing(const struct rs_cut *cut, int i)
{
    return cut->is_back ? cut->run->targets[i].location : cut->run->source;
}

static void open_gates(struct rs *rs, const struct rs_cut *cut)
{
    struct pg_admin *c;
    int i;

    for (i = 0; i < n_closing(cut); i++) {
        if (rs_peer(rs, closing(cut, i), &c) != OK ||
            rs_do(rs, c, RS_ASK_MS, "SELECT pg_advisory_unlock(shard_gate_key())") != OK) {
            rs_peer_forget(rs, closing(cut, i)); /* the session's end opens it too */
        }
    }
}

/* Take the gates: waits for writers in flight, and holds those who come. */
static enum err take_gates(struct rs *rs, const struct rs_cut *cut)
{
    struct pg_admin *c;
    int i;

    for (i = 0; i < n_closing(cut); i++) {
        TRY(rs_peer(rs, closing(cut, i), &c));
        TRY(rs_do(rs, c, RS_ASK_MS,
                  "SET LOCAL lock_timeout = %d; SELECT pg_advisory_lock(shard_gate_key())",
                  LOCK_MS));
    }
    return OK;
}

/* Let the new side come level, and compare. */
static enum err come_level(struct rs *rs, const struct rs_cut *cut, int64_t until_ms,
                           int64_t *rows_out)
{
    const char *lsn;
    int64_t rows;
    int i;

    *rows_out = 0;
    for (i = 0; i < cut->n; i++) {
        TRY(rs_lsn(rs, cut->checks[i].stream->from, &lsn));
        TRY(rs_stream_await(rs, cut->checks[i].stream, lsn, until_ms));
        TRY(rs_check_last(rs, &cut->checks[i], &rows));
        *rows_out += rows;
    }
    return OK;
}

/* Streams back begin behind all that has come here: else it would be sent back where it came
 * from. */
static enum err start_reverse(struct rs *rs, const struct rs_cut *cut)
{
    int i;

    for (i = 0; i < cut->run->n_targets && cut->reverse != NULL; i++) {
        const char *params[] = {cut->reverse[i].name, NULL};
        struct pg_admin *c;

        TRY(rs_lsn(rs, cut->reverse[i].from, &params[1]));
        TRY(rs_peer(rs, cut->reverse[i].from, &c));
        TRY(pg_admin_run(rs->sc, c, RS_ASK_MS,
                         "SELECT pg_replication_slot_advance($1::name, $2::pg_lsn)", 2, params,
                         NULL));
    }
    return OK;
}

/* In one transaction: the map, that this database is closed, and the state of the run. */
static enum err close_source(struct rs *rs, const struct rs_cut *cut, const struct rs_map *map)
{
    struct arena *a = rs->sc->arena;
    struct pg_admin *c;

    TRY(rs_peer(rs, cut->run->source, &c));
    return rs_do(rs, c, RS_ASK_MS,
                 "INSERT INTO shard_map (epoch, map) VALUES (%lld, %s);"
                 "INSERT INTO shard_closed (epoch) VALUES (%lld) ON CONFLICT DO NOTHING;"
                 "UPDATE shard_moves SET state = 'cut', updated_at = now() WHERE id = '%s'",
                 (long long)map->epoch, pg_quote_text(a, rs_map_json(rs, map)),
                 (long long)map->epoch, cut->run->id);
}

/* Close the targets one after the other, then open the source: so two sides never take writes of
 * one user. May be done again from any point. */
static enum err switch_back(struct rs *rs, const struct rs_run *run)
{
    const char *map = pg_quote_text(rs->sc->arena, run->end_map);
    struct pg_admin *c;
    int i;

    for (i = 0; i < run->n_targets; i++) {
        TRY(rs_peer(rs, run->targets[i].location, &c));
        TRY(rs_do(rs, c, RS_ASK_MS,
                  "INSERT INTO shard_map (epoch, map) VALUES (%lld, %s) ON CONFLICT DO NOTHING;"
                  "INSERT INTO shard_closed (epoch) VALUES (%lld) ON CONFLICT DO NOTHING",
                  (long long)run->epoch, map, (long long)run->epoch));
    }
    TRY(rs_peer(rs, run->source, &c));
    return rs_do(rs, c, RS_ASK_MS,
                 "INSERT INTO shard_map (epoch, map) VALUES (%lld, %s) ON CONFLICT DO NOTHING;"
                 "DELETE FROM shard_closed;"
                 "UPDATE shard_moves SET state = 'opened', updated_at = now() WHERE id = '%s'",
                 (long long)run->epoch, map, run->id);
}

/* The decision of a way back is the run's state "closing", with the map that it leads to. */
static enum err decide_back(struct rs *rs, const struct rs_cut *cut, const struct rs_map *map)
{
    cut->run->epoch = map->epoch;
    cut->run->end_map = arena_strdup(rs->keep, rs_map_json(rs, map));
    TRY(rs_run_set(rs, cut->run, "closing"));
    return switch_back(rs, cut->run);
}

/* Targets that are still open may have taken writes since: the source has to come level again. */
enum err rs_cut_finish(struct rs *rs, const struct rs_cut *cut)
{
    int64_t until_ms = clock_mono_ms() + FINISH_MS;
    const char *lsn;
    enum err e = take_gates(rs, cut);
    int i;

    for (i = 0; i < cut->n && e == OK; i++) {
        e = rs_lsn(rs, cut->checks[i].stream->from, &lsn);
        e = e == OK ? rs_stream_await(rs, cut->checks[i].stream, lsn, until_ms) : e;
    }
    e = e == OK ? switch_back(rs, cut->run) : e;
    open_gates(rs, cut);
    return e;
}

/* The map behind the cut-over: there, each target has its shards and is fresh, the source is
 * retired; back, the source has them all. */
static void next_map(const struct rs *rs, const struct rs_cut *cut, struct rs_map *map)
{
    const struct rs_run *run = cut->run;
    int i, j, at = rs_map_find(&rs->map, cut->is_back ? run->targets[0].location : run->source);

    *map = rs->map;
    map->epoch++;
    for (i = 0; i < run->n_targets; i++) {
        const struct rs_target *t = &run->targets[i];
        int index = i == 0 || cut->is_back ? at : map->n_databases++;

        map->databases[index] = (struct rs_database){
            .location = cut->is_back ? run->source : t->location, .is_fresh = true};
        for (j = 0; j < t->n_shards; j++) {
            map->shards[t->shards[j]] = index;
        }
        rs_map_retire(map, t->location, cut->is_back);
    }
    rs_map_retire(map, run->source, !cut->is_back);
}

/* Databases without shards leave the map; the others keep their order. */
static void drop_unused(struct rs_map *map)
{
    int new_index[RS_DATABASES_MAX], i, j, n = 0;

    for (i = 0; i < map->n_databases; i++) {
        bool is_used = false;

        for (j = 0; j < map->n_shards; j++) {
            is_used = is_used || map->shards[j] == i;
        }
        new_index[i] = n;
        if (is_used) {
            map->databases[n++] = map->databases[i];
        }
    }
    for (j = 0; j < map->n_shards; j++) {
        map->shards[j] = new_index[map->shards[j]];
    }
    map->n_databases = n;
}

/* Writers wait from the first line to the last. */
static enum err try_once(struct rs *rs, const struct rs_cut *cut, int64_t *rows_out)
{
    int64_t until_ms = clock_mono_ms() + rs->pause_max_ms;
    struct rs_map *map = arena_new(rs->sc->arena, struct rs_map);
    enum err e = take_gates(rs, cut);

    e = e == OK ? come_level(rs, cut, until_ms, rows_out) : e;
    e = e == OK ? start_reverse(rs, cut) : e;
    if (e == OK && clock_mono_ms() > until_ms) {
        e = scope_fail(rs->sc, ERR_TIMED_OUT, "writers had to wait too long");
    }
    if (e == OK) {
        next_map(rs, cut, map);
        drop_unused(map);
        e = cut->is_back ? decide_back(rs, cut, map) : close_source(rs, cut, map);
    }
    if (e == OK) {
        rs->map = *map;
    }
    open_gates(rs, cut);
    return e;
}

enum err rs_cut_over(struct rs *rs, const struct rs_cut *cut)
{
    enum err e = ERR_TIMED_OUT;
    int tries, i;

    for (tries = 1; tries <= TRIES && e == ERR_TIMED_OUT; tries++) {
        int64_t start_us, rows = 0;

        rs_forget(rs);
        for (i = 0; i < cut->n; i++) {
            TRY(rs_check_catch_up(rs, &cut->checks[i]));
        }
        TRY(start_reverse(rs, cut)); /* most of the way, so that little is left */
        start_us = clock_mono_us();
        e = try_once(rs, cut, &rows);
        if (e == OK) {
            rs_say(rs, "cut over; writes waited %lld ms at most, %lld rows were compared meanwhile",
                   (long long)(clock_mono_us() - start_us) / 1000, (long long)rows);
        } else if (e == ERR_TIMED_OUT) {
            rs_say(rs, "not yet: %s; gate opened after %lld ms, next try soon", rs->sc->cause,
                   (long long)(clock_mono_us() - start_us) / 1000);
            clock_nap_ms(RETRY_NAP_MS);
        }
    }
    return e;
}
