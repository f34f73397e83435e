/* Drives lib/pg.h from a test: one command a line on standard input, one JSON line each on
 * standard output. Configuration comes from the environment, as for every program. Several
 * drivers with one INSTANCE_SHM are one instance.
 *   scope MS                a new scope with that much time; the old one gives its leases back
 *   begin|commit|rollback N on shard N
 *   read N | write N | append N | sleep N MS   a query on shard N
 *   conflict N | star N | lock N ID    a unique violation | SELECT * | a row's lock
 *   release                 give the leases back
 *   ping N | state N        is it there | leases in use, breaker, counters
 *   page MAX                users by id, from all shards
 *   replicas 0|1            may reads go to replicas?
 *   mix N THREADS MS OPS USERS WRITE_PERCENT APART   users who write and read what they have
 *                           written: at once, or (APART 1) when their turn comes
 *   run OP N THREADS MS TIMEOUT_MS HOLD_MS   OP over and over for MS: read, append, or twice (two
 *                           appends in a transaction) */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/instance.h"
#include "lib/pg.h"
#include "lib/pg_internal.h"
#include "lib/pg_map.h"
#include "lib/pg_param.h"
#include "lib/pg_scatter.h"
#include "lib/str.h"
#include "queries.h"

enum { WORDS_MAX = 8, LINE_SIZE = 256, THREADS_MAX = 64, ARENA_BYTES = 65536 };

struct row {
    int64_t value;
    const char *text;
};

static const struct field row_fields[] = {
    F_I64(row, value, "value", INT64_MIN, INT64_MAX, F_OPTIONAL),
    F_STR(row, text, "text", 0, 100, F_OPTIONAL),
};
static const struct shape shape_row = SHAPE(row, row_fields);

static struct pg_query query(const char *name, int index, const char *sql, enum pg_kind kind,
                             bool read_only, int shard)
{
    return (struct pg_query){.name = name,
                             .sql = sql,
                             .index = index,
                             .kind = kind,
                             .read_only = read_only,
                             .place = pg_place_on_shard(shard)};
}

static enum err do_read(struct scope *sc, int shard, int64_t number)
{
    struct row row;

    (void)number;
    return pg_one(
        sc, query("driver_read", 1, "SELECT 42::bigint AS value, 'x' AS text", PG_ONE, true, shard),
        &shape_row, &row);
}

static enum err do_write(struct scope *sc, int shard, int64_t number)
{
    (void)number;
    return pg_exec(sc,
                   query("driver_write", 2,
                         "INSERT INTO driver (id) SELECT coalesce(max(id), 0) + 1 FROM driver",
                         PG_EXEC, false, shard),
                   NULL);
}

/* A row per call, so that a test can compare what was acknowledged with what is there. */
static enum err do_append(struct scope *sc, int shard, int64_t number)
{
    (void)number;
    return pg_exec(
        sc,
        query("driver_append", 3, "INSERT INTO driver_log DEFAULT VALUES", PG_EXEC, false, shard),
        NULL);
}

static enum err do_conflict(struct scope *sc, int shard, int64_t number)
{
    (void)number;
    return pg_exec(sc,
                   query("driver_conflict", 4, "INSERT INTO driver (id) VALUES (0), (0)", PG_EXEC,
                         false, shard),
                   NULL);
}

/* Columns as they are now: a plan that a changed table makes stale. */
static enum err do_star(struct scope *sc, int shard, int64_t number)
{
    struct row *rows;
    size_t n;

    (void)number;
    return pg_many(
        sc, query("driver_star", 6, "SELECT * FROM driver_log LIMIT 1", PG_MANY, true, shard),
        &shape_row, &rows, &n);
}

static enum err do_lock(struct scope *sc, int shard, int64_t id)
{
    struct pg_query q =
        query("driver_lock", 7, "UPDATE driver SET id = id WHERE id = $1", PG_EXEC, false, shard);

    q.n_params = 1;
    q.params[0] = pg_param_i64(sc, id);
    return pg_exec(sc, q, NULL);
}

static enum err do_sleep(struct scope *sc, int shard, int64_t ms)
{
    struct pg_query q = query("driver_sleep", 5, "SELECT pg_sleep($1::float8 / 1000)::text AS text",
                              PG_ONE, true, shard);
    struct row row;

    q.n_params = 1;
    q.params[0] = pg_param_i64(sc, ms);
    return pg_one(sc, q, &shape_row, &row);
}

static int64_t number_of(const char *text)
{
    int64_t value = 0;

    return text != NULL && i64_parse(text, &value) ? value : 0;
}

/* --- Load. --- */

struct load {
    const char *op;
    int shard;
    int64_t until_ms, timeout_ms, hold_ms;
    _Atomic int64_t outcomes[ERR__COUNT];
    _Atomic int64_t slowest_us, db_count;
};

static void pause_ms(int64_t ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    nanosleep(&ts, NULL);
}

static enum err do_op(struct load *l, struct scope *sc)
{
    if (strcmp(l->op, "append") == 0) {
        return do_append(sc, l->shard, 0);
    }
    if (strcmp(l->op, "twice") == 0) {
        TRY(pg_begin(sc, pg_place_on_shard(l->shard)));
        TRY(do_append(sc, l->shard, 0));
        TRY(do_append(sc, l->shard, 0));
        return pg_commit(sc, pg_place_on_shard(l->shard));
    }
    TRY(do_read(sc, l->shard, 0));
    pause_ms(l->hold_ms);
    return OK;
}

static void *run_thread(void *arg)
{
    struct arena *arena = arena_open(ARENA_BYTES);
    struct load *l = arg;

    while (clock_mono_ms() < l->until_ms) {
        int64_t start_us = clock_mono_us(), took_us, slowest_us;
        struct scope sc;
        enum err e;

        scope_init(&sc, arena, l->timeout_ms);
        e = do_op(l, &sc);
        scope_done(&sc);
        took_us = clock_mono_us() - start_us;
        atomic_fetch_add(&l->outcomes[e], 1);
        atomic_fetch_add(&l->db_count, sc.timing.db_count);
        slowest_us = atomic_load(&l->slowest_us);
        while (took_us > slowest_us &&
               !atomic_compare_exchange_weak(&l->slowest_us, &slowest_us, took_us)) {
        }
        if (e != OK) {
            pause_ms(1); /* a client that is refused does not spin */
        }
        arena_reset(arena);
    }
    arena_close(&arena);
    return NULL;
}

static void run_load(struct load *l, int threads)
{
    pthread_t ids[THREADS_MAX];
    int i;

    threads = threads < THREADS_MAX ? threads : THREADS_MAX;
    for (i = 0; i < threads; i++) {
        if (pthread_create(&ids[i], NULL, run_thread, l) != 0) {
            exit(1);
        }
    }
    for (i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
    }
    printf("{\"slowest_ms\":%" PRId64 ",\"db_count\":%" PRId64 ",\"outcomes\":{\"OK\":%" PRId64,
           l->slowest_us / 1000, l->db_count, l->outcomes[OK]);
    for (i = OK + 1; i < ERR__COUNT; i++) {
        if (l->outcomes[i] > 0) {
            printf(",\"%s\":%" PRId64, err_info((enum err)i)->name, l->outcomes[i]);
        }
    }
    puts("}}");
}

/* --- Users who read what they have written, as sessions do: each has a row that only he writes,
 * and a mark that his reads are to be no older than. --- */

struct writer {
    int64_t expected; /* the least that he may read */
    bool has_mark;
    struct pg_mark mark;
};

struct mix {
    int shard, first, n_users, write_percent;
    bool is_apart;
    int64_t until_ms, n_ops_max, id_base;
    unsigned seed;
    int64_t n_reads, n_replica, n_stale, n_writes, n_failed, db_us;
};

static enum err mix_write(struct mix *m, struct scope *sc, int64_t id, struct writer *u)
{
    struct pg_query q = query("driver_raise", 8,
                              "INSERT INTO driver_pairs (id, n) VALUES ($1, 1) ON CONFLICT (id)"
                              " DO UPDATE SET n = driver_pairs.n + 1 RETURNING n AS value",
                              PG_ONE, false, m->shard);
    struct row row;
    enum err e;

    q.n_params = 1;
    q.params[0] = pg_param_i64(sc, id);
    e = pg_one(sc, q, &shape_row, &row);
    u->has_mark = pg_written(sc, q.place, &u->mark) || u->has_mark;
    if (e == OK) {
        u->expected = row.value;
    }
    return e;
}

static enum err mix_read(struct mix *m, struct scope *sc, int64_t id, struct writer *u)
{
    struct pg_query q = query("driver_see", 9,
                              "SELECT coalesce((SELECT n FROM driver_pairs WHERE id = $1), 0)"
                              " AS value",
                              PG_ONE, true, m->shard);
    struct row row;

    sc->reads_replica = true;
    if (u->has_mark) {
        pg_see(sc, q.place, u->mark);
    }
    q.n_params = 1;
    q.params[0] = pg_param_i64(sc, id);
    TRY(pg_one(sc, q, &shape_row, &row));
    m->n_reads++;
    m->n_replica += sc->timing.replica_count > 0;
    m->n_stale += row.value < u->expected;
    u->expected = row.value > u->expected ? row.value : u->expected; /* never back again */
    return OK;
}

static void *run_mix(void *arg)
{
    struct mix *m = arg;
    struct arena *arena = arena_open(ARENA_BYTES);
    struct writer *users = calloc((size_t)m->n_users, sizeof(*users));
    int64_t n;

    for (n = 0; users != NULL && n < m->n_ops_max && clock_mono_ms() < m->until_ms; n++) {
        int i = rand_r(&m->seed) % m->n_users;
        bool is_write = rand_r(&m->seed) % 100 < m->write_percent;
        enum err e = OK;
        struct scope sc;

        if (is_write) {
            scope_init(&sc, arena, 5000);
            e = mix_write(m, &sc, m->id_base + i, &users[i]);
            scope_done(&sc);
            m->n_writes += e == OK;
            m->n_failed += e != OK;
            if (m->is_apart) {
                continue;
            }
        }
        scope_init(&sc, arena, 5000);
        e = mix_read(m, &sc, m->id_base + i, &users[i]);
        scope_done(&sc);
        m->n_failed += e != OK;
        arena_reset(arena);
        if (e != OK) {
            pause_ms(1);
        }
    }
    free(users);
    arena_close(&arena);
    return NULL;
}

/* mix N THREADS MS OPS USERS WRITE_PERCENT APART */
static void do_mix(char **words)
{
    static struct mix all[THREADS_MAX];
    pthread_t ids[THREADS_MAX];
    int n = (int)number_of(words[2]), i;
    struct mix sum = {.n_reads = 0};

    n = n < THREADS_MAX ? n : THREADS_MAX;
    for (i = 0; i < n; i++) {
        all[i] = (struct mix){.shard = (int)number_of(words[1]),
                              .n_users = (int)number_of(words[5]) / n,
                              .write_percent = (int)number_of(words[6]),
                              .is_apart = number_of(words[7]) == 1,
                              .until_ms = clock_mono_ms() + number_of(words[3]),
                              .n_ops_max = number_of(words[4]) / n,
                              .id_base = ((int64_t)getpid() * THREADS_MAX + i) * 1000000,
                              .seed = (unsigned)(getpid() + i)};
        if (pthread_create(&ids[i], NULL, run_mix, &all[i]) != 0) {
            exit(1);
        }
    }
    for (i = 0; i < n; i++) {
        pthread_join(ids[i], NULL);
        sum.n_reads += all[i].n_reads;
        sum.n_replica += all[i].n_replica;
        sum.n_stale += all[i].n_stale;
        sum.n_writes += all[i].n_writes;
        sum.n_failed += all[i].n_failed;
    }
    printf("{\"reads\":%" PRId64 ",\"replica\":%" PRId64 ",\"stale\":%" PRId64
           ",\"writes\":%" PRId64 ",\"failed\":%" PRId64 "}\n",
           sum.n_reads, sum.n_replica, sum.n_stale, sum.n_writes, sum.n_failed);
}

/* --- Commands. --- */

static void print_state(int shard)
{
    static const char *const names[PG_COUNTERS] = {"connects", "connect_failures", "losses",
                                                   "waits",    "saturated",        "broken_off"};
    const struct pg_map *map = pg_map_now();
    const struct pg_pool *pool = map->databases[map->database_of[shard % map->n_shards]].pool;
    struct pg_pool_view view;
    int i = 0;

    do {
        pg_pool_view(i++, &view);
    } while (strcmp(view.name, pg_pool_name(pool)) != 0);
    printf("{\"leases\":%d,\"open\":%d,\"breaker\":%d,\"shared\":%s,\"epoch\":%" PRId64
           ",\"shards\":%d,\"databases\":%d,\"name\":\"%s\"",
           view.leases, view.open, (int)view.breaker, instance_is_shared() ? "true" : "false",
           map->epoch, map->n_shards, map->n_databases, view.name);
    for (i = 0; i < PG_COUNTERS; i++) {
        printf(",\"%s\":%" PRId64, names[i], view.counters[i]);
    }
    puts("}");
}

static void print_outcome(const struct scope *sc, enum err e, int64_t start_us)
{
    char text[1024];
    struct arena *arena = arena_open(ARENA_BYTES);
    struct strbuf cause;

    strbuf_init(&cause, arena, sizeof(text));
    strbuf_json(&cause, sc->cause == NULL ? "" : sc->cause);
    printf("{\"error\":\"%s\",\"ms\":%" PRId64
           ",\"db_count\":%d,\"replica_count\":%d,\"pool_wait_us\":%" PRId64 ",\"cause\":%s}\n",
           e == OK ? "OK" : err_info(e)->name, (clock_mono_us() - start_us) / 1000,
           sc->timing.db_count, sc->timing.replica_count, sc->timing.pool_wait_us, cause.data);
    arena_close(&arena);
}

struct user {
    struct id id;
};

static const struct field user_fields[] = {F_ID(user, id, "id", 0)};
static const struct shape shape_user = SHAPE(user, user_fields);

/* The users of all shards. */
static void print_page(struct scope *sc, int64_t max)
{
    int64_t start_us = clock_mono_us();
    struct pg_page page;
    enum err e =
        pg_scatter_page(sc, q_users_search(sc, pg_place_on_shard(0), "", (struct id){{0}}, max),
                        &shape_user, (size_t)max, &page);
    const struct user *users = page.items;
    size_t i;

    printf("{\"error\":\"%s\",\"ms\":%" PRId64 ",\"shards\":%d,\"failed\":%d,\"ids\":[",
           e == OK ? "OK" : err_info(e)->name, (clock_mono_us() - start_us) / 1000, page.n_shards,
           page.n_shards_failed);
    for (i = 0; e == OK && i < page.n; i++) {
        printf("%s\"%s\"", i == 0 ? "" : ",", id_text(sc->arena, users[i].id));
    }
    puts("]}");
}

static enum err do_begin(struct scope *sc, int shard, int64_t number)
{
    (void)number;
    return pg_begin(sc, pg_place_on_shard(shard));
}

static enum err do_commit(struct scope *sc, int shard, int64_t number)
{
    (void)number;
    return pg_commit(sc, pg_place_on_shard(shard));
}

static enum err do_rollback(struct scope *sc, int shard, int64_t number)
{
    (void)number;
    pg_rollback(sc, pg_place_on_shard(shard));
    return OK;
}

static enum err do_release(struct scope *sc, int shard, int64_t number)
{
    (void)shard;
    (void)number;
    pg_release(sc);
    return OK;
}

static enum err do_ping(struct scope *sc, int shard, int64_t number)
{
    (void)number;
    return pg_ping(sc, shard, &number);
}

static enum err do_command(struct scope *sc, const char *op, int shard, int64_t number)
{
    static const struct {
        const char *name;
        enum err (*run)(struct scope *sc, int shard, int64_t number);
    } ops[] = {
        {"begin", do_begin},     {"commit", do_commit},     {"rollback", do_rollback},
        {"release", do_release}, {"read", do_read},         {"write", do_write},
        {"append", do_append},   {"conflict", do_conflict}, {"star", do_star},
        {"lock", do_lock},       {"sleep", do_sleep},       {"ping", do_ping},
    };
    size_t i;

    for (i = 0; i < ARRAY_LEN(ops); i++) {
        if (strcmp(op, ops[i].name) == 0) {
            return ops[i].run(sc, shard, number);
        }
    }
    return scope_fail(sc, ERR_BAD_REQUEST, "no such command: %s", op);
}

/* Commands until the input ends. */
static void serve(struct arena *arena)
{
    char line[LINE_SIZE];
    struct scope sc;

    scope_init(&sc, arena, 10000);
    while (fgets(line, sizeof(line), stdin) != NULL) {
        char *words[WORDS_MAX] = {NULL}, *rest = line;
        int64_t start_us = clock_mono_us();
        enum err e;
        int n = 0;

        while (n < WORDS_MAX && (words[n] = strtok_r(rest, " \n", &rest)) != NULL) {
            n++;
        }
        if (n == 0) {
            continue;
        }
        if (strcmp(words[0], "run") == 0 && n == 7) {
            struct load l = {.op = words[1],
                             .shard = (int)number_of(words[2]),
                             .until_ms = clock_mono_ms() + number_of(words[4]),
                             .timeout_ms = number_of(words[5]),
                             .hold_ms = number_of(words[6])};

            run_load(&l, (int)number_of(words[3]));
        } else if (strcmp(words[0], "mix") == 0 && n >= 7) {
            do_mix(words);
        } else if (strcmp(words[0], "state") == 0) {
            print_state((int)number_of(words[1]));
        } else if (strcmp(words[0], "page") == 0) {
            print_page(&sc, number_of(words[1]));
        } else if (strcmp(words[0], "replicas") == 0) {
            sc.reads_replica = number_of(words[1]) != 0;
            print_outcome(&sc, OK, start_us);
        } else if (strcmp(words[0], "scope") == 0) {
            scope_done(&sc);
            arena_reset(arena);
            scope_init(&sc, arena, number_of(words[1]));
            print_outcome(&sc, OK, start_us);
        } else {
            sc.cause = NULL;
            e = do_command(&sc, words[0], (int)number_of(words[1]), number_of(words[2]));
            print_outcome(&sc, e, start_us);
        }
        fflush(stdout);
    }
    scope_done(&sc);
}

int main(void)
{
    struct arena *arena = arena_open(ARENA_BYTES);
    struct instance_plan plan;

    if (!config_load(stderr)) {
        return 2;
    }
    crypto_open();
    plan = (struct instance_plan){.path = config()->instance_shm, .area_bytes = 64};
    instance_open(&plan);
    pg_open();
    serve(arena);
    pg_close();
    instance_close();
    arena_close(&arena);
    return 0;
}
