/* What the guards cost: CPU time of a request's way through all of them, above the same way without
 * any, on one thread; session and rate in one round trip to the stack's Redis, as in production.
 * Prints one JSON line. Arguments: a session's token, seconds (default 2). */
#include <stdio.h>
#include <time.h>

#include "fcgi/req_private.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/depend.h"
#include "lib/metrics.h"
#include "lib/pg.h"

enum { BATCH = 500, THREADS = 16 };

static enum err (*const guards[])(struct req *r) = {
#define GUARD(name, doc) guard_##name,
#include "fcgi/guards.def"
#undef GUARD
};

/* Waiting for Redis does not count, whatever else the machine does. */
static int64_t cpu_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* One request from its parameters to its handler's door. */
static enum err pass(struct arena *a, const struct conn_param *params, size_t n_params,
                     bool is_guarded)
{
    struct req *r = arena_new(a, struct req);
    enum err e;
    size_t i;

    scope_init(&r->scope, a, config()->request_timeout_ms);
    r->start_us = clock_mono_us();
    r->params = params;
    r->n_params = n_params;
    r->method = "GET";
    r->path = "/api/auth/me";
    r->address = "198.18.0.1";
    e = router_find(&r->scope, r->method, r->path, &r->match);
    for (i = 0; is_guarded && e == OK && i < ARRAY_LEN(guards); i++) {
        e = guards[i](r);
    }
    if (is_guarded) {
        guard_load_done(r, e);
    }
    scope_done(&r->scope);
    arena_reset(a);
    return e;
}

/* Microseconds of CPU time that one takes, over a batch; -1: one was refused. */
static double batch_us(struct arena *a, const struct conn_param *params, size_t n, bool is_guarded)
{
    int64_t began_us = cpu_us();
    int i;

    for (i = 0; i < BATCH; i++) {
        if (pass(a, params, n, is_guarded) != OK) {
            return -1;
        }
    }
    return (double)(cpu_us() - began_us) / BATCH;
}

int main(int argc, char **argv)
{
    const struct metrics_plan plan = {.routes = route_count(), .route_name = route_key};
    struct conn_param params[] = {{"REQUEST_METHOD", "GET"},     {"REQUEST_URI", "/api/auth/me"},
                                  {"REMOTE_ADDR", "198.18.0.1"}, {"CONTENT_LENGTH", ""},
                                  {"CONTENT_TYPE", ""},          {"HTTP_HOST", "127.0.0.1"},
                                  {"HTTP_AUTHORIZATION", ""}};
    double guarded_us = 0, bare_us = 0;
    int64_t until_ms;
    struct arena *a;
    char bearer[256];
    int n = 0;

    setenv("INSTANCE_SHM", "", 1); /* the stack's own processes do not count us */
    crypto_open();
    if (argc < 2 || !config_load(stderr)) {
        fputs("usage: bench-guards TOKEN [SECONDS]\n", stderr);
        return 1;
    }
    snprintf(bearer, sizeof(bearer), "Bearer %s", argv[1]);
    params[ARRAY_LEN(params) - 1].value = bearer;
    metrics_open(&plan);
    pg_open();
    guard_load_open();
    depend_open(THREADS);
    a = arena_open((size_t)config()->request_arena_bytes);
    (void)batch_us(a, params, ARRAY_LEN(params), true); /* connection, script, first blocks */
    until_ms = clock_mono_ms() + (argc > 2 ? strtoll(argv[2], NULL, 10) : 2) * 1000;
    do {
        double guarded = batch_us(a, params, ARRAY_LEN(params), true);

        if (guarded < 0) {
            fputs("bench-guards: a request was refused; is the token good?\n", stderr);
            return 1;
        }
        guarded_us += guarded;
        bare_us += batch_us(a, params, ARRAY_LEN(params), false);
        n++;
    } while (clock_mono_ms() < until_ms);
    printf("{\"name\":\"guards\",\"requests\":%d,\"guardedUs\":%.2f,\"bareUs\":%.2f,"
           "\"guardsUs\":%.2f}\n",
           n * BATCH, guarded_us / n, bare_us / n, (guarded_us - bare_us) / n);
    return 0;
}
