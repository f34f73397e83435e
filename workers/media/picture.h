/* A waveform as a PNG picture. Knows libpng; no libav. */
#ifndef WORKERS_MEDIA_PICTURE_H
#define WORKERS_MEDIA_PICTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "workers/media/peaks.h"

enum { PICTURE_WIDTH_MAX = 8192, PICTURE_HEIGHT_MAX = 2048 };

struct picture {
    int width, height;
    uint8_t background[4], waveform[4]; /* red, green, blue, alpha */
};

/* Called with pieces of the PNG file, in order. */
typedef void picture_write(void *context, const void *data, size_t len);

/* Draw each channel of the outline in a row of its own: the range of each column, over it its
 * loudness (RMS) in a shade towards the background, edges smoothed. Two equal outlines give two
 * equal files. False: no memory. */
bool picture_draw(const struct picture *p, const struct outline *o, picture_write *write,
                  void *context);

#endif
