/* Two keys under one tag: who holds the lock, for a time, and the last fence, for ever. */
#include "lib/lock.h"

#include "lib/redis.h"

/* KEYS lock, fence; ARGV holder, ttl_ms. Reply: the fence, 0 where another holds it. */
static struct redis_script take_script = {
    .name = "lock_take",
    .source = "local holder = redis.call('GET', KEYS[1])\n"
              "if holder and holder ~= ARGV[1] then return 0 end\n"
              "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n"
              "local fence = tonumber(redis.call('GET', KEYS[2]) or 0)\n"
              "if holder and fence > 0 then return fence end\n"
              "local t = redis.call('TIME')\n"
              "local now = t[1] * 1000000 + t[2]\n"
              "fence = fence < now and now or fence + 1\n"
              "redis.call('SET', KEYS[2], string.format('%.0f', fence))\n"
              "return fence\n"};

/* KEYS lock; ARGV holder. */
static struct redis_script leave_script = {
    .name = "lock_leave",
    .source = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
              "return redis.call('DEL', KEYS[1])\n"};

enum err lock_take(struct scope *sc, const char *name, const char *holder, int64_t ttl_ms,
                   int64_t *fence_out)
{
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;

    redis_arg(&keys, arena_printf(sc->arena, "lock:{%s}", name));
    redis_arg(&keys, arena_printf(sc->arena, "lock:{%s}:fence", name));
    redis_arg(&args, holder);
    redis_arg_i64(sc, &args, ttl_ms);
    TRY(redis_eval(sc, &take_script, &keys, &args, &reply));
    if (reply.kind != REDIS_INT) {
        return scope_fail(sc, ERR_INTERNAL, "lock: odd reply of the script");
    }
    *fence_out = reply.integer;
    return OK;
}

enum err lock_leave(struct scope *sc, const char *name, const char *holder)
{
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;

    redis_arg(&keys, arena_printf(sc->arena, "lock:{%s}", name));
    redis_arg(&args, holder);
    return redis_eval(sc, &leave_script, &keys, &args, &reply);
}
