/* Everything is at a fixed place behind what the first header says. */
#include "workers/media/lame.h"

#include <stdbool.h>
#include <string.h>

enum {
    ID3_HEADER = 10,
    HEADER = 4,
    TOC_BYTES = 100,
    HAS_FRAMES = 1, /* flags of the Xing frame */
    HAS_SIZE = 2,
    HAS_TOC = 4,
    HAS_QUALITY = 8,
    LAME_DELAYS = 21,    /* from the encoder's name to delay and padding, 12 bits each */
    DECODER_DELAY = 529, /* of every MP3 decoder, which they skip */
    SAMPLES_MPEG1 = 1152,
    SAMPLES_MPEG2 = 576
};

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

int64_t lame_id3_bytes(const uint8_t *data, size_t len)
{
    enum { FOOTER = 0x10 };

    if (len < ID3_HEADER || memcmp(data, "ID3", 3) != 0) {
        return 0;
    }
    return ID3_HEADER + ((data[5] & FOOTER) != 0 ? ID3_HEADER : 0) +
           ((int64_t)(data[6] & 0x7f) << 21 | (int64_t)(data[7] & 0x7f) << 14 |
            (int64_t)(data[8] & 0x7f) << 7 | (data[9] & 0x7f));
}

/* Layer III of MPEG 1, 2 or 2.5? */
static bool is_header(const uint8_t *h)
{
    return h[0] == 0xff && (h[1] & 0xe0) == 0xe0 && (h[1] >> 3 & 3) != 1 && (h[1] >> 1 & 3) == 1 &&
           (h[2] >> 4) != 15 && (h[2] >> 2 & 3) != 3;
}

static bool is_known_encoder(const uint8_t *name)
{
    return memcmp(name, "LAME", 4) == 0 || memcmp(name, "Lavf", 4) == 0 ||
           memcmp(name, "Lavc", 4) == 0;
}

int64_t lame_samples(const uint8_t *frame, size_t len)
{
    bool mpeg1, mono;
    size_t at;
    uint32_t flags;
    int64_t frames, delay, padding, samples;

    if (len < LAME_BYTES || !is_header(frame)) {
        return -1;
    }
    mpeg1 = (frame[1] >> 3 & 3) == 3;
    mono = frame[3] >> 6 == 3;
    at = HEADER + (mpeg1 ? (mono ? 17 : 32) : (mono ? 9 : 17)); /* behind the side information */
    if (memcmp(frame + at, "Xing", 4) != 0 && memcmp(frame + at, "Info", 4) != 0) {
        return -1;
    }
    flags = be32(frame + at + 4);
    frames = be32(frame + at + 8);
    at += 12 + ((flags & HAS_SIZE) != 0 ? 4 : 0) + ((flags & HAS_TOC) != 0 ? TOC_BYTES : 0) +
          ((flags & HAS_QUALITY) != 0 ? 4 : 0);
    if ((flags & HAS_FRAMES) == 0 || frames == 0 || at + LAME_DELAYS + 3 > len ||
        !is_known_encoder(frame + at)) {
        return -1;
    }
    delay = frame[at + LAME_DELAYS] << 4 | frame[at + LAME_DELAYS + 1] >> 4;
    padding = (frame[at + LAME_DELAYS + 1] & 15) << 8 | frame[at + LAME_DELAYS + 2];
    samples = frames * (mpeg1 ? SAMPLES_MPEG1 : SAMPLES_MPEG2) - delay - DECODER_DELAY -
              (padding > DECODER_DELAY ? padding - DECODER_DELAY : 0);
    return samples > 0 ? samples : -1;
}
