/* The grammar of JSON, and where a text leaves it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "lib/base.h"
#include "lib/json_scan.h"

static bool scan(const char *text, int depth_max, size_t *members, struct json_fault *fault)
{
    return json_scan(text, strlen(text), depth_max, members, fault);
}

static void test_the_fault_is_told_with_its_place(void **state)
{
    static const struct {
        const char *text;
        size_t at;
        const char *why;
    } cases[] = {
        {"", 0, "a value is missing"},
        {"  ", 2, "a value is missing"},
        {"{\"a\":1,}", 7, "a name in double quotes is missing"},
        {"{\"a\" 1}", 5, "a colon is missing"},
        {"[1 2]", 3, "a comma or the closing bracket is missing"},
        {"[1,]", 3, "a value is missing"},
        {"[1", 2, "a comma or the closing bracket is missing"},
        {"1 x", 2, "something follows the value"},
        {"01", 1, "something follows the value"},
        {"[1.]", 3, "a digit is missing"},
        {"\"abc", 4, "the text ends too early"},
        {"\"a\nb\"", 2, "a control character in a text"},
        {"\"\\x\"", 2, "an unknown escape"},
        {"\"\\u12", 5, "an escape needs four hexadecimal digits"},
        {"{\"\\u0000\":1}", 8, "a name must not hold a NUL"},
        {"[[[1]]]", 2, "nested too deep"},
    };
    struct json_fault fault;
    size_t i, members;

    (void)state;
    for (i = 0; i < ARRAY_LEN(cases); i++) {
        assert_false(scan(cases[i].text, 2, &members, &fault));
        if (fault.at != cases[i].at || strcmp(fault.why, cases[i].why) != 0) {
            fail_msg("%s: %s at %zu", cases[i].text, fault.why, fault.at);
        }
    }
}

static void test_members_of_all_objects_are_counted_as_written(void **state)
{
    struct json_fault fault;
    size_t members;

    (void)state;
    assert_true(scan("{}", 4, &members, &fault));
    assert_int_equal(members, 0);
    assert_true(scan("{\"a\":1,\"a\":{\"b\":[{\"c\":\":\"},{}]}}", 4, &members, &fault));
    assert_int_equal(members, 4);
    assert_true(scan("\":\"", 4, &members, &fault));
    assert_int_equal(members, 0);
}

static void test_brackets_side_by_side_are_not_deep(void **state)
{
    struct json_fault fault;
    size_t members;

    (void)state;
    assert_true(scan("[[],[],{},[],{\"a\":2}]", 2, &members, &fault));
    assert_true(scan("1", 0, &members, &fault));
    assert_false(scan("[]", 0, &members, &fault));
}

static void test_no_prefix_of_a_value_is_one(void **state)
{
    static const char text[] = "{\"a\":[1.5e+3,true,\"\\ud83c\\udfb5\"],\"b\":null}";
    struct json_fault fault;
    size_t len, members;

    (void)state;
    assert_true(json_scan(text, sizeof(text) - 1, 2, &members, &fault));
    for (len = 0; len < sizeof(text) - 1; len++) {
        assert_false(json_scan(text, len, 2, &members, &fault));
        assert_in_range(fault.at, 0, len);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_fault_is_told_with_its_place),
        cmocka_unit_test(test_members_of_all_objects_are_counted_as_written),
        cmocka_unit_test(test_brackets_side_by_side_are_not_deep),
        cmocka_unit_test(test_no_prefix_of_a_value_is_one),
    };

    return cmocka_run_group_tests_name("json_scan", tests, NULL, NULL);
}
