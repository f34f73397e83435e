/* Sessions: tokens, and what Redis is asked; Redis is a fake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/redis.h"
#include "lib/session.h"
#include "lib/str.h"

#define USER "01890a5d-ac96-774b-bcce-b302099a8057"
#define NOW_MS INT64_C(1795442543123)

static const struct rate_policy policy = {.name = "default", .quota = 100, .window_ms = 60000};

/* A Redis that notes what its scripts are asked and answers what it is told. */
static struct {
    enum err result;
    struct redis_reply check, create, end;
    int64_t admitted;
    struct redis_args keys, args; /* of the last script but admission */
    int n_evals;
    struct redis_reply listed;  /* answer to plain commands */
    struct redis_reply rows[3]; /* answers to a pipeline */
    size_t n_added, n_runs;
    int64_t mono_us; /* each of which takes 0.3 s where this is set */
} fake;

enum err redis_eval(struct scope *sc, struct redis_script *script, const struct redis_args *keys,
                    const struct redis_args *args, struct redis_reply *reply_out)
{
    (void)sc;
    fake.n_evals++;
    if (strcmp(script->name, "session_admit") == 0) {
        *reply_out = (struct redis_reply){.kind = REDIS_INT, .integer = fake.admitted};
        return fake.result;
    }
    fake.keys = *keys;
    fake.args = *args;
    *reply_out = strcmp(script->name, "session_create") == 0  ? fake.create
                 : strcmp(script->name, "session_check") == 0 ? fake.check
                                                              : fake.end;
    return fake.result;
}

enum err redis_do(struct scope *sc, const char *key, struct redis_reply *reply_out, ...)
{
    (void)sc;
    (void)key;
    *reply_out = fake.listed;
    if (fake.mono_us > 0) {
        fake.mono_us += 300000;
        clock_test_set(NOW_MS, fake.mono_us);
    }
    return fake.result;
}

struct redis_pipeline *redis_pipeline_make(struct scope *sc, const char *key)
{
    (void)key;
    fake.n_added = 0;
    return arena_alloc(sc->arena, 1);
}

void redis_pipeline_add(struct redis_pipeline *p, ...)
{
    (void)p;
    fake.n_added++;
}

enum err redis_pipeline_run(struct scope *sc, const struct redis_pipeline *p,
                            struct redis_reply **replies_out)
{
    (void)sc;
    (void)p;
    fake.n_runs++;
    *replies_out = fake.rows;
    return fake.n_added <= ARRAY_LEN(fake.rows) ? OK : ERR_INTERNAL;
}

enum err redis_call(struct scope *sc, const char *key, const struct redis_args *args,
                    struct redis_reply *reply_out)
{
    (void)args;
    return redis_do(sc, key, reply_out, NULL);
}

static int group_setup(void **state)
{
    (void)state;
    crypto_open();
    return config_load(stderr) ? 0 : -1;
}

static int setup(void **state)
{
    static struct scope scope;

    clock_test_set(NOW_MS, 0);
    scope_init(&scope, arena_open(1 << 20), 1000);
    memset(&fake, 0, sizeof(fake));
    fake.admitted = 1;
    fake.create = fake.listed = (struct redis_reply){.kind = REDIS_LIST};
    *state = &scope;
    return 0;
}

static int teardown(void **state)
{
    struct scope *sc = *state;

    clock_test_set(-1, -1);
    arena_close(&sc->arena);
    return 0;
}

static struct id user_id(void)
{
    struct id id;

    assert_true(id_parse(USER, strlen(USER), &id));
    return id;
}

/* A token of a user id and a secret of one repeated byte. */
static void make_token(struct id user, uint8_t secret, char token[SESSION_TOKEN_SIZE])
{
    uint8_t bytes[48];

    memset(bytes, secret, sizeof(bytes));
    memcpy(bytes, user.bytes, 16);
    base64url_encode(bytes, sizeof(bytes), token);
}

static void test_a_token_names_its_user_and_hides_its_secret(void **state)
{
    char token[SESSION_TOKEN_SIZE], text[ID_TEXT_SIZE], hex[SHA256_HEX_SIZE];
    struct session_claim claim;
    uint8_t secret[32];

    (void)state;
    make_token(user_id(), 0xa5, token);
    assert_int_equal(strlen(token), SESSION_TOKEN_SIZE - 1);
    assert_true(session_claim(token, &claim));
    assert_true(id_equal(claim.user, user_id()));
    memset(secret, 0xa5, sizeof(secret));
    crypto_sha256_hex(secret, sizeof(secret), hex);
    assert_string_equal(claim.hash_hex, hex);
    id_format(claim.session, text);
    assert_true(id_parse(text, strlen(text), &claim.session));
    assert_int_equal(id_place(claim.session).hash, id_place(user_id()).hash);
    assert_null(strstr(text, "a5a5a5a5"));
}

static void test_other_secrets_are_other_sessions(void **state)
{
    struct session_claim a, b;
    char token[SESSION_TOKEN_SIZE];

    (void)state;
    make_token(user_id(), 1, token);
    assert_true(session_claim(token, &a));
    make_token(user_id(), 2, token);
    assert_true(session_claim(token, &b));
    assert_false(id_equal(a.session, b.session));
    assert_string_not_equal(a.hash_hex, b.hash_hex);
}

static void test_what_is_no_token_claims_nothing(void **state)
{
    static const char *const bad[] = {
        "", "x", "null", "AAAA",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"};
    char token[2 * SESSION_TOKEN_SIZE];
    struct session_claim claim;
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(bad); i++) { /* the last: a user id of zeros is none */
        assert_false(session_claim(bad[i], &claim));
    }
    make_token(user_id(), 1, token);
    for (i = 0; i < SESSION_TOKEN_SIZE - 1; i++) {
        char keep = token[i];

        token[i] = '%';
        assert_false(session_claim(token, &claim));
        token[i] = '\0';
        assert_false(session_claim(token, &claim));
        token[i] = keep;
    }
    token[SESSION_TOKEN_SIZE - 1] = 'A';
    token[SESSION_TOKEN_SIZE] = '\0';
    assert_false(session_claim(token, &claim));
    make_token(id_make_owned((struct place){1}), 1, token); /* no user's id */
    assert_false(session_claim(token, &claim));
}

static enum err create(struct scope *sc, char *token, struct id *session, int64_t *expires_at_ms)
{
    return session_create(sc, user_id(), "artist", "10.0.0.1", "agent", token, session,
                          expires_at_ms);
}

static void test_a_created_session_is_claimed_by_its_token(void **state)
{
    struct scope *sc = *state;
    char token[SESSION_TOKEN_SIZE];
    struct session_claim claim;
    int64_t expires_at_ms;
    struct id session;

    assert_int_equal(create(sc, token, &session, &expires_at_ms), OK);
    assert_int_equal(expires_at_ms, NOW_MS + config()->session_ttl * 1000);
    assert_true(session_claim(token, &claim));
    assert_true(id_equal(claim.user, user_id()));
    assert_true(id_equal(claim.session, session));
    assert_string_equal(fake.keys.text[0], arena_printf(sc->arena, "session:{" USER "}:%s",
                                                        id_text(sc->arena, session)));
    assert_string_equal(fake.args.text[0], claim.hash_hex);
}

static void test_the_secret_never_goes_to_redis(void **state)
{
    char token[SESSION_TOKEN_SIZE];
    int64_t expires_at_ms;
    struct id session;
    size_t i;

    assert_int_equal(create(*state, token, &session, &expires_at_ms), OK);
    for (i = 0; i < fake.args.n; i++) {
        assert_null(strstr(fake.args.text[i], token + 24)); /* behind the user id */
    }
    for (i = 0; i < fake.keys.n; i++) {
        assert_null(strstr(fake.keys.text[i], token + 24));
        assert_non_null(strstr(fake.keys.text[i], "{" USER "}"));
    }
}

static void test_a_huge_user_agent_is_cut(void **state)
{
    char token[SESSION_TOKEN_SIZE], agent[5000];
    int64_t expires_at_ms;
    struct id session;

    memset(agent, 'x', sizeof(agent) - 1);
    agent[sizeof(agent) - 1] = '\0';
    assert_int_equal(session_create(*state, user_id(), "artist", "10.0.0.1", agent, token, &session,
                                    &expires_at_ms),
                     OK);
    assert_int_equal(fake.args.len[4], SESSION_AGENT_MAX);
}

static void test_a_full_fleet_takes_no_further_session(void **state)
{
    struct scope *sc = *state;
    char token[SESSION_TOKEN_SIZE];
    int64_t expires_at_ms;
    struct id session;

    fake.admitted = 0;
    assert_int_equal(create(sc, token, &session, &expires_at_ms), ERR_SESSION_CAPACITY);
    assert_true(sc->retry_after_s > 0);
    assert_int_equal(fake.n_evals, 1);
}

static void test_a_lost_redis_makes_no_session(void **state)
{
    char token[SESSION_TOKEN_SIZE];
    int64_t expires_at_ms;
    struct id session;

    fake.result = ERR_DEPENDENCY_UNAVAILABLE;
    assert_int_equal(create(*state, token, &session, &expires_at_ms), ERR_DEPENDENCY_UNAVAILABLE);
    assert_int_equal(session_end(*state, user_id(), session), ERR_DEPENDENCY_UNAVAILABLE);
    assert_int_equal(session_end_all(*state, user_id(), session), ERR_DEPENDENCY_UNAVAILABLE);
}

static enum err check(struct scope *sc, struct session *session, struct rate_verdict *verdict)
{
    struct session_claim claim;
    char token[SESSION_TOKEN_SIZE];

    make_token(user_id(), 7, token);
    assert_true(session_claim(token, &claim));
    return session_check(sc, &claim, &policy, session, verdict);
}

static void test_a_check_reads_role_and_verdict(void **state)
{
    struct redis_reply items[9] = {{.kind = REDIS_INT, .integer = 1},
                                   {.kind = REDIS_INT, .integer = 9},
                                   {.kind = REDIS_INT, .integer = 10},
                                   {.kind = REDIS_INT, .integer = 0},
                                   {.kind = REDIS_TEXT, .text = "admin", .len = 5},
                                   {.kind = REDIS_INT, .integer = 0},
                                   {.kind = REDIS_TEXT, .text = "77", .len = 2},
                                   {.kind = REDIS_TEXT, .text = "4096", .len = 4},
                                   {.kind = REDIS_TEXT, .text = "3", .len = 1}};
    struct rate_verdict verdict;
    struct session session;

    fake.check = (struct redis_reply){.kind = REDIS_LIST, .items = items, .n_items = 9};
    assert_int_equal(check(*state, &session, &verdict), OK);
    assert_string_equal(session.role, "admin");
    assert_true(session.has_written);
    assert_int_equal(session.written.system_id, 77);
    assert_int_equal(session.written.lsn, 4096);
    assert_int_equal(session.written.epoch, 3);
    assert_int_equal(verdict.remaining, 9);
    assert_string_equal(fake.keys.text[1], "rate:{" USER "}:default");
    assert_int_equal(fake.n_evals, 1); /* one round trip */
}

static void test_a_session_that_is_not_there_is_unauthenticated(void **state)
{
    struct rate_verdict verdict;
    struct session session;

    fake.check = (struct redis_reply){.kind = REDIS_INT, .integer = 0};
    assert_int_equal(check(*state, &session, &verdict), ERR_UNAUTHENTICATED);
    fake.check = (struct redis_reply){.kind = REDIS_NIL};
    assert_int_equal(check(*state, &session, &verdict), ERR_UNAUTHENTICATED);
}

static void test_an_odd_answer_signs_nobody_in(void **state)
{
    struct redis_reply items[9] = {{.kind = REDIS_INT},
                                   {.kind = REDIS_INT},
                                   {.kind = REDIS_NIL},
                                   {.kind = REDIS_INT},
                                   {.kind = REDIS_TEXT, .text = "artist"},
                                   {.kind = REDIS_INT}};
    struct rate_verdict verdict;
    struct session session;

    fake.check = (struct redis_reply){.kind = REDIS_LIST, .items = items, .n_items = 9};
    assert_int_equal(check(*state, &session, &verdict), ERR_INTERNAL);
    fake.check.n_items = 4;
    assert_int_equal(check(*state, &session, &verdict), ERR_INTERNAL);
    fake.check.n_items = 0;
    assert_int_equal(check(*state, &session, &verdict), ERR_INTERNAL);
}

static void test_ending_what_is_not_there_is_not_found(void **state)
{
    fake.end = (struct redis_reply){.kind = REDIS_INT, .integer = 0};
    assert_int_equal(session_end(*state, user_id(), user_id()), ERR_NOT_FOUND);
    fake.end.integer = 1;
    assert_int_equal(session_end(*state, user_id(), user_id()), OK);
}

static void test_ending_all_leaves_the_one_to_keep(void **state)
{
    struct redis_reply item = {.kind = REDIS_TEXT, .text = USER, .len = strlen(USER)};

    fake.listed = (struct redis_reply){.kind = REDIS_LIST, .items = &item, .n_items = 1};
    assert_int_equal(session_end_all(*state, user_id(), user_id()), OK);
    assert_int_equal(fake.n_evals, 0);
}

static void test_ending_all_ends_with_the_time_where_sessions_keep_coming(void **state)
{
    struct redis_reply item = {.kind = REDIS_TEXT, .text = USER, .len = strlen(USER)};

    fake.listed = (struct redis_reply){.kind = REDIS_LIST, .items = &item, .n_items = 1};
    fake.end = (struct redis_reply){.kind = REDIS_INT, .integer = 1};
    fake.mono_us = 1;
    assert_int_equal(session_end_all(*state, user_id(), (struct id){{0}}), ERR_TIMED_OUT);
    assert_in_range(fake.n_evals, 1, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_token_names_its_user_and_hides_its_secret, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_other_secrets_are_other_sessions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_token_claims_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_created_session_is_claimed_by_its_token, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_secret_never_goes_to_redis, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_huge_user_agent_is_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_full_fleet_takes_no_further_session, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_lost_redis_makes_no_session, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_check_reads_role_and_verdict, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_session_that_is_not_there_is_unauthenticated, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_an_odd_answer_signs_nobody_in, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ending_what_is_not_there_is_not_found, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_ending_all_leaves_the_one_to_keep, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_ending_all_ends_with_the_time_where_sessions_keep_coming, setup, teardown),
    };

    return cmocka_run_group_tests_name("session", tests, group_setup, NULL);
}
