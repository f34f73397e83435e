/* email-send: one mail from a template. The row of a password reset lies at the place of the
 * address, since nobody may learn from the API whether there is an account: that is found out
 * here. The message id is the job's, so a mail that is sent again after a crash is known for the
 * same one. */
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/mail.h"
#include "lib/pg.h"
#include "lib/shape.h"
#include "lib/smtp.h"
#include "queries.h"
#include "workers/job.h"

enum { SECRET_BYTES = 32, TOKEN_BYTES = 16 + SECRET_BYTES, RESERVATION_STALE_MS = 60000 };

struct letter {
    const char *to, *subject;
    struct strbuf text, html;
};

struct address_row {
    const char *email;
    struct id user_id;
    bool active, stale;
    int64_t reserved_at;
};

static const struct field address_fields[] = {
    F_STR(address_row, email, "email", 1, 320, 0),
    F_ID(address_row, user_id, "userId", 0),
    F_BOOL(address_row, active, "active", 0),
    F_TIME(address_row, reserved_at, "reservedAt", 0),
    F_BOOL(address_row, stale, "stale", 0),
};
static const struct shape shape_address = SHAPE(address_row, address_fields);

struct profile_row {
    struct id id;
    const char *name, *role;
    int64_t created_at;
};

static const struct field profile_fields[] = {
    F_ID(profile_row, id, "id", 0),
    F_STR(profile_row, name, "name", 0, 1000, 0),
    F_STR(profile_row, role, "role", 0, 100, 0),
    F_TIME(profile_row, created_at, "createdAt", 0),
};
static const struct shape shape_profile = SHAPE(profile_row, profile_fields);

struct suppressed_row {
    const char *reason;
};

static const struct field suppressed_fields[] = {
    F_STR(suppressed_row, reason, "reason", 1, 500, 0),
};
static const struct shape shape_suppressed = SHAPE(suppressed_row, suppressed_fields);

static void letter_begin(struct letter *l, struct job *j, const char *to, const char *subject,
                         const char *name)
{
    l->to = to;
    l->subject = subject;
    strbuf_init(&l->text, job_arena(j), 1024);
    strbuf_init(&l->html, job_arena(j), 4096);
    strbuf_puts(&l->html,
                "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>");
    strbuf_xml(&l->html, subject);
    strbuf_puts(&l->html,
                "</title></head>\n<body style=\"margin:0;padding:32px 16px;background:#f4f4f6;"
                "font-family:system-ui,sans-serif;font-size:16px;line-height:1.5;color:#1c1c21\">\n"
                "<div style=\"max-width:520px;margin:0 auto;padding:32px;background:#ffffff;"
                "border-radius:12px\">\n<p style=\"margin-top:0;font-weight:600;color:#5b3df5\">"
                "Max Booster</p>\n");
    if (name != NULL && *name != '\0') {
        strbuf_printf(&l->text, "Hello %s,\n\n", name);
        strbuf_puts(&l->html, "<p>Hello ");
        strbuf_xml(&l->html, name);
        strbuf_puts(&l->html, ",</p>\n");
    } else {
        strbuf_puts(&l->text, "Hello,\n\n");
        strbuf_puts(&l->html, "<p>Hello,</p>\n");
    }
}

/* A paragraph that has nothing from outside. */
static void letter_say(struct letter *l, const char *words)
{
    strbuf_printf(&l->text, "%s\n\n", words);
    strbuf_printf(&l->html, "<p>%s</p>\n", words);
}

static void letter_link(struct letter *l, const char *label, const char *url)
{
    strbuf_printf(&l->text, "%s\n\n", url);
    strbuf_puts(&l->html, "<p><a style=\"display:inline-block;padding:12px 20px;border-radius:8px;"
                          "background:#5b3df5;color:#ffffff;text-decoration:none\" href=\"");
    strbuf_xml(&l->html, url);
    strbuf_printf(&l->html, "\">%s</a></p>\n", label);
}

/* Is the address on the list of those that get no mail? *e_out: could that be told? */
static bool is_suppressed(struct job *j, const char *address, enum err *e_out)
{
    struct scope *sc = job_scope(j);
    const char *email = ascii_lower(sc->arena, address);
    struct suppressed_row row;

    *e_out = pg_one(sc, q_suppressions_find(sc, id_place_of_email(email), email), &shape_suppressed,
                    &row);
    if (*e_out == ERR_NOT_FOUND) {
        scope_forgive(sc);
        *e_out = OK;
        return false;
    }
    return *e_out == OK;
}

/* There is no such mailbox: do not ask its server again. */
static enum err suppress(struct job *j, const char *address)
{
    struct scope *sc = job_scope(j);
    const char *email = ascii_lower(sc->arena, address), *why = sc->cause;

    job_log(j, "the server knows no such mailbox: it is suppressed");
    TRY(pg_exec(sc, q_suppressions_add(sc, id_place_of_email(email), email, why), NULL));
    return scope_fail(sc, ERR_VALIDATION_FAILED, "%s", why);
}

static enum err letter_send(struct letter *l, struct job *j)
{
    struct scope *sc = job_scope(j);
    const struct mail mail = {
        .from = config()->mail_from,
        .to = l->to,
        .subject = l->subject,
        .text = l->text.data,
        .html = l->html.data,
        .message_id = id_text(sc->arena, job_id(j)),
        .date_ms = clock_wall_ms(),
    };
    const char *message;
    enum err e;
    size_t len;

    strbuf_puts(&l->html, "</div>\n</body></html>\n");
    TRY(mail_compose(sc, &mail, &message, &len));
    if (is_suppressed(j, l->to, &e)) {
        job_log(j, "the address is suppressed: nothing was sent");
        job_result(j, "{\"suppressed\":true}");
        return OK;
    }
    TRY(e);
    pg_release(sc);
    e = smtp_send(sc, config()->smtp_url, config()->mail_from, l->to, message, len);
    return e == ERR_NOT_FOUND ? suppress(j, l->to) : e;
}

static enum err send_welcome(struct job *j, const char *email)
{
    struct letter l;

    letter_begin(&l, j, email, "Welcome to Max Booster",
                 json_str(json_get(job_payload(j), "name"), NULL));
    letter_say(&l, "Your account is ready. Upload a track, see its waveform, and convert it to any "
                   "format you need.");
    letter_link(&l, "Open Max Booster", config()->public_url);
    letter_say(&l, "If you did not create this account, somebody mistyped an address: you need not "
                   "do anything.");
    return letter_send(&l, j);
}

/* A fresh token of the user; only its hash is stored. */
static enum err make_token(struct job *j, struct id user, const char **token_out)
{
    struct scope *sc = job_scope(j);
    uint8_t bytes[TOKEN_BYTES];
    char *token = arena_alloc(sc->arena, base64url_length(TOKEN_BYTES) + 1);
    char hash[SHA256_HEX_SIZE];
    int64_t expires_ms = clock_wall_ms() + config()->password_reset_ttl_s * 1000;

    memcpy(bytes, user.bytes, sizeof(user.bytes));
    crypto_random(bytes + sizeof(user.bytes), SECRET_BYTES);
    base64url_encode(bytes, sizeof(bytes), token);
    crypto_sha256_hex(token, strlen(token), hash);
    *token_out = token;
    return pg_exec(sc, q_password_resets_insert(sc, hash, user, expires_ms), NULL);
}

/* Whose address it is: *user_out nil where there is no account. */
static enum err find_account(struct job *j, const char *email, struct id *user_out,
                             struct profile_row *account_out)
{
    struct scope *sc = job_scope(j);
    struct place place = id_place_of_email(email);
    struct address_row row;
    enum err e;

    *user_out = (struct id){{0}};
    e = pg_one(sc, q_emails_find(sc, place, email, RESERVATION_STALE_MS), &shape_address, &row);
    pg_release(sc);
    if (e == OK && row.active) {
        e = pg_one(sc, q_users_profile(sc, row.user_id), &shape_profile, account_out);
        *user_out = row.user_id;
    } else if (e == OK) {
        return OK;
    }
    if (e == ERR_NOT_FOUND) {
        scope_forgive(sc);
        *user_out = (struct id){{0}};
        return OK;
    }
    return e;
}

static enum err send_password_reset(struct job *j, const char *email)
{
    struct scope *sc = job_scope(j);
    struct profile_row account = {.name = NULL};
    struct letter l;
    struct id user;
    const char *token;

    TRY(find_account(j, email, &user, &account));
    if (id_is_nil(user)) {
        return OK;
    }
    TRY(make_token(j, user, &token));
    letter_begin(&l, j, email, "Reset your Max Booster password", account.name);
    letter_say(&l, "Somebody, hopefully you, asked for a new password. Open this link to choose "
                   "one:");
    letter_link(&l, "Choose a new password",
                arena_printf(sc->arena, "%s/reset-password?token=%s", config()->public_url, token));
    strbuf_printf(&l.text, "The link works once, for %lld minutes.\n\n",
                  (long long)(config()->password_reset_ttl_s / 60));
    strbuf_printf(&l.html, "<p>The link works once, for %lld minutes.</p>\n",
                  (long long)(config()->password_reset_ttl_s / 60));
    letter_say(&l, "If it was not you, do nothing: your password stays as it is.");
    return letter_send(&l, j);
}

enum err job_email_send(struct job *j)
{
    const char *template = json_str(json_get(job_payload(j), "template"), NULL);
    const char *email = json_str(json_get(job_payload(j), "email"), NULL);

    if (template == NULL || email == NULL) {
        return scope_fail(job_scope(j), ERR_VALIDATION_FAILED, "email: no template or address");
    }
    if (strcmp(template, "welcome") == 0) {
        return send_welcome(j, email);
    }
    if (strcmp(template, "password-reset") == 0) {
        return send_password_reset(j, email);
    }
    return scope_fail(job_scope(j), ERR_VALIDATION_FAILED, "email: no template %.40s", template);
}
