/* Schedules in crontab form, in any time zone.
 *
 * "minute hour day month weekday", or six fields with the second in front; each a list of *, n,
 * n-m, with /step. Weekdays are 0 to 7, both 0 and 7 Sunday. Where day and weekday are both given,
 * either is enough, as in cron(8).
 *
 * At a change of the clocks no tick is lost or doubled: what falls into the hour that is left out
 * comes right after it, and of an hour that comes twice a schedule with fixed hours takes the
 * first. One whose hour is * goes by real time. */
#ifndef LIB_CRON_H
#define LIB_CRON_H

#include <stdbool.h>
#include <stdint.h>

struct cron {
    uint64_t seconds, minutes; /* a bit for each value that matches */
    uint32_t hours, days, months, weekdays;
    bool any_hour, any_day, any_weekday; /* the field was * */
};

/* Read a schedule. False: malformed, or a value out of range. */
bool cron_parse(const char *text, struct cron *out);

/* Is there such a time zone on this machine ("UTC", "Europe/Berlin")? */
bool cron_zone_is_known(const char *zone);

/* The first tick after a moment. False: none within five years, or no such zone. Reads the zone's
 * file. */
bool cron_next(const struct cron *c, const char *zone, int64_t after_ms, int64_t *next_ms_out);

#endif
