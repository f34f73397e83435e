/* Fuzzing of what a proxy hands over: the first line picks the part, the rest is its value. Path,
 * query, cookies, entity tags and origins are refused or taken, never more. */
#include <stdio.h>

#include "fcgi/req_private.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/session.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool holds, const char *what, const char *text)
{
    if (!holds) {
        fprintf(stderr, "broken: %s: %s\n", what, text);
        abort();
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    crypto_open();
    return config_load(stderr) ? 0 : -1;
}

static void check_path(struct req *r, const char *path)
{
    static const char *const methods[] = {"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", ""};
    size_t i;

    for (i = 0; i < ARRAY_LEN(methods); i++) {
        enum err e = router_find(&r->scope, methods[i], path, &r->match);

        demand(e != OK || (r->match.route != NULL && r->match.route->h != NULL), "a route", path);
        demand(e != ERR_METHOD_NOT_ALLOWED || *r->match.allow != '\0', "an Allow field", path);
    }
}

static void check_query(struct req *r, const char *text)
{
    struct req_page page;
    size_t i;

    if (req_parse_query(r, text) != OK) {
        return;
    }
    for (i = 0; i < r->n_query; i++) {
        demand(req_query(r, r->query[i].name) == r->query[i].value, "names are unique", text);
        demand(utf8_valid(r->query[i].value, strlen(r->query[i].value)), "values are UTF-8", text);
    }
    if (req_page(r, &page) == OK) {
        demand(page.limit >= 1 && page.limit <= config()->page_limit_max, "a limit", text);
    }
}

static void check_cookie(struct req *r, const char *text)
{
    struct session_claim claim;
    const char *token;

    r->n_params = 1;
    r->params = &(struct conn_param){.name = "HTTP_COOKIE", .value = text};
    token = req_token(r);
    if (token != NULL) {
        demand(strchr(token, ';') == NULL, "a token ends with its cookie", text);
        demand(strstr(text, token) != NULL, "a token is part of the field", text);
        (void)session_claim(token, &claim);
    }
    r->params = &(struct conn_param){.name = "HTTP_AUTHORIZATION", .value = text};
    (void)req_token(r);
    r->params = NULL;
    r->n_params = 0;
}

static void check_conditions(struct req *r, const char *text)
{
    static const struct route route = {.rate = RATE_NORMAL};
    struct conn_param params[] = {{"HTTP_IF_MATCH", text},
                                  {"HTTP_ORIGIN", text},
                                  {"HTTP_SEC_FETCH_SITE", text},
                                  {"HTTP_HOST", "example.com"}};

    r->params = params;
    r->n_params = ARRAY_LEN(params);
    r->match.route = &route;
    r->is_unsafe = r->who.by_cookie = true;
    (void)req_if_match(r, 7);
    demand(guard_csrf(r) != OK || strcasestr(text, "example.com") != NULL ||
               strcasestr(text, config()->public_url) != NULL,
           "another origin is refused", text);
    r->params = NULL;
    r->n_params = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const checks[])(struct req * r, const char *text) = {
        check_path, check_query, check_cookie, check_conditions};
    struct arena *arena = arena_open(1 << 20);
    struct req *r = arena_new(arena, struct req);
    const char *text = arena_strndup(arena, (const char *)data, size);

    scope_init(&r->scope, arena, 1000);
    if (size > 0) {
        checks[data[0] % ARRAY_LEN(checks)](r, text + 1);
        respond_problem(r, ERR_VALIDATION_FAILED);
        demand(utf8_valid(r->reply.body.data, r->reply.body.len), "a problem is UTF-8", text);
    }
    arena_close(&arena);
    return 0;
}
