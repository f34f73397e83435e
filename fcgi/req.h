/* One request, as a handler sees it. Handlers include this and lib/ headers, nothing else of fcgi/.
 *
 * A request owns an arena through its scope; what these functions return lives until the reply is
 * written. Nothing here blocks except where it says so. */
#ifndef FCGI_REQ_H
#define FCGI_REQ_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/id.h"
#include "lib/json.h"
#include "lib/scope.h"
#include "lib/shape.h"
#include "lib/str.h"

struct req;

/* The request's scope: arena, deadline, trace, leases. Never NULL. */
struct scope *req_scope(struct req *r);

/* Arena of the scope. */
struct arena *req_arena(struct req *r);

/* The signed-in user. Only in routes with auth. */
struct id req_user(const struct req *r);

/* Place of that user: the argument of his queries. */
struct place req_place(const struct req *r);

/* The session's public id; only in routes with auth. */
struct id req_session(const struct req *r);

/* The n-th id in the path (0 is the first). Present because the route's key has that many '*'. */
struct id req_path_id(const struct req *r, int n);

/* Id 0 of the path, if it lies at the signed-in user's place; ERR_NOT_FOUND for another owner's. */
MUST_USE enum err req_own_id(struct req *r, struct id *id_out);

/* Read the body into a struct by its shape: 400 bad_json, 422 with all violations. An absent body
 * counts as {}. */
MUST_USE enum err req_body(struct req *r, const struct shape *shape, void *out);

/* Value of a query parameter, decoded; NULL where it is missing. A parameter given twice is a
 * violation at dispatch. */
const char *req_query(const struct req *r, const char *name);

/* Refuse query parameters other than the named ones (NULL-terminated list): 422. */
MUST_USE enum err req_query_only(struct req *r, const char *const *names);

/* ?limit= and ?cursor= of a list. Cursors are opaque; ours hold the last id of the page before. */
struct req_page {
    int64_t limit;   /* 1 … page_limit_max; default 20 */
    struct id after; /* nil: the first page */
};

/* Read them: 422 for a bad one. */
MUST_USE enum err req_page(struct req *r, struct req_page *page_out);

/* A header field of the request, NULL where it is missing; the name in CGI form: "IF_MATCH",
 * "USER_AGENT". */
const char *req_header(const struct req *r, const char *cgi_name);

/* The token that the request carries, valid or not; NULL where none. */
const char *req_token(struct req *r);

/* Client's address as text. */
const char *req_address(const struct req *r);

/* 412 where If-Match is there and does not name this version (ETag "v<version>"). */
MUST_USE enum err req_if_match(struct req *r, int64_t version);

/* Set the ETag of the reply to a version. */
void req_etag(struct req *r, int64_t version);

/* Set the Location of the reply. */
void req_location(struct req *r, const char *format, ...) PRINTF_LIKE(2, 3);

/* Add a header field to the reply; name and value must be free of CR and LF (assertion). */
void req_reply_header(struct req *r, const char *name, const char *value);

/* Set (or with ttl_s 0 clear) the session cookie of the reply. */
void req_session_cookie(struct req *r, const char *token, int64_t ttl_s);

/* Reply with one entity. Always OK, so that a handler ends with `return req_reply(...)`. */
enum err req_reply(struct req *r, int status, const struct shape *shape, const void *entity);

/* Reply with {items, nextCursor}. A handler asks for limit + 1 rows and passes them all with their
 * limit: the surplus row is dropped and tells that there is a next page. id_offset is
 * offsetof(struct, id). */
enum err req_reply_page(struct req *r, const struct shape *shape, const void *items, size_t n,
                        const struct req_page *page, size_t id_offset);

/* The same with further members: text such as ",\"partial\":false" behind nextCursor. */
enum err req_reply_page_with(struct req *r, const struct shape *shape, const void *items, size_t n,
                             const struct req_page *page, size_t id_offset, const char *members);

/* Reply with text of another type than JSON. */
enum err req_reply_text(struct req *r, int status, const char *content_type,
                        const struct strbuf *text);

/* Reply with JSON that the handler has written: begin with req_json(), then this. */
enum err req_reply_json(struct req *r, int status, const struct strbuf *json);

/* An empty buffer in the request's arena. */
struct strbuf req_json(struct req *r);

/* Reply without a body (204, 202). */
enum err req_reply_empty(struct req *r, int status);

/* Fail with a detail for the client. */
enum err req_fail(struct req *r, enum err e, const char *format, ...) PRINTF_LIKE(3, 4);

/* Begin a transaction on the user's shard if the idempotency guard has not done so already. Its
 * commit happens after the handler returned OK and before the reply is written; an error rolls
 * back. So the effect and the stored answer of an Idempotency-Key are one transaction. */
MUST_USE enum err req_transaction(struct req *r);

/* For routes without a session whose effect has an owner all the same (register). Within an open
 * transaction on the owner's shard: has his request with this Idempotency-Key been answered? Then
 * *is_replay_out, and the reply is that answer. Without the header: no. Errors as the guard's: 409
 * while the first is running, 422 for another body. */
MUST_USE enum err req_idem_replay(struct req *r, struct id owner, bool *is_replay_out);

/* Store the reply, which is complete, as the owner's answer; within the open transaction of the
 * effect. */
MUST_USE enum err req_idem_store(struct req *r, struct id owner);

/* For a route without a session whose answer must not be stored (a token): take the key for this
 * request, until its end. *kept_out is what the same request left with req_idem_keep() when it
 * was answered before, NULL the first time; it may be done again then. Errors: 409 while it runs,
 * 422 for another body. Without the header: nothing. Gives back all connections. */
MUST_USE enum err req_idem_repeatable(struct req *r, struct id owner, const char **kept_out);

/* What to store under the key in place of the reply. */
void req_idem_keep(struct req *r, const char *text);

/* Was this very request begun before by a process that died? Then what it is to do may be done
 * already. Only in routes of IDEM_CLAIM and IDEM_ENDING. */
bool req_idem_retried(const struct req *r);

/* Does the instance go, so that nobody should be sent here any more? */
bool req_is_draining(void);

/* Call fn(r, context) after the commit, before the reply: for what may be lost and is repaired
 * elsewhere (a push to the queue). Without a transaction: at the end of the handler. */
void req_after_commit(struct req *r, void (*fn)(struct req *r, void *context), void *context);

#endif
