/* Rate limits: the generic cell rate algorithm (GCRA; ITU-T I.371 annex A, "virtual scheduling"),
 * exact over all processes and instances, since one atomic Redis script judges and charges.
 *
 * A limit of q requests per window w means: a burst of q, refilled evenly over w. State is one
 * number per subject and policy, under "rate:{subject}:policy", that expires by itself. */
#ifndef LIB_RATELIMIT_H
#define LIB_RATELIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/scope.h"

struct rate_policy {
    const char *name; /* part of the key and of the RateLimit field: [a-z-]+ */
    int64_t quota;    /* requests per window; also the burst */
    int64_t window_ms;
    int64_t cost; /* of one request; 0 counts as 1, and no more than the quota */
};

struct rate_verdict {
    bool is_allowed;
    int64_t remaining; /* requests that would pass right now */
    int64_t reset_ms;  /* until the quota is full again */
    int64_t retry_ms;  /* refused: until the next one may pass */
};

/* Charge one request of subject (user id or address) to the policy. One round trip. */
MUST_USE enum err rate_charge(struct scope *sc, const char *subject,
                              const struct rate_policy *policy, struct rate_verdict *verdict_out);

/* The same without Redis, by a table of this process: quota / share is its part of the limit. Two
 * subjects may share a bucket by chance, so it may be too strict, and never too lax. Never blocks
 * for longer than a mutex. */
void rate_charge_locally(const char *subject, const struct rate_policy *policy, int64_t share,
                         struct rate_verdict *verdict_out);

/* Forget what was charged to the subject (a right password after some wrong ones). */
MUST_USE enum err rate_forget(struct scope *sc, const char *subject,
                              const struct rate_policy *policy);

/* Key of a subject and a policy. */
const char *rate_key(struct arena *a, const char *subject, const char *policy_name);

/* What a request costs of a policy, within 1 … quota. */
int64_t rate_cost(const struct rate_policy *policy);

/* Lua: gcra(key, quota, window_ms, cost) → {allowed, remaining, reset_ms, retry_ms}, for scripts
 * that charge along with other work. Times are ms since 2023-11-14, so that a double keeps them to
 * nanoseconds. */
#define RATE_LUA                                                                         \
    "local function gcra(key, quota, window, cost)\n"                                    \
    "  local t = redis.call('TIME')\n"                                                   \
    "  local now = (t[1] - 1700000000) * 1000 + t[2] / 1000\n"                           \
    "  local step = window / quota\n"                                                    \
    "  local tat = tonumber(redis.call('GET', key) or 0)\n"                              \
    "  if tat < now then tat = now end\n"                                                \
    "  local new = tat + step * cost\n"                                                  \
    "  if new - now > window + step / 2 then\n"                                          \
    "    return {0, 0, math.ceil(tat - now), math.ceil(new - now - window)}\n"           \
    "  end\n"                                                                            \
    "  redis.call('SET', key, string.format('%.6f', new), 'PX', math.ceil(new - now))\n" \
    "  local left = math.floor((window - (new - now)) / step + 0.5)\n"                   \
    "  return {1, left, math.ceil(new - now), 0}\n"                                      \
    "end\n"

struct redis_reply;

/* Read gcra()'s four numbers. False where the reply is something else. */
bool rate_verdict_read(const struct redis_reply *items, struct rate_verdict *verdict_out);

#endif
