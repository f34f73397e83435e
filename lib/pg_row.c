/* Rows into shapes. Texts are not copied: they stay in the answer, which the arena frees. Ids and
 * times come in the one form that PostgreSQL gives them in, so they are read here without a
 * general parser; what looks different goes to shape_set_text(), which knows every form. */
#include "lib/pg_internal.h"

#include <string.h>

#include "lib/clock.h"
#include "lib/str.h"

enum {
    COLUMNS_MAX = 64,
    NO_FIELD = UINT8_MAX,
    ID_CHARS = 36,
    TIME_CHARS = 22 /* without fraction */
};

/* Value of a lower-case hexadecimal digit, over 15 for anything else. */
static unsigned hex_value(char c)
{
    unsigned digit = (unsigned)(unsigned char)c - '0', letter = (unsigned)(unsigned char)c - 'a';

    return digit <= 9 ? digit : letter <= 5 ? letter + 10 : 16;
}

static bool read_id(const char *text, size_t len, struct id *out)
{
    static const uint8_t at[16] = {0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34};
    unsigned bad = 0;
    int i;

    if (len != ID_CHARS) {
        return false;
    }
    for (i = 0; i < 16; i++) {
        unsigned high = hex_value(text[at[i]]), low = hex_value(text[at[i] + 1]);

        bad |= high | low;
        out->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return bad <= 15 && (out->bytes[6] >> 4 == 7 || out->bytes[6] >> 4 == 8);
}

/* n digits; *bad collects what is none. */
static int digits(const char *text, int n, unsigned *bad)
{
    int value = 0;

    while (n-- > 0) {
        unsigned d = (unsigned)(unsigned char)*text++ - '0';

        *bad |= d > 9;
        value = value * 10 + (int)d;
    }
    return value;
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
    y = digits(text, 4, &bad);
    mo = digits(text + 5, 2, &bad);
    d = digits(text + 8, 2, &bad);
    h = digits(text + 11, 2, &bad);
    mi = digits(text + 14, 2, &bad);
    s = digits(text + 17, 2, &bad);
    for (i = 0; i < 3; i++) {
        ms = ms * 10 + ((size_t)i < fraction ? digits(text + 20 + i, 1, &bad) : 0);
    }
    *out = ((days_to(y, mo, d) * 24 + h) * 60 + mi) * 60000 + s * 1000 + ms;
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

/* Which field each column goes to, or NO_FIELD for a column that this reader does not want:
 * looked up by name, beginning behind the last hit, since most queries name columns in the order
 * of the shape. */
static enum err map_columns(struct scope *sc, const char *name, const struct shape *shape,
                            const struct pg_answer *a, uint8_t map[COLUMNS_MAX])
{
    int column, n = pg_answer_columns(a);
    size_t at = 0, tried;

    if (n > COLUMNS_MAX || shape->n_fields >= NO_FIELD) {
        return scope_fail(sc, ERR_INTERNAL, "%s: too many columns", name);
    }
    for (column = 0; column < n; column++) {
        const char *text = pg_answer_column(a, column);

        for (tried = 0; tried < shape->n_fields; tried++) {
            if (strcmp(shape->fields[at].column, text) == 0) {
                break;
            }
            at = at + 1 < shape->n_fields ? at + 1 : 0;
        }
        map[column] = tried == shape->n_fields ? NO_FIELD : (uint8_t)at;
        at = at + 1 < shape->n_fields ? at + 1 : 0;
    }
    return OK;
}

static enum err read_row(struct scope *sc, const struct shape *shape, const struct pg_answer *a,
                         int row, const uint8_t map[COLUMNS_MAX], void *out)
{
    int column, n = pg_answer_columns(a);
    size_t len;

    shape_clear(shape, out);
    for (column = 0; column < n; column++) {
        const char *text;

        if (map[column] == NO_FIELD) {
            continue;
        }
        text = pg_answer_value(a, row, column, &len);
        if (text != NULL) { /* NULL is what shape_clear() has left */
            TRY(set_value(sc, &shape->fields[map[column]], text, len, out));
        }
    }
    return OK;
}

enum err pg_rows_read(struct scope *sc, const char *name, const struct shape *shape,
                      const struct pg_answer *a, int n, void *items)
{
    uint8_t map[COLUMNS_MAX];
    int row;

    TRY(map_columns(sc, name, shape, a, map));
    for (row = 0; row < n; row++) {
        TRY(read_row(sc, shape, a, row, map, (char *)items + (size_t)row * shape->size));
    }
    return OK;
}

void pg_rows_keep(struct scope *sc, struct pg_answer *a)
{
    arena_defer(sc->arena, pg_answer_free_rows, a->rows);
    a->rows = NULL;
}
