/* Fair queueing in Redis: each artist's jobs carry virtual finish times (self-clocked fair
 * queueing), one sorted set per type, so that a type at its limit holds up no other; the types
 * take turns by the same rule, with priority as weight. */
#include <stdatomic.h>

#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/log.h"
#include "lib/queue_internal.h"
#include "lib/redis.h"
#include "lib/str.h"
#include "queue_lua.h"

static struct redis_script script_push = {.name = "queue_push", .source = queue_push_lua};
static struct redis_script script_fetch = {.name = "queue_fetch", .source = queue_fetch_lua};
static struct redis_script script_extend = {.name = "queue_extend", .source = queue_extend_lua};
static struct redis_script script_finish = {.name = "queue_finish", .source = queue_finish_lua};
static struct redis_script script_cancel = {.name = "queue_cancel", .source = queue_cancel_lua};
static struct redis_script script_stats = {.name = "queue_stats", .source = queue_stats_lua};

/* For the worker's next look; of one that has ended nothing shall stay. */
#define STOPS_KEPT_MS "10000"

static enum err no_queue(struct scope *sc, const char *queue)
{
    return scope_fail(sc, ERR_INTERNAL, "queue: no queue %s", queue);
}

static enum err odd_reply(struct scope *sc, const char *script)
{
    return scope_fail(sc, ERR_INTERNAL, "queue: odd reply of %s", script);
}

/* A turn of HIGH costs 1, of MEDIUM 2, of LOW 4. */
static const char *cost_of(enum job_priority priority)
{
    return priority == JOB_PRIORITY_HIGH ? "1" : priority == JOB_PRIORITY_MEDIUM ? "2" : "4";
}

static bool is_of(enum job_kind kind, const char *queue)
{
    return strcmp(job_type(kind)->queue, queue) == 0;
}

static void add_ready_keys(struct redis_args *args, const char *queue, int partition)
{
    enum job_kind kind;

    for (kind = 0; kind < JOB__COUNT; kind++) {
        if (is_of(kind, queue)) {
            redis_arg(args, queue_keys(kind, partition)->ready);
        }
    }
}

/* Who waits for the job: its user, or else its place. */
static void add_flow(struct strbuf *b, struct id user, struct id job)
{
    char text[ID_TEXT_SIZE];

    id_format(id_is_nil(user) ? job : user, text);
    strbuf_add(b, text, id_is_nil(user) ? 8 : ID_TEXT_SIZE - 1);
}

static void add_id(struct strbuf *b, struct id id)
{
    char text[ID_TEXT_SIZE];

    id_format(id, text);
    strbuf_add(b, text, ID_TEXT_SIZE - 1);
}

static void add_epoch(struct scope *sc, struct redis_args *args)
{
    uint8_t bytes[(QUEUE_EPOCH_SIZE - 1) / 2];
    char *text = arena_alloc(sc->arena, QUEUE_EPOCH_SIZE);

    crypto_random(bytes, sizeof(bytes));
    hex_encode(bytes, sizeof(bytes), text);
    redis_arg(args, text);
}

/* Those of one partition, from the items. */
static enum err push_partition(struct scope *sc, enum job_kind kind, int partition,
                               const struct queue_item *items, size_t n, int64_t *n_new)
{
    const struct queue_keys *k = queue_keys(kind, partition);
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;
    struct strbuf list;
    size_t i;

    strbuf_init(&list, sc->arena, n * 96 + 1);
    for (i = 0; i < n; i++) {
        if (queue_partition_of(items[i].job) == partition) {
            add_id(&list, items[i].job);
            strbuf_putc(&list, ' ');
            add_flow(&list, items[i].user, items[i].job);
            strbuf_putc(&list, ' ');
            strbuf_i64(&list, items[i].delay_ms > 0 ? items[i].delay_ms : 0);
            strbuf_putc(&list, '\n');
        }
    }
    if (list.len == 0) {
        return OK;
    }
    redis_arg(&keys, k->jobs);
    redis_arg(&keys, k->meta);
    redis_arg(&keys, k->delayed);
    redis_arg(&keys, k->flows);
    redis_arg(&keys, k->wake);
    redis_arg(&keys, k->ready);
    redis_arg(&args, job_type(kind)->name);
    redis_arg(&args, cost_of(job_type(kind)->priority));
    redis_arg_bytes(&args, list.data, list.len);
    TRY(redis_eval(sc, &script_push, &keys, &args, &reply));
    if (reply.kind != REDIS_INT) {
        return odd_reply(sc, "push");
    }
    *n_new += reply.integer;
    return OK;
}

enum err queue_push_many(struct scope *sc, enum job_kind kind, const struct queue_item *items,
                         size_t n, int64_t *n_new_out)
{
    int64_t n_new = 0;
    int partition;

    if (n > QUEUE_PUSH_MAX) {
        return scope_fail(sc, ERR_INTERNAL, "queue: %zu jobs in one push", n);
    }
    for (partition = 0; partition < queue_partitions(); partition++) {
        TRY(push_partition(sc, kind, partition, items, n, &n_new));
    }
    if (n_new_out != NULL) {
        *n_new_out = n_new;
    }
    return OK;
}

enum err queue_push(struct scope *sc, enum job_kind kind, struct id job, struct id user)
{
    const struct queue_item item = {.job = job, .user = user};

    return queue_push_many(sc, kind, &item, 1, NULL);
}

static bool read_text(const struct redis_reply *item, char *out, size_t size)
{
    if (item->kind != REDIS_TEXT || item->len >= size) {
        return false;
    }
    memcpy(out, item->text, item->len + 1);
    return true;
}

enum { GOT_HEAD = 6, GOT_ITEM = 3, STATS_HEAD = 5 };

static enum err read_got(struct scope *sc, const struct redis_reply *reply, const char *token,
                         struct queue_got *out)
{
    size_t i;

    *out = (struct queue_got){.n = 0};
    if (reply->kind != REDIS_LIST || reply->n_items < GOT_HEAD ||
        (reply->n_items - GOT_HEAD) % GOT_ITEM != 0 ||
        (reply->n_items - GOT_HEAD) / GOT_ITEM > QUEUE_BATCH_MAX ||
        !read_text(&reply->items[0], out->epoch, sizeof(out->epoch))) {
        return odd_reply(sc, "fetch");
    }
    out->paused = reply->items[1].integer != 0;
    out->n_promoted = reply->items[2].integer;
    out->n_recovered = reply->items[3].integer;
    out->more_due = reply->items[4].integer != 0;
    out->next_due_ms = reply->items[5].integer;
    for (i = GOT_HEAD; i < reply->n_items; i += GOT_ITEM) {
        const struct redis_reply *item = &reply->items[i];
        struct queue_lease *lease = &out->leases[out->n];
        const struct job_type *type =
            item[1].kind == REDIS_TEXT ? job_type_find(item[1].text) : NULL;

        if (item[0].kind != REDIS_TEXT || type == NULL || item[2].kind != REDIS_TEXT ||
            !id_parse(item[0].text, item[0].len, &lease->job)) {
            log_event(LOG_WARN, "queue.garbage", "an entry that is no job runs out by itself");
            continue;
        }
        lease->kind = type->kind;
        if (!id_parse(item[2].text, item[2].len, &lease->user)) {
            lease->user = (struct id){{0}};
        }
        memcpy(lease->token, token, strlen(token) + 1);
        memcpy(lease->epoch, out->epoch, sizeof(lease->epoch));
        out->n++;
    }
    return OK;
}

enum err queue_fetch(struct scope *sc, const struct queue_want *want, struct queue_got *got_out)
{
    static _Atomic uint64_t sequence;
    const struct queue_keys *k = queue_keys_find(want->queue, want->partition);
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;
    char token[QUEUE_TOKEN_SIZE];
    enum job_kind kind;

    if (k == NULL) {
        return no_queue(sc, want->queue);
    }
    snprintf(token, sizeof(token), "%.16s.%llx", want->worker,
             (unsigned long long)atomic_fetch_add(&sequence, 1));
    redis_arg(&keys, k->jobs);
    redis_arg(&keys, k->meta);
    redis_arg(&keys, k->delayed);
    redis_arg(&keys, k->leases);
    redis_arg(&keys, k->flows);
    redis_arg(&keys, k->wake);
    add_ready_keys(&keys, want->queue, want->partition);
    redis_arg_i64(sc, &args, config()->job_lease_ms);
    redis_arg_i64(sc, &args, (int64_t)(want->max < QUEUE_BATCH_MAX ? want->max : QUEUE_BATCH_MAX));
    redis_arg(&args, token);
    add_epoch(sc, &args);
    for (kind = 0; kind < JOB__COUNT; kind++) {
        if (is_of(kind, want->queue)) {
            redis_arg(&args, job_type(kind)->name);
            redis_arg_i64(sc, &args, want->kinds[kind] ? queue_share(kind, want->partition) : 0);
            redis_arg(&args, cost_of(job_type(kind)->priority));
        }
    }
    TRY(redis_eval(sc, &script_fetch, &keys, &args, &reply));
    return read_got(sc, &reply, token, got_out);
}

static const char *seconds(struct scope *sc, int64_t ms)
{
    return arena_printf(sc->arena, "%lld.%03d", (long long)(ms / 1000), (int)(ms % 1000));
}

enum err queue_wait(struct scope *sc, const char *queue, int partition, int64_t wait_ms)
{
    const struct queue_keys *k = queue_keys_find(queue, partition);
    struct redis_args args = {0};
    struct redis_reply reply;

    if (k == NULL) {
        return no_queue(sc, queue);
    }
    wait_ms = wait_ms < 1 ? 1 : wait_ms; /* 0 would wait for ever */
    redis_arg(&args, "BLPOP");
    redis_arg(&args, k->wake);
    redis_arg(&args, seconds(sc, wait_ms));
    return redis_wait(sc, k->wake, &args, wait_ms, &reply);
}

static void add_lease(struct strbuf *b, const struct queue_lease *lease)
{
    add_id(b, lease->job);
    strbuf_printf(b, " %s ", job_type(lease->kind)->name);
    add_flow(b, lease->user, lease->job);
    strbuf_printf(b, " %s %s\n", lease->token, lease->epoch);
}

enum err queue_extend(struct scope *sc, const char *queue, int partition,
                      struct queue_lease *leases, size_t n, enum queue_beat *beats_out)
{
    const struct queue_keys *k = queue_keys_find(queue, partition);
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;
    struct strbuf list;
    enum job_kind kind;
    size_t i;

    if (k == NULL || n > QUEUE_BATCH_MAX) {
        return no_queue(sc, queue);
    }
    strbuf_init(&list, sc->arena, n * 160 + 1);
    for (i = 0; i < n; i++) {
        add_lease(&list, &leases[i]);
    }
    redis_arg(&keys, k->jobs);
    redis_arg(&keys, k->meta);
    redis_arg(&keys, k->leases);
    add_ready_keys(&keys, queue, partition);
    redis_arg_i64(sc, &args, config()->job_lease_ms);
    add_epoch(sc, &args);
    redis_arg_bytes(&args, list.data, list.len);
    for (kind = 0; kind < JOB__COUNT; kind++) {
        if (is_of(kind, queue)) {
            redis_arg(&args, job_type(kind)->name);
        }
    }
    TRY(redis_eval(sc, &script_extend, &keys, &args, &reply));
    if (reply.kind != REDIS_LIST || reply.n_items != n + 1) {
        return odd_reply(sc, "extend");
    }
    for (i = 0; i < n; i++) {
        beats_out[i] = reply.items[i + 1].integer == 0   ? QUEUE_BEAT_OK
                       : reply.items[i + 1].integer == 1 ? QUEUE_BEAT_CANCELLED
                                                         : QUEUE_BEAT_LOST;
        if (!read_text(&reply.items[0], leases[i].epoch, sizeof(leases[i].epoch))) {
            return odd_reply(sc, "extend");
        }
    }
    return OK;
}

enum err queue_finish(struct scope *sc, const char *queue, int partition,
                      const struct queue_lease *leases, size_t n, enum queue_end end,
                      int64_t delay_ms)
{
    static const char *const words[] = {
        [QUEUE_DONE] = "done", [QUEUE_RETRY] = "retry", [QUEUE_RELEASE] = "release"};
    const struct queue_keys *k = queue_keys_find(queue, partition);
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;
    struct strbuf list;
    enum job_kind kind;
    size_t i;

    if (k == NULL || n > QUEUE_BATCH_MAX) {
        return no_queue(sc, queue);
    }
    strbuf_init(&list, sc->arena, n * 80 + 1);
    for (i = 0; i < n; i++) {
        add_id(&list, leases[i].job);
        strbuf_printf(&list, " %s\n", leases[i].token);
    }
    redis_arg(&keys, k->jobs);
    redis_arg(&keys, k->meta);
    redis_arg(&keys, k->delayed);
    redis_arg(&keys, k->leases);
    redis_arg(&keys, k->wake);
    add_ready_keys(&keys, queue, partition);
    redis_arg(&args, words[end]);
    redis_arg_i64(sc, &args, delay_ms > 0 ? delay_ms : 0);
    redis_arg_bytes(&args, list.data, list.len);
    for (kind = 0; kind < JOB__COUNT; kind++) {
        if (is_of(kind, queue)) {
            redis_arg(&args, job_type(kind)->name);
            redis_arg(&args, cost_of(job_type(kind)->priority));
        }
    }
    return redis_eval(sc, &script_finish, &keys, &args, &reply);
}

/* A list for each worker process, on a node that its own id decides. */
static const char *stops_key(struct scope *sc, const char *worker, size_t len)
{
    return arena_printf(sc->arena, "stop:{%.*s}", (int)len, worker);
}

/* The first part of a token is the worker's id. */
static enum err tell_holder(struct scope *sc, const char *token)
{
    const char *list = stops_key(sc, token, strcspn(token, "."));
    struct redis_pipeline *p = redis_pipeline_make(sc, list);
    struct redis_reply *replies;

    redis_pipeline_add(p, "RPUSH", list, token, NULL);
    redis_pipeline_add(p, "PEXPIRE", list, STOPS_KEPT_MS, NULL);
    return redis_pipeline_run(sc, p, &replies);
}

enum err queue_cancel(struct scope *sc, enum job_kind kind, struct id job)
{
    const struct queue_keys *k = queue_keys(kind, queue_partition_of(job));
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;

    redis_arg(&keys, k->jobs);
    redis_arg(&keys, k->meta);
    redis_arg(&keys, k->delayed);
    redis_arg(&keys, k->flows);
    redis_arg(&keys, k->ready);
    redis_arg(&args, id_text(sc->arena, job));
    redis_arg(&args, job_type(kind)->name);
    TRY(redis_eval(sc, &script_cancel, &keys, &args, &reply));
    return reply.kind == REDIS_TEXT ? tell_holder(sc, reply.text) : OK;
}

enum err queue_stops(struct scope *sc, const char *worker, int64_t wait_ms,
                     char token_out[QUEUE_TOKEN_SIZE])
{
    const char *list = stops_key(sc, worker, strlen(worker));
    struct redis_args args = {0};
    struct redis_reply reply;

    token_out[0] = '\0';
    wait_ms = wait_ms < 1 ? 1 : wait_ms; /* 0 would wait for ever */
    redis_arg(&args, "BLPOP");
    redis_arg(&args, list);
    redis_arg(&args, seconds(sc, wait_ms));
    TRY(redis_wait(sc, list, &args, wait_ms, &reply));
    if (reply.kind != REDIS_NIL && (reply.kind != REDIS_LIST || reply.n_items != 2 ||
                                    !read_text(&reply.items[1], token_out, QUEUE_TOKEN_SIZE))) {
        return odd_reply(sc, "stops");
    }
    return OK;
}

static enum err add_stats(struct scope *sc, const char *queue, int partition,
                          struct queue_stats *stats)
{
    const struct queue_keys *k = queue_keys_find(queue, partition);
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;
    enum job_kind kind;
    size_t i = STATS_HEAD;

    if (k == NULL) {
        return no_queue(sc, queue);
    }
    redis_arg(&keys, k->jobs);
    redis_arg(&keys, k->meta);
    redis_arg(&keys, k->delayed);
    redis_arg(&keys, k->leases);
    add_ready_keys(&keys, queue, partition);
    for (kind = 0; kind < JOB__COUNT; kind++) {
        if (is_of(kind, queue)) {
            redis_arg(&args, job_type(kind)->name);
        }
    }
    TRY(redis_eval(sc, &script_stats, &keys, &args, &reply));
    if (reply.kind != REDIS_LIST || reply.n_items != STATS_HEAD + 2 * args.n) {
        return odd_reply(sc, "stats");
    }
    stats->paused = stats->paused || reply.items[0].integer != 0;
    stats->n_known += reply.items[1].integer;
    stats->n_delayed += reply.items[2].integer;
    stats->n_due += reply.items[3].integer;
    stats->n_leased += reply.items[4].integer;
    for (kind = 0; kind < JOB__COUNT; kind++) {
        if (is_of(kind, queue)) {
            stats->n_ready[kind] += reply.items[i].integer;
            stats->n_running[kind] += reply.items[i + 1].integer;
            i += 2;
        }
    }
    return OK;
}

enum err queue_stats(struct scope *sc, const char *queue, struct queue_stats *stats_out)
{
    int partition;

    *stats_out = (struct queue_stats){.paused = false};
    for (partition = 0; partition < queue_partitions(); partition++) {
        TRY(add_stats(sc, queue, partition, stats_out));
    }
    return OK;
}

enum err queue_pause(struct scope *sc, const char *queue, bool paused)
{
    struct redis_reply reply;
    int partition;

    for (partition = 0; partition < queue_partitions(); partition++) {
        const struct queue_keys *k = queue_keys_find(queue, partition);

        if (k == NULL) {
            return no_queue(sc, queue);
        }
        TRY(redis_do(sc, k->meta, &reply, "HSET", k->meta, "p", paused ? "1" : "0", NULL));
        if (!paused) {
            TRY(redis_do(sc, k->wake, &reply, "LPUSH", k->wake, "1", NULL));
        }
    }
    return OK;
}

enum err queue_wait_replicas(struct scope *sc, enum job_kind kind, struct id job, int replicas,
                             int64_t wait_ms)
{
    const struct queue_keys *k = queue_keys(kind, queue_partition_of(job));
    struct redis_args args = {0};
    struct redis_reply reply;

    redis_arg(&args, "WAIT");
    redis_arg_i64(sc, &args, replicas);
    redis_arg_i64(sc, &args, wait_ms < 1 ? 1 : wait_ms);
    TRY(redis_wait(sc, k->jobs, &args, wait_ms, &reply));
    if (reply.kind != REDIS_INT || reply.integer < replicas) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "queue: %lld of %d replicas have it",
                          reply.kind == REDIS_INT ? (long long)reply.integer : -1, replicas);
    }
    return OK;
}

enum err queue_tell(struct scope *sc, struct id user, struct id job, enum job_kind kind,
                    const char *status, int progress)
{
    struct redis_reply reply;
    const char *channel;

    if (id_is_nil(user)) {
        return OK;
    }
    channel = arena_printf(sc->arena, "jobs:{%s}", id_text(sc->arena, user));
    return redis_do(sc, channel, &reply, "SPUBLISH", channel,
                    arena_printf(sc->arena,
                                 "{\"jobId\":\"%s\",\"type\":\"%s\",\"status\":\"%s\","
                                 "\"progress\":%d}",
                                 id_text(sc->arena, job), job_type(kind)->name, status, progress),
                    NULL);
}
