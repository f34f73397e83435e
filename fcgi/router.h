/* From method and path to a row of the route table.
 *
 * The canonical key is "METHOD /path" where a segment that parses as an id becomes "*". The table
 * is routes.gperf; gperf makes a perfect hash of it, and tools/gen_routes.py the prototypes and the
 * index numbers. Pure computation. */
#ifndef FCGI_ROUTER_H
#define FCGI_ROUTER_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/id.h"
#include "lib/scope.h"

struct req;

enum route_auth {
    AUTH_NONE,     /* no session is looked at */
    AUTH_OPTIONAL, /* a session is used where there is a valid one */
    AUTH_SESSION,  /* 401 without a valid session */
    AUTH_ADMIN     /* 403 for other roles */
};

enum route_rate {
    RATE_FREE,    /* never limited: probes */
    RATE_NORMAL,  /* RATE_LIMIT_MAX */
    RATE_CRITICAL /* RATE_LIMIT_CRITICAL_MAX */
};

/* What is given up first when there is too much to do. */
enum route_class {
    CLASS_NORMAL,
    CLASS_CRITICAL,    /* never refused by the load guard: probes, log-in and log-out */
    CLASS_BEST_EFFORT, /* may wait or be asked again: searches, lists */
    CLASS_BULK         /* orders work for later */
};

/* How a route keeps what an Idempotency-Key promises. */
enum route_idem {
    IDEM_NONE,        /* changes nothing */
    IDEM_TRANSACTION, /* the answer is stored in the one transaction of the effect */
    IDEM_CLAIM,       /* the key is claimed first: part of the work is outside the database */
    IDEM_ENDING,      /* the same for what ends its own session */
    IDEM_HANDLER      /* the handler does it: without a session */
};

struct route {
    const char *key;
    int index; /* 0 … ROUTES - 1, by order in routes.gperf */
    enum err (*h)(struct req *r);
    enum route_auth auth;
    enum route_rate rate;
    enum route_class class;
    enum route_idem idem;
};

enum { ROUTE_KEY_MAX = 600, ROUTE_IDS_MAX = 4, ROUTE_ALLOW_MAX = 64 };

struct route_match {
    const struct route *route;
    struct id ids[ROUTE_IDS_MAX];
    int n_ids;
    char allow[ROUTE_ALLOW_MAX]; /* for ERR_METHOD_NOT_ALLOWED: the Allow field */
};

/* Find the route of a method and the raw path of a request (without query). ERR_BAD_REQUEST for a
 * broken escape, ERR_URI_TOO_LONG, ERR_NOT_FOUND, ERR_METHOD_NOT_ALLOWED. HEAD is GET. */
MUST_USE enum err router_find(struct scope *sc, const char *method, const char *path,
                              struct route_match *match_out);

/* gperf's look-up of a key. */
const struct route *route_lookup(const char *key, size_t len);

/* Key of a route by index, for metrics; generated. */
const char *route_key(int index);

/* Number of routes; generated. */
int route_count(void);

#endif
