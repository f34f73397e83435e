/* Streams: logical replication of one database's rows to another. Slots are made before their
 * subscriptions, since CREATE SUBSCRIPTION would wait for itself where both databases are on one
 * server. */
#include <stdio.h>
#include <string.h>

#include "deploy/ctl/reshard.h"
#include "lib/clock.h"

enum { DROP_TRIES = 50, DROP_NAP_MS = 100, SAY_EVERY_MS = 5000, AWAIT_NAP_MS = 4 };
enum { ERRORS_MAX = 100 }; /* a worker that fails is started again every five seconds */

void rs_stream_name(struct rs_stream *s, const struct rs_run *run, int target, bool is_back)
{
    const struct rs_target *t = &run->targets[target];

    memset(s, 0, sizeof(*s));
    snprintf(s->name, sizeof(s->name), "mb_%s_%c%d", run->id, is_back ? 'b' : 'f', target);
    snprintf(s->check, sizeof(s->check), "mb_%s_%c%d_c", run->id, is_back ? 'b' : 'f', target);
    s->is_back = is_back;
    s->from = is_back ? t->location : run->source;
    s->to = is_back ? run->source : t->location;
    s->n_shards = run->shard_count;
    s->target = t;
}

static enum err has(struct rs *rs, struct pg_admin *c, const char *from_where, const char *name,
                    bool *out)
{
    const char *sql =
        arena_printf(rs->sc->arena, "SELECT EXISTS (SELECT FROM %s = $1::text)", from_where);

    return rs_truth(rs, c, sql, 1, &name, out);
}

static enum err make_publication(struct rs *rs, const struct rs_stream *s, struct pg_admin *c)
{
    struct strbuf b;
    bool is_there;
    int i;

    TRY(has(rs, c, "pg_publication WHERE pubname", s->name, &is_there));
    if (is_there) {
        return OK;
    }
    strbuf_init(&b, rs->sc->arena, 4096);
    strbuf_printf(&b, "CREATE PUBLICATION %s FOR TABLE ", s->name);
    for (i = 0; i < rs->n_tables; i++) {
        const struct rs_table *t = &rs->tables[i];

        strbuf_printf(&b, "%spublic.%s", i > 0 ? ", " : "", pg_quote_name(rs->sc->arena, t->name));
        if (!s->is_back) { /* what comes back is all of it */
            strbuf_printf(
                &b, " WHERE (%s)",
                rs_where_shards(rs, t->plain, s->n_shards, s->target->shards, s->target->n_shards));
        }
    }
    return pg_admin_run(rs->sc, c, RS_ASK_MS, b.data, 0, NULL, NULL);
}

static enum err make_slot(struct rs *rs, struct pg_admin *c, const char *slot)
{
    bool is_there;

    TRY(has(rs, c, "pg_replication_slots WHERE slot_name", slot, &is_there));
    return is_there
               ? OK
               : pg_admin_run(rs->sc, c, RS_LONG_MS,
                              "SELECT pg_create_logical_replication_slot($1::text, 'pgoutput')", 1,
                              &slot, NULL);
}

enum err rs_stream_publish(struct rs *rs, const struct rs_stream *s)
{
    struct pg_admin *c;

    TRY(rs_peer(rs, s->from, &c));
    TRY(make_publication(rs, s, c));
    return make_slot(rs, c, s->name);
}

enum err rs_stream_is_there(struct rs *rs, const struct rs_stream *s, bool *out)
{
    const char *name = pg_conninfo_get(rs->sc->arena, s->to, "dbname");
    const char *params[] = {s->name, name};
    struct pg_admin *server;

    TRY(rs_server(rs, s->to, &server));
    return rs_truth(rs, server,
                    "SELECT EXISTS (SELECT FROM pg_subscription s JOIN pg_database d"
                    " ON d.oid = s.subdbid WHERE s.subname = $1::text AND d.datname = $2::text)",
                    2, params, out);
}

enum err rs_stream_subscribe(struct rs *rs, const struct rs_stream *s, bool with_copy)
{
    struct pg_admin *c;
    bool is_there;

    TRY(rs_stream_is_there(rs, s, &is_there));
    if (is_there) {
        return OK;
    }
    TRY(rs_peer(rs, s->to, &c));
    return rs_do(rs, c, RS_ASK_MS,
                 "CREATE SUBSCRIPTION %s CONNECTION %s PUBLICATION %s"
                 " WITH (create_slot = false, slot_name = %s, copy_data = %s)",
                 s->name, pg_quote_text(rs->sc->arena, rs_conninfo(rs, s->from)), s->name, s->name,
                 with_copy ? "true" : "false");
}

/* A slot whose WAL is gone (max_slot_wal_keep_size) never goes on. */
static enum err check_slot(struct rs *rs, const struct rs_stream *s)
{
    const char *name = s->name;
    struct pg_admin *c;
    bool is_lost;

    TRY(rs_peer(rs, s->from, &c));
    TRY(rs_truth(rs, c,
                 "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1::text"
                 " AND wal_status = 'lost')",
                 1, &name, &is_lost));
    return is_lost ? scope_fail(rs->sc, ERR_CONFLICT,
                                "%s: the WAL that slot %s needs is gone (max_slot_wal_keep_size): "
                                "abort the move, and begin again",
                                s->from, s->name)
                   : OK;
}

/* Tables that are still being copied, those that are not begun included; errors so far. */
static enum err look_at_copy(struct rs *rs, const struct rs_stream *s, int64_t *left_out,
                             int64_t *rows_out, int64_t *errors_out)
{
    const char *name = s->name;
    struct pg_admin *c;

    TRY(rs_peer(rs, s->to, &c));
    TRY(rs_number(rs, c,
                  "SELECT count(*) FROM pg_subscription_rel r JOIN pg_subscription s"
                  " ON s.oid = r.srsubid WHERE s.subname = $1::text AND r.srsubstate <> 'r'",
                  1, &name, left_out));
    TRY(rs_number(rs, c,
                  "SELECT coalesce(sum(tuples_processed), 0)::bigint FROM pg_stat_progress_copy"
                  " WHERE datname = current_database()",
                  0, NULL, rows_out));
    return rs_number(rs, c,
                     "SELECT coalesce(sum(apply_error_count + sync_error_count), 0)::bigint"
                     " FROM pg_stat_subscription_stats WHERE subname = $1::text",
                     1, &name, errors_out);
}

enum err rs_stream_await_copy(struct rs *rs, const struct rs_stream *s)
{
    int64_t left = 1, rows, errors, said_ms = clock_mono_ms();

    while (left > 0) {
        rs_forget(rs);
        TRY(check_slot(rs, s));
        TRY(look_at_copy(rs, s, &left, &rows, &errors));
        if (errors > ERRORS_MAX) {
            return scope_fail(rs->sc, ERR_DEPENDENCY_UNAVAILABLE,
                              "%s fails again and again; the server's log of %s says why", s->name,
                              s->to);
        }
        if (left > 0 && clock_mono_ms() - said_ms >= SAY_EVERY_MS) {
            rs_say(rs, "  %s: %lld of %d tables to go, %lld rows of the present ones copied%s",
                   s->name, (long long)left, rs->n_tables, (long long)rows,
                   errors > 0 ? "; it has failed and tries again, see the server's log" : "");
            said_ms = clock_mono_ms();
        }
        if (left > 0) {
            clock_nap_ms(RS_POLL_MS);
        }
    }
    return OK;
}

enum err rs_lsn(struct rs *rs, const char *location, const char **out)
{
    struct pg_admin *c;

    TRY(rs_peer(rs, location, &c));
    /* A commit of ours carries all earlier ones to the disk, from where they are sent. */
    TRY(rs_do(rs, c, RS_ASK_MS, "SELECT pg_logical_emit_message(true, 'maxboosterctl', '')"));
    return rs_value(rs, c, "SELECT pg_current_wal_flush_lsn()", 0, NULL, out);
}

enum err rs_stream_await(struct rs *rs, const struct rs_stream *s, const char *lsn,
                         int64_t until_ms)
{
    const char *params[] = {s->name, arena_strdup(rs->keep, lsn)};
    struct pg_admin *c;
    bool level = false;

    for (;;) {
        TRY(rs_peer(rs, s->from, &c));
        TRY(rs_truth(rs, c,
                     "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming'"
                     " AND application_name = $1::text AND replay_lsn >= $2::pg_lsn)",
                     2, params, &level));
        if (level) {
            return OK;
        }
        if (clock_mono_ms() >= until_ms) {
            TRY(check_slot(rs, s));
            return scope_fail(rs->sc, ERR_TIMED_OUT, "%s is behind %s", s->to, params[1]);
        }
        clock_nap_ms(AWAIT_NAP_MS);
    }
}

enum err rs_slot_drop(struct rs *rs, const char *location, const char *slot)
{
    struct pg_admin *server;
    int tries;

    TRY(rs_server(rs, location, &server));
    for (tries = 0;; tries++) {
        bool is_there;

        /* Who still reads from it is sent away first. */
        TRY(pg_admin_run(rs->sc, server, RS_ASK_MS,
                         "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                         " WHERE slot_name = $1::text AND active_pid IS NOT NULL",
                         1, &slot, NULL));
        if (pg_admin_run(rs->sc, server, RS_ASK_MS,
                         "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                         " WHERE slot_name = $1::text",
                         1, &slot, NULL) == OK) {
            return OK;
        }
        TRY(has(rs, server, "pg_replication_slots WHERE slot_name", slot, &is_there));
        if (!is_there) {
            return OK;
        }
        if (tries == DROP_TRIES) {
            return scope_fail(rs->sc, ERR_CONFLICT, "slot %s is in use", slot);
        }
        clock_nap_ms(DROP_NAP_MS);
    }
}

/* Slots of a copy that never ended are named after subscription and server of the other side. */
static enum err drop_copy_slots(struct rs *rs, const struct rs_stream *s, const char *oid,
                                const char *system)
{
    const char *pattern = arena_printf(rs->sc->arena, "pg\\_%s\\_sync\\_%%\\_%s", oid, system);
    struct pg_admin *server;
    struct pg_table t;
    int i;

    TRY(rs_server(rs, s->from, &server));
    TRY(pg_admin_run(rs->sc, server, RS_ASK_MS,
                     "SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE $1::text", 1,
                     &pattern, &t));
    for (i = 0; i < t.n_rows; i++) {
        TRY(rs_slot_drop(rs, s->from, pg_cell(&t, i, 0)));
    }
    return OK;
}

/* End the workers of a subscription that is disabled. */
static enum err end_workers(struct rs *rs, const struct rs_stream *s, struct pg_admin *c)
{
    const char *name = s->name;
    int tries;

    for (tries = 0; tries < DROP_TRIES; tries++) {
        int64_t n;

        TRY(rs_number(rs, c,
                      "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_subscription"
                      " WHERE subname = $1::text AND pid IS NOT NULL",
                      1, &name, &n));
        if (n == 0) {
            return OK;
        }
        clock_nap_ms(DROP_NAP_MS);
    }
    return scope_fail(rs->sc, ERR_CONFLICT, "the workers of %s do not end", s->name);
}

/* Workers first, then their slots, then the rest: on one server DROP SUBSCRIPTION would wait for a
 * slot in the making, and that for the transaction of DROP SUBSCRIPTION. */
static enum err drop_subscription(struct rs *rs, const struct rs_stream *s)
{
    const char *name = s->name;
    struct pg_admin *c;
    struct pg_table t;

    TRY(rs_peer(rs, s->to, &c));
    TRY(pg_admin_run(rs->sc, c, RS_ASK_MS,
                     "SELECT oid, (SELECT system_identifier FROM pg_control_system())"
                     " FROM pg_subscription WHERE subname = $1::text",
                     1, &name, &t));
    if (t.n_rows == 0) {
        return OK;
    }
    TRY(rs_do(rs, c, RS_ASK_MS, "ALTER SUBSCRIPTION %s DISABLE", s->name));
    TRY(rs_do(rs, c, RS_ASK_MS, "ALTER SUBSCRIPTION %s SET (slot_name = NONE)", s->name));
    TRY(end_workers(rs, s, c));
    TRY(drop_copy_slots(rs, s, pg_cell(&t, 0, 0), pg_cell(&t, 0, 1)));
    return rs_do(rs, c, RS_ASK_MS, "DROP SUBSCRIPTION %s", s->name);
}

enum err rs_stream_drop(struct rs *rs, const struct rs_stream *s)
{
    struct pg_admin *c;
    bool is_there;

    TRY(rs_stream_is_there(rs, s, &is_there));
    if (is_there) {
        TRY(drop_subscription(rs, s));
    }
    TRY(rs_slot_drop(rs, s->from, s->name));
    TRY(rs_slot_drop(rs, s->from, s->check));
    TRY(rs_peer(rs, s->from, &c));
    return rs_do(rs, c, RS_ASK_MS, "DROP PUBLICATION IF EXISTS %s", s->name);
}
