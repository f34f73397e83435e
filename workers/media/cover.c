/* Muxers want to know a picture's size, which libav learns from decoders that are not linked in. */
#include "workers/media/cover.h"

#include <string.h>

static int be16(const uint8_t *p)
{
    return p[0] << 8 | p[1];
}

/* Walk the segments of a JPEG (ITU T.81) to its frame header. */
static bool jpeg_size(const uint8_t *d, size_t len, int *width_out, int *height_out)
{
    size_t at = 2;

    while (at + 9 < len && d[at] == 0xff) {
        int marker = d[at + 1];

        if (marker == 0xff) {
            at++;
        } else if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 &&
                   marker != 0xcc) {
            *height_out = be16(d + at + 5);
            *width_out = be16(d + at + 7);
            return true;
        } else if (marker == 0xda || marker == 0xd9) {
            return false;
        } else {
            at += 2 + (size_t)be16(d + at + 2);
        }
    }
    return false;
}

enum cover_kind cover_look(const uint8_t *data, size_t len, int *width_out, int *height_out)
{
    static const uint8_t png[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    enum cover_kind kind = COVER_NONE;

    *width_out = *height_out = 0;
    if (len > 33 && memcmp(data, png, sizeof(png)) == 0 && memcmp(data + 12, "IHDR", 4) == 0 &&
        be16(data + 16) == 0 && be16(data + 20) == 0) {
        *width_out = be16(data + 18);
        *height_out = be16(data + 22);
        kind = COVER_PNG;
    } else if (len > 12 && data[0] == 0xff && data[1] == 0xd8 &&
               jpeg_size(data, len, width_out, height_out)) {
        kind = COVER_JPEG;
    }
    return *width_out > 0 && *height_out > 0 ? kind : COVER_NONE;
}
