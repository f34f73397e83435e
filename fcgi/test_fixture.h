/* What the tests of requests share: a request on an arena of its own. Each test program includes it
 * once, after cmocka. */
#ifndef FCGI_TEST_FIXTURE_H
#define FCGI_TEST_FIXTURE_H

#include <stdlib.h>
#include <string.h>

#include "fcgi/req_private.h"

/* A request with an empty scope, as cmocka's state; fixture_teardown() ends it. */
static inline struct req *fixture_req(void **state)
{
    struct req *r = calloc(1, sizeof(*r));

    assert_non_null(r);
    scope_init(&r->scope, arena_open(256 * 1024), 1000);
    *state = r;
    return r;
}

static inline int fixture_teardown(void **state)
{
    struct req *r = *state;

    arena_close(&r->scope.arena);
    free(r);
    return 0;
}

/* Value of a field of the reply; NULL: it has none. */
static inline const char *fixture_sent(const struct req *r, const char *name)
{
    int i;

    for (i = 0; i < r->reply.n_headers; i++) {
        if (strcmp(r->reply.headers[i].name, name) == 0) {
            return r->reply.headers[i].value;
        }
    }
    return NULL;
}

#endif
