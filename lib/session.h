/* Sessions: in Redis only, so that any process of any instance serves any user.
 *
 * A token is base64url(user id, 16 bytes ‖ secret, 32 bytes): key and shard follow from it. The
 * session's public id is a UUIDv8 at the user's place whose other bits come from sha256(secret), so
 * the key "session:{userId}:sessionId" holds a hash of the secret and never the secret; the hash in
 * full is compared inside the script. "sessions:{userId}" indexes a user's sessions by expiry. A
 * session ends session_ttl after its last use. Each call is one round trip, but for the lists. */
#ifndef LIB_SESSION_H
#define LIB_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/id.h"
#include "lib/ratelimit.h"
#include "lib/scope.h"

enum { SESSION_TOKEN_SIZE = 65, SESSION_AGENT_MAX = 200 };

struct session {
    struct id id;
    const char *role;
    int64_t created_at;   /* ms */
    int64_t last_used_at; /* ms, to the minute */
    const char *address;
    const char *user_agent;
    bool current;           /* set by callers that know */
    bool has_written;       /* by session_check() only: written says what */
    struct pg_mark written; /* of the user, by whatever session or job; see pg_see() */
};

/* Who a token claims to be; the secret is not judged. */
struct session_claim {
    struct id user;
    struct id session;
    char hash_hex[65];
};

/* Take a token apart. False: malformed. */
bool session_claim(const char *token, struct session_claim *claim_out);

/* Make a session for a user who has proved himself. token_out gets SESSION_TOKEN_SIZE bytes.
 * ERR_SESSION_CAPACITY where the fleet has MAX_SESSIONS already. */
MUST_USE enum err session_create(struct scope *sc, struct id user, const char *role,
                                 const char *address, const char *user_agent, char *token_out,
                                 struct id *session_out, int64_t *expires_at_out);

/* Judge a claim, note its use and charge the user's rate, all in one script. ERR_UNAUTHENTICATED
 * where there is no such session or the secret differs (nothing is charged then). The verdict says
 * whether the rate allows the request. */
MUST_USE enum err session_check(struct scope *sc, const struct session_claim *claim,
                                const struct rate_policy *policy, struct session *session_out,
                                struct rate_verdict *verdict_out);

/* Note what was written for a user, so that none of his sessions reads older rows from a replica;
 * an unknown position (server 0) sends his reads to the primary until it cannot matter any more. */
MUST_USE enum err session_mark(struct scope *sc, struct id user, struct pg_mark mark);

/* Up to max of a user's live sessions, the last used first, behind the session after (nil: from the
 * first). */
MUST_USE enum err session_list(struct scope *sc, struct id user, struct id after, size_t max,
                               struct session **sessions_out, size_t *n_out);

/* Number of live sessions of the whole fleet. */
MUST_USE enum err session_count(struct scope *sc, int64_t *n_out);

/* End one session. ERR_NOT_FOUND where the user has no such session. */
MUST_USE enum err session_end(struct scope *sc, struct id user, struct id session);

/* End all sessions of a user, but keep one where keep is not nil. */
MUST_USE enum err session_end_all(struct scope *sc, struct id user, struct id keep);

#endif
