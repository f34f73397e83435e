/* JSON in: strict RFC 8259 reading on json-c. JSON out is strbuf_json() and shape_write().
 *
 * Refused: a depth over JSON_DEPTH_MAX, duplicate member names, invalid UTF-8, NUL bytes, text
 * behind the value, comments and every other leniency. Values live in the scope's arena. Nothing
 * here blocks. */
#ifndef LIB_JSON_H
#define LIB_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/scope.h"
#include "lib/str.h"

struct json; /* one value */

enum { JSON_DEPTH_MAX = 16 };

enum json_kind {
    JSON_NULL,
    JSON_BOOL,
    JSON_INT,
    JSON_DOUBLE,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
};

/* Parse the whole text. ERR_BAD_JSON with a detail that tells where and why. A JSON null gives the
 * value NULL. */
MUST_USE enum err json_parse(struct scope *sc, const char *text, size_t len,
                             const struct json **value_out);

/* Kind of a value; NULL is JSON_NULL. */
enum json_kind json_kind(const struct json *value);

/* Member of an object, NULL where there is none (or it is null). */
const struct json *json_get(const struct json *object, const char *name);

/* Is the member there, be it null? */
bool json_has(const struct json *object, const char *name);

/* Number of items of an array, 0 for another kind. */
size_t json_length(const struct json *array);

/* Item i < json_length(array). */
const struct json *json_item(const struct json *array, size_t i);

/* Value of an integer (false: another kind, or beyond int64, or with a fraction). */
bool json_i64(const struct json *value, int64_t *out);

/* Value of any finite number. */
bool json_double(const struct json *value, double *out);

/* Value of a boolean. */
bool json_truth(const struct json *value, bool *out);

/* Text of a string, NULL for another kind. len_out (may be NULL) counts bytes; the text may hold
 * NULs if it differs from strlen(). Lives as long as the value. */
const char *json_str(const struct json *value, size_t *len_out);

/* Call fn for each member until it returns false. */
void json_each(const struct json *object,
               bool (*fn)(void *context, const char *name, const struct json *value),
               void *context);

/* Append the value as compact JSON. */
void json_write(struct strbuf *out, const struct json *value);

#endif
