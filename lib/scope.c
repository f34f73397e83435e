/* A scope carries; it decides nothing. Only the leases need an end, and pg.c ends them. */
#include "lib/scope.h"

#include <string.h>

#include "lib/clock.h"
#include "lib/crypto.h"
#include "lib/pg.h"
#include "lib/str.h"

void scope_init(struct scope *sc, struct arena *arena, int64_t timeout_ms)
{
    *sc = (struct scope){
        .arena = arena, .deadline_mono_ms = clock_mono_ms() + timeout_ms, .shard = -1};
}

void scope_done(struct scope *sc)
{
    if (sc->leases != NULL) {
        pg_release(sc);
    }
}

int64_t scope_left_ms(const struct scope *sc, int64_t limit_ms)
{
    int64_t left = sc->deadline_mono_ms - clock_mono_ms();

    return left < 0 ? 0 : left > limit_ms ? limit_ms : left;
}

enum err scope_fail(struct scope *sc, enum err e, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    sc->cause = arena_vprintf(sc->arena, format, args);
    va_end(args);
    return e;
}

enum err scope_refuse(struct scope *sc, enum err e, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    sc->detail = arena_vprintf(sc->arena, format, args);
    va_end(args);
    return e;
}

enum err scope_violation(struct scope *sc, const char *field, const char *code, const char *format,
                         ...)
{
    va_list args;

    if (sc->n_violations < VIOLATIONS_MAX) {
        va_start(args, format);
        sc->violations[sc->n_violations++] = (struct violation){
            .field = field, .code = code, .detail = arena_vprintf(sc->arena, format, args)};
        va_end(args);
    }
    return ERR_VALIDATION_FAILED;
}

void scope_forgive(struct scope *sc)
{
    sc->cause = NULL;
    sc->detail = NULL;
    sc->n_violations = 0;
    sc->retry_after_s = 0;
}

enum { TRACE_HEX = 32, SPAN_HEX = 16, TRACE_BYTES = TRACE_HEX / 2, SPAN_BYTES = SPAN_HEX / 2 };

/* "00-" trace id "-" span id "-" flags; the ids are taken as they are. */
static void set_traceparent(struct scope *sc, const char *trace_id, const char *span_id,
                            const char *flags)
{
    char *p = sc->traceparent;

    memcpy(p, "00-", 3);
    memcpy(p + 3, trace_id, TRACE_HEX);
    p[3 + TRACE_HEX] = '-';
    memcpy(p + 4 + TRACE_HEX, span_id, SPAN_HEX);
    p[4 + TRACE_HEX + SPAN_HEX] = '-';
    memcpy(p + 5 + TRACE_HEX + SPAN_HEX, flags, 3);
}

void scope_trace_new(struct scope *sc)
{
    uint8_t random[TRACE_BYTES + SPAN_BYTES];
    char hex[2 * sizeof(random) + 1];

    crypto_random(random, sizeof(random)); /* one system call for both */
    hex_encode(random, sizeof(random), hex);
    set_traceparent(sc, hex, hex + TRACE_HEX, "01");
    memcpy(sc->request_id, hex, TRACE_HEX);
    sc->request_id[TRACE_HEX] = '\0';
}

static bool is_lower_hex(const char *text, size_t n)
{
    return strspn(text, "0123456789abcdef") >= n;
}

/* n lower-case hex digits, not all zero. */
static bool is_hex_word(const char *text, size_t n)
{
    return is_lower_hex(text, n) && strspn(text, "0") < n;
}

bool scope_trace_join(struct scope *sc, const char *traceparent)
{
    uint8_t span[SPAN_BYTES];
    char span_hex[SPAN_HEX + 1];

    if (strlen(traceparent) != TRACEPARENT_SIZE - 1 || !has_prefix(traceparent, "00-") ||
        traceparent[35] != '-' || traceparent[52] != '-' || !is_hex_word(traceparent + 3, 32) ||
        !is_hex_word(traceparent + 36, 16) || !is_lower_hex(traceparent + 53, 2)) {
        return false;
    }
    crypto_random(span, sizeof(span));
    hex_encode(span, sizeof(span), span_hex);
    set_traceparent(sc, traceparent + 3, span_hex, traceparent + 53);
    return true;
}
