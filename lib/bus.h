/* The event bus: where domain events go, in order per user, at least once.
 *
 * Today it is Redis Streams (EVENT_BUS=redis): stream events:{events:P} for partition P, one entry
 * per event with the fields id and event, the latter a CloudEvents 1.0 document. The interface is
 * what any log with keys and partitions gives, so that another one fits behind it. One thread uses
 * it, that of the relay; calls block as the bus's own client does. */
#ifndef LIB_BUS_H
#define LIB_BUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/id.h"
#include "lib/scope.h"

enum {
    BUS_BATCH_MAX = 50,          /* events of one bus_publish() */
    BUS_EVENT_BYTES_MAX = 262144 /* longest document that is taken */
};

struct bus_event {
    struct id id, user; /* the user is the key: his events keep their order */
    int64_t seq;        /* of that user, without a gap */
    const char *type;
    int64_t version; /* of data */
    int64_t at_ms;
    const char *traceparent; /* NULL: none */
    const char *data;        /* JSON object */
};

enum bus_fate {
    BUS_TAKEN,
    BUS_FENCED, /* a newer leader publishes: nothing was done */
    BUS_LOST_TAIL /* the bus has lost what it took last: nothing was done */,
    BUS_LOST_ALL /* the bus has lost everything: nothing was done */
};

/* May a program start that uses the bus? False, with a sentence in faults, where EVENT_BUS names
 * one that this version does not speak to. */
bool bus_may_start(FILE *faults);

/* Number of partitions. */
int bus_partitions(void);

/* The partition of a user's events. */
int bus_partition(struct id user);

/* Will the bus never take this event, whatever its state? Then why, as a sentence; else NULL. */
const char *bus_judge(struct scope *sc, const struct bus_event *event);

/* Publish up to BUS_BATCH_MAX events of one partition, all or none, in their order; with none, only
 * ask whether the bus still has what it took. fence grows with each leader. Errors: the bus is
 * away, or it refuses for now (ERR_DEPENDENCY_UNAVAILABLE); then they may have been taken. */
MUST_USE enum err bus_publish(struct scope *sc, int partition, int64_t fence,
                              const struct bus_event *events, size_t n, enum bus_fate *fate_out);

/* Forget what the bus took: after a loss, or with a new leader. */
void bus_forget(void);

#endif
