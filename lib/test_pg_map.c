/* Maps of shards as values, and connection strings: nothing here needs a server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/pg_internal.h"

static struct arena *arena;
static struct scope sc;

static const char *const variables[] = {"DATABASE_URL", "DATABASE_SHARD_01_URL",
                                        "DATABASE_SHARD_02_URL", "SHARD_COUNT", "SHARD_MAP"};

static int setup(void **state)
{
    size_t i;

    (void)state;
    crypto_open();
    for (i = 0; i < ARRAY_LEN(variables); i++) {
        unsetenv(variables[i]);
    }
    setenv("DATABASE_URL", "postgresql://ann:s3cret@10.0.0.1:6000/zero?sslmode=disable", 1);
    arena = arena_open(262144);
    scope_init(&sc, arena, 1000);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_close(&arena);
    return 0;
}

static struct pg_map *of_config(const char *count, const char *map)
{
    setenv("SHARD_COUNT", count, 1);
    setenv("SHARD_MAP", map, 1);
    setenv("DATABASE_SHARD_01_URL", "postgresql://bob:pw@10.0.0.2/one", 1);
    setenv("DATABASE_SHARD_02_URL", "host=10.0.0.3 port=7000 dbname=two user=eve", 1);
    assert_true(config_load(stderr));
    return pg_map_of_config(&sc, config());
}

static enum err parse(const char *text, struct pg_map **map_out)
{
    assert_true(config_load(stderr));
    return pg_map_parse(&sc, config(), 7, text, strlen(text), map_out);
}

/* --- Of the configuration. --- */

static void test_shard_n_is_in_database_n_unless_a_map_says_otherwise(void **state)
{
    struct pg_map *map = of_config("3", "");

    (void)state;
    assert_int_equal(map->epoch, 0);
    assert_int_equal(map->n_shards, 3);
    assert_int_equal(map->n_databases, 3);
    assert_string_equal(map->databases[0].location, "host=10.0.0.1 port=6000 dbname=zero");
    assert_string_equal(map->databases[1].location, "host=10.0.0.2 port=5432 dbname=one");
    assert_string_equal(map->databases[2].location, "host=10.0.0.3 port=7000 dbname=two");
    assert_int_equal(pg_map_database_of(map, (struct place){5}), 2);
    assert_string_equal(map->databases[2].url, "host=10.0.0.3 port=7000 dbname=two user=eve");
}

static void test_several_shards_may_be_in_one_database(void **state)
{
    struct pg_map *map = of_config("4", "2,0,2,0");

    (void)state;
    assert_int_equal(map->n_shards, 4);
    assert_int_equal(map->n_databases, 2); /* database 1 holds none */
    assert_string_equal(map->databases[1].location, "host=10.0.0.3 port=7000 dbname=two");
    assert_int_equal(pg_map_database_of(map, (struct place){4}), 1);
    assert_int_equal(pg_map_database_of(map, (struct place){7}), 0);
    assert_int_equal(map->databases[0].n_shards, 2);
    assert_int_equal(map->databases[0].first_shard, 1);
    assert_int_equal(pg_map_place_on(map, 1).hash, 0);
}

static void test_two_names_of_one_database_are_one(void **state)
{
    struct pg_map *map;

    (void)state;
    setenv("DATABASE_SHARD_01_URL", "host=10.0.0.1 port=6000 dbname=zero user=bob", 1);
    setenv("SHARD_COUNT", "2", 1);
    assert_true(config_load(stderr));
    map = pg_map_of_config(&sc, config());
    assert_int_equal(map->n_databases, 1);
    assert_int_equal(map->databases[0].n_shards, 2);
}

static void test_a_bad_shard_map_stops_the_start(void **state)
{
    static const char *const bad[] = {"0",     "0,1,2", "0,",  "0,,1", "0;1",
                                      "0,128", "0,-1",  "0,x", "0,3" /* has no URL */};
    char *faults = NULL;
    size_t len = 0, i;

    (void)state;
    setenv("SHARD_COUNT", "2", 1);
    setenv("DATABASE_SHARD_01_URL", "host=a dbname=b", 1);
    setenv("DATABASE_SHARD_02_URL", "host=c dbname=d", 1);
    for (i = 0; i < ARRAY_LEN(bad); i++) {
        FILE *out = open_memstream(&faults, &len);

        setenv("SHARD_MAP", bad[i], 1);
        assert_false(config_load(out));
        fclose(out);
        assert_non_null(strstr(faults, "SHARD_"));
        free(faults);
    }
    setenv("SHARD_MAP", "0,1", 1);
    assert_true(config_load(stderr));
}

/* --- Stored. --- */

static void test_a_stored_map_takes_its_credentials_from_the_configuration(void **state)
{
    struct pg_map *map = of_config("2", "");

    (void)state;
    assert_int_equal(parse("{\"shardCount\":4,\"databases\":["
                           "{\"location\":\"host=10.0.0.2 port=5432 dbname=one\",\"flags\":[]},"
                           "{\"location\":\"postgresql://10.0.0.9/new\","
                           "\"flags\":[\"fresh\",\"strange\"]}],"
                           "\"shards\":[0,1,1,0],\"more\":{}}",
                           &map),
                     OK);
    assert_int_equal(map->epoch, 7);
    assert_int_equal(map->n_shards, 4);
    assert_string_equal(map->databases[0].url, "postgresql://bob:pw@10.0.0.2/one");
    assert_int_equal(map->databases[0].flags, 0);
    assert_string_equal(map->databases[1].location, "host=10.0.0.9 port=5432 dbname=new");
    assert_string_equal(map->databases[1].url, "user=ann password=s3cret dbname=new host=10.0.0.9 "
                                               "port=5432 sslmode=disable");
    assert_int_equal(map->databases[1].flags, PG_MAP_FRESH);
}

static void test_a_map_reads_back_as_it_was_written(void **state)
{
    struct pg_map *map = of_config("4", "0,1,0,2"), *back;
    struct strbuf text, again;

    (void)state;
    map->databases[1].flags = PG_MAP_MOVING | PG_MAP_FRESH;
    strbuf_init(&text, arena, 256);
    pg_map_write(&text, map);
    assert_null(strstr(text.data, "s3cret"));
    assert_null(strstr(text.data, "bob"));
    assert_int_equal(parse(text.data, &back), OK);
    strbuf_init(&again, arena, 256);
    pg_map_write(&again, back);
    assert_string_equal(text.data, again.data);
    assert_string_equal(text.data,
                        "{\"shardCount\":4,\"databases\":["
                        "{\"location\":\"host=10.0.0.1 port=6000 dbname=zero\",\"flags\":[]},"
                        "{\"location\":\"host=10.0.0.2 port=5432 dbname=one\","
                        "\"flags\":[\"moving\",\"fresh\"]},"
                        "{\"location\":\"host=10.0.0.3 port=7000 dbname=two\",\"flags\":[]}],"
                        "\"shards\":[0,1,0,2]}");
}

#define A_DATABASE "{\"location\":\"host=a port=1 dbname=b\",\"flags\":[]}"

static void test_what_is_no_whole_map_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "null",
        "[]",
        "{",
        "{}",
        "{\"shardCount\":1}",
        "{\"shardCount\":1,\"databases\":[],\"shards\":[0]}",
        "{\"shardCount\":0,\"databases\":[" A_DATABASE "],\"shards\":[]}",
        "{\"shardCount\":-1,\"databases\":[" A_DATABASE "],\"shards\":[]}",
        "{\"shardCount\":1e3,\"databases\":[" A_DATABASE "],\"shards\":[0]}",
        "{\"shardCount\":5000,\"databases\":[" A_DATABASE "],\"shards\":[0]}",
        "{\"shardCount\":2,\"databases\":[" A_DATABASE "],\"shards\":[0]}",
        "{\"shardCount\":1,\"databases\":[" A_DATABASE "],\"shards\":[0,0]}",
        "{\"shardCount\":1,\"databases\":[" A_DATABASE "],\"shards\":[1]}",
        "{\"shardCount\":1,\"databases\":[" A_DATABASE "],\"shards\":[-1]}",
        "{\"shardCount\":1,\"databases\":[" A_DATABASE "],\"shards\":[\"0\"]}",
        "{\"shardCount\":1,\"databases\":[" A_DATABASE "],\"shards\":[null]}",
        "{\"shardCount\":1,\"databases\":[" A_DATABASE "],\"shards\":{}}",
        "{\"shardCount\":1,\"databases\":{},\"shards\":[0]}",
        "{\"shardCount\":1,\"databases\":[null],\"shards\":[0]}",
        "{\"shardCount\":1,\"databases\":[{}],\"shards\":[0]}",
        "{\"shardCount\":1,\"databases\":[{\"location\":\"\"}],\"shards\":[0]}",
        "{\"shardCount\":1,\"databases\":[{\"location\":7}],\"shards\":[0]}",
        "{\"shardCount\":1,\"databases\":[{\"location\":\"host=a\"}],\"shards\":[0]}",
        "{\"shardCount\":1,\"databases\":[{\"location\":\"a\\u0000b\"}],\"shards\":[0]}",
        "{\"shardCount\":1,\"databases\":[{\"location\":\"dbname='b\"}],\"shards\":[0]}",
        "{\"shardCount\":1,\"databases\":[{\"location\":\"dbname=b user=u\"}],\"shards\":[0]}",
        "{\"shardCount\":1,\"databases\":[{\"location\":\"dbname=b password=p\"}],\"shards\":[0]}",
        "{\"shardCount\":1,\"databases\":[{\"location\":\"dbname=b passfile=/x\"}],\"shards\":[0]}",
        "{\"shardCount\":1,\"databases\":[{\"location\":\"dbname=b strange=1\"}],\"shards\":[0]}",
    };
    struct pg_map *map;
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(bad); i++) {
        sc.cause = NULL;
        if (parse(bad[i], &map) != ERR_INTERNAL || sc.cause == NULL) {
            fail_msg("taken: %s", bad[i]);
        }
    }
    assert_true(config_load(stderr));
    assert_int_equal(pg_map_parse(&sc, config(), 0, "{}", 2, &map), ERR_INTERNAL);
}

/* --- Connection strings. --- */

static void test_one_place_has_one_text(void **state)
{
    static const char *const same[] = {
        "postgresql://u:p@h:5432/d",
        "postgres://h/d?connect_timeout=3",
        "host=h dbname=d user=other",
        "dbname = d  host = 'h' port=5432 password='a b'",
    };
    const char *location;
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(same); i++) {
        assert_true(pg_conninfo_location(arena, same[i], &location));
        assert_string_equal(location, "host=h port=5432 dbname=d");
    }
    assert_true(pg_conninfo_location(arena, "host=h user=u", &location));
    assert_string_equal(location, "host=h port=5432 dbname=u");
    assert_false(pg_conninfo_location(arena, "postgresql://[h/d", &location));
    assert_false(pg_conninfo_location(arena, "host", &location));
    assert_false(pg_conninfo_location(arena, NULL, &location));
}

static void test_texts_with_quotes_stay_what_they_are(void **state)
{
    const char *location, *again;

    (void)state;
    assert_true(pg_conninfo_location(arena, "host=/a dbname='o\\'b \\\\'", &location));
    assert_true(pg_conninfo_location(arena, location, &again));
    assert_string_equal(location, again);
    assert_string_equal(location, "host=/a port=5432 dbname='o\\'b \\\\'");
}

static void test_another_server_or_database_keeps_the_credentials(void **state)
{
    const char *text =
        pg_conninfo_at(arena, "postgresql://u:p@h:1/d?sslmode=disable", "host=x port=2 dbname=y");

    (void)state;
    assert_string_equal(text, "user=u password=p dbname=y host=x port=2 sslmode=disable");
    text = pg_conninfo_of_server(arena, "postgresql://r:p@replica:9/ignored",
                                 "host=x port=2 dbname=y");
    assert_non_null(strstr(text, "host=replica"));
    assert_non_null(strstr(text, "port=9"));
    assert_non_null(strstr(text, "dbname=y"));
    assert_null(pg_conninfo_at(arena, "host", "host=x dbname=y"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_shard_n_is_in_database_n_unless_a_map_says_otherwise,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_several_shards_may_be_in_one_database, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_two_names_of_one_database_are_one, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_bad_shard_map_stops_the_start, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_a_stored_map_takes_its_credentials_from_the_configuration, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_map_reads_back_as_it_was_written, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_whole_map_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_place_has_one_text, setup, teardown),
        cmocka_unit_test_setup_teardown(test_texts_with_quotes_stay_what_they_are, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_server_or_database_keeps_the_credentials,
                                        setup, teardown),
    };

    return cmocka_run_group_tests_name("pg_map", tests, NULL, NULL);
}
