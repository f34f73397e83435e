/* Configuration of the whole fleet: values that every process takes on while it runs.
 *
 * They stand in one hash of Redis with a number, the epoch, that each change counts up. Every
 * long-running program follows it by a thread that asks each config_poll_ms: a new epoch is taken
 * on whole or not at all (config_apply()), logged with who and what, and told back, so that the
 * operator sees who follows. Without Redis everybody keeps what he has; a Redis that has lost the
 * hash, or went back to an older epoch, is given it again by whoever remembers. See
 * docs/internals/config.md. */
#ifndef LIB_FLEET_H
#define LIB_FLEET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/config.h"
#include "lib/scope.h"

enum { FLEET_VALUES_MAX = 60 };

/* Have act() called whenever an epoch was taken on, before that is told: for who carries values
 * elsewhere. Where it returns false the epoch is told as refused with its *why_out, and it is tried
 * again each config_poll_ms. Not called before Redis has been asked. Called by the thread that
 * follows; once, before fleet_open(). */
void fleet_act(bool (*act)(const char **why_out));

/* Take on what the fleet was told, and go on following it by a thread of its own. Once per process,
 * behind config_load(), with the signals blocked that others wait for. Blocks up to
 * redis_timeout_ms; where Redis cannot be asked the process starts with its own values. */
void fleet_open(const char *program);

/* End the thread; waits for it up to redis_timeout_ms. */
void fleet_close(void);

/* What the fleet is told; all in the scope's arena. */
struct fleet_state {
    int64_t epoch;  /* 0: nothing */
    const char *by; /* who changed it last */
    int64_t at_ms;  /* when */
    struct config_pair *pairs;
    size_t n;
};

/* Read it. */
MUST_USE enum err fleet_read(struct scope *sc, struct fleet_state *state_out);

/* Change n values (at most FLEET_VALUES_MAX) at once; "" takes the fleet's value back. n = 0 only
 * counts the epoch up: everybody reads his file again. The values are judged by whoever takes them
 * on, so ask config_would_apply() before. */
MUST_USE enum err fleet_set(struct scope *sc, const char *by, const struct config_pair *pairs,
                            size_t n, int64_t *epoch_out);

/* A process that follows. */
struct fleet_member {
    const char *name;      /* instance/program/host:pid */
    int64_t epoch;         /* it runs with this one */
    int64_t refused_epoch; /* it did not take this one on; 0: refuses none */
    const char *refusal;   /* why */
};

/* Every process that was heard of within the last FLEET_SILENT_MS. */
MUST_USE enum err fleet_members(struct scope *sc, struct fleet_member **members_out, size_t *n_out);

enum { FLEET_SILENT_MS = 3000 };

#endif
