/* An arena that is reset after each URL. */
#include "handlers/signer.h"

enum { URL_BUDGET_BYTES = 32768 };

static void close_arena(void *p)
{
    struct arena *arena = p;

    arena_close(&arena);
}

void signer_init(struct signer *s, struct req *r)
{
    struct arena *arena = arena_open(URL_BUDGET_BYTES);

    arena_defer(req_arena(r), close_arena, arena);
    scope_init(&s->scope, arena, 0); /* signing waits for nothing */
}

void signer_put(struct signer *s, struct strbuf *json, const struct s3_presign *what,
                int64_t *expires_ms_out)
{
    strbuf_json(json, s3_presign_url(&s->scope, what, expires_ms_out));
    arena_reset(s->scope.arena);
}
