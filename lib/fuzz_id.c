/* Fuzzing of ids, times, traces and tokens: one text for one value, and never a byte too far. */
#include <stdio.h>

#include "lib/clock.h"
#include "lib/crypto.h"
#include "lib/session.h"
#include "lib/str.h"

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
    return 0;
}

static void check_id(const char *text, size_t len)
{
    char again[ID_TEXT_SIZE];
    struct id id;

    if (id_parse(text, len, &id)) {
        id_format(id, again);
        demand(len == strlen(again) && memcmp(again, text, len) == 0, "an id", again);
        (void)id_place(id);
    }
}

static void check_time(const char *text)
{
    const int64_t last_ms = 253402300799999;
    char out[CLOCK_TEXT_SIZE];
    int64_t ms, again;

    if (!clock_parse(text, &ms)) {
        return;
    }
    clock_format(ms, out);
    demand(clock_parse(out, &again), "a time is read back", out);
    demand(ms < 0 || ms > last_ms || again == ms, "as the same", text);
}

static void check_trace(struct arena *a, const char *text)
{
    struct scope sc;

    scope_init(&sc, a, 1000);
    if (scope_trace_join(&sc, text)) {
        demand(strlen(sc.traceparent) == TRACEPARENT_SIZE - 1, "a trace", sc.traceparent);
        demand(scope_trace_join(&sc, sc.traceparent), "is joined again", sc.traceparent);
    }
}

static void check_token(const char *text)
{
    struct session_claim claim;

    if (session_claim(text, &claim)) {
        demand(strlen(text) == SESSION_TOKEN_SIZE - 1, "a token", text);
        demand(id_place(claim.session).hash == id_place(claim.user).hash, "places agree", text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena *arena = arena_open(1 << 16);
    const char *text = arena_strndup(arena, (const char *)data, size);
    int64_t number;

    check_id((const char *)data, size);
    check_time(text);
    check_trace(arena, text);
    check_token(text);
    (void)i64_parse(text, &number);
    arena_close(&arena);
    return 0;
}
