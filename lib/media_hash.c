/* The hash stands at a place in the source; a read that covers the place moves it on. */
#include "lib/media_hash.h"

#include <stdlib.h>

#include "lib/str.h"

struct media_hash {
    const struct media_source *of;
    struct crypto_sha256_stream stream;
    int64_t at; /* everything before is hashed */
    unsigned char *copy;
    size_t copy_size;
};

static void drop_copy(void *p)
{
    struct media_hash *h = p;

    free(h->copy);
}

/* The copy is as large as the largest read: a block of the child's window. */
static enum err make_room(struct media_hash *h, struct scope *sc, size_t len)
{
    unsigned char *grown = len <= h->copy_size ? h->copy : realloc(h->copy, len);

    if (grown == NULL) {
        return scope_fail(sc, ERR_OVERLOADED, "media: no memory to hash with");
    }
    h->copy_size = len <= h->copy_size ? h->copy_size : len;
    h->copy = grown;
    return OK;
}

static enum err read_and_hash(void *context, struct scope *sc, int64_t offset, size_t len,
                              void *buffer, size_t *got_out)
{
    struct media_hash *h = context;
    int64_t end;

    TRY(make_room(h, sc, len));
    TRY(h->of->read(h->of->context, sc, offset, len, h->copy, got_out));
    end = offset + (int64_t)*got_out;
    if (offset <= h->at && h->at < end) {
        crypto_sha256_add(&h->stream, h->copy + (h->at - offset), (size_t)(end - h->at));
        h->at = end;
    }
    if (buffer != NULL) {
        memcpy(buffer, h->copy, *got_out);
    }
    return OK;
}

struct media_hash *media_hash_make(struct scope *sc, const struct media_source *of,
                                   struct media_source *source_out)
{
    struct media_hash *h = arena_new(sc->arena, struct media_hash);

    h->of = of;
    crypto_sha256_begin(&h->stream);
    arena_defer(sc->arena, drop_copy, h);
    *source_out = (struct media_source){.read = read_and_hash, .context = h, .size = of->size};
    return h;
}

enum err media_hash_end(struct media_hash *h, struct scope *sc, const struct media_watch *watch,
                        char hex_out[SHA256_HEX_SIZE])
{
    uint8_t hash[SHA256_SIZE];
    size_t got;

    while (h->at < h->of->size) {
        size_t len = h->of->size - h->at < MEDIA_IN_BLOCK ? (size_t)(h->of->size - h->at)
                                                          : (size_t)MEDIA_IN_BLOCK;

        if (watch != NULL && !watch->progress(watch->context, MEDIA_HASH_PERCENT)) {
            return scope_fail(sc, ERR_CONFLICT, "media: told to stop");
        }
        if (scope_left_ms(sc, 1) <= 0) {
            return scope_fail(sc, ERR_TIMED_OUT, "media: out of time while hashing");
        }
        TRY(read_and_hash(h, sc, h->at, len, NULL, &got));
        if (got == 0) {
            return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "media: the source ends at %lld",
                              (long long)h->at);
        }
    }
    crypto_sha256_end(&h->stream, hash);
    hex_encode(hash, sizeof(hash), hex_out);
    return OK;
}
