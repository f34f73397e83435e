/* Ids: their form, and the place that each names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "lib/clock.h"
#include "lib/crypto.h"
#include "lib/id.h"

enum { MANY = 2000 };

#define USER "01890a5d-ac96-774b-bcce-b302099a8057"

static int group_setup(void **state)
{
    (void)state;
    crypto_open();
    return 0;
}

static bool parses(const char *text)
{
    struct id id;

    return id_parse(text, strlen(text), &id);
}

static struct id id_of(const char *text)
{
    struct id id;

    assert_true(id_parse(text, strlen(text), &id));
    return id;
}

static void test_ids_are_read_and_written_as_the_same_text(void **state)
{
    static const char *const texts[] = {USER, "ffffffff-ffff-8fff-bfff-ffffffffffff",
                                        "00000000-0000-7000-8000-000000000000"};
    char out[ID_TEXT_SIZE];
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(texts); i++) {
        id_format(id_of(texts[i]), out);
        assert_string_equal(out, texts[i]);
    }
}

static void test_only_lower_case_uuids_of_version_7_and_8_are_ids(void **state)
{
    static const char *const bad[] = {
        "",
        "01890A5D-AC96-774B-BCCE-B302099A8057", /* upper case: a second text for one id */
        "01890a5d-ac96-774b-bcce-b302099a805",
        "01890a5d-ac96-774b-bcce-b302099a80577",
        "01890a5dac96774bbcceb302099a8057",
        "{01890a5d-ac96-774b-bcce-b302099a8057}",
        "01890a5d-ac96-474b-bcce-b302099a8057", /* version 4 */
        "01890a5d-ac96-174b-bcce-b302099a8057",
        "01890a5d-ac96-974b-bcce-b302099a8057",
        "01890a5d-ac96-774b-3cce-b302099a8057", /* other variants */
        "01890a5d-ac96-774b-ccce-b302099a8057",
        "01890a5d-ac96-774b-fcce-b302099a8057",
        "01890a5d+ac96-774b-bcce-b302099a8057",
        "01890a5-dac96-774b-bcce-b302099a8057",
        "01890a5d-ac96-774b-bcce-b302099a805g",
        "01890a5d-ac96-774b-bcce-b302099a80 7",
        "00000000-0000-0000-0000-000000000000",
        "------------------------------------",
    };
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(bad); i++) {
        if (parses(bad[i])) {
            fail_msg("\"%s\" is an id", bad[i]);
        }
    }
}

static void test_no_single_wrong_character_passes(void **state)
{
    char text[ID_TEXT_SIZE];
    size_t i;

    (void)state;
    for (i = 0; i < ID_TEXT_SIZE - 1; i++) {
        memcpy(text, USER, sizeof(text));
        text[i] = 'x';
        assert_false(parses(text));
        text[i] = '\0';
        assert_false(id_parse(text, ID_TEXT_SIZE - 1, &(struct id){{0}}));
    }
}

static void test_a_user_id_is_a_uuid_7_of_now(void **state)
{
    struct id id;
    uint64_t ms = 0;
    int i;

    (void)state;
    clock_test_set(INT64_C(0x0123456789ab), 0);
    id = id_make_user();
    clock_test_set(-1, -1);
    for (i = 0; i < 6; i++) {
        ms = ms << 8 | id.bytes[i];
    }
    assert_int_equal(ms, UINT64_C(0x0123456789ab));
    assert_int_equal(id.bytes[6] >> 4, 7);
    assert_int_equal(id.bytes[8] >> 6, 2);
    assert_true(id_is_user(id));
}

/* Contract: the first 8 hex digits of sha256 over the 36 characters; figures by sha256sum. */
static void test_the_place_of_a_user_is_the_hash_of_his_ids_text(void **state)
{
    char hex[SHA256_HEX_SIZE];

    (void)state;
    assert_int_equal(id_place(id_of(USER)).hash, UINT32_C(0x87bd6ad8));
    crypto_sha256_hex(USER, strlen(USER), hex);
    assert_memory_equal(hex, "87bd6ad8", 8);
}

static void test_an_owned_id_carries_its_owners_place(void **state)
{
    struct place place = id_place(id_of(USER));
    struct id id = id_make_owned(place);
    char text[ID_TEXT_SIZE];

    (void)state;
    id_format(id, text);
    assert_memory_equal(text, "87bd6ad8", 8);
    assert_int_equal(id_place(id).hash, place.hash);
    assert_int_equal(id.bytes[6] >> 4, 8);
    assert_int_equal(id.bytes[8] >> 6, 2);
    assert_false(id_is_user(id));
    assert_true(parses(text));
}

static void test_owned_ids_of_one_owner_sort_by_time(void **state)
{
    static const int64_t times[] = {0,
                                    1,
                                    63,
                                    64,
                                    (1 << 20) - 1,
                                    1 << 20,
                                    1LL << 28,
                                    1LL << 32,
                                    1LL << 40,
                                    (1LL << 40) + 1,
                                    (1LL << 48) - 1};
    struct id before = {{0}};
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(times); i++) {
        struct id id;

        clock_test_set(times[i], 0);
        id = id_make_owned((struct place){0xdeadbeef});
        assert_true(memcmp(before.bytes, id.bytes, sizeof(id.bytes)) < 0);
        before = id;
    }
    clock_test_set(-1, -1);
}

static void test_ids_of_one_millisecond_differ(void **state)
{
    static struct id ids[MANY];
    size_t i, k;

    (void)state;
    clock_test_set(1000, 0);
    for (i = 0; i < MANY; i++) {
        ids[i] = i % 2 ? id_make_user() : id_make_owned((struct place){7});
        for (k = 0; k < i; k++) {
            assert_false(id_equal(ids[i], ids[k]));
        }
    }
    clock_test_set(-1, -1);
}

static void test_users_spread_over_shards(void **state)
{
    int count[16] = {0};
    int i;

    (void)state;
    for (i = 0; i < MANY; i++) {
        count[id_place(id_make_user()).hash % ARRAY_LEN(count)]++;
    }
    for (i = 0; i < (int)ARRAY_LEN(count); i++) {
        assert_in_range(count[i], 60, 200); /* 125 expected, 6 deviations either way */
    }
}

static void test_the_place_of_an_address_ignores_case(void **state)
{
    (void)state;
    assert_int_equal(id_place_of_email("ada@example.com").hash, UINT32_C(0xb5fc85e5));
    assert_int_equal(id_place_of_email("Ada@EXAMPLE.com").hash, UINT32_C(0xb5fc85e5));
    assert_int_not_equal(id_place_of_email("ada@example.org").hash, UINT32_C(0xb5fc85e5));
}

static void test_an_endless_address_has_a_place_too(void **state)
{
    static char text[100000];

    (void)state;
    memset(text, 'A', sizeof(text) - 1);
    (void)id_place_of_email(text);
}

static void test_nil_is_no_id_of_anything(void **state)
{
    (void)state;
    assert_true(id_is_nil((struct id){{0}}));
    assert_false(id_is_nil(id_of(USER)));
    assert_false(id_is_user((struct id){{0}}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids_are_read_and_written_as_the_same_text),
        cmocka_unit_test(test_only_lower_case_uuids_of_version_7_and_8_are_ids),
        cmocka_unit_test(test_no_single_wrong_character_passes),
        cmocka_unit_test(test_a_user_id_is_a_uuid_7_of_now),
        cmocka_unit_test(test_the_place_of_a_user_is_the_hash_of_his_ids_text),
        cmocka_unit_test(test_an_owned_id_carries_its_owners_place),
        cmocka_unit_test(test_owned_ids_of_one_owner_sort_by_time),
        cmocka_unit_test(test_ids_of_one_millisecond_differ),
        cmocka_unit_test(test_users_spread_over_shards),
        cmocka_unit_test(test_the_place_of_an_address_ignores_case),
        cmocka_unit_test(test_an_endless_address_has_a_place_too),
        cmocka_unit_test(test_nil_is_no_id_of_anything),
    };

    return cmocka_run_group_tests_name("id", tests, group_setup, NULL);
}
