/* What every part of a move needs: connections that are kept, short queries, words on progress. */
#include "deploy/ctl/reshard.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/config.h"

enum { KEEP_BYTES = 4 * 1024 * 1024, CONNECT_MS = 10000 };

enum err rs_init(struct rs *rs, struct scope *sc)
{
    const struct config *c = config();

    memset(rs, 0, sizeof(*rs));
    rs->sc = sc;
    rs->keep = arena_open(KEEP_BYTES);
    rs->admin = c->database_admin_url[0] != '\0' ? c->database_admin_url : c->database_url;
    rs->owner = pg_conninfo_get(rs->keep, c->database_url, "user");
    rs->started_ms = clock_mono_ms();
    if (rs->owner == NULL) {
        return scope_fail(sc, ERR_BAD_REQUEST, "DATABASE_URL names no user");
    }
    return OK;
}

void rs_done(struct rs *rs)
{
    int i;

    for (i = 0; i < rs->n_peers; i++) {
        pg_admin_close(&rs->peers[i].conn);
    }
    arena_close(&rs->keep);
}

void rs_forget(struct rs *rs)
{
    arena_reset(rs->sc->arena);
    scope_forgive(rs->sc);
}

void rs_say(const struct rs *rs, const char *format, ...)
{
    int64_t s = (clock_mono_ms() - rs->started_ms) / 1000;
    va_list args;

    va_start(args, format);
    printf("[%02d:%02d] ", (int)(s / 60), (int)(s % 60));
    vprintf(format, args);
    putchar('\n');
    fflush(stdout);
    va_end(args);
}

const char *rs_conninfo(struct rs *rs, const char *location)
{
    return pg_location_conninfo(rs->keep, rs->admin, location);
}

/* A session of ours: commits are on disk when they are done; rows are found by their keys, whatever
 * the statistics of a fresh table say; statements with passwords stay out of the server's log. */
static enum err settle(struct rs *rs, struct pg_admin *c)
{
    bool is_superuser;

    TRY(rs_do(rs, c, RS_ASK_MS,
              "SET synchronous_commit = on; SET lock_timeout = 0; SET work_mem = '32MB';"
              "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;"
              "SET jit = off"));
    TRY(rs_truth(rs, c, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user", 0, NULL,
                 &is_superuser));
    return is_superuser ? rs_do(rs, c, RS_ASK_MS,
                                "SET log_statement = 'none'; SET log_min_duration_statement = -1;"
                                "SET log_min_error_statement = panic")
                        : OK; /* who needs one checks that */
}

enum err rs_peer(struct rs *rs, const char *location, struct pg_admin **out)
{
    const char *conninfo;
    int i;

    for (i = 0; i < rs->n_peers; i++) {
        if (strcmp(rs->peers[i].location, location) == 0 && rs->peers[i].conn != NULL) {
            *out = rs->peers[i].conn;
            return OK;
        }
    }
    for (i = 0; i < rs->n_peers && rs->peers[i].conn != NULL; i++) {
    }
    if (i == (int)ARRAY_LEN(rs->peers)) {
        return scope_fail(rs->sc, ERR_INTERNAL, "too many databases");
    }
    conninfo = rs_conninfo(rs, location);
    if (conninfo == NULL) {
        return scope_fail(rs->sc, ERR_BAD_REQUEST, "'%s' is not a place of a database", location);
    }
    TRY(pg_admin_open(rs->sc, conninfo, CONNECT_MS, out));
    rs->peers[i] = (struct rs_peer){arena_strdup(rs->keep, location), *out};
    rs->n_peers += i == rs->n_peers;
    return settle(rs, *out);
}

enum err rs_server(struct rs *rs, const char *location, struct pg_admin **out)
{
    const char *server = pg_location_beside(rs->sc->arena, location, "postgres");

    if (server == NULL) {
        return scope_fail(rs->sc, ERR_BAD_REQUEST, "'%s' is not a place of a database", location);
    }
    return rs_peer(rs, server, out);
}

void rs_peer_forget(struct rs *rs, const char *location)
{
    int i;

    for (i = 0; i < rs->n_peers; i++) {
        if (strcmp(rs->peers[i].location, location) == 0) {
            pg_admin_close(&rs->peers[i].conn);
        }
    }
}

enum err rs_value(struct rs *rs, struct pg_admin *c, const char *sql, int n_params,
                  const char *const *params, const char **out)
{
    struct pg_table t;

    TRY(pg_admin_run(rs->sc, c, RS_ASK_MS, sql, n_params, params, &t));
    if (t.n_rows == 0 || t.n_columns == 0) {
        return scope_fail(rs->sc, ERR_NOT_FOUND, "%s: nothing found", pg_admin_name(c));
    }
    *out = pg_cell(&t, 0, 0);
    return OK;
}

enum err rs_truth(struct rs *rs, struct pg_admin *c, const char *sql, int n_params,
                  const char *const *params, bool *out)
{
    const char *text;

    TRY(rs_value(rs, c, sql, n_params, params, &text));
    *out = text != NULL && strcmp(text, "t") == 0;
    return OK;
}

enum err rs_number(struct rs *rs, struct pg_admin *c, const char *sql, int n_params,
                   const char *const *params, int64_t *out)
{
    const char *text;

    TRY(rs_value(rs, c, sql, n_params, params, &text));
    if (text == NULL || !i64_parse(text, out)) {
        return scope_fail(rs->sc, ERR_INTERNAL, "%s: not a number", pg_admin_name(c));
    }
    return OK;
}

enum err rs_do(struct rs *rs, struct pg_admin *c, int64_t timeout_ms, const char *format, ...)
{
    const char *sql;
    va_list args;

    va_start(args, format);
    sql = arena_vprintf(rs->sc->arena, format, args);
    va_end(args);
    return pg_admin_run(rs->sc, c, timeout_ms, sql, 0, NULL, NULL);
}
