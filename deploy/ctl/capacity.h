/* What a load needs: cores of each tier by the utilization law, instances by the Universal
 * Scalability Law, machines and their price from one table. Pure. docs/internals/capacity.md has
 * the formulae with their sources. */
#ifndef DEPLOY_CTL_CAPACITY_H
#define DEPLOY_CTL_CAPACITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "deploy/ctl/usl.h"

enum cap_tier { CAP_PROXY, CAP_API, CAP_POSTGRES, CAP_REDIS, CAP_S3, CAP_WORKER, CAP_TIERS };

/* Measured: CPU time of each tier. */
struct cap_costs {
    double request_ms[CAP_TIERS]; /* of one request of the mix */
    double upload_ms[CAP_TIERS];  /* of one track: up, checked, analysed, drawn, converted */
    double upload_bytes;          /* of it in S3, with what was made of it */
    struct usl law;               /* requests a second of n API instances with a core each */
    double n_measured;            /* largest n that the law was checked with */
};

struct cap_need {
    int64_t users;
    int phase;
    double requests_per_s, uploads_per_s;
    double cores[CAP_TIERS]; /* busy ones */
    int64_t proxies, instances, database_groups, shards, redis_nodes, workers;
    int64_t machines;
    double dollars;         /* a month, all machines */
    double storage_dollars; /* a month, for the files of one month in S3 */
    bool is_beyond;         /* more instances than the law may be carried on to */
};

/* The law may be carried on to so many times the largest n it was checked with. */
enum { CAP_CARRY = 4 };

/* A kind of machine: the one table of sizes and prices. */
struct cap_machine {
    const char *name;
    double cores, memory_gib, dollars; /* a month */
    double utilization;                /* of its cores that are meant to be busy */
};

const struct cap_machine *cap_machine(enum cap_tier tier);

/* What so many concurrent users need, of whose requests this share uploads a track. */
void cap_plan(const struct cap_costs *costs, int64_t users, double upload_share,
              struct cap_need *out);

/* What the readiness plan itself says for so many users; "" where it says nothing. */
const char *cap_plan_says(int64_t users);

#endif
