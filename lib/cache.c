/* An entry is one hash: v value, e end of its freshness, n number of its version, b until when
 * somebody builds. It shares the tag of its partition with the partition's index, a sorted set of
 * names by the time they expire, which counts them and says who goes first. */
#include "lib/cache.h"

#include <string.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/metrics.h"
#include "lib/redis.h"
#include "lib/str.h"

enum {
    BUILD_MS = 5000, /* a builder that is silent so long is dead; another takes over */
    LOOK_MS = 10,    /* between looks at what somebody else builds */
    EVICT_MAX = 16,  /* by one put: each adds one, so a few are enough to get below the budget */
    JITTER_PERCENT = 10
};

#define NOW_LUA                      \
    "local t = redis.call('TIME')\n" \
    "local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"

/* KEYS entry; ARGV build_ms. Reply: {state, value or false, version}. A new version's number comes
 * from the clock, so that it is never one that was given before. */
static struct redis_script get_script = {
    .name = "cache_get",
    .source = NOW_LUA "local h = redis.call('HMGET', KEYS[1], 'v', 'e', 'n', 'b')\n"
                      "if h[1] and tonumber(h[2]) > now then return {0, h[1], ''} end\n"
                      "if h[4] and tonumber(h[4]) > now then return {1, h[1], ''} end\n"
                      "local n = h[3]\n"
                      "if not n then\n"
                      "  n = string.format('%.0f', t[1] * 1000000 + t[2])\n"
                      "  redis.call('HSET', KEYS[1], 'n', n)\n"
                      "end\n"
                      "redis.call('HSET', KEYS[1], 'b', now + ARGV[1])\n"
                      "if not h[1] then redis.call('PEXPIRE', KEYS[1], 2 * ARGV[1]) end\n"
                      "return {2, h[1], n}\n"};

/* KEYS entry, index; ARGV version, value, ttl_ms, stale_ms, name, budget, most evictions, prefix of
 * entries. Reply: evictions, -1 where the version is gone. Evicted entries lie under the tag of
 * KEYS, hence on this node. */
static struct redis_script put_script = {
    .name = "cache_put",
    .source = NOW_LUA "if redis.call('HGET', KEYS[1], 'n') ~= ARGV[1] then return -1 end\n"
                      "local ends = now + ARGV[3] + ARGV[4]\n"
                      "redis.call('HSET', KEYS[1], 'v', ARGV[2], 'e', now + ARGV[3])\n"
                      "redis.call('HDEL', KEYS[1], 'b')\n"
                      "redis.call('PEXPIREAT', KEYS[1], ends)\n"
                      "redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)\n"
                      "redis.call('ZADD', KEYS[2], ends, ARGV[5])\n"
                      "local over = redis.call('ZCARD', KEYS[2]) - ARGV[6]\n"
                      "if over <= 0 then return 0 end\n"
                      "if over > tonumber(ARGV[7]) then over = tonumber(ARGV[7]) end\n"
                      "local out = redis.call('ZRANGE', KEYS[2], 0, over - 1)\n"
                      "for _, name in ipairs(out) do\n"
                      "  redis.call('UNLINK', ARGV[8] .. name)\n"
                      "  redis.call('ZREM', KEYS[2], name)\n"
                      "end\n"
                      "return #out\n"};

/* KEYS entry, index; ARGV name. The version goes too: no lease fits what comes after. */
static struct redis_script drop_script = {.name = "cache_drop",
                                          .source = "redis.call('ZREM', KEYS[2], ARGV[1])\n"
                                                    "return redis.call('UNLINK', KEYS[1])\n"};

struct keys {
    const char *entry, *index, *prefix;
};

static struct keys keys_of(struct arena *a, const char *name)
{
    uint8_t hash[SHA256_SIZE];
    unsigned partition;

    crypto_sha256(name, strlen(name), hash);
    partition = ((unsigned)hash[0] << 8 | hash[1]) % (unsigned)config()->cache_partitions;
    return (struct keys){.entry = arena_printf(a, "cache:{%u}:%s", partition, name),
                         .index = arena_printf(a, "cache:{%u}", partition),
                         .prefix = arena_printf(a, "cache:{%u}:", partition)};
}

/* One look. False: Redis does not answer. */
static bool look(struct scope *sc, const struct keys *k, struct cache_got *got)
{
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;

    redis_arg(&keys, k->entry);
    redis_arg_i64(sc, &args, BUILD_MS);
    if (redis_eval(sc, &get_script, &keys, &args, &reply) != OK || reply.kind != REDIS_LIST ||
        reply.n_items != 3) {
        scope_forgive(sc);
        return false;
    }
    got->state = reply.items[0].integer == 0   ? CACHE_FRESH
                 : reply.items[0].integer == 1 ? CACHE_STALE
                                               : CACHE_BUILD;
    if (reply.items[1].kind == REDIS_TEXT) {
        got->text = reply.items[1].text;
        got->len = reply.items[1].len;
    }
    got->lease = got->state == CACHE_BUILD ? reply.items[2].text : NULL;
    return true;
}

void cache_get(struct scope *sc, const char *name, struct cache_got *got_out)
{
    struct keys k = keys_of(sc->arena, name);
    int waited_ms;

    *got_out = (struct cache_got){.state = CACHE_BUILD};
    for (waited_ms = 0; look(sc, &k, got_out); waited_ms += LOOK_MS) {
        if (got_out->state != CACHE_STALE || got_out->text != NULL) {
            break;
        }
        got_out->state = CACHE_BUILD; /* in case nobody puts it in time: without a lease */
        if (waited_ms >= CACHE_WAIT_MS || scope_left_ms(sc, CACHE_WAIT_MS) < CACHE_WAIT_MS) {
            break;
        }
        clock_nap_ms(LOOK_MS);
    }
    metrics_add(METRIC_CACHE_HITS, got_out->state == CACHE_FRESH);
    metrics_add(METRIC_CACHE_STALE, got_out->state == CACHE_STALE);
    metrics_add(METRIC_CACHE_MISSES, got_out->state == CACHE_BUILD);
}

/* ttl_ms, up to JITTER_PERCENT shorter: what was put together does not end together. */
static int64_t jittered(int64_t ttl_ms)
{
    uint8_t random;

    crypto_random(&random, 1);
    return ttl_ms - ttl_ms * JITTER_PERCENT * random / (100 * 256);
}

/* Keys of one partition that the budget allows. */
static int64_t budget(void)
{
    int64_t most = config()->cache_max_keys * config()->cache_eviction_threshold / 100;
    int64_t each = most / config()->cache_partitions;

    return each > 1 ? each : 1;
}

void cache_put(struct scope *sc, const char *name, const struct cache_got *got, const char *text,
               size_t len, int64_t ttl_ms)
{
    struct keys k = keys_of(sc->arena, name);
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;

    if (got->lease == NULL || len > CACHE_VALUE_MAX || strlen(name) > CACHE_NAME_MAX) {
        return;
    }
    redis_arg(&keys, k.entry);
    redis_arg(&keys, k.index);
    redis_arg(&args, got->lease);
    redis_arg_bytes(&args, text, len);
    redis_arg_i64(sc, &args, jittered(ttl_ms));
    redis_arg_i64(sc, &args, config()->cache_stale_ms);
    redis_arg(&args, name);
    redis_arg_i64(sc, &args, budget());
    redis_arg_i64(sc, &args, EVICT_MAX);
    redis_arg(&args, k.prefix);
    if (redis_eval(sc, &put_script, &keys, &args, &reply) != OK) {
        scope_forgive(sc);
        return;
    }
    metrics_add(METRIC_CACHE_EVICTIONS, reply.integer);
}

void cache_drop(struct scope *sc, const char *name)
{
    struct keys k = keys_of(sc->arena, name);
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;

    redis_arg(&keys, k.entry);
    redis_arg(&keys, k.index);
    redis_arg(&args, name);
    if (redis_eval(sc, &drop_script, &keys, &args, &reply) != OK) {
        scope_forgive(sc);
    }
}
