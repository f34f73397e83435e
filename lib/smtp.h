/* Mail out: hand one message to an SMTP server.
 *
 * smtp:// uses STARTTLS where the server offers it, smtps:// TLS from the start. User and password
 * stand in the URL; to another machine they go only under TLS. A connection is made for each
 * message: mail is rare here, and a server's idle limit is then nobody's concern. */
#ifndef LIB_SMTP_H
#define LIB_SMTP_H

#include <stddef.h>

#include "lib/scope.h"

/* Longest address (RFC 5321 section 4.5.3.1.3: a path of 256 with its brackets). */
enum { SMTP_ADDRESS_MAX = 254 };

/* Longest message; ours are a few kilobytes. */
enum { SMTP_MESSAGE_MAX = 1048576 };

/* Longest that one message may take where the scope has more time. */
enum { SMTP_TIME_MAX_MS = 60000 };

/* Send message (RFC 5322 header and body; line ends are made CRLF, dots are stuffed) from one
 * address to one other; both may be written as "Name <address>". Blocks up to SMTP_TIME_MAX_MS or
 * the scope's deadline.
 *
 * ERR_NOT_FOUND: the server knows no such mailbox (550, 551 or 553 to RCPT).
 * ERR_VALIDATION_FAILED: an address that is none (or has CR, LF or another control character), a
 * message that is too long or holds a NUL, or the server refused for good (5xx): do not send it
 * again. ERR_DEPENDENCY_UNAVAILABLE: refused for now (4xx), not reachable, log-in refused.
 * ERR_WRITE_UNKNOWN: all was sent but no reply came; sending again may send twice. ERR_TIMED_OUT:
 * the deadline was past before anything was sent. */
MUST_USE enum err smtp_send(struct scope *sc, const char *url, const char *from, const char *to,
                            const void *message, size_t len);

/* The bare address of "address" or "Name <address>", in the arena; NULL where it is none that is
 * safe in an SMTP command. */
const char *smtp_address(struct arena *a, const char *text);

/* The message with every line end (CRLF, lone LF, lone CR) as CRLF and one at the end, in the
 * arena; *len_out bytes. */
const char *smtp_lines(struct arena *a, const char *message, size_t len, size_t *len_out);

#endif
