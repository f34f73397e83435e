/* CRC-32C against published values, and both ways against each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/crc32c.h"
#include "lib/str.h"

enum { LEN = 4099 };

static void assert_crc(const void *data, size_t len, uint32_t want)
{
    assert_int_equal(crc32c(0, data, len), want);
    assert_int_equal(crc32c_by_table(0, data, len), want);
}

/* RFC 3720, B.4; "123456789" is the check value of every catalogue of CRCs. */
static void test_it_has_the_published_values(void **state)
{
    unsigned char bytes[32];
    size_t i;

    (void)state;
    assert_crc("123456789", 9, 0xe3069283);
    assert_crc("", 0, 0);
    memset(bytes, 0, sizeof(bytes));
    assert_crc(bytes, sizeof(bytes), 0x8a9136aa);
    memset(bytes, 0xff, sizeof(bytes));
    assert_crc(bytes, sizeof(bytes), 0x62a8ab43);
    for (i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (unsigned char)i;
    }
    assert_crc(bytes, sizeof(bytes), 0x46dd794e);
}

static void test_pieces_give_what_the_whole_gives_both_ways(void **state)
{
    unsigned char bytes[LEN];
    uint32_t whole;
    size_t i;

    (void)state;
    for (i = 0; i < LEN; i++) {
        bytes[i] = (unsigned char)(i * 2246822519u >> 11);
    }
    whole = crc32c(0, bytes, LEN);
    for (i = 0; i <= LEN; i += 37) {
        assert_int_equal(crc32c(crc32c(0, bytes, i), bytes + i, LEN - i), whole);
        assert_int_equal(crc32c_by_table(crc32c_by_table(0, bytes, i), bytes + i, LEN - i), whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_has_the_published_values),
        cmocka_unit_test(test_pieces_give_what_the_whole_gives_both_ways),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
