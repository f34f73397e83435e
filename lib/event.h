/* Domain events: what has happened to a user or to something of his, told in the transaction in
 * which it happens (docs/internals/outbox.md). lib/events.def names them all. */
#ifndef LIB_EVENT_H
#define LIB_EVENT_H

#include <stdio.h>

#include "lib/id.h"
#include "lib/scope.h"

enum event_kind {
#define EVENT(symbol, type, version, doc, ...) EVENT_##symbol,
#include "lib/events.def"
#undef EVENT
    EVENT__COUNT
};

/* Members of all events' data; each event has those that its row of events.def names. */
struct event_data {
    struct id file, job;
    const char *name, *role, *reason, *file_name, *content_type, *origin, *code, *job_type;
    int64_t version, size_bytes, duration_ms, attempts;
};

/* Add an event to the transaction that is open on the user's shard; it is told if and only if that
 * commits. Make it the transaction's last write: other writers of the same user's events wait until
 * the commit. Carries the scope's trace. Blocks and fails as pg_exec(). */
MUST_USE enum err event_add(struct scope *sc, struct id user, enum event_kind kind,
                            const struct event_data *data);

/* Print docs/events.md from the table. */
void event_print_docs(FILE *out);

#endif
