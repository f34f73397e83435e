/* Fuzzing of the encodings: what is decoded encodes to an equal text, no byte beyond the text is
 * read, and only well-formed UTF-8 comes out. */
#include <stdio.h>

#include "lib/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "broken: %s\n", what);
        abort();
    }
}

static void check_percent(struct arena *a, const char *text, size_t len, bool plus_is_space)
{
    const char *decoded = percent_decode(a, text, len, plus_is_space);
    const char *again;
    struct strbuf b;

    if (decoded == NULL) {
        return;
    }
    demand(utf8_valid(decoded, strlen(decoded)), "UTF-8 comes out");
    strbuf_init(&b, a, 0);
    percent_encode(&b, decoded, false);
    again = percent_decode(a, b.data, b.len, plus_is_space);
    demand(again != NULL && strcmp(again, decoded) == 0, "encoded and decoded again");
}

static void check_base64url(struct arena *a, const char *text, size_t len)
{
    size_t n = len * 3 / 4;
    uint8_t *bytes = arena_alloc(a, n);
    char *again = arena_alloc(a, base64url_length(n) + 1);

    if (!base64url_decode(text, len, bytes, n)) {
        return;
    }
    base64url_encode(bytes, n, again);
    demand(strlen(again) == len && memcmp(again, text, len) == 0, "one text for one value");
}

/* A text of any bytes becomes a JSON string that reads as that text, or with U+FFFD in it. */
static void check_json(struct scope *sc, const char *text)
{
    const struct json *value;
    struct strbuf b;
    const char *back;

    strbuf_init(&b, sc->arena, 0);
    strbuf_json(&b, text);
    demand(json_parse(sc, b.data, b.len, &value) == OK, "a JSON string is JSON");
    back = json_str(value, NULL);
    demand(!utf8_valid(text, strlen(text)) || strcmp(back, text) == 0, "a text comes back");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena *arena = arena_open(1 << 20);
    const char *text = (const char *)data;
    struct scope sc;

    scope_init(&sc, arena, 1000);
    check_percent(arena, text, size, true);
    check_percent(arena, text, size, false);
    check_base64url(arena, text, size);
    check_json(&sc, arena_strndup(arena, text, size));
    arena_close(&arena);
    return 0;
}
