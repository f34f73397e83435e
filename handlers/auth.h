/* Shapes of accounts and sessions. */
#ifndef HANDLERS_AUTH_H
#define HANDLERS_AUTH_H

#include "lib/shape.h"

/* A users row; the password hash is never written to JSON. */
struct user {
    struct id id;
    const char *email;
    const char *name;
    const char *role;
    const char *password_hash;
    int64_t version;
    int64_t created_at, updated_at;
};

extern const struct shape shape_user;

#endif
