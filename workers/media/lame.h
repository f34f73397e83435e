/* How long an MP3 really is: the Xing frame with LAME's extension, which stands in its first frame.
 * Pure; the format is Gabriel Bouvigne's "Mp3 info tag specification", read as libavformat does. */
#ifndef WORKERS_MEDIA_LAME_H
#define WORKERS_MEDIA_LAME_H

#include <stddef.h>
#include <stdint.h>

enum {
    LAME_BYTES = 192 /* of the first frame: enough for all that is looked at */
};

/* Bytes of the ID3v2 tag that starts here, 0 where there is none. Looks at the first 10 bytes. */
int64_t lame_id3_bytes(const uint8_t *data, size_t len);

/* Samples per channel without the encoder's delay and padding, as decoding gives them; -1 where
 * the frame does not tell. */
int64_t lame_samples(const uint8_t *frame, size_t len);

#endif
