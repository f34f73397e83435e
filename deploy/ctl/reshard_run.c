/* A run: the move of all shards of one database, its source, to targets, from state to state. Each
 * state is stored when what leads to it is done; each step may be done again. See
 * docs/internals/reshard.md for the states and for what happens if the mover dies in one. */
#include <stdio.h>
#include <string.h>

#include "deploy/ctl/reshard.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/json.h"
#include "lib/pg_map.h"

/* Programs ask for the map once a second; after this long all of them know of a new flag. */
enum { ANNOUNCE_MS = 3000 };

static const char *const states[] = {"planned",  "copying",   "following", "cut",
                                     "moved",    "returning", "closing",   "opened",
                                     "returned", "done",      "aborted"};

static bool is_state(const struct rs_run *run, const char *state)
{
    return strcmp(run->state, state) == 0;
}

static const char *plan_json(struct rs *rs, const struct rs_run *run)
{
    struct strbuf b;
    int i, j;

    strbuf_init(&b, rs->sc->arena, 1024);
    strbuf_printf(&b, "{\"shardCount\":%d,\"epoch\":%lld,\"endMap\":%s,\"targets\":[",
                  run->shard_count, (long long)run->epoch,
                  run->end_map != NULL ? run->end_map : "null");
    for (i = 0; i < run->n_targets; i++) {
        const struct rs_target *t = &run->targets[i];

        strbuf_puts(&b, i > 0 ? ",{\"location\":" : "{\"location\":");
        strbuf_json(&b, t->location);
        strbuf_printf(&b, ",\"isMade\":%s,\"shards\":[", t->is_made ? "true" : "false");
        for (j = 0; j < t->n_shards; j++) {
            strbuf_printf(&b, "%s%d", j > 0 ? "," : "", t->shards[j]);
        }
        strbuf_puts(&b, "]}");
    }
    strbuf_puts(&b, "]}");
    return b.data;
}

static bool read_target(struct rs *rs, const struct json *json, struct rs_target *t)
{
    const struct json *shards = json_get(json, "shards");
    int64_t shard;
    size_t i;

    t->location = arena_strdup(rs->keep, json_str(json_get(json, "location"), NULL));
    t->n_shards = (int)json_length(shards);
    if (t->location == NULL || json_length(shards) > RS_SHARDS_MAX ||
        !json_truth(json_get(json, "isMade"), &t->is_made)) {
        return false;
    }
    for (i = 0; i < json_length(shards); i++) {
        if (!json_i64(json_item(shards, i), &shard) || shard < 0 || shard >= RS_SHARDS_MAX) {
            return false;
        }
        t->shards[i] = (int)shard;
    }
    return true;
}

static bool read_plan(struct rs *rs, const struct json *json, struct rs_run *run)
{
    const struct json *targets = json_get(json, "targets"), *map = json_get(json, "endMap");
    int64_t count;
    size_t i;

    if (!json_i64(json_get(json, "shardCount"), &count) ||
        !json_i64(json_get(json, "epoch"), &run->epoch) || json_length(targets) < 1 ||
        json_length(targets) > RS_TARGETS_MAX) {
        return false;
    }
    run->shard_count = (int)count;
    run->n_targets = (int)json_length(targets);
    if (json_kind(map) == JSON_OBJECT) {
        struct strbuf b;

        strbuf_init(&b, rs->keep, 1024);
        json_write(&b, map);
        run->end_map = b.data;
    }
    for (i = 0; i < json_length(targets); i++) {
        if (!read_target(rs, json_item(targets, i), &run->targets[i])) {
            return false;
        }
    }
    return true;
}

enum err rs_run_find(struct rs *rs, const char *location, struct rs_run *run, bool *found_out)
{
    const struct json *json;
    struct pg_admin *c;
    struct pg_table t;
    size_t i;

    *found_out = false;
    memset(run, 0, sizeof(*run));
    TRY(rs_peer(rs, location, &c));
    TRY(pg_admin_run(rs->sc, c, RS_ASK_MS,
                     "SELECT id, state, plan FROM shard_moves"
                     " WHERE state NOT IN ('done', 'aborted')",
                     0, NULL, &t));
    if (t.n_rows == 0) {
        return OK;
    }
    snprintf(run->id, sizeof(run->id), "%s", pg_cell(&t, 0, 0));
    run->source = arena_strdup(rs->keep, location);
    for (i = 0; i < ARRAY_LEN(states); i++) {
        if (strcmp(states[i], pg_cell(&t, 0, 1)) == 0) {
            run->state = states[i];
        }
    }
    TRY(json_parse(rs->sc, pg_cell(&t, 0, 2), strlen(pg_cell(&t, 0, 2)), &json));
    if (run->state == NULL || !read_plan(rs, json, run)) {
        return scope_fail(rs->sc, ERR_INTERNAL, "the move %s is not one of this version", run->id);
    }
    *found_out = true;
    return OK;
}

enum err rs_run_plan(struct rs *rs, struct rs_run *run)
{
    uint8_t random[6];
    const char *params[2];
    struct pg_admin *c;

    crypto_random(random, sizeof(random));
    hex_encode(random, sizeof(random), run->id);
    run->state = states[0];
    params[0] = run->id;
    params[1] = plan_json(rs, run);
    TRY(rs_peer(rs, run->source, &c));
    return pg_admin_run(rs->sc, c, RS_ASK_MS,
                        "INSERT INTO shard_moves (id, state, plan)"
                        " VALUES ($1::text, 'planned', $2::jsonb)",
                        2, params, NULL);
}

enum err rs_run_set(struct rs *rs, struct rs_run *run, const char *state)
{
    const char *params[] = {run->id, state, plan_json(rs, run)};
    struct pg_admin *c;
    size_t i;

    TRY(rs_peer(rs, run->source, &c));
    TRY(pg_admin_run(rs->sc, c, RS_ASK_MS,
                     "UPDATE shard_moves SET state = $2::text, plan = $3::jsonb, updated_at = now()"
                     " WHERE id = $1::text",
                     3, params, NULL));
    for (i = 0; i < ARRAY_LEN(states); i++) {
        if (strcmp(states[i], state) == 0) {
            run->state = states[i];
        }
    }
    return OK;
}

/* Flag the databases that are to be left, so that programs meet the gate at the first statement of
 * a transaction, and wait until all of them know. */
static enum err announce(struct rs *rs, const struct rs_run *run, bool is_back, bool is_moving)
{
    int i, n = is_back ? run->n_targets : 1;
    bool changes = false;

    for (i = 0; i < n; i++) {
        int at = rs_map_find(&rs->map, is_back ? run->targets[i].location : run->source);

        if (at >= 0 && rs->map.databases[at].is_moving != is_moving) {
            rs->map.databases[at].is_moving = is_moving;
            changes = true;
        }
    }
    return changes ? rs_map_publish(rs) : OK;
}

/* Databases, publications, slots, subscriptions. */
static enum err begin_copy(struct rs *rs, struct rs_run *run)
{
    struct rs_stream s;
    int i;

    for (i = 0; i < run->n_targets; i++) {
        bool is_there;

        rs_forget(rs);
        rs_stream_name(&s, run, i, false);
        TRY(rs_stream_is_there(rs, &s, &is_there));
        if (!is_there) {
            rs_say(rs, "step target: %s", run->targets[i].location);
            TRY(rs_target_make(rs, run, &run->targets[i]));
            rs_say(rs, "step subscribe: rows of the shards of target %d", i);
            TRY(rs_stream_publish(rs, &s));
            TRY(rs_stream_subscribe(rs, &s, true));
        }
    }
    return rs_run_set(rs, run, "copying");
}

static enum err await_copies(struct rs *rs, struct rs_run *run)
{
    struct rs_stream s;
    struct pg_admin *c;
    int i;

    rs_say(rs, "step copy: %d tables to %d database(s)", rs->n_tables, run->n_targets);
    for (i = 0; i < run->n_targets; i++) {
        rs_stream_name(&s, run, i, false);
        TRY(rs_stream_await_copy(rs, &s));
        TRY(rs_peer(rs, s.to, &c));
        TRY(rs_do(rs, c, RS_LONG_MS, "ANALYZE"));
    }
    return rs_run_set(rs, run, "following");
}

/* Compare all rows of the streams, then cut over. */
static enum err compare_and_cut(struct rs *rs, struct rs_run *run, const struct rs_stream *streams,
                                const struct rs_stream *reverse, bool is_back)
{
    struct rs_check checks[RS_TARGETS_MAX];
    struct rs_cut cut = {run, run->n_targets, checks, reverse, is_back};
    enum err e = OK;
    int i;

    for (i = 0; i < run->n_targets; i++) {
        checks[i] = (struct rs_check){.stream = &streams[i]};
        rs_keys_init(&checks[i].suspects);
    }
    for (i = 0; i < run->n_targets && e == OK; i++) {
        rs_say(rs, "step compare: %s", streams[i].to);
        e = rs_check_all(rs, &checks[i]);
        if (e == OK) {
            rs_say(rs, "  %lld rows compared, %zu to be looked at again", (long long)checks[i].rows,
                   checks[i].suspects.n);
        }
    }
    if (e == OK) {
        rs_say(rs, "step cut: writers wait at most %lld ms", (long long)rs->pause_max_ms);
        e = rs_cut_over(rs, &cut);
    }
    for (i = 0; i < run->n_targets; i++) {
        rs_keys_done(&checks[i].suspects);
    }
    return e;
}

/* The streams of a run in one direction, in rs->keep. */
static struct rs_stream *streams_of(struct rs *rs, const struct rs_run *run, bool is_back)
{
    struct rs_stream *s = arena_array(rs->keep, struct rs_stream, (size_t)run->n_targets);
    int i;

    for (i = 0; i < run->n_targets; i++) {
        rs_stream_name(&s[i], run, i, is_back);
    }
    return s;
}

static enum err cut_forward(struct rs *rs, struct rs_run *run)
{
    const struct rs_stream *streams = streams_of(rs, run, false);
    const struct rs_stream *reverse = streams_of(rs, run, true);
    int64_t until_ms = clock_mono_ms() + ANNOUNCE_MS;
    int i;

    rs_say(rs, "step announce: the gate is made, and programs are told");
    TRY(rs_gate_make(rs, run->source));
    TRY(announce(rs, run, false, true));
    for (i = 0; i < run->n_targets; i++) { /* made anew: an old one may hold much that came since */
        TRY(rs_slot_drop(rs, reverse[i].from, reverse[i].name));
        TRY(rs_stream_publish(rs, &reverse[i]));
    }
    if (until_ms > clock_mono_ms()) {
        clock_nap_ms(until_ms - clock_mono_ms());
    }
    TRY(compare_and_cut(rs, run, streams, reverse, false));
    run->state = "cut";
    return OK;
}

/* The way there ends before the way back begins: rows must not go in circles. */
static enum err turn_round(struct rs *rs, struct rs_run *run)
{
    const struct rs_stream *streams = streams_of(rs, run, false);
    const struct rs_stream *reverse = streams_of(rs, run, true);
    int i;

    rs_say(rs, "step reverse: the old database follows the new one(s) from now on");
    rs_map_spread(rs);
    for (i = 0; i < run->n_targets; i++) {
        TRY(rs_stream_drop(rs, &streams[i]));
    }
    for (i = 0; i < run->n_targets; i++) {
        TRY(rs_stream_subscribe(rs, &reverse[i], false));
    }
    return rs_run_set(rs, run, "moved");
}

enum err rs_run_forward(struct rs *rs, struct rs_run *run)
{
    struct pg_admin *c;

    TRY(rs_peer(rs, run->source, &c));
    TRY(rs_tables_load(rs, c));
    if (is_state(run, "planned")) {
        TRY(begin_copy(rs, run));
    }
    if (is_state(run, "copying")) {
        TRY(await_copies(rs, run));
    }
    if (is_state(run, "following")) {
        TRY(cut_forward(rs, run));
    }
    if (is_state(run, "cut")) {
        TRY(turn_round(rs, run));
    }
    if (!is_state(run, "moved")) {
        return scope_fail(rs->sc, ERR_CONFLICT, "the move %s is %s: it is on its way back", run->id,
                          run->state);
    }
    rs_say(rs, "moved: 'shards way-back' returns to %s, 'shards clean-up' makes it final",
           run->source);
    return OK;
}

/* Compare with the old side and cut over to it. */
static enum err cut_back(struct rs *rs, struct rs_run *run)
{
    const struct rs_stream *reverse = streams_of(rs, run, true);
    int i;

    rs_say(rs, "step announce: the gates are made, and programs are told");
    for (i = 0; i < run->n_targets; i++) {
        TRY(rs_gate_make(rs, run->targets[i].location));
    }
    TRY(announce(rs, run, true, true));
    clock_nap_ms(ANNOUNCE_MS);
    TRY(compare_and_cut(rs, run, reverse, NULL, true));
    run->state = "opened";
    return OK;
}

/* A way back that was decided and not ended. */
static enum err finish_back(struct rs *rs, struct rs_run *run, const struct rs_stream *reverse)
{
    struct rs_check checks[RS_TARGETS_MAX];
    struct rs_cut cut = {run, run->n_targets, checks, NULL, true};
    int i;

    for (i = 0; i < run->n_targets; i++) {
        checks[i] = (struct rs_check){.stream = &reverse[i]};
    }
    rs_say(rs, "step finish: the way back was decided");
    TRY(rs_cut_finish(rs, &cut));
    run->state = "opened";
    return rs_map_load(rs);
}

enum err rs_run_back(struct rs *rs, struct rs_run *run)
{
    const struct rs_stream *reverse = streams_of(rs, run, true);
    struct pg_admin *c;
    int i;

    TRY(rs_peer(rs, run->source, &c));
    TRY(rs_tables_load(rs, c));
    if (is_state(run, "moved")) {
        TRY(rs_run_set(rs, run, "returning"));
    }
    if (is_state(run, "returning")) {
        TRY(cut_back(rs, run));
    }
    if (is_state(run, "closing")) {
        TRY(finish_back(rs, run, reverse));
    }
    if (is_state(run, "opened")) {
        rs_say(rs, "step release: the streams end");
        rs_map_spread(rs);
        for (i = 0; i < run->n_targets; i++) {
            TRY(rs_stream_drop(rs, &reverse[i]));
        }
        TRY(rs_run_set(rs, run, "returned"));
    }
    if (!is_state(run, "returned")) {
        return scope_fail(rs->sc, ERR_CONFLICT, "the move %s is %s: there is no way back from that",
                          run->id, run->state);
    }
    rs_say(rs, "returned: 'shards clean-up' drops what the move had made");
    return OK;
}

/* A move before its cut-over. */
static enum err abort_forward(struct rs *rs, struct rs_run *run)
{
    const struct rs_stream *streams = streams_of(rs, run, false);
    const struct rs_stream *reverse = streams_of(rs, run, true);
    int i;

    TRY(rs_gate_remove(rs, run->source));
    TRY(announce(rs, run, false, false));
    for (i = 0; i < run->n_targets; i++) {
        const struct rs_target *t = &run->targets[i];
        enum rs_presence presence;

        TRY(rs_stream_drop(rs, &streams[i]));
        TRY(rs_target_look(rs, t->location, &presence));
        if (presence == RS_ABSENT) {
            continue;
        }
        TRY(rs_stream_drop(rs, &reverse[i]));
        if (t->is_made) {
            TRY(rs_target_drop(rs, t->location));
        } else {
            rs_say(rs, "%s was not made by the move, and is left as it is", t->location);
        }
    }
    return rs_run_set(rs, run, "aborted");
}

/* A way back before its cut-over. */
static enum err abort_back(struct rs *rs, struct rs_run *run)
{
    const struct rs_stream *reverse = streams_of(rs, run, true);
    int i;

    for (i = 0; i < run->n_targets; i++) {
        TRY(rs_gate_remove(rs, run->targets[i].location));
        TRY(rs_slot_drop(rs, run->targets[i].location, reverse[i].check));
    }
    TRY(announce(rs, run, true, false));
    return rs_run_set(rs, run, "moved");
}

enum err rs_run_abort(struct rs *rs, struct rs_run *run)
{
    struct pg_admin *c;

    TRY(rs_peer(rs, run->source, &c));
    TRY(rs_tables_load(rs, c));
    if (is_state(run, "planned") || is_state(run, "copying") || is_state(run, "following")) {
        TRY(abort_forward(rs, run));
        rs_say(rs, "aborted: everything is as it was");
        return OK;
    }
    if (is_state(run, "returning")) {
        TRY(abort_back(rs, run));
        rs_say(rs, "the way back is aborted; the move stands");
        return OK;
    }
    return scope_fail(rs->sc, ERR_CONFLICT, "the move %s is %s: %s", run->id, run->state,
                      is_state(run, "cut") || is_state(run, "closing") || is_state(run, "opened")
                          ? "it is decided; give the same command again to end it"
                          : "there is nothing under way ('shards way-back' returns)");
}

/* The side that was left keeps its map and the note that it is closed, so that a program with an
 * old configuration finds its way; its rows go. */
static enum err empty_database(struct rs *rs, const char *location)
{
    struct pg_admin *c;
    int i;

    TRY(rs_peer(rs, location, &c));
    for (i = 0; i < rs->n_tables; i++) {
        const char *name = pg_quote_name(rs->sc->arena, rs->tables[i].name);

        TRY(rs_do(rs, c, RS_LONG_MS,
                  "SET LOCAL session_replication_role = replica; TRUNCATE public.%s", name));
    }
    return OK;
}

/* A database that is still configured is asked by programs that start, and a tool that makes
 * what is configured would make it anew, empty. */
static enum err refuse_if_configured(struct rs *rs, const char *location)
{
    const struct pg_map *configured = pg_map_of_config(rs->sc, config());
    int i;

    for (i = 0; i < configured->n_databases; i++) {
        if (strcmp(configured->databases[i].location, location) == 0) {
            return scope_fail(rs->sc, ERR_CONFLICT,
                              "the configuration still names %s: change it first, or do without "
                              "--drop",
                              location);
        }
    }
    return OK;
}

/* After a move: the source goes. */
static enum err clean_up_moved(struct rs *rs, struct rs_run *run, bool drop)
{
    const struct rs_stream *reverse = streams_of(rs, run, true);
    int i;

    if (drop) {
        TRY(refuse_if_configured(rs, run->source));
    }
    for (i = 0; i < run->n_targets; i++) {
        int at = rs_map_find(&rs->map, run->targets[i].location);

        TRY(rs_stream_drop(rs, &reverse[i]));
        TRY(rs_gate_remove(rs, run->targets[i].location));
        if (at >= 0) {
            rs->map.databases[at].is_fresh = rs->map.databases[at].is_moving = false;
        }
    }
    TRY(rs_map_publish(rs)); /* to the retired one too, which keeps it */
    TRY(empty_database(rs, run->source));
    TRY(rs_run_set(rs, run, "done"));
    rs_map_retire(&rs->map, run->source, false);
    TRY(rs_map_publish(rs));
    if (drop) {
        TRY(rs_target_drop(rs, run->source));
    }
    rs_say(rs, "%s %s", run->source,
           drop ? "is dropped" : "is empty; it still tells who asks where the shards are");
    return OK;
}

/* After a way back: the targets go. */
static enum err clean_up_returned(struct rs *rs, struct rs_run *run)
{
    int i, at = rs_map_find(&rs->map, run->source);

    TRY(rs_gate_remove(rs, run->source));
    for (i = 0; i < run->n_targets; i++) {
        rs_map_retire(&rs->map, run->targets[i].location, false);
    }
    if (at >= 0) {
        rs->map.databases[at].is_fresh = rs->map.databases[at].is_moving = false;
    }
    TRY(rs_map_publish(rs));
    for (i = 0; i < run->n_targets; i++) {
        if (run->targets[i].is_made) {
            TRY(rs_target_drop(rs, run->targets[i].location));
        } else {
            rs_say(rs, "%s was not made by the move, and is left as it is",
                   run->targets[i].location);
        }
    }
    return rs_run_set(rs, run, "done");
}

enum err rs_run_clean_up(struct rs *rs, struct rs_run *run, bool drop)
{
    struct pg_admin *c;

    TRY(rs_peer(rs, run->source, &c));
    TRY(rs_tables_load(rs, c));
    if (is_state(run, "moved")) {
        TRY(clean_up_moved(rs, run, drop));
    } else if (is_state(run, "returned")) {
        TRY(clean_up_returned(rs, run));
    } else {
        return scope_fail(rs->sc, ERR_CONFLICT, "the move %s is %s, not yet at an end", run->id,
                          run->state);
    }
    rs_say(rs, "clean");
    return OK;
}
