/* RFC 5322, 2045 to 2047 and 2049: only what our own mails need, all of it in ASCII lines of at
 * most 76 characters. */
#include "lib/mail.h"

#include <string.h>

#include "lib/clock.h"
#include "lib/crypto.h"
#include "lib/smtp.h"

enum { WORD_MAX = 75, LINE_MAX_QP = 76, BOUNDARY_BYTES = 12 };

static const char hex_digits[] = "0123456789ABCDEF";

static void put_escaped(struct strbuf *b, unsigned char c)
{
    strbuf_putc(b, '=');
    strbuf_putc(b, hex_digits[c >> 4]);
    strbuf_putc(b, hex_digits[c & 15]);
}

/* Bytes of the UTF-8 character that begins with c. */
static size_t char_len(unsigned char c)
{
    return c < 0xc0 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

static bool is_control(unsigned char c)
{
    return c < 0x20 || c == 0x7f;
}

/* May it stand for itself in an encoded word wherever that may stand (RFC 2047 section 5 (3))? */
static bool is_word_char(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           strchr("!*+-/", c) != NULL;
}

static bool is_plain(const char *text)
{
    const char *p;

    for (p = text; *p != '\0'; p++) {
        if (!is_word_char((unsigned char)*p) && strchr(" .,?'", *p) == NULL) {
            return false;
        }
    }
    return p - text <= 60;
}

/* As it is where that is safe, else as encoded words that end between characters. */
static void put_phrase(struct strbuf *b, const char *text)
{
    static const char head[] = "=?UTF-8?Q?";
    const unsigned char *p;
    size_t width = 0, i, len;

    if (is_plain(text)) {
        strbuf_puts(b, text);
        return;
    }
    strbuf_puts(b, head);
    for (p = (const unsigned char *)text; *p != '\0'; p += len) {
        len = strnlen((const char *)p, char_len(*p));
        if (is_control(*p)) {
            continue;
        }
        if (width + 3 * len > WORD_MAX - sizeof(head) - 2) {
            strbuf_puts(b, "?=\r\n ");
            strbuf_puts(b, head);
            width = 0;
        }
        for (i = 0; i < len; i++) {
            if (p[i] == ' ') {
                strbuf_putc(b, '_');
            } else if (is_word_char(p[i])) {
                strbuf_putc(b, (char)p[i]);
            } else {
                put_escaped(b, p[i]);
            }
        }
        width += 3 * len;
    }
    strbuf_puts(b, "?=");
}

static void put_quoted_printable(struct strbuf *b, const char *text)
{
    const unsigned char *p;
    size_t width = 0;

    for (p = (const unsigned char *)text; *p != '\0'; p++) {
        /* A blank at the end of a line would be dropped on the way. */
        bool is_last = p[1] == '\n' || p[1] == '\0';
        bool is_safe = (*p >= 0x21 && *p <= 0x7e && *p != '=') || (*p == ' ' && !is_last);

        if (*p == '\n') {
            strbuf_puts(b, "\r\n");
            width = 0;
            continue;
        }
        if (*p == '\r') {
            continue;
        }
        if (width + (is_safe ? 1 : 3) > LINE_MAX_QP - 1) {
            strbuf_puts(b, "=\r\n");
            width = 0;
        }
        if (is_safe) {
            strbuf_putc(b, (char)*p);
        } else {
            put_escaped(b, *p);
        }
        width += is_safe ? 1 : 3;
    }
    strbuf_puts(b, "\r\n");
}

static void put_date(struct strbuf *b, int64_t wall_ms)
{
    static const char *const days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                         "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm t;

    gmtime_r(&seconds, &t);
    strbuf_printf(b, "Date: %s, %d %s %d %02d:%02d:%02d +0000\r\n", days[t.tm_wday], t.tm_mday,
                  months[t.tm_mon], t.tm_year + 1900, t.tm_hour, t.tm_min, t.tm_sec);
}

/* "Name <address>" with the name encoded. */
static void put_from(struct strbuf *b, struct arena *a, const char *from, const char *address)
{
    const char *open = strrchr(from, '<');
    size_t len = open == NULL ? 0 : (size_t)(open - from);

    while (len > 0 && from[len - 1] == ' ') {
        len--;
    }
    strbuf_puts(b, "From: ");
    if (len > 0) {
        put_phrase(b, arena_strndup(a, from, len));
        strbuf_puts(b, " ");
    }
    strbuf_printf(b, "<%s>\r\n", address);
}

static void put_part(struct strbuf *b, const char *boundary, const char *type, const char *text)
{
    strbuf_printf(b,
                  "--%s\r\nContent-Type: %s; charset=utf-8\r\n"
                  "Content-Transfer-Encoding: quoted-printable\r\n\r\n",
                  boundary, type);
    put_quoted_printable(b, text);
}

enum err mail_compose(struct scope *sc, const struct mail *mail, const char **message_out,
                      size_t *len_out)
{
    const char *from = smtp_address(sc->arena, mail->from);
    const char *to = smtp_address(sc->arena, mail->to);
    char boundary[2 + 2 * BOUNDARY_BYTES + 1] = "=_";
    uint8_t hash[SHA256_SIZE];
    struct strbuf b;

    if (from == NULL || to == NULL) {
        return scope_fail(sc, ERR_VALIDATION_FAILED, "mail: %s is no address",
                          from == NULL ? "MAIL_FROM" : "the receiver's");
    }
    /* "=_" stands in no quoted-printable text. */
    crypto_sha256(mail->message_id, strlen(mail->message_id), hash);
    hex_encode(hash, BOUNDARY_BYTES, boundary + 2);
    strbuf_init(&b, sc->arena, 4096);
    put_from(&b, sc->arena, mail->from, from);
    strbuf_printf(&b, "To: <%s>\r\nSubject: ", to);
    put_phrase(&b, mail->subject);
    strbuf_puts(&b, "\r\n");
    put_date(&b, mail->date_ms);
    strbuf_printf(&b,
                  "Message-ID: <%s@%s>\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n"
                  "Content-Type: multipart/alternative; boundary=\"%s\"\r\n\r\n",
                  mail->message_id, strrchr(from, '@') + 1, boundary);
    put_part(&b, boundary, "text/plain", mail->text);
    put_part(&b, boundary, "text/html", mail->html);
    strbuf_printf(&b, "--%s--\r\n", boundary);
    *message_out = b.data;
    *len_out = b.len;
    return OK;
}
