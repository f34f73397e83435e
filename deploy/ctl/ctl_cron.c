/* Schedules: jobs that the scheduler makes by the clock. */
#include <string.h>

#include "deploy/ctl/ctl.h"
#include "lib/clock.h"
#include "lib/cron.h"
#include "lib/json.h"
#include "lib/pg.h"
#include "lib/queue.h"
#include "lib/shape.h"
#include "queries.h"

enum { ROWS_MAX = 1000 };

struct schedule {
    const char *name, *type, *schedule, *zone, *catch_up;
    bool is_paused;
    int64_t next_at;
};

static const struct field schedule_fields[] = {
    F_STR(schedule, name, "name", 1, 64, 0),          F_STR(schedule, type, "type", 1, 64, 0),
    F_STR(schedule, schedule, "schedule", 1, 100, 0), F_STR(schedule, zone, "zone", 1, 64, 0),
    F_STR(schedule, catch_up, "catchUp", 1, 8, 0),    F_BOOL(schedule, is_paused, "isPaused", 0),
    F_TIME(schedule, next_at, "nextAt", F_OPTIONAL),
};
static const struct shape shape_schedule = SHAPE(schedule, schedule_fields);

static const struct place home = {0};

int ctl_cron_list(struct scope *sc, int argc, char **argv)
{
    struct schedule *rows;
    size_t n, i;
    enum err e = pg_many(sc, q_crons_list(sc, home, ROWS_MAX), &shape_schedule, &rows, &n);

    (void)argc, (void)argv;
    if (e != OK) {
        return ctl_fail(sc, e, "cron list");
    }
    for (i = 0; i < n; i++) {
        char next[CLOCK_TEXT_SIZE] = "-";

        if (rows[i].next_at != ABSENT_I64) {
            clock_format(rows[i].next_at, next);
        }
        printf("%s%s: %s at \"%s\" %s, missed: %s, next %s\n", rows[i].name,
               rows[i].is_paused ? " (paused)" : "", rows[i].type, rows[i].schedule, rows[i].zone,
               rows[i].catch_up, next);
    }
    return CTL_DONE;
}

static bool is_good(struct scope *sc, char **argv, const char *zone, const char *catch_up,
                    const char *payload)
{
    const struct json *value;
    struct cron c;

    if (job_type_find(argv[1]) == NULL) {
        fprintf(stderr, "maxboosterctl: there is no job type %s.\n", argv[1]);
    } else if (!cron_parse(argv[2], &c)) {
        fprintf(stderr, "maxboosterctl: \"%s\" is no schedule.\n", argv[2]);
    } else if (!cron_zone_is_known(zone)) {
        fprintf(stderr, "maxboosterctl: there is no time zone %s.\n", zone);
    } else if (strcmp(catch_up, "none") != 0 && strcmp(catch_up, "one") != 0 &&
               strcmp(catch_up, "all") != 0) {
        fputs("maxboosterctl: missed ticks make none, one or all of their jobs.\n", stderr);
    } else if (json_parse(sc, payload, strlen(payload), &value) != OK ||
               json_kind(value) != JSON_OBJECT) {
        fputs("maxboosterctl: the payload is no JSON object.\n", stderr);
    } else {
        return true;
    }
    return false;
}

/* NAME TYPE SCHEDULE [ZONE [none|one|all [PAYLOAD]]] */
int ctl_cron_set(struct scope *sc, int argc, char **argv)
{
    const char *zone = argc > 3 ? argv[3] : "UTC", *catch_up = argc > 4 ? argv[4] : "one";
    const char *payload = argc > 5 ? argv[5] : "{}";
    enum err e;

    if (!is_good(sc, argv, zone, catch_up, payload)) {
        return CTL_USAGE;
    }
    e = pg_exec(sc, q_crons_set(sc, home, argv[0], argv[1], argv[2], zone, catch_up, payload),
                NULL);
    if (e != OK) {
        return ctl_fail(sc, e, "cron set");
    }
    printf("%s makes a job %s at \"%s\" %s\n", argv[0], argv[1], argv[2], zone);
    return CTL_DONE;
}

static int change(struct scope *sc, struct pg_query q, const char *name, const char *said)
{
    int64_t n = 0;
    enum err e = pg_exec(sc, q, &n);

    if (e != OK || n == 0) {
        return ctl_fail(sc, e == OK ? ERR_NOT_FOUND : e, name);
    }
    printf("%s %s\n", name, said);
    return CTL_DONE;
}

int ctl_cron_pause(struct scope *sc, int argc, char **argv)
{
    (void)argc;
    return change(sc, q_crons_pause(sc, home, argv[0], true), argv[0], "makes no more jobs");
}

int ctl_cron_resume(struct scope *sc, int argc, char **argv)
{
    (void)argc;
    return change(sc, q_crons_pause(sc, home, argv[0], false), argv[0], "goes on");
}

int ctl_cron_drop(struct scope *sc, int argc, char **argv)
{
    (void)argc;
    return change(sc, q_crons_drop(sc, home, argv[0]), argv[0], "is forgotten");
}
