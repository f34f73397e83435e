/* json-c builds the values; json_scan.c has judged the text before, and duplicate names are found
 * by counting. */
#include "lib/json.h"

#include <json-c/json.h>
#include <math.h>

#include "lib/json_scan.h"

static struct json_object *object_of(const struct json *value)
{
    return (struct json_object *)(uintptr_t)value;
}

static const struct json *value_of(struct json_object *object)
{
    return (const struct json *)object;
}

/* Members of all objects below, as parsed. A duplicate name replaced an earlier member, so fewer
 * than written. */
static size_t count_members(struct json_object *object)
{
    size_t n = 0, i;

    if (json_object_is_type(object, json_type_array)) {
        for (i = 0; i < json_object_array_length(object); i++) {
            n += count_members(json_object_array_get_idx(object, i));
        }
    } else if (json_object_is_type(object, json_type_object)) {
        json_object_object_foreach(object, name, member)
        {
            (void)name;
            n += 1 + count_members(member);
        }
    }
    return n;
}

static void put_object(void *p)
{
    json_object_put(p);
}

/* Build the values of a text that json_scan() has passed. */
static enum err build(struct scope *sc, const char *text, size_t len,
                      struct json_object **object_out)
{
    struct json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH_MAX);
    enum json_tokener_error why;

    if (tokener == NULL) {
        return scope_fail(sc, ERR_INTERNAL, "no memory for a JSON parser");
    }
    *object_out = json_tokener_parse_ex(tokener, text, (int)len);
    why = json_tokener_get_error(tokener);
    if (why == json_tokener_continue) {
        *object_out = json_tokener_parse_ex(tokener, " ", 1); /* a bare number ends only there */
        why = json_tokener_get_error(tokener);
    }
    json_tokener_free(tokener);
    if (*object_out != NULL) {
        arena_defer(sc->arena, put_object, *object_out);
    }
    return why == json_tokener_success
               ? OK
               : scope_refuse(sc, ERR_BAD_JSON, "%s", json_tokener_error_desc(why));
}

enum err json_parse(struct scope *sc, const char *text, size_t len, const struct json **value_out)
{
    struct json_object *object = NULL;
    struct json_fault fault;
    size_t members;

    *value_out = NULL;
    if (len > INT32_MAX / 2 || !utf8_valid(text, len)) {
        return scope_refuse(sc, ERR_BAD_JSON, "the text is not UTF-8, or too long");
    }
    if (!json_scan(text, len, JSON_DEPTH_MAX, &members, &fault)) {
        return scope_refuse(sc, ERR_BAD_JSON, "%s at byte %zu", fault.why, fault.at);
    }
    TRY(build(sc, text, len, &object));
    if (count_members(object) != members) {
        return scope_refuse(sc, ERR_BAD_JSON, "a member name occurs twice in one object");
    }
    *value_out = value_of(object);
    return OK;
}

enum json_kind json_kind(const struct json *value)
{
    switch (json_object_get_type(object_of(value))) {
    case json_type_boolean:
        return JSON_BOOL;
    case json_type_int:
        return JSON_INT;
    case json_type_double:
        return JSON_DOUBLE;
    case json_type_string:
        return JSON_STRING;
    case json_type_array:
        return JSON_ARRAY;
    case json_type_object:
        return JSON_OBJECT;
    case json_type_null:
        break;
    }
    return JSON_NULL;
}

const struct json *json_get(const struct json *object, const char *name)
{
    struct json_object *member = NULL;

    if (json_kind(object) != JSON_OBJECT ||
        !json_object_object_get_ex(object_of(object), name, &member)) {
        return NULL;
    }
    return value_of(member);
}

bool json_has(const struct json *object, const char *name)
{
    return json_kind(object) == JSON_OBJECT &&
           json_object_object_get_ex(object_of(object), name, NULL);
}

size_t json_length(const struct json *array)
{
    return json_kind(array) == JSON_ARRAY ? json_object_array_length(object_of(array)) : 0;
}

const struct json *json_item(const struct json *array, size_t i)
{
    return value_of(json_object_array_get_idx(object_of(array), i));
}

bool json_i64(const struct json *value, int64_t *out)
{
    if (json_kind(value) != JSON_INT) {
        return false;
    }
    *out = json_object_get_int64(object_of(value));
    /* json-c clamps what does not fit; the limits themselves are taken for clamped. */
    return *out != INT64_MAX && *out != INT64_MIN;
}

bool json_double(const struct json *value, double *out)
{
    enum json_kind kind = json_kind(value);

    if (kind != JSON_INT && kind != JSON_DOUBLE) {
        return false;
    }
    *out = json_object_get_double(object_of(value));
    return isfinite(*out);
}

bool json_truth(const struct json *value, bool *out)
{
    if (json_kind(value) != JSON_BOOL) {
        return false;
    }
    *out = json_object_get_boolean(object_of(value));
    return true;
}

const char *json_str(const struct json *value, size_t *len_out)
{
    if (json_kind(value) != JSON_STRING) {
        return NULL;
    }
    if (len_out != NULL) {
        *len_out = (size_t)json_object_get_string_len(object_of(value));
    }
    return json_object_get_string(object_of(value));
}

void json_each(const struct json *object,
               bool (*fn)(void *context, const char *name, const struct json *value), void *context)
{
    if (json_kind(object) != JSON_OBJECT) {
        return;
    }
    json_object_object_foreach(object_of(object), name, member)
    {
        if (!fn(context, name, value_of(member))) {
            return;
        }
    }
}

void json_write(struct strbuf *out, const struct json *value)
{
    size_t len;
    const char *text = json_object_to_json_string_length(
        object_of(value), JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);

    strbuf_add(out, text, len);
}
