/* What the parts of "maxboosterctl shards" share; docs/internals/reshard.md has the whole.
 *
 * Everything hangs on a struct rs. Results of queries are scratch: rs_forget() takes them back, so
 * that a move may last for hours; what must live longer is copied to rs->keep. Failures are told
 * by scope_fail() on rs->sc. Every call blocks. */
#ifndef DEPLOY_CTL_RESHARD_H
#define DEPLOY_CTL_RESHARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/pg_admin.h"
#include "lib/scope.h"
#include "lib/str.h"

enum {
    RS_SHARDS_MAX = 128, /* SHARD_COUNT's */
    RS_DATABASES_MAX = 256,
    RS_TARGETS_MAX = 32,
    RS_TABLES_MAX = 64,
    RS_KEYS_MAX = 4,      /* columns of a primary key */
    RS_NAME_SIZE = 32,    /* of slots, subscriptions, publications */
    RS_ASK_MS = 60000,    /* a statement that should take milliseconds */
    RS_LONG_MS = 3600000, /* one that may take long: databases, indexes, statistics */
    RS_POLL_MS = 200
};

/* The map of the fleet: shard to database, database to location (a connection string without user
 * and password). Retired databases hold no shard, but still a way back. */
struct rs_map {
    int64_t epoch;
    int n_shards, n_databases, n_retired;
    int shards[RS_SHARDS_MAX];
    struct rs_database {
        const char *location;
        bool is_moving, is_fresh;
    } databases[RS_DATABASES_MAX];
    const char *retired[RS_DATABASES_MAX];
};

/* A table whose rows move. */
struct rs_table {
    const char *name;
    const char *place; /* SQL: the row's place, for queries */
    const char *plain; /* the same of functions that a publication's filter may use */
    int n_keys;
    const char *keys[RS_KEYS_MAX], *types[RS_KEYS_MAX];
};

/* An open connection, kept for the next use. */
struct rs_peer {
    const char *location;
    struct pg_admin *conn;
};

struct rs {
    struct scope *sc;
    struct arena *keep;
    const char *admin; /* connection string whose user and password are used everywhere */
    const char *owner; /* role of the programs, owner of the databases */
    int64_t started_ms;
    int64_t pause_max_ms; /* longest that writes may wait at a cut-over */
    struct rs_map map;
    int n_peers;
    struct rs_peer peers[RS_DATABASES_MAX + RS_TARGETS_MAX];
    int n_tables;
    struct rs_table tables[RS_TABLES_MAX];
};

/* Make *rs in the caller's storage, and end it (connections are closed). */
MUST_USE enum err rs_init(struct rs *rs, struct scope *sc);
void rs_done(struct rs *rs);

/* Take back all results up to now. */
void rs_forget(struct rs *rs);

/* Print a line of progress with the time since the start. */
void rs_say(const struct rs *rs, const char *format, ...) PRINTF_LIKE(2, 3);

/* The administrator's connection string of a location, in rs->keep. */
const char *rs_conninfo(struct rs *rs, const char *location);

/* The kept connection to a location, opened at need. */
MUST_USE enum err rs_peer(struct rs *rs, const char *location, struct pg_admin **out);

/* A kept connection to the database postgres of that location's server. */
MUST_USE enum err rs_server(struct rs *rs, const char *location, struct pg_admin **out);

/* Close it (before its database is dropped, or after it was lost). */
void rs_peer_forget(struct rs *rs, const char *location);

/* Run a statement that gives at least one row; its first value (may be NULL). */
MUST_USE enum err rs_value(struct rs *rs, struct pg_admin *c, const char *sql, int n_params,
                           const char *const *params, const char **out);

/* The same for a truth and a number. */
MUST_USE enum err rs_truth(struct rs *rs, struct pg_admin *c, const char *sql, int n_params,
                           const char *const *params, bool *out);
MUST_USE enum err rs_number(struct rs *rs, struct pg_admin *c, const char *sql, int n_params,
                            const char *const *params, int64_t *out);

/* Run one or more statements without parameters, for their effect. */
MUST_USE enum err rs_do(struct rs *rs, struct pg_admin *c, int64_t timeout_ms, const char *format,
                        ...) PRINTF_LIKE(4, 5);

/* --- The map (reshard_map.c). --- */

/* The newest map that any database knows, into rs->map; the configured one is its beginning. */
MUST_USE enum err rs_map_load(struct rs *rs);

/* Hold the right to change the map: one mover at a time. Until rs_done(). */
MUST_USE enum err rs_map_lock(struct rs *rs);

/* Write rs->map with the next epoch into every database that it names. */
MUST_USE enum err rs_map_publish(struct rs *rs);

/* Write rs->map, whose epoch stands, into every database again. A database that is away is told
 * of, and does not matter. */
void rs_map_spread(struct rs *rs);

/* The map as JSON, in scratch. */
const char *rs_map_json(struct rs *rs, const struct rs_map *map);

/* Index of the database at a location, -1 for none. */
int rs_map_find(const struct rs_map *map, const char *location);

/* Does it name the location, be it as a retired one? */
bool rs_map_names(const struct rs_map *map, const char *location);

/* Take a location off the retired ones, or put it there. */
void rs_map_retire(struct rs_map *map, const char *location, bool is_retired);

/* --- Tables (reshard_table.c). --- */

/* Read the tables that move into rs->tables; ERR_CONFLICT where one does not say how. */
MUST_USE enum err rs_tables_load(struct rs *rs, struct pg_admin *c);

/* Condition on a place for shards of a count: "(place % 4) IN (1, 3)". */
const char *rs_where_shards(struct rs *rs, const char *place, int n_shards, const int *shards,
                            int n);

/* --- Runs (reshard_run.c). --- */

struct rs_target {
    const char *location;
    bool is_made; /* the database is ours to drop */
    int n_shards;
    int shards[RS_SHARDS_MAX];
};

/* A move of all shards of one database, the source, to targets; kept in the source. */
struct rs_run {
    char id[13];
    const char *state; /* static */
    const char *source;
    int shard_count;     /* that the targets' shards are meant by */
    int64_t epoch;       /* of the map that a way back ends with; 0 before */
    const char *end_map; /* that map */
    int n_targets;
    struct rs_target targets[RS_TARGETS_MAX];
};

/* Find the run that is open in that database; *found_out. */
MUST_USE enum err rs_run_find(struct rs *rs, const char *location, struct rs_run *run,
                              bool *found_out);

/* May it start? Every reason against it is told on standard error. Sets is_made. */
MUST_USE enum err rs_run_check(struct rs *rs, struct rs_run *run);

/* Store a new run. */
MUST_USE enum err rs_run_plan(struct rs *rs, struct rs_run *run);

/* Store its new state. */
MUST_USE enum err rs_run_set(struct rs *rs, struct rs_run *run, const char *state);

/* Take it from whatever state it is in to "moved". */
MUST_USE enum err rs_run_forward(struct rs *rs, struct rs_run *run);

/* From "moved" back to where it began: "returned". */
MUST_USE enum err rs_run_back(struct rs *rs, struct rs_run *run);

/* Undo what is not decided: all of a move before its cut-over, or of a way back before its. */
MUST_USE enum err rs_run_abort(struct rs *rs, struct rs_run *run);

/* End it: the side that was left goes, with everything that kept it in step. */
MUST_USE enum err rs_run_clean_up(struct rs *rs, struct rs_run *run, bool drop);

/* --- Targets (reshard_target.c). --- */

enum rs_presence { RS_ABSENT, RS_EMPTY, RS_FILLED };

/* What is at a location? */
MUST_USE enum err rs_target_look(struct rs *rs, const char *location, enum rs_presence *out);

/* Make the database (where is_made) and its schema, the source's, without rows. Repeatable. */
MUST_USE enum err rs_target_make(struct rs *rs, const struct rs_run *run,
                                 const struct rs_target *target);

/* Drop a database of ours; it may be gone already. */
MUST_USE enum err rs_target_drop(struct rs *rs, const char *location);

/* --- Streams (reshard_stream.c): logical replication from one database to another. --- */

struct rs_stream {
    char name[RS_NAME_SIZE];  /* of publication, slot and subscription */
    char check[RS_NAME_SIZE]; /* of the slot that tells what has changed */
    const char *from, *to;    /* locations */
    bool is_back;
    int n_shards; /* of the rows that go along it: count, and which */
    const struct rs_target *target;
};

/* The streams of a run, there or back: one a target. */
void rs_stream_name(struct rs_stream *s, const struct rs_run *run, int target, bool is_back);

/* Publication and slot. Repeatable. */
MUST_USE enum err rs_stream_publish(struct rs *rs, const struct rs_stream *s);

/* Subscription; with_copy: of what is there already. Repeatable. */
MUST_USE enum err rs_stream_subscribe(struct rs *rs, const struct rs_stream *s, bool with_copy);

/* Is the subscription there? */
MUST_USE enum err rs_stream_is_there(struct rs *rs, const struct rs_stream *s, bool *out);

/* Wait until the copy has been made, telling how it goes. */
MUST_USE enum err rs_stream_await_copy(struct rs *rs, const struct rs_stream *s);

/* Wait until the receiving side has everything up to the position lsn of the sending one.
 * ERR_TIMED_OUT at until_ms. */
MUST_USE enum err rs_stream_await(struct rs *rs, const struct rs_stream *s, const char *lsn,
                                  int64_t until_ms);

/* Where the sending side is now, flushed to its disk: scratch. */
MUST_USE enum err rs_lsn(struct rs *rs, const char *location, const char **out);

/* Drop subscription, slots and publication, whatever of them is there. */
MUST_USE enum err rs_stream_drop(struct rs *rs, const struct rs_stream *s);

/* Drop a slot that nobody is going to use again; it may be gone. */
MUST_USE enum err rs_slot_drop(struct rs *rs, const char *location, const char *slot);

/* --- Checks (reshard_check.c, reshard_change.c): is the other side the same? --- */

/* A row by its table and key. */
struct rs_key {
    int table;
    int age; /* rounds that it has differed without a change */
    const char *values[RS_KEYS_MAX];
};

/* Rows, in an arena of their own. */
struct rs_keys {
    struct arena *arena;
    size_t n, cap;
    struct rs_key *items;
};

void rs_keys_init(struct rs_keys *k);
void rs_keys_done(struct rs_keys *k);
void rs_keys_clear(struct rs_keys *k);
void rs_keys_add(struct rs_keys *k, int table, int n_values, const char *const *values, int age);

/* Order them, and leave one of each (the youngest). */
void rs_keys_sort(struct rs_keys *k);

/* The rows that a batch of changes since the last call has touched; *more_out: there are more. */
MUST_USE enum err rs_changes_take(struct rs *rs, const struct rs_stream *s, struct rs_keys *out,
                                  bool *more_out);

/* The check of one stream: rows that differed when last looked at. */
struct rs_check {
    const struct rs_stream *stream;
    struct rs_keys suspects;
    int64_t rows;
};

/* Compare all rows, range by range; starts to note changes before. */
MUST_USE enum err rs_check_all(struct rs *rs, struct rs_check *check);

/* Compare what has changed since, until little is left. ERR_CONFLICT: rows differ for good. */
MUST_USE enum err rs_check_catch_up(struct rs *rs, struct rs_check *check);

/* Under the gate, both sides at one position: compare what is left. ERR_CONFLICT: a row differs. */
MUST_USE enum err rs_check_last(struct rs *rs, struct rs_check *check, int64_t *rows_out);

/* --- The gate (reshard_cut.c). --- */

/* Make the gate of a database, for all writers; or take it away. Repeatable. */
MUST_USE enum err rs_gate_make(struct rs *rs, const char *location);
MUST_USE enum err rs_gate_remove(struct rs *rs, const char *location);

/* What a cut-over needs. */
struct rs_cut {
    struct rs_run *run;
    int n;
    struct rs_check *checks;         /* of the streams that lead to the new side */
    const struct rs_stream *reverse; /* streams back, whose slots start here; NULL for none */
    bool is_back;
};

/* Hold writers, let the new side come level, compare, and decide. Tries a few times; each time
 * writers wait at most pause_max_ms. */
MUST_USE enum err rs_cut_over(struct rs *rs, const struct rs_cut *cut);

/* Finish a way back that was decided. */
MUST_USE enum err rs_cut_finish(struct rs *rs, const struct rs_cut *cut);

#endif
