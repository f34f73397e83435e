/* A chain of blocks; a piece is a bump of the newest one. Clean-ups are a list in the arena
 * itself. */
#include "lib/arena.h"

#include <stdint.h>

enum { ALIGNMENT = 16, FIRST_BLOCK_BYTES = 16384, HARD_CAP_FACTOR = 16 };

struct block {
    struct block *older;
    size_t size; /* of data */
    size_t used;
    _Alignas(ALIGNMENT) unsigned char data[];
};

struct cleanup {
    struct cleanup *older;
    void (*fn)(void *p);
    void *p;
};

struct arena {
    struct block *newest;
    struct cleanup *cleanups;
    size_t budget, used;
    bool over_budget;
};

static _Noreturn void die(const char *why)
{
    fprintf(stderr, "arena: %s\n", why);
    abort();
}

static struct block *block_add(struct arena *arena, size_t size)
{
    struct block *b = malloc(sizeof(*b) + size);

    if (b == NULL) {
        die("out of memory");
    }
    b->older = arena->newest;
    b->size = size;
    b->used = 0;
    arena->newest = b;
    return b;
}

struct arena *arena_open(size_t budget_bytes)
{
    struct arena *arena = calloc(1, sizeof(*arena));

    if (arena == NULL) {
        die("out of memory");
    }
    arena->budget = budget_bytes;
    block_add(arena, FIRST_BLOCK_BYTES);
    return arena;
}

static void run_cleanups(struct arena *arena)
{
    while (arena->cleanups != NULL) {
        struct cleanup *c = arena->cleanups;

        arena->cleanups = c->older; /* first: fn may register another */
        c->fn(c->p);
    }
}

/* Free all blocks newer than the first, which stays. */
static void drop_blocks(struct arena *arena)
{
    while (arena->newest->older != NULL) {
        struct block *b = arena->newest;

        arena->newest = b->older;
        free(b);
    }
}

void arena_reset(struct arena *arena)
{
    run_cleanups(arena);
    drop_blocks(arena);
    arena->newest->used = 0;
    arena->used = 0;
    arena->over_budget = false;
}

void arena_close(struct arena **arena)
{
    if (*arena == NULL) {
        return;
    }
    arena_reset(*arena);
    free((*arena)->newest);
    free(*arena);
    *arena = NULL;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    struct block *b = arena->newest;
    size_t rounded = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *p;

    if (rounded < size || rounded > arena_room(arena)) {
        die("far past the budget: a bound is missing");
    }
    if (rounded > b->size - b->used) {
        size_t next = b->size * 2;

        b = block_add(arena, rounded > next ? rounded : next);
    }
    p = b->data + b->used;
    b->used += rounded;
    arena->used += rounded;
    if (arena->used > arena->budget) {
        arena->over_budget = true;
    }
    return memset(p, 0, size);
}

char *arena_strndup(struct arena *arena, const char *text, size_t len)
{
    char *copy = arena_alloc(arena, len + 1);

    if (len > 0) {
        memcpy(copy, text, len);
    }
    return copy;
}

char *arena_strdup(struct arena *arena, const char *text)
{
    return text == NULL ? NULL : arena_strndup(arena, text, strlen(text));
}

char *arena_vprintf(struct arena *arena, const char *format, va_list args)
{
    char small[256];
    va_list again;
    int len;
    char *text;

    va_copy(again, args);
    len = vsnprintf(small, sizeof(small), format, args);
    if (len < 0) {
        die("bad format");
    }
    if ((size_t)len < sizeof(small)) {
        text = arena_strndup(arena, small, (size_t)len);
    } else {
        text = arena_alloc(arena, (size_t)len + 1);
        vsnprintf(text, (size_t)len + 1, format, again);
    }
    va_end(again);
    return text;
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
    va_list args;
    char *text;

    va_start(args, format);
    text = arena_vprintf(arena, format, args);
    va_end(args);
    return text;
}

void arena_defer(struct arena *arena, void (*fn)(void *p), void *p)
{
    struct cleanup *c = arena_new(arena, struct cleanup);

    *c = (struct cleanup){.older = arena->cleanups, .fn = fn, .p = p};
    arena->cleanups = c;
}

size_t arena_used(const struct arena *arena)
{
    return arena->used;
}

size_t arena_room(const struct arena *arena)
{
    return arena->budget * HARD_CAP_FACTOR - arena->used;
}

bool arena_over_budget(const struct arena *arena)
{
    return arena->over_budget;
}
