/* What routing, pooling and mapping cost above libpq: reads one users row by its id, in turns by
 * pg_one() and by PQexecPrepared() on a connection of its own, and tells the CPU time per read of
 * this process. The database is DATABASE_URL, or DATABASE_SHARD_nn_URL of the shards.
 *   bench_pg ROUNDS READS      prints one JSON object; ratio is the median over the rounds */
#include <postgresql/libpq-fe.h>

#include <assert.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/instance.h"
#include "lib/pg.h"
#include "lib/str.h"
#include "loadtest/driver.h"
#include "queries.h"

enum { ROUNDS_MAX = 101, ARENA_BYTES = 131072 };

struct user {
    struct id id;
    const char *email, *name, *role, *password_hash;
    int64_t version, created_at, updated_at;
};

static const struct field user_fields[] = {
    F_ID(user, id, "id", 0),
    F_STR(user, email, "email", 0, 320, 0),
    F_STR(user, name, "name", 0, 200, 0),
    F_STR(user, role, "role", 0, 10, 0),
    F_STR(user, password_hash, "passwordHash", 0, 200, F_HIDDEN),
    F_I64(user, version, "version", 0, INT64_MAX, 0),
    F_TIME(user, created_at, "createdAt", 0),
    F_TIME(user, updated_at, "updatedAt", 0),
};
static const struct shape shape_user = SHAPE(user, user_fields);

static void stop(const char *what, const char *why)
{
    fprintf(stderr, "bench_pg: %s: %s\n", what, why == NULL ? "" : why);
    exit(1);
}

/* The bare way: same statement, one look at each value. */
static PGconn *bare_open(const char *url, const char *sql)
{
    PGconn *pg = PQconnectdb(url);
    PGresult *r;

    if (PQstatus(pg) != CONNECTION_OK) {
        stop("connect", PQerrorMessage(pg));
    }
    r = PQprepare(pg, "bare", sql, 0, NULL);
    if (PQresultStatus(r) != PGRES_COMMAND_OK) {
        stop("prepare", PQerrorMessage(pg));
    }
    PQclear(r);
    return pg;
}

static size_t bare_reads(PGconn *pg, struct id id, int64_t reads)
{
    const char *params[1];
    char text[ID_TEXT_SIZE];
    size_t sum = 0;

    while (reads-- > 0) {
        PGresult *r;
        int column;

        id_format(id, text);
        params[0] = text;
        r = PQexecPrepared(pg, "bare", 1, params, NULL, NULL, 0);
        if (PQresultStatus(r) != PGRES_TUPLES_OK || PQntuples(r) != 1) {
            stop("bare read", PQerrorMessage(pg));
        }
        for (column = 0; column < PQnfields(r); column++) {
            sum += (size_t)PQgetvalue(r, 0, column)[0];
        }
        PQclear(r);
    }
    return sum;
}

/* Our way: routed, leased, mapped, given back. The scope is the request's, not the read's. */
static void routed_reads(struct arena *arena, struct id id, int64_t reads)
{
    struct scope sc;

    scope_init(&sc, arena, 600000);
    while (reads-- > 0) {
        struct user user;

        if (pg_one(&sc, q_users_by_id(&sc, id), &shape_user, &user) != OK) {
            stop("routed read", sc.cause);
        }
        scope_done(&sc);
        arena_reset(arena);
    }
}

static struct id insert_user(struct arena *arena)
{
    struct id id = id_make_user();
    struct scope sc;
    struct user user;
    enum err e;

    scope_init(&sc, arena, 10000);
    e = pg_one(
        &sc,
        q_users_insert(&sc, id, "bench@example.invalid", "Bench", "artist",
                       "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2Fs$aGFzaGhhc2hoYXNo"),
        &shape_user, &user);
    if (e != OK) {
        stop("insert", sc.cause);
    }
    scope_done(&sc);
    return id;
}

static void delete_user(struct arena *arena, struct id id)
{
    struct scope sc;

    scope_init(&sc, arena, 10000);
    if (pg_exec(&sc, q_users_delete(&sc, id), NULL) != OK) {
        stop("delete", sc.cause);
    }
    scope_done(&sc);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void measure(struct arena *arena, PGconn *pg, struct id id, int rounds, int64_t reads)
{
    double ratios[ROUNDS_MAX], bare_us = 0, routed_us = 0;
    int i;

    bare_reads(pg, id, 1000);
    routed_reads(arena, id, 1000);
    for (i = 0; i < rounds; i++) {
        int64_t start = cpu_us(), middle;

        bare_reads(pg, id, reads);
        middle = cpu_us();
        routed_reads(arena, id, reads);
        ratios[i] = (double)(cpu_us() - middle) / (double)(middle - start);
        bare_us += (double)(middle - start);
        routed_us += (double)(cpu_us() - middle);
    }
    qsort(ratios, (size_t)rounds, sizeof(ratios[0]), by_value);
    printf("{\"bareUs\":%.3f,\"routedUs\":%.3f,\"ratio\":%.4f,\"shards\":%d,\"rounds\":%d}\n",
           bare_us / rounds / (double)reads, routed_us / rounds / (double)reads, ratios[rounds / 2],
           pg_shard_count(), rounds);
}

int main(int argc, char **argv)
{
    struct arena *arena = arena_open(ARENA_BYTES);
    int64_t rounds = 0, reads = 0;
    struct instance_plan plan;
    struct scope sc;
    const char *url;
    struct id id;
    PGconn *pg;

    if (argc != 3 || !i64_parse(argv[1], &rounds) || !i64_parse(argv[2], &reads) || rounds < 1 ||
        rounds > ROUNDS_MAX || reads < 1 || !config_load(stderr)) {
        stop("usage", "bench_pg ROUNDS READS");
    }
    crypto_open();
    plan = (struct instance_plan){.area_bytes = 64};
    instance_open(&plan);
    pg_open();
    id = insert_user(arena);
    url = config()->database_shard_url[pg_shard_of(id_place(id))];
    scope_init(&sc, arena, 1000);
    pg = bare_open(url == NULL || url[0] == '\0' ? config()->database_url : url,
                   q_users_by_id(&sc, id).sql);
    measure(arena, pg, id, (int)rounds, reads);
    PQfinish(pg);
    delete_user(arena, id);
    pg_close();
    instance_close();
    arena_close(&arena);
    return 0;
}
