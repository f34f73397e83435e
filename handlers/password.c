/* Forgotten and changed passwords. */
#include <string.h>

#include "fcgi/req.h"
#include "handlers.h"
#include "handlers/auth.h"
#include "handlers/mail.h"
#include "lib/crypto.h"
#include "lib/event.h"
#include "lib/password.h"
#include "lib/pg.h"
#include "lib/session.h"
#include "queries.h"

enum { RESET_TOKEN_BYTES = 16 + 32 }; /* user id and secret; made by the mail's job */

struct forgot_new {
    const char *email;
};

static const struct field forgot_fields[] = {
    F_STR(forgot_new, email, "email", 3, 254, F_TRIM),
};
static const struct shape shape_forgot_new = SHAPE(forgot_new, forgot_fields);

/* The mail's job lies where the answer under an Idempotency-Key does, so that both are one
 * transaction: at the place of who asks. */
static enum err promise_reset(struct req *r, struct id owner, const char *email, struct id *job_out,
                              bool *is_replay_out)
{
    TRY(req_idem_replay(r, owner, is_replay_out));
    if (*is_replay_out) {
        return OK;
    }
    TRY(mail_promise(req_scope(r), id_place(owner), (struct id){{0}}, "password-reset", email, NULL,
                     job_out));
    (void)req_reply_empty(r, 202);
    return req_idem_store(r, owner);
}

/* Whether the address has an account is found out by the mail's job: here the work is the same for
 * all. */
enum err h_auth_password_forgot(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct id owner = id_of_stranger(req_address(r)), job;
    struct forgot_new in;
    bool is_replay;
    enum err e;

    TRY(req_body(r, &shape_forgot_new, &in));
    TRY(pg_begin(sc, id_place(owner)));
    e = promise_reset(r, owner, ascii_lower(req_arena(r), in.email), &job, &is_replay);
    if (e != OK) {
        pg_rollback(sc, id_place(owner));
        return e;
    }
    TRY(pg_commit(sc, id_place(owner)));
    pg_release(sc);
    if (!is_replay) {
        mail_push(sc, job, (struct id){{0}});
    }
    return OK;
}

struct reset_new {
    const char *token;
    const char *password;
};

static const struct field reset_fields[] = {
    F_STR(reset_new, token, "token", 1, 256, F_TRIM),
    F_STR(reset_new, password, "password", 8, 128, 0),
};
static const struct shape shape_reset_new = SHAPE(reset_new, reset_fields);

struct reset_row {
    struct id user_id;
};

static const struct field reset_row_fields[] = {F_ID(reset_row, user_id, "userId", 0)};
static const struct shape shape_reset_row = SHAPE(reset_row, reset_row_fields);

static enum err refuse_breached(struct req *r, const char *field, const char *password)
{
    if (!password_is_breached(password)) {
        return OK;
    }
    return scope_violation(req_scope(r), field, "breached",
                           "is among the passwords that attackers try first");
}

static enum err refuse_token(struct req *r)
{
    return scope_violation(req_scope(r), "token", "value", "is not valid, used up or expired");
}

/* Use the token up and set the password, within the open transaction. */
static enum err use_token(struct req *r, struct id user_id, const char *token_hash,
                          const char *password_hash)
{
    struct scope *sc = req_scope(r);
    struct reset_row row;
    struct user user;
    bool is_replay;
    enum err e;

    TRY(req_idem_replay(r, user_id, &is_replay));
    if (is_replay) {
        return OK;
    }
    e = pg_one(sc, q_password_resets_use(sc, token_hash, user_id), &shape_reset_row, &row);
    TRY(e == ERR_NOT_FOUND ? refuse_token(r) : e);
    e = pg_one(sc, q_users_set_password(sc, user_id, ABSENT_I64, password_hash), &shape_user,
               &user);
    TRY(e == ERR_NOT_FOUND ? refuse_token(r) : e);
    TRY(pg_exec(sc, q_password_resets_drop(sc, user_id), NULL));
    TRY(event_add(sc, user_id, EVENT_USER_PASSWORD_CHANGED,
                  &(struct event_data){.reason = "reset"}));
    /* Before the commit, so that a reset never succeeds while old sessions live on; and again after
     * it, for those that the old password opened in between. */
    TRY(session_end_all(sc, user_id, (struct id){{0}}));
    (void)req_reply_empty(r, 204);
    return req_idem_store(r, user_id);
}

enum err h_auth_password_reset(struct req *r)
{
    struct scope *sc = req_scope(r);
    uint8_t token[RESET_TOKEN_BYTES];
    char password_hash_text[PASSWORD_HASH_SIZE], token_hash[SHA256_HEX_SIZE];
    struct reset_new in;
    struct id user_id;
    enum err e;

    TRY(req_body(r, &shape_reset_new, &in));
    TRY(refuse_breached(r, "password", in.password));
    if (!base64url_decode(in.token, strlen(in.token), token, sizeof(token))) {
        return refuse_token(r);
    }
    memcpy(user_id.bytes, token, sizeof(user_id.bytes));
    crypto_sha256_hex(in.token, strlen(in.token), token_hash);
    if (!id_is_user(user_id)) {
        return refuse_token(r);
    }
    TRY(password_hash(sc, in.password, password_hash_text));
    TRY(pg_begin(sc, id_place(user_id)));
    e = use_token(r, user_id, token_hash, password_hash_text);
    if (e != OK) {
        pg_rollback(sc, id_place(user_id));
        return e;
    }
    TRY(pg_commit(sc, id_place(user_id)));
    pg_release(sc);
    (void)!session_end_all(sc, user_id, (struct id){{0}});
    scope_forgive(sc);
    return OK;
}

struct change_new {
    const char *current_password;
    const char *new_password;
};

static const struct field change_fields[] = {
    F_STR(change_new, current_password, "currentPassword", 1, 128, 0),
    F_STR(change_new, new_password, "newPassword", 8, 128, 0),
};
static const struct shape shape_change_new = SHAPE(change_new, change_fields);

/* Set the password, and drop tokens that a mail still carries: whoever reads it must not undo
 * this. In the request's transaction. */
static enum err set_password(struct req *r, const struct user *old, const char *hash)
{
    struct scope *sc = req_scope(r);
    struct user user;
    enum err e;

    TRY(req_transaction(r));
    e = pg_one(sc, q_users_set_password(sc, old->id, old->version, hash), &shape_user, &user);
    TRY(e == ERR_NOT_FOUND ? ERR_CONFLICT : e);
    TRY(pg_exec(sc, q_password_resets_drop(sc, old->id), NULL));
    return event_add(sc, old->id, EVENT_USER_PASSWORD_CHANGED,
                     &(struct event_data){.reason = "change"});
}

/* Sessions that the old password has opened in between. */
static void end_others(struct req *r, void *context)
{
    (void)context;
    (void)!session_end_all(req_scope(r), req_user(r), req_session(r));
    scope_forgive(req_scope(r));
}

enum err h_auth_password_change(struct req *r)
{
    struct scope *sc = req_scope(r);
    char hash[PASSWORD_HASH_SIZE];
    struct change_new in;
    struct user user;
    bool fits;
    enum err e;

    TRY(req_body(r, &shape_change_new, &in));
    TRY(refuse_breached(r, "newPassword", in.new_password));
    e = pg_one(sc, q_users_by_id(sc, req_user(r)), &shape_user, &user);
    TRY(e == ERR_NOT_FOUND ? ERR_UNAUTHENTICATED : e);
    pg_release(sc); /* hashing takes longer than anybody should hold a connection */
    TRY(password_fits(sc, user.password_hash, in.current_password, &fits));
    if (!fits) {
        return scope_violation(sc, "currentPassword", "value", "is not your password");
    }
    TRY(password_hash(sc, in.new_password, hash));
    TRY(session_end_all(sc, user.id, req_session(r)));
    TRY(set_password(r, &user, hash));
    req_after_commit(r, end_others, NULL);
    return req_reply_empty(r, 204);
}
