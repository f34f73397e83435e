/* Tags and cover art of a source, for an output. Texts that are no UTF-8 or too long, and what
 * tells of the source's own bytes, are left out. The picture is copied, never decoded. */
#ifndef WORKERS_MEDIA_TAGS_H
#define WORKERS_MEDIA_TAGS_H

#include <stdbool.h>
#include <stdint.h>

#include <libavformat/avformat.h>

#include "workers/media/cover.h"
#include "workers/media/link.h"

/* A picture of the source's, good as long as the source is open. */
struct tags_cover {
    const AVPacket *picture; /* NULL: none */
    enum cover_kind kind;
    int width, height;
};

/* Copy the tags of a source. keep_levels false: what they say of its loudness (ReplayGain, R128)
 * does not hold for the output. Returns about how many bytes they are. */
size_t tags_copy(AVDictionary **to, const AVFormatContext *from, bool keep_levels);

/* The source's first good picture of up to bytes_max. */
struct tags_cover tags_cover(const AVFormatContext *from, int bytes_max);

/* Add the picture to an output as a stream of its own, where the muxer takes one. NULL: no memory.
 */
AVStream *tags_cover_stream(AVFormatContext *to, const struct tags_cover *cover);

/* Add the picture as a tag, as Ogg has it: METADATA_BLOCK_PICTURE, a FLAC picture block (RFC 9639,
 * 8.8) in Base64. */
enum media_fault tags_cover_comment(AVDictionary **to, const struct tags_cover *cover);

/* Tags and picture as one ID3v2.3 tag (id3.org). The caller frees *data_out by av_free(). */
enum media_fault tags_id3(const AVDictionary *tags, const struct tags_cover *cover,
                          uint8_t **data_out, int *len_out);

#endif
