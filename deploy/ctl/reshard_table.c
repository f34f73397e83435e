/* Tables that move, and the two ways to say where their rows belong: shard_place_of_…() in
 * queries, and, in the filter of a publication, an expression of what PostgreSQL 15 admits there
 * (immutable built-in functions; no casts by input and output functions). */
#include <stdio.h>
#include <string.h>

#include "deploy/ctl/reshard.h"

/* The first four bytes of a bytea expression as a number. */
static const char *first_bytes(struct rs *rs, const char *bytes)
{
    return arena_printf(rs->keep,
                        "(get_byte(%s,0)::int8*16777216 + get_byte(%s,1)*65536"
                        " + get_byte(%s,2)*256 + get_byte(%s,3))",
                        bytes, bytes, bytes, bytes);
}

/* sha256 of the 36 characters of an id. */
static const char *hash_of_user(struct rs *rs, const char *column)
{
    const char *hex = arena_printf(rs->sc->arena, "encode(uuid_send(%s),'hex')", column);

    return arena_printf(rs->sc->arena,
                        "sha256(decode(substr(%s,1,8) || '-' || substr(%s,9,4) || '-' ||"
                        " substr(%s,13,4) || '-' || substr(%s,17,4) || '-' || substr(%s,21,12),"
                        " 'escape'))",
                        hex, hex, hex, hex, hex);
}

static bool set_place(struct rs *rs, struct rs_table *t, const char *placed_by, const char *column)
{
    struct arena *a = rs->sc->arena;
    const char *name = pg_quote_name(a, column), *bytes;

    if (strcmp(placed_by, "user") == 0) {
        bytes = hash_of_user(rs, name);
    } else if (strcmp(placed_by, "owned") == 0) {
        bytes = arena_printf(a, "uuid_send(%s)", name);
    } else if (strcmp(placed_by, "email") == 0) {
        bytes = arena_printf(a, "sha256(decode(replace(%s, '\\', '\\\\'), 'escape'))", name);
    } else {
        return false;
    }
    t->plain = first_bytes(rs, bytes);
    t->place = arena_printf(rs->keep, "shard_place_of_%s(t.%s)", placed_by, name);
    return true;
}

/* "{a,b}" of names that PostgreSQL gives without quotes or with; false: too many. */
static bool split(struct rs *rs, const char *list, const char **out, int *n_out)
{
    const char *end;

    for (*n_out = 0; list != NULL && *list != '\0'; list = *end == '\0' ? end : end + 1) {
        if (*n_out == RS_KEYS_MAX) {
            return false;
        }
        end = list + strcspn(list, "\n");
        out[(*n_out)++] = arena_strndup(rs->keep, list, (size_t)(end - list));
    }
    return *n_out > 0;
}

/* Name, placed_by, column, is the column in the replica identity, key columns, their types. */
static const char tables_sql[] =
    "SELECT c.relname, s.placed_by, s.column_name,"
    "  c.relreplident = 'f' OR EXISTS (SELECT FROM pg_index x JOIN pg_attribute a"
    "     ON a.attrelid = c.oid AND a.attnum = ANY(x.indkey) AND a.attname = s.column_name"
    "     WHERE x.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN x.indisprimary"
    "           WHEN 'i' THEN x.indisreplident ELSE false END),"
    "  (SELECT string_agg(a.attname, E'\\n' ORDER BY k.at) FROM pg_index x,"
    "     unnest(x.indkey) WITH ORDINALITY k(attnum, at), pg_attribute a"
    "     WHERE x.indrelid = c.oid AND x.indisprimary AND a.attrelid = c.oid"
    "       AND a.attnum = k.attnum),"
    "  (SELECT string_agg(format_type(a.atttypid, a.atttypmod), E'\\n' ORDER BY k.at)"
    "     FROM pg_index x, unnest(x.indkey) WITH ORDINALITY k(attnum, at), pg_attribute a"
    "     WHERE x.indrelid = c.oid AND x.indisprimary AND a.attrelid = c.oid"
    "       AND a.attnum = k.attnum)"
    " FROM pg_class c LEFT JOIN shard_tables s ON s.name = c.relname"
    " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
    " ORDER BY c.relname";

/* One row of that: a table that moves, one that stays, or a reason not to begin. */
static enum err read_table(struct rs *rs, const struct pg_table *rows, int i)
{
    const char *name = pg_cell(rows, i, 0), *placed_by = pg_cell(rows, i, 1);
    struct rs_table *t = &rs->tables[rs->n_tables];
    int n_types;

    if (placed_by == NULL) {
        return scope_fail(rs->sc, ERR_CONFLICT,
                          "table %s has no row in shard_tables: nobody knows where its rows belong",
                          name);
    }
    if (strcmp(placed_by, "database") == 0) {
        return OK;
    }
    if (rs->n_tables == RS_TABLES_MAX) {
        return scope_fail(rs->sc, ERR_CONFLICT, "there are too many tables");
    }
    if (!split(rs, pg_cell(rows, i, 4), t->keys, &t->n_keys) ||
        !split(rs, pg_cell(rows, i, 5), t->types, &n_types)) {
        return scope_fail(rs->sc, ERR_CONFLICT, "table %s needs a primary key of 1 to %d columns",
                          name, RS_KEYS_MAX);
    }
    if (strcmp(pg_cell(rows, i, 3), "t") != 0 ||
        !set_place(rs, t, placed_by, pg_cell(rows, i, 2))) {
        return scope_fail(rs->sc, ERR_CONFLICT,
                          "table %s: its column %s must be part of the replica identity", name,
                          pg_cell(rows, i, 2));
    }
    t->name = arena_strdup(rs->keep, name);
    rs->n_tables++;
    return OK;
}

enum err rs_tables_load(struct rs *rs, struct pg_admin *c)
{
    struct pg_table rows;
    int i;

    rs->n_tables = 0;
    TRY(pg_admin_run(rs->sc, c, RS_ASK_MS, tables_sql, 0, NULL, &rows));
    for (i = 0; i < rows.n_rows; i++) {
        TRY(read_table(rs, &rows, i));
    }
    return OK;
}

const char *rs_where_shards(struct rs *rs, const char *place, int n_shards, const int *shards,
                            int n)
{
    struct strbuf b;
    int i;

    strbuf_init(&b, rs->sc->arena, 256);
    strbuf_printf(&b, "%s %% %d IN (", place, n_shards);
    for (i = 0; i < n; i++) {
        strbuf_printf(&b, "%s%d", i > 0 ? ", " : "", shards[i]);
    }
    strbuf_putc(&b, ')');
    return b.data;
}
