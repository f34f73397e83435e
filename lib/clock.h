/* Time, from one door, so that tests can set it. */
#ifndef LIB_CLOCK_H
#define LIB_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

/* Milliseconds since 1970-01-01 UTC. */
int64_t clock_wall_ms(void);

/* Microseconds of a clock that never goes back; only differences mean something. */
int64_t clock_mono_us(void);

/* Milliseconds of the same clock. */
int64_t clock_mono_ms(void);

/* Sleep; shorter where a signal comes. */
void clock_nap_ms(int64_t ms);

/* Tests only: from now on the wall clock stands at wall_ms and the monotonic one at mono_us
 * (negative: real clocks again). Not for use with threads running. */
void clock_test_set(int64_t wall_ms, int64_t mono_us);

/* RFC 3339 UTC with milliseconds, "2026-11-23T14:02:23.123Z". */
enum { CLOCK_TEXT_SIZE = 25 };

/* Write wall_ms (years 1970 to 9999, clamped) as text with its NUL. */
void clock_format(int64_t wall_ms, char out[CLOCK_TEXT_SIZE]);

/* Read RFC 3339 with any fraction and offset, or PostgreSQL's "2026-11-23 14:02:23.123456+00". */
bool clock_parse(const char *text, int64_t *wall_ms_out);

#endif
