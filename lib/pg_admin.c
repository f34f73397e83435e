/* Connections of an operator's tool: pg_conn.c's, with results copied out. */
#include "lib/pg_admin.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/pg_internal.h"
#include "lib/str.h"

enum { NAME_SIZE = 160 };

struct pg_admin {
    struct pg_conn *conn;
    char name[NAME_SIZE];
    char sqlstate[SQLSTATE_SIZE];
};

const char *pg_cell(const struct pg_table *t, int row, int column)
{
    assert(row >= 0 && row < t->n_rows && column >= 0 && column < t->n_columns);
    return t->cells[row * t->n_columns + column];
}

static const char *or_default(const char *text, const char *otherwise)
{
    return text != NULL && text[0] != '\0' ? text : otherwise;
}

enum err pg_admin_open(struct scope *sc, const char *conninfo, int64_t timeout_ms,
                       struct pg_admin **out)
{
    struct pg_conn_options options = {.url = conninfo, .standby_too = true};
    const char *host = or_default(pg_conninfo_get(sc->arena, conninfo, "host"), "localhost");
    const char *port = or_default(pg_conninfo_get(sc->arena, conninfo, "port"), "5432");
    const char *name = or_default(pg_conninfo_get(sc->arena, conninfo, "dbname"), "?");
    struct pg_admin *c = calloc(1, sizeof(*c));
    struct pg_answer why;
    enum pg_fate fate;

    *out = NULL;
    if (c == NULL) {
        return scope_fail(sc, ERR_INTERNAL, "no memory");
    }
    snprintf(c->name, sizeof(c->name), "%s (%s:%s)", name, host, port);
    fate = pg_conn_start(&options, &c->conn, &why);
    if (fate == PG_PENDING) {
        fate = pg_conn_finish(c->conn, clock_mono_ms() + timeout_ms, &why);
    }
    if (fate != PG_FINE) {
        enum err e = scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "%s: %s", c->name, why.message);

        pg_conn_close(&c->conn);
        free(c);
        return e;
    }
    *out = c;
    return OK;
}

void pg_admin_close(struct pg_admin **c)
{
    if (*c != NULL) {
        pg_conn_close(&(*c)->conn);
        free(*c);
        *c = NULL;
    }
}

const char *pg_admin_name(const struct pg_admin *c)
{
    return c->name;
}

const char *pg_admin_sqlstate(const struct pg_admin *c)
{
    return c->sqlstate;
}

static void copy_rows(struct arena *a, const struct pg_answer *answer, struct pg_table *out)
{
    int row, column;

    out->n_rows = pg_answer_rows(answer);
    out->n_columns = pg_answer_columns(answer);
    out->cells = arena_array(a, const char *, (size_t)(out->n_rows * out->n_columns));
    for (row = 0; row < out->n_rows; row++) {
        for (column = 0; column < out->n_columns; column++) {
            size_t len;
            const char *value = pg_answer_value(answer, row, column, &len);

            out->cells[row * out->n_columns + column] =
                value != NULL ? arena_strndup(a, value, len) : NULL;
        }
    }
}

enum err pg_admin_run(struct scope *sc, struct pg_admin *c, int64_t timeout_ms, const char *sql,
                      int n_params, const char *const *params, struct pg_table *out)
{
    int64_t until_ms = clock_mono_ms() + timeout_ms;
    struct pg_answer answer;
    enum pg_fate fate;
    int i;

    c->sqlstate[0] = '\0';
    if (n_params == 0) {
        fate = pg_conn_command(c->conn, sql, until_ms, &answer);
    } else {
        struct pg_query q = {.name = "", .sql = sql, .n_params = n_params};

        assert(n_params <= PG_PARAMS_MAX);
        for (i = 0; i < n_params; i++) {
            q.params[i] = params[i];
        }
        fate = pg_conn_query(c->conn, &q, PG_OPENING_NONE, until_ms, &answer);
    }
    if (fate != PG_FINE) {
        enum err e = fate == PG_LATE ? ERR_TIMED_OUT : ERR_DEPENDENCY_UNAVAILABLE;

        if (fate == PG_REFUSED) {
            e = pg_err_of_sqlstate(answer.sqlstate);
            snprintf(c->sqlstate, sizeof(c->sqlstate), "%s", answer.sqlstate);
        }
        pg_answer_done(&answer);
        return scope_fail(sc, e, "%s: %s%s%s", c->name, answer.message,
                          c->sqlstate[0] != '\0' ? " " : "", c->sqlstate);
    }
    if (out != NULL) {
        copy_rows(sc->arena, &answer, out);
    }
    pg_answer_done(&answer);
    return OK;
}

const char *pg_location_of(struct arena *a, const char *text)
{
    const char *location;

    return pg_conninfo_is_location(text) && pg_conninfo_location(a, text, &location) ? location
                                                                                     : NULL;
}

const char *pg_location_beside(struct arena *a, const char *location, const char *database)
{
    struct strbuf words;

    strbuf_init(&words, a, 128);
    strbuf_printf(&words, "dbname='");
    for (; *database != '\0'; database++) {
        if (*database == '\'' || *database == '\\') {
            strbuf_putc(&words, '\\');
        }
        strbuf_putc(&words, *database);
    }
    strbuf_putc(&words, '\'');
    location = pg_conninfo_of_server(a, location, words.data);
    return location != NULL ? pg_location_of(a, location) : NULL;
}

const char *pg_location_conninfo(struct arena *a, const char *url, const char *location)
{
    return pg_conninfo_at(a, url, location);
}

static const char *quote(struct arena *a, const char *text, char mark)
{
    struct strbuf b;

    strbuf_init(&b, a, strlen(text) + 3);
    strbuf_putc(&b, mark);
    for (; *text != '\0'; text++) {
        if (*text == mark) {
            strbuf_putc(&b, mark);
        }
        strbuf_putc(&b, *text);
    }
    strbuf_putc(&b, mark);
    return b.data;
}

const char *pg_quote_name(struct arena *a, const char *text)
{
    return quote(a, text, '"');
}

const char *pg_quote_text(struct arena *a, const char *text)
{
    return quote(a, text, '\'');
}
