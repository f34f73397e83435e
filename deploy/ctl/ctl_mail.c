/* The suppression list: addresses that get no mail. */
#include <string.h>

#include "deploy/ctl/ctl.h"
#include "lib/clock.h"
#include "lib/id.h"
#include "lib/pg.h"
#include "lib/shape.h"
#include "lib/str.h"
#include "queries.h"

enum { PAGE = 100, CALL_MS = 30000, SHOWN_MAX = 321 };

struct suppressed {
    const char *email, *reason;
    int64_t created_at;
};

static const struct field suppressed_fields[] = {
    F_STR(suppressed, email, "email", 1, 320, 0),
    F_STR(suppressed, reason, "reason", 1, 500, 0),
    F_TIME(suppressed, created_at, "createdAt", 0),
};
static const struct shape shape_suppressed = SHAPE(suppressed, suppressed_fields);

int ctl_mail_suppress(struct scope *sc, int argc, char **argv)
{
    const char *email = ascii_lower(sc->arena, argv[0]);
    const char *reason = argc > 1 ? argv[1] : "by an operator";
    enum err e;

    if (strchr(email, '@') == NULL) {
        fprintf(stderr, "maxboosterctl: %s is no address.\n", argv[0]);
        return CTL_USAGE;
    }
    e = pg_exec(sc, q_suppressions_add(sc, id_place_of_email(email), email, reason), NULL);
    if (e != OK) {
        return ctl_fail(sc, e, "mail suppress");
    }
    printf("%s gets no more mail\n", email);
    return CTL_DONE;
}

int ctl_mail_allow(struct scope *sc, int argc, char **argv)
{
    const char *email = ascii_lower(sc->arena, argv[0]);
    enum err e = pg_exec(sc, q_suppressions_drop(sc, id_place_of_email(email), email), NULL);

    (void)argc;
    if (e != OK) {
        return ctl_fail(sc, e, "mail allow");
    }
    printf("%s gets mail again\n", email);
    return CTL_DONE;
}

int ctl_mail_suppressed(struct scope *sc, int argc, char **argv)
{
    int database;

    (void)argc, (void)argv;
    for (database = 0; database < pg_database_count(); database++) {
        char after[SHOWN_MAX] = "", time[CLOCK_TEXT_SIZE];
        struct suppressed *rows;
        size_t n = PAGE, i;

        while (n == PAGE) {
            enum err e;

            arena_reset(sc->arena);
            scope_init(sc, sc->arena, CALL_MS);
            e = pg_many(sc, q_suppressions_list(sc, pg_place_on_database(database), after, PAGE),
                        &shape_suppressed, &rows, &n);
            pg_release(sc);
            if (e != OK) {
                return ctl_fail(sc, e, "mail suppressed");
            }
            for (i = 0; i < n; i++) {
                clock_format(rows[i].created_at, time);
                printf("%s %s: %s\n", time, rows[i].email, rows[i].reason);
                snprintf(after, sizeof(after), "%s", rows[i].email);
            }
        }
    }
    return CTL_DONE;
}
