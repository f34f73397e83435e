/* What is written and pushed for a promise. PostgreSQL and Redis are fakes here; with real ones see
 * integration/test_promise.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/json.h"
#include "lib/pg.h"
#include "lib/promise.h"

static struct {
    int n_execs, n_ones;
    const char *rows; /* of the insert */
    enum err found;   /* answer to the question for an earlier job */
    struct id earlier;
    size_t n_pushed, n_calls;
    struct queue_item pushed[QUEUE_PUSH_MAX];
    int replicas;
} seen;

enum err pg_exec(struct scope *sc, struct pg_query q, int64_t *n_out)
{
    (void)sc, (void)n_out;
    seen.n_execs++;
    if (q.n_params == 1 && q.params[0][0] == '[') {
        seen.rows = q.params[0];
    }
    return OK;
}

enum err pg_one(struct scope *sc, struct pg_query q, const struct shape *shape, void *out)
{
    (void)sc, (void)q, (void)shape;
    seen.n_ones++;
    *(struct id *)out = seen.earlier;
    return seen.found;
}

void pg_release(struct scope *sc)
{
    (void)sc;
}

enum err queue_push_many(struct scope *sc, enum job_kind kind, const struct queue_item *items,
                         size_t n, int64_t *n_new_out)
{
    (void)sc, (void)kind, (void)n_new_out;
    memcpy(seen.pushed, items, n * sizeof(*items));
    seen.n_pushed += n;
    seen.n_calls++;
    return ERR_DEPENDENCY_UNAVAILABLE; /* which nobody hears of */
}

enum err queue_wait_replicas(struct scope *sc, enum job_kind kind, struct id job, int replicas,
                             int64_t wait_ms)
{
    (void)sc, (void)kind, (void)job, (void)wait_ms;
    seen.replicas = replicas;
    return OK;
}

struct world {
    struct arena *arena;
    struct scope sc;
    struct id user;
};

static struct world *begin(void **state)
{
    struct world *w = *state;

    memset(&seen, 0, sizeof(seen));
    arena_reset(w->arena);
    scope_init(&w->sc, w->arena, 1000);
    w->user = id_make_user();
    return w;
}

static struct promise make(const struct world *w)
{
    return (struct promise){.kind = JOB_EMAIL_SEND,
                            .user = w->user,
                            .place = id_place(w->user),
                            .payload = "{\"a\":1}"};
}

static const struct json *rows(struct world *w)
{
    const struct json *value = NULL;

    assert_int_equal(json_parse(&w->sc, seen.rows, strlen(seen.rows), &value), OK);
    return value;
}

static void test_a_row_has_what_was_asked_for(void **state)
{
    struct world *w = begin(state);
    struct promise p = make(w);
    const struct json *row;
    int64_t delay;

    p.delay_ms = 1500;
    assert_int_equal(promise_make(&w->sc, &p), OK);
    assert_true(p.is_new);
    row = json_item(rows(w), 0);
    assert_string_equal(json_str(json_get(row, "id"), NULL), id_text(w->arena, p.id));
    assert_string_equal(json_str(json_get(row, "user_id"), NULL), id_text(w->arena, w->user));
    assert_string_equal(json_str(json_get(row, "type"), NULL), "email-send");
    assert_true(json_i64(json_get(row, "delay_ms"), &delay) && delay == 1500);
    assert_false(json_has(row, "dedup_key") || json_has(row, "parent_id"));
    assert_int_equal(id_place(p.id).hash, p.place.hash);
}

static void test_a_key_that_is_taken_gives_the_earlier_job(void **state)
{
    struct world *w = begin(state);
    struct promise p = make(w);

    seen.earlier = id_make_owned(p.place);
    p.dedup = PROMISE_UNTIL_DONE;
    p.dedup_key = "k\"1";
    assert_int_equal(promise_make(&w->sc, &p), OK);
    assert_false(p.is_new);
    assert_true(id_equal(p.id, seen.earlier));
    assert_null(seen.rows);
    promise_push(&w->sc, &p, 1);
    assert_int_equal(seen.n_pushed, 0);
    seen.found = ERR_NOT_FOUND;
    assert_int_equal(promise_make(&w->sc, &p), OK);
    assert_true(p.is_new);
    assert_string_equal(json_str(json_get(json_item(rows(w), 0), "dedup_key"), NULL), "k\"1");
}

static void test_a_question_that_fails_promises_nothing(void **state)
{
    struct world *w = begin(state);
    struct promise p = make(w);

    seen.found = ERR_DEPENDENCY_UNAVAILABLE;
    p.dedup = PROMISE_THROTTLE;
    p.dedup_key = "k";
    assert_int_equal(promise_make(&w->sc, &p), ERR_DEPENDENCY_UNAVAILABLE);
    assert_null(seen.rows);
}

static void test_a_flows_parent_waits_for_its_children_and_is_not_pushed(void **state)
{
    struct world *w = begin(state);
    struct promise parent = make(w), children[3] = {make(w), make(w), make(w)};
    int64_t waits_for;
    size_t i;

    assert_int_equal(promise_flow(&w->sc, &parent, children, 3), OK);
    assert_int_equal(seen.n_execs, 1);
    assert_int_equal(json_length(rows(w)), 4);
    assert_true(json_i64(json_get(json_item(rows(w), 0), "waits_for"), &waits_for));
    assert_int_equal(waits_for, 3);
    for (i = 1; i < 4; i++) {
        assert_string_equal(json_str(json_get(json_item(rows(w), i), "parent_id"), NULL),
                            id_text(w->arena, parent.id));
    }
    promise_push(&w->sc, &parent, 1);
    assert_int_equal(seen.n_pushed, 0);
    promise_push(&w->sc, children, 3);
    assert_int_equal(seen.n_pushed, 3);
    assert_int_equal(promise_flow(&w->sc, &parent, children, 0), ERR_INTERNAL);
}

static void test_pushes_go_in_batches_and_their_failures_are_forgiven(void **state)
{
    struct world *w = begin(state);
    struct promise many[QUEUE_PUSH_MAX + 1];
    size_t i;

    for (i = 0; i < ARRAY_LEN(many); i++) {
        many[i] = make(w);
        many[i].wait_replicas = 2;
    }
    assert_int_equal(promise_many(&w->sc, many, ARRAY_LEN(many)), OK);
    promise_push(&w->sc, many, ARRAY_LEN(many));
    assert_int_equal(seen.n_pushed, ARRAY_LEN(many));
    assert_int_equal(seen.n_calls, 2);
    assert_int_equal(seen.replicas, 0); /* what was not pushed is not waited for */
    assert_null(w->sc.cause);
    assert_int_equal(promise_many(&w->sc, many, PROMISE_MANY_MAX + 1), ERR_INTERNAL);
}

static int open_world(void **state)
{
    static struct world w;

    crypto_open();
    w.arena = arena_open(1 << 20);
    *state = &w;
    return config_load(stderr) ? 0 : -1;
}

static int close_world(void **state)
{
    struct world *w = *state;

    arena_close(&w->arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_row_has_what_was_asked_for),
        cmocka_unit_test(test_a_key_that_is_taken_gives_the_earlier_job),
        cmocka_unit_test(test_a_question_that_fails_promises_nothing),
        cmocka_unit_test(test_a_flows_parent_waits_for_its_children_and_is_not_pushed),
        cmocka_unit_test(test_pushes_go_in_batches_and_their_failures_are_forgiven),
    };

    return cmocka_run_group_tests(tests, open_world, close_world);
}
