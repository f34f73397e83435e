/* A mail as text: header fields and a body in plain text and HTML, ready for smtp_send().
 *
 * Nothing that comes from a person can add a field or end the header: addresses are judged, all
 * else is encoded (RFC 2047), bodies are quoted-printable. Pure computation. */
#ifndef LIB_MAIL_H
#define LIB_MAIL_H

#include <stddef.h>
#include <stdint.h>

#include "lib/scope.h"
#include "lib/str.h"

struct mail {
    const char *from;       /* "Name <address>" or an address; the operator's */
    const char *to;         /* an address */
    const char *subject;    /* UTF-8; control characters are dropped */
    const char *text;       /* UTF-8, lines end with LF */
    const char *html;       /* the same as a document */
    const char *message_id; /* left part; the same for each try of the same mail */
    int64_t date_ms;
};

/* Write the message. ERR_VALIDATION_FAILED where an address is none. The text lives in the
 * arena. */
MUST_USE enum err mail_compose(struct scope *sc, const struct mail *mail, const char **message_out,
                               size_t *len_out);

#endif
