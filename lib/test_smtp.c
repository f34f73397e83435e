/* What is made safe before a mail goes out. Sending itself is tested against a real server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lib/clock.h"
#include "lib/smtp.h"
#include "lib/str.h"

static void test_addresses_are_taken_bare(void **state)
{
    struct arena *a = *state;

    assert_string_equal(smtp_address(a, "ann@example.org"), "ann@example.org");
    assert_string_equal(smtp_address(a, "Max Booster <no-reply@localhost>"), "no-reply@localhost");
    assert_string_equal(smtp_address(a, "\"A <b\" <a+b@x.y>"), "a+b@x.y");
    assert_string_equal(smtp_address(a, "j\xc3\xb6rg@example.org"), "j\xc3\xb6rg@example.org");
}

static void test_addresses_that_could_end_a_command_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "ann",
        "@example.org",
        "ann@",
        "ann@a@b",
        "a b@example.org",
        "ann@example.org\r\nRCPT TO:<eve@example.org>",
        "ann@example.org\n",
        "x\r\nBcc: e <ann@example.org>",
        "<ann@example.org> SIZE=1",
        "ann@example.org>",
        "Ann <ann@example.org",
        "a,b@example.org",
        "\"a\"@example.org",
        "a\x7f@example.org",
        "\xff@example.org",
        "<>",
    };
    struct arena *a = *state;
    char *longest = arena_alloc(a, 300);
    size_t i;

    for (i = 0; i < ARRAY_LEN(bad); i++) {
        assert_null(smtp_address(a, bad[i]));
    }
    memset(longest, 'a', 255);
    longest[1] = '@';
    assert_null(smtp_address(a, longest));
    longest[254] = '\0';
    assert_non_null(smtp_address(a, longest));
}

static void check_lines(struct arena *a, const char *in, const char *expected)
{
    size_t len;
    const char *out = smtp_lines(a, in, strlen(in), &len);

    assert_string_equal(out, expected);
    assert_int_equal(len, strlen(expected));
}

static void test_line_ends_are_of_one_kind(void **state)
{
    struct arena *a = *state;

    check_lines(a, "A: b\n\nx", "A: b\r\n\r\nx\r\n");
    check_lines(a, "A: b\r\n\r\nx\r\n", "A: b\r\n\r\nx\r\n");
    check_lines(a, "x\r.\ry\n.\n\r\n", "x\r\n.\r\ny\r\n.\r\n\r\n");
    check_lines(a, "x\r", "x\r\n");
    check_lines(a, "", "\r\n");
}

static void test_bad_mail_is_refused_before_anything_is_sent(void **state)
{
    static const char with_nul[] = "a\0b";
    struct arena *a = *state;
    const char *url = "smtp://127.0.0.1:1";
    char *large = arena_alloc(a, SMTP_MESSAGE_MAX + 1);
    struct scope sc;

    scope_init(&sc, a, 1000);
    memset(large, 'x', SMTP_MESSAGE_MAX + 1);
    assert_int_equal(smtp_send(&sc, url, "a", "b@c", "x", 1), ERR_VALIDATION_FAILED);
    assert_int_equal(smtp_send(&sc, url, "a@b", "b\r\n@c", "x", 1), ERR_VALIDATION_FAILED);
    assert_int_equal(smtp_send(&sc, url, "a@b", "b@c", with_nul, 3), ERR_VALIDATION_FAILED);
    assert_int_equal(smtp_send(&sc, url, "a@b", "b@c", large, SMTP_MESSAGE_MAX + 1),
                     ERR_VALIDATION_FAILED);
    sc.deadline_mono_ms = clock_mono_ms() - 1;
    assert_int_equal(smtp_send(&sc, url, "a@b", "b@c", "x", 1), ERR_TIMED_OUT);
}

static void test_only_smtp_is_spoken(void **state)
{
    struct scope sc;

    scope_init(&sc, *state, 1000);
    assert_int_equal(smtp_send(&sc, "http://127.0.0.1:1", "a@b", "b@c", "x", 1),
                     ERR_DEPENDENCY_UNAVAILABLE);
    assert_int_equal(smtp_send(&sc, "file:///tmp/x", "a@b", "b@c", "x", 1),
                     ERR_DEPENDENCY_UNAVAILABLE);
}

static int setup(void **state)
{
    *state = arena_open(1 << 22);
    return 0;
}

static int teardown(void **state)
{
    struct arena *a = *state;

    arena_close(&a);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_addresses_are_taken_bare),
        TEST(test_addresses_that_could_end_a_command_are_refused),
        TEST(test_line_ends_are_of_one_kind),
        TEST(test_bad_mail_is_refused_before_anything_is_sent),
        TEST(test_only_smtp_is_spoken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
