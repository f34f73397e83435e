/* One table, three directions: JSON in, row in, JSON out. */
#include "lib/shape.h"

#include <errno.h>
#include <math.h>

#include "lib/clock.h"

enum { NAME_TOLD_MAX = 64 }; /* bytes of an unknown member's name that a violation repeats */

static void *slot(const struct field *f, void *base)
{
    return (char *)base + f->offset;
}

static const void *const_slot(const struct field *f, const void *base)
{
    return (const char *)base + f->offset;
}

static void clear_field(const struct field *f, void *out)
{
    switch (f->kind) {
    case FIELD_I64:
    case FIELD_TIME:
        *(int64_t *)slot(f, out) = ABSENT_I64;
        break;
    case FIELD_F64:
        *(double *)slot(f, out) = NAN;
        break;
    case FIELD_BOOL:
        *(bool *)slot(f, out) = false;
        break;
    case FIELD_ID:
        *(struct id *)slot(f, out) = (struct id){{0}};
        break;
    case FIELD_STR:
    case FIELD_WORD:
    case FIELD_JSON:
    case FIELD_ANY:
        *(const void **)slot(f, out) = NULL;
        break;
    }
}

void shape_clear(const struct shape *shape, void *out)
{
    size_t i;

    for (i = 0; i < shape->n_fields; i++) {
        clear_field(&shape->fields[i], out);
    }
}

static enum err wrong_type(struct scope *sc, const char *path, const char *wanted)
{
    return scope_violation(sc, path, "type", "must be %s", wanted);
}

/* Drop ASCII white space at both ends. */
static const char *trimmed(struct arena *a, const char *text)
{
    const char *start = text + strspn(text, " \t\r\n");
    size_t len = strlen(start);

    while (len > 0 && strchr(" \t\r\n", start[len - 1]) != NULL) {
        len--;
    }
    return arena_strndup(a, start, len);
}

static bool has_control(const char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;

        /* C0, DEL, and C1 (U+0080 … U+009F, in UTF-8 C2 80 … C2 9F) */
        if (c < 0x20 || c == 0x7f ||
            (c == 0xc2 && (unsigned char)text[1] >= 0x80 && (unsigned char)text[1] < 0xa0)) {
            return true;
        }
    }
    return false;
}

static enum err read_str(struct scope *sc, const struct field *f, const char *path,
                         const struct json *value, void *out)
{
    size_t len;
    const char *text = json_str(value, &len);
    size_t n;

    if (text == NULL) {
        return wrong_type(sc, path, "a string");
    }
    if (strlen(text) == len && f->flags & F_TRIM) {
        text = trimmed(sc->arena, text);
        len = strlen(text);
    }
    if (strlen(text) != len || has_control(text)) {
        return scope_violation(sc, path, "format", "must not contain control characters");
    }
    n = utf8_length(text);
    if ((int64_t)n < f->min || (int64_t)n > f->max) {
        return scope_violation(sc, path, "length", "must have %lld to %lld characters",
                               (long long)f->min, (long long)f->max);
    }
    *(const char **)slot(f, out) = text;
    return OK;
}

static enum err read_word(struct scope *sc, const struct field *f, const char *path,
                          const struct json *value, void *out)
{
    size_t len, i;
    const char *text = json_str(value, &len);
    struct strbuf list;

    if (text == NULL) {
        return wrong_type(sc, path, "a string");
    }
    strbuf_init(&list, sc->arena, 64);
    for (i = 0; f->words[i] != NULL; i++) {
        if (strcmp(f->words[i], text) == 0 && strlen(text) == len) {
            *(const char **)slot(f, out) = f->words[i];
            return OK;
        }
        strbuf_printf(&list, "%s%s", i > 0 ? ", " : "", f->words[i]);
    }
    return scope_violation(sc, path, "value", "must be one of %s", list.data);
}

static enum err read_i64(struct scope *sc, const struct field *f, const char *path,
                         const struct json *value, void *out)
{
    int64_t number;

    if (json_kind(value) != JSON_INT) {
        return wrong_type(sc, path, "a whole number");
    }
    if (!json_i64(value, &number) || number < f->min || number > f->max) {
        return scope_violation(sc, path, "range", "must be from %lld to %lld", (long long)f->min,
                               (long long)f->max);
    }
    *(int64_t *)slot(f, out) = number;
    return OK;
}

static enum err read_f64(struct scope *sc, const struct field *f, const char *path,
                         const struct json *value, void *out)
{
    double number;

    if (!json_double(value, &number)) {
        return wrong_type(sc, path, "a number");
    }
    if (number < (double)f->min || number > (double)f->max) {
        return scope_violation(sc, path, "range", "must be from %lld to %lld", (long long)f->min,
                               (long long)f->max);
    }
    *(double *)slot(f, out) = number;
    return OK;
}

static enum err read_id(struct scope *sc, const struct field *f, const char *path,
                        const struct json *value, void *out)
{
    size_t len;
    const char *text = json_str(value, &len);

    if (text == NULL) {
        return wrong_type(sc, path, "a string");
    }
    if (!id_parse(text, len, slot(f, out))) {
        return scope_violation(sc, path, "format", "must be an id");
    }
    return OK;
}

static enum err read_time(struct scope *sc, const struct field *f, const char *path,
                          const struct json *value, void *out)
{
    size_t len;
    const char *text = json_str(value, &len);

    if (text == NULL) {
        return wrong_type(sc, path, "a string");
    }
    if (strlen(text) != len || !clock_parse(text, slot(f, out))) {
        return scope_violation(sc, path, "format", "must be an RFC 3339 time");
    }
    return OK;
}

static enum err read_value(struct scope *sc, const struct field *f, const char *path,
                           const struct json *value, void *out)
{
    struct strbuf text;

    switch (f->kind) {
    case FIELD_STR:
        return read_str(sc, f, path, value, out);
    case FIELD_WORD:
        return read_word(sc, f, path, value, out);
    case FIELD_I64:
        return read_i64(sc, f, path, value, out);
    case FIELD_F64:
        return read_f64(sc, f, path, value, out);
    case FIELD_BOOL:
        return json_truth(value, slot(f, out)) ? OK : wrong_type(sc, path, "true or false");
    case FIELD_ID:
        return read_id(sc, f, path, value, out);
    case FIELD_TIME:
        return read_time(sc, f, path, value, out);
    case FIELD_JSON:
        strbuf_init(&text, sc->arena, 128);
        json_write(&text, value);
        *(const char **)slot(f, out) = text.data;
        return OK;
    case FIELD_ANY:
        *(const struct json **)slot(f, out) = value;
        return OK;
    }
    return ERR_INTERNAL;
}

static const struct field *readable_field(const struct shape *shape, const char *name)
{
    size_t i;

    for (i = 0; i < shape->n_fields; i++) {
        const struct field *f = &shape->fields[i];

        if (!(f->flags & (F_OUT_ONLY | F_HIDDEN)) && strcmp(f->name, name) == 0) {
            return f;
        }
    }
    return NULL;
}

struct unknown_check {
    struct scope *sc;
    const struct shape *shape;
    const char *prefix;
};

/* Length of the name, or of what is told of a long one: cut between characters. A client chooses
 * such names, so they must not fill the arena and the reply. */
static int told_length(const char *name)
{
    size_t len = strnlen(name, NAME_TOLD_MAX + 1);

    if (len > NAME_TOLD_MAX) {
        for (len = NAME_TOLD_MAX; len > 0 && ((unsigned char)name[len] & 0xc0) == 0x80; len--) {
        }
    }
    return (int)len;
}

static bool check_member(void *context, const char *name, const struct json *value)
{
    struct unknown_check *check = context;

    (void)value;
    if (readable_field(check->shape, name) == NULL) {
        (void)scope_violation(
            check->sc,
            arena_printf(check->sc->arena, "%s%.*s", check->prefix, told_length(name), name),
            "unknown", "is not a member of this object");
    }
    return check->sc->n_violations < VIOLATIONS_MAX;
}

enum err shape_read(struct scope *sc, const struct shape *shape, const struct json *object,
                    const char *prefix, void *out)
{
    struct unknown_check check = {.sc = sc, .shape = shape, .prefix = prefix};
    int before = sc->n_violations;
    size_t i;

    shape_clear(shape, out);
    if (json_kind(object) != JSON_OBJECT) {
        return scope_violation(sc, prefix, "type", "must be an object");
    }
    json_each(object, check_member, &check);
    for (i = 0; i < shape->n_fields; i++) {
        const struct field *f = &shape->fields[i];
        const struct json *value = json_get(object, f->name);
        const char *path;

        if (f->flags & (F_OUT_ONLY | F_HIDDEN)) {
            continue;
        }
        path = *prefix == '\0' ? f->name : arena_printf(sc->arena, "%s%s", prefix, f->name);
        if (value != NULL) {
            (void)read_value(sc, f, path, value, out); /* faults are collected in the scope */
        } else if (!(f->flags & F_OPTIONAL)) {
            (void)scope_violation(sc, path, "required", "is missing");
        }
    }
    return sc->n_violations > before ? ERR_VALIDATION_FAILED : OK;
}

static bool set_f64(const char *text, double *out)
{
    char *end;

    errno = 0;
    *out = strtod(text, &end);
    return errno == 0 && *end == '\0' && end != text;
}

enum err shape_set_text(struct scope *sc, const struct field *f, const char *text, size_t len,
                        void *out)
{
    bool is_good = true;

    if (text == NULL) {
        clear_field(f, out);
        return OK;
    }
    switch (f->kind) {
    case FIELD_STR:
    case FIELD_WORD:
    case FIELD_JSON:
        *(const char **)slot(f, out) = arena_strndup(sc->arena, text, len);
        break;
    case FIELD_I64:
        is_good = i64_parse(text, slot(f, out));
        break;
    case FIELD_F64:
        is_good = set_f64(text, slot(f, out));
        break;
    case FIELD_BOOL:
        *(bool *)slot(f, out) = text[0] == 't';
        break;
    case FIELD_ID:
        is_good = id_parse(text, len, slot(f, out));
        break;
    case FIELD_TIME:
        is_good = clock_parse(text, slot(f, out));
        break;
    case FIELD_ANY:
        is_good = false;
        break;
    }
    return is_good ? OK : scope_fail(sc, ERR_INTERNAL, "column %s does not parse", f->column);
}

static bool is_absent(const struct field *f, const void *in)
{
    const void *p = const_slot(f, in);

    switch (f->kind) {
    case FIELD_I64:
    case FIELD_TIME:
        return *(const int64_t *)p == ABSENT_I64;
    case FIELD_F64:
        return !isfinite(*(const double *)p);
    case FIELD_BOOL:
        return false;
    case FIELD_ID:
        return id_is_nil(*(const struct id *)p);
    case FIELD_STR:
    case FIELD_WORD:
    case FIELD_JSON:
    case FIELD_ANY:
        return *(const void *const *)p == NULL;
    }
    return true;
}

static void write_value(struct strbuf *buf, const struct field *f, const void *in)
{
    const void *p = const_slot(f, in);
    char text[64];

    switch (f->kind) {
    case FIELD_STR:
    case FIELD_WORD:
        strbuf_json(buf, *(const char *const *)p);
        break;
    case FIELD_I64:
        strbuf_i64(buf, *(const int64_t *)p);
        break;
    case FIELD_F64:
        /* 15 digits give back every decimal of up to 15 digits as it was written */
        snprintf(text, sizeof(text), "%.15g", *(const double *)p);
        strbuf_puts(buf, text);
        break;
    case FIELD_BOOL:
        strbuf_puts(buf, *(const bool *)p ? "true" : "false");
        break;
    case FIELD_ID:
        id_format(*(const struct id *)p, text);
        strbuf_putc(buf, '"');
        strbuf_add(buf, text, ID_TEXT_SIZE - 1);
        strbuf_putc(buf, '"');
        break;
    case FIELD_TIME:
        clock_format(*(const int64_t *)p, text);
        strbuf_putc(buf, '"');
        strbuf_puts(buf, text);
        strbuf_putc(buf, '"');
        break;
    case FIELD_JSON:
        strbuf_puts(buf, *(const char *const *)p);
        break;
    case FIELD_ANY:
        break;
    }
}

void shape_write(struct strbuf *buf, const struct shape *shape, const void *in)
{
    const char *separator = "";
    size_t i;

    strbuf_putc(buf, '{');
    for (i = 0; i < shape->n_fields; i++) {
        const struct field *f = &shape->fields[i];
        bool absent = is_absent(f, in);

        if (f->flags & F_HIDDEN || f->kind == FIELD_ANY || (absent && f->flags & F_OMIT_NULL)) {
            continue;
        }
        strbuf_puts(buf, separator);
        strbuf_putc(buf, '"');
        strbuf_puts(buf, f->name);
        strbuf_puts(buf, "\":");
        if (absent) {
            strbuf_puts(buf, "null");
        } else {
            write_value(buf, f, in);
        }
        separator = ",";
    }
    strbuf_putc(buf, '}');
}
