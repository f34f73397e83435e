/* Fuzzing of bodies: whatever comes is refused, or reads as JSON, is written as the same JSON, and
 * fills a shape that is written as JSON again. */
#include <stdio.h>

#include "lib/shape.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct body {
    struct id id;
    const char *text;
    const char *word;
    int64_t number;
    double real;
    bool truth;
    int64_t at;
    const char *json;
    const struct json *any;
};

static const char *const words[] = {"mp3", "wav", NULL};
static const struct field fields[] = {
    F_ID(body, id, "id", F_OPTIONAL),
    F_STR(body, text, "text", 1, 20, F_OPTIONAL | F_TRIM),
    F_WORD(body, word, "word", words, F_OPTIONAL),
    F_I64(body, number, "number", -5, 1000000, F_OPTIONAL),
    F_F64(body, real, "real", -60, 12, F_OPTIONAL),
    F_BOOL(body, truth, "truth", F_OPTIONAL),
    F_TIME(body, at, "at", F_OPTIONAL),
    F_JSON(body, json, "json", F_OPTIONAL),
    F_ANY(body, any, "any", F_OPTIONAL),
};
static const struct shape shape_body = SHAPE(body, fields);

static void demand(bool holds, const char *what, const char *text)
{
    if (!holds) {
        fprintf(stderr, "broken: %s: %s\n", what, text);
        abort();
    }
}

static const char *written(struct scope *sc, const struct json *value)
{
    struct strbuf b;

    strbuf_init(&b, sc->arena, 64);
    json_write(&b, value);
    return b.data;
}

static void check(struct scope *sc, const struct json *value)
{
    const char *once = written(sc, value);
    const struct json *again;
    struct strbuf out;
    struct body body;

    demand(json_parse(sc, once, strlen(once), &again) == OK, "what is written is read", once);
    demand(strcmp(once, written(sc, again)) == 0, "and written as the same", once);
    if (shape_read(sc, &shape_body, value, "", &body) != OK) {
        demand(sc->n_violations > 0, "a refusal has a reason", once);
        return;
    }
    strbuf_init(&out, sc->arena, 64);
    shape_write(&out, &shape_body, &body);
    demand(json_parse(sc, out.data, out.len, &again) == OK, "a shape is written as JSON", out.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena *arena = arena_open(1 << 20);
    const struct json *value;
    struct scope sc;

    scope_init(&sc, arena, 1000);
    if (json_parse(&sc, (const char *)data, size, &value) == OK) {
        check(&sc, value);
    } else {
        demand(sc.detail != NULL, "a refusal tells why", "");
    }
    arena_close(&arena);
    return 0;
}
