/* Pools. What the processes of the instance share of one (permits, breaker, counters) lies in its
 * memory; the connections are this process's. Idle ones lie on a stack, the warmest on top; a
 * thread of the pools' own closes those that nobody needs. An idle connection is trusted if it was
 * used after the last trouble of its pool, else it is asked first. */
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/breaker.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/instance.h"
#include "lib/log.h"
#include "lib/pg_internal.h"
#include "lib/str.h"

enum {
    HEALTH_CHECK_MS = 1000, /* longest that a doubtful connection may take to say yes */
    REPLICA_CONN_MS = 500,  /* longest that a replica's may take at all: the primary is there */
    QUIET_AFTER_MS = 20,    /* an idle connection used this recently is taken without a look */
    RECLAIM_EVERY_MS = 100, /* waiters look for dead processes at most this often */
    REAPER_TICK_MS = 1000,
    SILENCE_MS =
        1000 /* no answer for this long speaks against the server, not against our deadline */
};

static_assert((int)PG_COUNTERS <= (int)INSTANCE_COUNTERS, "the counters need room");

struct pg_pool {
    const char *location, *name;
    const char *url; /* NULL: no address */
    struct breaker breaker;
    struct instance_pool shared;
    _Atomic(const struct pg_cast *) cast;
    _Atomic int64_t epoch; /* of the newest map that names it */
    _Atomic int lease_hint;
    _Atomic int64_t trouble_ms;        /* when a connection was last lost */
    _Atomic(struct pg_conn *) warmest; /* top of the stack, taken without the mutex */
    pthread_mutex_t mutex;             /* guards idle, the rest of it */
    struct pg_conn *idle;
};

/* Pools are only ever added, so whoever has read n may read that many. */
static struct {
    struct pg_pool *pools[INSTANCE_POOLS];
    _Atomic int n;
    _Atomic int64_t reclaimed_ms;
    pthread_t reaper;
    pthread_mutex_t mutex; /* guards adding, and is_closing */
    pthread_cond_t wake;
    bool is_closing;
} all = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void count(struct pg_pool *p, enum pg_counter counter)
{
    atomic_fetch_add_explicit(&p->shared.counters[counter], 1, memory_order_relaxed);
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

void pg_pool_discard(struct pg_pool *p, struct pg_conn *c)
{
    int permit = pg_conn_link(c)->permit;

    pg_conn_close(&c);
    permit_give(p->shared.opens, permit);
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

        pg_pool_discard(p, c);
        c = next;
    }
}

/* Does nothing that is known here speak against the idle connection? */
static bool is_sound(const struct pg_conn *c, bool standby_too, int64_t used_ms, int64_t now_ms)
{
    return pg_conn_statement_timeout_ms(c) == config()->db_statement_timeout_ms &&
           (standby_too || !pg_conn_is_standby(c)) &&
           (now_ms - used_ms < QUIET_AFTER_MS || pg_conn_is_quiet(c));
}

/* Is the idle connection as good as a new one? */
static bool is_usable(struct pg_pool *p, struct pg_conn *c, bool standby_too, int64_t now_ms,
                      int64_t until_ms)
{
    int64_t used_ms = pg_conn_link(c)->used_ms;
    struct pg_answer a;
    enum pg_fate fate;
    size_t len;
    bool is_fit;

    if (!is_sound(c, standby_too, used_ms, now_ms)) {
        return false;
    }
    if (used_ms > atomic_load(&p->trouble_ms)) {
        return true;
    }
    fate = pg_conn_command(c, "SELECT pg_is_in_recovery()", until_ms, &a);
    is_fit = fate == PG_FINE && pg_answer_rows(&a) == 1 &&
             (standby_too || strcmp(pg_answer_value(&a, 0, 0, &len), "f") == 0);
    pg_answer_done(&a);
    return is_fit;
}

/* --- Connections. --- */

static enum err fail_saturated(struct scope *sc, struct pg_pool *p, const char *what)
{
    count(p, PG_SATURATED);
    return scope_fail(sc, ERR_POOL_SATURATED, "database %s: no free %s", p->name, what);
}

/* No answer within what was left of the caller's time. */
static void note_silence(struct pg_pool *p, int64_t probe, int64_t waited_ms, int64_t limit_ms)
{
    if (waited_ms >= (limit_ms < SILENCE_MS ? limit_ms : SILENCE_MS)) {
        breaker_failure(&p->breaker, clock_mono_ms(), probe);
    }
}

/* A connection could not be had. Where the server is there and refuses, the breaker has no say:
 * those that are open already may well work. */
static enum err fail_to_connect(struct scope *sc, struct pg_pool *p, int64_t probe,
                                enum pg_fate fate, int64_t waited_ms, const char *message)
{
    count(p, PG_CONNECT_FAILURES);
    if (fate == PG_LOST) {
        breaker_failure(&p->breaker, clock_mono_ms(), probe);
    } else if (fate == PG_LATE) {
        note_silence(p, probe, waited_ms, config()->db_connection_timeout);
    }
    return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "database %s: cannot connect: %s", p->name,
                      message);
}

/* Begin a new connection, with its permit. */
static enum err start_connecting(struct scope *sc, struct pg_pool *p, bool standby_too,
                                 int64_t probe, int64_t permit_until_us, struct pg_conn **conn_out)
{
    const struct config *cf = config();
    struct pg_conn_options options = {p->url, cf->db_statement_timeout_ms, standby_too};
    int permit = permit_take(p->shared.opens, instance_owner(), (int)cf->db_max_connections, 0,
                             permit_until_us);
    struct pg_answer why;

    if (permit < 0) {
        return fail_saturated(sc, p, "connection");
    }
    if (pg_conn_start(&options, conn_out, &why) != PG_PENDING) {
        permit_give(p->shared.opens, permit);
        return fail_to_connect(sc, p, probe, PG_LOST, 0, why.message);
    }
    pg_conn_link(*conn_out)->permit = permit;
    return OK;
}

enum err pg_pool_connected(struct scope *sc, struct pg_pool *p, int64_t probe,
                           struct pg_conn **conn, enum pg_fate fate, int64_t waited_ms,
                           const char *why)
{
    if (fate != PG_FINE) {
        pg_pool_discard(p, *conn);
        *conn = NULL;
        return fail_to_connect(sc, p, probe, fate, waited_ms, why);
    }
    pg_conn_link(*conn)->used_ms = clock_mono_ms();
    count(p, PG_CONNECTS);
    breaker_success(&p->breaker);
    return OK;
}

static enum err connect_new(struct scope *sc, struct pg_pool *p, bool standby_too, int64_t probe,
                            struct pg_conn **conn_out)
{
    const struct config *cf = config();
    int64_t limit_ms = standby_too ? REPLICA_CONN_MS : cf->db_connection_timeout;
    int64_t start_us = clock_mono_us(), start_ms = clock_mono_ms(), waited_ms;
    struct pg_answer why = {.rows = NULL};
    enum pg_fate fate;

    TRY(start_connecting(sc, p, standby_too, probe,
                         start_us + scope_left_ms(sc, cf->pool_wait_ms) * 1000, conn_out));
    fate = pg_conn_finish(*conn_out, clock_mono_ms() + scope_left_ms(sc, limit_ms), &why);
    waited_ms = clock_mono_ms() - start_ms; /* by the clock of the time limit: none too short */
    TRY(pg_pool_connected(sc, p, probe, conn_out, fate, waited_ms, why.message));
    sc->timing.pool_wait_us += clock_mono_us() - start_us;
    return OK;
}

enum err pg_pool_get(struct scope *sc, struct pg_pool *p, bool standby_too, int64_t probe,
                     int64_t now_ms, struct pg_conn **conn_out)
{
    int64_t until_ms = now_ms + (standby_too ? REPLICA_CONN_MS : HEALTH_CHECK_MS);
    struct pg_conn *c;

    if (until_ms > sc->deadline_mono_ms) {
        until_ms = sc->deadline_mono_ms;
    }
    while ((c = pop_idle(p)) != NULL) {
        if (is_usable(p, c, standby_too, now_ms, until_ms)) {
            *conn_out = c;
            return OK;
        }
        pg_pool_discard(p, c);
        if (clock_mono_ms() >= until_ms) {
            break; /* a server that stands still: more idle ones would only cost more time */
        }
    }
    return connect_new(sc, p, standby_too, probe, conn_out);
}

/* May the database be asked at all? *probe: as the breaker says; kept where this is none. */
static enum err admit(struct scope *sc, struct pg_pool *p, int64_t now_ms, int64_t *probe)
{
    int64_t number;

    if (p->url == NULL) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "the database has no address");
    }
    if (!breaker_allow(&p->breaker, now_ms, &number)) {
        count(p, PG_BROKEN_OFF);
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "database %s: breaker is open", p->name);
    }
    *probe = number != 0 ? number : *probe;
    return OK;
}

enum err pg_pool_reconnect(struct scope *sc, struct pg_pool *p, bool standby_too,
                           struct pg_pass *pass, struct pg_conn **conn_out)
{
    TRY(admit(sc, p, clock_mono_ms(), &pass->probe));
    return connect_new(sc, p, standby_too, pass->probe, conn_out);
}

enum err pg_pool_start(struct scope *sc, struct pg_pool *p, bool standby_too, struct pg_pass *pass,
                       struct pg_conn **conn_out)
{
    TRY(admit(sc, p, clock_mono_ms(), &pass->probe));
    return start_connecting(sc, p, standby_too, pass->probe, 0, conn_out);
}

void pg_pool_warm(struct scope *sc, struct pg_pool *p, bool standby_too, int n)
{
    bool is_had = true;

    for (; is_had && n > 0; n--) {
        struct pg_pass pass = {.probe = 0};
        struct pg_conn *c = NULL;

        is_had = pg_pool_reconnect(sc, p, standby_too, &pass, &c) == OK;
        if (is_had) {
            pg_pool_put(p, c);
        }
        breaker_probe_over(&p->breaker, clock_mono_ms(), pass.probe);
    }
}

struct pg_conn *pg_pool_pop_trusted(struct pg_pool *p, bool standby_too, int64_t now_ms)
{
    struct pg_conn *c;

    while ((c = pop_idle(p)) != NULL) {
        int64_t used_ms = pg_conn_link(c)->used_ms;

        if (is_sound(c, standby_too, used_ms, now_ms) && used_ms > atomic_load(&p->trouble_ms)) {
            return c;
        }
        pg_pool_discard(p, c);
    }
    return NULL;
}

/* Back onto the stack, unless it is in no state for that or another process waits to open one. */
void pg_pool_put(struct pg_pool *p, struct pg_conn *c)
{
    if (pg_conn_in_transaction(c) || permit_is_awaited(p->shared.opens)) {
        pg_pool_discard(p, c);
    } else {
        push_idle(p, c);
    }
}

bool pg_pool_has_idle(struct pg_pool *p)
{
    bool has_idle;

    pthread_mutex_lock(&p->mutex);
    has_idle = p->idle != NULL || atomic_load(&p->warmest) != NULL;
    pthread_mutex_unlock(&p->mutex);
    return has_idle;
}

void pg_pool_close_idle(struct pg_pool *p)
{
    close_unused(p, INT64_MAX);
}

bool pg_pool_is_left_alone(const struct pg_pool *p)
{
    return p->url == NULL || breaker_state(&p->breaker) != BREAKER_CLOSED;
}

void pg_pool_heard(struct pg_pool *p, struct pg_conn *c, int64_t now_ms)
{
    pg_conn_link(c)->used_ms = now_ms;
    breaker_success(&p->breaker);
}

void pg_pool_trouble(struct pg_pool *p, int64_t probe, enum pg_fate fate, int64_t waited_ms)
{
    int64_t now_ms = clock_mono_ms();

    atomic_store(&p->trouble_ms, now_ms);
    if (fate == PG_LATE) {
        note_silence(p, probe, waited_ms, config()->db_statement_timeout_ms);
    } else {
        breaker_failure(&p->breaker, now_ms, probe);
    }
    count(p, PG_LOSSES);
}

/* --- Permits to use one. --- */

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

enum err pg_pool_enter(struct scope *sc, struct pg_pool *p, bool holds_one, int64_t now_ms,
                       int64_t wait_us, struct pg_pass *pass_out)
{
    const struct config *cf = config();
    int hint = atomic_load_explicit(&p->lease_hint, memory_order_relaxed);
    int limit = pg_lease_limit(cf->db_pool_size, cf->db_max_connections,
                               cf->pool_utilization_threshold, holds_one);
    int64_t start_us;

    pass_out->probe = 0;
    TRY(admit(sc, p, now_ms, &pass_out->probe));
    pass_out->permit = permit_try(p->shared.leases, instance_owner(), limit, hint);
    if (pass_out->permit >= 0) {
        return OK;
    }
    start_us = clock_mono_us();
    count(p, PG_WAITS);
    reclaim_sometimes();
    pass_out->permit =
        permit_take(p->shared.leases, instance_owner(), limit, hint, start_us + wait_us);
    sc->timing.pool_wait_us += clock_mono_us() - start_us;
    if (pass_out->permit >= 0) {
        return OK;
    }
    breaker_probe_over(&p->breaker, clock_mono_ms(), pass_out->probe);
    return fail_saturated(sc, p, "lease");
}

void pg_pool_leave(struct pg_pool *p, const struct pg_pass *pass)
{
    if (pass->probe != 0) {
        breaker_probe_over(&p->breaker, clock_mono_ms(), pass->probe);
    }
    atomic_store_explicit(&p->lease_hint, pass->permit, memory_order_relaxed);
    permit_give(p->shared.leases, pass->permit);
}

/* --- Beside the leases. --- */

enum err pg_pool_ask(struct scope *sc, struct pg_pool *p, bool standby_too,
                     const struct pg_query *q, struct pg_answer *a)
{
    struct pg_conn *c = NULL;
    int64_t start_ms = clock_mono_ms();
    enum pg_fate fate;

    if (p->url == NULL) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "the database has no address");
    }
    TRY(pg_pool_get(sc, p, standby_too, 0, start_ms, &c));
    start_ms = clock_mono_ms();
    fate = pg_conn_query(c, q, PG_OPENING_NONE, start_ms + scope_left_ms(sc, 60000), a);
    if (fate == PG_FINE || fate == PG_REFUSED) {
        breaker_success(&p->breaker);
        pg_pool_put(p, c);
        return OK;
    }
    pg_answer_done(a);
    atomic_store(&p->trouble_ms, clock_mono_ms());
    pg_pool_discard(p, c);
    return scope_fail(sc, fate == PG_LATE ? ERR_TIMED_OUT : ERR_DEPENDENCY_UNAVAILABLE,
                      "database %s: %s", p->name, a->message);
}

enum err pg_ping(struct scope *sc, int database, int64_t *latency_ms_out)
{
    static const struct pg_query q = {.name = "ping", .sql = "SELECT 1", .kind = PG_ONE};
    const struct pg_map *map = pg_map_now();
    int64_t start_ms = clock_mono_ms();
    struct pg_answer a;

    *latency_ms_out = 0;
    if (database >= map->n_databases) {
        return OK; /* the map has shrunk since */
    }
    TRY(pg_pool_ask(sc, map->databases[database].pool, false, &q, &a));
    pg_answer_done(&a);
    *latency_ms_out = clock_mono_ms() - start_ms;
    return OK;
}

/* --- The pools. --- */

const char *pg_pool_name(const struct pg_pool *p)
{
    return p->name;
}

const char *pg_pool_location(const struct pg_pool *p)
{
    return p->location;
}

int pg_pools(void)
{
    return atomic_load_explicit(&all.n, memory_order_acquire);
}

void pg_pool_view(int i, struct pg_pool_view *out)
{
    const struct pg_pool *p = all.pools[i];
    int k;

    *out = (struct pg_pool_view){.name = p->name,
                                 .leases = permit_count(p->shared.leases, 0),
                                 .open = permit_count(p->shared.opens, 0),
                                 .breaker = breaker_state(&p->breaker)};
    for (k = 0; k < PG_COUNTERS; k++) {
        out->counters[k] = atomic_load_explicit(&p->shared.counters[k], memory_order_relaxed);
    }
}

/* The value of a word of a location, as long as it needs no quotes. */
static void copy_word(struct strbuf *out, const char *location, const char *word)
{
    const char *at = strstr(location, word);

    if (at != NULL && (at == location || at[-1] == ' ')) {
        at += strlen(word);
        strbuf_add(out, at, strcspn(at, " "));
    }
}

static const char *name_of(const char *location)
{
    struct arena *a = arena_open(4096);
    struct strbuf b;
    char *name;

    strbuf_init(&b, a, 128);
    copy_word(&b, location, "host=");
    strbuf_putc(&b, ':');
    copy_word(&b, location, "port=");
    strbuf_putc(&b, '/');
    copy_word(&b, location, "dbname=");
    name = strdup(b.data);
    arena_close(&a);
    return name;
}

/* No probe takes longer: a lease is waited for, an idle connection is asked, then a new one is
 * opened or a statement run. */
static int64_t probe_ms(void)
{
    const struct config *cf = config();
    int64_t statement_ms = cf->db_statement_timeout_ms + PG_ANSWER_GRACE_MS;

    return cf->pool_wait_ms + HEALTH_CHECK_MS + cf->db_breaker_open_ms +
           (statement_ms > cf->db_connection_timeout ? statement_ms : cf->db_connection_timeout);
}

static struct pg_pool *make(const char *location, const char *url)
{
    struct pg_pool *p = calloc(1, sizeof(*p));

    if (p == NULL) {
        abort();
    }
    p->location = strdup(location);
    p->name = name_of(location);
    p->url = url == NULL ? NULL : strdup(url);
    p->shared = instance_pool(location);
    p->breaker = (struct breaker){.word = p->shared.breaker,
                                  .failures_max = (int)config()->db_breaker_failures,
                                  .open_ms = config()->db_breaker_open_ms,
                                  .probe_ms = probe_ms()};
    pthread_mutex_init(&p->mutex, NULL);
    return p;
}

struct pg_pool *pg_pool_of(const char *location, const char *url)
{
    struct pg_pool *found = NULL;
    int i, n;

    pthread_mutex_lock(&all.mutex);
    n = atomic_load(&all.n);
    for (i = 0; i < n && found == NULL; i++) {
        found = strcmp(all.pools[i]->location, location) == 0 ? all.pools[i] : NULL;
    }
    if (found == NULL && n < (int)ARRAY_LEN(all.pools)) {
        found = make(location, url);
        all.pools[n] = found;
        atomic_store_explicit(&all.n, n + 1, memory_order_release);
    }
    pthread_mutex_unlock(&all.mutex);
    if (found == NULL) {
        log_event(LOG_ERROR, "pg_too_many_databases", "%s is one too many for this process",
                  location);
        abort(); /* a map has at most PG_MAP_DATABASES_MAX */
    }
    return found;
}

const struct pg_cast *pg_pool_cast(const struct pg_pool *p)
{
    return atomic_load_explicit(&p->cast, memory_order_acquire);
}

void pg_pool_set_cast(struct pg_pool *p, const struct pg_cast *cast)
{
    atomic_store_explicit(&p->cast, cast, memory_order_release);
}

void pg_pool_want(struct pg_pool *p, int64_t epoch)
{
    atomic_store(&p->epoch, epoch);
}

/* --- The thread that closes what nobody needs. --- */

/* One round of the reaper: idle too long, to a database that no shard is in any more, or a
 * connection that somebody else waits to open. */
static void reap(struct pg_pool *p)
{
    const struct pg_map *map = pg_map_now();
    bool is_wanted = map == NULL || atomic_load(&p->epoch) >= map->epoch;
    struct pg_conn *c;

    close_unused(p, is_wanted ? clock_mono_ms() - config()->db_idle_timeout : INT64_MAX);
    if (permit_is_awaited(p->shared.opens) && (c = pop_idle(p)) != NULL) {
        pg_pool_discard(p, c);
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
        for (i = 0; i < pg_pools(); i++) {
            reap(all.pools[i]);
        }
        instance_reclaim();
    }
    return NULL;
}

void pg_pools_open(void)
{
    pthread_condattr_t attr;

    all.is_closing = false;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&all.wake, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&all.reaper, NULL, run_reaper, NULL) != 0) {
        log_event(LOG_ERROR, "pg_no_thread", "the pools' thread cannot be started");
        abort();
    }
}

void pg_pools_close(void)
{
    int i;

    pthread_mutex_lock(&all.mutex);
    all.is_closing = true;
    pthread_cond_signal(&all.wake);
    pthread_mutex_unlock(&all.mutex);
    pthread_join(all.reaper, NULL);
    for (i = 0; i < pg_pools(); i++) {
        struct pg_pool *p = all.pools[i];

        pg_pool_close_idle(p);
        pthread_mutex_destroy(&p->mutex);
        free((char *)(uintptr_t)p->location);
        free((char *)(uintptr_t)p->name);
        free((char *)(uintptr_t)p->url);
        free(p);
    }
    atomic_store(&all.n, 0);
    pthread_cond_destroy(&all.wake);
}
