/* What readiness asks of the API itself, as a client would: sessions of users that do not exist, so
 * that nothing is left behind. */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "deploy/ctl/readiness.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/json.h"
#include "lib/pg.h"
#include "lib/shape.h"
#include "queries.h"

enum {
    CHECK_LIMIT_MS = 60000,
    CONNECT_LIMIT_MS = 2000,
    REPLY_LIMIT_MS = 20000,
    PAGE_MAX = 2 * 1024 * 1024,
    PASSES_MAX = 8,         /* over the routes, until every instance has answered each */
    CRITICAL_ENOUGH = 1000, /* a limit that the operator's address may be charged against */
    N_KILLS = 4,
    ASKED_PER_KILL = 25,
    HEALTH_ASKED = 5,
};

void rd_renew(struct rd *rd)
{
    rd->sc->deadline_mono_ms = clock_mono_ms() + CHECK_LIMIT_MS;
}

enum err rd_ask(struct rd *rd, const char *method, const char *url, const char *token,
                const char *key, const char *body, struct http_response *out)
{
    struct http_header headers[3];
    struct http_request request = {.method = method,
                                   .url = url,
                                   .headers = headers,
                                   .body = body,
                                   .body_len = body != NULL ? strlen(body) : 0,
                                   .connect_timeout_ms = CONNECT_LIMIT_MS,
                                   .timeout_ms = REPLY_LIMIT_MS,
                                   .body_max = PAGE_MAX};

    arena_reset(rd->page);
    scope_forgive(rd->sc);
    if (body != NULL) {
        headers[request.n_headers++] = (struct http_header){"Content-Type", "application/json"};
    }
    if (token != NULL) {
        headers[request.n_headers++] =
            (struct http_header){"Authorization", arena_printf(rd->page, "Bearer %s", token)};
    }
    if (key != NULL) {
        headers[request.n_headers++] = (struct http_header){"Idempotency-Key", key};
    }
    return http_do(rd->sc, rd->page, &request, out);
}

enum err rd_session(struct rd *rd, struct id user, const char *role, char *token_out)
{
    struct id session;
    int64_t expires_at;

    return session_create(rd->sc, user, role, "127.0.0.1", "maxboosterctl readiness", token_out,
                          &session, &expires_at);
}

const char *rd_page(struct rd *rd, const struct rd_door *door)
{
    struct http_response reply;

    return rd_ask(rd, "GET", door->url, NULL, NULL, NULL, &reply) == OK && reply.status == 200
               ? reply.body
               : NULL;
}

const char *rd_code(struct rd *rd, const struct http_response *reply)
{
    const struct json *problem;
    const char *code = NULL;

    if (reply->status >= 400 &&
        json_parse(rd->sc, reply->body, strlen(reply->body), &problem) == OK) {
        code = json_str(json_get(problem, "code"), NULL);
    }
    scope_forgive(rd->sc);
    return code != NULL ? code : "";
}

static const char *url_of(struct rd *rd, const char *path)
{
    return arena_printf(rd->sc->arena, "%s%s", rd->url, path);
}

enum rd_verdict rd_health(struct rd *rd, const char **evidence_out)
{
    const char *url = url_of(rd, "/api/system/health"), *status = "";
    const struct json *told;
    struct http_response reply;
    int i, n = 0;

    for (i = 0; i < HEALTH_ASKED; i++) {
        n += rd_ask(rd, "GET", url, NULL, NULL, NULL, &reply) == OK && reply.status == 200;
    }
    if (rd_ask(rd, "GET", url_of(rd, "/api/system/status"), NULL, NULL, NULL, &reply) == OK &&
        json_parse(rd->sc, reply.body, reply.body_len, &told) == OK) {
        status = json_str(json_get(told, "status"), NULL);
    }
    *evidence_out = arena_printf(rd->sc->arena,
                                 "health answered 200 %d of %d times; status %d \"%s\", of "
                                 "database, redis, storage and queue",
                                 n, HEALTH_ASKED, reply.status, status != NULL ? status : "");
    return n == HEALTH_ASKED && reply.status == 200 ? RD_PASS : RD_FAIL;
}

/* --- Any request to any instance. --- */

static void add_path(struct rd *rd, const char *path, const struct json *operations)
{
    static const char *const methods[][2] = {
        {"get", "GET"}, {"post", "POST"}, {"put", "PUT"}, {"patch", "PATCH"}, {"delete", "DELETE"}};
    struct strbuf key;
    size_t i;
    const char *at;

    for (i = 0; i < ARRAY_LEN(methods) && rd->n_operations < RD_ROUTES_MAX; i++) {
        const struct json *operation = json_get(operations, methods[i][0]);
        const char *limit = json_str(json_get(operation, "x-limit"), NULL);

        if (operation == NULL) {
            continue;
        }
        strbuf_init(&key, rd->sc->arena, 0);
        strbuf_printf(&key, "%s ", methods[i][1]);
        for (at = path; *at != '\0'; at++) {
            strbuf_putc(&key, *at == '{' ? '*' : *at);
            at += *at == '{' ? strcspn(at, "}") : 0;
        }
        rd->operations[rd->n_operations++] = (struct rd_operation){
            .key = key.data,
            .method = methods[i][1],
            .path = arena_strdup(rd->sc->arena, path),
            .is_critical = limit != NULL && strcmp(limit, "critical") == 0,
        };
    }
}

static bool add_each_path(void *context, const char *name, const struct json *value)
{
    if (has_prefix(name, "/api/")) { /* the others are the inner address's */
        add_path(context, name, value);
    }
    return true;
}

bool rd_operations(struct rd *rd, const char **evidence_out)
{
    const struct json *document;
    struct http_response reply;

    if (rd->n_operations > 0) {
        return true;
    }
    if (rd_ask(rd, "GET", url_of(rd, "/api/openapi.json"), NULL, NULL, NULL, &reply) != OK ||
        reply.status != 200 || json_parse(rd->sc, reply.body, reply.body_len, &document) != OK) {
        *evidence_out = arena_printf(rd->sc->arena, "%s/api/openapi.json cannot be read", rd->url);
        return false;
    }
    json_each(json_get(document, "paths"), add_each_path, rd);
    return rd->n_operations > 0;
}

/* The path with an id that nobody has, in the user's place. */
static const char *path_with_id(struct rd *rd, const char *path, struct id user)
{
    const char *open = strchr(path, '{'), *close = strchr(path, '}');

    if (open == NULL || close == NULL) {
        return path;
    }
    return arena_printf(rd->sc->arena, "%.*s%s%s", (int)(open - path), path,
                        id_text(rd->sc->arena, id_make_owned(id_place(user))), close + 1);
}

/* Ask a route n times, each time with another session of the same fresh user. False: answers
 * differ, or one is our fault (5xx). */
static bool ask_operation(struct rd *rd, struct rd_operation *o, size_t n,
                          const char **evidence_out)
{
    const char *body =
        strcmp(o->method, "GET") == 0 || strcmp(o->method, "DELETE") == 0 ? NULL : "{}";
    struct id user = id_make_user();
    const char *url = url_of(rd, path_with_id(rd, o->path, user));
    bool is_same = true;
    size_t i;

    for (i = 0; i < n && is_same; i++) {
        char token[SESSION_TOKEN_SIZE];
        struct http_response reply = {.status = 0};
        const char *code;

        rd_renew(rd);
        if (rd_session(rd, user, "user", token) != OK ||
            rd_ask(rd, o->method, url, token, NULL, body, &reply) != OK) {
            is_same = false;
        }
        code = rd_code(rd, &reply);
        if (o->status == 0) {
            o->status = reply.status;
            o->code = code;
        }
        is_same = is_same && reply.status == o->status && strcmp(code, o->code) == 0 &&
                  reply.status < 500;
        if (!is_same) {
            *evidence_out = arena_printf(
                rd->sc->arena, "%s answered %d %s, and then %d %s (0: no answer) %s", o->key,
                o->status, o->code, reply.status, code, rd->sc->cause != NULL ? rd->sc->cause : "");
        }
    }
    if (session_end_all(rd->sc, user, (struct id){{0}}) != OK) {
        scope_forgive(rd->sc); /* they end by themselves */
    }
    return is_same;
}

/* How often the door's instance has answered the route since the beginning. */
static int64_t answered(const struct rd_routes *now, const struct rd_door *door, const char *key)
{
    const struct rd_route *route = rd_routes_find(now, key);
    const struct rd_route *before = rd_routes_find(&door->before, key);

    return (route != NULL ? route->n : 0) - (before != NULL ? before->n : 0);
}

/* Routes that some instance has not answered yet: needs_out[i] for operation i. Returns their
 * number; -1: a door does not answer. */
static int count_unanswered(struct rd *rd, bool *needs_out)
{
    struct rd_routes *now = arena_new(rd->sc->arena, struct rd_routes);
    size_t i, d;
    int n = 0;

    memset(needs_out, 0, sizeof(*needs_out) * rd->n_operations);
    for (d = 0; d < rd->n_doors; d++) {
        const char *page = rd_page(rd, &rd->doors[d]);

        if (page == NULL) {
            return -1;
        }
        now->n = 0;
        rd_routes_add(now, page);
        for (i = 0; i < rd->n_operations; i++) {
            const struct rd_operation *o = &rd->operations[i];

            needs_out[i] =
                needs_out[i] || (o->status != 0 && answered(now, &rd->doors[d], o->key) == 0);
        }
    }
    for (i = 0; i < rd->n_operations; i++) {
        n += needs_out[i];
    }
    return n;
}

static bool may_ask(const struct rd_operation *o)
{
    return !o->is_critical || config()->rate_limit_critical_max >= CRITICAL_ENOUGH;
}

enum rd_verdict rd_stateless(struct rd *rd, const char **evidence_out)
{
    bool *needs = arena_array(rd->sc->arena, bool, RD_ROUTES_MAX);
    size_t i, n_asked = 0, n_spared = 0;
    const char *spared;
    int pass, n_left = 1;

    *evidence_out = "no door is known: give --targets FILE (Prometheus' file_sd form)";
    if (rd->n_doors == 0 || !rd_operations(rd, evidence_out)) {
        return RD_UNKNOWN;
    }
    for (i = 0; i < rd->n_operations; i++) {
        needs[i] = may_ask(&rd->operations[i]);
        n_asked += needs[i];
        n_spared += !needs[i];
    }
    for (pass = 0; pass < PASSES_MAX && n_left > 0; pass++) {
        for (i = 0; i < rd->n_operations; i++) {
            if (needs[i] && !ask_operation(rd, &rd->operations[i], 2 * rd->n_doors, evidence_out)) {
                return RD_FAIL;
            }
        }
        n_left = count_unanswered(rd, needs);
    }
    spared = n_spared == 0 ? ""
                           : arena_printf(rd->sc->arena,
                                          " (%zu critical ones are not, since "
                                          "RATE_LIMIT_CRITICAL_MAX is under %d)",
                                          n_spared, CRITICAL_ENOUGH);
    *evidence_out = arena_printf(
        rd->sc->arena,
        "%zu of %zu routes asked%s, each request with another session: %s by each of %zu "
        "instances, with the same answer",
        n_asked, rd->n_operations, spared,
        n_left == 0 ? "every one was answered" : "not every one was answered", rd->n_doors);
    return n_left < 0 ? RD_UNKNOWN : n_left > 0 ? RD_FAIL : RD_PASS;
}

/* --- Refusals. --- */

/* 429 and 503 must be problems and say when to come again. */
static enum rd_verdict judge_refusal(struct rd *rd, const struct http_response *reply, int status,
                                     const char *how, const char **evidence_out)
{
    const char *retry = http_header(reply, "Retry-After");
    const char *type = http_header(reply, "Content-Type");
    int64_t seconds = 0;
    bool is_good = reply->status == status && retry != NULL && i64_parse(retry, &seconds) &&
                   seconds > 0 && type != NULL && has_prefix(type, "application/problem+json");

    *evidence_out =
        arena_printf(rd->sc->arena, "%s: answered %d %s, Retry-After: %s, %s", how, reply->status,
                     rd_code(rd, reply), retry != NULL ? retry : "none", type != NULL ? type : "");
    return is_good ? RD_PASS : RD_FAIL;
}

/* A user who does not exist has spent the limit of ten windows at once. */
enum rd_verdict rd_refusal_429(struct rd *rd, const char **evidence_out)
{
    const struct rate_policy policy = {.name = "default",
                                       .quota = config()->rate_limit_max,
                                       .window_ms = 10 * config()->rate_limit_window_ms,
                                       .cost = config()->rate_limit_max};
    struct id user = id_make_user();
    char token[SESSION_TOKEN_SIZE];
    struct rate_verdict verdict;
    struct http_response reply;
    enum rd_verdict found = RD_UNKNOWN;

    *evidence_out = "Redis does not answer";
    if (rd_session(rd, user, "user", token) != OK ||
        rate_charge(rd->sc, id_text(rd->sc->arena, user), &policy, &verdict) != OK) {
        return RD_UNKNOWN;
    }
    if (rd_ask(rd, "GET", url_of(rd, "/api/audio"), token, NULL, NULL, &reply) == OK) {
        found = judge_refusal(rd, &reply, 429,
                              arena_printf(rd->sc->arena, "a user at his limit of %lld a window",
                                           (long long)policy.quota),
                              evidence_out);
    }
    if (rate_forget(rd->sc, id_text(rd->sc->arena, user), &policy) != OK ||
        session_end_all(rd->sc, user, (struct id){{0}}) != OK) {
        scope_forgive(rd->sc); /* they end by themselves */
    }
    return found;
}

struct rd_claimed {
    int64_t old_status;
};

static const struct field claimed_fields[] = {
    F_I64(rd_claimed, old_status, "oldStatus", 0, 599, F_OPTIONAL),
};
static const struct shape shape_rd_claimed = SHAPE(rd_claimed, claimed_fields);

/* The database does not answer in time for one key of one user who does not exist: we hold its row
 * in a transaction that is never committed. Nobody else is touched. */
enum rd_verdict rd_refusal_503(struct rd *rd, const char **evidence_out)
{
    struct id user = id_make_user();
    const char *key = id_text(rd->sc->arena, id_make_user());
    char token[SESSION_TOKEN_SIZE];
    struct rd_claimed claimed;
    struct http_response reply;
    enum rd_verdict found = RD_UNKNOWN;
    const char *body =
        arena_printf(rd->sc->arena, "{\"key\":\"audio/%s/%s.mp3\"}", id_text(rd->sc->arena, user),
                     id_text(rd->sc->arena, id_make_owned(id_place(user))));

    *evidence_out = "Redis or the user's shard does not answer";
    if (rd_session(rd, user, "user", token) != OK || pg_begin(rd->sc, id_place(user)) != OK) {
        return RD_UNKNOWN;
    }
    if (pg_one(rd->sc,
               q_idempotency_claim(rd->sc, user, key, "readiness", "readiness", 0, 0, false),
               &shape_rd_claimed, &claimed) == OK &&
        rd_ask(rd, "POST", url_of(rd, "/api/audio/complete-upload"), token, key, body, &reply) ==
            OK) {
        found =
            judge_refusal(rd, &reply, 503, "the database does not answer in time", evidence_out);
    }
    pg_rollback(rd->sc, id_place(user));
    pg_release(rd->sc);
    if (session_end_all(rd->sc, user, (struct id){{0}}) != OK) {
        scope_forgive(rd->sc);
    }
    return found;
}

/* --- Random kills. --- */

static bool kill_one(struct rd *rd)
{
    size_t i, n = 0, chosen;
    uint32_t random;

    for (i = 0; i < rd->n_processes; i++) {
        const struct rd_process *p = &rd->processes[i];

        n += p->pid > 0 && strcmp(p->program, "api") == 0;
    }
    if (n == 0) {
        return false;
    }
    crypto_random(&random, sizeof(random));
    chosen = random % n;
    for (i = 0; i < rd->n_processes; i++) {
        struct rd_process *p = &rd->processes[i];

        if (p->pid > 0 && strcmp(p->program, "api") == 0 && chosen-- == 0) {
            bool is_done = kill(p->pid, SIGKILL) == 0;

            p->pid = 0; /* another one takes its place */
            return is_done;
        }
    }
    return false;
}

enum rd_verdict rd_kills(struct rd *rd, const char **evidence_out)
{
    struct id user = id_make_user();
    char token[SESSION_TOKEN_SIZE];
    struct http_response reply;
    int n_kills = 0, n_asked = 0, n_lost = 0, i, k;

    *evidence_out = "give --kill: API processes of this machine are killed, and their instances "
                    "start others";
    if (!rd->may_kill) {
        return RD_UNKNOWN;
    }
    *evidence_out = "Redis does not answer";
    if (rd_session(rd, user, "user", token) != OK) {
        return RD_UNKNOWN;
    }
    /* Once a request is lost nobody else is killed: what has died may not come back. */
    for (k = 0; k < N_KILLS && n_lost == 0 && kill_one(rd); k++, n_kills++) {
        for (i = 0; i < ASKED_PER_KILL && n_lost == 0; i++, n_asked++) {
            const char *path = i % 2 == 0 ? "/api/auth/sessions" : "/api/audio";
            bool is_answered =
                rd_ask(rd, "GET", url_of(rd, path), token, NULL, NULL, &reply) == OK &&
                (reply.status == 200 || reply.status == 429);

            rd_renew(rd);
            n_lost += !is_answered;
        }
    }
    *evidence_out =
        arena_printf(rd->sc->arena,
                     "%d API processes chosen by chance were killed; of %d requests with one "
                     "session behind that, %d were not answered",
                     n_kills, n_asked, n_lost);
    if (session_end_all(rd->sc, user, (struct id){{0}}) != OK) {
        scope_forgive(rd->sc);
    }
    return n_kills == 0 ? RD_UNKNOWN : n_lost > 0 ? RD_FAIL : RD_PASS;
}
