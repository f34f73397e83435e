/* Walks local time: whole hours while the hour or the day does not match, minutes and seconds
 * within. */
#include "lib/cron.h"

#include <string.h>
#include <time.h>

#include "lib/zone.h"

enum { HORIZON_S = 5 * 366 * 86400, HOUR_S = 3600, MINUTE_S = 60 };

static bool read_number(const char **p, int *out)
{
    int n = 0, digits = 0;

    while (**p >= '0' && **p <= '9' && digits < 4) {
        n = n * 10 + (*(*p)++ - '0');
        digits++;
    }
    *out = n;
    return digits > 0 && digits < 4;
}

/* One part of a list: *, n or n-m, and a step. */
static bool read_part(const char **p, int low, int high, uint64_t *bits, bool *is_any)
{
    int from = low, to = high, step = 1, i;

    if (**p == '*') {
        (*p)++;
        *is_any = *is_any || (**p != '/');
    } else {
        if (!read_number(p, &from)) {
            return false;
        }
        to = from;
        if (**p == '-') {
            (*p)++;
            if (!read_number(p, &to)) {
                return false;
            }
        } else if (**p == '/') {
            to = high;
        }
    }
    if (**p == '/') {
        (*p)++;
        if (!read_number(p, &step) || step == 0) {
            return false;
        }
    }
    if (from < low || to > high || from > to) {
        return false;
    }
    for (i = from; i <= to; i += step) {
        *bits |= UINT64_C(1) << i;
    }
    return true;
}

static bool read_field(const char **p, int low, int high, uint64_t *bits, bool *is_any)
{
    *bits = 0;
    *is_any = false;
    while (**p == ' ') {
        (*p)++;
    }
    for (;;) {
        if (!read_part(p, low, high, bits, is_any)) {
            return false;
        }
        if (**p != ',') {
            return **p == ' ' || **p == '\0';
        }
        (*p)++;
    }
}

static int count_fields(const char *p)
{
    int n = 0;

    while (*p != '\0') {
        p += strspn(p, " ");
        n += *p != '\0';
        p += strcspn(p, " ");
    }
    return n;
}

bool cron_parse(const char *text, struct cron *out)
{
    int fields = count_fields(text);
    uint64_t hours, days, months, weekdays;
    bool ignored;

    *out = (struct cron){.seconds = 1};
    if (fields != 5 && fields != 6) {
        return false;
    }
    if (fields == 6 && !read_field(&text, 0, 59, &out->seconds, &ignored)) {
        return false;
    }
    if (!read_field(&text, 0, 59, &out->minutes, &ignored) ||
        !read_field(&text, 0, 23, &hours, &out->any_hour) ||
        !read_field(&text, 1, 31, &days, &out->any_day) ||
        !read_field(&text, 1, 12, &months, &ignored) ||
        !read_field(&text, 0, 7, &weekdays, &out->any_weekday)) {
        return false;
    }
    out->hours = (uint32_t)hours;
    out->days = (uint32_t)days;
    out->months = (uint32_t)months;
    out->weekdays = (uint32_t)(weekdays | (weekdays >> 7 & 1));
    return true;
}

bool cron_zone_is_known(const char *zone)
{
    struct zone z;

    return zone_load(zone, &z);
}

static struct tm local_time(const struct zone *z, time_t t)
{
    time_t shifted = t + zone_offset_s(z, t);
    struct tm local;

    gmtime_r(&shifted, &local);
    return local;
}

static bool is_day(const struct cron *c, const struct tm *t)
{
    bool day = (c->days >> t->tm_mday & 1) != 0, weekday = (c->weekdays >> t->tm_wday & 1) != 0;

    if ((c->months >> (t->tm_mon + 1) & 1) == 0) {
        return false;
    }
    return c->any_day || c->any_weekday ? day && weekday : day || weekday;
}

/* Does the same wall-clock time come a second time at t? */
static bool is_second(const struct zone *z, time_t t, const struct tm *local)
{
    struct tm past = local_time(z, t - HOUR_S);

    return past.tm_hour == local->tm_hour && past.tm_min == local->tm_min;
}

/* Was an hour left out between two moments, in which the schedule has a tick? */
static bool is_left_out(const struct cron *c, const struct tm *past, const struct tm *now)
{
    int hour = (past->tm_hour + 1) % 24;

    return !c->any_hour && (now->tm_hour - past->tm_hour + 24) % 24 == 2 &&
           (c->hours >> hour & 1) != 0 && is_day(c, now);
}

/* Seconds to the next moment that may match; 0: this one does. */
static int step(const struct cron *c, const struct zone *z, time_t t, const struct tm *local)
{
    if (!is_day(c, local) || (c->hours >> local->tm_hour & 1) == 0 ||
        (!c->any_hour && is_second(z, t, local))) {
        return HOUR_S - local->tm_min * MINUTE_S - local->tm_sec;
    }
    if ((c->minutes >> local->tm_min & 1) == 0) {
        return MINUTE_S - local->tm_sec;
    }
    return (c->seconds >> local->tm_sec & 1) == 0;
}

static bool find(const struct cron *c, const struct zone *z, time_t after, time_t *found_out)
{
    struct tm past = local_time(z, after), local;
    time_t t = after + 1;
    int seconds;

    for (;;) {
        local = local_time(z, t);
        if (is_left_out(c, &past, &local)) {
            *found_out = t - local.tm_min * MINUTE_S - local.tm_sec;
            return true;
        }
        seconds = step(c, z, t, &local);
        if (seconds == 0) {
            *found_out = t;
            return true;
        }
        past = local;
        t += seconds;
        if (t - after > HORIZON_S) {
            return false;
        }
    }
}

bool cron_next(const struct cron *c, const char *zone, int64_t after_ms, int64_t *next_ms_out)
{
    time_t found = 0;
    struct zone z;
    bool is_found = zone_load(zone, &z) && find(c, &z, (time_t)(after_ms / 1000), &found);

    *next_ms_out = (int64_t)found * 1000;
    return is_found;
}
