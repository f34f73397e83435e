/* Which kinds of audio file there are: one table from names of types to content types, file name
 * extensions, and what a probe finds in such a file. Pure; nothing here blocks. */
#ifndef HANDLERS_AUDIO_TYPE_H
#define HANDLERS_AUDIO_TYPE_H

#include <stdbool.h>

#include "lib/arena.h"
#include "lib/media.h"

enum { AUDIO_CONTENT_TYPES_MAX = 8, AUDIO_CODECS_MAX = 6 };

struct audio_type {
    const char *name; /* as ALLOWED_FILE_TYPES has it; also the extension of keys */
    const char *content_types[AUDIO_CONTENT_TYPES_MAX]; /* NULL behind the last */
    const char *container;                              /* as media_probe() names it */
    const char *codecs[AUDIO_CODECS_MAX]; /* NULL behind the last; "pcm_*" is any that begins so */
};

/* The type that a content type names ("Audio/MPEG; x=y" is audio/mpeg), NULL for an unknown one.
 * *canonical_out is the content type as our table spells it. Static. */
const struct audio_type *audio_type_declared(struct arena *a, const char *content_type,
                                             const char **canonical_out);

/* Does what the probe found belong to the type? */
bool audio_type_fits(const struct audio_type *type, const struct media_probe *probe);

/* Is the type named in the comma list (ALLOWED_FILE_TYPES)? */
bool audio_type_in(const struct audio_type *type, const char *list);

/* A name to save a file under: the label, with the extension that fits its key where it has
 * another. */
const char *audio_download_name(struct arena *a, const char *label, const char *key);

#endif
