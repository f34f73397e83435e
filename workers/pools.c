/* Which threads serve what: "audio,email=4,audio-mix=1". A name is a queue, then the pool takes all
 * of its types, or one type; the number is the pool's threads (WORKER_THREADS without it). */
#include <stdlib.h>
#include <string.h>

#include "lib/config.h"
#include "lib/log.h"
#include "lib/str.h"
#include "workers/worker.h"

static bool is_queue(const char *name)
{
    size_t n, i;
    const char *const *names = queue_names(&n);

    for (i = 0; i < n && strcmp(names[i], name) != 0; i++) {
    }
    return i < n;
}

static bool read_pool(struct pool *pool, const char *name, const char *threads)
{
    const struct job_type *type = job_type_find(name);
    int64_t n = config()->worker_threads;
    enum job_kind kind;

    if (type == NULL && !is_queue(name)) {
        fprintf(stderr, "maxbooster-worker: there is no queue or job type \"%s\"\n", name);
        return false;
    }
    if (threads != NULL && (!i64_parse(threads, &n) || n < 1 || n > POOL_THREADS_MAX)) {
        fprintf(stderr, "maxbooster-worker: \"%s\" threads for %s: 1 to %d\n", threads, name,
                POOL_THREADS_MAX);
        return false;
    }
    *pool = (struct pool){.threads = (size_t)n};
    for (kind = 0; kind < JOB__COUNT; kind++) {
        const struct job_type *t = job_type(kind);

        if (t == type || (type == NULL && strcmp(t->queue, name) == 0)) {
            pool->queue = t->queue;
            pool->kinds[kind] = job_code_lookup(t->name, strlen(t->name)) != NULL;
        }
    }
    return true;
}

/* A pool without code for any of its types has nothing to do. */
static bool is_served(const struct pool *pool)
{
    enum job_kind kind;

    if (strcmp(pool->queue, "email") == 0 && *config()->smtp_url == '\0') {
        log_event(LOG_WARN, "worker.queue", "SMTP_URL is empty: e-mail jobs wait");
        return false;
    }
    for (kind = 0; kind < JOB__COUNT && !pool->kinds[kind]; kind++) {
    }
    return kind < JOB__COUNT;
}

bool pools_read(const char *list, struct pool *pools, size_t *n_out)
{
    char text[512], *rest = text, *word;

    *n_out = 0;
    if (snprintf(text, sizeof(text), "%s", list) >= (int)sizeof(text)) {
        fputs("maxbooster-worker: the list of queues is too long\n", stderr);
        return false;
    }
    while ((word = strsep(&rest, ",")) != NULL) {
        char *name = strsep(&word, "=");

        if (*name == '\0') {
            continue;
        }
        if (*n_out == POOLS_MAX) {
            fprintf(stderr, "maxbooster-worker: more than %d pools\n", POOLS_MAX);
            return false;
        }
        if (!read_pool(&pools[*n_out], name, word)) {
            return false;
        }
        *n_out += is_served(&pools[*n_out]);
    }
    return true;
}
