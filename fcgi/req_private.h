/* The request from inside: for fcgi/ only. Handlers see req.h. */
#ifndef FCGI_REQ_PRIVATE_H
#define FCGI_REQ_PRIVATE_H

#include "fcgi/conn.h"
#include "fcgi/req.h"
#include "fcgi/router.h"
#include "lib/limiter.h"
#include "lib/session.h"

enum { REPLY_HEADERS_MAX = 24, QUERY_PARAMS_MAX = 32, AFTER_COMMIT_MAX = 4 };

struct req_header_out {
    const char *name;
    const char *value;
};

struct req_reply_out {
    int status; /* 0: none yet */
    const char *content_type;
    struct strbuf body;
    struct req_header_out headers[REPLY_HEADERS_MAX];
    int n_headers;
};

struct req_identity {
    bool is_signed_in;
    bool by_cookie; /* the token came in a cookie: then unsafe requests need the right origin */
    const char *token;
    struct id user;
    struct place place;
    struct id session;
    const char *role;
};

struct req_idempotency {
    const char *key;         /* NULL: not asked for */
    const char *fingerprint; /* hash of method, path and body */
    bool is_replay;          /* the reply is the stored one */
    const char *claim;       /* name of our claim; NULL: none */
    struct id owner;         /* of the claim */
    bool is_retried;         /* it was another's, who died */
    const char *kept;        /* stored in place of the reply; NULL: the reply */
};

struct req_after_commit_call {
    void (*fn)(struct req *r, void *context);
    void *context;
};

struct req {
    struct scope scope;
    struct conn *conn;
    const struct conn_param *params; /* as the proxy sent them */
    size_t n_params;

    const char *method;
    const char *path; /* raw, without query */
    const char *address;
    bool is_unsafe; /* not GET or HEAD */
    const char *body;
    size_t body_len;
    struct conn_param query[QUERY_PARAMS_MAX];
    size_t n_query;

    struct route_match match;
    struct req_identity who;
    struct req_idempotency idem;
    bool in_transaction;
    struct req_after_commit_call after_commit[AFTER_COMMIT_MAX];
    int n_after_commit;
    struct req_reply_out reply;

    int64_t start_us, queue_us, guard_us, handler_us, write_us;
    struct limiter_turn turn; /* within the limit of concurrency */
    const char *guard;        /* name of the guard that refused, for the log */
    const char *shadow;       /* name of the guard that would have, were it not in GUARDS_SHADOW */
};

/* From now on req_is_draining(). */
void req_drain(void);

/* Does the guard of this name only look on? Then its refusal is noted and forgotten here. */
bool req_shadowed(struct req *r, const char *guard);

/* A parameter by its CGI name, NULL where it is missing. */
const char *req_param(const struct req *r, const char *name);

/* Split the query string into r->query; 400 for broken escapes, 422 for a name given twice. */
enum err req_parse_query(struct req *r, const char *text);

/* Record the reply for an error, from its table row and what the scope knows. */
void respond_problem(struct req *r, enum err e);

/* Write r->reply. False: the proxy has gone. */
bool respond_write(struct req *r);

/* Serve one request from start to finish on this thread. */
void dispatch(struct conn *conn, struct arena *arena);

/* Guards, in the order of guards.def. OK: go on. */
#define GUARD(name, doc) enum err guard_##name(struct req *r);
#include "fcgi/guards.def"
#undef GUARD

/* Once per process, before threads: join the instance's limit of concurrency. */
void guard_load_open(void);

/* Second half of the load guard: the work is over, with this outcome. */
void guard_load_done(struct req *r, enum err e);

/* Second half of the idempotency guard: store the reply, in the transaction if one is open. */
MUST_USE enum err guard_idem_store(struct req *r);

/* The request was refused: give its key back. */
void guard_idem_release(struct req *r);

/* The session that the request names is gone. If this very request has ended it, reply as it did;
 * otherwise OK, and no reply. */
MUST_USE enum err guard_idem_ended(struct req *r, const struct session_claim *session);

#endif
