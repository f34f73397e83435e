/* A shape is the one table of a resource: it reads JSON in with bounds, maps a row, and writes JSON
 * out.
 *
 *   struct track { struct id id; const char *title; int64_t duration_ms; };
 *   static const struct field track_fields[] = {
 *       F_ID(track, id, "id", 0),
 *       F_STR(track, title, "title", 1, 200, 0),
 *       F_I64(track, duration_ms, "durationMs", 0, INT64_MAX, F_OPTIONAL),
 *   };
 *   static const struct shape shape_track = SHAPE(track, track_fields);
 *
 * The C member's name is the column's name. A member of the wrong C type does not compile. Absent
 * numbers and times are ABSENT_I64, absent doubles NAN, absent texts NULL, absent ids nil; they are
 * written as null. */
#ifndef LIB_SHAPE_H
#define LIB_SHAPE_H

#include <stddef.h>
#include <stdint.h>

#include "lib/id.h"
#include "lib/json.h"
#include "lib/scope.h"
#include "lib/str.h"

enum field_kind {
    FIELD_STR,  /* const char *: UTF-8 without control characters; bounds count characters */
    FIELD_WORD, /* const char *: one of the words */
    FIELD_I64,  /* int64_t: bounds are values */
    FIELD_F64,  /* double: finite; bounds are values */
    FIELD_BOOL, /* bool */
    FIELD_ID,   /* struct id */
    FIELD_TIME, /* int64_t, ms since 1970; RFC 3339 in JSON, timestamptz in rows */
    FIELD_JSON, /* const char *: JSON text, passed through (jsonb in rows) */
    FIELD_ANY   /* const struct json *: any value, for the handler; not written, not in rows */
};

enum field_flag {
    F_OPTIONAL = 1,  /* may be missing or null in JSON */
    F_OUT_ONLY = 2,  /* never read from JSON: there it is an unknown member */
    F_HIDDEN = 4,    /* in rows only: never written to JSON */
    F_OMIT_NULL = 8, /* not written where absent */
    F_TRIM = 16      /* white space at both ends is dropped before the bounds are judged */
};

struct field {
    const char *name;   /* JSON member */
    const char *column; /* column of a row */
    enum field_kind kind;
    size_t offset;
    int64_t min, max;
    unsigned flags;
    const char *const *words; /* FIELD_WORD: NULL-terminated */
};

struct shape {
    const char *name;
    size_t size; /* of the struct */
    const struct field *fields;
    size_t n_fields;
};

/* clang-format off: it breaks within the generic selection */
#define SHAPE_TYPED(tag, member, type)                                     \
    (offsetof(struct tag, member) +                                        \
     0 * sizeof(char[_Generic(((struct tag *)0)->member, type : 1, default \
                              : -1)]))
#define SHAPE_FIELD(tag, member, type, json, k, lo, hi, fl, w)                    \
    {                                                                             \
        .name = (json), .column = #member, .kind = (k), .min = (lo), .max = (hi), \
        .offset = SHAPE_TYPED(tag, member, type), .flags = (fl), .words = (w)     \
    }
/* clang-format on */

#define F_STR(tag, member, json, min_chars, max_chars, flags) \
    SHAPE_FIELD(tag, member, const char *, json, FIELD_STR, min_chars, max_chars, flags, NULL)
#define F_WORD(tag, member, json, words, flags) \
    SHAPE_FIELD(tag, member, const char *, json, FIELD_WORD, 0, 0, flags, words)
#define F_I64(tag, member, json, least, most, flags) \
    SHAPE_FIELD(tag, member, int64_t, json, FIELD_I64, least, most, flags, NULL)
#define F_F64(tag, member, json, least, most, flags) \
    SHAPE_FIELD(tag, member, double, json, FIELD_F64, least, most, flags, NULL)
#define F_BOOL(tag, member, json, flags) \
    SHAPE_FIELD(tag, member, bool, json, FIELD_BOOL, 0, 0, flags, NULL)
#define F_ID(tag, member, json, flags) \
    SHAPE_FIELD(tag, member, struct id, json, FIELD_ID, 0, 0, flags, NULL)
#define F_TIME(tag, member, json, flags) \
    SHAPE_FIELD(tag, member, int64_t, json, FIELD_TIME, 0, 0, flags, NULL)
#define F_JSON(tag, member, json, flags) \
    SHAPE_FIELD(tag, member, const char *, json, FIELD_JSON, 0, 0, flags, NULL)
#define F_ANY(tag, member, name_text, flags) \
    SHAPE_FIELD(tag, member, const struct json *, name_text, FIELD_ANY, 0, 0, flags, NULL)

#define SHAPE(tag, table)                                                                         \
    {                                                                                             \
        .name = #tag, .size = sizeof(struct tag), .fields = (table), .n_fields = ARRAY_LEN(table) \
    }

/* Read an object into *out (a struct of the shape). All faults are collected as violations of the
 * scope, with the member's name behind prefix ("" or "tracks[2]."): unknown members, missing ones,
 * wrong types, bounds. Texts live in the arena. */
MUST_USE enum err shape_read(struct scope *sc, const struct shape *shape, const struct json *object,
                             const char *prefix, void *out);

/* Set one field from the text form that PostgreSQL gives (NULL: SQL NULL). ERR_INTERNAL where it
 * does not parse. */
MUST_USE enum err shape_set_text(struct scope *sc, const struct field *field, const char *text,
                                 size_t len, void *out);

/* Make every field of *out absent. */
void shape_clear(const struct shape *shape, void *out);

/* Append the struct as a JSON object. */
void shape_write(struct strbuf *buf, const struct shape *shape, const void *in);

#endif
