/* One JSON array carries all rows of a statement. Keys are decided under an advisory lock of the
 * transaction: the question and the insert that follows from it are one step for everybody else. */
#include "lib/promise.h"

#include <string.h>

#include "lib/pg.h"
#include "lib/str.h"
#include "queries.h"

enum { WAIT_MS = 100 };

struct found {
    struct id id;
};

static const struct field found_fields[] = {F_ID(found, id, "id", 0)};
static const struct shape shape_found = SHAPE(found, found_fields);

static void add_id(struct strbuf *b, const char *name, struct id id)
{
    if (!id_is_nil(id)) {
        strbuf_printf(b, ",\"%s\":\"%s\"", name, id_text(b->arena, id));
    }
}

static void add_row(struct scope *sc, struct strbuf *b, const struct promise *p, struct id parent,
                    size_t waits_for)
{
    strbuf_printf(b, "{\"id\":\"%s\",\"type\":\"%s\",\"payload\":%s", id_text(sc->arena, p->id),
                  job_type(p->kind)->name, p->payload);
    add_id(b, "user_id", p->user);
    add_id(b, "parent_id", parent);
    if (sc->traceparent[0] != '\0') {
        strbuf_printf(b, ",\"traceparent\":\"%s\"", sc->traceparent);
    }
    if (p->delay_ms > 0) {
        strbuf_printf(b, ",\"delay_ms\":%lld", (long long)p->delay_ms);
    }
    if (waits_for > 0) {
        strbuf_printf(b, ",\"waits_for\":%zu", waits_for);
    }
    if (p->dedup_key != NULL) {
        strbuf_puts(b, ",\"dedup_key\":");
        strbuf_json(b, p->dedup_key);
    }
    strbuf_putc(b, '}');
}

static struct id no_id(void)
{
    return (struct id){{0}};
}

static void prepare(struct promise *p)
{
    p->id = id_make_owned(p->place);
    p->is_new = true;
    p->is_waiting = false;
}

/* Is there a job that stands for this one? Then its id. */
static enum err find_earlier(struct scope *sc, const struct promise *p, struct found *found_out)
{
    const char *type = job_type(p->kind)->name;

    TRY(pg_exec(sc,
                q_jobs_dedup_lock(sc, p->place,
                                  arena_printf(sc->arena, "%s %s %s", type,
                                               id_text(sc->arena, p->user), p->dedup_key)),
                NULL));
    if (p->dedup == PROMISE_DEBOUNCE) {
        return pg_one(
            sc, q_jobs_debounce(sc, p->place, p->dedup_key, type, p->user, p->dedup_ms, p->payload),
            &shape_found, found_out);
    }
    return pg_one(sc,
                  q_jobs_dedup_find(sc, p->place, p->dedup_key, type, p->user,
                                    p->dedup == PROMISE_THROTTLE ? p->dedup_ms : 0),
                  &shape_found, found_out);
}

enum err promise_make(struct scope *sc, struct promise *p)
{
    struct found earlier;

    if (p->dedup != PROMISE_ALWAYS) {
        enum err e = find_earlier(sc, p, &earlier);

        if (e == OK) {
            p->id = earlier.id;
            p->is_new = false;
            p->is_waiting = false;
            return OK;
        }
        if (e != ERR_NOT_FOUND) {
            return e;
        }
        scope_forgive(sc);
        p->delay_ms = p->dedup == PROMISE_DEBOUNCE ? p->dedup_ms : p->delay_ms;
    }
    return promise_many(sc, p, 1);
}

enum err promise_many(struct scope *sc, struct promise *promises, size_t n)
{
    struct strbuf rows;
    size_t i;

    if (n == 0 || n > PROMISE_MANY_MAX) {
        return n == 0 ? OK : scope_fail(sc, ERR_INTERNAL, "promise: %zu jobs at once", n);
    }
    strbuf_init(&rows, sc->arena, n * 256);
    for (i = 0; i < n; i++) {
        prepare(&promises[i]);
        strbuf_putc(&rows, i == 0 ? '[' : ',');
        add_row(sc, &rows, &promises[i], no_id(), 0);
    }
    strbuf_putc(&rows, ']');
    return pg_exec(sc, q_jobs_insert_many(sc, promises[0].place, rows.data), NULL);
}

enum err promise_flow(struct scope *sc, struct promise *parent, struct promise *children, size_t n)
{
    struct strbuf rows;
    size_t i;

    if (n == 0 || n >= PROMISE_MANY_MAX) {
        return scope_fail(sc, ERR_INTERNAL, "promise: a flow of %zu", n);
    }
    prepare(parent);
    parent->is_waiting = true;
    strbuf_init(&rows, sc->arena, (n + 1) * 256);
    strbuf_putc(&rows, '[');
    add_row(sc, &rows, parent, no_id(), n);
    for (i = 0; i < n; i++) {
        prepare(&children[i]);
        strbuf_putc(&rows, ',');
        add_row(sc, &rows, &children[i], parent->id, 0);
    }
    strbuf_putc(&rows, ']');
    return pg_exec(sc, q_jobs_insert_many(sc, parent->place, rows.data), NULL);
}

static bool is_pushed(const struct promise *p)
{
    return p->is_new && !p->is_waiting;
}

/* Those of one kind, from i on; they are marked by their kind only, so each is pushed once. */
static void push_kind(struct scope *sc, enum job_kind kind, const struct promise *promises,
                      size_t n)
{
    struct queue_item items[QUEUE_PUSH_MAX];
    size_t i, n_items = 0;
    int replicas = 0;

    for (i = 0; i <= n; i++) {
        if (n_items == QUEUE_PUSH_MAX || (i == n && n_items > 0)) {
            if (queue_push_many(sc, kind, items, n_items, NULL) != OK ||
                (replicas > 0 &&
                 queue_wait_replicas(sc, kind, items[0].job, replicas, WAIT_MS) != OK)) {
                scope_forgive(sc);
            }
            n_items = 0;
        }
        if (i < n && promises[i].kind == kind && is_pushed(&promises[i])) {
            items[n_items++] = (struct queue_item){
                .job = promises[i].id, .user = promises[i].user, .delay_ms = promises[i].delay_ms};
            replicas = promises[i].wait_replicas > replicas ? promises[i].wait_replicas : replicas;
        }
    }
}

void promise_push(struct scope *sc, const struct promise *promises, size_t n)
{
    enum job_kind kind;

    for (kind = 0; kind < JOB__COUNT; kind++) {
        push_kind(sc, kind, promises, n);
    }
}
