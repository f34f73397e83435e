/* SHA-256 of a whole source, mostly in passing: a source that hashes what a child is given.
 *
 * A child reads nearly all of a file, nearly in order. What it reads out of order or not at all is
 * read once more at the end. The hash is taken from private memory, before the child can touch the
 * bytes. */
#ifndef LIB_MEDIA_HASH_H
#define LIB_MEDIA_HASH_H

#include "lib/media.h"

enum { MEDIA_HASH_PERCENT = 99 }; /* told while the rest is read */

struct media_hash;

/* Wrap a source, which must outlive the hash; both live in the scope's arena. *source_out is for
 * one media_run(). */
struct media_hash *media_hash_make(struct scope *sc, const struct media_source *of,
                                   struct media_source *source_out);

/* Read what is missing and finish; once. watch (NULL: none) is asked between blocks. Blocks for the
 * source, with its errors; ERR_CONFLICT where the watch says stop, ERR_TIMED_OUT past the scope's
 * deadline, ERR_DEPENDENCY_UNAVAILABLE where the source ends before its size. */
MUST_USE enum err media_hash_end(struct media_hash *h, struct scope *sc,
                                 const struct media_watch *watch, char hex_out[SHA256_HEX_SIZE]);

#endif
