/* The system's clocks, or a test's. */
#include "lib/clock.h"

#include <stdlib.h>
#include <time.h>

#include "lib/base.h"

static int64_t test_wall_ms = -1, test_mono_us = -1;

static int64_t read_us(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t clock_wall_ms(void)
{
    return test_wall_ms >= 0 ? test_wall_ms : read_us(CLOCK_REALTIME) / 1000;
}

int64_t clock_mono_us(void)
{
    return test_mono_us >= 0 ? test_mono_us : read_us(CLOCK_MONOTONIC);
}

int64_t clock_mono_ms(void)
{
    return clock_mono_us() / 1000;
}

void clock_nap_ms(int64_t ms)
{
    const struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    nanosleep(&time, NULL);
}

void clock_test_set(int64_t wall_ms, int64_t mono_us)
{
    test_wall_ms = wall_ms;
    test_mono_us = mono_us;
}

void clock_format(int64_t wall_ms, char out[CLOCK_TEXT_SIZE])
{
    const int64_t last_ms = 253402300799999; /* 9999-12-31T23:59:59.999Z */
    int64_t ms = wall_ms < 0 ? 0 : wall_ms > last_ms ? last_ms : wall_ms;
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;

    gmtime_r(&seconds, &tm);
    snprintf(out, CLOCK_TEXT_SIZE, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ",
             (unsigned)(tm.tm_year + 1900) % 10000, (unsigned)(tm.tm_mon + 1) % 100,
             (unsigned)tm.tm_mday % 100, (unsigned)tm.tm_hour % 100, (unsigned)tm.tm_min % 100,
             (unsigned)tm.tm_sec % 100, (unsigned)(ms % 1000));
}

/* Read exactly n digits. */
static bool digits(const char **at, int n, int *out)
{
    int i;

    *out = 0;
    for (i = 0; i < n; i++) {
        char c = (*at)[i];

        if (c < '0' || c > '9') {
            return false;
        }
        *out = *out * 10 + (c - '0');
    }
    *at += n;
    return true;
}

static bool literal(const char **at, char c)
{
    return *(*at)++ == c;
}

/* Read "Z", "+02", "+0200" or "+02:00" to the end of the text. */
static bool offset(const char *at, int *minutes_out)
{
    int sign, hours, minutes = 0;

    if (at[0] == 'Z' || at[0] == 'z') {
        *minutes_out = 0;
        return at[1] == '\0';
    }
    sign = at[0] == '+' ? 1 : at[0] == '-' ? -1 : 0;
    at++;
    if (sign == 0 || !digits(&at, 2, &hours)) {
        return false;
    }
    if (*at != '\0') {
        at += *at == ':';
        if (!digits(&at, 2, &minutes)) {
            return false;
        }
    }
    *minutes_out = sign * (hours * 60 + minutes);
    return *at == '\0' && hours < 24 && minutes < 60;
}

/* Read an optional fraction of a second as milliseconds; further digits are dropped. */
static bool fraction(const char **at, int *ms_out)
{
    int scale = 100;

    *ms_out = 0;
    if (**at != '.') {
        return true;
    }
    (*at)++;
    if (**at < '0' || **at > '9') {
        return false;
    }
    for (; **at >= '0' && **at <= '9'; (*at)++, scale /= 10) {
        *ms_out += (**at - '0') * scale;
    }
    return true;
}

bool clock_parse(const char *text, int64_t *wall_ms_out)
{
    int year, month, day, hour, minute, second, ms, offset_minutes;
    const char *at = text;
    struct tm tm = {0};

    if (!digits(&at, 4, &year) || !literal(&at, '-') || !digits(&at, 2, &month) ||
        !literal(&at, '-') || !digits(&at, 2, &day)) {
        return false;
    }
    if (*at != 'T' && *at != 't' && *at != ' ') {
        return false;
    }
    at++;
    if (!digits(&at, 2, &hour) || !literal(&at, ':') || !digits(&at, 2, &minute) ||
        !literal(&at, ':') || !digits(&at, 2, &second) || !fraction(&at, &ms) ||
        !offset(at, &offset_minutes)) {
        return false;
    }
    tm.tm_year = year - 1900;
    tm.tm_mon = month - 1;
    tm.tm_mday = day;
    tm.tm_hour = hour;
    tm.tm_min = minute;
    tm.tm_sec = second == 60 ? 59 : second; /* a leap second must not normalise into the next day */
    *wall_ms_out = ((int64_t)timegm(&tm) - offset_minutes * 60) * 1000 + ms;
    *wall_ms_out += second == 60 ? 1000 : 0;
    /* timegm() normalises: a 31st of February would come back as March. */
    return hour < 24 && minute < 60 && second <= 60 && tm.tm_mday == day && tm.tm_mon == month - 1;
}
