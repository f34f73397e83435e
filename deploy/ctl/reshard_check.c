/* Row by row: are both sides of a stream the same? First all rows, by the sums of their hashes
 * over ranges of the key, while writes go on; ranges that differ are looked at row by row, and what
 * differs is suspect. Meanwhile a slot notes what is changed. Then, again and again, the changed
 * and the suspect rows are compared; the last time under the gate, where both sides stand at one
 * position and nothing may differ any more. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/ctl/reshard.h"
#include "lib/clock.h"

enum {
    RANGE_ROWS = 5000,
    KEYS_AT_ONCE = 500,
    SUSPECTS_MAX = 20000,
    AGE_MAX = 5,     /* comparisons without a change in between that a row may differ in */
    CALM_ROWS = 500, /* few enough changes for the gate */
    ROUNDS_MAX = 1000,
    SAY_EVERY_MS = 5000,
    AWAIT_MS = 600000
};

/* "(t.a, t.b)". */
static const char *key_list(struct rs *rs, const struct rs_table *t, const char *suffix)
{
    struct strbuf b;
    int i;

    strbuf_init(&b, rs->sc->arena, 128);
    for (i = 0; i < t->n_keys; i++) {
        strbuf_printf(&b, "%st.%s%s", i > 0 ? ", " : "", pg_quote_name(rs->sc->arena, t->keys[i]),
                      suffix);
    }
    return b.data;
}

/* "($1::uuid, $2::text)", counted from first. */
static const char *bound(struct rs *rs, const struct rs_table *t, int first)
{
    struct strbuf b;
    int i;

    strbuf_init(&b, rs->sc->arena, 128);
    for (i = 0; i < t->n_keys; i++) {
        strbuf_printf(&b, "%s$%d::%s", i > 0 ? ", " : "", first + i, t->types[i]);
    }
    return b.data;
}

/* A range of keys: after one (NULL: from the start) up to another (NULL: to the end). */
struct range {
    const char *after[RS_KEYS_MAX], *upto[RS_KEYS_MAX];
    bool has_after, has_upto;
};

/* The condition of the range and of the stream's rows on one side; params gets its values. */
static const char *conditions(struct rs *rs, const struct rs_check *check, int table,
                              bool is_source, const struct range *range, const char **params,
                              int *n_params)
{
    const struct rs_table *t = &rs->tables[table];
    const struct rs_stream *s = check->stream;
    struct strbuf b;

    *n_params = 0;
    strbuf_init(&b, rs->sc->arena, 512);
    strbuf_puts(&b, "true");
    if (range->has_after) {
        strbuf_printf(&b, " AND (%s) > (%s)", key_list(rs, t, ""), bound(rs, t, 1));
        memcpy(params, range->after, sizeof(*params) * (size_t)t->n_keys);
        *n_params = t->n_keys;
    }
    if (range->has_upto) {
        strbuf_printf(&b, " AND (%s) <= (%s)", key_list(rs, t, ""), bound(rs, t, *n_params + 1));
        memcpy(params + *n_params, range->upto, sizeof(*params) * (size_t)t->n_keys);
        *n_params += t->n_keys;
    }
    if (is_source) { /* the one database that holds more than these rows */
        strbuf_printf(
            &b, " AND %s",
            rs_where_shards(rs, t->place, s->n_shards, s->target->shards, s->target->n_shards));
    }
    return b.data;
}

/* Of the side that the stream comes from or goes to: is it the source of the run, or a target? */
static bool is_source(const struct rs_stream *s, bool is_to)
{
    return is_to == s->is_back;
}

/* The key at which the next range ends; none: it is the last. */
static enum err find_bound(struct rs *rs, const struct rs_check *check, int table,
                           struct range *range)
{
    const struct rs_table *t = &rs->tables[table];
    const char *params[2 * RS_KEYS_MAX], *where;
    struct pg_admin *c;
    struct pg_table rows;
    int n, i;

    range->has_upto = false;
    TRY(rs_peer(rs, check->stream->from, &c));
    where = conditions(rs, check, table, is_source(check->stream, false), range, params, &n);
    TRY(pg_admin_run(
        rs->sc, c, RS_LONG_MS,
        arena_printf(rs->sc->arena,
                     "SELECT %s FROM public.%s t WHERE %s ORDER BY %s OFFSET %d LIMIT 1",
                     key_list(rs, t, "::text"), pg_quote_name(rs->sc->arena, t->name), where,
                     key_list(rs, t, ""), RANGE_ROWS - 1),
        n, params, &rows));
    if (rows.n_rows > 0) {
        range->has_upto = true;
        for (i = 0; i < t->n_keys; i++) {
            range->upto[i] = pg_cell(&rows, 0, i);
        }
    }
    return OK;
}

/* Run a query over the range on one side. */
static enum err ask_range(struct rs *rs, const struct rs_check *check, int table, bool is_to,
                          const struct range *range, const char *columns, struct pg_table *out)
{
    const struct rs_table *t = &rs->tables[table];
    const char *params[2 * RS_KEYS_MAX], *where;
    struct pg_admin *c;
    int n;

    TRY(rs_peer(rs, is_to ? check->stream->to : check->stream->from, &c));
    where = conditions(rs, check, table, is_source(check->stream, is_to), range, params, &n);
    return pg_admin_run(rs->sc, c, RS_LONG_MS,
                        arena_printf(rs->sc->arena, "SELECT %s FROM public.%s t WHERE %s", columns,
                                     pg_quote_name(rs->sc->arena, t->name), where),
                        n, params, out);
}

/* A row of one side for comparison. */
struct found {
    const char **key; /* and behind it the hash */
    int n_keys;
};

static int compare_found(const void *left, const void *right)
{
    const struct found *a = left, *b = right;
    int i, order = 0;

    for (i = 0; order == 0 && i < a->n_keys; i++) {
        order = strcmp(a->key[i], b->key[i]);
    }
    return order;
}

/* Rows of a range that are not the same on both sides become suspects. */
static enum err suspect_range(struct rs *rs, struct rs_check *check, int table,
                              const struct range *range)
{
    const struct rs_table *t = &rs->tables[table];
    const char *columns = arena_printf(rs->sc->arena, "%s, hashtextextended(t::text, 0)::text",
                                       key_list(rs, t, "::text"));
    struct pg_table sides[2];
    struct found *all;
    size_t n = 0, i;
    int side, row;

    for (side = 0; side < 2; side++) {
        TRY(ask_range(rs, check, table, side == 1, range, columns, &sides[side]));
    }
    all = arena_array(rs->sc->arena, struct found, (size_t)(sides[0].n_rows + sides[1].n_rows) + 1);
    for (side = 0; side < 2; side++) {
        for (row = 0; row < sides[side].n_rows; row++) {
            all[n++] = (struct found){&sides[side].cells[row * sides[side].n_columns], t->n_keys};
        }
    }
    qsort(all, n, sizeof(*all), compare_found);
    for (i = 0; i < n; i++) {
        bool is_pair = i + 1 < n && compare_found(&all[i], &all[i + 1]) == 0;

        if (!is_pair || strcmp(all[i].key[t->n_keys], all[i + 1].key[t->n_keys]) != 0) {
            rs_keys_add(&check->suspects, table, t->n_keys, all[i].key, 0);
        }
        i += is_pair;
    }
    return OK;
}

static enum err check_range(struct rs *rs, struct rs_check *check, int table,
                            const struct range *range)
{
    static const char sums[] = "count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)";
    struct pg_table sides[2];
    int64_t rows;

    TRY(ask_range(rs, check, table, false, range, sums, &sides[0]));
    TRY(ask_range(rs, check, table, true, range, sums, &sides[1]));
    if (i64_parse(pg_cell(&sides[0], 0, 0), &rows)) {
        check->rows += rows;
    }
    if (strcmp(pg_cell(&sides[0], 0, 0), pg_cell(&sides[1], 0, 0)) != 0 ||
        strcmp(pg_cell(&sides[0], 0, 1), pg_cell(&sides[1], 0, 1)) != 0) {
        TRY(suspect_range(rs, check, table, range));
    }
    if (check->suspects.n > SUSPECTS_MAX) {
        return scope_fail(rs->sc, ERR_CONFLICT, "more than %d rows differ, the last ones in %s",
                          SUSPECTS_MAX, rs->tables[table].name);
    }
    return OK;
}

static enum err check_table(struct rs *rs, struct rs_check *check, int table, int64_t *said_ms)
{
    struct arena *bounds = arena_open(64 * 1024);
    struct range range = {.has_after = false};
    enum err e;
    int i;

    do {
        rs_forget(rs);
        e = find_bound(rs, check, table, &range);
        e = e == OK ? check_range(rs, check, table, &range) : e;
        arena_reset(bounds); /* the next range begins where this one ends */
        for (i = 0; i < rs->tables[table].n_keys && range.has_upto; i++) {
            range.after[i] = arena_strdup(bounds, range.upto[i]);
        }
        range.has_after = range.has_upto;
        if (clock_mono_ms() - *said_ms >= SAY_EVERY_MS) {
            rs_say(rs, "  %s: in %s, %lld rows compared, %zu to be looked at again",
                   check->stream->name, rs->tables[table].name, (long long)check->rows,
                   check->suspects.n);
            *said_ms = clock_mono_ms();
        }
    } while (e == OK && range.has_upto);
    arena_close(&bounds);
    return e;
}

enum err rs_check_all(struct rs *rs, struct rs_check *check)
{
    const struct rs_stream *s = check->stream;
    const char *slot = s->check, *lsn;
    int64_t said_ms = clock_mono_ms();
    struct pg_admin *c;
    int table;

    rs_keys_clear(&check->suspects);
    check->rows = 0;
    TRY(rs_slot_drop(rs, s->from, s->check)); /* what an earlier attempt has noted is not whole */
    TRY(rs_peer(rs, s->from, &c));
    TRY(pg_admin_run(rs->sc, c, RS_LONG_MS,
                     "SELECT pg_create_logical_replication_slot($1::name, 'pgoutput')", 1, &slot,
                     NULL));
    TRY(rs_lsn(rs, s->from, &lsn));
    TRY(rs_stream_await(rs, s, lsn, clock_mono_ms() + AWAIT_MS));
    for (table = 0; table < rs->n_tables; table++) {
        TRY(check_table(rs, check, table, &said_ms));
    }
    return OK;
}

/* An array of text: values of one key column of keys[from] to keys[upto - 1]. */
static const char *array_of(struct rs *rs, const struct rs_keys *keys, size_t from, size_t upto,
                            int column)
{
    struct strbuf b;
    const char *p;
    size_t i;

    strbuf_init(&b, rs->sc->arena, 64 * (upto - from) + 3);
    strbuf_putc(&b, '{');
    for (i = from; i < upto; i++) {
        strbuf_puts(&b, i > from ? ",\"" : "\"");
        for (p = keys->items[i].values[column]; *p != '\0'; p++) {
            if (*p == '"' || *p == '\\') {
                strbuf_putc(&b, '\\');
            }
            strbuf_putc(&b, *p);
        }
        strbuf_putc(&b, '"');
    }
    strbuf_putc(&b, '}');
    return b.data;
}

/* Hashes of those rows on one side, NULL where there is none. */
static enum err hashes(struct rs *rs, const struct rs_check *check, const struct rs_keys *keys,
                       size_t from, size_t upto, bool is_to, const char **out)
{
    const struct rs_table *t = &rs->tables[keys->items[from].table];
    const struct range everything = {.has_after = false};
    const char *params[RS_KEYS_MAX], *ignored[1], *where;
    struct strbuf names, match;
    struct pg_admin *c;
    struct pg_table rows;
    int64_t at;
    int i, n;

    where = conditions(rs, check, keys->items[from].table, is_source(check->stream, is_to),
                       &everything, ignored, &n);
    strbuf_init(&names, rs->sc->arena, 256);
    strbuf_init(&match, rs->sc->arena, 256);
    for (i = 0; i < t->n_keys; i++) {
        params[i] = array_of(rs, keys, from, upto, i);
        strbuf_printf(&names, "%s$%d::text[]", i > 0 ? ", " : "", i + 1);
        strbuf_printf(&match, "%st.%s = u.k%d::%s", i > 0 ? " AND " : "",
                      pg_quote_name(rs->sc->arena, t->keys[i]), i, t->types[i]);
    }
    strbuf_puts(&names, t->n_keys == 1   ? ") WITH ORDINALITY u(k0, at)"
                        : t->n_keys == 2 ? ") WITH ORDINALITY u(k0, k1, at)"
                        : t->n_keys == 3 ? ") WITH ORDINALITY u(k0, k1, k2, at)"
                                         : ") WITH ORDINALITY u(k0, k1, k2, k3, at)");
    TRY(rs_peer(rs, is_to ? check->stream->to : check->stream->from, &c));
    TRY(pg_admin_run(rs->sc, c, RS_ASK_MS,
                     arena_printf(rs->sc->arena,
                                  "SELECT u.at, hashtextextended(t::text, 0)::text FROM unnest(%s"
                                  " JOIN public.%s t ON %s WHERE %s",
                                  names.data, pg_quote_name(rs->sc->arena, t->name), match.data,
                                  where),
                     t->n_keys, params, &rows));
    for (i = 0; i < rows.n_rows; i++) {
        if (i64_parse(pg_cell(&rows, i, 0), &at) && at >= 1 && (size_t)at <= upto - from) {
            out[at - 1] = pg_cell(&rows, i, 1);
        }
    }
    return OK;
}

/* Compare those rows, of one table; who differ go to out, a round older. */
static enum err compare(struct rs *rs, const struct rs_check *check, const struct rs_keys *keys,
                        size_t from, size_t upto, struct rs_keys *out)
{
    const char **a = arena_array(rs->sc->arena, const char *, upto - from);
    const char **b = arena_array(rs->sc->arena, const char *, upto - from);
    size_t i;

    TRY(hashes(rs, check, keys, from, upto, false, a));
    TRY(hashes(rs, check, keys, from, upto, true, b));
    for (i = 0; i < upto - from; i++) {
        const struct rs_key *key = &keys->items[from + i];
        bool is_same = a[i] == NULL || b[i] == NULL ? a[i] == b[i] : strcmp(a[i], b[i]) == 0;

        if (!is_same) {
            rs_keys_add(out, key->table, rs->tables[key->table].n_keys, key->values, key->age + 1);
        }
    }
    return OK;
}

/* Compare all of them. */
static enum err compare_all(struct rs *rs, const struct rs_check *check, struct rs_keys *keys,
                            struct rs_keys *out)
{
    size_t from, upto;

    rs_keys_sort(keys);
    for (from = 0; from < keys->n; from = upto) {
        for (upto = from; upto < keys->n && upto - from < KEYS_AT_ONCE &&
                          keys->items[upto].table == keys->items[from].table;
             upto++) {
        }
        TRY(compare(rs, check, keys, from, upto, out));
    }
    return OK;
}

/* A row for people: "users (0190…)". */
static const char *describe(struct rs *rs, const struct rs_key *key)
{
    const struct rs_table *t = &rs->tables[key->table];
    struct strbuf b;
    int i;

    strbuf_init(&b, rs->sc->arena, 128);
    strbuf_printf(&b, "%s (", t->name);
    for (i = 0; i < t->n_keys; i++) {
        strbuf_printf(&b, "%s%s", i > 0 ? ", " : "", key->values[i]);
    }
    strbuf_putc(&b, ')');
    return b.data;
}

/* One round: the suspects and a batch of changes; suspects is then who still differs. */
static enum err round_of(struct rs *rs, struct rs_check *check, bool is_last, size_t *changed_out,
                         bool *more_out)
{
    struct rs_keys keys, differ;
    const char *lsn;
    size_t i;
    enum err e;

    rs_keys_init(&keys);
    rs_keys_init(&differ);
    e = rs_changes_take(rs, check->stream, &keys, more_out);
    *changed_out = keys.n;
    for (i = 0; i < check->suspects.n; i++) {
        const struct rs_key *key = &check->suspects.items[i];

        rs_keys_add(&keys, key->table, rs->tables[key->table].n_keys, key->values, key->age);
    }
    if (e == OK && !is_last) {
        e = rs_lsn(rs, check->stream->from, &lsn);
        e = e == OK ? rs_stream_await(rs, check->stream, lsn, clock_mono_ms() + AWAIT_MS) : e;
    }
    e = e == OK ? compare_all(rs, check, &keys, &differ) : e;
    rs_keys_done(&keys);
    if (e != OK) {
        rs_keys_done(&differ);
        return e;
    }
    rs_keys_done(&check->suspects);
    check->suspects = differ;
    return OK;
}

enum err rs_check_catch_up(struct rs *rs, struct rs_check *check)
{
    int rounds;

    for (rounds = 0; rounds < ROUNDS_MAX; rounds++) {
        size_t changed, i;
        bool more;

        rs_forget(rs);
        TRY(round_of(rs, check, false, &changed, &more));
        for (i = 0; i < check->suspects.n; i++) {
            if (check->suspects.items[i].age > AGE_MAX) {
                return scope_fail(rs->sc, ERR_CONFLICT, "%zu row(s) differ for good: %s",
                                  check->suspects.n, describe(rs, &check->suspects.items[i]));
            }
        }
        if (!more && changed < CALM_ROWS && check->suspects.n < CALM_ROWS && rounds > AGE_MAX) {
            return OK;
        }
    }
    return scope_fail(rs->sc, ERR_TIMED_OUT, "%s does not catch up with the writes",
                      check->stream->to);
}

enum err rs_check_last(struct rs *rs, struct rs_check *check, int64_t *rows_out)
{
    bool more = true;
    size_t changed;

    *rows_out = 0;
    while (more) {
        *rows_out += (int64_t)check->suspects.n;
        TRY(round_of(rs, check, true, &changed, &more));
        *rows_out += (int64_t)changed;
        if (check->suspects.n > 0) {
            return scope_fail(rs->sc, ERR_CONFLICT, "%zu row(s) differ: %s", check->suspects.n,
                              describe(rs, &check->suspects.items[0]));
        }
    }
    return OK;
}
