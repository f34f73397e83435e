/* Memory of one request or one job: allocated piece by piece, freed at once.
 *
 * An arena belongs to one thread at a time. Pieces live until arena_reset() or arena_close(); there
 * is no free for a single piece. What is not memory (a descriptor, a library's object) registers a
 * clean-up, run in reverse order. Nothing here blocks or returns NULL. */
#ifndef LIB_ARENA_H
#define LIB_ARENA_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include "lib/base.h"

struct arena;

/* A new arena; the caller owns it and ends it with arena_close(). Up to budget_bytes is what a use
 * is expected to need: past it the arena still serves but arena_over_budget() stays true. At 16
 * times the budget the process aborts: body limits and query limits keep real input far below. */
struct arena *arena_open(size_t budget_bytes);

/* Run the clean-ups, free everything and clear *arena. NULL inside is fine. */
void arena_close(struct arena **arena);

/* Run the clean-ups and take all pieces back; one block is kept for the next use. */
void arena_reset(struct arena *arena);

/* size bytes, zeroed, aligned for any type. Never NULL; size 0 gives a valid pointer. */
void *arena_alloc(struct arena *arena, size_t size) __attribute__((returns_nonnull));

/* A copy of len bytes with a NUL behind it. */
char *arena_strndup(struct arena *arena, const char *text, size_t len);

/* A copy of the text; NULL stays NULL. */
char *arena_strdup(struct arena *arena, const char *text);

/* Formatted text in the arena. */
char *arena_printf(struct arena *arena, const char *format, ...) PRINTF_LIKE(2, 3);

/* The same for a va_list. */
char *arena_vprintf(struct arena *arena, const char *format, va_list args);

/* Call fn(p) when the arena is reset or closed; the latest registered runs first. */
void arena_defer(struct arena *arena, void (*fn)(void *p), void *p);

/* Bytes given out since the last reset. */
size_t arena_used(const struct arena *arena);

/* Bytes that may still be given out before the hard cap: the bound for what others send us. */
size_t arena_room(const struct arena *arena);

/* Has the current use passed the budget? Sticky until the reset. */
bool arena_over_budget(const struct arena *arena);

/* An object of the type, zeroed. */
#define arena_new(arena, type) ((type *)arena_alloc((arena), sizeof(type)))

/* n objects of the type, zeroed. n must come from a bounded source. */
#define arena_array(arena, type, n) ((type *)arena_alloc((arena), sizeof(type) * (n)))

#endif
