/* A file has the changes of the past, and of some years to come or none; behind them a rule in the
 * form of TZ. */
#include "lib/zone.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "lib/base.h"

enum { FILE_MAX = 16384, HEADER = 44, HOUR_S = 3600, DAY_S = 86400, WEEK_DAYS = 7 };

struct counts {
    size_t utc, std, leap, times, types, chars;
};

static uint32_t read_u32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int64_t read_i64(const uint8_t *p)
{
    return (int64_t)((uint64_t)read_u32(p) << 32 | read_u32(p + 4));
}

static bool read_counts(const uint8_t *p, size_t left, struct counts *out)
{
    if (left < HEADER || memcmp(p, "TZif", 4) != 0 || p[4] < '2') {
        return false;
    }
    *out = (struct counts){.utc = read_u32(p + 20),
                           .std = read_u32(p + 24),
                           .leap = read_u32(p + 28),
                           .times = read_u32(p + 32),
                           .types = read_u32(p + 36),
                           .chars = read_u32(p + 40)};
    return out->utc < FILE_MAX && out->std < FILE_MAX && out->leap < FILE_MAX &&
           out->times < FILE_MAX && out->types < FILE_MAX && out->chars < FILE_MAX;
}

static size_t body_size(const struct counts *c, size_t time_size)
{
    return c->times * (time_size + 1) + c->types * 6 + c->chars + c->leap * (time_size + 4) +
           c->std + c->utc;
}

/* --- The rule: "CET-1CEST,M3.5.0,M10.5.0/3". --- */

static bool skip_name(const char **p)
{
    const char *start = *p;

    if (**p == '<') {
        *p += strcspn(*p, ">");
        return *(*p)++ == '>';
    }
    while ((**p >= 'A' && **p <= 'Z') || (**p >= 'a' && **p <= 'z')) {
        (*p)++;
    }
    return *p - start >= 3;
}

static bool read_int(const char **p, int *out)
{
    int n = 0, digits = 0;

    for (; **p >= '0' && **p <= '9' && digits < 4; (*p)++, digits++) {
        n = n * 10 + (**p - '0');
    }
    *out = n;
    return digits > 0;
}

/* [+-]h[:m[:s]] in seconds. */
static bool read_time(const char **p, int *out)
{
    int sign = **p == '-' ? -1 : 1, unit = HOUR_S, value, total = 0;

    *p += **p == '-' || **p == '+';
    for (;;) {
        if (!read_int(p, &value)) {
            return false;
        }
        total += value * unit;
        unit /= 60;
        if (**p != ':' || unit == 0) {
            *out = sign * total;
            return true;
        }
        (*p)++;
    }
}

static bool read_rule(const char **p, struct zone_rule *out)
{
    *out = (struct zone_rule){.time_s = 2 * HOUR_S};
    if ((*p)[0] != ',' || (*p)[1] != 'M') {
        return false;
    }
    *p += 2;
    if (!read_int(p, &out->month) || *(*p)++ != '.' || !read_int(p, &out->week) || *(*p)++ != '.' ||
        !read_int(p, &out->weekday)) {
        return false;
    }
    if (**p == '/') {
        (*p)++;
        if (!read_time(p, &out->time_s)) {
            return false;
        }
    }
    return out->month >= 1 && out->month <= 12 && out->week >= 1 && out->week <= 5 &&
           out->weekday >= 0 && out->weekday < WEEK_DAYS;
}

static bool read_footer(const char *p, struct zone *z)
{
    int west;

    if (*p == '\0') {
        return true; /* no rule: the last change holds */
    }
    if (!skip_name(&p) || !read_time(&p, &west)) {
        return false;
    }
    z->has_rule = true;
    z->standard_s = z->summer_s = -west;
    if (*p == '\0') {
        return true;
    }
    if (!skip_name(&p)) {
        return false;
    }
    z->summer_s = z->standard_s + HOUR_S;
    if (*p != ',') {
        if (!read_time(&p, &west)) {
            return false;
        }
        z->summer_s = -west;
    }
    return read_rule(&p, &z->summer_begins) && read_rule(&p, &z->summer_ends) && *p == '\0';
}

static bool read_changes(const uint8_t *p, const struct counts *c, struct zone *z)
{
    const uint8_t *index = p + c->times * 8, *types = index + c->times;
    size_t i;

    if (c->times > ZONE_CHANGES_MAX || c->types == 0 || c->types > ZONE_TYPES_MAX) {
        return false;
    }
    z->n = c->times;
    z->first_offset_s = (int32_t)read_u32(types);
    for (i = 0; i < c->times; i++) {
        if (index[i] >= c->types) {
            return false;
        }
        z->change[i] = read_i64(p + i * 8);
        z->offset_s[i] = (int32_t)read_u32(types + (size_t)index[i] * 6);
    }
    return true;
}

/* data has a NUL behind it. */
static bool parse(const uint8_t *data, size_t len, struct zone *z)
{
    struct counts c;
    size_t at;
    char *end;

    if (!read_counts(data, len, &c)) {
        return false;
    }
    at = HEADER + body_size(&c, 4); /* the first body is for those who read 32 bits only */
    if (at > len || !read_counts(data + at, len - at, &c) ||
        at + HEADER + body_size(&c, 8) + 2 > len || !read_changes(data + at + HEADER, &c, z)) {
        return false;
    }
    at += HEADER + body_size(&c, 8);
    end = strchr((const char *)data + at + 1, '\n');
    if (data[at] != '\n' || end == NULL) {
        return false;
    }
    *end = '\0';
    return read_footer((const char *)data + at + 1, z);
}

bool zone_load(const char *name, struct zone *out)
{
    char path[ZONE_NAME_MAX + 24];
    uint8_t data[FILE_MAX + 1];
    size_t len;
    FILE *f;

    *out = (struct zone){.n = 0};
    if (*name == '\0' || *name == '/' || strlen(name) > ZONE_NAME_MAX ||
        strstr(name, "..") != NULL) {
        return false;
    }
    snprintf(path, sizeof(path), "/usr/share/zoneinfo/%s", name);
    f = fopen(path, "rbe");
    if (f == NULL) {
        return false;
    }
    len = fread(data, 1, FILE_MAX, f);
    fclose(f);
    data[len] = '\0';
    return parse(data, len, out);
}

/* Days since 1970 of the first of a month (Howard Hinnant's days_from_civil). */
static int64_t days_of(int64_t year, int month)
{
    int64_t y = month <= 2 ? year - 1 : year, era = (y >= 0 ? y : y - 399) / 400;
    int64_t of_era = y - era * 400, of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5;

    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

/* When the rule's change comes in a year, in UTC, given the offset before it. */
static int64_t change_of(const struct zone_rule *r, int64_t year, int32_t before_s)
{
    int64_t first = days_of(year, r->month), day;
    int64_t next = r->month == 12 ? days_of(year + 1, 1) : days_of(year, r->month + 1);
    int weekday = (int)(((first + 4) % WEEK_DAYS + WEEK_DAYS) % WEEK_DAYS); /* 1970: Thursday */

    day = first + (r->weekday - weekday + WEEK_DAYS) % WEEK_DAYS + (r->week - 1) * WEEK_DAYS;
    while (day >= next) {
        day -= WEEK_DAYS; /* the fifth is the last */
    }
    return day * DAY_S + r->time_s - before_s;
}

static int32_t by_rule(const struct zone *z, int64_t unix_s)
{
    time_t local = (time_t)(unix_s + z->standard_s);
    int64_t begins, ends;
    struct tm t;
    bool is_summer;

    if (z->summer_s == z->standard_s) {
        return z->standard_s;
    }
    gmtime_r(&local, &t);
    begins = change_of(&z->summer_begins, t.tm_year + 1900, z->standard_s);
    ends = change_of(&z->summer_ends, t.tm_year + 1900, z->summer_s);
    is_summer =
        begins < ends ? unix_s >= begins && unix_s < ends : unix_s >= begins || unix_s < ends;
    return is_summer ? z->summer_s : z->standard_s;
}

int32_t zone_offset_s(const struct zone *z, int64_t unix_s)
{
    size_t low = 0, high = z->n;

    if (z->n == 0 || unix_s >= z->change[z->n - 1]) {
        return z->has_rule ? by_rule(z, unix_s)
               : z->n == 0 ? z->first_offset_s
                           : z->offset_s[z->n - 1];
    }
    while (low < high) { /* the first change behind the moment */
        size_t middle = (low + high) / 2;

        if (z->change[middle] <= unix_s) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low == 0 ? z->first_offset_s : z->offset_s[low - 1];
}
