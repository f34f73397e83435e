/* What asking all shards at once costs beside the slowest of them alone. A question takes WAIT_MS
 * in each database (pg_sleep: a database elsewhere, whose work is not on our cores; 0: only what
 * the search itself costs here). Databases are DATABASE_URL and DATABASE_SHARD_nn_URL.
 *   bench_scatter ROUNDS WAIT_MS
 * prints one JSON object; ratio is the median over the rounds. */
#include <stdlib.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/instance.h"
#include "lib/pg_param.h"
#include "lib/pg_scatter.h"
#include "lib/str.h"

enum { ROUNDS_MAX = 1001, ARENA_BYTES = 4 << 20, PAGE = 20 };

struct user {
    struct id id;
    const char *name;
};

static const struct field user_fields[] = {
    F_ID(user, id, "id", 0),
    F_STR(user, name, "name", 0, 200, 0),
};
static const struct shape shape_user = SHAPE(user, user_fields);

static void stop(const char *what, const char *why)
{
    fprintf(stderr, "bench_scatter: %s: %s\n", what, why == NULL ? "" : why);
    exit(1);
}

static struct pg_query question(struct scope *sc, int64_t wait_ms, int shard)
{
    struct pg_query q = {.name = "bench_scatter",
                         .sql = "SELECT id, name FROM users, pg_sleep($1::float8 / 1000) "
                                "WHERE lower(name) LIKE '%bench%' ORDER BY id LIMIT 20",
                         .index = 1,
                         .kind = PG_MANY,
                         .read_only = true,
                         .n_params = 1,
                         .place = pg_place_on_shard(shard)};

    q.params[0] = pg_param_i64(sc, wait_ms);
    return q;
}

/* Microseconds of the question to one shard. */
static int64_t ask_one(struct arena *arena, int64_t wait_ms, int shard)
{
    int64_t start_us = clock_mono_us();
    struct user *users;
    struct scope sc;
    size_t n;

    scope_init(&sc, arena, 60000);
    if (pg_many(&sc, question(&sc, wait_ms, shard), &shape_user, &users, &n) != OK) {
        stop("a shard", sc.cause);
    }
    scope_done(&sc);
    arena_reset(arena);
    return clock_mono_us() - start_us;
}

static int64_t ask_all(struct arena *arena, int64_t wait_ms)
{
    int64_t start_us = clock_mono_us();
    struct pg_page page;
    struct scope sc;

    scope_init(&sc, arena, 60000);
    if (pg_scatter_page(&sc, question(&sc, wait_ms, 0), &shape_user, PAGE, &page) != OK ||
        page.n_shards_failed > 0) {
        stop("all shards", sc.cause);
    }
    scope_done(&sc);
    arena_reset(arena);
    return clock_mono_us() - start_us;
}

static int64_t slowest_of(struct arena *arena, int64_t wait_ms)
{
    int64_t slowest_us = 0;
    int shard;

    for (shard = 0; shard < pg_shard_count(); shard++) {
        int64_t us = ask_one(arena, wait_ms, shard);

        slowest_us = us > slowest_us ? us : slowest_us;
    }
    return slowest_us;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(double *values, int64_t n)
{
    qsort(values, (size_t)n, sizeof(values[0]), by_value);
    return values[n / 2];
}

static void measure(struct arena *arena, int64_t rounds, int64_t wait_ms)
{
    static double slowest_ms[ROUNDS_MAX], all_ms[ROUNDS_MAX], ratios[ROUNDS_MAX];
    int64_t i;

    for (i = -1; i < rounds; i++) { /* the first opens and prepares */
        double one = (double)slowest_of(arena, wait_ms) / 1000;
        double all = (double)ask_all(arena, wait_ms) / 1000;

        if (i >= 0) {
            slowest_ms[i] = one;
            all_ms[i] = all;
            ratios[i] = all / one;
        }
    }
    printf("{\"shards\":%d,\"waitMs\":%lld,\"slowestMs\":%.3f,\"allMs\":%.3f,\"ratio\":%.3f}\n",
           pg_shard_count(), (long long)wait_ms, median(slowest_ms, rounds), median(all_ms, rounds),
           median(ratios, rounds));
}

int main(int argc, char **argv)
{
    struct arena *arena = arena_open(ARENA_BYTES);
    int64_t rounds = 0, wait_ms = 0;
    struct instance_plan plan;

    if (argc != 3 || !i64_parse(argv[1], &rounds) || !i64_parse(argv[2], &wait_ms) || rounds < 1 ||
        rounds > ROUNDS_MAX || wait_ms < 0 || !config_load(stderr)) {
        stop("usage", "bench_scatter ROUNDS WAIT_MS");
    }
    crypto_open();
    plan = (struct instance_plan){.area_bytes = 64};
    instance_open(&plan);
    pg_open();
    measure(arena, rounds, wait_ms);
    pg_close();
    instance_close();
    arena_close(&arena);
    return 0;
}
