/* Mails as text: what no person can break out of. How mail clients read them is tested with
 * Python's parser. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lib/crypto.h"
#include "lib/mail.h"

struct fixture {
    struct arena *arena;
    struct scope scope;
};

static int set_up(void **state)
{
    static struct fixture f;

    f.arena = arena_open(1 << 20);
    scope_init(&f.scope, f.arena, 1000);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    arena_close(&f->arena);
    return 0;
}

static struct mail a_mail(void)
{
    return (struct mail){.from = "Max Booster <no-reply@example.org>",
                         .to = "ann@example.org",
                         .subject = "Hello",
                         .text = "Hi\n",
                         .html = "<p>Hi</p>\n",
                         .message_id = "0190",
                         .date_ms = 1795442523123};
}

static const char *compose(struct fixture *f, const struct mail *mail)
{
    const char *text = NULL;
    size_t len = 0;

    assert_int_equal(mail_compose(&f->scope, mail, &text, &len), OK);
    assert_int_equal(strlen(text), len);
    return text;
}

static void test_a_mail_has_the_fields_of_the_standard(void **state)
{
    struct mail mail = a_mail();
    const char *text = compose(*state, &mail);

    assert_true(has_prefix(text, "From: Max Booster <no-reply@example.org>\r\n"
                                 "To: <ann@example.org>\r\n"
                                 "Subject: Hello\r\n"
                                 "Date: Mon, 23 Nov 2026 14:02:03 +0000\r\n"
                                 "Message-ID: <0190@example.org>\r\n"));
    assert_non_null(strstr(text, "\r\n\r\nHi\r\n"));
    assert_non_null(strstr(text, "\r\n\r\n<p>Hi</p>\r\n"));
}

static void test_the_same_mail_is_the_same_text(void **state)
{
    struct mail mail = a_mail();

    assert_string_equal(compose(*state, &mail), compose(*state, &mail));
}

static void test_a_subject_cannot_add_a_field(void **state)
{
    struct mail mail = a_mail();
    const char *text;

    mail.subject = "Hi\r\nBcc: eve@example.org\r\n\r\nbody";
    text = compose(*state, &mail);
    assert_null(strstr(text, "\nBcc"));
    assert_non_null(strstr(text, "Subject: =?UTF-8?Q?HiBcc=3A_eve=40"));
}

static void test_a_subject_that_looks_encoded_stays_what_it_is(void **state)
{
    struct mail mail = a_mail();

    mail.subject = "=?utf-8?q?Bcc?=";
    assert_non_null(
        strstr(compose(*state, &mail), "Subject: =?UTF-8?Q?=3D=3Futf-8=3Fq=3FBcc=3F=3D?=\r\n"));
}

static void test_addresses_that_are_none_are_refused(void **state)
{
    static const char *const bad[] = {"", "ann", "ann@example.org\r\nBcc: eve@example.org",
                                      "ann@example.org, eve@example.org"};
    struct fixture *f = *state;
    const char *text;
    size_t i, len;

    for (i = 0; i < ARRAY_LEN(bad); i++) {
        struct mail mail = a_mail();

        mail.to = bad[i];
        assert_int_equal(mail_compose(&f->scope, &mail, &text, &len), ERR_VALIDATION_FAILED);
    }
}

/* No line of any input is longer than 76 characters, and none holds a byte that is not ASCII. */
static void test_lines_are_short_and_plain(void **state)
{
    struct fixture *f = *state;
    struct mail mail = a_mail();
    struct strbuf long_text;
    const char *text, *line, *end;
    int i;

    strbuf_init(&long_text, f->arena, 64);
    for (i = 0; i < 300; i++) {
        strbuf_puts(&long_text, "J\xc3\xb6rg \xf0\x9f\x8e\xb8=. ");
    }
    mail.text = long_text.data;
    mail.html = long_text.data;
    mail.subject = long_text.data;
    text = compose(f, &mail);
    for (line = text; *line != '\0'; line = end + 2) {
        const char *p;

        end = strstr(line, "\r\n");
        assert_non_null(end);
        assert_in_range(end - line, 0, 78);
        for (p = line; p < end; p++) {
            assert_in_range((unsigned char)*p, 0x20, 0x7e);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_mail_has_the_fields_of_the_standard, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_the_same_mail_is_the_same_text, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_subject_cannot_add_a_field, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_subject_that_looks_encoded_stays_what_it_is, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_addresses_that_are_none_are_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_lines_are_short_and_plain, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
