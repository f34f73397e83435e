/* The parameters of a job: "name=value" lines, arrays as name.0, name.1 …, objects as name.member.
 * Pure look-ups in the text. */
#ifndef WORKERS_MEDIA_PARAMS_H
#define WORKERS_MEDIA_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Copy the value of name (with its NUL). False: not there, or longer than size allows. */
bool params_text(const char *params, const char *name, char *out, size_t size);

/* The value as a whole number. *out stays as it is where there is none; false: there, but not a
 * number in the range. */
bool params_i64(const char *params, const char *name, int64_t least, int64_t most, int64_t *out);

/* The same for any number. */
bool params_double(const char *params, const char *name, double least, double most, double *out);

/* The same for true and false. */
bool params_bool(const char *params, const char *name, bool *out);

/* "#rrggbb" or "#rrggbbaa" into red, green, blue, alpha (255: opaque). */
bool params_color(const char *params, const char *name, uint8_t out[4]);

#endif
