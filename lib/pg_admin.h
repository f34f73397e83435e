/* One connection to one database, outside of pools, breakers and the shards' map: for operators'
 * tools, which speak to databases that no pool knows yet. Not for requests or jobs.
 *
 * Results are copied into the scope's arena. Calls block up to the time that they are given. A
 * failure's cause (scope_fail) names the database and carries PostgreSQL's primary message and
 * SQLSTATE, never a connection string. */
#ifndef LIB_PG_ADMIN_H
#define LIB_PG_ADMIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/scope.h"

struct pg_admin;

/* Rows of a statement as texts; NULL is SQL NULL. */
struct pg_table {
    int n_rows, n_columns;
    const char **cells;
};

/* Value of a row and column, both of which must be there. */
const char *pg_cell(const struct pg_table *t, int row, int column);

/* Connect to what the libpq connection string names, within timeout_ms; statements have no time
 * limit of their own on the server. ERR_DEPENDENCY_UNAVAILABLE. The caller owns *out. */
MUST_USE enum err pg_admin_open(struct scope *sc, const char *conninfo, int64_t timeout_ms,
                                struct pg_admin **out);

/* Close and clear; NULL inside is fine. What the session held (locks, a transaction) is undone. */
void pg_admin_close(struct pg_admin **c);

/* Name for messages: the database and its server, as in the location. Lives as long as *c. */
const char *pg_admin_name(const struct pg_admin *c);

/* Run one statement with parameters ($1 …), or several without. The rows of the last one go to
 * *out (may be NULL). ERR_TIMED_OUT where no answer came within timeout_ms (the connection is of
 * no use afterwards), ERR_DEPENDENCY_UNAVAILABLE where it broke, else pg.h's error of the
 * SQLSTATE. */
MUST_USE enum err pg_admin_run(struct scope *sc, struct pg_admin *c, int64_t timeout_ms,
                               const char *sql, int n_params, const char *const *params,
                               struct pg_table *out);

/* SQLSTATE of the last statement that the server refused; "" where none was. */
const char *pg_admin_sqlstate(const struct pg_admin *c);

/* A connection string's place (pg_conninfo_location()): "host=… port=… dbname=…", without user and
 * password. NULL: not a connection string, or one that says more than where. */
const char *pg_location_of(struct arena *a, const char *text);

/* The place of another database of that server; NULL: not a place. */
const char *pg_location_beside(struct arena *a, const char *location, const char *database);

/* How to get there: the connection string url, but to that place. NULL: not one. */
const char *pg_location_conninfo(struct arena *a, const char *url, const char *location);

/* A keyword's value ("user", "password", "dbname"); NULL where it is not given. */
const char *pg_conninfo_get(struct arena *a, const char *conninfo, const char *keyword);

/* The connection string without its password. NULL: not one. */
const char *pg_conninfo_without_password(struct arena *a, const char *conninfo);

/* The text as an SQL identifier or literal with its quotes (standard_conforming_strings). */
const char *pg_quote_name(struct arena *a, const char *text);
const char *pg_quote_text(struct arena *a, const char *text);

#endif
