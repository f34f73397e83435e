/* Text on arenas, and its encodings. Every decoder accepts exactly one text for one value. */
#include "lib/str.h"

#include <errno.h>
#include <limits.h>

void strbuf_init(struct strbuf *b, struct arena *arena, size_t cap)
{
    *b = (struct strbuf){.arena = arena, .data = arena_alloc(arena, cap + 1), .cap = cap};
}

static void reserve(struct strbuf *b, size_t more)
{
    size_t cap;
    char *grown;

    if (more <= b->cap - b->len) {
        return;
    }
    cap = b->cap * 2 > b->len + more ? b->cap * 2 : b->len + more;
    grown = arena_alloc(b->arena, cap + 1);
    memcpy(grown, b->data, b->len);
    b->data = grown;
    b->cap = cap;
}

void strbuf_add(struct strbuf *b, const char *bytes, size_t len)
{
    reserve(b, len);
    if (len > 0) {
        memcpy(b->data + b->len, bytes, len);
    }
    b->len += len;
    b->data[b->len] = '\0';
}

void strbuf_puts(struct strbuf *b, const char *text)
{
    strbuf_add(b, text, strlen(text));
}

void strbuf_putc(struct strbuf *b, char c)
{
    strbuf_add(b, &c, 1);
}

void strbuf_printf(struct strbuf *b, const char *format, ...)
{
    size_t room = b->cap - b->len;
    va_list args;
    int len;

    va_start(args, format);
    len = vsnprintf(b->data + b->len, room + 1, format, args);
    va_end(args);
    if (len > 0 && (size_t)len > room) {
        reserve(b, (size_t)len);
        va_start(args, format);
        vsnprintf(b->data + b->len, (size_t)len + 1, format, args);
        va_end(args);
    }
    b->len += len > 0 ? (size_t)len : 0;
    b->data[b->len] = '\0';
}

void strbuf_i64(struct strbuf *b, int64_t value)
{
    char digits[24];
    int len = snprintf(digits, sizeof(digits), "%lld", (long long)value);

    strbuf_add(b, digits, (size_t)len);
}

/* Length of the well-formed UTF-8 sequence at s (RFC 3629, table of section 4), 0 where there is
 * none. */
static size_t utf8_sequence(const unsigned char *s, size_t left)
{
    unsigned char low = 0x80, high = 0xbf;
    size_t n, i;

    if (s[0] < 0x80) {
        return 1;
    }
    if (s[0] >= 0xc2 && s[0] <= 0xdf) {
        n = 2;
    } else if (s[0] >= 0xe0 && s[0] <= 0xef) {
        n = 3;
        low = s[0] == 0xe0 ? 0xa0 : 0x80;
        high = s[0] == 0xed ? 0x9f : 0xbf;
    } else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        n = 4;
        low = s[0] == 0xf0 ? 0x90 : 0x80;
        high = s[0] == 0xf4 ? 0x8f : 0xbf;
    } else {
        return 0;
    }
    if (left < n || s[1] < low || s[1] > high) {
        return 0;
    }
    for (i = 2; i < n; i++) {
        if (s[i] < 0x80 || s[i] > 0xbf) {
            return 0;
        }
    }
    return n;
}

bool utf8_valid(const char *text, size_t len)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t at = 0;

    while (at < len) {
        size_t n = utf8_sequence(s + at, len - at);

        if (n == 0) {
            return false;
        }
        at += n;
    }
    return true;
}

size_t utf8_length(const char *text)
{
    size_t n = 0;

    for (; *text != '\0'; text++) {
        n += ((unsigned char)*text & 0xc0) != 0x80;
    }
    return n;
}

/* Append one character that must be escaped in a JSON string. */
static void json_escape(struct strbuf *b, unsigned char c)
{
    /* character, letter behind the backslash */
    static const char two[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    char hex[6] = {'\\', 'u', '0', '0', '0', '0'};
    const char *p;

    for (p = two; *p != '\0'; p += 2) {
        if ((unsigned char)*p == c) {
            char escape[2] = {'\\', p[1]};

            strbuf_add(b, escape, 2);
            return;
        }
    }
    hex[4] = (char)('0' + (c >> 4)); /* c is below 0x20, or 0x7f */
    hex[5] = "0123456789abcdef"[c & 15];
    strbuf_add(b, hex, sizeof(hex));
}

void strbuf_json(struct strbuf *b, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t len, at = 0, plain = 0;

    if (text == NULL) {
        strbuf_puts(b, "null");
        return;
    }
    len = strlen(text);
    strbuf_putc(b, '"');
    while (at < len) {
        size_t n = utf8_sequence(s + at, len - at);

        if (n > 1 || (n == 1 && s[at] >= 0x20 && s[at] != '"' && s[at] != '\\' && s[at] != 0x7f)) {
            at += n;
            continue;
        }
        strbuf_add(b, text + plain, at - plain);
        if (n == 0) {
            strbuf_puts(b, "\xef\xbf\xbd");
        } else {
            json_escape(b, s[at]);
        }
        plain = ++at;
    }
    strbuf_add(b, text + plain, at - plain);
    strbuf_putc(b, '"');
}

void strbuf_xml(struct strbuf *b, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '&':
            strbuf_puts(b, "&amp;");
            break;
        case '<':
            strbuf_puts(b, "&lt;");
            break;
        case '>':
            strbuf_puts(b, "&gt;");
            break;
        case '"':
            strbuf_puts(b, "&quot;");
            break;
        case '\'':
            strbuf_puts(b, "&#39;");
            break;
        default:
            strbuf_putc(b, *text);
        }
    }
}

void hex_encode(const uint8_t *bytes, size_t len, char *out)
{
    static const char digits[] = "0123456789abcdef";
    size_t i;

    for (i = 0; i < len; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * len] = '\0';
}

int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static const char base64url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

size_t base64url_length(size_t len)
{
    return (len * 4 + 2) / 3;
}

void base64url_encode(const uint8_t *bytes, size_t len, char *out)
{
    uint32_t bits = 0;
    int n_bits = 0;
    size_t i;

    for (i = 0; i < len; i++) {
        bits = bits << 8 | bytes[i];
        for (n_bits += 8; n_bits >= 6; n_bits -= 6) {
            *out++ = base64url[bits >> (n_bits - 6) & 63];
        }
    }
    if (n_bits > 0) {
        *out++ = base64url[bits << (6 - n_bits) & 63];
    }
    *out = '\0';
}

static int base64url_value(char c)
{
    const char *at = c == '\0' ? NULL : strchr(base64url, c);

    return at == NULL ? -1 : (int)(at - base64url);
}

bool base64url_decode(const char *text, size_t text_len, uint8_t *out, size_t out_len)
{
    uint32_t bits = 0;
    int n_bits = 0;
    size_t i, n = 0;

    if (text_len != base64url_length(out_len)) {
        return false;
    }
    for (i = 0; i < text_len; i++) {
        int value = base64url_value(text[i]);

        if (value < 0) {
            return false;
        }
        bits = (bits << 6 | (uint32_t)value) & 0xffffff;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            out[n++] = (uint8_t)(bits >> n_bits);
        }
    }
    return (bits & ((1u << n_bits) - 1)) == 0;
}

const char *percent_decode(struct arena *a, const char *text, size_t len, bool plus_is_space)
{
    char *out = arena_alloc(a, len + 1);
    size_t i, n = 0;

    for (i = 0; i < len; i++) {
        char c = text[i];

        if (c == '%') {
            bool whole = len - i > 2;
            int high = whole ? hex_digit(text[i + 1]) : -1;
            int low = whole ? hex_digit(text[i + 2]) : -1;

            if (high < 0 || low < 0) {
                return NULL;
            }
            c = (char)(high * 16 + low);
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        if (c == '\0') {
            return NULL;
        }
        out[n++] = c;
    }
    return utf8_valid(out, n) ? out : NULL;
}

static bool is_unreserved(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

void percent_encode(struct strbuf *b, const char *text, bool keep_slash)
{
    static const char digits[] = "0123456789ABCDEF";

    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        char escape[3] = {'%', digits[c >> 4], digits[c & 15]};

        if (is_unreserved(*text) || (keep_slash && c == '/')) {
            strbuf_add(b, text, 1);
        } else {
            strbuf_add(b, escape, 3);
        }
    }
}

bool i64_parse(const char *text, int64_t *out)
{
    char *end;
    long long value;

    if (!(text[0] >= '0' && text[0] <= '9') &&
        !(text[0] == '-' && text[1] >= '0' && text[1] <= '9')) {
        return false;
    }
    errno = 0;
    value = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0') {
        return false;
    }
    *out = value;
    return true;
}

bool bytes_equal_ct(const void *a, const void *b, size_t len)
{
    const volatile unsigned char *x = a, *y = b;
    unsigned char differ = 0;
    size_t i;

    for (i = 0; i < len; i++) {
        differ |= x[i] ^ y[i];
    }
    return differ == 0;
}

char *ascii_lower(struct arena *a, const char *text)
{
    char *lower = arena_strdup(a, text);
    char *p;

    for (p = lower; *p != '\0'; p++) {
        if (*p >= 'A' && *p <= 'Z') {
            *p = (char)(*p + 'a' - 'A');
        }
    }
    return lower;
}

bool has_prefix(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}
