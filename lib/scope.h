/* What a piece of work carries along: memory, deadline, trace, leases, and why it failed.
 *
 * A request and a job each hold one scope; lib/ knows nothing else of them. A scope belongs to one
 * thread. Causes (internal, for the log line) and details (for the client) are kept apart here, so
 * that no cause leaks. */
#ifndef LIB_SCOPE_H
#define LIB_SCOPE_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/arena.h"
#include "lib/base.h"

struct pg_lease;
struct pg_pool;

/* How far the log of a database has been seen by somebody (pg.h). */
struct pg_mark {
    const struct pg_pool *home; /* of the database; set by pg */
    int64_t system_id;          /* of the server; 0: not known, only the primary is beyond it */
    int64_t lsn;                /* position in its log, in bytes */
    int64_t epoch;              /* of the map of shards */
    bool is_written;            /* by this scope */
};

enum { REQUEST_ID_MAX = 64, TRACEPARENT_SIZE = 56, VIOLATIONS_MAX = 32, SCOPE_MARKS_MAX = 4 };

/* Where the time went, in microseconds, and how often each dependency was asked. */
struct scope_timing {
    int64_t pool_wait_us, db_us, redis_us, s3_us;
    int db_count, replica_count, redis_count, s3_count; /* db_count includes replica_count */
};

/* One entry of "errors" in a validation_failed problem. */
struct violation {
    const char *field; /* path of the member: "tracks[2].gainDb" */
    /* stable word: required, unknown, type, length, range, format, duplicate, value, breached */
    const char *code;
    const char *detail;
};

struct scope {
    struct arena *arena;
    int64_t deadline_mono_ms; /* no wait may go past it */
    char request_id[REQUEST_ID_MAX + 1];
    char traceparent[TRACEPARENT_SIZE]; /* W3C trace context, passed down to jobs; "" none */
    struct scope_timing timing;
    struct pg_lease *leases; /* database connections held; see pg.h */
    bool reads_replica;      /* its reads may go to replicas */
    struct pg_mark marks[SCOPE_MARKS_MAX];
    int n_marks;
    bool has_lost_marks; /* there were more */
    const char *cause;   /* internal reason of the failure, for the log only */
    const char *detail;  /* what the client is told, or NULL */
    int retry_after_s;   /* 0: the error's own default */
    int shard;           /* last shard asked, -1 none; for the log */
    struct violation violations[VIOLATIONS_MAX];
    int n_violations;
};

/* Make a scope in the caller's storage on an arena that the caller keeps; it ends timeout_ms from
 * now. */
void scope_init(struct scope *sc, struct arena *arena, int64_t timeout_ms);

/* Give back what is leased. The arena stays as it is. */
void scope_done(struct scope *sc);

/* Milliseconds left, at least 0, at most limit_ms. */
int64_t scope_left_ms(const struct scope *sc, int64_t limit_ms);

/* Record the internal cause and return e. For lib/: never shown to a client. */
enum err scope_fail(struct scope *sc, enum err e, const char *format, ...) PRINTF_LIKE(3, 4);

/* Record what the client is told and return e. */
enum err scope_refuse(struct scope *sc, enum err e, const char *format, ...) PRINTF_LIKE(3, 4);

/* Add an entry to the list of violations and return ERR_VALIDATION_FAILED. Past VIOLATIONS_MAX it
 * only returns. field and code must outlive the scope (literals or arena). */
enum err scope_violation(struct scope *sc, const char *field, const char *code, const char *format,
                         ...) PRINTF_LIKE(4, 5);

/* Forget cause, detail and violations (a failure that was handled). */
void scope_forgive(struct scope *sc);

/* Start a fresh trace: random request id and traceparent (W3C Trace Context level 1, version
 * 00). */
void scope_trace_new(struct scope *sc);

/* Take over a traceparent, with a span id of our own; false and nothing done where it is
 * malformed. */
bool scope_trace_join(struct scope *sc, const char *traceparent);

#endif
