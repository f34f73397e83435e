/* A source as audio: demuxed, decoded, bounded. The only door to libavformat's and libavcodec's
 * reading side.
 *
 * Functions return MEDIA_OK or a fault; the number that belongs to a fault (a sample rate …) is
 * input_value(). What a file claims is checked before it is believed, and the length again while
 * decoding. */
#ifndef WORKERS_MEDIA_INPUT_H
#define WORKERS_MEDIA_INPUT_H

#include <stdbool.h>
#include <stdint.h>

#include <libavformat/avformat.h>

#include "workers/media/link.h"

enum {
    INPUT_RATE_MIN = 1000,
    INPUT_RATE_MAX = 768000,
    INPUT_CHANNELS_MAX = 8,
    INPUT_STREAMS_MAX = 16
};

struct input;

struct input_info {
    const char *container, *codec; /* libav's short names */
    int64_t duration_ms;           /* as far as headers tell; -1 unknown */
    bool duration_exact;           /* false: estimated from the bit rate */
    int64_t samples; /* per channel, without padding, as headers promise exactly; -1 they do not */
    int64_t bit_rate;
    int sample_rate, channels;
    int bit_depth; /* 0 for lossy codecs */
};

/* Read the headers of a source and open its decoder; what the file claims is within bounds
 * afterwards. The caller owns *input_out, also after a fault, and ends it with input_close(). */
enum media_fault input_open(struct link *l, uint32_t source, int64_t size, int64_t duration_max_s,
                            struct input **input_out);

/* Free everything and clear *input. */
void input_close(struct input **input);

/* What is known of it. */
const struct input_info *input_info(const struct input *in);

/* Next decoded frame, always in the format, rate and layout of the first. NULL in *frame_out is
 * the end. Damaged packets are skipped; MEDIA_FAULT_CORRUPT at the end where nothing could be
 * decoded. The frame is good until the next call. */
enum media_fault input_next(struct input *in, const AVFrame **frame_out);

/* Count the duration by reading all packets, then go back to the start. For files without a
 * length, small enough to be read whole. */
enum media_fault input_scan_duration(struct input *in);

/* Samples per channel that input_next() has given. */
int64_t input_samples(const struct input *in);

/* How far it is, from 0 to 99, by time where the length is known, else by bytes. */
int input_percent(const struct input *in);

/* Number that belongs to the last fault. */
int64_t input_value(const struct input *in);

/* The demuxer, for tags and pictures; the chosen stream. */
AVFormatContext *input_format(const struct input *in);
AVStream *input_stream(const struct input *in);

/* Format of all frames, known after the first. */
const AVFrame *input_first(const struct input *in);

#endif
