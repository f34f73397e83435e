/* AWS Signature Version 4, in headers and in query strings (presigned), as S3 wants it.
 *
 * S3 encodes a path once and does not normalise it; so does this. Everything here is computation on
 * the arena that is passed: nothing blocks, nothing fails. The derived signing key is kept per
 * thread for the last (secret, day, region, service), so that a signature costs one hash and one
 * HMAC. Session tokens are not supported. */
#ifndef LIB_SIGV4_H
#define LIB_SIGV4_H

#include <stddef.h>
#include <stdint.h>

#include "lib/arena.h"
#include "lib/str.h"

/* "20130524T000000Z" and its NUL. */
enum { SIGV4_DATE_SIZE = 17 };

/* The longest that a presigned URL may live: 7 days, by the specification. */
enum { SIGV4_TTL_MAX_S = 604800 };

/* Who signs, and for what. */
struct sigv4_key {
    const char *access_key_id;
    const char *secret_access_key;
    const char *region;
    const char *service; /* "s3" */
};

/* A query parameter or a header field; nothing is encoded yet. */
struct sigv4_pair {
    const char *name;
    const char *value;
};

/* What is signed. The caller keeps all of it. */
struct sigv4_request {
    const char *method;
    const char *path;               /* begins with '/', not encoded */
    const struct sigv4_pair *query; /* not encoded, any order */
    size_t n_query;
    const struct sigv4_pair *headers; /* all are signed; one is host */
    size_t n_headers;
    const char *payload_hash; /* hex SHA-256 of the body; NULL: UNSIGNED-PAYLOAD */
    int64_t wall_ms;          /* time of the signature */
};

/* The result, in the arena. */
struct sigv4_signed {
    const char *target;        /* encoded path, and query where there is one: "/a%20b?x=1" */
    const char *date;          /* value of x-amz-date */
    const char *authorization; /* value of Authorization; NULL of a presigned request */
    const char *signature;     /* 64 hex digits */
};

/* Sign in headers: x-amz-date is added to the signed ones. The caller sends the headers that it
 * passed, x-amz-date and Authorization, and target as it is. */
void sigv4_sign(struct arena *a, const struct sigv4_key *key, const struct sigv4_request *request,
                struct sigv4_signed *out);

/* Sign in the query: target carries everything, and works for ttl_s (1 to SIGV4_TTL_MAX_S,
 * clamped). The client must send the same headers that are passed here. */
void sigv4_presign(struct arena *a, const struct sigv4_key *key,
                   const struct sigv4_request *request, int64_t ttl_s, struct sigv4_signed *out);

/* Append the canonical request as the specification has it, without adding anything. For
 * sigv4_sign(), tests, fuzzing. */
void sigv4_canonical(struct strbuf *out, const struct sigv4_request *request);

/* Write wall_ms (years 1970 to 9999) as ISO 8601 basic text with its NUL. */
void sigv4_date(int64_t wall_ms, char out[SIGV4_DATE_SIZE]);

#endif
