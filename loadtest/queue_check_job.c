/* The checker's worker: the real one with another table of code, in which every type does the same
 * small, observable thing. Its one effect is a row in check_effects, written by job_publish(), so
 * exactly as often as the attempt took effect; what ran is in the table check_runs, written outside
 * of that transaction. Payload: {"ms": how long, "fail": of 1000 attempts so many fail,
 * "never": true for an error that never heals}. */
#include <string.h>

#include "lib/clock.h"
#include "lib/crypto.h"
#include "lib/pg.h"
#include "lib/pg_param.h"
#include "lib/str.h"
#include "workers/job.h"
#include "workers/worker.h"

enum { STEP_NS = 1000000, INDEX_EFFECT = PG_QUERY_INDEX_MAX, INDEX_RUN = PG_QUERY_INDEX_MAX - 1 };

static struct pg_query insert(struct job *j, struct scope *sc, const char *name, int index,
                              const char *sql)
{
    struct pg_query q = {.name = name,
                         .sql = sql,
                         .index = index,
                         .kind = PG_EXEC,
                         .place = id_place(job_id(j)),
                         .n_params = 2};

    q.params[0] = id_text(sc->arena, job_id(j));
    q.params[1] = pg_param_i64(sc, job_fence(j));
    return q;
}

static enum err publish(struct job *j, struct scope *sc, void *context)
{
    (void)context;
    return pg_exec(sc,
                   insert(j, sc, "check_effect", INDEX_EFFECT,
                          "INSERT INTO check_effects (job_id, fence) VALUES ($1, $2)"),
                   NULL);
}

static enum err work(struct job *j, int64_t ms)
{
    const struct timespec step = {.tv_nsec = STEP_NS};
    int64_t until = clock_mono_ms() + ms;

    while (clock_mono_ms() < until) {
        if (!job_progress(j, 50)) {
            return scope_fail(job_scope(j), ERR_INTERNAL, "stopped");
        }
        clock_nanosleep(CLOCK_MONOTONIC, 0, &step, NULL);
    }
    return OK;
}

static int64_t number(struct job *j, const char *name)
{
    int64_t value = 0;

    return json_i64(json_get(job_payload(j), name), &value) ? value : 0;
}

/* The same for the same claim, whatever the order of events. */
static bool is_unlucky(struct job *j, int64_t per_mille)
{
    struct id dice = job_made_id(j, job_fence(j), 0);
    uint32_t value;

    memcpy(&value, dice.bytes + 12, sizeof(value));
    return value % 1000 < (uint32_t)per_mille;
}

static enum err job_check(struct job *j)
{
    struct scope *sc = job_scope(j);
    bool is_hopeless = false;

    TRY(pg_exec(sc,
                insert(j, sc, "check_run", INDEX_RUN,
                       "INSERT INTO check_runs (job_id, fence) VALUES ($1, $2)"),
                NULL));
    pg_release(sc);
    TRY(work(j, number(j, "ms")));
    if (json_truth(json_get(job_payload(j), "never"), &is_hopeless) && is_hopeless) {
        return scope_fail(sc, ERR_VALIDATION_FAILED, "as asked for");
    }
    if (is_unlucky(j, number(j, "fail"))) {
        return scope_fail(sc, ERR_INTERNAL, "bad luck");
    }
    job_publish(j, publish, NULL);
    return OK;
}

const struct job_code *job_code_lookup(const char *name, size_t len)
{
    static const struct job_code code = {.name = "check", .run = job_check};

    return len > 0 && job_type_find(name) != NULL ? &code : NULL;
}
