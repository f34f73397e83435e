/* Cover art: copied, never decoded. Pure look at a picture's header. */
#ifndef WORKERS_MEDIA_COVER_H
#define WORKERS_MEDIA_COVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cover_kind { COVER_NONE, COVER_PNG, COVER_JPEG };

/* What the bytes are by their own header, and the picture's size. COVER_NONE where they are
 * neither, or claim no size. */
enum cover_kind cover_look(const uint8_t *data, size_t len, int *width_out, int *height_out);

#endif
