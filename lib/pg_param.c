/* Formatting only; what a value means is the query's business. */
#include "lib/pg_param.h"

#include <math.h>

#include "lib/clock.h"

const char *pg_param_id(struct scope *sc, struct id id)
{
    return id_text(sc->arena, id);
}

const char *pg_param_id_or_null(struct scope *sc, struct id id)
{
    return id_is_nil(id) ? NULL : id_text(sc->arena, id);
}

const char *pg_param_i64(struct scope *sc, int64_t value)
{
    enum { SIZE = 24 }; /* 19 digits, sign, NUL */
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    char *text;

    if (value == ABSENT_I64) {
        return NULL;
    }
    text = arena_alloc(sc->arena, SIZE);
    text += SIZE - 1;
    do {
        *--text = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    if (value < 0) {
        *--text = '-';
    }
    return text;
}

const char *pg_param_f64(struct scope *sc, double value)
{
    char *text;
    int digits;

    if (isnan(value)) {
        return NULL;
    }
    if (isinf(value)) {
        return value < 0 ? "-Infinity" : "Infinity";
    }
    for (digits = 15;; digits++) { /* 17 always read back (IEEE 754 binary64) */
        text = arena_printf(sc->arena, "%.*g", digits, value);
        if (digits >= 17 || strtod(text, NULL) == value) {
            return text;
        }
    }
}

const char *pg_param_bool(struct scope *sc, bool value)
{
    (void)sc;
    return value ? "t" : "f";
}

const char *pg_param_time(struct scope *sc, int64_t wall_ms)
{
    char *text;

    if (wall_ms == ABSENT_I64) {
        return NULL;
    }
    text = arena_alloc(sc->arena, CLOCK_TEXT_SIZE);
    clock_format(wall_ms, text);
    return text;
}

struct place pg_param_place(struct id id)
{
    static _Thread_local struct id last;
    static _Thread_local struct place place;

    if (!id_is_user(id)) {
        return id_place(id);
    }
    if (!id_equal(id, last)) {
        place = id_place(id);
        last = id;
    }
    return place;
}
