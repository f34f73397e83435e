/* Redis: one connection per thread and node, commands and scripts by routing key. The only module
 * that knows hiredis.
 *
 * Every call names a key: with a cluster (REDIS_CLUSTER_NODES > 0) its hash tag decides the node,
 * so keys of one call share a tag; the key "" stands for any node. A connection is opened at first
 * use and closed on any error, or when it lay idle for long. A node that cannot be reached is held
 * back for a short while, for all threads of the instance's processes: calls to it fail at once. A
 * call blocks at most redis_timeout_ms, redirections and pauses of a cluster in motion included,
 * and never past the scope's deadline. What may have been executed is never sent twice: where an
 * answer is lost the call fails. */
#ifndef LIB_REDIS_H
#define LIB_REDIS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/breaker.h"
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

/* Several commands whose keys share a tag, to be sent in one round trip; an arena object. They are
 * no transaction: others' commands may come between, and while their slot moves to another node
 * they may be run in another order. */
struct redis_pipeline;

/* An empty one. key routes all of it; it must live until the run. */
struct redis_pipeline *redis_pipeline_make(struct scope *sc, const char *key);

/* Append a command of NUL-terminated words, the list ended by NULL. The texts must live until the
 * run. */
void redis_pipeline_add(struct redis_pipeline *p, ...) __attribute__((sentinel));

/* Send all and take the replies, one per command in their order. Blocks and fails as redis_call();
 * one command that Redis refuses fails the call, though the others have been run. */
MUST_USE enum err redis_pipeline_run(struct scope *sc, const struct redis_pipeline *p,
                                     struct redis_reply **replies_out);

/* Does no server evict keys of its own accord (maxmemory-policy noeviction)? What we keep there is
 * sessions, limits and queues, not a cache. Asks every master of a cluster. ERR_INTERNAL: one does,
 * or REDIS_URL is malformed; the cause is a sentence for the operator. ERR_DEPENDENCY_UNAVAILABLE:
 * it cannot be told now. */
MUST_USE enum err redis_check_eviction(struct scope *sc);

/* The same at the start of a program: false where it must not start, with a sentence in faults.
 * Where Redis cannot be asked (yet), true and a line in the log. Blocks up to redis_timeout_ms for
 * each of three steps. */
bool redis_may_start(FILE *faults);

/* Masters and replicas of the cluster as last told by one of them; 0: no cluster, or not asked
 * yet. Never blocks. */
int redis_nodes(void);

/* The worst of all nodes: open while one is left alone, half-open when the next call to it probes.
 * For metrics; never blocks. */
enum breaker_state redis_breaker(void);

/* Close this thread's connections; it may open others. The end of a thread does it too. */
void redis_thread_done(void);

#endif
