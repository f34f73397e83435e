/* Types, their figures from config, and the keys of every partition, made once. */
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>

#include "lib/config.h"
#include "lib/queue_internal.h"
#include "lib/str.h"

static const struct job_type types[JOB__COUNT] = {
#define JOB(symbol, small, name_text, queue_text, priority_word, timeout_s, concurrency, retries) \
    [JOB_##symbol] = {.kind = JOB_##symbol,                                                       \
                      .name = name_text,                                                          \
                      .queue = queue_text,                                                        \
                      .priority = JOB_PRIORITY_##priority_word},
#include "lib/job.def"
#undef JOB
};

/* Where config keeps the three figures of each type. Looked up by name once: a row of job.def
 * needs no other C. */
static struct {
    size_t timeout_s, concurrency, retries;
} settings[JOB__COUNT];

static const struct {
    const char *name;
    size_t offset;
} config_fields[] = {
#define CFG_INT(field, unit, min, max, def, when, doc) {#field, offsetof(struct config, field)},
#define CFG_STR(field, max_length, def, when, doc)
#define CFG_SECRET(field, max_length, def, when, doc)
#define CFG_SECRETS(field, count, max_length, pattern, when, doc)
#include "lib/config.def"
#undef CFG_INT
#undef CFG_STR
#undef CFG_SECRET
#undef CFG_SECRETS
};

static pthread_once_t tables_once = PTHREAD_ONCE_INIT;
static const char *names[JOB__COUNT];
static size_t n_names;
static struct queue_keys keys_of[JOB__COUNT][QUEUE_PARTITIONS_MAX];

static size_t setting_offset(const struct job_type *type, const char *suffix)
{
    char name[64];
    size_t i;

    snprintf(name, sizeof(name), "job_%s_%s", type->name, suffix);
    for (i = 0; name[i] != '\0'; i++) {
        name[i] = (char)(name[i] == '-' ? '_' : name[i]);
    }
    for (i = 0; i < ARRAY_LEN(config_fields); i++) {
        if (strcmp(config_fields[i].name, name) == 0) {
            return config_fields[i].offset;
        }
    }
    abort(); /* our bug: a row of job.def whose name is not its symbol; the unit test finds it */
}

/* A key that lives as long as the program. */
static const char *make_key(const char *queue, int partition, const char *what, const char *more)
{
    char tag[48], key[128], *made;

    snprintf(tag, sizeof(tag), partition == 0 ? "{%s}" : "{%s:%d}", queue, partition);
    snprintf(key, sizeof(key), "%s:%s%s", tag, what, more);
    made = strdup(key);
    if (made == NULL) {
        abort();
    }
    return made;
}

static void fill_keys(const struct job_type *type, int partition)
{
    struct queue_keys *k = &keys_of[type->kind][partition];
    enum job_kind other;

    for (other = 0; other < type->kind; other++) {
        if (strcmp(types[other].queue, type->queue) == 0) {
            *k = keys_of[other][partition];
            k->ready = make_key(type->queue, partition, "ready:", type->name);
            return;
        }
    }
    k->jobs = make_key(type->queue, partition, "jobs", "");
    k->meta = make_key(type->queue, partition, "meta", "");
    k->delayed = make_key(type->queue, partition, "delayed", "");
    k->leases = make_key(type->queue, partition, "leases", "");
    k->flows = make_key(type->queue, partition, "flows", "");
    k->wake = make_key(type->queue, partition, "wake", "");
    k->ready = make_key(type->queue, partition, "ready:", type->name);
}

static void fill_tables(void)
{
    size_t i, j;
    int partition;

    for (i = 0; i < JOB__COUNT; i++) {
        for (partition = 0; partition < QUEUE_PARTITIONS_MAX; partition++) {
            fill_keys(&types[i], partition);
        }
        settings[i].timeout_s = setting_offset(&types[i], "timeout_s");
        settings[i].concurrency = setting_offset(&types[i], "concurrency");
        settings[i].retries = setting_offset(&types[i], "retries");
        for (j = 0; j < n_names && strcmp(names[j], types[i].queue) != 0; j++) {
        }
        if (j == n_names) {
            names[n_names++] = types[i].queue;
        }
    }
}

const struct job_type *job_type(enum job_kind kind)
{
    return &types[kind];
}

const struct job_type *job_type_find(const char *name)
{
    size_t i;

    for (i = 0; i < JOB__COUNT; i++) {
        if (strcmp(types[i].name, name) == 0) {
            return &types[i];
        }
    }
    return NULL;
}

static int64_t figure(size_t offset)
{
    return *(const int64_t *)(const void *)((const char *)config() + offset);
}

struct job_limits job_limits(enum job_kind kind)
{
    pthread_once(&tables_once, fill_tables);
    return (struct job_limits){
        .timeout_ms = figure(settings[kind].timeout_s) * 1000,
        .concurrency = figure(settings[kind].concurrency),
        .retries = figure(settings[kind].retries),
    };
}

const char *const *queue_names(size_t *n_out)
{
    pthread_once(&tables_once, fill_tables);
    *n_out = n_names;
    return names;
}

const struct queue_keys *queue_keys(enum job_kind kind, int partition)
{
    pthread_once(&tables_once, fill_tables);
    return &keys_of[kind][partition];
}

const struct queue_keys *queue_keys_find(const char *queue, int partition)
{
    enum job_kind kind;

    for (kind = 0; kind < JOB__COUNT; kind++) {
        if (strcmp(types[kind].queue, queue) == 0 && partition >= 0 &&
            partition < queue_partitions()) {
            return queue_keys(kind, partition);
        }
    }
    return NULL;
}

int queue_partitions(void)
{
    return (int)config()->queue_partitions;
}

int queue_partition_of(struct id job)
{
    /* Another mixture of the place than the shard's, so that each partition has jobs of all. */
    uint32_t mixed = id_place(job).hash * 2654435761u;

    return (int)((mixed >> 16) % (uint32_t)queue_partitions());
}

int64_t queue_share(enum job_kind kind, int partition)
{
    int64_t all = job_limits(kind).concurrency, n = queue_partitions();
    int64_t share = all / n + (partition < all % n);

    return share > 0 ? share : 1;
}

int64_t queue_backoff_ms(int64_t failures, uint64_t random)
{
    int64_t most = config()->job_backoff_ms;
    int64_t cap = config()->job_backoff_max_ms;
    int64_t i;

    for (i = 1; i < failures && most < cap; i++) {
        most *= 2;
    }
    most = most < cap ? most : cap;
    return 1 + (int64_t)(random % (uint64_t)most);
}
