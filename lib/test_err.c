/* The table of errors, as a whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/base.h"

static void test_every_error_has_a_status_a_code_and_a_title(void **state)
{
    int e;

    (void)state;
    for (e = OK + 1; e < ERR__COUNT; e++) {
        const struct err_info *info = err_info((enum err)e);
        const char *code = info->code;

        assert_in_range(info->http_status, 400, 599);
        assert_true(strlen(info->title) > 5);
        assert_int_equal(code[strspn(code, "abcdefghijklmnopqrstuvwxyz_")], '\0');
        assert_true(*code != '\0');
    }
}

static void test_no_two_errors_share_a_code(void **state)
{
    int a, b;

    (void)state;
    for (a = OK + 1; a < ERR__COUNT; a++) {
        for (b = OK + 1; b < a; b++) {
            assert_string_not_equal(err_info((enum err)a)->code, err_info((enum err)b)->code);
        }
    }
}

static void test_every_503_and_429_says_when_to_come_back(void **state)
{
    int e;

    (void)state;
    for (e = OK + 1; e < ERR__COUNT; e++) {
        const struct err_info *info = err_info((enum err)e);

        if (info->http_status == 503 || info->http_status == 429) {
            assert_int_not_equal(info->retry, RETRY_NEVER);
        }
    }
    assert_int_equal(err_info(ERR_WRITE_UNKNOWN)->retry, RETRY_SAME_KEY);
}

static void test_what_is_no_error_is_told_as_internal(void **state)
{
    const struct err_info *internal = err_info(ERR_INTERNAL);

    (void)state;
    assert_ptr_equal(err_info(OK), internal);
    assert_ptr_equal(err_info(ERR__COUNT), internal);
    assert_ptr_equal(err_info((enum err)12345), internal);
    assert_ptr_equal(err_info((enum err)(-1)), internal);
}

static void test_the_page_lists_every_code(void **state)
{
    char *page = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&page, &len);
    int e;

    (void)state;
    err_print_docs(out);
    fclose(out);
    for (e = OK + 1; e < ERR__COUNT; e++) {
        assert_non_null(strstr(page, err_info((enum err)e)->code));
    }
    free(page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_error_has_a_status_a_code_and_a_title),
        cmocka_unit_test(test_no_two_errors_share_a_code),
        cmocka_unit_test(test_every_503_and_429_says_when_to_come_back),
        cmocka_unit_test(test_what_is_no_error_is_told_as_internal),
        cmocka_unit_test(test_the_page_lists_every_code),
    };

    return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
