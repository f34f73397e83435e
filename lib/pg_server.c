/* Every process has a thread here, but only one of an instance asks the servers: whoever holds the
 * board's word "watch". A watcher that falls silent loses it. What it measures is an upper bound:
 * it notes the primary's position with the time before it asked, so a replica that has replayed
 * that position has everything that was acknowledged by that time. A time that grows old is all it
 * takes to leave a replica alone: dead, paused, cut off or unwatched look the same. */
#include "lib/pg_server.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/instance.h"
#include "lib/log.h"
#include "lib/pg_internal.h"
#include "lib/str.h"

enum {
    SAMPLE_MS = 25,
    SILENT_MS = 300, /* a watcher that says nothing for so long is replaced */
    ASK_LIMIT_MS = 1000,
    RETRY_MS = 250,
    FIRST_LOOK_MS = 300,
    ROWS = 512,
    SAMPLES = 64,
    ARENA_BYTES = 65536
};

struct board {
    _Atomic uint64_t watch; /* time (ms) << 16 | owner */
    _Alignas(64) struct pg_server_row rows[ROWS];
};

static_assert(sizeof(struct board) <= INSTANCE_BOARD_BYTES, "the board is too small");

/* A server as this process knows it. */
struct server {
    const char *address; /* location without the database */
    const char *url;
    struct pg_server_row *row;
    bool is_replica; /* named by DATABASE_REPLICA_n_URL */
    /* The watcher's: */
    struct pg_conn *conn;
    bool is_connecting, is_asking;
    short events;
    int64_t sent_ms, retry_ms;
    struct pg_answer a;
    /* What it said in this round: */
    bool has_said;
    int64_t lsn, received_timeline;
    /* Where it was when it was primary: */
    struct sample {
        int64_t ms, lsn;
    } samples[SAMPLES];
    int n_samples; /* ever taken */
};

static struct {
    struct arena *arena; /* of the servers; made anew with each map */
    struct server *servers;
    int n;
    int64_t epoch; /* of the map that they follow from */
    struct pg_cast *casts;
    pthread_t thread;
    bool is_open;
    _Atomic bool is_closing;
} all;

static struct board *board(void)
{
    return instance_board();
}

/* --- The list of servers. --- */

/* "host=… port=…" of a location. */
static const char *address_of(struct arena *a, const char *location)
{
    const char *end = strstr(location, " dbname=");

    return arena_strndup(a, location, end == NULL ? strlen(location) : (size_t)(end - location));
}

static uint64_t hash_of(const char *text)
{
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */

    for (; *text != '\0'; text++) {
        hash = (hash ^ (uint8_t)*text) * UINT64_C(1099511628211);
    }
    return hash != 0 ? hash : 1;
}

/* The address's row, entered now if it is new; NULL where the board is full. */
static struct pg_server_row *row_of(const char *address)
{
    uint64_t key = hash_of(address);
    int i;

    for (i = 0; i < ROWS; i++) {
        struct pg_server_row *row = &board()->rows[i];
        uint64_t found = atomic_load(&row->key);

        if (found == 0 && atomic_compare_exchange_strong(&row->key, &found, key)) {
            return row;
        }
        if (found == key) {
            return row;
        }
    }
    return NULL;
}

static struct server *find_server(const char *address)
{
    int i;

    for (i = 0; i < all.n; i++) {
        if (strcmp(all.servers[i].address, address) == 0) {
            return &all.servers[i];
        }
    }
    return NULL;
}

static void add_server(const char *location, const char *url, bool is_replica)
{
    const char *address = address_of(all.arena, location);
    struct pg_server_row *row;

    if (url == NULL || find_server(address) != NULL) {
        return;
    }
    row = row_of(address);
    if (row == NULL) {
        log_event(LOG_WARN, "pg_servers", "%s is one server too many to be watched", address);
        return;
    }
    all.servers[all.n++] = (struct server){.address = address,
                                           .url = arena_strdup(all.arena, url),
                                           .row = row,
                                           .is_replica = is_replica,
                                           .a = {.rows = NULL}};
}

static bool has_replicas(const struct config *cf)
{
    size_t i;

    for (i = 0; i < ARRAY_LEN(cf->database_replica_url); i++) {
        if (*cf->database_replica_url[i] != '\0') {
            return true;
        }
    }
    return false;
}

static void forget_servers(void)
{
    int i;

    for (i = 0; i < all.n; i++) {
        pg_answer_done(&all.servers[i].a);
        pg_conn_close(&all.servers[i].conn);
    }
    all.n = 0;
    arena_close(&all.arena);
}

static void list_servers(const struct pg_map *map)
{
    const struct config *cf = config();
    const char *location;
    size_t i;

    forget_servers();
    all.epoch = map->epoch;
    all.arena = arena_open(ARENA_BYTES + (size_t)map->n_databases * sizeof(struct server));
    all.servers = arena_array(all.arena, struct server,
                              (size_t)map->n_databases + ARRAY_LEN(cf->database_replica_url));
    for (i = 0; i < (size_t)map->n_databases; i++) {
        add_server(map->databases[i].location, map->databases[i].url, false);
    }
    for (i = 0; i < ARRAY_LEN(cf->database_replica_url); i++) {
        const char *url = cf->database_replica_url[i];

        if (*url != '\0' && pg_conninfo_location(all.arena, url, &location)) {
            add_server(location, url, true);
        } else if (*url != '\0') {
            log_event(LOG_ERROR, "pg_servers", "DATABASE_REPLICA_%zu_URL is no connection string",
                      i);
        }
    }
}

/* --- Watching: one process. --- */

/* Take or keep the word. A watcher that stood still finds it gone. */
static bool is_watcher(int64_t now_ms)
{
    uint64_t seen = atomic_load(&board()->watch);
    uint64_t mine = (uint64_t)now_ms << 16 | instance_owner();
    bool is_mine = (seen & 0xffff) == instance_owner();

    if (!is_mine && now_ms - (int64_t)(seen >> 16) < SILENT_MS) {
        return false;
    }
    return atomic_compare_exchange_strong(&board()->watch, &seen, mine);
}

static const struct pg_query question = {
    .name = "server",
    .sql = "SELECT pg_is_in_recovery(),"
           " pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
           " ELSE pg_current_wal_insert_lsn() END, '0/0')::bigint,"
           " (SELECT system_identifier FROM pg_control_system()),"
           " CASE WHEN NOT pg_is_in_recovery() THEN"
           " ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint END,"
           " (SELECT received_tli FROM pg_stat_wal_receiver)",
    .index = 1, /* prepared: connections of the watcher's know no other */
    .kind = PG_ONE,
    .read_only = true,
};

static void give_up(struct server *s, int64_t now_ms)
{
    pg_answer_done(&s->a);
    pg_conn_close(&s->conn);
    s->is_connecting = s->is_asking = false;
    s->retry_ms = now_ms + RETRY_MS;
}

static int64_t value_of(const struct pg_answer *a, int column)
{
    int64_t value = 0;
    size_t len;
    const char *text = pg_answer_value(a, 0, column, &len);

    return text != NULL && i64_parse(text, &value) ? value : 0;
}

/* It has answered. */
static void hear(struct server *s, int64_t now_ms)
{
    size_t len;
    const char *in_recovery;

    if (pg_answer_rows(&s->a) != 1) {
        give_up(s, now_ms);
        return;
    }
    in_recovery = pg_answer_value(&s->a, 0, 0, &len);
    s->has_said = true;
    s->lsn = value_of(&s->a, 1);
    s->received_timeline = value_of(&s->a, 4);
    atomic_store(&s->row->system_id, value_of(&s->a, 2));
    if (in_recovery != NULL && *in_recovery == 'f') {
        if (atomic_load(&s->row->role) != PG_ROLE_PRIMARY ||
            atomic_load(&s->row->timeline) != value_of(&s->a, 3)) {
            s->n_samples = 0;
        }
        atomic_store(&s->row->timeline, value_of(&s->a, 3));
        atomic_store(&s->row->role, PG_ROLE_PRIMARY);
        s->samples[s->n_samples++ % SAMPLES] = (struct sample){s->sent_ms, pg_position(s->lsn)};
    } else {
        atomic_store(&s->row->role, PG_ROLE_STANDBY);
    }
    pg_answer_done(&s->a);
    s->is_asking = false;
}

/* Take what is under way with a server as far as it goes. */
static void advance(struct server *s, bool is_ready, int64_t now_ms)
{
    enum pg_fate fate = pg_conn_step(s->conn, is_ready, &s->events, &s->a);

    if (fate == PG_FINE && s->is_connecting) {
        s->is_connecting = false;
    } else if (fate == PG_FINE) {
        hear(s, now_ms);
    } else if (fate != PG_PENDING || now_ms - s->sent_ms >= ASK_LIMIT_MS) {
        give_up(s, now_ms);
    }
}

/* Start a round with a server: connect or ask, unless something is under way. */
static void begin(struct server *s, int64_t now_ms)
{
    const struct pg_conn_options options = {s->url, config()->db_statement_timeout_ms, true};

    s->has_said = false;
    if (s->conn == NULL && now_ms >= s->retry_ms) {
        s->sent_ms = now_ms;
        s->is_connecting = pg_conn_start(&options, &s->conn, &s->a) == PG_PENDING;
        s->retry_ms = now_ms + RETRY_MS;
    } else if (s->conn != NULL && !s->is_connecting && !s->is_asking) {
        s->sent_ms = now_ms;
        s->is_asking = true;
        if (pg_conn_send(s->conn, &question, PG_OPENING_NONE, &s->a) != PG_PENDING) {
            give_up(s, now_ms);
        }
    }
    if (s->conn != NULL) {
        advance(s, false, now_ms);
    }
}

/* Poll what is under way until that time; sooner where everybody has answered. */
static void wait_for_answers(int64_t until_ms)
{
    struct pollfd *fds = calloc((size_t)all.n, sizeof(*fds));
    int64_t left_ms;

    while (fds != NULL && (left_ms = until_ms - clock_mono_ms()) > 0) {
        int i, n_open = 0;

        for (i = 0; i < all.n; i++) {
            struct server *s = &all.servers[i];
            bool is_open = s->conn != NULL && (s->is_connecting || s->is_asking);

            n_open += is_open;
            fds[i] =
                (struct pollfd){.fd = is_open ? pg_conn_socket(s->conn) : -1, .events = s->events};
        }
        if (n_open == 0 || (poll(fds, (nfds_t)all.n, (int)left_ms) < 0 && errno != EINTR)) {
            break;
        }
        for (i = 0; i < all.n; i++) {
            if (fds[i].fd >= 0 && fds[i].revents != 0) {
                advance(&all.servers[i], true, clock_mono_ms());
            }
        }
    }
    free(fds);
}

/* The primary of that system: the highest timeline that was ever seen, be it down now. */
static struct server *primary_of(int64_t system_id)
{
    struct server *best = NULL;
    int i;

    for (i = 0; i < all.n; i++) {
        struct server *s = &all.servers[i];

        if (atomic_load(&s->row->role) == PG_ROLE_PRIMARY && system_id != 0 &&
            atomic_load(&s->row->system_id) == system_id &&
            (best == NULL || atomic_load(&s->row->timeline) > atomic_load(&best->row->timeline))) {
            best = s;
        }
    }
    return best;
}

/* How fresh is the standby? The latest sample of its primary that it has replayed says it. */
static void judge(struct server *s)
{
    const struct server *primary = primary_of(atomic_load(&s->row->system_id));
    int64_t fresh_ms = 0;
    int i;

    if (primary == NULL || primary->n_samples == 0 ||
        (s->received_timeline != 0 &&
         s->received_timeline < atomic_load(&primary->row->timeline))) {
        return;
    }
    for (i = 0; i < SAMPLES && i < primary->n_samples; i++) {
        if (primary->samples[i].lsn <= s->lsn && primary->samples[i].ms > fresh_ms) {
            fresh_ms = primary->samples[i].ms;
        }
    }
    atomic_store(&s->row->lsn, s->lsn); /* before the time that makes it count */
    if (fresh_ms > atomic_load(&s->row->fresh_ms)) {
        atomic_store(&s->row->fresh_ms, fresh_ms);
    }
}

static void look(int64_t now_ms)
{
    int i;

    for (i = 0; i < all.n; i++) {
        begin(&all.servers[i], now_ms);
    }
    wait_for_answers(now_ms + SAMPLE_MS);
    for (i = 0; i < all.n; i++) {
        struct server *s = &all.servers[i];

        if (s->has_said && atomic_load(&s->row->role) == PG_ROLE_STANDBY) {
            judge(s);
        }
    }
}

/* --- Casting: each process for itself. --- */

/* Servers of the map's own; if there is only one, every replica is one of it. */
static int count_homes(void)
{
    int i, n = 0;

    for (i = 0; i < all.n; i++) {
        n += !all.servers[i].is_replica;
    }
    return n;
}

/* The system of a home server: as it said itself, else (it was down from the start) the only one
 * that there can be. */
static int64_t system_of(const struct server *home)
{
    int64_t system_id = atomic_load(&home->row->system_id);
    int i;

    for (i = 0; i < all.n && system_id == 0 && count_homes() == 1; i++) {
        system_id = atomic_load(&all.servers[i].row->system_id);
    }
    return system_id;
}

static struct pg_pool *pool_at(struct arena *a, const struct server *s, const char *location)
{
    const char *url = pg_conninfo_of_server(a, s->url, location);
    const char *where;
    struct pg_pool *pool = NULL;

    if (url != NULL && pg_conninfo_location(a, url, &where)) {
        pool = pg_pool_of(where, url);
        pg_pool_want(pool, all.epoch);
    }
    return pool;
}

static bool is_same(const struct pg_cast *a, const struct pg_cast *b)
{
    return a != NULL && a->primary == b->primary && a->system_id == b->system_id && a->n == b->n &&
           memcmp(a->replicas, b->replicas, sizeof(a->replicas[0]) * (size_t)a->n) == 0;
}

/* Publish who plays which part for a database, where that has changed. */
static void cast_database(struct arena *a, const struct pg_map_database *d)
{
    const struct server *home = find_server(address_of(a, d->location));
    int64_t system_id = home == NULL ? 0 : system_of(home);
    const struct server *primary = primary_of(system_id);
    struct pg_cast *cast = calloc(1, sizeof(*cast) + sizeof(cast->replicas[0]) * (size_t)all.n);
    struct pg_pool *pool;
    int i;

    if (cast == NULL) {
        return;
    }
    pool = primary == NULL || primary == home ? d->pool : pool_at(a, primary, d->location);
    cast->primary = pool == NULL ? d->pool : pool;
    cast->system_id = system_id;
    for (i = 0; i < all.n; i++) {
        struct server *s = &all.servers[i];

        pool = atomic_load(&s->row->role) == PG_ROLE_STANDBY && system_id != 0 &&
                       atomic_load(&s->row->system_id) == system_id
                   ? pool_at(a, s, d->location)
                   : NULL;
        if (pool != NULL) {
            cast->replicas[cast->n++] = (struct pg_replica){pool, s->row};
        }
    }
    if (is_same(pg_pool_cast(d->pool), cast)) {
        free(cast);
        return;
    }
    log_event(LOG_INFO, "pg_cast", "%s: the primary is %s, with %d replicas", pg_pool_name(d->pool),
              pg_pool_name(cast->primary), cast->n);
    cast->older = all.casts;
    all.casts = cast;
    pg_pool_set_cast(d->pool, cast);
}

static void cast_all(const struct pg_map *map)
{
    struct arena *a = arena_open(ARENA_BYTES);
    int i;

    for (i = 0; i < map->n_databases; i++) {
        cast_database(a, &map->databases[i]);
        arena_reset(a);
    }
    arena_close(&a);
}

bool pg_replica_may_serve(const struct pg_server_row *row, int64_t now_ms, int64_t system_id,
                          int64_t lsn)
{
    return now_ms - atomic_load(&row->fresh_ms) < config()->db_max_replica_lag_ms &&
           (system_id == 0 ||
            (system_id == atomic_load_explicit(&row->system_id, memory_order_relaxed) &&
             lsn <= atomic_load(&row->lsn)));
}

/* --- The thread. --- */

static void pause_until(int64_t until_ms)
{
    int64_t left_ms = until_ms - clock_mono_ms();

    if (left_ms > 0 && left_ms <= SAMPLE_MS) {
        clock_nap_ms(left_ms);
    }
}

static void *run(void *arg)
{
    (void)arg;
    while (!atomic_load(&all.is_closing)) {
        const struct pg_map *map = pg_map_now();
        int64_t now_ms = clock_mono_ms();

        if (all.arena == NULL || map->epoch != all.epoch) {
            list_servers(map);
        }
        if (is_watcher(now_ms)) {
            look(now_ms);
        }
        cast_all(map);
        pause_until(now_ms + SAMPLE_MS);
    }
    return NULL;
}

static bool knows_all(const struct pg_map *map)
{
    int i;

    for (i = 0; i < map->n_databases; i++) {
        const struct pg_cast *cast = pg_pool_cast(map->databases[i].pool);

        if (cast == NULL || cast->system_id == 0) {
            return false;
        }
    }
    return true;
}

void pg_servers_open(void)
{
    int64_t until_ms = clock_mono_ms() + FIRST_LOOK_MS;

    if (!has_replicas(config())) {
        return;
    }
    atomic_store(&all.is_closing, false);
    if (pthread_create(&all.thread, NULL, run, NULL) != 0) {
        log_event(LOG_ERROR, "pg_no_thread", "the thread that watches servers does not start");
        abort();
    }
    all.is_open = true;
    /* Writes before the first look would have no position to note. */
    while (clock_mono_ms() < until_ms && !knows_all(pg_map_now())) {
        pause_until(clock_mono_ms() + 5);
    }
}

void pg_servers_close(void)
{
    if (!all.is_open) {
        return;
    }
    atomic_store(&all.is_closing, true);
    pthread_join(all.thread, NULL);
    all.is_open = false;
    forget_servers();
    while (all.casts != NULL) {
        struct pg_cast *older = all.casts->older;

        free(all.casts);
        all.casts = older;
    }
}
