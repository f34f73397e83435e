/* Keys of one user share the tag {userId}, so each script below runs on one node and declares all
 * that it touches. */
#include "lib/session.h"

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/metrics.h"
#include "lib/pg.h"
#include "lib/redis.h"
#include "lib/str.h"

enum {
    SECRET_BYTES = 32,
    TOKEN_BYTES = 16 + SECRET_BYTES,
    TOUCH_MS = 60000, /* a use is noted when the last note is older: saves writes */
    END_CHUNK = 50,   /* sessions ended by one script */
    COUNT_CACHE_MS = 1000,
    ADMIT_MS = 30000, /* over the longest time from a session's place in the count to its key */
    CAPACITY_RETRY_S = 30,       /* sessions end by the minute, not by the second */
    MARK_SLACK_MS = 50,          /* an unknown position is good for the largest lag, and this */
    MARK_TTL_MS = 60000,         /* no replica in use lacks what is older than the largest lag */
    SESSIONS_PER_USER_MAX = 1000 /* the oldest goes when a user opens more */
};

static struct redis_script create_script = {
    .name = "session_create",
    .source = "redis.call('HSET', KEYS[1], 'h', ARGV[1], 'r', ARGV[2], 'c', ARGV[3], 'l', ARGV[3],"
              " 'a', ARGV[4], 'u', ARGV[5])\n"
              "redis.call('PEXPIRE', KEYS[1], ARGV[6])\n"
              "redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[3])\n"
              "redis.call('ZADD', KEYS[2], ARGV[3] + ARGV[6], ARGV[7])\n"
              "redis.call('PEXPIRE', KEYS[2], ARGV[6])\n"
              "return redis.call('ZRANGE', KEYS[2], 0, -1 - ARGV[8])\n",
};

/* clang-format off: the script's lines keep their places */
static struct redis_script check_script = {
    .name = "session_check",
    .source = RATE_LUA
    "local s = redis.call('HMGET', KEYS[1], 'h', 'r', 'l')\n"
    "if s[1] ~= ARGV[1] then return 0 end\n"
    "local touched = 0\n"
    "if ARGV[2] - s[3] > tonumber(ARGV[3]) then\n"
    "  touched = 1\n"
    "  redis.call('HSET', KEYS[1], 'l', ARGV[2])\n"
    "  redis.call('PEXPIRE', KEYS[1], ARGV[4])\n"
    "  redis.call('ZADD', KEYS[3], 'XX', ARGV[2] + ARGV[4], ARGV[5])\n"
    "  redis.call('PEXPIRE', KEYS[3], ARGV[4])\n"
    "end\n"
    "local v = gcra(KEYS[2], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8] or 1))\n"
    "v[5] = s[2]\n"
    "v[6] = touched\n"
    "local w = redis.call('HMGET', KEYS[4], 's', 'l', 'e', 'u')\n"
    "if w[4] then\n"
    "  local t = redis.call('TIME')\n"
    "  if tonumber(w[4]) > t[1] * 1000 + t[2] / 1000 then w[1] = '0' end\n"
    "end\n"
    "v[7], v[8], v[9] = w[1] or '', w[2] or '0', w[3] or '0'\n"
    "return v\n",
};

/* KEYS[1] is what the user has written; ARGV: server, position, epoch of the map, how long (ms) an
 * unknown position (server 0) is good for, life of the key. Of one server the furthest position
 * counts, of several the one by the newest map. */
static struct redis_script mark_script = {
    .name = "session_mark",
    .source = "local w = redis.call('HMGET', KEYS[1], 's', 'l', 'e')\n"
              "local epoch = math.max(tonumber(w[3] or 0), tonumber(ARGV[3]))\n"
              "if ARGV[1] == '0' then\n"
              "  local t = redis.call('TIME')\n"
              "  redis.call('HSET', KEYS[1], 'u', string.format('%.0f', t[1] * 1000 + t[2] / 1000 "
              "+ ARGV[4]))\n"
              "elseif w[1] == ARGV[1] then\n"
              "  if tonumber(ARGV[2]) > tonumber(w[2]) then redis.call('HSET', KEYS[1], 'l', "
              "ARGV[2]) end\n"
              "elseif not w[1] or tonumber(ARGV[3]) >= tonumber(w[3]) then\n"
              "  redis.call('HSET', KEYS[1], 's', ARGV[1], 'l', ARGV[2])\n"
              "end\n"
              "redis.call('HSET', KEYS[1], 'e', epoch)\n"
              "redis.call('PEXPIRE', KEYS[1], ARGV[5])\n"
              "return 1\n",
};
/* clang-format on */

/* KEYS[1] is the index, the others are sessions; ARGV their ids. */
static struct redis_script end_script = {
    .name = "session_end",
    .source = "local n = 0\n"
              "for i = 2, #KEYS do\n"
              "  n = n + redis.call('DEL', KEYS[i])\n"
              "  redis.call('ZREM', KEYS[1], ARGV[i - 1])\n"
              "end\n"
              "return n\n",
};

/* KEYS[1] is a partition of the fleet's sessions by expiry. ARGV: now, MAX_SESSIONS less what the
 * other partitions hold, expiry, session id, 1: let in all the same. Reply: 0 full, 1 let in, 2 let
 * in though full. */
static struct redis_script admit_script = {
    .name = "session_admit",
    .source = "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])\n"
              "local is_full = redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2])\n"
              "if is_full and ARGV[5] == '0' then return 0 end\n"
              "redis.call('ZADD', KEYS[1], ARGV[3], ARGV[4])\n"
              "return is_full and 2 or 1\n",
};

static const char *session_key(struct arena *a, struct id user, struct id session)
{
    return arena_printf(a, "session:{%s}:%s", id_text(a, user), id_text(a, session));
}

static const char *index_key(struct arena *a, struct id user)
{
    return arena_printf(a, "sessions:{%s}", id_text(a, user));
}

static const char *written_key(struct arena *a, struct id user)
{
    return arena_printf(a, "written:{%s}", id_text(a, user));
}

static const char *partition_key(struct arena *a, int partition)
{
    return arena_printf(a, "sessions:live:{%d}", partition);
}

static int partition_of(struct id session)
{
    return (int)(id_place(session).hash % (uint32_t)config()->session_partitions);
}

/* Live sessions of all partitions but one (-1: of all). */
static enum err count_live(struct scope *sc, int but, int64_t *n_out)
{
    char now[24];
    int i;

    snprintf(now, sizeof(now), "%lld", (long long)clock_wall_ms());
    *n_out = 0;
    for (i = 0; i < config()->session_partitions; i++) {
        const char *key = partition_key(sc->arena, i);
        struct redis_reply reply;

        if (i != but) {
            TRY(redis_do(sc, key, &reply, "ZCOUNT", key, now, "+inf", NULL));
            *n_out += reply.integer;
        }
    }
    return OK;
}

enum err session_count(struct scope *sc, int64_t *n_out)
{
    return count_live(sc, -1, n_out);
}

/* The same, at most a second old: with one partition there is nothing to ask. */
static enum err count_others(struct scope *sc, int partition, int64_t *n_out)
{
    static _Thread_local int64_t cached, until_mono_ms, cached_for = -1;

    if (config()->session_partitions == 1) {
        *n_out = 0;
        return OK;
    }
    if (cached_for != partition || clock_mono_ms() >= until_mono_ms) {
        TRY(count_live(sc, partition, &cached));
        cached_for = partition;
        until_mono_ms = clock_mono_ms() + COUNT_CACHE_MS;
    }
    *n_out = cached;
    return OK;
}

/* Enter a session into the fleet's count, if there is room. */
static enum err admit(struct scope *sc, struct id session, int64_t now_ms, int64_t expires_at_ms)
{
    int partition = partition_of(session);
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;
    int64_t others;

    TRY(count_others(sc, partition, &others));
    redis_arg(&keys, partition_key(sc->arena, partition));
    redis_arg_i64(sc, &args, now_ms);
    redis_arg_i64(sc, &args, config()->max_sessions - others);
    redis_arg_i64(sc, &args, expires_at_ms);
    redis_arg(&args, id_text(sc->arena, session));
    redis_arg(&args, config_is_shadowed("session_capacity") ? "1" : "0");
    TRY(redis_eval(sc, &admit_script, &keys, &args, &reply));
    metrics_add(METRIC_GUARD_SHADOWED, reply.integer == 2);
    if (reply.integer >= 1) {
        return OK;
    }
    sc->retry_after_s = CAPACITY_RETRY_S;
    return scope_refuse(sc, ERR_SESSION_CAPACITY, "All %lld sessions are taken; try again later.",
                        (long long)config()->max_sessions);
}

/* Take a session out of the count, or (expires_at_ms > 0) note its new expiry. A loss is mended by
 * the next note or by expiry. */
static void recount(struct scope *sc, struct id session, int64_t expires_at_ms)
{
    const char *key = partition_key(sc->arena, partition_of(session));
    const char *member = id_text(sc->arena, session);
    struct redis_reply reply;
    enum err e;

    if (expires_at_ms > 0) {
        e = redis_do(sc, key, &reply, "ZADD", key,
                     arena_printf(sc->arena, "%lld", (long long)expires_at_ms), member, NULL);
    } else {
        e = redis_do(sc, key, &reply, "ZREM", key, member, NULL);
    }
    if (e != OK) {
        scope_forgive(sc);
    }
}

/* Fill claim from user id and secret. */
static void make_claim(struct id user, const uint8_t secret[SECRET_BYTES],
                       struct session_claim *claim)
{
    uint8_t hash[SHA256_SIZE];
    struct place place = id_place(user);
    struct id *id = &claim->session;

    crypto_sha256(secret, SECRET_BYTES, hash);
    hex_encode(hash, sizeof(hash), claim->hash_hex);
    claim->user = user;
    memcpy(id->bytes, hash, sizeof(id->bytes));
    id->bytes[0] = (uint8_t)(place.hash >> 24);
    id->bytes[1] = (uint8_t)(place.hash >> 16);
    id->bytes[2] = (uint8_t)(place.hash >> 8);
    id->bytes[3] = (uint8_t)place.hash;
    id->bytes[6] = (uint8_t)((id->bytes[6] & 0x0f) | 0x80); /* version 8 */
    id->bytes[8] = (uint8_t)((id->bytes[8] & 0x3f) | 0x80); /* variant 10 */
}

bool session_claim(const char *token, struct session_claim *claim_out)
{
    uint8_t bytes[TOKEN_BYTES];
    struct id user;

    if (!base64url_decode(token, strlen(token), bytes, sizeof(bytes))) {
        return false;
    }
    memcpy(user.bytes, bytes, sizeof(user.bytes));
    if (!id_is_user(user)) {
        return false;
    }
    make_claim(user, bytes + sizeof(user.bytes), claim_out);
    return true;
}

enum err session_create(struct scope *sc, struct id user, const char *role, const char *address,
                        const char *user_agent, char *token_out, struct id *session_out,
                        int64_t *expires_at_out)
{
    int64_t now_ms = clock_wall_ms(), ttl_ms = config()->session_ttl * 1000;
    struct redis_args keys = {0}, args = {0};
    uint8_t bytes[TOKEN_BYTES];
    struct session_claim claim;
    struct redis_reply reply;
    size_t i;

    memcpy(bytes, user.bytes, sizeof(user.bytes));
    crypto_random(bytes + sizeof(user.bytes), SECRET_BYTES);
    make_claim(user, bytes + sizeof(user.bytes), &claim);
    /* For a while only: if we die before the session is there, its place comes free by itself. */
    TRY(admit(sc, claim.session, now_ms, now_ms + (ttl_ms < ADMIT_MS ? ttl_ms : ADMIT_MS)));
    redis_arg(&keys, session_key(sc->arena, user, claim.session));
    redis_arg(&keys, index_key(sc->arena, user));
    redis_arg(&args, claim.hash_hex);
    redis_arg(&args, role);
    redis_arg_i64(sc, &args, now_ms);
    redis_arg(&args, address);
    redis_arg(&args, arena_strndup(sc->arena, user_agent, strnlen(user_agent, SESSION_AGENT_MAX)));
    redis_arg_i64(sc, &args, ttl_ms);
    redis_arg(&args, id_text(sc->arena, claim.session));
    redis_arg_i64(sc, &args, SESSIONS_PER_USER_MAX);
    TRY(redis_eval(sc, &create_script, &keys, &args, &reply));
    for (i = 0; i < reply.n_items; i++) {
        struct id old;

        if (id_parse(reply.items[i].text, reply.items[i].len, &old)) {
            (void)!session_end(sc, user, old); /* the next log-in tries again */
        }
    }
    recount(sc, claim.session, now_ms + ttl_ms);
    if (pg_has_replicas(id_place(user))) { /* what was written without a session is not known */
        TRY(session_mark(sc, user, (struct pg_mark){.system_id = 0}));
    }
    base64url_encode(bytes, sizeof(bytes), token_out);
    *session_out = claim.session;
    *expires_at_out = now_ms + ttl_ms;
    return OK;
}

static int64_t number_of(const struct redis_reply *r)
{
    int64_t value = 0;

    return r->kind == REDIS_TEXT && i64_parse(r->text, &value) ? value : 0;
}

enum err session_check(struct scope *sc, const struct session_claim *claim,
                       const struct rate_policy *policy, struct session *session_out,
                       struct rate_verdict *verdict_out)
{
    const char *user = id_text(sc->arena, claim->user);
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;

    redis_arg(&keys, session_key(sc->arena, claim->user, claim->session));
    redis_arg(&keys, rate_key(sc->arena, user, policy->name));
    redis_arg(&keys, index_key(sc->arena, claim->user));
    redis_arg(&keys, written_key(sc->arena, claim->user));
    redis_arg(&args, claim->hash_hex);
    redis_arg_i64(sc, &args, clock_wall_ms());
    redis_arg_i64(sc, &args, TOUCH_MS);
    redis_arg_i64(sc, &args, config()->session_ttl * 1000);
    redis_arg(&args, id_text(sc->arena, claim->session));
    redis_arg_i64(sc, &args, policy->quota);
    redis_arg_i64(sc, &args, policy->window_ms);
    redis_arg_i64(sc, &args, rate_cost(policy));
    TRY(redis_eval(sc, &check_script, &keys, &args, &reply));
    if (reply.kind != REDIS_LIST) {
        return ERR_UNAUTHENTICATED;
    }
    if (reply.n_items != 9 || reply.items[6].kind != REDIS_TEXT ||
        !rate_verdict_read(reply.items, verdict_out)) {
        return scope_fail(sc, ERR_INTERNAL, "session: odd reply of the script");
    }
    if (reply.items[5].integer == 1) {
        recount(sc, claim->session, clock_wall_ms() + config()->session_ttl * 1000);
    }
    *session_out = (struct session){.id = claim->session, .role = reply.items[4].text};
    session_out->has_written = reply.items[6].text[0] != '\0' || number_of(&reply.items[8]) > 0;
    session_out->written = (struct pg_mark){.system_id = number_of(&reply.items[6]),
                                            .lsn = number_of(&reply.items[7]),
                                            .epoch = number_of(&reply.items[8])};
    return OK;
}

enum err session_mark(struct scope *sc, struct id user, struct pg_mark mark)
{
    int64_t lag_ms = config()->db_max_replica_lag_ms;
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;

    redis_arg(&keys, written_key(sc->arena, user));
    redis_arg_i64(sc, &args, mark.system_id);
    redis_arg_i64(sc, &args, mark.lsn);
    redis_arg_i64(sc, &args, mark.epoch);
    redis_arg_i64(sc, &args, lag_ms + MARK_SLACK_MS);
    redis_arg_i64(sc, &args, lag_ms + MARK_TTL_MS);
    return redis_eval(sc, &mark_script, &keys, &args, &reply);
}

/* Up to n ids of a user's index, the latest to expire first. */
static enum err indexed_ids(struct scope *sc, struct id user, int n, struct redis_reply *reply_out)
{
    const char *key = index_key(sc->arena, user);

    return redis_do(sc, key, reply_out, "ZREVRANGE", key, "0", arena_printf(sc->arena, "%d", n - 1),
                    NULL);
}

/* Read a session's row; false: it has expired. */
static bool read_row(const struct redis_reply *row, struct session *s)
{
    if (row->n_items != 4 || row->items[0].kind != REDIS_TEXT) {
        return false;
    }
    s->created_at = number_of(&row->items[0]);
    s->last_used_at = number_of(&row->items[1]);
    s->address = row->items[2].text;
    s->user_agent = row->items[3].text;
    return true;
}

/* Load n sessions whose ids are set, in one round trip, and keep those that have not expired. */
static enum err load(struct scope *sc, struct id user, struct session *sessions, size_t n,
                     size_t *n_out)
{
    struct redis_pipeline *p = redis_pipeline_make(sc, index_key(sc->arena, user));
    struct redis_reply *rows;
    size_t i;

    for (i = 0; i < n; i++) {
        redis_pipeline_add(p, "HMGET", session_key(sc->arena, user, sessions[i].id), "c", "l", "a",
                           "u", NULL);
    }
    TRY(redis_pipeline_run(sc, p, &rows));
    *n_out = 0;
    for (i = 0; i < n; i++) {
        struct session s = {.id = sessions[i].id};

        if (read_row(&rows[i], &s)) {
            sessions[(*n_out)++] = s;
        }
    }
    return OK;
}

enum err session_list(struct scope *sc, struct id user, struct id after, size_t max,
                      struct session **sessions_out, size_t *n_out)
{
    struct redis_reply ids;
    bool is_behind = id_is_nil(after);
    size_t i = 0;

    TRY(indexed_ids(sc, user, SESSIONS_PER_USER_MAX, &ids));
    *sessions_out = arena_array(sc->arena, struct session, max);
    *n_out = 0;
    /* Mostly once: again only where some of the page have expired. */
    while (i < ids.n_items && *n_out < max) {
        struct session *page = *sessions_out + *n_out;
        size_t n = 0, n_live;

        for (; i < ids.n_items && *n_out + n < max; i++) {
            struct id id;

            if (!id_parse(ids.items[i].text, ids.items[i].len, &id)) {
                continue;
            }
            if (is_behind) {
                page[n++].id = id;
            }
            is_behind = is_behind || id_equal(id, after);
        }
        TRY(load(sc, user, page, n, &n_live));
        *n_out += n_live;
    }
    return OK;
}

enum err session_end(struct scope *sc, struct id user, struct id session)
{
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;

    redis_arg(&keys, index_key(sc->arena, user));
    redis_arg(&keys, session_key(sc->arena, user, session));
    redis_arg(&args, id_text(sc->arena, session));
    TRY(redis_eval(sc, &end_script, &keys, &args, &reply));
    recount(sc, session, 0);
    return reply.kind == REDIS_INT && reply.integer == 1 ? OK : ERR_NOT_FOUND;
}

/* End up to END_CHUNK sessions; *n_out tells how many there were but keep. */
static enum err end_chunk(struct scope *sc, struct id user, struct id keep, int *n_out)
{
    struct redis_args keys = {0}, args = {0};
    struct redis_reply ids, reply;
    struct id ended[END_CHUNK + 1];
    size_t i;

    *n_out = 0;
    TRY(indexed_ids(sc, user, END_CHUNK, &ids));
    redis_arg(&keys, index_key(sc->arena, user));
    for (i = 0; i < ids.n_items && i < END_CHUNK; i++) {
        struct id *session = &ended[*n_out];

        if (id_parse(ids.items[i].text, ids.items[i].len, session) && !id_equal(*session, keep)) {
            redis_arg(&keys, session_key(sc->arena, user, *session));
            redis_arg(&args, ids.items[i].text);
            (*n_out)++;
        }
    }
    if (*n_out > 0) {
        TRY(redis_eval(sc, &end_script, &keys, &args, &reply));
    }
    for (i = 0; i < (size_t)*n_out; i++) {
        recount(sc, ended[i], 0);
    }
    return OK;
}

enum err session_end_all(struct scope *sc, struct id user, struct id keep)
{
    int n = 1;

    /* When a look finds none, none of before that look is left; what comes after it is another
     * log-in. */
    while (n > 0) {
        TRY(end_chunk(sc, user, keep, &n));
        if (n > 0 && scope_left_ms(sc, 1) == 0) {
            return scope_fail(sc, ERR_TIMED_OUT, "session: no time left to end all");
        }
    }
    return OK;
}
