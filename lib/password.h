/* Password hashes at a bounded cost: a few threads of low priority per process, and a short queue
 * before them.
 *
 * A log-in storm can so fill the queue and no more: requests that find it full fail at once, and
 * all other routes keep their threads and their share of the processor. Blocks until the hash is
 * done, at most until the scope's deadline. */
#ifndef LIB_PASSWORD_H
#define LIB_PASSWORD_H

#include <stdbool.h>

#include "lib/crypto.h"
#include "lib/scope.h"

/* Start the threads of this process; once. */
void password_open(void);

/* Stop them; nobody may be waiting. */
void password_close(void);

/* Hash. ERR_OVERLOADED: the queue is full; ERR_TIMED_OUT. */
MUST_USE enum err password_hash(struct scope *sc, const char *password,
                                char hash_out[PASSWORD_HASH_SIZE]);

/* Judge. hash NULL means that there is no account: it takes the same time, and never fits. */
MUST_USE enum err password_fits(struct scope *sc, const char *hash, const char *password,
                                bool *fits_out);

/* Is it (ASCII case apart) among the passwords that attackers try first? Pure. */
bool password_is_breached(const char *password);

#endif
