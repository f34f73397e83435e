/* Recursive descent, one function per rule of the grammar; the depth is bounded. */
#include "lib/json_scan.h"

#include <string.h>

#include "lib/str.h"

struct scan {
    const char *at, *end;
    int depth_left;
    size_t members;
    const char *why;
};

static bool wrong(struct scan *s, const char *why)
{
    s->why = why;
    return false;
}

/* The byte here; NUL at the end, where a NUL in the text fits no rule either. */
static char peek(const struct scan *s)
{
    return s->at < s->end ? *s->at : '\0';
}

static void skip_blank(struct scan *s)
{
    while (s->at < s->end && strchr(" \t\r\n", *s->at) != NULL && *s->at != '\0') {
        s->at++;
    }
}

static bool word(struct scan *s, const char *text)
{
    size_t len = strlen(text);

    if ((size_t)(s->end - s->at) < len || memcmp(s->at, text, len) != 0) {
        return wrong(s, "a value is missing");
    }
    s->at += len;
    return true;
}

/* One digit or more. */
static bool digits(struct scan *s)
{
    if (peek(s) < '0' || peek(s) > '9') {
        return wrong(s, "a digit is missing");
    }
    while (peek(s) >= '0' && peek(s) <= '9') {
        s->at++;
    }
    return true;
}

static bool number(struct scan *s)
{
    s->at += peek(s) == '-';
    if (peek(s) == '0') {
        s->at++; /* and no further digit: "01" is no number */
    } else if (!digits(s)) {
        return false;
    }
    if (peek(s) == '.') {
        s->at++;
        if (!digits(s)) {
            return false;
        }
    }
    if (peek(s) == 'e' || peek(s) == 'E') {
        s->at++;
        s->at += peek(s) == '+' || peek(s) == '-';
        return digits(s);
    }
    return true;
}

/* The four digits behind \u. */
static bool code_unit(struct scan *s, unsigned *unit_out)
{
    int i;

    *unit_out = 0;
    for (i = 0; i < 4; i++) {
        int digit = hex_digit(peek(s));

        if (digit < 0) {
            return wrong(s, "an escape needs four hexadecimal digits");
        }
        *unit_out = *unit_out * 16 + (unsigned)digit;
        s->at++;
    }
    return true;
}

static bool unicode_escape(struct scan *s, bool is_name)
{
    unsigned unit, low;

    if (!code_unit(s, &unit)) {
        return false;
    }
    if (unit == 0 && is_name) {
        return wrong(s, "a name must not hold a NUL");
    }
    if (unit < 0xd800 || unit > 0xdfff) {
        return true;
    }
    if (unit > 0xdbff || !word(s, "\\u") || !code_unit(s, &low) || low < 0xdc00 || low > 0xdfff) {
        return wrong(s, "a surrogate without its other half");
    }
    return true;
}

static bool string(struct scan *s, bool is_name)
{
    if (peek(s) != '"') {
        return wrong(s, is_name ? "a name in double quotes is missing" : "a text is missing");
    }
    for (s->at++; s->at < s->end && *s->at != '"'; s->at++) {
        if ((unsigned char)*s->at < 0x20) {
            return wrong(s, "a control character in a text");
        }
        if (*s->at != '\\') {
            continue;
        }
        s->at++;
        if (peek(s) == 'u') {
            s->at++;
            if (!unicode_escape(s, is_name)) {
                return false;
            }
            s->at--;
        } else if (peek(s) == '\0' || strchr("\"\\/bfnrt", peek(s)) == NULL) {
            return wrong(s, "an unknown escape");
        }
    }
    if (s->at == s->end) {
        return wrong(s, "the text ends too early");
    }
    s->at++;
    return true;
}

static bool value(struct scan *s);

static bool member(struct scan *s)
{
    skip_blank(s);
    if (!string(s, true)) {
        return false;
    }
    skip_blank(s);
    if (peek(s) != ':') {
        return wrong(s, "a colon is missing");
    }
    s->at++;
    s->members++;
    return value(s);
}

/* Members or items between the brackets. */
static bool list(struct scan *s, char closing, bool (*item)(struct scan *s))
{
    if (s->depth_left-- == 0) {
        return wrong(s, "nested too deep");
    }
    s->at++;
    skip_blank(s);
    if (peek(s) != closing) {
        while (item(s) && peek(s) == ',') {
            s->at++;
        }
        if (s->why != NULL) {
            return false;
        }
    }
    if (peek(s) != closing) {
        return wrong(s, "a comma or the closing bracket is missing");
    }
    s->at++;
    s->depth_left++;
    return true;
}

/* A value with the white space around it. */
static bool value(struct scan *s)
{
    bool is_good;

    skip_blank(s);
    switch (peek(s)) {
    case '{':
        is_good = list(s, '}', member);
        break;
    case '[':
        is_good = list(s, ']', value);
        break;
    case '"':
        is_good = string(s, false);
        break;
    case 't':
        is_good = word(s, "true");
        break;
    case 'f':
        is_good = word(s, "false");
        break;
    case 'n':
        is_good = word(s, "null");
        break;
    default:
        is_good = peek(s) == '-' || (peek(s) >= '0' && peek(s) <= '9')
                      ? number(s)
                      : wrong(s, "a value is missing");
    }
    if (is_good) {
        skip_blank(s);
    }
    return is_good;
}

bool json_scan(const char *text, size_t len, int depth_max, size_t *members_out,
               struct json_fault *fault_out)
{
    struct scan s = {.at = text, .end = text + len, .depth_left = depth_max};

    if (value(&s) && s.at < s.end) {
        (void)wrong(&s, "something follows the value");
    }
    *members_out = s.members;
    *fault_out = (struct json_fault){.at = (size_t)(s.at - text), .why = s.why};
    return s.why == NULL;
}
