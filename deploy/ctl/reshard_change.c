/* What has changed: rows named by the protocol of pgoutput (PostgreSQL manual, "Logical
 * Replication Message Formats", version 1), read from a slot by SQL. Only keys are looked at; the
 * contents of both sides are compared afterwards. */
#include <stdlib.h>
#include <string.h>

#include "deploy/ctl/reshard.h"

enum { BATCH = 2000, KEYS_ARENA_BYTES = 16 * 1024 * 1024, RELATIONS_MAX = RS_TABLES_MAX };

void rs_keys_init(struct rs_keys *k)
{
    *k = (struct rs_keys){.arena = arena_open(KEYS_ARENA_BYTES)};
}

void rs_keys_done(struct rs_keys *k)
{
    arena_close(&k->arena);
    free(k->items);
    *k = (struct rs_keys){.arena = NULL};
}

void rs_keys_clear(struct rs_keys *k)
{
    arena_reset(k->arena);
    k->n = 0;
}

void rs_keys_add(struct rs_keys *k, int table, int n_values, const char *const *values, int age)
{
    struct rs_key *key;
    int i;

    if (k->n == k->cap) {
        k->cap = k->cap > 0 ? k->cap * 2 : 256;
        k->items = realloc(k->items, k->cap * sizeof(*k->items));
        if (k->items == NULL) {
            abort();
        }
    }
    key = &k->items[k->n++];
    *key = (struct rs_key){.table = table, .age = age};
    for (i = 0; i < n_values; i++) {
        key->values[i] = arena_strdup(k->arena, values[i] != NULL ? values[i] : "");
    }
}

static int compare_rows(const struct rs_key *a, const struct rs_key *b)
{
    int i, order = (a->table > b->table) - (a->table < b->table);

    for (i = 0; order == 0 && i < RS_KEYS_MAX && a->values[i] != NULL; i++) {
        order = strcmp(a->values[i], b->values[i]);
    }
    return order;
}

static int compare_keys(const void *left, const void *right)
{
    const struct rs_key *a = left, *b = right;
    int order = compare_rows(a, b);

    return order != 0 ? order : (a->age > b->age) - (a->age < b->age);
}

void rs_keys_sort(struct rs_keys *k)
{
    size_t i, n = 0;

    if (k->n > 1) {
        qsort(k->items, k->n, sizeof(*k->items), compare_keys);
    }
    for (i = 0; i < k->n; i++) {
        if (n == 0 || compare_rows(&k->items[n - 1], &k->items[i]) != 0) {
            k->items[n++] = k->items[i];
        }
    }
    k->n = n;
}

/* A message, read from the front. bad is sticky. */
struct reader {
    const uint8_t *at, *end;
    bool bad;
};

static uint32_t number(struct reader *r, int n_bytes)
{
    uint32_t value = 0;

    if (r->end - r->at < n_bytes) {
        r->bad = true;
        r->at = r->end;
        return 0;
    }
    for (; n_bytes > 0; n_bytes--) {
        value = value << 8 | *r->at++;
    }
    return value;
}

static const char *string(struct reader *r)
{
    const uint8_t *start = r->at, *nul = memchr(r->at, '\0', (size_t)(r->end - r->at));

    if (nul == NULL) {
        r->bad = true;
        r->at = r->end;
        return "";
    }
    r->at = nul + 1;
    return (const char *)start;
}

/* Which column of a relation is which key column of which table of ours. */
struct relation {
    uint32_t oid;
    int table; /* -1: none of ours */
    int n_columns;
    int *key_of; /* -1: not a key column */
};

struct relations {
    int n;
    struct relation items[RELATIONS_MAX];
};

static void read_relation(struct rs *rs, struct reader *r, struct relations *all)
{
    struct relation rel = {.oid = number(r, 4), .table = -1};
    const char *name;
    int i, k;

    string(r); /* the schema: publications name tables of public only */
    name = string(r);
    number(r, 1);
    rel.n_columns = (int)number(r, 2);
    rel.key_of = arena_array(rs->sc->arena, int, (size_t)rel.n_columns);
    for (i = 0; i < rs->n_tables; i++) {
        if (strcmp(rs->tables[i].name, name) == 0) {
            rel.table = i;
        }
    }
    for (i = 0; i < rel.n_columns && !r->bad; i++) {
        const char *column = (number(r, 1), string(r));

        rel.key_of[i] = -1;
        number(r, 4);
        number(r, 4);
        for (k = 0; rel.table >= 0 && k < rs->tables[rel.table].n_keys; k++) {
            if (strcmp(rs->tables[rel.table].keys[k], column) == 0) {
                rel.key_of[i] = k;
            }
        }
    }
    for (i = 0; i < all->n && all->items[i].oid != rel.oid; i++) {
    }
    if (i == RELATIONS_MAX) {
        r->bad = true;
        return;
    }
    all->items[i] = rel;
    all->n += i == all->n;
}

/* One tuple; its key goes to out. */
static void read_tuple(struct rs *rs, struct reader *r, const struct relation *rel,
                       struct rs_keys *out)
{
    const char *values[RS_KEYS_MAX] = {NULL};
    int i, n = (int)number(r, 2), n_found = 0;

    for (i = 0; i < n && !r->bad; i++) {
        uint32_t kind = number(r, 1), len = kind == 't' ? number(r, 4) : 0;

        if (len > (size_t)(r->end - r->at)) {
            r->bad = true;
            return;
        }
        if (kind == 't' && i < rel->n_columns && rel->key_of[i] >= 0) {
            values[rel->key_of[i]] = arena_strndup(rs->sc->arena, (const char *)r->at, len);
            n_found++;
        }
        r->at += len;
    }
    if (rel->table >= 0) {
        r->bad = r->bad || n_found != rs->tables[rel->table].n_keys;
        if (!r->bad) {
            rs_keys_add(out, rel->table, n_found, values, 0);
        }
    }
}

/* INSERT, UPDATE or DELETE: its old and new tuples. */
static void read_change(struct rs *rs, struct reader *r, const struct relations *all,
                        struct rs_keys *out)
{
    uint32_t oid = number(r, 4);
    int i;

    for (i = 0; i < all->n && all->items[i].oid != oid; i++) {
    }
    if (i == all->n) {
        r->bad = true;
    }
    while (!r->bad && r->at < r->end) {
        number(r, 1); /* K, O or N */
        read_tuple(rs, r, &all->items[i], out);
    }
}

static bool read_message(struct rs *rs, const uint8_t *data, size_t len, struct relations *all,
                         struct rs_keys *out)
{
    struct reader r = {.at = data, .end = data + len};

    switch (number(&r, 1)) {
    case 'R':
        read_relation(rs, &r, all);
        break;
    case 'I':
    case 'U':
    case 'D':
        read_change(rs, &r, all, out);
        break;
    case 'T': /* nobody may empty a table while it moves */
        r.bad = true;
        break;
    default: /* begin, commit, origin, type, message */
        break;
    }
    return !r.bad;
}

enum err rs_changes_take(struct rs *rs, const struct rs_stream *s, struct rs_keys *out,
                         bool *more_out)
{
    const char *params[] = {s->check, s->name};
    struct relations *all = arena_new(rs->sc->arena, struct relations);
    struct pg_admin *c;
    struct pg_table t;
    int i;

    TRY(rs_peer(rs, s->from, &c));
    TRY(pg_admin_run(rs->sc, c, RS_LONG_MS,
                     "SELECT encode(data, 'hex') FROM pg_logical_slot_get_binary_changes($1::name,"
                     " NULL, 2000, 'proto_version', '1', 'publication_names', $2::text)",
                     2, params, &t));
    for (i = 0; i < t.n_rows; i++) {
        const char *hex = pg_cell(&t, i, 0);
        size_t len = strlen(hex) / 2, at;
        uint8_t *data = arena_alloc(rs->sc->arena, len);

        for (at = 0; at < len; at++) {
            data[at] = (uint8_t)(hex_digit(hex[2 * at]) << 4 | hex_digit(hex[2 * at + 1]));
        }
        if (!read_message(rs, data, len, all, out)) {
            return scope_fail(rs->sc, ERR_CONFLICT,
                              "%s: a change could not be followed (a table was emptied?)", s->from);
        }
    }
    *more_out = t.n_rows >= BATCH;
    return OK;
}
