/* Time zones: how far local time is from UTC at a moment, from this machine's zone files (TZif, RFC
 * 8536). Unlike the C library's TZ it is a value, not a state of the process, so any thread may use
 * any zone. */
#ifndef LIB_ZONE_H
#define LIB_ZONE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ZONE_NAME_MAX = 64, ZONE_CHANGES_MAX = 512, ZONE_TYPES_MAX = 64 };

/* "Mm.w.d/time" of a POSIX TZ string: the change is at time (s of local time, may be negative) on
 * weekday of the nth week of month. */
struct zone_rule {
    int month, week, weekday, time_s;
};

struct zone {
    size_t n; /* changes; change[i] is when offset_s[i] begins, in s since 1970 */
    int64_t change[ZONE_CHANGES_MAX];
    int32_t offset_s[ZONE_CHANGES_MAX];
    int32_t first_offset_s; /* before the first */
    bool has_rule;          /* of what comes behind the last: winter and summer time by two rules */
    int32_t standard_s, summer_s;
    struct zone_rule summer_begins, summer_ends;
};

/* Read a zone ("UTC", "Europe/Berlin") into the caller's storage. False: there is none, or its file
 * is malformed. Blocks for one small file. */
bool zone_load(const char *name, struct zone *out);

/* Seconds that local time is ahead of UTC at a moment. Pure. */
int32_t zone_offset_s(const struct zone *z, int64_t unix_s);

#endif
