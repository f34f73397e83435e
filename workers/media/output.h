/* An encoded file as an output of the link. With m4a.h the only door to libavformat's and
 * libavcodec's writing side.
 *
 * Usage: output_open(), output_frame() for all audio, output_end(). Functions return MEDIA_OK or a
 * fault. */
#ifndef WORKERS_MEDIA_OUTPUT_H
#define WORKERS_MEDIA_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

#include "workers/media/link.h"

struct output;

/* Where a format has its cover art. */
enum picture_place {
    PICTURE_STREAM,     /* the muxer takes it */
    PICTURE_COMMENT,    /* a tag of Ogg */
    PICTURE_ID3_BEFORE, /* an ID3v2 tag, with all other tags, in front */
    PICTURE_ID3_BEHIND  /* the same in a chunk of WAV at its end */
};

/* What a file format is made of. */
struct output_format {
    const char *name; /* of the API */
    const char *muxer;
    const char *encoder; /* NULL: PCM, chosen by bit depth */
    bool lossy;
    enum picture_place picture;
    int rate_max;
    int rate_usual; /* where none is asked for; 0: the input's */
};

/* The row of a format's name, NULL where there is none. */
const struct output_format *output_format_find(const char *name);

struct output_settings {
    const struct output_format *format;
    int sample_rate;             /* supported by the encoder: see output_rate() */
    AVChannelLayout layout;      /* see output_layout() */
    int bit_depth;               /* 16, 24 or 32; lossless formats */
    int64_t bit_rate;            /* 0: none asked for */
    double quality;              /* 0 … 10, negative: none asked for */
    int64_t samples_expected;    /* -1 unknown */
    bool samples_exact;          /* false: an estimate */
    int64_t samples_promised;    /* so many come, unless the input breaks its word; -1 unknown */
    bool level_changed;          /* tags about loudness do not hold any more */
    const AVFormatContext *tags; /* whose tags and picture to take over; may be NULL */
};

/* The encoder that the settings' format and depth ask for. */
const AVCodec *output_encoder(const struct output_format *format, int bit_depth);

/* The rate that an encoder can do which is nearest to the wanted one, preferring not to lose
 * anything. */
int output_rate(const struct output_format *format, const AVCodec *encoder, int wanted);

/* A layout of that many channels that the encoder can do, like the given one where it fits. False:
 * none. */
bool output_layout(const AVCodec *encoder, int channels, const AVChannelLayout *like,
                   AVChannelLayout *layout_out);

/* Begin output number index: encoder, muxer, header. The caller owns *output_out, also after a
 * fault, and ends it with output_close(). MEDIA_FAULT_PARAM where the encoder refuses the
 * settings. */
enum media_fault output_open(struct link *l, uint32_t index, const struct output_settings *settings,
                             struct output **output_out);

/* The encoder's context: format, frame size (0: any). */
const AVCodecContext *output_codec(const struct output *out);

/* Encode a frame (of the encoder's format and size; the last may be shorter) and write what comes
 * out. Its time stamp is set here. */
enum media_fault output_frame(struct output *out, AVFrame *frame);

/* Flush, write the trailer, finish the output. */
enum media_fault output_end(struct output *out);

/* Samples per channel that were encoded. */
int64_t output_samples(const struct output *out);

/* Free everything and clear *out. */
void output_close(struct output **out);

#endif
