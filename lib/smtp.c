/* libcurl speaks SMTP and stuffs the dots. What it is given is made safe first: addresses without
 * anything that ends a command, and line ends of one kind, so that no message can smuggle a second
 * one. */
#include "lib/smtp.h"

#include <curl/curl.h>
#include <string.h>

#include "lib/depend.h"
#include "lib/http.h"
#include "lib/str.h"

enum { QUIT_TIMEOUT_S = 1 };

struct upload {
    const char *data;
    size_t len, at;
    bool is_begun; /* the server asked for the message */
    char message[CURL_ERROR_SIZE];
};

static size_t on_read(char *out, size_t size, size_t n, void *context)
{
    struct upload *u = context;
    size_t len = u->len - u->at < size * n ? u->len - u->at : size * n;

    u->is_begun = true;
    memcpy(out, u->data + u->at, len);
    u->at += len;
    return len;
}

/* Characters that an address may have here: printable, no space, none that has a meaning in a
 * command. Quoted local parts are not taken. */
static bool is_address(const char *text)
{
    const char *at = strrchr(text, '@'), *p;

    for (p = text; *p != '\0'; p++) {
        if ((unsigned char)*p <= 0x20 || *p == 0x7f || strchr("<>()[],;:\\\"", *p) != NULL) {
            return false;
        }
    }
    return at != NULL && at == strchr(text, '@') && at != text && at[1] != '\0' &&
           (size_t)(p - text) <= SMTP_ADDRESS_MAX && utf8_valid(text, (size_t)(p - text));
}

const char *smtp_address(struct arena *a, const char *text)
{
    const char *open = strrchr(text, '<'), *bare = text;
    size_t len = strlen(text);

    if (strpbrk(text, "\r\n") != NULL) {
        return NULL;
    }
    if (open != NULL) {
        if (text[len - 1] != '>') {
            return NULL;
        }
        bare = arena_strndup(a, open + 1, len - (size_t)(open + 1 - text) - 1);
    }
    return is_address(bare) ? arena_strdup(a, bare) : NULL;
}

const char *smtp_lines(struct arena *a, const char *message, size_t len, size_t *len_out)
{
    struct strbuf out;
    size_t i;

    strbuf_init(&out, a, len + len / 32 + 64);
    for (i = 0; i < len; i++) {
        if (message[i] == '\r' || message[i] == '\n') {
            strbuf_add(&out, "\r\n", 2);
            i += message[i] == '\r' && i + 1 < len && message[i + 1] == '\n';
        } else {
            strbuf_putc(&out, message[i]);
        }
    }
    if (out.len < 2 || out.data[out.len - 1] != '\n') {
        strbuf_add(&out, "\r\n", 2);
    }
    *len_out = out.len;
    return out.data;
}

/* RFC 5321 section 4.2.3: replies to RCPT that speak of the mailbox. */
enum { NO_MAILBOX = 550, NOT_LOCAL = 551, NAME_NOT_ALLOWED = 553 };

/* Did the server refuse this message or its addresses for good? A 5xx greeting or log-in speaks of
 * us, not of the message. */
static bool is_refused(CURLcode code, long reply, const struct upload *u)
{
    bool is_about_login = reply == 530 || reply == 534 || reply == 535 || reply == 538;

    if (reply < 500 || reply > 599 || is_about_login) {
        return false;
    }
    return code == CURLE_SEND_ERROR || (code == CURLE_WEIRD_SERVER_REPLY && u->is_begun);
}

static enum err outcome(struct scope *sc, CURL *c, const struct upload *u, CURLcode code)
{
    const char *why = u->message[0] != '\0' ? u->message : curl_easy_strerror(code);
    long reply = 0;

    if (code == CURLE_OK) {
        return OK;
    }
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &reply);
    if (is_refused(code, reply, u) && has_prefix(why, "RCPT") &&
        (reply == NO_MAILBOX || reply == NOT_LOCAL || reply == NAME_NOT_ALLOWED)) {
        return scope_fail(sc, ERR_NOT_FOUND, "smtp: refused with %ld: %s", reply, why);
    }
    if (is_refused(code, reply, u)) {
        return scope_fail(sc, ERR_VALIDATION_FAILED, "smtp: refused with %ld: %s", reply, why);
    }
    /* 354 was the last reply: the message went out whole, and nothing came back. */
    if (u->is_begun && u->at == u->len && reply == 354) {
        return scope_fail(sc, ERR_WRITE_UNKNOWN, "smtp: no reply to the message: %s", why);
    }
    return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "smtp: %ld: %s", reply, why);
}

static bool is_loopback(const char *host)
{
    return strcmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
           (has_prefix(host, "127.") && host[strspn(host, "0123456789.")] == '\0');
}

/* STARTTLS where it is offered. But a password leaves this machine only under TLS: whoever sits on
 * the way could take the offer away. */
static long tls_level(const char *url)
{
    char *user = NULL, *host = NULL;
    CURLU *parts = curl_url();
    long level = CURLUSESSL_ALL;

    if (parts != NULL && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK &&
        curl_url_get(parts, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
        bool has_user = curl_url_get(parts, CURLUPART_USER, &user, 0) == CURLUE_OK;

        level = has_user && !is_loopback(host) ? CURLUSESSL_ALL : CURLUSESSL_TRY;
    }
    curl_free(user);
    curl_free(host);
    curl_url_cleanup(parts);
    return level;
}

static enum err perform(struct scope *sc, CURL *c, const char *url, const char *from,
                        struct curl_slist *to, struct upload *u, int64_t left_ms)
{
    enum err e;

    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "smtp,smtps");
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)left_ms);
    curl_easy_setopt(c, CURLOPT_SERVER_RESPONSE_TIMEOUT, (long)(left_ms / 1000 + 1));
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_USE_SSL, tls_level(url));
    curl_easy_setopt(c, CURLOPT_MAIL_FROM, from);
    curl_easy_setopt(c, CURLOPT_MAIL_RCPT, to);
    curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(c, CURLOPT_READFUNCTION, on_read);
    curl_easy_setopt(c, CURLOPT_READDATA, u);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, u->message);
    e = outcome(sc, c, u, curl_easy_perform(c));
    /* Ending the handle says QUIT and waits for the reply, outside of the time limit above. */
    curl_easy_setopt(c, CURLOPT_SERVER_RESPONSE_TIMEOUT, (long)QUIT_TIMEOUT_S);
    return e;
}

enum err smtp_send(struct scope *sc, const char *url, const char *from, const char *to,
                   const void *message, size_t len)
{
    const char *from_bare = smtp_address(sc->arena, from), *to_bare = smtp_address(sc->arena, to);
    int64_t left_ms = scope_left_ms(sc, SMTP_TIME_MAX_MS);
    struct upload *u = arena_new(sc->arena, struct upload);
    struct curl_slist recipient = {0};
    int64_t probe;
    enum err e;
    CURL *c;

    if (from_bare == NULL || to_bare == NULL) {
        return scope_fail(sc, ERR_VALIDATION_FAILED, "smtp: the %s is no address",
                          from_bare == NULL ? "sender" : "recipient");
    }
    if (len > SMTP_MESSAGE_MAX || memchr(message, '\0', len) != NULL) {
        return scope_fail(sc, ERR_VALIDATION_FAILED, "smtp: the message is too long or has a NUL");
    }
    if (left_ms <= 0) {
        return scope_fail(sc, ERR_TIMED_OUT, "smtp: no time left");
    }
    TRY(depend_enter(sc, DEPEND_SMTP, &probe));
    http_open();
    c = curl_easy_init();
    if (c == NULL) {
        depend_leave(DEPEND_SMTP, probe, true);
        return scope_fail(sc, ERR_INTERNAL, "smtp: no handle");
    }
    u->data = smtp_lines(sc->arena, message, len, &u->len);
    recipient.data = arena_strdup(sc->arena, to_bare);
    e = perform(sc, c, url, from_bare, &recipient, u, left_ms);
    curl_easy_cleanup(c);
    depend_leave(DEPEND_SMTP, probe, e != ERR_DEPENDENCY_UNAVAILABLE && e != ERR_WRITE_UNKNOWN);
    return e;
}
