/* Log-in and what a signed-in user does with his account and sessions. Nothing here tells whether
 * an address has an account, by its answer or by its time; only register does
 * (handlers/register.c). */
#include "handlers/auth.h"

#include <string.h>

#include "fcgi/req.h"
#include "handlers.h"
#include "handlers/users.h"
#include "lib/cache.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/event.h"
#include "lib/password.h"
#include "lib/pg.h"
#include "lib/session.h"
#include "queries.h"

enum { PATCH_TRIES_MAX = 3 };

static const struct field user_fields[] = {
    F_ID(user, id, "id", 0),
    F_STR(user, email, "email", 3, 254, 0),
    F_STR(user, name, "name", 1, 100, 0),
    F_STR(user, role, "role", 1, 16, 0),
    F_STR(user, password_hash, "passwordHash", 0, 128, F_HIDDEN),
    F_I64(user, version, "version", 1, INT64_MAX, F_HIDDEN),
    F_TIME(user, created_at, "createdAt", 0),
    F_TIME(user, updated_at, "updatedAt", 0),
};
const struct shape shape_user = SHAPE(user, user_fields);

static const struct field session_fields[] = {
    F_ID(session, id, "id", 0),
    F_TIME(session, created_at, "createdAt", 0),
    F_TIME(session, last_used_at, "lastUsedAt", 0),
    F_STR(session, address, "address", 0, 64, 0),
    F_STR(session, user_agent, "userAgent", 0, 200, 0),
    F_BOOL(session, current, "current", 0),
};
static const struct shape shape_session = SHAPE(session, session_fields);

struct email_row {
    struct id user_id;
};

static const struct field email_fields[] = {F_ID(email_row, user_id, "userId", 0)};
static const struct shape shape_email_row = SHAPE(email_row, email_fields);

struct login_new {
    const char *email;
    const char *password;
};

static const struct field login_fields[] = {
    F_STR(login_new, email, "email", 3, 254, F_TRIM),
    F_STR(login_new, password, "password", 1, 128, 0),
};
static const struct shape shape_login_new = SHAPE(login_new, login_fields);

/* Failed log-ins count per account and address: a stranger elsewhere locks nobody out. */
static struct rate_policy guess_policy(struct req *r, const char *email)
{
    char hash[SHA256_HEX_SIZE];

    crypto_sha256_hex(email, strlen(email), hash);
    return (struct rate_policy){.name = arena_printf(req_arena(r), "login-%.16s", hash),
                                .quota = config()->login_failures_max,
                                .window_ms = config()->login_failures_window_s * 1000};
}

/* Find the user of an address. Where there is none, the same queries run and *found_out is
 * false. */
static enum err find_user(struct req *r, const char *email, struct user *user_out, bool *found_out)
{
    struct scope *sc = req_scope(r);
    struct email_row row = {{{0}}};
    struct id id;
    enum err e;

    pg_keep_up(sc, id_place_of_email(email));
    e = pg_one(sc, q_emails_find(sc, id_place_of_email(email), email, 0), &shape_email_row, &row);
    if (e != ERR_NOT_FOUND) {
        TRY(e);
    }
    *found_out = e == OK;
    pg_release(sc); /* one connection at a time: two would let requests wait for each other */
    id = *found_out ? row.user_id : id_make_user();
    pg_keep_up(sc, id_place(id));
    e = pg_one(sc, q_users_by_id(sc, id), &shape_user, user_out);
    if (e != ERR_NOT_FOUND) {
        TRY(e);
    }
    *found_out = *found_out && e == OK;
    pg_release(sc);
    return OK;
}

/* Charge a try before it is judged, so that parallel guesses cannot all pass; success takes the
 * charges back. */
static enum err charge_guess(struct req *r, const struct rate_policy *policy)
{
    struct scope *sc = req_scope(r);
    struct rate_verdict verdict;

    TRY(rate_charge(sc, req_address(r), policy, &verdict));
    if (verdict.is_allowed) {
        return OK;
    }
    sc->retry_after_s = (int)((verdict.retry_ms + 999) / 1000);
    return req_fail(r, ERR_RATE_LIMITED, "Too many failed log-ins for this account from here.");
}

/* The session that the client still holds ends: a token is never carried over a log-in. */
static void end_presented_session(struct req *r)
{
    struct session_claim claim;

    if (req_token(r) != NULL && session_claim(req_token(r), &claim)) {
        (void)!session_end(req_scope(r), claim.user, claim.session); /* it may be gone already */
        scope_forgive(req_scope(r));
    }
}

/* A log-in under an Idempotency-Key that is repeated because its answer was lost: the token is not
 * kept, so it gets a new session, and the one that nobody knows ends. */
static void end_repeated_session(struct req *r, const struct user *user, const char *kept)
{
    struct id session;

    if (kept != NULL && id_parse(kept, strlen(kept), &session)) {
        (void)!session_end(req_scope(r), user->id, session);
        scope_forgive(req_scope(r));
    }
}

static enum err open_session(struct req *r, const struct user *user, const char *kept)
{
    const char *agent = req_header(r, "USER_AGENT");
    char token[SESSION_TOKEN_SIZE], expires_at[CLOCK_TEXT_SIZE];
    int64_t expires_at_ms;
    struct strbuf json;
    struct id session;

    end_presented_session(r);
    end_repeated_session(r, user, kept);
    TRY(session_create(req_scope(r), user->id, user->role, req_address(r),
                       agent == NULL ? "" : agent, token, &session, &expires_at_ms));
    req_idem_keep(r, id_text(req_arena(r), session));
    clock_format(expires_at_ms, expires_at);
    req_session_cookie(r, token, config()->session_ttl);
    json = req_json(r);
    strbuf_puts(&json, "{\"user\":");
    shape_write(&json, &shape_user, user);
    strbuf_printf(&json, ",\"token\":\"%s\",\"expiresAt\":\"%s\"}", token, expires_at);
    return req_reply_json(r, 200, &json);
}

enum err h_auth_login(struct req *r)
{
    struct rate_policy guesses;
    struct login_new in;
    struct user user;
    bool found, fits;
    const char *email, *kept;

    TRY(req_body(r, &shape_login_new, &in));
    email = ascii_lower(req_arena(r), in.email);
    guesses = guess_policy(r, email);
    TRY(req_idem_repeatable(r, id_of_stranger(req_address(r)), &kept));
    TRY(charge_guess(r, &guesses));
    TRY(find_user(r, email, &user, &found));
    TRY(password_fits(req_scope(r), found ? user.password_hash : NULL, in.password, &fits));
    if (!fits) {
        return req_fail(r, ERR_UNAUTHENTICATED, "Address and password do not fit.");
    }
    TRY(rate_forget(req_scope(r), req_address(r), &guesses));
    return open_session(r, &user, kept);
}

/* A body that nobody needs may be absent or {}. */
static enum err no_body(struct req *r)
{
    static const struct shape shape_nothing = {.name = "nothing"};
    char nothing;

    return req_body(r, &shape_nothing, &nothing);
}

enum err h_auth_logout(struct req *r)
{
    enum err e;

    TRY(no_body(r));
    e = session_end(req_scope(r), req_user(r), req_session(r));
    if (e != ERR_NOT_FOUND) { /* two log-outs at once: it has ended either way */
        TRY(e);
    }
    req_session_cookie(r, "", 0);
    return req_reply_empty(r, 204);
}

enum err h_auth_logout_all(struct req *r)
{
    TRY(no_body(r));
    TRY(session_end_all(req_scope(r), req_user(r), (struct id){{0}}));
    req_session_cookie(r, "", 0);
    return req_reply_empty(r, 204);
}

/* The signed-in user. A session whose user is gone is no session. */
static enum err load_me(struct req *r, struct user *user_out)
{
    struct scope *sc = req_scope(r);
    enum err e = pg_one(sc, q_users_by_id(sc, req_user(r)), &shape_user, user_out);

    return e == ERR_NOT_FOUND ? ERR_UNAUTHENTICATED : e;
}

static enum err reply_user(struct req *r, int status, const struct user *user)
{
    req_etag(r, user->version);
    return req_reply(r, status, &shape_user, user);
}

enum err h_auth_me(struct req *r)
{
    struct user user;

    TRY(load_me(r, &user));
    return reply_user(r, 200, &user);
}

struct me_patch {
    const char *name;
};

static const struct field me_patch_fields[] = {
    F_STR(me_patch, name, "name", 1, 100, F_OPTIONAL | F_TRIM),
};
static const struct shape shape_me_patch = SHAPE(me_patch, me_patch_fields);

/* What others saw of him is no longer true. */
static void drop_profile(struct req *r, void *unused)
{
    (void)unused;
    cache_drop(req_scope(r), users_cache_name(req_arena(r), req_user(r)));
}

enum err h_auth_me_patch(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct me_patch in;
    struct user user;
    enum err e = ERR_NOT_FOUND;
    int i;

    TRY(req_body(r, &shape_me_patch, &in));
    TRY(req_transaction(r));
    /* Without If-Match the latest version is changed, whichever it is by then. */
    for (i = 0; i < PATCH_TRIES_MAX && e == ERR_NOT_FOUND; i++) {
        TRY(load_me(r, &user));
        TRY(req_if_match(r, user.version));
        if (in.name == NULL || strcmp(in.name, user.name) == 0) {
            return reply_user(r, 200, &user);
        }
        e = pg_one(sc, q_users_set_name(sc, user.id, user.version, in.name), &shape_user, &user);
    }
    TRY(e == ERR_NOT_FOUND ? ERR_CONFLICT : e);
    TRY(event_add(sc, user.id, EVENT_USER_RENAMED,
                  &(struct event_data){.name = user.name, .version = user.version}));
    req_after_commit(r, drop_profile, NULL);
    return reply_user(r, 200, &user);
}

enum err h_auth_sessions(struct req *r)
{
    static const char *const known[] = {"limit", "cursor", NULL};
    struct session *sessions;
    struct req_page page;
    size_t n, i;

    TRY(req_query_only(r, known));
    TRY(req_page(r, &page));
    TRY(session_list(req_scope(r), req_user(r), page.after, (size_t)page.limit + 1, &sessions, &n));
    for (i = 0; i < n; i++) {
        sessions[i].current = id_equal(sessions[i].id, req_session(r));
    }
    return req_reply_page(r, &shape_session, sessions, n, &page, offsetof(struct session, id));
}

enum err h_auth_session_delete(struct req *r)
{
    struct id id;
    enum err e;

    TRY(req_own_id(r, &id));
    TRY(no_body(r));
    e = session_end(req_scope(r), req_user(r), id);
    if (e != ERR_NOT_FOUND || !req_idem_retried(r)) {
        TRY(e);
    }
    if (id_equal(id, req_session(r))) {
        req_session_cookie(r, "", 0);
    }
    return req_reply_empty(r, 204);
}
