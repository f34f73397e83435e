/* Arguments of queries in PostgreSQL's text form. For the generated q_… functions only.
 *
 * Texts live in the scope's arena. NULL stands for SQL NULL. Nothing here blocks. */
#ifndef LIB_PG_PARAM_H
#define LIB_PG_PARAM_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/id.h"
#include "lib/scope.h"

/* 36 characters; the nil id is the UUID of all zeros. */
const char *pg_param_id(struct scope *sc, struct id id);

/* The same, but the nil id is NULL. */
const char *pg_param_id_or_null(struct scope *sc, struct id id);

/* Decimal; ABSENT_I64 is NULL. */
const char *pg_param_i64(struct scope *sc, int64_t value);

/* Shortest digits that read back as the same double, also infinite; NAN is NULL. */
const char *pg_param_f64(struct scope *sc, double value);

/* "t" or "f". */
const char *pg_param_bool(struct scope *sc, bool value);

/* Milliseconds since 1970 as timestamptz (years 1970 to 9999); ABSENT_I64 is NULL. */
const char *pg_param_time(struct scope *sc, int64_t wall_ms);

/* id_place(), remembering this thread's last answer: one request asks for one user again and
 * again. */
struct place pg_param_place(struct id id);

#endif
