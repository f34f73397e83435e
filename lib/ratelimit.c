/* One script judges and charges at once, so k of N parallel tries pass, whoever asks from
 * wherever. */
#include "lib/ratelimit.h"

#include <math.h>
#include <pthread.h>

#include "lib/clock.h"
#include "lib/redis.h"

/* Buckets of a process while Redis is away: theoretical arrival times, found by hash alone. */
enum { BUCKETS = 4096 };

static struct {
    pthread_mutex_t lock;
    double tat_ms[BUCKETS];
} local = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct redis_script charge_script = {
    .name = "rate_charge",
    .source = RATE_LUA "return gcra(KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]),"
                       " tonumber(ARGV[3]))",
};

int64_t rate_cost(const struct rate_policy *policy)
{
    int64_t cost = policy->cost < 1 ? 1 : policy->cost;

    return cost < policy->quota ? cost : policy->quota;
}

const char *rate_key(struct arena *a, const char *subject, const char *policy_name)
{
    return arena_printf(a, "rate:{%s}:%s", subject, policy_name);
}

bool rate_verdict_read(const struct redis_reply *items, struct rate_verdict *verdict_out)
{
    int i;

    for (i = 0; i < 4; i++) {
        if (items[i].kind != REDIS_INT) {
            return false;
        }
    }
    *verdict_out = (struct rate_verdict){.is_allowed = items[0].integer == 1,
                                         .remaining = items[1].integer,
                                         .reset_ms = items[2].integer,
                                         .retry_ms = items[3].integer};
    return true;
}

enum err rate_charge(struct scope *sc, const char *subject, const struct rate_policy *policy,
                     struct rate_verdict *verdict_out)
{
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;

    redis_arg(&keys, rate_key(sc->arena, subject, policy->name));
    redis_arg_i64(sc, &args, policy->quota);
    redis_arg_i64(sc, &args, policy->window_ms);
    redis_arg_i64(sc, &args, rate_cost(policy));
    TRY(redis_eval(sc, &charge_script, &keys, &args, &reply));
    if (reply.kind != REDIS_LIST || reply.n_items != 4 ||
        !rate_verdict_read(reply.items, verdict_out)) {
        return scope_fail(sc, ERR_INTERNAL, "ratelimit: odd reply of the script");
    }
    return OK;
}

enum err rate_forget(struct scope *sc, const char *subject, const struct rate_policy *policy)
{
    const char *key = rate_key(sc->arena, subject, policy->name);
    struct redis_reply reply;

    return redis_do(sc, key, &reply, "DEL", key, NULL);
}

/* FNV-1a, 32 bits (Fowler, Noll, Vo): spreads well enough for a table of buckets. */
static uint32_t hash_of(uint32_t hash, const char *text)
{
    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * 16777619u;
    }
    return hash;
}

void rate_charge_locally(const char *subject, const struct rate_policy *policy, int64_t share,
                         struct rate_verdict *verdict_out)
{
    double quota = policy->quota > share ? (double)policy->quota / (double)share : 1;
    double window = (double)policy->window_ms, step = window / quota;
    double charge = step * (double)(rate_cost(policy) < quota ? rate_cost(policy) : 1);
    double now = (double)clock_mono_us() / 1000, tat;
    uint32_t i = hash_of(hash_of(2166136261u, policy->name), subject) % BUCKETS;

    pthread_mutex_lock(&local.lock);
    tat = local.tat_ms[i] > now ? local.tat_ms[i] : now;
    verdict_out->is_allowed = tat + charge - now <= window + step / 2;
    if (verdict_out->is_allowed) {
        tat += charge;
        local.tat_ms[i] = tat;
    }
    pthread_mutex_unlock(&local.lock);
    verdict_out->remaining =
        verdict_out->is_allowed ? (int64_t)floor((window - (tat - now)) / step + 0.5) : 0;
    verdict_out->reset_ms = (int64_t)ceil(tat - now);
    verdict_out->retry_ms =
        verdict_out->is_allowed ? 0 : (int64_t)ceil(tat + charge - now - window);
}
