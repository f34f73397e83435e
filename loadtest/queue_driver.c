/* Drives lib/queue.h from a test: one command a line on standard input, one JSON line each on
 * standard output. Also measures what a job costs: "queue_driver bench JOBS BATCH".
 * Configuration comes from the environment, as for every program. */
#include <inttypes.h>
#include <sys/resource.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/instance.h"
#include "lib/pg.h"
#include "lib/promise.h"
#include "lib/str.h"

enum { WORDS_MAX = 8, LINE_SIZE = 4096 };

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

static int64_t number_of(const char *text)
{
    int64_t value = 0;

    if (text != NULL && !i64_parse(text, &value)) {
        fprintf(stderr, "not a number: %s\n", text);
        exit(2);
    }
    return value;
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

static int64_t cpu_us(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 + u.ru_utime.tv_usec +
           u.ru_stime.tv_usec;
}

static void must(enum err e, const struct scope *sc)
{
    if (e != OK) {
        print_err(e, sc);
        exit(1);
    }
}

/* Push jobs of 100 artists, then fetch and finish them all, batch jobs a call. */
static void bench(struct arena *a, int64_t jobs, size_t batch)
{
    struct queue_want want = {.queue = "audio", .worker = "bench", .max = batch};
    struct queue_item items[QUEUE_PUSH_MAX];
    struct id users[100];
    struct queue_got got;
    struct scope sc;
    int64_t done, start = clock_mono_us(), start_cpu = cpu_us(), pushed_us, pushed_cpu;
    size_t i;

    want.kinds[JOB_AUDIO_CONVERT] = true;
    for (i = 0; i < ARRAY_LEN(users); i++) {
        users[i] = id_make_user();
    }
    for (done = 0; done < jobs; done += (int64_t)batch) {
        arena_reset(a);
        scope_init(&sc, a, 10000);
        for (i = 0; i < batch; i++) {
            struct id user = users[(size_t)done / batch % ARRAY_LEN(users)];

            items[i] = (struct queue_item){id_make_owned(id_place(user)), user, 0};
        }
        must(queue_push_many(&sc, JOB_AUDIO_CONVERT, items, batch, NULL), &sc);
    }
    pushed_us = clock_mono_us() - start;
    pushed_cpu = cpu_us() - start_cpu;
    for (done = 0; done < jobs; done += (int64_t)got.n) {
        arena_reset(a);
        scope_init(&sc, a, 10000);
        must(queue_fetch(&sc, &want, &got), &sc);
        must(queue_finish(&sc, "audio", 0, got.leases, got.n, QUEUE_DONE, 0), &sc);
        if (got.n == 0) {
            break;
        }
    }
    printf("{\"jobs\":%" PRId64 ",\"batch\":%zu,\"pushUs\":%.2f,\"pushCpuUs\":%.2f,"
           "\"totalUs\":%.2f,\"totalCpuUs\":%.2f}\n",
           done, batch, (double)pushed_us / (double)jobs, (double)pushed_cpu / (double)jobs,
           (double)(clock_mono_us() - start) / (double)jobs,
           (double)(cpu_us() - start_cpu) / (double)jobs);
}

int main(int argc, char **argv)
{
    struct arena *a = arena_open(1 << 20);
    char line[LINE_SIZE];

    crypto_open();
    if (!config_load(stderr)) {
        return 1;
    }
    instance_open(&(struct instance_plan){.path = NULL});
    pg_open();
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 4 && strcmp(argv[1], "bench") == 0) {
        size_t batch = (size_t)number_of(argv[3]);

        bench(a, number_of(argv[2]), batch < 1 || batch > QUEUE_PUSH_MAX ? 1 : batch);
        return 0;
    }
    while (fgets(line, sizeof(line), stdin) != NULL) {
        char *words[WORDS_MAX + 1] = {NULL}, *rest = line, *word;
        struct scope sc;
        int n = 0;

        while (n < WORDS_MAX && (word = strsep(&rest, " \n")) != NULL) {
            if (*word != '\0') {
                words[n++] = word;
            }
        }
        if (n > 0) {
            arena_reset(a);
            scope_init(&sc, a, 10000);
            run(&sc, words, n);
            scope_done(&sc);
        }
    }
    pg_close();
    instance_close();
    arena_close(&a);
    return 0;
}
