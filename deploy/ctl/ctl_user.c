/* Administrators: made here only, never over HTTP. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "deploy/ctl/ctl.h"
#include "lib/crypto.h"
#include "lib/event.h"
#include "lib/password.h"
#include "lib/pg.h"
#include "lib/session.h"
#include "lib/shape.h"
#include "queries.h"

enum { PASSWORD_MIN = 8, PASSWORD_MAX = 128 };

struct holder {
    struct id user_id;
};

static const struct field holder_fields[] = {F_ID(holder, user_id, "userId", 0)};
static const struct shape shape_holder = SHAPE(holder, holder_fields);

struct admin {
    struct id id;
    int64_t version;
};

static const struct field admin_fields[] = {
    F_ID(admin, id, "id", 0),
    F_I64(admin, version, "version", 1, INT64_MAX, 0),
};
static const struct shape shape_admin = SHAPE(admin, admin_fields);

/* One line from standard input. */
static bool read_password(char *out, size_t size)
{
    if (isatty(STDIN_FILENO)) {
        fputs("password: ", stderr);
    }
    if (fgets(out, (int)size, stdin) == NULL) {
        return false;
    }
    out[strcspn(out, "\r\n")] = '\0';
    return strlen(out) >= PASSWORD_MIN && strlen(out) <= PASSWORD_MAX && !password_is_breached(out);
}

static enum err set_role(struct scope *sc, struct id user, struct admin *admin_out)
{
    struct place place = id_place(user);

    TRY(pg_begin(sc, place));
    TRY(pg_one(sc, q_users_set_role(sc, user, "admin"), &shape_admin, admin_out));
    TRY(event_add(sc, user, EVENT_USER_ROLE_CHANGED,
                  &(struct event_data){.role = "admin", .version = admin_out->version}));
    return pg_commit(sc, place);
}

/* An account is there: make it an administrator's. Its sessions carry the old role, so they end. */
static int promote(struct scope *sc, struct id user)
{
    struct admin admin;
    enum err e = set_role(sc, user, &admin);

    if (e == OK) {
        e = session_end_all(sc, user, (struct id){{0}});
    }
    if (e != OK) {
        return ctl_fail(sc, e, "making the user an administrator");
    }
    printf("%s is an administrator now; log in again.\n", id_text(sc->arena, user));
    return CTL_DONE;
}

static enum err create(struct scope *sc, const char *email, const char *name, const char *hash,
                       struct id *id_out)
{
    struct place place = id_place_of_email(email);
    struct holder holder;
    struct admin admin;
    enum err e;

    *id_out = id_make_user();
    e = pg_one(sc, q_emails_reserve(sc, place, email, *id_out), &shape_holder, &holder);
    TRY(e == ERR_NOT_FOUND ? ERR_CONFLICT : e);
    pg_release(sc);
    TRY(pg_begin(sc, id_place(*id_out)));
    TRY(pg_one(sc, q_users_insert(sc, *id_out, email, name, "admin", hash), &shape_admin, &admin));
    TRY(event_add(sc, *id_out, EVENT_USER_REGISTERED,
                  &(struct event_data){.name = name, .role = "admin"}));
    TRY(pg_commit(sc, id_place(*id_out)));
    pg_release(sc);
    return pg_one(sc, q_emails_activate(sc, place, email, *id_out), &shape_holder, &holder);
}

/* EMAIL [NAME], or --email EMAIL [--name NAME] in any order. False: something else. */
static bool read_words(int argc, char **argv, const char **email_out, const char **name_out)
{
    int i;

    *name_out = "Administrator";
    if (!has_prefix(argv[0], "--")) {
        *email_out = argv[0];
        *name_out = argc > 1 ? argv[1] : *name_out;
        return argc <= 2;
    }
    *email_out = NULL;
    for (i = 0; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--email") == 0) {
            *email_out = argv[i + 1];
        } else if (strcmp(argv[i], "--name") == 0) {
            *name_out = argv[i + 1];
        } else {
            return false;
        }
    }
    return i == argc && *email_out != NULL;
}

int ctl_user_create_admin(struct scope *sc, int argc, char **argv)
{
    const char *email, *name;
    char password[PASSWORD_MAX + 3], hash[PASSWORD_HASH_SIZE];
    struct holder holder;
    struct id id;
    enum err e;

    if (!read_words(argc, argv, &email, &name)) {
        fputs("maxboosterctl: give EMAIL [NAME], or --email EMAIL [--name NAME].\n", stderr);
        return CTL_USAGE;
    }
    email = ascii_lower(sc->arena, email);
    e = pg_one(sc, q_emails_find(sc, id_place_of_email(email), email, 0), &shape_holder, &holder);
    pg_release(sc);
    if (e == OK) {
        return promote(sc, holder.user_id);
    }
    if (e != ERR_NOT_FOUND) {
        return ctl_fail(sc, e, "looking for the address");
    }
    scope_forgive(sc);
    if (!read_password(password, sizeof(password))) {
        fprintf(stderr,
                "maxboosterctl: the password must have %d to %d characters and not be among the "
                "ones that attackers try first.\n",
                PASSWORD_MIN, PASSWORD_MAX);
        return CTL_USAGE;
    }
    if (!crypto_password_hash(password, hash)) {
        return ctl_fail(sc, ERR_INTERNAL, "hashing the password");
    }
    e = create(sc, email, name, hash, &id);
    if (e != OK) {
        return ctl_fail(sc, e, "creating the account");
    }
    printf("%s\n", id_text(sc->arena, id));
    return CTL_DONE;
}
