/* Text: a growing buffer on an arena, and the encodings that the system speaks.
 *
 * All functions are pure or write only to what is passed; none blocks. */
#ifndef LIB_STR_H
#define LIB_STR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/arena.h"
#include "lib/base.h"

/* A text that grows on an arena. data is NUL-terminated after every call and moves when it
 * grows. */
struct strbuf {
    struct arena *arena;
    char *data;
    size_t len;
    size_t cap;
};

/* Make an empty buffer in the caller's storage; no done is needed, the arena owns the bytes. */
void strbuf_init(struct strbuf *b, struct arena *arena, size_t cap);

/* Append len bytes. */
void strbuf_add(struct strbuf *b, const char *bytes, size_t len);

/* Append a NUL-terminated text. */
void strbuf_puts(struct strbuf *b, const char *text);

/* Append one byte. */
void strbuf_putc(struct strbuf *b, char c);

/* Append formatted text. The arguments must not point into the buffer. */
void strbuf_printf(struct strbuf *b, const char *format, ...) PRINTF_LIKE(2, 3);

/* Append a decimal number. */
void strbuf_i64(struct strbuf *b, int64_t value);

/* Append text as a JSON string with its quotes (RFC 8259); invalid UTF-8 becomes U+FFFD. NULL gives
 * null. */
void strbuf_json(struct strbuf *b, const char *text);

/* Append text with what means something in XML and HTML escaped. */
void strbuf_xml(struct strbuf *b, const char *text);

/* Is it well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms)? */
bool utf8_valid(const char *text, size_t len);

/* Number of code points of well-formed UTF-8. */
size_t utf8_length(const char *text);

/* Lower-case hexadecimal; out gets 2 * len digits and a NUL. */
void hex_encode(const uint8_t *bytes, size_t len, char *out);

/* Value of one hexadecimal digit of either case, -1 for another character. */
int hex_digit(char c);

/* base64url without padding (RFC 4648 section 5). out gets base64url_length(len) characters and a
 * NUL. */
void base64url_encode(const uint8_t *bytes, size_t len, char *out);

/* Characters that base64url_encode() writes for len bytes, without the NUL. */
size_t base64url_length(size_t len);

/* Decode exactly text_len characters into exactly out_len bytes. False if a character is foreign,
 * the length does not fit, or unused bits are set (one text for one value). */
bool base64url_decode(const char *text, size_t text_len, uint8_t *out, size_t out_len);

/* Decode %XX (RFC 3986), and '+' as a space where plus_is_space. NULL where an escape is broken, or
 * the result holds a NUL or is not UTF-8. */
const char *percent_decode(struct arena *a, const char *text, size_t len, bool plus_is_space);

/* Encode everything but the unreserved characters of RFC 3986, and '/' too where keep_slash. */
void percent_encode(struct strbuf *b, const char *text, bool keep_slash);

/* Parse a decimal int64 that spans the whole text: optional '-', no other sign or space. False: not
 * one, or out of range. */
bool i64_parse(const char *text, int64_t *out);

/* Compare without telling by the time where they differ. Lengths are not secret. */
bool bytes_equal_ct(const void *a, const void *b, size_t len);

/* The text in lower case (ASCII only), in the arena. */
char *ascii_lower(struct arena *a, const char *text);

/* Does the text start with the prefix? */
bool has_prefix(const char *text, const char *prefix);

#endif
