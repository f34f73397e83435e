/* Drives lib/queue.h from a test: one command a line on standard input, one JSON line each on
 * standard output. Also measures what a job costs and how soon it is
 * picked up: "queue_driver bench JOBS BATCH PAYLOAD_BYTES", "queue_driver pickup RATE SECONDS".
 * Configuration comes from the environment, as for every program. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/instance.h"
#include "lib/pg.h"
#include "lib/promise.h"
#include "lib/redis.h"
#include "lib/str.h"
#include "loadtest/driver.h"

enum {
    BENCH_BATCH_MAX = 50, /* an HSET of so many is one command */
    BENCH_USERS = 100,
    PICKUPS_MAX = 100000,
    PICKUP_THREADS = 4
};

static void print_err(enum err e, const struct scope *sc)
{
    if (e == OK) {
        puts("{\"ok\":true}");
    } else {
        printf("{\"ok\":false,\"error\":\"%s\",\"cause\":\"%s\"}\n", err_info(e)->code,
               sc->cause == NULL ? "" : sc->cause);
    }
}

static struct id id_of(const char *text)
{
    struct id id = {{0}};

    if (text != NULL && strcmp(text, "-") != 0 && !id_parse(text, strlen(text), &id)) {
        fprintf(stderr, "not an id: %s\n", text);
        exit(2);
    }
    return id;
}

static enum job_kind kind_of(const char *name)
{
    const struct job_type *type = job_type_find(name == NULL ? "" : name);

    if (type == NULL) {
        fprintf(stderr, "not a type: %s\n", name);
        exit(2);
    }
    return type->kind;
}

/* fetch QUEUE WORKER MAX [TYPE|*] */
static void do_fetch(struct scope *sc, char **w)
{
    struct queue_want want = {.queue = w[1], .worker = w[2], .max = (size_t)number_of(w[3])};
    struct queue_got got;
    char id[ID_TEXT_SIZE], user[ID_TEXT_SIZE];
    enum job_kind kind;
    enum err e;
    size_t i;

    for (kind = 0; kind < JOB__COUNT; kind++) {
        want.kinds[kind] = w[4] == NULL || *w[4] == '*' || kind == kind_of(w[4]);
    }
    e = queue_fetch(sc, &want, &got);
    if (e != OK) {
        print_err(e, sc);
        return;
    }
    printf("{\"ok\":true,\"epoch\":\"%s\",\"paused\":%d,\"promoted\":%" PRId64
           ",\"recovered\":%" PRId64 ",\"nextDueMs\":%" PRId64 ",\"leases\":[",
           got.epoch, got.paused, got.n_promoted, got.n_recovered, got.next_due_ms);
    for (i = 0; i < got.n; i++) {
        id_format(got.leases[i].job, id);
        id_format(got.leases[i].user, user);
        if (id_is_nil(got.leases[i].user)) {
            snprintf(user, sizeof(user), "-");
        }
        printf("%s{\"job\":\"%s\",\"type\":\"%s\",\"user\":\"%s\",\"token\":\"%s\"}",
               i == 0 ? "" : ",", id, job_type(got.leases[i].kind)->name, user,
               got.leases[i].token);
    }
    puts("]}");
}

/* extend TYPE JOB USER TOKEN EPOCH */
static void do_extend(struct scope *sc, char **w)
{
    struct queue_lease lease = {.job = id_of(w[2]), .kind = kind_of(w[1]), .user = id_of(w[3])};
    enum queue_beat beat;
    enum err e;

    snprintf(lease.token, sizeof(lease.token), "%s", w[4]);
    snprintf(lease.epoch, sizeof(lease.epoch), "%s", w[5]);
    e = queue_extend(sc, job_type(lease.kind)->queue, queue_partition_of(lease.job), &lease, 1,
                     &beat);
    if (e != OK) {
        print_err(e, sc);
        return;
    }
    printf("{\"ok\":true,\"beat\":\"%s\",\"epoch\":\"%s\"}\n",
           beat == QUEUE_BEAT_OK          ? "ok"
           : beat == QUEUE_BEAT_CANCELLED ? "cancelled"
                                          : "lost",
           lease.epoch);
}

/* finish TYPE JOB TOKEN done|retry|release DELAY_MS */
static void do_finish(struct scope *sc, char **w)
{
    struct queue_lease lease = {.job = id_of(w[2]), .kind = kind_of(w[1])};
    enum queue_end end = strcmp(w[4], "done") == 0    ? QUEUE_DONE
                         : strcmp(w[4], "retry") == 0 ? QUEUE_RETRY
                                                      : QUEUE_RELEASE;

    snprintf(lease.token, sizeof(lease.token), "%s", w[3]);
    print_err(queue_finish(sc, job_type(lease.kind)->queue, queue_partition_of(lease.job), &lease,
                           1, end, number_of(w[5])),
              sc);
}

static void do_stats(struct scope *sc, char **w)
{
    struct queue_stats s;
    enum err e = queue_stats(sc, w[1], &s);
    enum job_kind kind;
    int64_t ready = 0, running = 0;

    if (e != OK) {
        print_err(e, sc);
        return;
    }
    for (kind = 0; kind < JOB__COUNT; kind++) {
        ready += s.n_ready[kind];
        running += s.n_running[kind];
    }
    printf("{\"ok\":true,\"paused\":%d,\"known\":%" PRId64 ",\"delayed\":%" PRId64
           ",\"due\":%" PRId64 ",\"leased\":%" PRId64 ",\"ready\":%" PRId64 ",\"running\":%" PRId64
           "}\n",
           s.paused, s.n_known, s.n_delayed, s.n_due, s.n_leased, ready, running);
}

static void print_promise(const struct scope *sc, enum err e, const struct promise *p)
{
    char id[ID_TEXT_SIZE];

    if (e != OK) {
        print_err(e, sc);
        return;
    }
    id_format(p->id, id);
    printf("{\"ok\":true,\"job\":\"%s\",\"new\":%s}\n", id, p->is_new ? "true" : "false");
}

static struct promise promise_of(char **w)
{
    struct id user = id_of(w[2]);

    return (struct promise){.kind = kind_of(w[1]),
                            .user = user,
                            .place = id_is_nil(user) ? (struct place){0} : id_place(user),
                            .payload = w[3]};
}

/* promise TYPE USER PAYLOAD DELAY_MS always|until-done|throttle|debounce KEY MS */
static void do_promise(struct scope *sc, char **w)
{
    struct promise p = promise_of(w);
    enum err e;

    p.delay_ms = number_of(w[4]);
    p.dedup = strcmp(w[5], "until-done") == 0 ? PROMISE_UNTIL_DONE
              : strcmp(w[5], "throttle") == 0 ? PROMISE_THROTTLE
              : strcmp(w[5], "debounce") == 0 ? PROMISE_DEBOUNCE
                                              : PROMISE_ALWAYS;
    p.dedup_key = p.dedup == PROMISE_ALWAYS ? NULL : w[6];
    p.dedup_ms = number_of(w[7]);
    e = pg_begin(sc, p.place);
    e = e == OK ? promise_make(sc, &p) : e;
    e = e == OK ? pg_commit(sc, p.place) : e;
    if (e == OK) {
        promise_push(sc, &p, 1);
    }
    print_promise(sc, e, &p);
}

/* flow TYPE USER PAYLOAD CHILD_TYPE CHILD_PAYLOAD N */
static void do_flow(struct scope *sc, char **w)
{
    struct promise parent = promise_of(w), children[16];
    size_t n = (size_t)number_of(w[6]), i;
    enum err e;

    for (i = 0; i < n && i < ARRAY_LEN(children); i++) {
        children[i] = parent;
        children[i].kind = kind_of(w[4]);
        children[i].payload = w[5];
    }
    e = promise_flow(sc, &parent, children, i);
    if (e == OK) {
        promise_push(sc, &parent, 1);
        promise_push(sc, children, i);
    }
    print_promise(sc, e, &parent);
}

/* bulk TYPE USER PAYLOAD N REPLICAS */
static void do_bulk(struct scope *sc, char **w)
{
    struct promise *all = arena_array(sc->arena, struct promise, PROMISE_MANY_MAX);
    size_t n = (size_t)number_of(w[4]), i;
    enum err e;

    for (i = 0; i < n && i < PROMISE_MANY_MAX; i++) {
        all[i] = promise_of(w);
        all[i].wait_replicas = (int)number_of(w[5]);
    }
    e = promise_many(sc, all, i);
    if (e == OK) {
        promise_push(sc, all, i);
    }
    print_promise(sc, e, &all[0]);
}

static void run(struct scope *sc, char **w, int n)
{
    if (n == 5 && strcmp(w[0], "push") == 0) {
        struct queue_item item = {id_of(w[2]), id_of(w[3]), number_of(w[4])};

        print_err(queue_push_many(sc, kind_of(w[1]), &item, 1, NULL), sc);
    } else if (n >= 4 && strcmp(w[0], "fetch") == 0) {
        do_fetch(sc, w);
    } else if (n == 6 && strcmp(w[0], "extend") == 0) {
        do_extend(sc, w);
    } else if (n == 6 && strcmp(w[0], "finish") == 0) {
        do_finish(sc, w);
    } else if (n == 3 && strcmp(w[0], "cancel") == 0) {
        print_err(queue_cancel(sc, kind_of(w[1]), id_of(w[2])), sc);
    } else if (n == 3 && strcmp(w[0], "stops") == 0) {
        char token[QUEUE_TOKEN_SIZE];
        enum err e = queue_stops(sc, w[1], number_of(w[2]), token);

        printf("{\"ok\":%s,\"token\":\"%s\"}\n", e == OK ? "true" : "false", token);
    } else if (n == 8 && strcmp(w[0], "promise") == 0) {
        do_promise(sc, w);
    } else if (n == 7 && strcmp(w[0], "flow") == 0) {
        do_flow(sc, w);
    } else if (n == 6 && strcmp(w[0], "bulk") == 0) {
        do_bulk(sc, w);
    } else if (n == 2 && strcmp(w[0], "stats") == 0) {
        do_stats(sc, w);
    } else if (n == 2 && (strcmp(w[0], "pause") == 0 || strcmp(w[0], "resume") == 0)) {
        print_err(queue_pause(sc, w[1], w[0][0] == 'p'), sc);
    } else if (n == 3 && strcmp(w[0], "wait") == 0) {
        int64_t start = clock_mono_us();
        enum err e = queue_wait(sc, w[1], 0, number_of(w[2]));

        printf("{\"ok\":%s,\"waitedUs\":%" PRId64 "}\n", e == OK ? "true" : "false",
               clock_mono_us() - start);
    } else {
        fprintf(stderr, "what is %s with %d words?\n", w[0], n);
        exit(2);
    }
}

static void must(enum err e, const struct scope *sc)
{
    if (e != OK) {
        print_err(e, sc);
        exit(1);
    }
}

/* Payloads go through Redis too, as they do with the queues that this is measured beside; with us
 * they lie in the row. One command for a batch: store, read or drop. */
static void payloads(struct scope *sc, const char *verb, const struct id *jobs, size_t n,
                     const char *payload)
{
    static const char key[] = "{audio}:bench";
    struct redis_args args = {0};
    struct redis_reply reply;
    size_t i;

    redis_arg(&args, verb);
    redis_arg(&args, key);
    for (i = 0; i < n; i++) {
        redis_arg(&args, id_text(sc->arena, jobs[i]));
        if (payload != NULL) {
            redis_arg(&args, payload);
        }
    }
    must(redis_call(sc, key, &args, &reply), sc);
    for (i = 0; strcmp(verb, "HMGET") == 0 && i < n; i++) {
        if (reply.items[i].kind != REDIS_TEXT) {
            fputs("a payload is missing\n", stderr);
            exit(1);
        }
    }
}

static void bench_push(struct arena *a, int64_t jobs, size_t batch, const char *payload)
{
    struct queue_item items[BENCH_BATCH_MAX];
    struct id users[BENCH_USERS], ids[BENCH_BATCH_MAX];
    struct scope sc;
    int64_t done;
    size_t i;

    for (i = 0; i < ARRAY_LEN(users); i++) {
        users[i] = id_make_user();
    }
    for (done = 0; done < jobs; done += (int64_t)batch) {
        arena_reset(a);
        scope_init(&sc, a, 10000);
        for (i = 0; i < batch; i++) {
            struct id user = users[((size_t)done + i) % ARRAY_LEN(users)];

            ids[i] = id_make_owned(id_place(user));
            items[i] = (struct queue_item){ids[i], user, 0};
        }
        payloads(&sc, "HSET", ids, batch, payload);
        must(queue_push_many(&sc, JOB_AUDIO_CONVERT, items, batch, NULL), &sc);
    }
}

static int64_t bench_work(struct arena *a, int64_t jobs, size_t batch)
{
    struct queue_want want = {.queue = "audio", .worker = "bench", .max = batch};
    struct queue_got got = {.n = 1};
    struct id ids[BENCH_BATCH_MAX];
    int64_t done = 0;
    struct scope sc;
    size_t i;

    want.kinds[JOB_AUDIO_CONVERT] = true;
    while (done < jobs && got.n > 0) {
        arena_reset(a);
        scope_init(&sc, a, 10000);
        must(queue_fetch(&sc, &want, &got), &sc);
        for (i = 0; i < got.n; i++) {
            ids[i] = got.leases[i].job;
        }
        if (got.n > 0) {
            payloads(&sc, "HMGET", ids, got.n, NULL);
            must(queue_finish(&sc, "audio", 0, got.leases, got.n, QUEUE_DONE, 0), &sc);
            payloads(&sc, "HDEL", ids, got.n, NULL);
        }
        done += (int64_t)got.n;
    }
    return done;
}

/* bench JOBS BATCH PAYLOAD_BYTES: push jobs of 100 artists, then fetch and finish them all, batch
 * jobs a call. */
static void bench(struct arena *a, int64_t jobs, size_t batch, size_t payload_bytes)
{
    char *payload = calloc(1, payload_bytes + 1);
    int64_t start = clock_mono_us(), start_cpu = cpu_us(), pushed_us, done;

    if (payload == NULL || batch < 1 || batch > BENCH_BATCH_MAX) {
        exit(2);
    }
    memset(payload, 'x', payload_bytes);
    bench_push(a, jobs, batch, payload);
    pushed_us = clock_mono_us() - start;
    done = bench_work(a, jobs, batch);
    printf("{\"jobs\":%" PRId64 ",\"wallS\":%.6f,\"pushS\":%.6f,\"cpuS\":%.6f}\n", done,
           (double)(clock_mono_us() - start) / 1e6, (double)pushed_us / 1e6,
           (double)(cpu_us() - start_cpu) / 1e6);
    free(payload);
}

/* --- Pick-up: from when a push was due, at a fixed rate, to the fetch that brings the job. --- */

static struct {
    _Atomic bool is_over;
    _Atomic size_t n;
    int64_t waited_us[PICKUPS_MAX];
} pickup;

/* A job's id carries the microsecond at which its push was due. */
static void *pick_up(void *unused)
{
    struct arena *a = arena_open(1 << 20);
    struct queue_want want = {.queue = "audio", .worker = "pickup", .max = 1};
    struct queue_got got;
    struct scope sc;

    (void)unused;
    want.kinds[JOB_AUDIO_CONVERT] = true;
    while (!atomic_load(&pickup.is_over)) {
        arena_reset(a);
        scope_init(&sc, a, 10000);
        must(queue_fetch(&sc, &want, &got), &sc);
        if (got.n == 0) {
            must(queue_wait(&sc, "audio", 0, 200), &sc);
            continue;
        }
        {
            size_t at = atomic_fetch_add(&pickup.n, 1);
            int64_t due_us;

            memcpy(&due_us, got.leases[0].user.bytes + 8, sizeof(due_us));
            pickup.waited_us[at % PICKUPS_MAX] = clock_mono_us() - (due_us >> 8);
        }
        must(queue_finish(&sc, "audio", 0, got.leases, 1, QUEUE_DONE, 0), &sc);
    }
    redis_thread_done();
    arena_close(&a);
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* pickup RATE SECONDS: RATE pushes a second, whether or not the last was picked up. */
static void bench_pickup(struct arena *a, int64_t rate, int64_t seconds)
{
    pthread_t threads[PICKUP_THREADS];
    int64_t start = clock_mono_us() + 100000, n;
    size_t i, got;

    for (i = 0; i < PICKUP_THREADS; i++) {
        pthread_create(&threads[i], NULL, pick_up, NULL);
    }
    for (n = 0; n < rate * seconds && n < PICKUPS_MAX; n++) {
        int64_t due_us = start + n * 1000000 / rate, left_us = due_us - clock_mono_us();
        const struct timespec rest = {.tv_sec = left_us / 1000000,
                                      .tv_nsec = left_us % 1000000 * 1000};
        struct id user = id_make_user();
        int64_t mark = due_us << 8 | user.bytes[8];
        struct scope sc;

        if (left_us > 0) {
            clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, NULL);
        }
        memcpy(user.bytes + 8, &mark, sizeof(mark));
        user.bytes[8] = (uint8_t)((user.bytes[8] & 0x3f) | 0x80); /* still a UUID */
        arena_reset(a);
        scope_init(&sc, a, 10000);
        must(queue_push(&sc, JOB_AUDIO_CONVERT, id_make_owned(id_place(user)), user), &sc);
    }
    while (atomic_load(&pickup.n) < (size_t)n) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    atomic_store(&pickup.is_over, true);
    for (i = 0; i < PICKUP_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    got = atomic_load(&pickup.n);
    qsort(pickup.waited_us, got, sizeof(pickup.waited_us[0]), by_value);
    printf("{\"jobs\":%zu,\"p50Ms\":%.3f,\"p99Ms\":%.3f,\"maxMs\":%.3f}\n", got,
           (double)pickup.waited_us[got / 2] / 1000,
           (double)pickup.waited_us[got * 99 / 100] / 1000,
           (double)pickup.waited_us[got - 1] / 1000);
}

int main(int argc, char **argv)
{
    struct arena *a = arena_open(1 << 20);

    crypto_open();
    if (!config_load(stderr)) {
        return 1;
    }
    instance_open(&(struct instance_plan){.path = NULL});
    pg_open();
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 5 && strcmp(argv[1], "bench") == 0) {
        bench(a, number_of(argv[2]), (size_t)number_of(argv[3]), (size_t)number_of(argv[4]));
        return 0;
    }
    if (argc == 4 && strcmp(argv[1], "pickup") == 0) {
        bench_pickup(a, number_of(argv[2]), number_of(argv[3]));
        return 0;
    }
    driver_serve(a, run);
    pg_close();
    instance_close();
    arena_close(&a);
    return 0;
}
