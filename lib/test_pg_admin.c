/* Texts that an operator's tool hands to PostgreSQL: places, connection strings, quotes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "lib/pg_admin.h"

enum { ARENA_BYTES = 65536 };

static int make_arena(void **state)
{
    *state = arena_open(ARENA_BYTES);
    return 0;
}

static int drop_arena(void **state)
{
    struct arena *a = *state;

    arena_close(&a);
    return 0;
}

static void a_place_has_one_text_and_names_nobody(void **state)
{
    const char *place = "host=10.0.0.7 port=5432 dbname=mb_00";

    assert_string_equal(pg_location_of(*state, place), place);
    assert_string_equal(pg_location_of(*state, "dbname=mb_00 host=10.0.0.7"), place);
    assert_string_equal(pg_location_of(*state, "postgresql://10.0.0.7/mb_00"), place);
    assert_null(pg_location_of(*state, "postgresql://nina@10.0.0.7/mb_00"));
    assert_null(pg_location_of(*state, "host=10.0.0.7 dbname=mb_00 password=x"));
    assert_null(pg_location_of(*state, "host=10.0.0.7"));
    assert_null(pg_location_of(*state, "no connection string"));
}

static void a_place_beside_differs_in_its_database_only(void **state)
{
    assert_string_equal(pg_location_beside(*state, "host=h port=1 dbname=a", "b"),
                        "host=h port=1 dbname=b");
    assert_string_equal(pg_location_beside(*state, "host=h port=1 dbname=a", "it's \\ b"),
                        "host=h port=1 dbname='it\\'s \\\\ b'");
    assert_null(pg_location_beside(*state, "nothing", "b"));
}

static void a_connection_string_leads_to_a_place_with_the_same_credentials(void **state)
{
    const char *text = pg_location_conninfo(*state, "postgresql://root:se%20cret@old:1/x",
                                            "host=new port=2 dbname=y");

    assert_string_equal(pg_conninfo_get(*state, text, "user"), "root");
    assert_string_equal(pg_conninfo_get(*state, text, "password"), "se cret");
    assert_string_equal(pg_conninfo_get(*state, text, "host"), "new");
    assert_string_equal(pg_conninfo_get(*state, text, "port"), "2");
    assert_string_equal(pg_conninfo_get(*state, text, "dbname"), "y");
    assert_null(pg_location_conninfo(*state, "nothing", "host=new dbname=y"));
}

static void a_password_can_be_taken_out(void **state)
{
    const char *text =
        pg_conninfo_without_password(*state, "host=h user=nina password='se cret' dbname=x");

    assert_null(strstr(text, "cret"));
    assert_null(pg_conninfo_get(*state, text, "password"));
    assert_string_equal(pg_conninfo_get(*state, text, "user"), "nina");
    assert_null(pg_conninfo_without_password(*state, "nothing"));
}

static void quotes_hold_whatever_is_in_them(void **state)
{
    assert_string_equal(pg_quote_name(*state, "a\"b"), "\"a\"\"b\"");
    assert_string_equal(pg_quote_text(*state, "it's \\ \"so\""), "'it''s \\ \"so\"'");
    assert_string_equal(pg_quote_text(*state, ""), "''");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_place_has_one_text_and_names_nobody, make_arena,
                                        drop_arena),
        cmocka_unit_test_setup_teardown(a_place_beside_differs_in_its_database_only, make_arena,
                                        drop_arena),
        cmocka_unit_test_setup_teardown(
            a_connection_string_leads_to_a_place_with_the_same_credentials, make_arena, drop_arena),
        cmocka_unit_test_setup_teardown(a_password_can_be_taken_out, make_arena, drop_arena),
        cmocka_unit_test_setup_teardown(quotes_hold_whatever_is_in_them, make_arena, drop_arena),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
