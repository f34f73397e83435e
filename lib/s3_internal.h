/* What the files of the S3 client share. */
#ifndef LIB_S3_INTERNAL_H
#define LIB_S3_INTERNAL_H

#include "lib/arena.h"
#include "lib/config.h"
#include "lib/sigv4.h"

/* Who signs; points into cfg. */
struct sigv4_key s3_signing_key(const struct config *cfg);

/* "/bucket/key" (path style), in the arena; key NULL: the bucket. */
const char *s3_object_path(struct arena *a, const struct config *cfg, const char *key);

#endif
