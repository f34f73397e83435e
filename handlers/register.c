/* Opening an account: one address, one user, over all shards.
 *
 * The address is reserved on its own shard, the user is inserted on his, then the reservation is
 * made active. Whoever dies in between leaves a reservation that goes stale; the next one to want
 * the address looks for its user and either finishes or takes over (sql/README.md). */
#include <string.h>

#include "fcgi/req.h"
#include "handlers.h"
#include "handlers/auth.h"
#include "handlers/mail.h"
#include "lib/event.h"
#include "lib/password.h"
#include "lib/pg.h"
#include "queries.h"

#define RESERVATION_STALE_MS \
    ((int64_t)60000) /* far over request_timeout_ms: its request has ended */

struct register_new {
    const char *email;
    const char *password;
    const char *name;
};

static const struct field register_fields[] = {
    F_STR(register_new, email, "email", 3, 254, F_TRIM),
    F_STR(register_new, password, "password", 8, 128, 0),
    F_STR(register_new, name, "name", 1, 100, F_TRIM),
};
static const struct shape shape_register_new = SHAPE(register_new, register_fields);

struct reservation {
    const char *email;
    struct id user_id;
    bool active;
    bool stale;
};

static const struct field reservation_fields[] = {
    F_STR(reservation, email, "email", 0, 254, 0),
    F_ID(reservation, user_id, "userId", 0),
    F_BOOL(reservation, active, "active", 0),
};
static const struct shape shape_reservation = SHAPE(reservation, reservation_fields);

static const struct field holder_fields[] = {
    F_STR(reservation, email, "email", 0, 254, 0),
    F_ID(reservation, user_id, "userId", 0),
    F_BOOL(reservation, active, "active", 0),
    F_BOOL(reservation, stale, "stale", 0),
};
static const struct shape shape_holder = SHAPE(reservation, holder_fields);

static enum err taken(struct req *r)
{
    return req_fail(r, ERR_CONFLICT, "This address has an account already.");
}

static enum err reply_created(struct req *r, const struct user *user)
{
    req_etag(r, user->version);
    req_location(r, "/api/users/%s", id_text(req_arena(r), user->id));
    return req_reply(r, 201, &shape_user, user);
}

/* What belongs together: the user, his welcome mail, and the answer under an Idempotency-Key. */
static enum err insert_all(struct req *r, const struct register_new *in, const char *email,
                           struct id id, const char *hash, struct id *mail_out)
{
    struct scope *sc = req_scope(r);
    struct user user;
    bool is_replay;

    TRY(req_idem_replay(r, id,
                        &is_replay)); /* a new id has no answer yet: this takes the key's lock */
    TRY(pg_one(sc, q_users_insert(sc, id, email, in->name, "artist", hash), &shape_user, &user));
    TRY(mail_promise(sc, id_place(id), id, "welcome", email, in->name, mail_out));
    TRY(reply_created(r, &user));
    TRY(event_add(sc, id, EVENT_USER_REGISTERED,
                  &(struct event_data){.name = user.name, .role = user.role}));
    return req_idem_store(r, id);
}

static enum err insert_user(struct req *r, const struct register_new *in, const char *email,
                            struct id id, const char *hash, struct id *mail_out)
{
    struct scope *sc = req_scope(r);
    enum err e;

    TRY(pg_begin(sc, id_place(id)));
    e = insert_all(r, in, email, id, hash, mail_out);
    if (e != OK) {
        pg_rollback(sc, id_place(id));
        return e;
    }
    return pg_commit(sc, id_place(id));
}

/* The same request again, under its Idempotency-Key: the first answer again. Otherwise the address
 * is taken. */
static enum err replay_or_taken(struct req *r, struct id holder, bool *is_replay_out)
{
    struct scope *sc = req_scope(r);
    enum err e;

    TRY(pg_begin(sc, id_place(holder)));
    e = req_idem_replay(r, holder, is_replay_out);
    pg_rollback(sc, id_place(holder));
    pg_release(sc);
    TRY(e);
    return *is_replay_out ? OK : taken(r);
}

/* Somebody holds the address. Take over what a crash left behind; otherwise it is taken. */
static enum err contest(struct req *r, const char *email, struct id user, bool *is_replay_out)
{
    struct scope *sc = req_scope(r);
    struct place place = id_place_of_email(email);
    struct reservation holder;
    struct user old;
    enum err e;

    e = pg_one(sc, q_emails_find(sc, place, email, RESERVATION_STALE_MS), &shape_holder, &holder);
    TRY(e == ERR_NOT_FOUND ? taken(r) : e); /* given back just now: a second try will do */
    pg_release(sc);
    if (!holder.stale) {
        return replay_or_taken(r, holder.user_id, is_replay_out);
    }
    e = pg_one(sc, q_users_by_id(sc, holder.user_id), &shape_user, &old);
    pg_release(sc);
    if (e == OK) {
        (void)!pg_one(sc, q_emails_activate(sc, place, email, holder.user_id), &shape_reservation,
                      &holder); /* finish what was left; the sweep does it otherwise */
        pg_release(sc);
        return replay_or_taken(r, holder.user_id, is_replay_out);
    }
    TRY(e == ERR_NOT_FOUND ? OK : e);
    e = pg_one(sc, q_emails_take_over(sc, place, email, holder.user_id, user, RESERVATION_STALE_MS),
               &shape_reservation, &holder);
    pg_release(sc);
    return e == ERR_NOT_FOUND ? taken(r) : e;
}

/* Get the address for the user, or find that this very request was answered before. */
static enum err reserve(struct req *r, const char *email, struct id user, bool *is_replay_out)
{
    struct scope *sc = req_scope(r);
    struct reservation mine;
    enum err e = pg_one(sc, q_emails_reserve(sc, id_place_of_email(email), email, user),
                        &shape_reservation, &mine);

    pg_release(sc);
    *is_replay_out = false;
    return e == ERR_NOT_FOUND ? contest(r, email, user, is_replay_out) : e;
}

static enum err remove_user(struct scope *sc, struct id user)
{
    struct place place = id_place(user);

    TRY(pg_begin(sc, place));
    TRY(pg_exec(sc, q_users_delete(sc, user), NULL));
    TRY(event_add(sc, user, EVENT_USER_REMOVED, &(struct event_data){.reason = "address_lost"}));
    return pg_commit(sc, place);
}

/* Make the reservation final. Lost to another who found it stale: take the user back. */
static enum err activate(struct req *r, const char *email, struct id user)
{
    struct scope *sc = req_scope(r);
    struct reservation mine;
    enum err e;

    pg_release(sc);
    e = pg_one(sc, q_emails_activate(sc, id_place_of_email(email), email, user), &shape_reservation,
               &mine);
    pg_release(sc);
    if (e == ERR_NOT_FOUND) {
        TRY(remove_user(sc, user));
        return taken(r);
    }
    scope_forgive(sc); /* the account is there; the sweep activates what is left */
    return OK;
}

/* Something that looks like local@domain (RFC 5321 sizes); whether it is real, the welcome mail
 * tells. */
static bool is_email(const char *text)
{
    const char *at = strrchr(text, '@');
    const char *p;

    if (at == NULL || at == text || at - text > 64 || at[1] == '\0' || at[1] == '.' ||
        at[1] == '-' || text[strlen(text) - 1] == '.' || strstr(at, "..") != NULL) {
        return false;
    }
    for (p = text; *p != '\0'; p++) {
        if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f ||
            strchr("\"(),:;<>[\\]", *p) != NULL || (*p == '@' && p != at)) {
            return false;
        }
    }
    return strspn(at + 1, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") ==
           strlen(at + 1);
}

static enum err judge(struct req *r, const struct register_new *in)
{
    enum err e = OK;

    if (!is_email(in->email)) {
        e = scope_violation(req_scope(r), "email", "format", "must be an e-mail address");
    }
    if (password_is_breached(in->password)) {
        e = scope_violation(req_scope(r), "password", "breached",
                            "is among the passwords that attackers try first");
    }
    return e;
}

enum err h_auth_register(struct req *r)
{
    struct scope *sc = req_scope(r);
    char hash[PASSWORD_HASH_SIZE];
    struct register_new in;
    struct id id, mail;
    const char *email;
    bool is_replay;
    enum err e;

    TRY(req_body(r, &shape_register_new, &in));
    TRY(judge(r, &in));
    email = ascii_lower(req_arena(r), in.email);
    TRY(password_hash(sc, in.password, hash));
    id = id_make_user();
    TRY(reserve(r, email, id, &is_replay));
    if (is_replay) {
        return OK;
    }
    e = insert_user(r, &in, email, id, hash, &mail);
    if (e != OK && e != ERR_WRITE_UNKNOWN) {
        pg_release(sc);
        (void)!pg_exec(sc, q_emails_release(sc, id_place_of_email(email), email, id), NULL);
    }
    TRY(e);
    TRY(activate(r, email, id));
    mail_push(sc, mail, id);
    return OK;
}
