/* Drives lib/redis.h, and the scripts of sessions and limits, from a test: one command a line on
 * standard input, one JSON line each on standard output. Also measures what a call costs:
 * "redis_driver bench CALLS". Configuration comes from the environment, as for every program. */
#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/ratelimit.h"
#include "lib/redis.h"
#include "lib/session.h"
#include "lib/str.h"
#include "loadtest/driver.h"

enum { KEYS_MAX = 4096, THREADS_MAX = 64 };

static struct redis_script count_script = {
    .name = "driver_count",
    .source = "local n = redis.call('INCR', KEYS[1])\n"
              "redis.call('SET', KEYS[2], n)\n"
              "return n\n",
};

static void add_reply(struct strbuf *b, const struct redis_reply *r)
{
    size_t i;

    switch (r->kind) {
    case REDIS_INT:
        strbuf_i64(b, r->integer);
        break;
    case REDIS_TEXT:
    case REDIS_ERROR:
        strbuf_json(b, r->text);
        break;
    case REDIS_LIST:
        strbuf_putc(b, '[');
        for (i = 0; i < r->n_items; i++) {
            strbuf_puts(b, i == 0 ? "" : ",");
            add_reply(b, &r->items[i]);
        }
        strbuf_putc(b, ']');
        break;
    default:
        strbuf_puts(b, "null");
    }
}

/* Print how a call ended, how long it took, and what came of it (a JSON value, or NULL). */
static void answer(struct scope *sc, enum err e, int64_t start_us, const char *value)
{
    struct strbuf b;

    strbuf_init(&b, sc->arena, 256);
    strbuf_printf(&b,
                  "{\"error\":\"%s\",\"ms\":%.3f,\"cause\":", e == OK ? "ok" : err_info(e)->code,
                  (double)(clock_mono_us() - start_us) / 1000);
    strbuf_json(&b, e == OK ? NULL : sc->cause);
    strbuf_puts(&b, ",\"reply\":");
    strbuf_puts(&b, e == OK && value != NULL ? value : "null");
    strbuf_putc(&b, '}');
    puts(b.data);
}

/* do KEY WORD...: one command; KEY - is "". */
static void do_command(struct scope *sc, char **w, int n)
{
    int64_t start_us = clock_mono_us();
    struct redis_args args = {0};
    struct redis_reply reply;
    struct strbuf b;
    enum err e;
    int i;

    for (i = 2; i < n; i++) {
        redis_arg(&args, w[i]);
    }
    e = redis_call(sc, strcmp(w[1], "-") == 0 ? "" : w[1], &args, &reply);
    strbuf_init(&b, sc->arena, 256);
    if (e == OK) {
        add_reply(&b, &reply);
    }
    answer(sc, e, start_us, b.data);
}

static enum err count(struct scope *sc, const char *key, int64_t *value_out)
{
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;

    redis_arg(&keys, key);
    redis_arg(&keys, arena_printf(sc->arena, "%s:copy", key));
    TRY(redis_eval(sc, &count_script, &keys, &args, &reply));
    *value_out = reply.integer;
    return OK;
}

/* count KEY: a script of two keys that may run only once. */
static void do_count(struct scope *sc, char **w)
{
    int64_t start_us = clock_mono_us(), value = 0;
    enum err e = count(sc, w[1], &value);

    answer(sc, e, start_us, arena_printf(sc->arena, "%" PRId64, value));
}

/* pipe TAG N: N INCRs of keys that share the tag, and a GET of each. */
static void do_pipe(struct scope *sc, char **w)
{
    int64_t start_us = clock_mono_us(), n = number_of(w[2]), i;
    struct redis_pipeline *p = redis_pipeline_make(sc, arena_printf(sc->arena, "{%s}", w[1]));
    struct redis_reply *replies;
    struct strbuf b;
    enum err e;

    for (i = 0; i < n; i++) {
        const char *key = arena_printf(sc->arena, "{%s}:%" PRId64, w[1], i);

        redis_pipeline_add(p, "INCR", key, NULL);
        redis_pipeline_add(p, "GET", key, NULL);
    }
    e = redis_pipeline_run(sc, p, &replies);
    strbuf_init(&b, sc->arena, 256);
    strbuf_putc(&b, '[');
    for (i = 0; e == OK && i < 2 * n; i++) {
        strbuf_puts(&b, i == 0 ? "" : ",");
        add_reply(&b, &replies[i]);
    }
    strbuf_putc(&b, ']');
    answer(sc, e, start_us, b.data);
}

static enum err live_a_session(struct scope *sc, int64_t n)
{
    const struct rate_policy policy = {.name = "driver", .quota = 1000, .window_ms = 60000};
    struct id user = id_make_user(), id;
    char token[SESSION_TOKEN_SIZE];
    struct session_claim claim;
    struct rate_verdict verdict;
    struct session *sessions, session;
    size_t n_sessions;
    int64_t i, expires_at;

    for (i = 0; i < n; i++) {
        TRY(session_create(sc, user, "user", "127.0.0.1", "driver", token, &id, &expires_at));
    }
    if (!session_claim(token, &claim)) {
        return scope_fail(sc, ERR_INTERNAL, "the token is malformed");
    }
    TRY(session_check(sc, &claim, &policy, &session, &verdict));
    TRY(rate_charge(sc, "driver", &policy, &verdict));
    TRY(rate_forget(sc, "driver", &policy));
    TRY(session_list(sc, user, (struct id){{0}}, (size_t)n + 1, &sessions, &n_sessions));
    if ((int64_t)n_sessions != n) {
        return scope_fail(sc, ERR_INTERNAL, "%zu sessions are listed", n_sessions);
    }
    TRY(session_end_all(sc, user, claim.session));
    TRY(session_list(sc, user, (struct id){{0}}, (size_t)n + 1, &sessions, &n_sessions));
    if (n_sessions != 1 || !id_equal(sessions[0].id, claim.session)) {
        return scope_fail(sc, ERR_INTERNAL, "%zu sessions are left", n_sessions);
    }
    TRY(session_end(sc, user, claim.session));
    return session_check(sc, &claim, &policy, &session, &verdict) == ERR_UNAUTHENTICATED
               ? OK
               : scope_fail(sc, ERR_INTERNAL, "an ended session is good");
}

/* session N: a new user with N sessions, from log-in to the end of all. */
static void do_session(struct scope *sc, char **w)
{
    int64_t start_us = clock_mono_us();
    enum err e = live_a_session(sc, number_of(w[1]));

    answer(sc, e, start_us, arena_printf(sc->arena, "%d", sc->timing.redis_count));
}

static int open_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    while (dir != NULL && readdir(dir) != NULL) {
        n++;
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return n;
}

/* What the threads of a run share. Each key has what was acknowledged and what was not. */
static struct {
    int n_keys;
    int64_t until_ms;
    int64_t pause_us;
    _Atomic int64_t acked[KEYS_MAX], failed[KEYS_MAX], last_ms[KEYS_MAX];
    _Atomic int64_t longest_gap_ms, longest_call_ms, n_failed;
    char cause[512]; /* under the lock */
    pthread_mutex_t lock;
} load = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void raise_to(_Atomic int64_t *most, int64_t value)
{
    int64_t seen = atomic_load(most);

    while (value > seen && !atomic_compare_exchange_weak(most, &seen, value)) {
    }
}

static void note_failure(const struct scope *sc, int key)
{
    atomic_fetch_add(&load.failed[key], 1);
    atomic_fetch_add(&load.n_failed, 1);
    pthread_mutex_lock(&load.lock);
    snprintf(load.cause, sizeof(load.cause), "%s", sc->cause == NULL ? "" : sc->cause);
    pthread_mutex_unlock(&load.lock);
}

static void *load_thread(void *arg)
{
    struct arena *a = arena_open(1 << 17);
    unsigned seed = (unsigned)(uintptr_t)arg;

    while (clock_mono_ms() < load.until_ms) {
        const struct timespec pause = {.tv_nsec = (long)load.pause_us * 1000};
        int key = (int)((seed = seed * 1664525u + 1013904223u) >> 8) % load.n_keys;
        int64_t start_ms = clock_mono_ms(), now_ms, value;
        struct scope sc;

        arena_reset(a);
        scope_init(&sc, a, 10000);
        if (count(&sc, arena_printf(a, "load:{%d}", key), &value) != OK) {
            note_failure(&sc, key);
            now_ms = clock_mono_ms();
        } else {
            atomic_fetch_add(&load.acked[key], 1);
            now_ms = clock_mono_ms();
            raise_to(&load.longest_gap_ms, now_ms - atomic_exchange(&load.last_ms[key], now_ms));
        }
        raise_to(&load.longest_call_ms, now_ms - start_ms);
        nanosleep(&pause, NULL);
    }
    arena_close(&a);
    return NULL; /* the thread's connections end with it */
}

/* run THREADS MS KEYS PAUSE_US: count keys over all slots. acked <= value <= acked + failed. */
static void do_run(struct scope *sc, char **w)
{
    int threads = (int)number_of(w[1]), i;
    pthread_t ids[THREADS_MAX];
    int before = open_descriptors();
    struct strbuf b;

    threads = threads > THREADS_MAX ? THREADS_MAX : threads;
    load.n_keys = (int)number_of(w[3]);
    load.until_ms = clock_mono_ms() + number_of(w[2]);
    load.pause_us = number_of(w[4]);
    load.longest_gap_ms = load.longest_call_ms = load.n_failed = 0;
    load.cause[0] = '\0';
    for (i = 0; i < load.n_keys; i++) {
        load.acked[i] = load.failed[i] = 0;
        load.last_ms[i] = clock_mono_ms();
    }
    for (i = 0; i < threads; i++) {
        if (pthread_create(&ids[i], NULL, load_thread, (void *)(uintptr_t)(i + 1)) != 0) {
            exit(1);
        }
    }
    for (i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
    }
    strbuf_init(&b, sc->arena, 65536);
    strbuf_printf(&b, "{\"failures\":%" PRId64 ",\"longestGapMs\":%" PRId64, load.n_failed,
                  load.longest_gap_ms);
    strbuf_printf(&b,
                  ",\"longestCallMs\":%" PRId64 ",\"leaked\":%d,\"cause\":", load.longest_call_ms,
                  open_descriptors() - before);
    strbuf_json(&b, load.cause);
    strbuf_puts(&b, ",\"keys\":[");
    for (i = 0; i < load.n_keys; i++) {
        strbuf_printf(&b, "%s[%" PRId64 ",%" PRId64 "]", i == 0 ? "" : ",", load.acked[i],
                      load.failed[i]);
    }
    puts(arena_printf(sc->arena, "%s]}", b.data));
}

static void run(struct scope *sc, char **w, int n)
{
    int64_t start_us = clock_mono_us();

    if (n >= 3 && strcmp(w[0], "do") == 0) {
        do_command(sc, w, n);
    } else if (n == 2 && strcmp(w[0], "count") == 0) {
        do_count(sc, w);
    } else if (n == 3 && strcmp(w[0], "pipe") == 0) {
        do_pipe(sc, w);
    } else if (n == 2 && strcmp(w[0], "session") == 0) {
        do_session(sc, w);
    } else if (n == 5 && strcmp(w[0], "run") == 0) {
        do_run(sc, w);
    } else if (n == 1 && strcmp(w[0], "check") == 0) {
        enum err e = redis_check_eviction(sc);

        answer(sc, e, start_us, NULL);
    } else if (n == 1 && strcmp(w[0], "nodes") == 0) {
        answer(sc, OK, start_us, arena_printf(sc->arena, "%d", redis_nodes()));
    } else {
        fprintf(stderr, "what is %s with %d words?\n", w[0], n);
        exit(2);
    }
}

/* One thread calls a script of two keys, as fast as it goes. */
static void bench(struct arena *a, int64_t calls)
{
    int64_t start_us = 0, start_cpu = 0, value, i;
    struct scope sc;

    for (i = -100; i < calls; i++) {
        if (i == 0) {
            start_us = clock_mono_us();
            start_cpu = cpu_us();
        }
        arena_reset(a);
        scope_init(&sc, a, 10000);
        if (count(&sc, arena_printf(a, "bench:{%d}:counter", (int)(i & 1023)), &value) != OK) {
            fprintf(stderr, "%s\n", sc.cause);
            exit(1);
        }
    }
    printf("{\"calls\":%" PRId64 ",\"us\":%.2f,\"cpuUs\":%.3f}\n", calls,
           (double)(clock_mono_us() - start_us) / (double)calls,
           (double)(cpu_us() - start_cpu) / (double)calls);
}

int main(int argc, char **argv)
{
    struct arena *a = arena_open(1 << 20);

    signal(SIGPIPE, SIG_IGN);
    crypto_open();
    if (!config_load(stderr)) {
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 3 && strcmp(argv[1], "bench") == 0) {
        bench(a, number_of(argv[2]));
        return 0;
    }
    driver_serve(a, run);
    redis_thread_done();
    arena_close(&a);
    return 0;
}
