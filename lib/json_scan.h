/* The grammar of RFC 8259, to the letter, without building anything.
 *
 * json-c reads more than JSON even in its strict mode (names in single quotes, raw control
 * characters, NaN, "1."), so json.c lets this look first. Pure: no allocation, no state. */
#ifndef LIB_JSON_SCAN_H
#define LIB_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>

struct json_fault {
    size_t at;       /* offset of the byte that does not fit */
    const char *why; /* "a value is missing" */
};

/* Is the text, known to be UTF-8, exactly one value nested at most depth_max deep? Beyond the
 * grammar it refuses an escaped NUL in a name (C would cut the name there) and a surrogate without
 * its other half. *members_out counts the members of all objects as written. */
bool json_scan(const char *text, size_t len, int depth_max, size_t *members_out,
               struct json_fault *fault_out);

#endif
