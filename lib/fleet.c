/* One hash holds all: lower-case fields tell of the change (epoch, by, at), upper-case ones are
 * variables. Members note themselves in a set by time of life and a hash of what they say. */
#include "lib/fleet.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "lib/metrics.h"
#include "lib/redis.h"
#include "lib/str.h"

enum {
    ARENA_BYTES = 64 * 1024,
    REPORT_EVERY_MS = 1000, /* thrice within FLEET_SILENT_MS */
    REFUSAL_MAX = 400,
    NAME_SIZE = 200
};

#define STATE_KEY "config:{fleet}"
#define ALIVE_KEY "config:{fleet}:alive"
#define TOLD_KEY "config:{fleet}:told"

/* KEYS state; ARGV by, at, then name and value of each. Reply: the new epoch. */
static struct redis_script set_script = {
    .name = "fleet_set",
    .source = "local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)\n"
              "redis.call('HSET', KEYS[1], 'by', ARGV[1], 'at', ARGV[2])\n"
              "for i = 3, #ARGV, 2 do\n"
              "  if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[1], ARGV[i])\n"
              "  else redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end\n"
              "end\n"
              "return epoch\n"};

/* KEYS state; ARGV epoch, by, at, then name and value of each. What Redis has is newer than what we
 * remember, unless it has none. */
static struct redis_script heal_script = {
    .name = "fleet_heal",
    .source = "local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)\n"
              "local mine = tonumber(ARGV[1])\n"
              "if epoch >= mine then return 0 end\n"
              "for i = 4, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end\n"
              "redis.call('HSETNX', KEYS[1], 'by', ARGV[2])\n"
              "redis.call('HSETNX', KEYS[1], 'at', ARGV[3])\n"
              "if epoch > 0 then mine = mine + 1 end\n"
              "redis.call('HSET', KEYS[1], 'epoch', mine)\n"
              "return 1\n"};

/* KEYS state, alive, told; ARGV name, what it says ("" nothing new), ms after which the silent are
 * forgotten. Reply: the epoch. */
static struct redis_script follow_script = {
    .name = "fleet_follow",
    .source = "if ARGV[2] ~= '' then\n"
              "  local t = redis.call('TIME')\n"
              "  local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"
              "  local old = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3],"
              " 'LIMIT', 0, 100)\n"
              "  for _, name in ipairs(old) do\n"
              "    redis.call('ZREM', KEYS[2], name)\n"
              "    redis.call('HDEL', KEYS[3], name)\n"
              "  end\n"
              "  redis.call('ZADD', KEYS[2], now, ARGV[1])\n"
              "  redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])\n"
              "end\n"
              "return tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)\n"};

/* KEYS alive, told; ARGV ms after which the silent do not count. Reply: name and what it says of
 * each. */
static struct redis_script members_script = {
    .name = "fleet_members",
    .source = "local t = redis.call('TIME')\n"
              "local since = t[1] * 1000 + math.floor(t[2] / 1000) - ARGV[1]\n"
              "local out = {}\n"
              "for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], since, '+inf')) do\n"
              "  out[#out + 1] = name\n"
              "  out[#out + 1] = redis.call('HGET', KEYS[2], name) or ''\n"
              "end\n"
              "return out\n"};

/* KEYS alive, told; ARGV name. */
static struct redis_script leave_script = {.name = "fleet_leave",
                                           .source =
                                               "redis.call('ZREM', KEYS[1], ARGV[1])\n"
                                               "return redis.call('HDEL', KEYS[2], ARGV[1])\n"};

static struct {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t stop_asked;
    bool is_running, is_stopping;
    char name[NAME_SIZE];
    bool (*act)(const char **why_out);
    /* The rest is the thread's own. */
    int64_t done_epoch; /* taken on, and acted upon */
    int64_t refused_epoch;
    char refusal[REFUSAL_MAX];
    char by[NAME_SIZE];
    int64_t at_ms;
    int64_t reported_mono_ms;
    bool is_lost; /* Redis did not answer */
} self = {.lock = PTHREAD_MUTEX_INITIALIZER, .stop_asked = PTHREAD_COND_INITIALIZER};

static int64_t number_of(const struct redis_reply *r)
{
    int64_t value = 0;

    return r->kind == REDIS_TEXT && i64_parse(r->text, &value) ? value : 0;
}

enum err fleet_read(struct scope *sc, struct fleet_state *state_out)
{
    struct redis_reply reply;
    size_t i;

    *state_out = (struct fleet_state){.by = ""};
    TRY(redis_do(sc, STATE_KEY, &reply, "HGETALL", STATE_KEY, NULL));
    state_out->pairs = arena_array(sc->arena, struct config_pair, reply.n_items / 2 + 1);
    for (i = 0; i + 1 < reply.n_items; i += 2) {
        const char *name = reply.items[i].text;
        const struct redis_reply *value = &reply.items[i + 1];

        if (name == NULL || value->kind != REDIS_TEXT) {
            continue;
        }
        if (strcmp(name, "epoch") == 0) {
            state_out->epoch = number_of(value);
        } else if (strcmp(name, "by") == 0) {
            state_out->by = value->text;
        } else if (strcmp(name, "at") == 0) {
            state_out->at_ms = number_of(value);
        } else {
            state_out->pairs[state_out->n++] =
                (struct config_pair){.name = name, .value = value->text};
        }
    }
    return OK;
}

enum err fleet_set(struct scope *sc, const char *by, const struct config_pair *pairs, size_t n,
                   int64_t *epoch_out)
{
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;
    size_t i;

    if (n > FLEET_VALUES_MAX) {
        return scope_refuse(sc, ERR_VALIDATION_FAILED, "At most %d values at once.",
                            FLEET_VALUES_MAX);
    }
    redis_arg(&keys, STATE_KEY);
    redis_arg(&args, by);
    redis_arg_i64(sc, &args, clock_wall_ms());
    for (i = 0; i < n; i++) {
        redis_arg(&args, pairs[i].name);
        redis_arg(&args, pairs[i].value);
    }
    TRY(redis_eval(sc, &set_script, &keys, &args, &reply));
    *epoch_out = reply.integer;
    return OK;
}

/* "epoch|refused epoch|why" of a member. */
static void read_member(const char *told, struct fleet_member *m)
{
    char *end;

    m->epoch = strtoll(told, &end, 10);
    m->refused_epoch = *end == '|' ? strtoll(end + 1, &end, 10) : 0;
    m->refusal = *end == '|' ? end + 1 : "";
}

enum err fleet_members(struct scope *sc, struct fleet_member **members_out, size_t *n_out)
{
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;
    size_t i;

    redis_arg(&keys, ALIVE_KEY);
    redis_arg(&keys, TOLD_KEY);
    redis_arg_i64(sc, &args, FLEET_SILENT_MS);
    TRY(redis_eval(sc, &members_script, &keys, &args, &reply));
    *members_out = arena_array(sc->arena, struct fleet_member, reply.n_items / 2 + 1);
    *n_out = 0;
    for (i = 0; i + 1 < reply.n_items; i += 2) {
        struct fleet_member *m = &(*members_out)[(*n_out)++];

        m->name = reply.items[i].text;
        read_member(reply.items[i + 1].text, m);
    }
    return OK;
}

/* Take a state on, or note why not; tell the log either way. */
static void take_on(const struct fleet_state *state)
{
    char *told[2] = {NULL, NULL}; /* changes, faults */
    size_t len[2];
    FILE *changes = open_memstream(&told[0], &len[0]), *faults = open_memstream(&told[1], &len[1]);
    bool is_good;

    if (changes == NULL || faults == NULL) {
        abort();
    }
    is_good = config_apply(state->epoch, state->pairs, state->n, changes, faults);
    fclose(changes);
    fclose(faults);
    self.refused_epoch = is_good ? 0 : state->epoch;
    snprintf(self.refusal, sizeof(self.refusal), "%s", is_good ? "" : told[1]);
    if (is_good) {
        snprintf(self.by, sizeof(self.by), "%s", state->by);
        self.at_ms = state->at_ms;
        metrics_gauge(METRIC_GAUGE_CONFIG_EPOCH, state->epoch);
    }
    self.reported_mono_ms = 0; /* tell it with the next question */
    config_log_change(is_good, state->by, told[0], told[1]);
    free(told[0]);
    free(told[1]);
}

struct pair_list {
    struct scope *sc;
    struct redis_args *args;
};

static void add_pair(void *context, const struct config_pair *pair)
{
    const struct pair_list *list = context;

    redis_arg(list->args, arena_strdup(list->sc->arena, pair->name));
    redis_arg(list->args, arena_strdup(list->sc->arena, pair->value));
}

/* Redis has lost what we know. */
static enum err heal(struct scope *sc)
{
    struct redis_args keys = {0}, args = {0};
    struct pair_list list = {.sc = sc, .args = &args};
    struct redis_reply reply;

    redis_arg(&keys, STATE_KEY);
    redis_arg_i64(sc, &args, config_epoch());
    redis_arg(&args, self.by);
    redis_arg_i64(sc, &args, self.at_ms);
    config_each_fleet(add_pair, &list);
    TRY(redis_eval(sc, &heal_script, &keys, &args, &reply));
    if (reply.integer == 1) {
        log_event(LOG_WARN, "config.heal", "Redis had lost epoch %lld; it was told again",
                  (long long)config_epoch());
    }
    return OK;
}

/* Ask for the epoch, telling ours where that is due. */
static enum err ask(struct scope *sc, int64_t *epoch_out)
{
    struct redis_args keys = {0}, args = {0};
    int64_t now = clock_mono_ms();
    bool is_due = self.reported_mono_ms == 0 || now - self.reported_mono_ms >= REPORT_EVERY_MS;
    struct redis_reply reply;

    redis_arg(&keys, STATE_KEY);
    redis_arg(&keys, ALIVE_KEY);
    redis_arg(&keys, TOLD_KEY);
    redis_arg(&args, self.name);
    redis_arg(&args, is_due ? arena_printf(sc->arena, "%lld|%lld|%s", (long long)self.done_epoch,
                                           (long long)self.refused_epoch, self.refusal)
                            : "");
    redis_arg_i64(sc, &args, FLEET_SILENT_MS);
    TRY(redis_eval(sc, &follow_script, &keys, &args, &reply));
    self.reported_mono_ms = is_due ? now : self.reported_mono_ms;
    *epoch_out = reply.integer;
    return OK;
}

/* What else there is to do with the values that were taken on. Is there something to tell? */
static bool act(void)
{
    int64_t epoch = config_epoch();
    const char *why = "";

    if (epoch == self.done_epoch) {
        return self.reported_mono_ms == 0;
    }
    self.reported_mono_ms = 0;
    if (self.act == NULL || self.act(&why)) {
        self.done_epoch = epoch;
        self.refused_epoch = 0;
        self.refusal[0] = '\0';
        return true;
    }
    if (self.refused_epoch != epoch) {
        log_event(LOG_ERROR, "config.act", "epoch %lld: %s", (long long)epoch, why);
    }
    self.refused_epoch = epoch;
    snprintf(self.refusal, sizeof(self.refusal), "%s", why);
    return true;
}

static enum err follow(struct scope *sc)
{
    struct fleet_state state;
    int64_t epoch;

    TRY(ask(sc, &epoch));
    if (epoch < config_epoch()) {
        TRY(heal(sc));
    } else if (epoch > config_epoch() && epoch != self.refused_epoch) {
        TRY(fleet_read(sc, &state));
        if (state.epoch > config_epoch()) {
            take_on(&state);
        }
    }
    return act() ? ask(sc, &epoch) : OK;
}

/* One round; an outage is told once, and its end. */
static void follow_once(struct arena *arena)
{
    struct scope sc;
    enum err e;

    arena_reset(arena);
    scope_init(&sc, arena, config()->redis_timeout_ms);
    e = follow(&sc);
    if ((e != OK) != self.is_lost) {
        self.is_lost = e != OK;
        log_event(self.is_lost ? LOG_WARN : LOG_INFO, "config.follow", "%s%s",
                  self.is_lost ? "the fleet's configuration cannot be asked, ours stays: "
                               : "the fleet's configuration is followed again",
                  self.is_lost && sc.cause != NULL ? sc.cause : "");
    }
    scope_done(&sc);
}

/* Wait for the next round; false: the process ends. */
static bool wait_round(void)
{
    int64_t ms = config()->config_poll_ms;
    struct timespec until;
    bool goes_on;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&self.lock);
    while (!self.is_stopping &&
           pthread_cond_clockwait(&self.stop_asked, &self.lock, CLOCK_MONOTONIC, &until) == 0) {
    }
    goes_on = !self.is_stopping;
    pthread_mutex_unlock(&self.lock);
    return goes_on;
}

/* Whoever ends in order need not be waited for. */
static void leave(struct arena *arena)
{
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;
    struct scope sc;

    arena_reset(arena);
    scope_init(&sc, arena, config()->redis_timeout_ms);
    redis_arg(&keys, ALIVE_KEY);
    redis_arg(&keys, TOLD_KEY);
    redis_arg(&args, self.name);
    (void)!redis_eval(&sc, &leave_script, &keys, &args, &reply);
    scope_done(&sc);
}

static void *run(void *context)
{
    struct arena *arena = context;

    while (wait_round()) {
        follow_once(arena);
    }
    leave(arena);
    redis_thread_done();
    arena_close(&arena);
    return NULL;
}

void fleet_act(bool (*fn)(const char **why_out))
{
    self.act = fn;
}

void fleet_open(const char *program)
{
    struct arena *arena = arena_open(ARENA_BYTES);
    char host[64] = "";

    gethostname(host, sizeof(host) - 1);
    snprintf(self.name, sizeof(self.name), "%s/%s/%s:%d", config()->instance_id, program, host,
             (int)getpid());
    self.is_stopping = self.is_lost = false;
    self.refused_epoch = self.reported_mono_ms = 0;
    self.done_epoch = self.act != NULL ? -1 : config_epoch(); /* the first values too */
    self.refusal[0] = '\0';
    follow_once(arena);
    redis_thread_done();
    self.is_running = pthread_create(&self.thread, NULL, run, arena) == 0;
    if (!self.is_running) {
        log_event(LOG_ERROR, "config.follow", "no thread: this process follows no reload");
        arena_close(&arena);
    }
}

void fleet_close(void)
{
    if (!self.is_running) {
        return;
    }
    pthread_mutex_lock(&self.lock);
    self.is_stopping = true;
    pthread_cond_broadcast(&self.stop_asked);
    pthread_mutex_unlock(&self.lock);
    pthread_join(self.thread, NULL);
    self.is_running = false;
}
