/* What of pg needs no server: arguments, error mapping, limits, the generator. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <postgresql/libpq-fe.h>

#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/crypto.h"
#include "lib/pg_internal.h"
#include "lib/pg_param.h"
#include "lib/str.h"
#include "queries.h"

static struct arena *arena;
static struct scope sc;

static int setup(void **state)
{
    (void)state;
    crypto_open();
    arena = arena_open(65536);
    scope_init(&sc, arena, 1000);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_close(&arena);
    return 0;
}

static void test_numbers_are_decimal_and_absent_is_null(void **state)
{
    (void)state;
    assert_string_equal(pg_param_i64(&sc, 0), "0");
    assert_string_equal(pg_param_i64(&sc, -1), "-1");
    assert_string_equal(pg_param_i64(&sc, INT64_MAX), "9223372036854775807");
    assert_string_equal(pg_param_i64(&sc, INT64_MIN + 1), "-9223372036854775807");
    assert_null(pg_param_i64(&sc, ABSENT_I64));
}

static void test_doubles_read_back_as_they_were(void **state)
{
    static const double values[] = {0.1, -2.5, 1e300, 5e-324, 1.0 / 3, 0};
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(values); i++) {
        assert_true(strtod(pg_param_f64(&sc, values[i]), NULL) == values[i]);
    }
    assert_string_equal(pg_param_f64(&sc, 0.1), "0.1");
    assert_string_equal(pg_param_f64(&sc, -INFINITY), "-Infinity");
    assert_null(pg_param_f64(&sc, NAN));
}

static void test_times_are_utc_and_absent_is_null(void **state)
{
    (void)state;
    assert_string_equal(pg_param_time(&sc, 0), "1970-01-01T00:00:00.000Z");
    assert_string_equal(pg_param_time(&sc, 1795442543123), "2026-11-23T14:02:23.123Z");
    assert_null(pg_param_time(&sc, ABSENT_I64));
}

static void test_the_nil_id_is_null_only_where_declared(void **state)
{
    struct id nil = {{0}};

    (void)state;
    assert_null(pg_param_id_or_null(&sc, nil));
    assert_string_equal(pg_param_id(&sc, nil), "00000000-0000-0000-0000-000000000000");
    assert_null(q_users_search(&sc, pg_place_on_shard(0), "x", nil, 10).params[1]);
}

static void test_a_query_lies_at_the_place_of_its_shard_argument(void **state)
{
    struct id user = id_make_user(), other = id_make_user();
    struct id job = id_make_owned(id_place(user));
    int i;

    (void)state;
    for (i = 0; i < 3; i++) { /* in turns: a remembered place must not stick */
        assert_int_equal(q_users_by_id(&sc, user).place.hash, id_place(user).hash);
        assert_int_equal(q_users_by_id(&sc, other).place.hash, id_place(other).hash);
        assert_int_equal(q_jobs_claim(&sc, job).place.hash, id_place(user).hash);
    }
    assert_int_equal(
        q_emails_find(&sc, id_place_of_email("A@b.example"), "a@b.example", 60000).place.hash,
        id_place_of_email("a@b.example").hash);
}

static void test_generated_queries_say_what_they_are(void **state)
{
    struct id user = id_make_user();
    struct pg_query q = q_users_set_name(&sc, user, 3, "Ann");

    (void)state;
    assert_string_equal(q.name, "users_set_name");
    assert_int_equal(q.kind, PG_ONE);
    assert_false(q.read_only);
    assert_int_equal(q.n_params, 3);
    assert_string_equal(q.params[1], "3");
    assert_string_equal(q.params[2], "Ann");
    assert_in_range(q.index, 1, QUERIES_COUNT);
    assert_true(q_users_by_id(&sc, user).read_only);
    assert_int_equal(q_users_delete(&sc, user).kind, PG_EXEC);
    /* A SELECT that takes a lock may not be run twice. */
    assert_false(q_idempotency_begin(&sc, user, "k", 1000).read_only);
}

static void test_sqlstates_become_errors(void **state)
{
    static const struct {
        const char *sqlstate;
        enum err e;
    } cases[] = {
        {"23505", ERR_CONFLICT},
        {"40001", ERR_DEPENDENCY_UNAVAILABLE},
        {"40P01", ERR_DEPENDENCY_UNAVAILABLE},
        {"57014", ERR_TIMED_OUT},
        {"53300", ERR_DEPENDENCY_UNAVAILABLE},
        {"53100", ERR_DEPENDENCY_UNAVAILABLE},
        {"57P01", ERR_DEPENDENCY_UNAVAILABLE},
        {"57P03", ERR_DEPENDENCY_UNAVAILABLE},
        {"08006", ERR_DEPENDENCY_UNAVAILABLE},
        {"25006", ERR_DEPENDENCY_UNAVAILABLE},
        {"23514", ERR_INTERNAL},
        {"42703", ERR_INTERNAL},
        {"", ERR_INTERNAL},
    };
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(pg_err_of_sqlstate(cases[i].sqlstate), cases[i].e);
    }
}

static void test_new_work_leaves_the_rest_of_the_pool_to_holders(void **state)
{
    (void)state;
    assert_int_equal(pg_lease_limit(20, 100, 85, false), 17);
    assert_int_equal(pg_lease_limit(20, 100, 85, true), 20);
    assert_int_equal(pg_lease_limit(5, 100, 85, false), 5);
    assert_int_equal(pg_lease_limit(1, 100, 85, false), 1);
    assert_int_equal(pg_lease_limit(100, 100, 85, false), 85);
    assert_int_equal(pg_lease_limit(100, 10, 85, false), 9);
    assert_int_equal(pg_lease_limit(20, 100, 1, false), 1);
    assert_int_equal(pg_lease_limit(20, 100, 100, false), 20);
}

/* --- Rows, out of results made by hand. --- */

struct thing {
    struct id id;
    const char *name;
    int64_t size, made_at;
    bool is_good;
};

static const struct field thing_fields[] = {
    F_ID(thing, id, "id", 0),
    F_STR(thing, name, "name", 0, 100, 0),
    F_I64(thing, size, "size", 0, INT64_MAX, 0),
    F_TIME(thing, made_at, "madeAt", 0),
    F_BOOL(thing, is_good, "isGood", 0),
};
static const struct shape shape_thing = SHAPE(thing, thing_fields);

/* Read one row of those columns (a NULL value is SQL NULL). */
static enum err read_thing(const char *const *columns, const char *const *values, int n,
                           struct thing *out)
{
    PGresAttDesc attributes[8];
    struct pg_query q = {.name = "test"}; /* not prepared: nothing is remembered */
    struct pg_answer a = {.rows = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK)};
    enum err e;
    int i;

    memset(attributes, 0, sizeof(attributes));
    for (i = 0; i < n; i++) {
        attributes[i].name = (char *)(uintptr_t)columns[i];
    }
    assert_true(PQsetResultAttrs(a.rows, n, attributes));
    for (i = 0; i < n; i++) {
        int len = values[i] == NULL ? -1 : (int)strlen(values[i]);

        assert_true(PQsetvalue(a.rows, 0, i, (char *)(uintptr_t)values[i], len));
    }
    e = pg_rows_read(&sc, &q, &shape_thing, &a, 1, out);
    pg_rows_keep(&sc, &a);
    return e;
}

static enum err read_one(const char *column, const char *value, struct thing *out)
{
    return read_thing(&column, &value, 1, out);
}

static void test_rows_are_mapped_by_column_name(void **state)
{
    static const char *const columns[] = {"made_at", "id", "unknown", "name", "size", "is_good"};
    const char *values[] = {"2026-11-23 14:02:23.5+00", NULL, "1", "Zoë", "-7", "t"};
    struct id id = id_make_user();
    struct thing t;

    (void)state;
    values[1] = id_text(arena, id);
    assert_int_equal(read_thing(columns, values, 6, &t), OK);
    assert_true(id_equal(t.id, id));
    assert_string_equal(t.name, "Zoë");
    assert_int_equal(t.size, -7);
    assert_int_equal(t.made_at, 1795442543500);
    assert_true(t.is_good);
}

static void test_null_and_missing_columns_are_absent(void **state)
{
    static const char *const columns[] = {"name", "id", "made_at"};
    static const char *const values[] = {NULL, NULL, NULL};
    struct thing t;

    (void)state;
    memset(&t, 0x55, sizeof(t));
    assert_int_equal(read_thing(columns, values, 3, &t), OK);
    assert_null(t.name);
    assert_true(id_is_nil(t.id));
    assert_int_equal(t.made_at, ABSENT_I64);
    assert_int_equal(t.size, ABSENT_I64);
}

static void test_times_are_read_as_the_general_parser_reads_them(void **state)
{
    uint64_t random = 88172645463325252;
    char text[64];
    struct thing t;
    int i;

    (void)state;
    for (i = 0; i < 20000; i++) {
        int64_t expected;
        int len;

        random ^= random << 13; /* xorshift64: the same times in each run */
        random ^= random >> 7;
        random ^= random << 17;
        clock_format((int64_t)(random % UINT64_C(253402300800000)), text);
        text[10] = ' ';
        len = 19 + (i % 7 == 0 ? 0 : 1 + i % 7);
        snprintf(text + 23, sizeof(text) - 23, "%03d", i % 1000);
        snprintf(text + len, sizeof(text) - (size_t)len, "+00");
        assert_true(clock_parse(text, &expected));
        assert_int_equal(read_one("made_at", text, &t), OK);
        assert_int_equal(t.made_at, expected);
        arena_reset(arena);
    }
}

static void test_values_that_do_not_parse_are_internal_errors(void **state)
{
    static const char *const bad[][2] = {
        {"id", "01a208e7-96ec-4000-8000-000000000000"}, /* version 4 */
        {"id", "01a208e7-96ec-7000-8000-00000000000g"},
        {"id", "01a208e796ec70008000000000000000"},
        {"id", ""},
        {"made_at", "infinity"},
        {"made_at", "2026-11-23 14:02:2x+00"},
        {"made_at", "0044-03-15 12:00:00+00 BC"},
        {"size", "9223372036854775808"},
        {"size", "1.5"},
    };
    struct thing t;
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(read_one(bad[i][0], bad[i][1], &t), ERR_INTERNAL);
    }
}

/* --- The generator, on queries with faults. --- */

static char folder[64];

static void write_queries(const char *text)
{
    char path[PATH_MAX];
    FILE *f;

    snprintf(folder, sizeof(folder), "/tmp/maxbooster-test-queries-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/faulty.sql", folder);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void remove_queries(void)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/faulty.sql", folder);
    unlink(path);
    rmdir(folder);
}

/* Run the generator over the text; its output in the arena, *status its exit status. */
static const char *generate(const char *text, int *status)
{
    char command[512], line[1024];
    struct strbuf out;
    FILE *pipe;

    write_queries(text);
    snprintf(command, sizeof(command),
             "/usr/bin/python3 tools/gen_queries.py --queries %s --json 2>&1", folder);
    pipe = popen(command, "r");
    assert_non_null(pipe);
    strbuf_init(&out, arena, 4096);
    while (fgets(line, sizeof(line), pipe) != NULL) {
        strbuf_puts(&out, line);
    }
    *status = WEXITSTATUS(pclose(pipe));
    remove_queries();
    return out.data;
}

static void test_the_generator_names_file_line_and_fault(void **state)
{
    static const struct {
        const char *text, *fault;
    } cases[] = {
        {"-- name: a :one\n-- args: id uuid\n-- Doc.\nSELECT 1 WHERE $1 = 'x';\n",
         "faulty.sql:1: 'a' does not name its shard"},
        {"-- name: a :one\n-- shard: id\n-- args: id uuid, b text\n-- Doc.\nSELECT $1;\n",
         "faulty.sql:1: 'a' does not use argument $2 (b)"},
        {"-- name: a :one\n-- shard: id\n-- args: id uuid\n-- Doc.\nSELECT $1, $2;\n",
         "faulty.sql:1: 'a' uses $2, which is not among its arguments"},
        {"-- name: a :one\n-- shard: id\n-- args: id guid\n-- Doc.\nSELECT $1;\n",
         "faulty.sql:3: argument 'id' has the unknown type 'guid'"},
        {"-- name: a :one\n-- shard: b\n-- args: id uuid\n-- Doc.\nSELECT $1;\n",
         "faulty.sql:1: 'a' names the shard of 'b', which is not an argument"},
        {"-- name: a :one\n-- shard: place\n-- Doc.\nSELECT 1;\n"
         "-- name: a :one\n-- shard: place\n-- Doc.\nSELECT 1;\n",
         "faulty.sql:5: 'a' is there already ("},
        {"-- name: a :all\n-- shard: place\n-- Doc.\nSELECT 1;\n",
         "faulty.sql:1: kind ':all' is not"},
        {"-- name: a :one\n-- shard: place\nSELECT 1;\n", "faulty.sql:1: 'a' has no comment"},
        {"-- name: a :one\n-- shard: place\n-- Doc.\nSELECT 1; SELECT 2;\n",
         "faulty.sql:1: 'a' holds more than one statement"},
        {"-- name: a :one\n-- shard: place\n-- Doc.\nSELECT 1\n",
         "faulty.sql:1: 'a' does not end with ';'"},
        {"-- name: a :one\n-- shard: place\n-- Doc.\nSELECT :b;\n",
         "faulty.sql:1: 'a' uses ':b', which is not set"},
        {"-- name: a :exec\n-- shard: place\n-- Doc.\nDELETE FROM t RETURNING x;\n",
         "faulty.sql:1: 'a' is :exec but returns rows"},
        {"-- name: a :one\n-- shard: place\n-- Doc.\nDELETE FROM t;\n",
         "faulty.sql:1: 'a' is :one but returns no rows"},
        {"-- name: a :one\n-- shard: place\n-- args: int text\n-- Doc.\nSELECT $1;\n",
         "faulty.sql:3: 'int' cannot be the name of an argument"},
        {"-- name: a :one\n-- shard: place\n-- Doc.\nDELETE FROM t RETURNING *;\n",
         "faulty.sql:1: 'a' names no columns"},
        {"SELECT 1;\n", "faulty.sql:1: SQL outside a query"},
    };
    size_t i;
    int status;

    (void)state;
    for (i = 0; i < ARRAY_LEN(cases); i++) {
        const char *out = generate(cases[i].text, &status);

        if (status != 1 || strstr(out, cases[i].fault) == NULL) {
            fail_msg("wanted \"%s\" and status 1, got %d and:\n%s", cases[i].fault, status, out);
        }
    }
}

static void test_the_generator_leaves_texts_and_casts_alone(void **state)
{
    int status;
    const char *out = generate("-- set: cols id, 'x:y'\n"
                               "-- name: a :many\n-- shard: place\n-- args: b text\n-- Doc.\n"
                               "SELECT :cols, ';$9:z', $1::text -- and $8\nFROM t;\n",
                               &status);

    (void)state;
    assert_int_equal(status, 0);
    assert_non_null(strstr(out, "\"SELECT id, 'x:y', ';$9:z', $1::text\\nFROM t\""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_numbers_are_decimal_and_absent_is_null, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_doubles_read_back_as_they_were, setup, teardown),
        cmocka_unit_test_setup_teardown(test_times_are_utc_and_absent_is_null, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_nil_id_is_null_only_where_declared, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_query_lies_at_the_place_of_its_shard_argument, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_generated_queries_say_what_they_are, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sqlstates_become_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_new_work_leaves_the_rest_of_the_pool_to_holders, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_rows_are_mapped_by_column_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_null_and_missing_columns_are_absent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_times_are_read_as_the_general_parser_reads_them, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_values_that_do_not_parse_are_internal_errors, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_generator_names_file_line_and_fault, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_generator_leaves_texts_and_casts_alone, setup,
                                        teardown),
    };

    return cmocka_run_group_tests_name("pg", tests, NULL, NULL);
}
