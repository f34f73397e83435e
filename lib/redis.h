/* Redis: one connection per thread, commands and scripts by routing key. The only module that knows
 * hiredis.
 *
 * Every call names a key: with a cluster it decides the node, so keys of one call share a hash tag.
 * A connection is opened at first use, closed on any error, and opened again after a short
 * back-off; while that lasts calls fail at once. A call blocks at most redis_timeout_ms and never
 * past the scope's deadline. */
#ifndef LIB_REDIS_H
#define LIB_REDIS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/scope.h"

enum redis_kind { REDIS_NIL, REDIS_INT, REDIS_TEXT, REDIS_LIST, REDIS_ERROR };

/* A reply, copied into the scope's arena. */
struct redis_reply {
    enum redis_kind kind;
    int64_t integer;
    const char *text; /* REDIS_TEXT, REDIS_ERROR; NUL behind it */
    size_t len;
    struct redis_reply *items; /* REDIS_LIST */
    size_t n_items;
};

/* A Lua script: a static object with name and source set; the rest is redis.c's. */
struct redis_script {
    const char *name;
    const char *source;
    char sha1[41];
    _Atomic bool is_known; /* sha1 is filled */
};

enum { REDIS_ARGS_MAX = 128 };

/* Arguments of one command: text and length each. */
struct redis_args {
    size_t n;
    const char *text[REDIS_ARGS_MAX];
    size_t len[REDIS_ARGS_MAX];
};

/* Append a NUL-terminated argument. */
void redis_arg(struct redis_args *args, const char *text);

/* Append bytes. */
void redis_arg_bytes(struct redis_args *args, const void *bytes, size_t len);

/* Append a number, formatted in the arena. */
void redis_arg_i64(struct scope *sc, struct redis_args *args, int64_t value);

/* Run one command. ERR_DEPENDENCY_UNAVAILABLE where Redis cannot be reached or answers an error
 * (the cause is recorded). */
MUST_USE enum err redis_call(struct scope *sc, const char *key, const struct redis_args *args,
                             struct redis_reply *reply_out);

/* Run a script: keys first, then args. Loads it where the server does not have it (EVALSHA, then
 * EVAL). */
MUST_USE enum err redis_eval(struct scope *sc, struct redis_script *script,
                             const struct redis_args *keys, const struct redis_args *args,
                             struct redis_reply *reply_out);

/* One command from NUL-terminated words, the list ended by NULL: redis_do(sc, key, &reply, "GET",
 * key, NULL). */
MUST_USE enum err redis_do(struct scope *sc, const char *key, struct redis_reply *reply_out, ...)
    __attribute__((sentinel));

/* Block in a command that waits at the server up to wait_ms (BLPOP and the like), which is added to
 * the time limit. */
MUST_USE enum err redis_wait(struct scope *sc, const char *key, const struct redis_args *args,
                             int64_t wait_ms, struct redis_reply *reply_out);

/* Close this thread's connection (at the end of a thread). */
void redis_thread_done(void);

#endif
