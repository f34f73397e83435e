/* Following the map of shards. Published maps form a chain that only grows, a few kilobytes with
 * each move, so that no reader ever needs a lock or a count. Who is told by a database that its
 * shards have moved asks that database at once; a thread asks one database after the other, so
 * that the news also reach processes that have nothing to do there. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/log.h"
#include "lib/metrics.h"
#include "lib/pg_internal.h"
#include "lib/pg_param.h"

enum {
    ARENA_BYTES = 262144,
    ASK_LIMIT_MS = 1000,
    START_LIMIT_MS = 3000,
    START_ANSWERS = 3 /* all databases hold the newest map, but for moments of a move */
};

struct known {
    struct known *older;
    struct arena *arena; /* the map's */
};

static struct {
    _Atomic(const struct pg_map *) now;
    _Atomic(struct pg_pool *) hint; /* to be asked next */
    struct known *newest;
    int64_t refused_epoch; /* told once */
    pthread_t thread;
    pthread_mutex_t mutex; /* guards newest, refused_epoch and is_closing */
    pthread_cond_t wake;
    bool is_closing;
} follow = {.mutex = PTHREAD_MUTEX_INITIALIZER};

const struct pg_map *pg_map_now(void)
{
    return atomic_load_explicit(&follow.now, memory_order_acquire);
}

int pg_shard_count(void)
{
    return pg_map_now()->n_shards;
}

int pg_shard_of(struct place place)
{
    return (int)(place.hash % (uint32_t)pg_map_now()->n_shards);
}

struct place pg_place_on_shard(int shard)
{
    return (struct place){(uint32_t)shard};
}

int pg_database_count(void)
{
    return pg_map_now()->n_databases;
}

struct place pg_place_on_database(int database)
{
    const struct pg_map *map = pg_map_now();

    return pg_map_place_on(map, database % map->n_databases);
}

/* Publish a map that lies in the arena, which is ours then: closed where the map is not newer. */
static void publish(struct arena *arena, struct pg_map *map)
{
    struct known *k = arena_new(arena, struct known);
    const struct pg_map *now;
    int i;

    pthread_mutex_lock(&follow.mutex);
    now = pg_map_now();
    if (now != NULL && now->epoch >= map->epoch) {
        pthread_mutex_unlock(&follow.mutex);
        arena_close(&arena);
        return;
    }
    for (i = 0; i < map->n_databases; i++) {
        struct pg_map_database *d = &map->databases[i];

        d->pool = pg_pool_of(d->location, d->url);
        pg_pool_want(d->pool, map->epoch);
    }
    *k = (struct known){.older = follow.newest, .arena = arena};
    follow.newest = k;
    atomic_store_explicit(&follow.now, map, memory_order_release);
    metrics_gauge(METRIC_GAUGE_SHARD_MAP_EPOCH, map->epoch);
    pthread_mutex_unlock(&follow.mutex);
    if (map->epoch > 0) {
        log_event(LOG_INFO, "shard_map", "epoch %lld: %d shards in %d databases",
                  (long long)map->epoch, map->n_shards, map->n_databases);
    }
}

/* A stored map that cannot be read is told once; the old one stays. */
static void refuse(int64_t epoch, const char *cause)
{
    bool is_new;

    pthread_mutex_lock(&follow.mutex);
    is_new = follow.refused_epoch != epoch;
    follow.refused_epoch = epoch;
    pthread_mutex_unlock(&follow.mutex);
    if (is_new) {
        log_event(LOG_ERROR, "shard_map_refused", "%s", cause);
    }
}

/* --- Asking. --- */

static struct pg_query newer_query(struct scope *sc)
{
    return (struct pg_query){
        .name = "shard_map",
        .sql =
            "SELECT epoch, map::text FROM shard_map WHERE epoch > $1 ORDER BY epoch DESC LIMIT 1",
        .kind = PG_MANY,
        .read_only = true,
        .n_params = 1,
        .params = {pg_param_i64(sc, pg_map_now()->epoch)}};
}

/* Take what the database said; the scope's arena is ours then. */
static void take_answer(struct scope *sc, struct pg_answer *a)
{
    struct pg_map *map = NULL;
    const char *text = NULL, *epoch_text = NULL;
    int64_t epoch = 0;
    size_t len = 0;

    /* The table is missing where nobody has migrated yet: then there is no map either. */
    if (a->sqlstate[0] == '\0' && pg_answer_rows(a) == 1) {
        epoch_text = pg_answer_value(a, 0, 0, &len);
        text = pg_answer_value(a, 0, 1, &len);
    }
    if (text == NULL || !i64_parse(epoch_text, &epoch)) {
        arena_close(&sc->arena);
    } else if (pg_map_parse(sc, config(), epoch, text, len, &map) != OK) {
        refuse(epoch, sc->cause);
        arena_close(&sc->arena);
    } else {
        publish(sc->arena, map);
    }
}

enum pg_fate pg_follow_ask(struct pg_conn *c, int64_t until_ms)
{
    struct pg_answer a;
    struct pg_query q;
    struct scope sc;
    enum pg_fate fate;

    scope_init(&sc, arena_open(ARENA_BYTES), ASK_LIMIT_MS);
    q = newer_query(&sc);
    fate = pg_conn_query(c, &q, PG_OPENING_NONE, until_ms, &a);
    take_answer(&sc, &a);
    pg_answer_done(&a);
    return fate;
}

static enum err ask_pool(struct pg_pool *p, int64_t limit_ms)
{
    struct pg_answer a;
    struct pg_query q;
    struct scope sc;
    enum err e;

    scope_init(&sc, arena_open(ARENA_BYTES), limit_ms);
    q = newer_query(&sc);
    e = pg_pool_ask(&sc, p, false, &q, &a);
    if (e != OK) {
        arena_close(&sc.arena);
        return e;
    }
    take_answer(&sc, &a);
    pg_answer_done(&a);
    return OK;
}

enum err pg_map_refresh(struct scope *sc, const char *location)
{
    const struct pg_map *map = pg_map_now();
    enum err e;
    int i;

    for (i = 0; i < map->n_databases; i++) {
        if (strcmp(map->databases[i].location, location) == 0) {
            e = ask_pool(map->databases[i].pool, scope_left_ms(sc, ASK_LIMIT_MS));
            return e == OK ? OK : scope_fail(sc, e, "no map from %s", location);
        }
    }
    return scope_fail(sc, ERR_INTERNAL, "no database of the map is at %s", location);
}

void pg_keep_up(struct scope *sc, struct place place)
{
    const struct pg_map *map;

    do {
        const struct pg_map_database *d;

        map = pg_map_now();
        d = &map->databases[pg_map_database_of(map, place)];
        if ((d->flags & (PG_MAP_MOVING | PG_MAP_FRESH)) == 0) {
            return;
        }
        (void)!ask_pool(d->pool, scope_left_ms(sc, ASK_LIMIT_MS));
    } while (pg_map_now() != map);
}

void pg_follow_catch_up(struct scope *sc, struct place place, int64_t epoch)
{
    const struct pg_map *map = pg_map_now();
    int first = pg_map_database_of(map, place), i;

    /* The old place holds the map that leads away from it. */
    for (i = 0; i < map->n_databases && pg_map_now()->epoch < epoch; i++) {
        struct pg_pool *p = map->databases[(first + i) % map->n_databases].pool;

        (void)!ask_pool(p, scope_left_ms(sc, ASK_LIMIT_MS));
    }
}

/* --- The thread. --- */

void pg_follow_hint(struct pg_pool *p)
{
    atomic_store(&follow.hint, p);
    pthread_mutex_lock(&follow.mutex);
    pthread_cond_signal(&follow.wake);
    pthread_mutex_unlock(&follow.mutex);
}

static bool wait_for_turn(void)
{
    struct timespec until;
    bool is_closing;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += PG_MAP_POLL_MS / 1000;
    pthread_mutex_lock(&follow.mutex);
    if (!follow.is_closing && atomic_load(&follow.hint) == NULL) {
        pthread_cond_timedwait(&follow.wake, &follow.mutex, &until);
    }
    is_closing = follow.is_closing;
    pthread_mutex_unlock(&follow.mutex);
    return !is_closing;
}

/* The next one in turn; one with an idle connection first, so that asking opens none where that
 * can be helped. */
static struct pg_pool *next_pool(const struct pg_map *map, unsigned turn)
{
    struct pg_pool *any = NULL;
    int i;

    for (i = 0; i < map->n_databases; i++) {
        struct pg_pool *p = map->databases[(turn + (unsigned)i) % (unsigned)map->n_databases].pool;

        if (pg_pool_has_idle(p)) {
            return p;
        }
        any = any == NULL && !pg_pool_is_left_alone(p) ? p : any;
    }
    return any;
}

static void *run_follower(void *arg)
{
    unsigned turn = 0;

    (void)arg;
    while (wait_for_turn()) {
        struct pg_pool *p = atomic_exchange(&follow.hint, NULL);

        if (p == NULL) {
            p = next_pool(pg_map_now(), turn++);
        }
        if (p != NULL) {
            (void)!ask_pool(p, ASK_LIMIT_MS); /* another one, another time */
        }
    }
    return NULL;
}

/* An old environment may know no more than one of today's databases: a few answers, from anywhere,
 * and their connections closed again, since many processes start at once. */
static void ask_at_start(void)
{
    const struct pg_map *map = pg_map_now();
    int64_t until_ms = clock_mono_ms() + START_LIMIT_MS, left_ms = START_LIMIT_MS;
    unsigned first;
    int i, n_answers = 0;

    crypto_random(&first, sizeof(first));
    for (i = 0; i < map->n_databases && n_answers < START_ANSWERS && left_ms > 0; i++) {
        struct pg_pool *p = map->databases[(first + (unsigned)i) % (unsigned)map->n_databases].pool;

        n_answers += ask_pool(p, left_ms < ASK_LIMIT_MS ? left_ms : ASK_LIMIT_MS) == OK;
        pg_pool_close_idle(p);
        left_ms = until_ms - clock_mono_ms();
    }
}

void pg_follow_open(void)
{
    struct arena *arena = arena_open(ARENA_BYTES);
    pthread_condattr_t attr;
    struct scope sc;

    scope_init(&sc, arena, START_LIMIT_MS);
    publish(arena, pg_map_of_config(&sc, config()));
    ask_at_start();
    follow.is_closing = false;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&follow.wake, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&follow.thread, NULL, run_follower, NULL) != 0) {
        log_event(LOG_ERROR, "pg_no_thread", "the thread that follows the map does not start");
        abort();
    }
}

void pg_follow_stop(void)
{
    pthread_mutex_lock(&follow.mutex);
    follow.is_closing = true;
    pthread_cond_signal(&follow.wake);
    pthread_mutex_unlock(&follow.mutex);
    pthread_join(follow.thread, NULL);
    pthread_cond_destroy(&follow.wake);
}

void pg_follow_close(void)
{
    atomic_store(&follow.now, NULL);
    atomic_store(&follow.hint, NULL);
    while (follow.newest != NULL) {
        struct known *k = follow.newest;
        struct arena *arena = k->arena;

        follow.newest = k->older;
        arena_close(&arena);
    }
}
