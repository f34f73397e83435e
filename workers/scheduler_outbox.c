/* The relay: events from the outbox of each database to the bus, at least once, each user's in
 * their order.
 *
 * A walk goes through what waits by user and order, publishes each partition's events as they come,
 * and marks what the bus has taken. Whoever dies between the two publishes the same events once
 * more: consumers know them by their id. A user's event is visible only when all before it are
 * (writers take turns at outbox_heads), so whatever a walk sees, nothing before it is missing. A
 * partition that fails is left alone until the next round, others go on; an event that the bus will
 * never take is parked. */
#include <string.h>

#include "lib/bus.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/log.h"
#include "lib/metrics.h"
#include "lib/pg.h"
#include "lib/pg_map.h"
#include "lib/redis.h"
#include "lib/shape.h"
#include "lib/str.h"
#include "queries.h"
#include "workers/scheduler.h"

enum {
    BATCH = 400,
    BATCHES_MAX = 25, /* of one database a round: others must get their turn, and the lock kept */
    LIMIT_MS = 10000,
    CHECK_MS = 1000,        /* between two questions whether the bus still has all */
    TELL_MS = 2000,         /* between two reports */
    LEADER_AGAIN_MS = 5000, /* what a new leader relays again: it does not know where the bus was */
    TAIL_AGAIN_MS = 60000,  /* longer than Redis lets its disk or its replicas lag behind */
    DEPTH_MAX = 100000,
    PARTITIONS_MAX = 256 /* of config.def */
};

struct waiting {
    struct id id, user_id;
    int64_t seq, version, created_at;
    const char *type, *traceparent, *data;
};

static const struct field waiting_fields[] = {
    F_ID(waiting, id, "id", 0),
    F_ID(waiting, user_id, "userId", 0),
    F_I64(waiting, seq, "seq", 1, INT64_MAX, 0),
    F_STR(waiting, type, "type", 1, 64, 0),
    F_I64(waiting, version, "version", 1, INT64_MAX, 0),
    F_STR(waiting, traceparent, "traceparent", 0, 55, F_OPTIONAL),
    F_JSON(waiting, data, "data", 0),
    F_TIME(waiting, created_at, "createdAt", 0),
};
static const struct shape shape_waiting = SHAPE(waiting, waiting_fields);

struct depth {
    int64_t waiting, oldest_at, parked;
};

static const struct field depth_fields[] = {
    F_I64(depth, waiting, "waiting", 0, INT64_MAX, 0),
    F_TIME(depth, oldest_at, "oldestAt", F_OPTIONAL),
    F_I64(depth, parked, "parked", 0, INT64_MAX, 0),
};
static const struct shape shape_depth = SHAPE(depth, depth_fields);

/* One thread: no locks. */
static struct {
    int64_t fence;                       /* that we relayed under; another one: we lead anew */
    int64_t again_ms;                    /* relay again what was relayed so long ago; 0: nothing */
    int64_t map_epoch;                   /* of the map that numbers the databases in is_again */
    bool is_again[PG_MAP_DATABASES_MAX]; /* this database's rows are marked for it already */
    bool is_bad[PARTITIONS_MAX];         /* in this round */
    int64_t n_relayed;                   /* not yet reported */
    int64_t check_mono_ms, tell_mono_ms;
} relay;

static void warn(const char *what, int number, enum err e, const struct scope *sc)
{
    log_event(LOG_WARN, "scheduler.outbox", "%s %d: %s", what, number,
              sc->cause == NULL ? err_info(e)->code : sc->cause);
}

/* Relay once more what went out lately, before anything new goes. */
static void plan_again(enum log_level level, int64_t window_ms, const char *why)
{
    log_event(level, "scheduler.outbox", "events of the last %lld s are relayed again: %s",
              (long long)(window_ms / 1000), why);
    relay.again_ms = window_ms > relay.again_ms ? window_ms : relay.again_ms;
    memset(relay.is_again, 0, sizeof(relay.is_again));
    bus_forget();
}

/* True: all rows that are to be relayed again wait again. */
static bool mark_again(struct arena *arena)
{
    int database;
    bool is_done = true;

    if (relay.map_epoch != pg_map_now()->epoch) {
        relay.map_epoch = pg_map_now()->epoch;
        memset(relay.is_again, 0, sizeof(relay.is_again));
    }
    for (database = 0; database < pg_database_count() && relay.again_ms > 0; database++) {
        int64_t n_rows;
        struct scope sc;
        enum err e;

        if (relay.is_again[database]) {
            continue;
        }
        arena_reset(arena);
        scope_init(&sc, arena, LIMIT_MS);
        e = pg_exec(&sc, q_outbox_again(&sc, pg_place_on_database(database), relay.again_ms),
                    &n_rows);
        pg_release(&sc);
        relay.is_again[database] = e == OK;
        is_done = is_done && e == OK;
        if (e != OK) {
            warn("database", database, e, &sc);
        }
        scope_done(&sc);
    }
    if (is_done) {
        relay.again_ms = 0;
    }
    return is_done;
}

/* What the bus said; true: it has taken what was sent. */
static bool heed(enum bus_fate fate)
{
    switch (fate) {
    case BUS_TAKEN:
        return true;
    case BUS_FENCED:
        log_event(LOG_WARN, "scheduler.outbox", "a newer leader relays");
        return false;
    case BUS_LOST_TAIL:
        plan_again(LOG_WARN, TAIL_AGAIN_MS, "the bus has lost the end of a stream");
        return false;
    case BUS_LOST_ALL:
        plan_again(LOG_WARN, config()->event_keep_s * 1000, "the bus has lost a stream");
        return false;
    }
    return false;
}

/* Send a batch's events of one partition; their ids, if the bus has taken them, go to ids. */
static void send(struct scope *sc, int partition, const struct bus_event *events, size_t n,
                 struct strbuf *ids)
{
    enum bus_fate fate;
    enum err e;
    size_t i;

    if (relay.again_ms > 0 || relay.is_bad[partition]) {
        return; /* nothing goes before what was lost, or failed */
    }
    e = bus_publish(sc, partition, lead_fence(), events, n, &fate);
    if (e != OK) {
        warn("partition", partition, e, sc);
        scope_forgive(sc);
    }
    if (e != OK || !heed(fate)) {
        relay.is_bad[partition] = true;
        return;
    }
    for (i = 0; i < n; i++) {
        strbuf_printf(ids, "%s\"%s\"", ids->len > 1 ? "," : "", id_text(sc->arena, events[i].id));
    }
    relay.n_relayed += (int64_t)n;
}

static void send_partition(struct scope *sc, int partition, const struct bus_event *events,
                           size_t n_events, struct strbuf *ids)
{
    struct bus_event batch[BUS_BATCH_MAX];
    size_t i, n = 0;

    for (i = 0; i < n_events; i++) {
        if (bus_partition(events[i].user) == partition) {
            batch[n++] = events[i];
        }
        if (n == BUS_BATCH_MAX) {
            send(sc, partition, batch, n, ids);
            n = 0;
        }
    }
    if (n > 0) {
        send(sc, partition, batch, n, ids);
    }
}

/* Rows as events of the bus, without those that it will never take: these are parked, so that they
 * stop nobody. */
static enum err judge_rows(struct scope *sc, struct place place, const struct waiting *rows,
                           size_t n_rows, struct bus_event *events, size_t *n_out)
{
    size_t i;

    *n_out = 0;
    for (i = 0; i < n_rows; i++) {
        const struct waiting *row = &rows[i];
        struct bus_event event = {.id = row->id,
                                  .user = row->user_id,
                                  .seq = row->seq,
                                  .type = row->type,
                                  .version = row->version,
                                  .at_ms = row->created_at,
                                  .traceparent = row->traceparent,
                                  .data = row->data};
        const char *why = bus_judge(sc, &event);

        if (why == NULL) {
            events[(*n_out)++] = event;
            continue;
        }
        log_event(LOG_ERROR, "scheduler.outbox", "event %s (%s) is parked: %s",
                  id_text(sc->arena, row->id), row->type, why);
        TRY(pg_exec(sc, q_outbox_park(sc, place, row->id, why), NULL));
    }
    return OK;
}

/* The next batch of a walk. *has_more_out: there may be more behind it. */
static enum err relay_batch(struct scope *sc, struct place place, struct id *user, int64_t *seq,
                            bool *has_more_out)
{
    struct waiting *rows;
    struct bus_event *events;
    struct strbuf ids;
    size_t n_rows = 0, n = 0;
    int partition;

    *has_more_out = false;
    TRY(pg_many(sc, q_outbox_waiting(sc, place, *user, *seq, BATCH), &shape_waiting, &rows,
                &n_rows));
    if (n_rows == 0) {
        return OK;
    }
    events = arena_array(sc->arena, struct bus_event, n_rows);
    TRY(judge_rows(sc, place, rows, n_rows, events, &n));
    pg_release(sc);
    strbuf_init(&ids, sc->arena, n_rows * (ID_TEXT_SIZE + 3));
    strbuf_putc(&ids, '[');
    for (partition = 0; partition < bus_partitions(); partition++) {
        send_partition(sc, partition, events, n, &ids);
    }
    strbuf_putc(&ids, ']');
    *user = rows[n_rows - 1].user_id;
    *seq = rows[n_rows - 1].seq;
    *has_more_out = n_rows == BATCH;
    return ids.len > 2 ? pg_exec(sc, q_outbox_relayed(sc, place, ids.data), NULL) : OK;
}

static void relay_database(struct arena *arena, int database)
{
    struct id user = {{0}};
    bool has_more = true;
    int64_t seq = 0;
    int i;

    for (i = 0; i < BATCHES_MAX && has_more && relay.again_ms == 0 && lead_keep(arena) &&
                !scheduler_stopping();
         i++) {
        struct scope sc;
        enum err e;

        arena_reset(arena);
        scope_init(&sc, arena, LIMIT_MS);
        e = relay_batch(&sc, pg_place_on_database(database), &user, &seq, &has_more);
        pg_release(&sc);
        if (e != OK) {
            warn("database", database, e, &sc);
            has_more = false;
        }
        scope_done(&sc);
    }
}

/* A loss must be seen also where nothing new is to be relayed. */
static void check_bus(struct arena *arena)
{
    int partition;

    if (clock_mono_ms() - relay.check_mono_ms < CHECK_MS) {
        return;
    }
    relay.check_mono_ms = clock_mono_ms();
    for (partition = 0; partition < bus_partitions() && relay.again_ms == 0; partition++) {
        enum bus_fate fate;
        struct scope sc;

        arena_reset(arena);
        scope_init(&sc, arena, LIMIT_MS);
        if (bus_publish(&sc, partition, lead_fence(), NULL, 0, &fate) == OK) {
            (void)heed(fate);
        } else {
            relay.is_bad[partition] = true;
        }
        scope_done(&sc);
    }
}

static const char *number(struct scope *sc, int64_t n)
{
    return arena_printf(sc->arena, "%lld", (long long)n);
}

/* What waits on all databases, for /metrics of every instance. */
static void tell_depth(struct arena *arena)
{
    int64_t waiting = 0, parked = 0, oldest_at = 0;
    struct redis_reply *replies;
    struct redis_pipeline *p;
    struct scope sc;
    int database;

    arena_reset(arena);
    scope_init(&sc, arena, LIMIT_MS);
    for (database = 0; database < pg_database_count(); database++) {
        struct depth depth;
        enum err e = pg_one(&sc, q_outbox_depth(&sc, pg_place_on_database(database), DEPTH_MAX),
                            &shape_depth, &depth);

        pg_release(&sc);
        if (e != OK) {
            warn("database", database, e, &sc);
            continue;
        }
        waiting += depth.waiting;
        parked += depth.parked;
        if (depth.waiting > 0 && (oldest_at == 0 || depth.oldest_at < oldest_at)) {
            oldest_at = depth.oldest_at;
        }
    }
    p = redis_pipeline_make(&sc, METRICS_FLEET_KEY);
    redis_pipeline_add(p, "HSET", METRICS_FLEET_KEY,
                       metrics_fleet_field(METRIC_FLEET_OUTBOX_WAITING), number(&sc, waiting),
                       metrics_fleet_field(METRIC_FLEET_OUTBOX_PARKED), number(&sc, parked),
                       metrics_fleet_field(METRIC_FLEET_OUTBOX_OLDEST),
                       number(&sc, oldest_at == 0 ? 0 : clock_wall_ms() - oldest_at), NULL);
    redis_pipeline_add(p, "HINCRBY", METRICS_FLEET_KEY,
                       metrics_fleet_field(METRIC_FLEET_OUTBOX_RELAYED),
                       number(&sc, relay.n_relayed), NULL);
    if (redis_pipeline_run(&sc, p, &replies) == OK) {
        relay.n_relayed = 0;
    }
    scope_done(&sc);
}

void outbox_round(struct arena *arena)
{
    int database;

    memset(relay.is_bad, 0, sizeof(relay.is_bad));
    if (relay.fence != lead_fence()) {
        relay.fence = lead_fence();
        plan_again(LOG_INFO, LEADER_AGAIN_MS, "a new leader");
    }
    check_bus(arena);
    if (relay.again_ms == 0 || mark_again(arena)) {
        for (database = 0; database < pg_database_count() && !scheduler_stopping(); database++) {
            relay_database(arena, database);
        }
    }
    if (clock_mono_ms() - relay.tell_mono_ms >= TELL_MS && lead_keep(arena)) {
        relay.tell_mono_ms = clock_mono_ms();
        tell_depth(arena);
    }
}
