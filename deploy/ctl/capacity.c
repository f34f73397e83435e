/* Cores are demand: requests a second times seconds of CPU a request (the utilization law). Each
 * tier's machines are bought for a share of their cores, since waits grow without bound as it nears
 * 1. */
#include "deploy/ctl/capacity.h"

#include <math.h>
#include <string.h>

#include "lib/base.h"

/* A user makes a request, waits THINK_S, and makes the next; an answer takes ANSWER_S at most on
 * average. Little's law: requests a second = users / (THINK_S + ANSWER_S). */
#define THINK_S 10.0
#define ANSWER_S 0.2
#define MONTH_S (730.0 * 3600)
#define SESSION_BYTES 1024.0 /* its hash takes 300; the rest is for index, rate and mark */
#define REDIS_MEMORY_SHARE 0.6
#define S3_DOLLARS_PER_GB 0.023
#define S3_PUTS_PER_UPLOAD \
    8.0 /* the file, three waveforms with three forms at most, one conversion */
#define S3_DOLLARS_PER_PUT 0.000005
#define CLUSTER_MASTERS_LEAST 3
#define USEFUL_OF_GROUP 2.0 /* of a primary and two replicas: one may be lost */
#define SERVERS_OF_GROUP 3
#define ROUNDS 100 /* of more instances being less efficient; each adds less */

/* On-demand prices of Linux machines of that size in us-east-1, 730 hours, as of 2025: check them
 * before money depends on it. Redis has one thread that works, so only one core of its machine
 * counts. */
static const struct cap_machine machines[CAP_TIERS] = {
    [CAP_PROXY] = {"c6i.large", 2, 4, 62.05, 0.6},
    [CAP_API] = {"c6i.large", 2, 4, 62.05, 0.6},
    [CAP_POSTGRES] = {"r6i.xlarge", 4, 32, 183.96, 0.5},
    [CAP_REDIS] = {"r6i.large", 1, 16, 91.98, 0.5},
    [CAP_S3] = {"bought by the byte", 0, 0, 0, 1},
    [CAP_WORKER] = {"c6i.xlarge", 4, 8, 124.10, 0.7},
};

/* One machine for everything, the smallest that is enough. */
static const struct cap_machine alone[] = {
    {"c6i.large", 2, 4, 62.05, 0.6},
    {"c6i.xlarge", 4, 8, 124.10, 0.6},
    {"c6i.2xlarge", 8, 16, 248.20, 0.6},
};

const struct cap_machine *cap_machine(enum cap_tier tier)
{
    return &machines[tier];
}

/* Most users of phase 0, 1, …; more are phase 3's. */
static const int64_t phase_users[] = {10000, 100000, 1000000};

static int phase_of(int64_t users)
{
    int phase = 0;

    while (phase < (int)ARRAY_LEN(phase_users) && users > phase_users[phase]) {
        phase++;
    }
    return phase;
}

static int64_t at_least(double value, int64_t least)
{
    int64_t whole = (int64_t)ceil(value - 1e-9);

    return whole > least ? whole : least;
}

static int64_t machines_of(enum cap_tier tier, double cores, int64_t least)
{
    return at_least(cores / (machines[tier].cores * machines[tier].utilization), least);
}

/* Share of its own core's throughput that each of n instances keeps. */
static double efficiency(const struct cap_costs *costs, double n, bool *is_beyond_out)
{
    double most = CAP_CARRY * costs->n_measured;
    double peak = costs->law.kappa > 0 ? sqrt((1 - costs->law.sigma) / costs->law.kappa) : INFINITY;
    double bound = fmax(1, fmin(most, peak));

    *is_beyond_out = n > bound;
    n = fmin(n, bound); /* beyond it, instances of cells that share stores only */
    return usl_throughput(&costs->law, n) / (n * costs->law.gamma);
}

/* Instances for so many busy cores: more of them are less efficient, so go on until it fits. */
static int64_t instances_of(const struct cap_costs *costs, double cores, bool *is_beyond_out)
{
    double needed = cores;
    int i;

    for (i = 0; i < ROUNDS; i++) {
        needed = cores /
                 efficiency(costs, fmax(1, needed / machines[CAP_API].utilization), is_beyond_out);
    }
    return machines_of(CAP_API, needed, 1);
}

static int64_t power_of_two(int64_t least)
{
    int64_t n = 1;

    while (n < least) {
        n *= 2;
    }
    return n;
}

static void plan_one_machine(struct cap_need *out)
{
    double busy = 0;
    size_t i;

    for (i = 0; i < CAP_TIERS; i++) {
        busy += out->cores[i];
    }
    for (i = 0; i + 1 < ARRAY_LEN(alone); i++) {
        if (busy <= alone[i].cores * alone[i].utilization) {
            break;
        }
    }
    out->machines = at_least(busy / (alone[i].cores * alone[i].utilization), 1);
    out->dollars = (double)out->machines * alone[i].dollars;
    out->proxies = out->instances = out->database_groups = out->shards = out->redis_nodes =
        out->workers = 1;
}

static void plan_fleet(const struct cap_costs *costs, struct cap_need *out)
{
    const struct cap_machine *redis = &machines[CAP_REDIS], *database = &machines[CAP_POSTGRES];
    double sessions_gib = (double)out->users * SESSION_BYTES / (1024.0 * 1024 * 1024);
    int64_t masters = machines_of(CAP_REDIS, out->cores[CAP_REDIS], CLUSTER_MASTERS_LEAST);
    int64_t servers;

    masters = at_least(sessions_gib / (redis->memory_gib * REDIS_MEMORY_SHARE), masters);
    out->proxies = machines_of(CAP_PROXY, out->cores[CAP_PROXY], 2);
    out->instances = instances_of(costs, out->cores[CAP_API], &out->is_beyond);
    out->instances = out->instances < 3 ? 3 : out->instances;
    out->database_groups = at_least(
        out->cores[CAP_POSTGRES] / (USEFUL_OF_GROUP * database->cores * database->utilization), 1);
    out->shards = power_of_two(out->database_groups);
    out->redis_nodes = 2 * masters; /* each with a replica */
    out->workers = machines_of(CAP_WORKER, out->cores[CAP_WORKER], 2);
    servers = SERVERS_OF_GROUP * out->database_groups;
    out->machines = out->proxies + out->instances + servers + out->redis_nodes + out->workers;
    out->dollars = (double)out->proxies * machines[CAP_PROXY].dollars +
                   (double)out->instances * machines[CAP_API].dollars +
                   (double)servers * database->dollars + (double)out->redis_nodes * redis->dollars +
                   (double)out->workers * machines[CAP_WORKER].dollars;
}

void cap_plan(const struct cap_costs *costs, int64_t users, double upload_share,
              struct cap_need *out)
{
    double uploads_a_month;
    int i;

    memset(out, 0, sizeof(*out));
    out->users = users;
    out->phase = phase_of(users);
    out->requests_per_s = (double)users / (THINK_S + ANSWER_S);
    out->uploads_per_s = out->requests_per_s * upload_share;
    for (i = 0; i < CAP_TIERS; i++) {
        out->cores[i] = (out->requests_per_s * costs->request_ms[i] +
                         out->uploads_per_s * costs->upload_ms[i]) /
                        1000;
    }
    uploads_a_month = out->uploads_per_s * MONTH_S;
    out->storage_dollars = uploads_a_month * (costs->upload_bytes / 1e9 * S3_DOLLARS_PER_GB +
                                              S3_PUTS_PER_UPLOAD * S3_DOLLARS_PER_PUT);
    if (out->phase == 0) {
        plan_one_machine(out);
    } else {
        plan_fleet(costs, out);
    }
}

const char *cap_plan_says(int64_t users)
{
    switch (users) {
    case 10000:
        return "$0-50";
    case 100000:
        return "3 servers, $600-2,000";
    case 1000000:
        return "20 servers, $5,000-10,000";
    case 100000000:
        return "500-1,000 pods, 100 shards, 100 Redis nodes, $50,000-200,000";
    default:
        return "";
    }
}
