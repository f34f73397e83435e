/* Routing: every route, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "fcgi/req_private.h"

#define ID "01890a5d-ac96-774b-bcce-b302099a8057"

static int setup(void **state)
{
    static struct scope scope;

    scope_init(&scope, arena_open(65536), 1000);
    *state = &scope;
    return 0;
}

static int teardown(void **state)
{
    struct scope *sc = *state;

    arena_close(&sc->arena);
    return 0;
}

static enum err find(struct scope *sc, const char *method, const char *path)
{
    struct route_match match;

    return router_find(sc, method, path, &match);
}

/* Each row of the table is found by its own key, an id in the place of each '*'. */
static void test_every_route_is_found_by_method_and_path(void **state)
{
    struct scope *sc = *state;
    int i;

    assert_true(route_count() > 10);
    for (i = 0; i < route_count(); i++) {
        const char *key = route_key(i), *p = strchr(key, ' ') + 1;
        const char *method = arena_strndup(sc->arena, key, strcspn(key, " "));
        struct route_match match;
        struct strbuf path;
        int n = 0;

        strbuf_init(&path, sc->arena, 100);
        for (; *p != '\0'; p++) {
            if (*p == '*') {
                strbuf_puts(&path, ID);
                n++;
            } else {
                strbuf_putc(&path, *p);
            }
        }
        assert_int_equal(router_find(sc, method, path.data, &match), OK);
        assert_int_equal(match.route->index, i);
        assert_string_equal(match.route->key, key);
        assert_non_null(match.route->h);
        assert_int_equal(match.n_ids, n);
        arena_reset(sc->arena);
    }
    assert_true(route_count() <= 250); /* METRICS_ROUTES_MAX */
}

static void test_an_id_of_the_path_is_handed_over(void **state)
{
    struct scope *sc = *state;
    struct route_match match;

    assert_int_equal(router_find(sc, "GET", "/api/audio/" ID "/url", &match), OK);
    assert_string_equal(id_text(sc->arena, match.ids[0]), ID);
}

static void test_head_is_get(void **state)
{
    assert_int_equal(find(*state, "HEAD", "/api/system/health"), OK);
    assert_int_equal(find(*state, "HEAD", "/api/auth/login"), ERR_METHOD_NOT_ALLOWED);
}

static void test_a_wrong_method_is_told_the_right_ones(void **state)
{
    struct scope *sc = *state;
    struct route_match match;

    assert_int_equal(router_find(sc, "PUT", "/api/auth/login", &match), ERR_METHOD_NOT_ALLOWED);
    assert_string_equal(match.allow, "POST");
    assert_int_equal(router_find(sc, "POST", "/api/audio/" ID, &match), ERR_METHOD_NOT_ALLOWED);
    assert_string_equal(match.allow, "GET, HEAD, PATCH, DELETE");
    assert_int_equal(find(sc, "get", "/api/auth/me"), ERR_METHOD_NOT_ALLOWED);
    assert_int_equal(find(sc, "", "/api/auth/me"), ERR_METHOD_NOT_ALLOWED);
    assert_int_equal(find(sc, "GET /api/auth/me", "/api/auth/me"), ERR_METHOD_NOT_ALLOWED);
}

static void test_nothing_but_a_route_is_found(void **state)
{
    static const char *const paths[] = {
        "/",
        "//",
        "/api",
        "/api/",
        "/api/audio/",
        "//api/audio",
        "/api//audio",
        "/api/audio/x",
        "/api/audio/*",
        "/api/audio/%2A",
        "/api/audio/" ID "/",
        "/api/audio/" ID "/x",
        "/api/audio/" ID "/" ID,
        "/api/audio/../auth/me",
        "/api/./audio",
        "/API/audio",
        "/api/audio;x",
        "/api/audio/" ID " ",
        "/api/audio\\",
        "/api/uploads/multipart/*/parts",
        "/" ID "/" ID "/" ID "/" ID "/" ID "/" ID,
    };
    size_t i;

    for (i = 0; i < ARRAY_LEN(paths); i++) {
        if (find(*state, "GET", paths[i]) != ERR_NOT_FOUND) {
            fail_msg("%s is found", paths[i]);
        }
    }
}

static void test_escapes_in_the_path_are_decoded_or_refused(void **state)
{
    assert_int_equal(find(*state, "GET", "/api/%61udio"), OK);
    assert_int_equal(find(*state, "GET", "/api%2Faudio"),
                     OK); /* nothing is behind a slash but a slash */
    assert_int_equal(find(*state, "GET", "/api/audio%"), ERR_BAD_REQUEST);
    assert_int_equal(find(*state, "GET", "/api/audio%0"), ERR_BAD_REQUEST);
    assert_int_equal(find(*state, "GET", "/api/audio%00"), ERR_BAD_REQUEST);
    assert_int_equal(find(*state, "GET", "/api/audio%zz"), ERR_BAD_REQUEST);
    assert_int_equal(find(*state, "GET", "/api/audio%ff"), ERR_BAD_REQUEST);
    assert_int_equal(find(*state, "GET", "/api/%2561udio"), ERR_NOT_FOUND); /* once only */
}

static void test_a_long_path_is_refused_at_the_bound(void **state)
{
    static char path[20000];
    size_t len;

    for (len = ROUTE_KEY_MAX - 5; len < ROUTE_KEY_MAX + 5; len++) {
        enum err e;

        memset(path, 'x', len);
        path[0] = '/';
        path[len] = '\0';
        e = find(*state, "GET", path);
        assert_true(e == ERR_NOT_FOUND || e == ERR_URI_TOO_LONG);
        assert_true(len < ROUTE_KEY_MAX || e == ERR_URI_TOO_LONG);
    }
    memset(path, '/', sizeof(path) - 1);
    assert_int_equal(find(*state, "GET", path), ERR_URI_TOO_LONG);
    memset(path, 'x', sizeof(path) - 1);
    path[0] = '/';
    assert_int_equal(find(*state, "GET", path), ERR_URI_TOO_LONG);
}

static void test_an_absurd_method_finds_nothing(void **state)
{
    static char method[5000];

    memset(method, 'G', sizeof(method) - 1);
    assert_int_equal(find(*state, method, "/api/auth/me"), ERR_METHOD_NOT_ALLOWED);
    assert_int_equal(find(*state, method, "/nothing"), ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_route_is_found_by_method_and_path, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_an_id_of_the_path_is_handed_over, setup, teardown),
        cmocka_unit_test_setup_teardown(test_head_is_get, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_wrong_method_is_told_the_right_ones, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_nothing_but_a_route_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(test_escapes_in_the_path_are_decoded_or_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_long_path_is_refused_at_the_bound, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_absurd_method_finds_nothing, setup, teardown),
    };

    return cmocka_run_group_tests_name("router", tests, NULL, NULL);
}
