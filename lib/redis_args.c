/* Arguments of a command: apart from who sends it, so that tests replace only that. */
#include "lib/redis.h"
#include "lib/str.h"

void redis_arg_bytes(struct redis_args *args, const void *bytes, size_t len)
{
    if (args->n >= REDIS_ARGS_MAX) {
        abort(); /* our bug: the number of arguments never depends on input */
    }
    args->text[args->n] = bytes;
    args->len[args->n++] = len;
}

void redis_arg(struct redis_args *args, const char *text)
{
    redis_arg_bytes(args, text, strlen(text));
}

void redis_arg_i64(struct scope *sc, struct redis_args *args, int64_t value)
{
    redis_arg(args, arena_printf(sc->arena, "%lld", (long long)value));
}
