/* A job as its code sees it. */
#include "workers/attempt.h"

#include <stdarg.h>
#include <string.h>

#include "lib/crypto.h"
#include "lib/str.h"

struct scope *job_scope(struct job *j)
{
    return &j->scope;
}

struct arena *job_arena(struct job *j)
{
    return j->scope.arena;
}

struct id job_id(const struct job *j)
{
    return j->row.id;
}

struct id job_user(const struct job *j)
{
    return j->row.user_id;
}

int64_t job_fence(const struct job *j)
{
    return j->row.fence;
}

const struct json *job_payload(const struct job *j)
{
    return j->payload;
}

const char *job_payload_text(const struct job *j)
{
    return j->row.payload;
}

struct id job_made_id(const struct job *j, int64_t fence, int n)
{
    struct id id = j->row.id; /* place and time are the job's; the random part is a hash */
    uint8_t hash[SHA256_SIZE];
    uint8_t seed[sizeof(id.bytes) + 8 + 4];
    int i;

    memcpy(seed, id.bytes, sizeof(id.bytes));
    for (i = 0; i < 8; i++) {
        seed[sizeof(id.bytes) + (size_t)i] = (uint8_t)((uint64_t)fence >> (8 * i));
    }
    for (i = 0; i < 4; i++) {
        seed[sizeof(id.bytes) + 8 + (size_t)i] = (uint8_t)((uint32_t)n >> (8 * i));
    }
    crypto_sha256(seed, sizeof(seed), hash);
    id.bytes[10] = (uint8_t)((id.bytes[10] & 0xfc) | (hash[0] & 3));
    memcpy(id.bytes + 11, hash + 1, sizeof(id.bytes) - 11);
    return id;
}

bool job_progress(struct job *j, int percent)
{
    roll_progress(j->slot, percent < 0 ? 0 : percent > 99 ? 99 : percent);
    return !job_stopped(j);
}

bool job_stopped(const struct job *j)
{
    return roll_stop(j->slot) != STOP_NONE;
}

static bool watch_progress(void *context, int percent)
{
    return job_progress(context, percent);
}

struct media_watch job_watch(struct job *j)
{
    return (struct media_watch){.progress = watch_progress, .context = j};
}

void job_result(struct job *j, const char *json)
{
    j->result = json;
}

void job_publish(struct job *j, enum err (*fn)(struct job *j, struct scope *sc, void *context),
                 void *context)
{
    j->publish = fn;
    j->publish_context = context;
}

void job_discard(struct job *j, void (*fn)(struct job *j, struct scope *sc, void *context),
                 void *context)
{
    j->discard = fn;
    j->discard_context = context;
}

void job_log(struct job *j, const char *format, ...)
{
    char line[JOB_LOG_LINE_SIZE];
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    roll_log(j->slot, line);
}
