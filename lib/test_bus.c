/* The event bus: what is asked of Redis, and what is made of its answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "lib/bus.h"
#include "lib/config.h"
#include "lib/redis.h"

static struct {
    enum err result;
    struct redis_reply items[2], reply;
    struct redis_args keys, args;
    char mark[48]; /* as it was when asked */
} fake;

enum err redis_eval(struct scope *sc, struct redis_script *script, const struct redis_args *keys,
                    const struct redis_args *args, struct redis_reply *reply_out)
{
    (void)sc;
    assert_non_null(strstr(script->source, "XADD"));
    fake.keys = *keys;
    fake.args = *args;
    snprintf(fake.mark, sizeof(fake.mark), "%s", args->text[3]);
    *reply_out = fake.reply;
    return fake.result;
}

static void answer(const char *fate, const char *mark)
{
    fake.items[0] = (struct redis_reply){.kind = REDIS_TEXT, .text = fate, .len = strlen(fate)};
    fake.items[1] = (struct redis_reply){.kind = REDIS_TEXT, .text = mark, .len = strlen(mark)};
    fake.reply = (struct redis_reply){.kind = REDIS_LIST, .items = fake.items, .n_items = 2};
    fake.result = OK;
}

static int setup(void **state)
{
    struct arena *arena = arena_open(65536);
    struct scope *sc = arena_new(arena, struct scope);

    scope_init(sc, arena, 1000);
    bus_forget();
    answer("taken", "7-1");
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

static struct bus_event an_event(const char *data)
{
    struct id user = id_make_user();

    return (struct bus_event){.id = id_make_owned(id_place(user)),
                              .user = user,
                              .seq = 12,
                              .type = "user.renamed",
                              .version = 1,
                              .at_ms = 1000,
                              .data = data};
}

static void test_a_batch_goes_to_the_stream_of_its_partition(void **state)
{
    struct scope *sc = *state;
    struct bus_event e = an_event("{\"a\":1}");
    enum bus_fate fate;

    assert_int_equal(bus_publish(sc, 3, 5, &e, 1, &fate), OK);
    assert_int_equal(fate, BUS_TAKEN);
    assert_string_equal(fake.keys.text[0], "events:{events:3}");
    assert_string_equal(fake.keys.text[1], "events:{events:3}:fence");
    assert_string_equal(fake.args.text[0], "5");
    assert_string_equal(fake.mark, "");
    assert_int_equal(fake.args.n, 6);
    assert_string_equal(fake.args.text[4], id_text(sc->arena, e.id));
    assert_non_null(strstr(fake.args.text[5], "\"sequence\":\"12\""));
    assert_non_null(strstr(fake.args.text[5], "\"time\":\"1970-01-01T00:00:01.000Z\""));
    assert_non_null(strstr(fake.args.text[5], "\"data\":{\"a\":1}}"));
    assert_null(strstr(fake.args.text[5], "traceparent"));
}

static void test_where_the_stream_ended_is_asked_for_until_it_is_forgotten(void **state)
{
    struct scope *sc = *state;
    struct bus_event e = an_event("{}");
    enum bus_fate fate;

    assert_int_equal(bus_publish(sc, 0, 1, &e, 1, &fate), OK);
    assert_int_equal(bus_publish(sc, 0, 1, NULL, 0, &fate), OK);
    assert_string_equal(fake.mark, "7-1");
    assert_int_equal(bus_publish(sc, 1, 1, NULL, 0, &fate), OK);
    assert_string_equal(fake.mark, "");
    bus_forget();
    assert_int_equal(bus_publish(sc, 0, 1, NULL, 0, &fate), OK);
    assert_string_equal(fake.mark, "");
}

static void test_each_fate_is_told(void **state)
{
    static const struct {
        const char *word;
        enum bus_fate fate;
    } rows[] = {{"fenced", BUS_FENCED}, {"lost_tail", BUS_LOST_TAIL}, {"lost_all", BUS_LOST_ALL}};
    struct bus_event e = an_event("{}");
    enum bus_fate fate;
    size_t i;

    for (i = 0; i < ARRAY_LEN(rows); i++) {
        answer(rows[i].word, "");
        assert_int_equal(bus_publish(*state, 0, 1, &e, 1, &fate), OK);
        assert_int_equal(fate, rows[i].fate);
    }
    answer("what", "");
    assert_int_equal(bus_publish(*state, 0, 1, &e, 1, &fate), ERR_DEPENDENCY_UNAVAILABLE);
    fake.reply = (struct redis_reply){.kind = REDIS_NIL};
    assert_int_equal(bus_publish(*state, 0, 1, &e, 1, &fate), ERR_DEPENDENCY_UNAVAILABLE);
    fake.result = ERR_DEPENDENCY_UNAVAILABLE;
    assert_int_equal(bus_publish(*state, 0, 1, &e, 1, &fate), ERR_DEPENDENCY_UNAVAILABLE);
}

static void test_an_event_that_is_too_long_is_judged_before(void **state)
{
    struct scope *sc = *state;
    char *text = arena_alloc(sc->arena, BUS_EVENT_BYTES_MAX + 1);
    struct bus_event e = an_event("{}");

    assert_null(bus_judge(sc, &e));
    memset(text, 'x', BUS_EVENT_BYTES_MAX);
    text[BUS_EVENT_BYTES_MAX] = '\0';
    e.data = text;
    assert_non_null(bus_judge(sc, &e));
}

static void test_a_user_is_always_in_one_of_the_partitions(void **state)
{
    int i;

    (void)state;
    for (i = 0; i < 100; i++) {
        struct id user = id_make_user();

        assert_in_range(bus_partition(user), 0, bus_partitions() - 1);
        assert_int_equal(bus_partition(user), bus_partition(user));
    }
}

static void test_only_the_bus_that_is_there_may_start(void **state)
{
    char *text = NULL;
    size_t len;
    FILE *faults = open_memstream(&text, &len);

    (void)state;
    assert_true(bus_may_start(faults));
    fclose(faults);
    assert_string_equal(text, "");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_batch_goes_to_the_stream_of_its_partition, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            test_where_the_stream_ended_is_asked_for_until_it_is_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(test_each_fate_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_event_that_is_too_long_is_judged_before, setup,
                                        teardown),
        cmocka_unit_test(test_a_user_is_always_in_one_of_the_partitions),
        cmocka_unit_test(test_only_the_bus_that_is_there_may_start),
    };

    setenv("DATABASE_URL", "host=nowhere", 1);
    if (!config_load(stderr)) {
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
