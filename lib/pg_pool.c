/* A pool per shard and process. A lease is a permit of the instance (shared memory) and a
 * connection of this process. Idle connections lie on a stack, the warmest on top; a thread of
 * the pool's own closes those that nobody needs. An idle connection is trusted if it was used
 * after the last trouble of its pool, else it is asked first. */
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "lib/breaker.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/instance.h"
#include "lib/log.h"
#include "lib/pg_internal.h"

enum {
    HEALTH_CHECK_MS = 1000, /* longest that a doubtful connection may take to say yes */
    QUIET_AFTER_MS = 20,    /* an idle connection used this recently is taken without a look */
    RECLAIM_EVERY_MS = 100, /* waiters look for dead processes at most this often */
    REAPER_TICK_MS = 1000,
    SILENCE_MS =
        1000 /* no answer for this long speaks against the server, not against our deadline */
};

struct pg_pool {
    int shard;
    const char *url; /* NULL: not configured */
    struct breaker *breaker;
    struct permit_set *leases, *opens;
    _Atomic int lease_hint;
    _Atomic int64_t trouble_ms;        /* when a connection was last lost */
    _Atomic(struct pg_conn *) warmest; /* top of the stack, taken without the mutex */
    pthread_mutex_t mutex;             /* guards idle, the rest of it */
    struct pg_conn *idle;
    _Atomic int64_t counters[PG_COUNTERS];
};

static struct {
    struct pg_pool *pools;
    int n;
    _Atomic int64_t reclaimed_ms;
    pthread_t reaper;
    pthread_mutex_t mutex; /* guards is_closing */
    pthread_cond_t wake;
    bool is_closing;
} all = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void count(struct pg_pool *p, enum pg_counter counter)
{
    atomic_fetch_add_explicit(&p->counters[counter], 1, memory_order_relaxed);
}

int pg_shard_count(void)
{
    return all.n;
}

int pg_shard_of(struct place place)
{
    return (int)(place.hash % (uint32_t)all.n);
}

struct place pg_place_on_shard(int shard)
{
    return (struct place){(uint32_t)shard};
}

int64_t pg_counter(int shard, enum pg_counter counter)
{
    return atomic_load_explicit(&all.pools[shard].counters[counter], memory_order_relaxed);
}

int pg_leases_in_use(int shard)
{
    return permit_count(all.pools[shard].leases, 0);
}

enum breaker_state pg_breaker_state(int shard)
{
    return breaker_state(all.pools[shard].breaker);
}

int pg_lease_limit(int64_t pool_size, int64_t max_connections, int64_t threshold_percent,
                   bool holds_one)
{
    int64_t size = pool_size < max_connections ? pool_size : max_connections;

    return (int)(holds_one ? size : (size * threshold_percent + 99) / 100);
}

/* --- Idle connections. --- */

static struct pg_conn *pop_idle(struct pg_pool *p)
{
    struct pg_conn *c = atomic_exchange(&p->warmest, NULL);

    if (c != NULL) {
        return c;
    }
    pthread_mutex_lock(&p->mutex);
    c = p->idle;
    if (c != NULL) {
        p->idle = pg_conn_link(c)->next;
    }
    pthread_mutex_unlock(&p->mutex);
    return c;
}

static void push_cold(struct pg_pool *p, struct pg_conn *c)
{
    pthread_mutex_lock(&p->mutex);
    pg_conn_link(c)->next = p->idle;
    p->idle = c;
    pthread_mutex_unlock(&p->mutex);
}

static void push_idle(struct pg_pool *p, struct pg_conn *c)
{
    struct pg_conn *none = NULL;

    if (!atomic_compare_exchange_strong(&p->warmest, &none, c)) {
        push_cold(p, c);
    }
}

static void discard(struct pg_pool *p, struct pg_conn *c)
{
    int permit = pg_conn_link(c)->permit;

    pg_conn_close(&c);
    permit_give(p->opens, permit);
}

/* Take the idle connections that were last used before that time off the stack. */
static struct pg_conn *take_unused(struct pg_pool *p, int64_t before_ms)
{
    struct pg_conn *taken = NULL, **at = &p->idle;

    pthread_mutex_lock(&p->mutex);
    while (*at != NULL) {
        struct pg_conn *c = *at;
        struct pg_conn_link *link = pg_conn_link(c);

        if (link->used_ms >= before_ms) {
            at = &link->next;
            continue;
        }
        *at = link->next;
        link->next = taken;
        taken = c;
    }
    pthread_mutex_unlock(&p->mutex);
    return taken;
}

static void close_unused(struct pg_pool *p, int64_t before_ms)
{
    struct pg_conn *warmest = atomic_exchange(&p->warmest, NULL);
    struct pg_conn *c;

    if (warmest != NULL) {
        push_cold(p, warmest);
    }
    c = take_unused(p, before_ms);
    while (c != NULL) {
        struct pg_conn *next = pg_conn_link(c)->next;

        discard(p, c);
        c = next;
    }
}

/* Does nothing that is known here speak against the idle connection? */
static bool is_sound(const struct pg_conn *c, int64_t used_ms, int64_t now_ms)
{
    return pg_conn_statement_timeout_ms(c) == config()->db_statement_timeout_ms &&
           (now_ms - used_ms < QUIET_AFTER_MS || pg_conn_is_quiet(c));
}

/* Is the idle connection as good as a new one? */
static bool is_fit(struct pg_pool *p, struct pg_conn *c, int64_t now_ms, int64_t until_ms)
{
    int64_t used_ms = pg_conn_link(c)->used_ms;
    struct pg_answer a;
    enum pg_fate fate;
    size_t len;
    bool is_primary;

    if (!is_sound(c, used_ms, now_ms)) {
        return false;
    }
    if (used_ms > atomic_load(&p->trouble_ms)) {
        return true;
    }
    fate = pg_conn_command(c, "SELECT pg_is_in_recovery()", until_ms, &a);
    is_primary = fate == PG_FINE && pg_answer_rows(&a) == 1 &&
                 strcmp(pg_answer_value(&a, 0, 0, &len), "f") == 0;
    pg_answer_done(&a);
    return is_primary;
}

/* --- Connections. --- */

static enum err fail_saturated(struct scope *sc, struct pg_pool *p, const char *what)
{
    count(p, PG_SATURATED);
    return scope_fail(sc, ERR_POOL_SATURATED, "shard %d: no free %s", p->shard, what);
}

/* No answer within what was left of the caller's time. */
static void note_silence(struct pg_pool *p, int64_t waited_ms, int64_t limit_ms)
{
    if (waited_ms >= (limit_ms < SILENCE_MS ? limit_ms : SILENCE_MS)) {
        breaker_failure(p->breaker, clock_mono_ms());
    }
}

/* A connection could not be had. Where the server is there and refuses, the breaker has no say:
 * those that are open already may well work. */
static enum err fail_to_connect(struct scope *sc, struct pg_pool *p, enum pg_fate fate,
                                int64_t waited_ms, const char *message)
{
    count(p, PG_CONNECT_FAILURES);
    if (fate == PG_LOST) {
        breaker_failure(p->breaker, clock_mono_ms());
    } else if (fate == PG_LATE) {
        note_silence(p, waited_ms, config()->db_connection_timeout);
    }
    return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "shard %d: cannot connect: %s", p->shard,
                      message);
}

/* Begin a new connection, with its permit. */
static enum err start_connecting(struct scope *sc, struct pg_pool *p, struct pg_conn **conn_out,
                                 int64_t permit_until_us)
{
    const struct config *cf = config();
    struct pg_conn_options options = {p->url, cf->db_statement_timeout_ms};
    int permit =
        permit_take(p->opens, instance_owner(), (int)cf->db_max_connections, 0, permit_until_us);
    struct pg_answer why;

    if (permit < 0) {
        return fail_saturated(sc, p, "connection");
    }
    if (pg_conn_start(&options, conn_out, &why) != PG_PENDING) {
        permit_give(p->opens, permit);
        return fail_to_connect(sc, p, PG_LOST, 0, why.message);
    }
    pg_conn_link(*conn_out)->permit = permit;
    return OK;
}

/* It stands, or it is closed and why is told. */
static enum err finish_connecting(struct scope *sc, struct pg_pool *p, struct pg_conn **conn,
                                  enum pg_fate fate, int64_t waited_ms, const char *why)
{
    if (fate != PG_FINE) {
        discard(p, *conn);
        *conn = NULL;
        return fail_to_connect(sc, p, fate, waited_ms, why);
    }
    pg_conn_link(*conn)->used_ms = clock_mono_ms();
    count(p, PG_CONNECTS);
    breaker_success(p->breaker);
    return OK;
}

static enum err connect_new(struct scope *sc, struct pg_pool *p, struct pg_conn **conn_out)
{
    const struct config *cf = config();
    int64_t start_ms = clock_mono_ms(), waited_ms;
    struct pg_answer why = {.rows = NULL};
    enum pg_fate fate;

    TRY(start_connecting(sc, p, conn_out,
                         clock_mono_us() + scope_left_ms(sc, cf->pool_wait_ms) * 1000));
    fate = pg_conn_finish(*conn_out, clock_mono_ms() + scope_left_ms(sc, cf->db_connection_timeout),
                          &why);
    waited_ms = clock_mono_ms() - start_ms;
    TRY(finish_connecting(sc, p, conn_out, fate, waited_ms, why.message));
    sc->timing.pool_wait_us += waited_ms * 1000;
    return OK;
}

/* An idle connection that is fit, else a new one. */
static enum err get_conn(struct scope *sc, struct pg_pool *p, int64_t now_ms,
                         struct pg_conn **conn_out)
{
    int64_t until_ms = now_ms + HEALTH_CHECK_MS;
    struct pg_conn *c;

    if (until_ms > sc->deadline_mono_ms) {
        until_ms = sc->deadline_mono_ms;
    }
    while ((c = pop_idle(p)) != NULL) {
        if (is_fit(p, c, now_ms, until_ms)) {
            *conn_out = c;
            return OK;
        }
        discard(p, c);
        if (clock_mono_ms() >= until_ms) {
            break; /* a server that stands still: more idle ones would only cost more time */
        }
    }
    return connect_new(sc, p, conn_out);
}

/* --- Leases. --- */

/* Waiters look whether somebody died with permits in hand. */
static void reclaim_sometimes(void)
{
    int64_t now_ms = clock_mono_ms();
    int64_t last_ms = atomic_load(&all.reclaimed_ms);

    if (now_ms - last_ms >= RECLAIM_EVERY_MS &&
        atomic_compare_exchange_strong(&all.reclaimed_ms, &last_ms, now_ms)) {
        instance_reclaim();
    }
}

static enum err get_permit(struct scope *sc, struct pg_pool *p, bool holds_one, int64_t wait_us,
                           int *permit_out)
{
    const struct config *cf = config();
    int hint = atomic_load_explicit(&p->lease_hint, memory_order_relaxed);
    int limit = pg_lease_limit(cf->db_pool_size, cf->db_max_connections,
                               cf->pool_utilization_threshold, holds_one);
    int64_t start_us;

    *permit_out = permit_try(p->leases, instance_owner(), limit, hint);
    if (*permit_out >= 0) {
        return OK;
    }
    start_us = clock_mono_us();
    count(p, PG_WAITS);
    reclaim_sometimes();
    *permit_out = permit_take(p->leases, instance_owner(), limit, hint, start_us + wait_us);
    sc->timing.pool_wait_us += clock_mono_us() - start_us;
    return *permit_out >= 0 ? OK : fail_saturated(sc, p, "lease");
}

static void give_permit(struct pg_pool *p, int permit)
{
    atomic_store_explicit(&p->lease_hint, permit, memory_order_relaxed);
    permit_give(p->leases, permit);
}

struct pg_lease *pg_pool_find(const struct scope *sc, int shard)
{
    struct pg_lease *l = sc->leases;

    while (l != NULL && l->shard != shard) {
        l = l->next;
    }
    return l;
}

enum err pg_pool_reconnect(struct scope *sc, struct pg_lease *lease)
{
    struct pg_pool *p = &all.pools[lease->shard];

    if (!breaker_allow(p->breaker, clock_mono_ms(), NULL)) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "shard %d: breaker is open", p->shard);
    }
    return connect_new(sc, p, &lease->conn);
}

/* May the shard's database be asked at all? */
static enum err admit(struct scope *sc, struct pg_pool *p, int64_t now_ms)
{
    if (p->url == NULL) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "shard %d has no address", p->shard);
    }
    if (!breaker_allow(p->breaker, now_ms, NULL)) {
        count(p, PG_BROKEN_OFF);
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "shard %d: breaker is open", p->shard);
    }
    return OK;
}

static struct pg_lease *add_lease(struct scope *sc, int shard, int permit, struct pg_conn *conn)
{
    struct pg_lease *l = arena_new(sc->arena, struct pg_lease);

    *l = (struct pg_lease){.next = sc->leases, .shard = shard, .permit = permit, .conn = conn};
    sc->leases = l;
    return l;
}

enum err pg_pool_lease(struct scope *sc, int shard, int64_t now_ms, struct pg_lease **lease_out)
{
    struct pg_pool *p = &all.pools[shard];
    struct pg_lease *l = pg_pool_find(sc, shard);
    struct pg_conn *c = NULL;
    int permit;
    enum err e;

    *lease_out = l;
    if (l != NULL) {
        return l->conn != NULL || l->tx == PG_TX_BROKEN ? OK : pg_pool_reconnect(sc, l);
    }
    TRY(admit(sc, p, now_ms));
    TRY(get_permit(sc, p, sc->leases != NULL, scope_left_ms(sc, config()->pool_wait_ms) * 1000,
                   &permit));
    e = get_conn(sc, p, now_ms, &c);
    if (e != OK) {
        give_permit(p, permit);
        return e;
    }
    *lease_out = add_lease(sc, shard, permit, c);
    return OK;
}

/* An idle connection that needs no question before it is trusted. */
static struct pg_conn *pop_trusted(struct pg_pool *p, int64_t now_ms)
{
    struct pg_conn *c;

    while ((c = pop_idle(p)) != NULL) {
        int64_t used_ms = pg_conn_link(c)->used_ms;

        if (is_sound(c, used_ms, now_ms) && used_ms > atomic_load(&p->trouble_ms)) {
            return c;
        }
        discard(p, c);
    }
    return NULL;
}

enum err pg_pool_start(struct scope *sc, int shard, int64_t lease_until_us,
                       struct pg_lease **lease_out, bool *is_connecting_out)
{
    struct pg_pool *p = &all.pools[shard];
    int64_t now_us = clock_mono_us();
    struct pg_lease *l = pg_pool_find(sc, shard);
    int permit;

    if (l == NULL) {
        TRY(admit(sc, p, now_us / 1000));
        TRY(get_permit(sc, p, false, lease_until_us > now_us ? lease_until_us - now_us : 0,
                       &permit));
        l = add_lease(sc, shard, permit, pop_trusted(p, now_us / 1000));
    }
    assert(l->tx == PG_TX_NONE);
    *lease_out = l;
    *is_connecting_out = l->conn == NULL;
    return *is_connecting_out ? pg_pool_restart(sc, l) : OK;
}

enum err pg_pool_restart(struct scope *sc, struct pg_lease *lease)
{
    struct pg_pool *p = &all.pools[lease->shard];

    TRY(admit(sc, p, clock_mono_ms()));
    return start_connecting(sc, p, &lease->conn, 0);
}

enum err pg_pool_connected(struct scope *sc, struct pg_lease *lease, enum pg_fate fate,
                           int64_t waited_ms, const char *why)
{
    return finish_connecting(sc, &all.pools[lease->shard], &lease->conn, fate, waited_ms, why);
}

void pg_pool_heard(const struct pg_lease *lease, int64_t now_ms)
{
    pg_conn_link(lease->conn)->used_ms = now_ms;
    breaker_success(all.pools[lease->shard].breaker);
}

void pg_pool_drop(struct pg_lease *lease)
{
    if (lease->conn != NULL) {
        discard(&all.pools[lease->shard], lease->conn);
        lease->conn = NULL;
    }
    if (lease->tx != PG_TX_NONE) {
        lease->tx = PG_TX_BROKEN;
    }
}

void pg_pool_lost(struct pg_lease *lease, enum pg_fate fate, int64_t waited_ms)
{
    struct pg_pool *p = &all.pools[lease->shard];
    int64_t now_ms = clock_mono_ms();

    atomic_store(&p->trouble_ms, now_ms);
    if (fate == PG_LATE) {
        note_silence(p, waited_ms, config()->db_statement_timeout_ms);
    } else {
        breaker_failure(p->breaker, now_ms);
    }
    count(p, PG_LOSSES);
    pg_pool_drop(lease);
}

/* Back onto the stack, unless it is in no state for that or another process waits to open one. */
static void give_conn(struct pg_pool *p, struct pg_conn *c)
{
    if (pg_conn_in_transaction(c) || permit_is_awaited(p->opens)) {
        discard(p, c);
    } else {
        push_idle(p, c);
    }
}

void pg_release(struct scope *sc)
{
    struct pg_lease *l = sc->leases, *next;

    sc->leases = NULL;
    for (; l != NULL; l = next) {
        struct pg_pool *p = &all.pools[l->shard];

        next = l->next;
        pg_tx_abandon(l);
        if (l->conn != NULL) {
            give_conn(p, l->conn);
        }
        give_permit(p, l->permit);
    }
}

/* --- Ping: outside the leases, so that a saturated pool is not taken for a dead database. --- */

enum err pg_ping(struct scope *sc, int shard, int64_t *latency_ms_out)
{
    struct pg_pool *p = &all.pools[shard];
    int64_t start_ms = clock_mono_ms();
    struct pg_answer a;
    struct pg_conn *c = NULL;
    enum pg_fate fate;

    *latency_ms_out = 0;
    if (p->url == NULL) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "shard %d has no address", shard);
    }
    TRY(get_conn(sc, p, start_ms, &c));
    start_ms = clock_mono_ms();
    fate = pg_conn_command(c, "SELECT 1", start_ms + scope_left_ms(sc, 60000), &a);
    pg_answer_done(&a);
    *latency_ms_out = clock_mono_ms() - start_ms;
    if (fate == PG_FINE) {
        breaker_success(p->breaker);
        pg_conn_link(c)->used_ms = start_ms + *latency_ms_out;
        give_conn(p, c);
        return OK;
    }
    atomic_store(&p->trouble_ms, clock_mono_ms());
    discard(p, c);
    return scope_fail(sc, fate == PG_LATE ? ERR_TIMED_OUT : ERR_DEPENDENCY_UNAVAILABLE,
                      "shard %d: %s", shard, a.message);
}

/* --- Life of the pools. --- */

/* One round of the reaper: idle too long, or a connection that somebody else waits to open. */
static void reap(struct pg_pool *p)
{
    struct pg_conn *c;

    close_unused(p, clock_mono_ms() - config()->db_idle_timeout);
    if (permit_is_awaited(p->opens) && (c = pop_idle(p)) != NULL) {
        discard(p, c);
    }
}

static bool wait_for_tick(void)
{
    struct timespec until;
    bool is_closing;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += REAPER_TICK_MS / 1000;
    pthread_mutex_lock(&all.mutex);
    if (!all.is_closing) {
        pthread_cond_timedwait(&all.wake, &all.mutex, &until);
    }
    is_closing = all.is_closing;
    pthread_mutex_unlock(&all.mutex);
    return !is_closing;
}

static void *run_reaper(void *arg)
{
    int i;

    (void)arg;
    while (wait_for_tick()) {
        for (i = 0; i < all.n; i++) {
            reap(&all.pools[i]);
        }
        instance_reclaim();
    }
    return NULL;
}

static const char *url_of(const struct config *cf, int shard)
{
    const char *url = cf->database_shard_url[shard];

    if ((url == NULL || url[0] == '\0') && shard == 0) {
        url = cf->database_url;
    }
    if (url == NULL || url[0] == '\0') {
        log_event(LOG_WARN, "shard_without_address",
                  "shard %d has no DATABASE_SHARD_%02d_URL: its users cannot be served", shard,
                  shard);
        return NULL;
    }
    return url;
}

static void open_pool(struct pg_pool *p, int shard)
{
    const struct config *cf = config();

    p->shard = shard;
    p->url = url_of(cf, shard);
    p->breaker = breaker_open((int)cf->db_breaker_failures, cf->db_breaker_open_ms);
    assert(instance_leases(shard) != NULL);
    p->leases = instance_leases(shard);
    p->opens = instance_open_connections(shard);
    pthread_mutex_init(&p->mutex, NULL);
}

void pg_open(void)
{
    pthread_condattr_t attr;
    int i;

    all.n = (int)config()->shard_count;
    all.pools = calloc((size_t)all.n, sizeof(*all.pools));
    all.is_closing = false;
    if (all.pools == NULL) {
        abort();
    }
    for (i = 0; i < all.n; i++) {
        open_pool(&all.pools[i], i);
    }
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&all.wake, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&all.reaper, NULL, run_reaper, NULL) != 0) {
        log_event(LOG_ERROR, "pg_no_thread", "the pools' thread cannot be started");
        abort();
    }
}

void pg_close(void)
{
    int i;

    pthread_mutex_lock(&all.mutex);
    all.is_closing = true;
    pthread_cond_signal(&all.wake);
    pthread_mutex_unlock(&all.mutex);
    pthread_join(all.reaper, NULL);
    for (i = 0; i < all.n; i++) {
        close_unused(&all.pools[i], INT64_MAX);
        pthread_mutex_destroy(&all.pools[i].mutex);
        breaker_close(&all.pools[i].breaker);
    }
    pthread_cond_destroy(&all.wake);
    free(all.pools);
    all.pools = NULL;
    all.n = 0;
}
