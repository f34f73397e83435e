/* Rows into shapes. Texts are not copied: they stay in the answer, which the arena frees. Ids and
 * times come in the one form that PostgreSQL gives them in, so they are read here without a
 * general parser; what looks different goes to shape_set_text(), which knows every form. */
#include "lib/pg_internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/str.h"

enum {
    COLUMNS_MAX = 64,
    NO_FIELD = UINT8_MAX,
    ID_CHARS = 36,
    TIME_CHARS = 22 /* without fraction */
};

enum { IS_DIGIT = 0x10 };

/* Values of lower-case hexadecimal digits, marked; anything else is 0. */
static const uint8_t hex[256] = {
    ['0'] = 0x10, ['1'] = 0x11, ['2'] = 0x12, ['3'] = 0x13, ['4'] = 0x14, ['5'] = 0x15,
    ['6'] = 0x16, ['7'] = 0x17, ['8'] = 0x18, ['9'] = 0x19, ['a'] = 0x1a, ['b'] = 0x1b,
    ['c'] = 0x1c, ['d'] = 0x1d, ['e'] = 0x1e, ['f'] = 0x1f,
};

static bool read_id(const char *text, size_t len, struct id *out)
{
    static const uint8_t at[16] = {0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34};
    const unsigned char *in = (const unsigned char *)text;
    unsigned good = IS_DIGIT;
    int i;

    if (len != ID_CHARS) {
        return false;
    }
    for (i = 0; i < 16; i++) {
        unsigned high = hex[in[at[i]]], low = hex[in[at[i] + 1]];

        good &= high & low;
        out->bytes[i] = (uint8_t)(high << 4 | (low & 0xf));
    }
    return good && (out->bytes[6] >> 4 == 7 || out->bytes[6] >> 4 == 8);
}

static int digit(char c, unsigned *bad)
{
    unsigned d = (unsigned)(unsigned char)c - '0';

    *bad |= d > 9;
    return (int)d;
}

/* Two digits; *bad collects what is none. */
static int two(const char *text, unsigned *bad)
{
    return digit(text[0], bad) * 10 + digit(text[1], bad);
}

/* Days from 1970-01-01 in the Gregorian calendar (the civil-from-days algorithm of Howard
 * Hinnant). */
static int64_t days_to(int year, int month, int day)
{
    int y = month <= 2 ? year - 1 : year;
    int era = y / 400, year_of_era = y - era * 400;
    int day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    int day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;

    return (int64_t)era * 146097 + day_of_era - 719468;
}

/* "2026-11-23 14:02:23.123456+00", one to six digits of fraction or none. */
static bool read_time(const char *text, size_t len, int64_t *out)
{
    size_t fraction = len > TIME_CHARS ? len - TIME_CHARS - 1 : 0;
    unsigned bad = 0;
    int y, mo, d, h, mi, s, ms = 0, i;

    if (len < TIME_CHARS || fraction > 6 || (len > TIME_CHARS && text[19] != '.') ||
        memcmp(text + len - 3, "+00", 3) != 0 || text[4] != '-' || text[10] != ' ') {
        return false;
    }
    y = two(text, &bad) * 100 + two(text + 2, &bad);
    mo = two(text + 5, &bad);
    d = two(text + 8, &bad);
    h = two(text + 11, &bad);
    mi = two(text + 14, &bad);
    s = two(text + 17, &bad);
    for (i = 0; i < 3; i++) {
        ms = ms * 10 + ((size_t)i < fraction ? digit(text[20 + i], &bad) : 0);
    }
    *out = ((days_to(y, mo, d) * 24 + h) * 60 + mi) * 60000 + (int64_t)s * 1000 + ms;
    return !bad;
}

static enum err set_value(struct scope *sc, const struct field *f, const char *text, size_t len,
                          char *out)
{
    switch (f->kind) {
    case FIELD_STR:
    case FIELD_WORD:
    case FIELD_JSON:
        *(const char **)(void *)(out + f->offset) = text;
        return OK;
    case FIELD_ID:
        if (read_id(text, len, (struct id *)(void *)(out + f->offset))) {
            return OK;
        }
        break;
    case FIELD_TIME:
        if (read_time(text, len, (int64_t *)(void *)(out + f->offset))) {
            return OK;
        }
        break;
    case FIELD_I64:
    case FIELD_F64:
    case FIELD_BOOL:
    case FIELD_ANY:
        break;
    }
    return shape_set_text(sc, f, text, len, out);
}

/* Which field each column goes to, or NO_FIELD for a column that this reader does not want. */
struct map {
    const struct shape *shape;
    int n;
    uint8_t field[COLUMNS_MAX];
};

/* The map of each query's first reader, made once: the columns of a query are in its text. */
static _Atomic(struct map *) maps[PG_QUERY_INDEX_MAX + 1];

/* Look the columns up by name, beginning behind the last hit, since most queries name them in the
 * order of the shape. */
static void fill_map(struct map *map, const struct shape *shape, const struct pg_answer *a, int n)
{
    size_t at = 0, tried;
    int column;

    map->shape = shape;
    map->n = n;
    for (column = 0; column < n; column++) {
        const char *text = pg_answer_column(a, column);

        for (tried = 0; tried < shape->n_fields; tried++) {
            if (strcmp(shape->fields[at].column, text) == 0) {
                break;
            }
            at = at + 1 < shape->n_fields ? at + 1 : 0;
        }
        map->field[column] = tried == shape->n_fields ? NO_FIELD : (uint8_t)at;
        at = at + 1 < shape->n_fields ? at + 1 : 0;
    }
}

/* The map of the query for the shape: remembered, or made in *own. */
static const struct map *find_map(const struct pg_query *q, const struct shape *shape,
                                  const struct pg_answer *a, int n, struct map *own)
{
    struct map *map = atomic_load_explicit(&maps[q->index], memory_order_acquire);
    struct map *none = NULL;

    if (map != NULL && map->shape == shape && map->n == n) {
        return map;
    }
    fill_map(own, shape, a, n);
    if (map == NULL && q->index > 0 && (map = malloc(sizeof(*map))) != NULL) {
        *map = *own;
        if (!atomic_compare_exchange_strong(&maps[q->index], &none, map)) {
            free(map); /* another thread was first */
        }
    }
    return own;
}

static enum err read_row(struct scope *sc, const struct shape *shape, const struct pg_answer *a,
                         int row, const struct map *map, void *out)
{
    size_t len;
    int column;

    shape_clear(shape, out);
    for (column = 0; column < map->n; column++) {
        const char *text;

        if (map->field[column] == NO_FIELD) {
            continue;
        }
        text = pg_answer_value(a, row, column, &len);
        if (text != NULL) { /* NULL is what shape_clear() has left */
            TRY(set_value(sc, &shape->fields[map->field[column]], text, len, out));
        }
    }
    return OK;
}

/* n rows from number first on. */
static enum err read_rows(struct scope *sc, const struct pg_query *q, const struct shape *shape,
                          const struct pg_answer *a, int first, int n, void *items)
{
    int row, columns = pg_answer_columns(a);
    const struct map *map;
    struct map own;

    if (columns > COLUMNS_MAX || shape->n_fields >= NO_FIELD) {
        return scope_fail(sc, ERR_INTERNAL, "%s: too many columns", q->name);
    }
    map = find_map(q, shape, a, columns, &own);
    for (row = 0; row < n; row++) {
        TRY(read_row(sc, shape, a, first + row, map, (char *)items + (size_t)row * shape->size));
    }
    return OK;
}

enum err pg_rows_read(struct scope *sc, const struct pg_query *q, const struct shape *shape,
                      const struct pg_answer *a, int n, void *items)
{
    return read_rows(sc, q, shape, a, 0, n, items);
}

enum err pg_row_read(struct scope *sc, const struct pg_query *q, const struct shape *shape,
                     const struct pg_answer *a, int row, void *item)
{
    return read_rows(sc, q, shape, a, row, 1, item);
}

void pg_rows_keep(struct scope *sc, struct pg_answer *a)
{
    arena_defer(sc->arena, pg_answer_free_rows, a->rows);
    a->rows = NULL;
}
