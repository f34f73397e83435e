/* Log lines: one JSON object each, whatever is put in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/json.h"
#include "lib/log.h"

static int keep_stdout, channel[2];

static int group_setup(void **state)
{
    (void)state;
    setenv("INSTANCE_ID", "7", 1);
    log_open("tester");
    return config_load(stderr) ? 0 : -1;
}

static int setup(void **state)
{
    struct arena *arena = arena_open(1 << 20);
    static struct scope scope;
    struct scope *sc = &scope;

    scope_init(sc, arena, 1000);
    clock_test_set(1795442543123, 0);
    *state = sc;
    return 0;
}

static int teardown(void **state)
{
    struct scope *sc = *state;
    struct arena *arena = sc->arena;

    clock_test_set(-1, -1);
    arena_close(&arena);
    return 0;
}

/* From here on standard output is ours … */
static void catch_output(void)
{
    fflush(stdout);
    assert_int_equal(pipe(channel), 0);
    keep_stdout = dup(STDOUT_FILENO);
    dup2(channel[1], STDOUT_FILENO);
}

/* … until here: what was written, in the arena. */
static const char *caught(struct scope *sc)
{
    char *text = arena_alloc(sc->arena, 65536);
    ssize_t len;

    dup2(keep_stdout, STDOUT_FILENO);
    close(keep_stdout);
    close(channel[1]);
    len = read(channel[0], text, 65535);
    close(channel[0]);
    return len > 0 ? text : "";
}

static const struct json *line_of(struct scope *sc, const char *text)
{
    const struct json *value;

    assert_int_equal(text[strlen(text) - 1], '\n');
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    assert_int_equal(json_parse(sc, text, strlen(text), &value), OK);
    return value;
}

static const char *member(const struct json *line, const char *name)
{
    return json_str(json_get(line, name), NULL);
}

static void test_a_line_is_one_json_object_with_what_every_line_has(void **state)
{
    const struct json *line;
    struct log_line l;
    int64_t number;

    catch_output();
    log_begin(&l, LOG_INFO, "request");
    log_str(&l, "route", "GET /");
    log_str(&l, "nothing", NULL);
    log_i64(&l, "status", INT64_MIN);
    log_end(&l);
    line = line_of(*state, caught(*state));
    assert_string_equal(member(line, "time"), "2026-11-23T14:02:23.123Z");
    assert_string_equal(member(line, "level"), "info");
    assert_string_equal(member(line, "program"), "tester");
    assert_string_equal(member(line, "instance"), "7");
    assert_string_equal(member(line, "event"), "request");
    assert_string_equal(member(line, "route"), "GET /");
    assert_false(json_has(line, "nothing"));
    assert_true(json_i64(json_get(line, "pid"), &number) && number == getpid());
    assert_true(json_has(line, "status"));
}

static void test_nothing_that_a_client_sends_breaks_out_of_its_text(void **state)
{
    static const char *const texts[] = {"a\"b",
                                        "a\\",
                                        "a\nb\r\n{\"level\":\"error\"}",
                                        "\x1b[31m",
                                        "\x7f",
                                        "\",\"admin\":true,\"x\":\"",
                                        "gr\xc3\xbc\xc3\x9f",
                                        "\t"};
    size_t i;

    for (i = 0; i < ARRAY_LEN(texts); i++) {
        const struct json *line;
        const char *text;

        catch_output();
        log_event(LOG_INFO, "test", "%s", texts[i]);
        text = caught(*state);
        line = line_of(*state, text);
        assert_string_equal(member(line, "message"), texts[i]);
        assert_null(strchr(text, 0x1b));
        assert_null(strchr(text, 0x7f));
    }
}

static void test_bytes_that_mislead_a_terminal_are_escaped(void **state)
{
    const char *text;

    catch_output();
    log_event(LOG_INFO, "test",
              "a\xc2\x9b"
              "31mb"); /* U+009B: CSI in one character */
    text = caught(*state);
    assert_null(strstr(text, "\xc2\x9b"));
    assert_non_null(strstr(text, "a\\u009b31mb"));
}

static void test_broken_utf_8_is_written_byte_by_byte(void **state)
{
    catch_output();
    log_event(LOG_INFO, "test", "a\xff\xc3");
    assert_string_equal(member(line_of(*state, caught(*state)), "message"), "a\xc3\xbf\xc3\x83");
}

static void test_a_line_that_is_too_long_says_so_and_stays_json(void **state)
{
    char text[600];
    struct log_line l;
    const char *out;
    int i;

    memset(text, '"', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    catch_output();
    log_begin(&l, LOG_INFO, "test");
    for (i = 0; i < 20; i++) {
        log_str(&l, "part", i == 0 ? "short" : text);
    }
    log_i64(&l, "late", 1);
    log_end(&l);
    out = caught(*state);
    assert_in_range(strlen(out), 1, LOG_LINE_MAX);
    assert_non_null(strstr(out, ",\"truncated\":true}\n"));
    assert_null(strstr(out, "late"));
}

static void test_every_length_up_to_the_bound_gives_valid_json(void **state)
{
    struct scope *sc = *state;
    char text[LOG_LINE_MAX + 10];
    int len;

    for (len = LOG_LINE_MAX - 400; len < LOG_LINE_MAX + 5; len++) {
        struct log_line l;
        const char *out;

        memset(text, 'x', (size_t)len);
        text[len] = '\0';
        catch_output();
        log_begin(&l, LOG_INFO, "test");
        log_str(&l, "text", text);
        log_i64(&l, "n", 123456789);
        log_end(&l);
        out = caught(sc);
        (void)line_of(sc, out);
        assert_in_range(strlen(out), 1, LOG_LINE_MAX);
        arena_reset(sc->arena);
    }
}

static void test_lines_below_the_level_are_not_written(void **state)
{
    const char *text;

    setenv("LOG_LEVEL", "warn", 1);
    assert_true(config_load(stderr));
    catch_output();
    log_event(LOG_DEBUG, "test", "x");
    log_event(LOG_INFO, "test", "x");
    log_event(LOG_WARN, "test", "seen");
    log_event(LOG_ERROR, "test", "seen");
    text = caught(*state);
    setenv("LOG_LEVEL", "info", 1);
    assert_true(config_load(stderr));
    assert_non_null(strstr(text, "\"level\":\"warn\""));
    assert_non_null(strstr(text, "\"level\":\"error\""));
    assert_null(strstr(text, "\"level\":\"info\""));
    assert_null(strstr(text, "\"level\":\"debug\""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_line_is_one_json_object_with_what_every_line_has,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_that_a_client_sends_breaks_out_of_its_text,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_bytes_that_mislead_a_terminal_are_escaped, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_broken_utf_8_is_written_byte_by_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_line_that_is_too_long_says_so_and_stays_json, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_every_length_up_to_the_bound_gives_valid_json, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_lines_below_the_level_are_not_written, setup,
                                        teardown),
    };

    return cmocka_run_group_tests_name("log", tests, group_setup, NULL);
}
