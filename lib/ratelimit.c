/* One script judges and charges at once, so k of N parallel tries pass, whoever asks from
 * wherever. */
#include "lib/ratelimit.h"

#include "lib/redis.h"

static struct redis_script charge_script = {
    .name = "rate_charge",
    .source = RATE_LUA "return gcra(KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]))",
};

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
