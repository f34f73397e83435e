/* Configuration: bounds, families, faults, reloads, secrets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "lib/config.h"

extern char **environ;

static char path[] = "/tmp/test_config_XXXXXX";

static int group_setup(void **state)
{
    int fd = mkstemp(path);

    (void)state;
    return fd >= 0 && close(fd) == 0 ? 0 : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    return unlink(path);
}

/* Each test starts with an empty environment. */
static int setup(void **state)
{
    static char *empty[] = {NULL};

    (void)state;
    environ = empty;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    *state = NULL;
    return 0;
}

/* Load (or reload) and keep what is told in *state. */
static bool load_by(bool (*fn)(FILE *faults), void **state)
{
    char *told = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&told, &len);
    bool is_good = fn(out);

    fclose(out);
    free(*state);
    *state = told;
    return is_good;
}

static bool load(void **state)
{
    return load_by(config_load, state);
}

static bool reload_silently(FILE *faults)
{
    return config_reload(NULL, faults);
}

static bool reload(void **state)
{
    return load_by(reload_silently, state);
}

static void use_file(const char *text)
{
    FILE *f = fopen(path, "w");

    fputs(text, f);
    fclose(f);
    setenv("CONFIG_FILE", path, 1);
}

static void assert_told(void **state, const char *part)
{
    if (*state == NULL || strstr(*state, part) == NULL) {
        fail_msg("\"%s\" is not in: %s", part, (const char *)*state);
    }
}

static void test_defaults_are_the_contracts(void **state)
{
    assert_true(load(state));
    assert_int_equal(config()->db_pool_size, 20);
    assert_int_equal(config()->db_max_connections, 100);
    assert_int_equal(config()->db_idle_timeout, 30000);
    assert_int_equal(config()->db_connection_timeout, 10000);
    assert_int_equal(config()->db_max_replica_lag_ms, 100);
    assert_int_equal(config()->pool_utilization_threshold, 85);
    assert_int_equal(config()->pool_wait_ms, 50);
    assert_int_equal(config()->rate_limit_window_ms, 60000);
    assert_int_equal(config()->rate_limit_max, 100);
    assert_int_equal(config()->rate_limit_critical_max, 20);
    assert_int_equal(config()->max_file_size, 104857600);
    assert_string_equal(config()->allowed_file_types, "mp3,wav,flac");
    assert_int_equal(config()->max_sessions, 50000);
    assert_int_equal(config()->session_ttl, 86400);
    assert_int_equal(config()->cache_max_keys, 100000);
    assert_int_equal(config()->cache_eviction_threshold, 80);
    assert_int_equal(config()->shard_count, 1);
    assert_int_equal(config()->stalled_max, 10);
    assert_int_equal(config()->stripe_monthly_price, 49);
    assert_int_equal(config()->stripe_yearly_price, 468);
    assert_int_equal(config()->stripe_lifetime_price, 699);
    assert_string_equal(config()->event_bus, "redis");
}

static void test_the_environment_wins_over_the_file(void **state)
{
    use_file("# comment\n\nDB_POOL_SIZE=7\nTIER=staging\r\nS3_BUCKET=a=b\nMAIL_FROM=\n");
    setenv("DB_POOL_SIZE", "8", 1);
    assert_true(load(state));
    assert_int_equal(config()->db_pool_size, 8);
    assert_string_equal(config()->tier, "staging");
    assert_string_equal(config()->s3_bucket, "a=b");
    assert_string_equal(config()->mail_from, "");
}

static void test_bounds_are_inclusive(void **state)
{
    static const char *const good[] = {"1", "1000"};
    static const char *const bad[] = {"0",  "1001", "-1",  "",     " 5",
                                      "5 ", "5.0",  "0x5", "five", "99999999999999999999"};
    size_t i;

    for (i = 0; i < ARRAY_LEN(good); i++) {
        setenv("DB_POOL_SIZE", good[i], 1);
        assert_true(load(state));
    }
    for (i = 0; i < ARRAY_LEN(bad); i++) {
        setenv("DB_POOL_SIZE", bad[i], 1);
        assert_false(load(state));
        assert_told(state, "DB_POOL_SIZE is \"");
        assert_told(state, bad[i]);
        assert_told(state, "from 1 to 1000");
        assert_int_equal(config()->db_pool_size, 1000); /* the good snapshot stays */
    }
}

static void test_all_faults_are_told_in_one_go(void **state)
{
    use_file("NONSENSE\nRATE_LIMIT_MAX=x\nDB_POOL_SIZES=3\nQWERTYUIOPASDF=1\n");
    setenv("SHARD_COUNT", "129", 1);
    assert_false(load(state));
    assert_told(state, ":1: a line is NAME=value");
    assert_told(state, "RATE_LIMIT_MAX is \"x\"");
    assert_told(state, ":3: there is no variable DB_POOL_SIZES; do you mean DB_POOL_SIZE?");
    assert_told(state, ":4: there is no variable QWERTYUIOPASDF; docs/config.md lists them all.");
    assert_told(state, "SHARD_COUNT is \"129\"");
}

static void test_a_file_that_is_not_there_is_a_fault(void **state)
{
    setenv("CONFIG_FILE", "/nowhere/at/all", 1);
    assert_false(load(state));
    assert_told(state, "/nowhere/at/all cannot be read");
    setenv("CONFIG_FILE", "", 1);
    assert_true(load(state));
}

static void test_a_line_that_is_too_long_is_a_fault_and_not_two_lines(void **state)
{
    static char text[5000];

    memset(text, 'x', sizeof(text) - 1);
    memcpy(text, "#", 1);
    memcpy(text + 2047, "DB_POOL_SIZE=3\n", 16);
    use_file(text);
    assert_false(load(state));
    assert_told(state, ":1: the line is longer than");
}

static void test_a_file_with_too_many_lines_is_a_fault(void **state)
{
    FILE *f = fopen(path, "w");
    int i;

    for (i = 0; i < 2001; i++) {
        fputs("#\n", f);
    }
    fputs("DB_POOL_SIZE=3\n", f);
    fclose(f);
    setenv("CONFIG_FILE", path, 1);
    assert_false(load(state));
    assert_told(state, "more than 2000 lines");
}

static void test_texts_are_bounded_and_utf_8(void **state)
{
    setenv("AWS_REGION", "abcdefghijklmnopqrstuvwxyz012345", 1); /* 32 bytes */
    assert_true(load(state));
    setenv("AWS_REGION", "abcdefghijklmnopqrstuvwxyz0123456", 1);
    assert_false(load(state));
    assert_told(state, "AWS_REGION");
    assert_told(state, "32 bytes");
    setenv("AWS_REGION", "\xff", 1);
    assert_false(load(state));
}

static void test_families_are_numbered(void **state)
{
    setenv("SHARD_COUNT", "3", 1);
    setenv("DATABASE_SHARD_01_URL", "host=a", 1);
    assert_false(load(state));
    assert_told(state, "DATABASE_SHARD_02_URL is missing");
    setenv("DATABASE_SHARD_02_URL", "host=b", 1);
    setenv("DATABASE_REPLICA_15_URL", "host=r", 1);
    assert_true(load(state));
    assert_string_equal(config()->database_shard_url[1], "host=a");
    assert_string_equal(config()->database_shard_url[2], "host=b");
    assert_string_equal(config()->database_replica_url[15], "host=r");
    use_file("DATABASE_SHARD_1_URL=host=c\n"); /* not padded: another name */
    assert_false(load(state));
}

static void test_words_are_judged(void **state)
{
    setenv("EVENT_BUS", "rabbit", 1);
    assert_false(load(state));
    assert_told(state, "EVENT_BUS is \"rabbit\": allowed are redis and kafka");
    unsetenv("EVENT_BUS");
    setenv("LOG_LEVEL", "verbose", 1);
    assert_false(load(state));
    assert_told(state, "LOG_LEVEL is \"verbose\": allowed are debug, info, warn and error");
    setenv("LOG_LEVEL", "debug", 1);
    assert_true(load(state));
}

static void test_guards_that_look_on_are_known_ones(void **state)
{
    assert_true(load(state));
    assert_false(config_is_shadowed("load"));
    setenv("GUARDS_SHADOW", "rate,load", 1);
    assert_true(load(state));
    assert_true(config_is_shadowed("load"));
    assert_true(config_is_shadowed("rate"));
    assert_false(config_is_shadowed("csrf"));
    assert_false(config_is_shadowed("loa"));
    setenv("GUARDS_SHADOW", "rate,session", 1);
    assert_false(load(state));
    assert_told(state, "GUARDS_SHADOW is \"rate,session\": allowed is");
}

static void test_memory_thresholds_rise(void **state)
{
    setenv("MEMORY_SHED_BULK_THRESHOLD", "100", 1);
    assert_false(load(state));
    assert_told(state, "MEMORY_WARNING_THRESHOLD is \"256\": allowed is at most");
    setenv("MEMORY_WARNING_THRESHOLD", "100", 1);
    assert_true(load(state));
}

static void test_a_request_has_room_for_its_body(void **state)
{
    setenv("BODY_MAX_BYTES", "1048576", 1);
    assert_false(load(state));
    assert_told(state,
                "REQUEST_ARENA_BYTES is \"131072\": allowed is at least half of BODY_MAX_BYTES");
    setenv("REQUEST_ARENA_BYTES", "524288", 1);
    assert_true(load(state));
}

static void test_a_reload_changes_what_may_change(void **state)
{
    const struct config *before;

    setenv("RATE_LIMIT_MAX", "5", 1);
    assert_true(load(state));
    before = config();
    setenv("RATE_LIMIT_MAX", "6", 1);
    assert_true(reload(state));
    assert_int_equal(config()->rate_limit_max, 6);
    assert_int_equal(before->rate_limit_max, 5); /* whoever still reads it is safe */
}

static void test_a_reload_is_all_or_nothing(void **state)
{
    assert_true(load(state));
    setenv("RATE_LIMIT_MAX", "7", 1);
    setenv("SHARD_COUNT", "2", 1);
    setenv("DATABASE_SHARD_01_URL", "host=a", 1);
    assert_false(reload(state));
    assert_told(state, "SHARD_COUNT has changed, but takes effect only with a restart");
    assert_told(state, "DATABASE_SHARD_01_URL has changed");
    assert_int_equal(config()->rate_limit_max, 100);
    setenv("SHARD_COUNT", "x", 1);
    assert_false(reload(state));
    assert_int_equal(config()->rate_limit_max, 100);
}

static void test_the_fleets_values_win_and_outlive_a_reload(void **state)
{
    const struct config_pair told[] = {{"RATE_LIMIT_MAX", "9"}, {"LOG_LEVEL", "warn"}};
    char *changes = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&changes, &len);

    setenv("RATE_LIMIT_MAX", "5", 1);
    assert_true(load(state));
    assert_true(config_apply(4, told, ARRAY_LEN(told), out, stderr));
    fclose(out);
    assert_string_equal(changes, "LOG_LEVEL \"info\" -> \"warn\", RATE_LIMIT_MAX 5 -> 9");
    free(changes);
    assert_int_equal(config_epoch(), 4);
    assert_int_equal(config()->rate_limit_max, 9);
    setenv("RATE_LIMIT_MAX", "6", 1);
    assert_true(reload(state));
    assert_int_equal(config()->rate_limit_max, 9);
    assert_true(config_apply(5, told + 1, 1, NULL, stderr)); /* the other was taken back */
    assert_int_equal(config()->rate_limit_max, 6);
    assert_string_equal(config()->log_level, "warn");
    assert_true(config_apply(6, NULL, 0, NULL, stderr));
}

static bool apply_badly(FILE *faults)
{
    const struct config_pair told[] = {{"RATE_LIMIT_MAX", "9"},
                                       {"POOL_WAIT_MS", "-1"},
                                       {"SHARD_COUNT", "2"},
                                       {"REDIS_URL", "redis://x"},
                                       {"RATE_LIMIT_MAXX", "1"}};

    return config_apply(8, told, ARRAY_LEN(told), NULL, faults);
}

static void test_the_fleets_values_are_taken_all_or_none(void **state)
{
    int64_t before;

    assert_true(load(state));
    before = config_epoch();
    assert_false(load_by(apply_badly, state));
    assert_told(state, "POOL_WAIT_MS is \"-1\": allowed is a whole number from 0 to 10000 ms");
    assert_told(state, "SHARD_COUNT takes effect only with a restart");
    assert_told(state, "REDIS_URL takes effect only with a restart");
    assert_told(state, "there is no variable RATE_LIMIT_MAXX; do you mean RATE_LIMIT_MAX?");
    assert_int_equal(config()->rate_limit_max, 100);
    assert_int_equal(config_epoch(), before);
}

struct seen {
    int n, n_secret, n_families;
    bool leaked;
};

static void look(void *context, const struct config_item *item)
{
    struct seen *seen = context;

    seen->n++;
    seen->n_secret += item->is_secret;
    seen->n_families += strncmp(item->name, "DATABASE_SHARD_", 15) == 0;
    seen->leaked = seen->leaked || strstr(item->value, "hunter2") != NULL;
}

static void test_secrets_are_never_shown(void **state)
{
    struct seen seen = {0};
    char *text = NULL;
    size_t len = 0;
    FILE *out;

    setenv("DATABASE_URL", "host=x password=hunter2", 1);
    setenv("DATABASE_SHARD_07_URL", "hunter2", 1);
    setenv("REDIS_URL", "redis://:hunter2@x", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "hunter2", 1);
    setenv("SMTP_URL", "smtp://a:hunter2@b", 1);
    assert_true(load(state));
    config_each(look, &seen);
    assert_false(seen.leaked);
    assert_int_equal(seen.n_families, 1);
    assert_true(seen.n_secret >= 6);
    out = open_memstream(&text, &len);
    config_print(out);
    fclose(out);
    assert_null(strstr(text, "hunter2"));
    assert_non_null(strstr(text, "DATABASE_SHARD_07_URL=***\n"));
    assert_non_null(strstr(text, "RATE_LIMIT_MAX=100\n"));
    free(text);
    setenv("AWS_SECRET_ACCESS_KEY",
           "hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-"
           "hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-hunter2",
           1);
    assert_false(load(state));
    assert_null(strstr(*state, "hunter2"));
}

static void test_the_pages_name_every_variable(void **state)
{
    static const char *const names[] = {
#define CFG_INT(field, unit, min, max, def, when, doc) #field,
#define CFG_STR(field, max_length, def, when, doc) #field,
#define CFG_SECRET(field, max_length, def, when, doc) #field,
#define CFG_SECRETS(field, count, max_length, pattern, when, doc) #field,
#include "lib/config.def"
#undef CFG_INT
#undef CFG_STR
#undef CFG_SECRET
#undef CFG_SECRETS
    };
    char *docs = NULL, *example = NULL;
    size_t len = 0, i, k;
    FILE *out = open_memstream(&docs, &len);

    (void)state;
    config_print_docs(out);
    fclose(out);
    out = open_memstream(&example, &len);
    config_print_env_example(out);
    fclose(out);
    for (i = 0; i < ARRAY_LEN(names); i++) {
        char upper[64] = "";

        for (k = 0; names[i][k] != '\0'; k++) {
            upper[k] =
                (char)(names[i][k] >= 'a' && names[i][k] <= 'z' ? names[i][k] - 32 : names[i][k]);
        }
        if (strcmp(upper, "DATABASE_SHARD_URL") == 0 ||
            strcmp(upper, "DATABASE_REPLICA_URL") == 0) {
            continue; /* families go by their pattern */
        }
        assert_non_null(strstr(docs, upper));
        assert_non_null(strstr(example, upper));
    }
    assert_non_null(strstr(docs, "DATABASE_SHARD_nn_URL"));
    assert_non_null(strstr(example, "DATABASE_REPLICA_n_URL"));
    free(docs);
    free(example);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_defaults_are_the_contracts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_environment_wins_over_the_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounds_are_inclusive, setup, teardown),
        cmocka_unit_test_setup_teardown(test_all_faults_are_told_in_one_go, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_file_that_is_not_there_is_a_fault, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_line_that_is_too_long_is_a_fault_and_not_two_lines,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_file_with_too_many_lines_is_a_fault, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_texts_are_bounded_and_utf_8, setup, teardown),
        cmocka_unit_test_setup_teardown(test_families_are_numbered, setup, teardown),
        cmocka_unit_test_setup_teardown(test_words_are_judged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_guards_that_look_on_are_known_ones, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory_thresholds_rise, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_request_has_room_for_its_body, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_reload_changes_what_may_change, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_reload_is_all_or_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_fleets_values_win_and_outlive_a_reload, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_fleets_values_are_taken_all_or_none, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_secrets_are_never_shown, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_pages_name_every_variable, setup, teardown),
    };

    return cmocka_run_group_tests_name("config", tests, group_setup, group_teardown);
}
