/* Domain events: what is written to the outbox. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "lib/event.h"
#include "lib/pg.h"

static struct pg_query asked;

enum err pg_one(struct scope *sc, struct pg_query q, const struct shape *shape, void *out)
{
    (void)sc;
    (void)shape;
    (void)out;
    asked = q;
    return OK;
}

void pg_release(struct scope *sc)
{
    (void)sc;
}

static int setup(void **state)
{
    struct arena *arena = arena_open(65536);
    struct scope *sc = arena_new(arena, struct scope);

    scope_init(sc, arena, 1000);
    *state = sc;
    return 0;
}

static int teardown(void **state)
{
    struct scope *sc = *state;
    struct arena *arena = sc->arena;

    scope_done(sc);
    arena_close(&arena);
    return 0;
}

static void test_an_event_has_the_members_of_its_row_and_no_other(void **state)
{
    struct scope *sc = *state;
    struct id user = id_make_user(), id;

    assert_int_equal(event_add(sc, user, EVENT_USER_RENAMED,
                               &(struct event_data){.name = "N\"", .version = 3, .role = "admin"}),
                     OK);
    assert_string_equal(asked.name, "outbox_add");
    assert_true(id_parse(asked.params[0], strlen(asked.params[0]), &id));
    assert_int_equal(id_place(id).hash, id_place(user).hash); /* so it lies where its user does */
    assert_string_equal(asked.params[1], id_text(sc->arena, user));
    assert_string_equal(asked.params[2], "user.renamed");
    assert_string_equal(asked.params[3], "1");
    assert_null(asked.params[4]);
    assert_string_equal(asked.params[5], "{\"name\":\"N\\\"\",\"version\":3}");
}

static void test_an_event_carries_the_trace(void **state)
{
    struct scope *sc = *state;

    scope_trace_new(sc);
    assert_int_equal(event_add(sc, id_make_user(), EVENT_USER_PASSWORD_CHANGED,
                               &(struct event_data){.reason = "reset"}),
                     OK);
    assert_string_equal(asked.params[4], sc->traceparent);
}

static void test_the_docs_list_every_event(void **state)
{
    static const char *const types[] = {
#define EVENT(symbol, type, version, doc, ...) type,
#include "lib/events.def"
#undef EVENT
    };
    char *docs = NULL;
    size_t len = 0, i;
    FILE *out = open_memstream(&docs, &len);

    (void)state;
    event_print_docs(out);
    fclose(out);
    for (i = 0; i < EVENT__COUNT; i++) {
        assert_non_null(strstr(docs, types[i]));
    }
    assert_non_null(strstr(docs, "`fileId`, `code`"));
    free(docs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_an_event_has_the_members_of_its_row_and_no_other,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_event_carries_the_trace, setup, teardown),
        cmocka_unit_test(test_the_docs_list_every_event),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
