/* From decoded frames to the frames of an encoder: sample rate, channels, sample format, frame
 * size. The only user of libswresample beside input.c and track.c. Functions return MEDIA_OK or a
 * fault. */
#ifndef WORKERS_MEDIA_RESAMPLE_H
#define WORKERS_MEDIA_RESAMPLE_H

#include <stdbool.h>

#include <libavutil/frame.h>

#include "lib/media_proto.h"

/* What comes out. */
struct resample_to {
    enum AVSampleFormat format;
    int rate;
    const AVChannelLayout *layout; /* copied */
    int frame_size;                /* samples of each frame but the last */
    bool dither;                   /* triangular; where precision is lost */
};

struct resample;

/* For frames like that one. The caller owns *resample_out, also after a fault, and ends it with
 * resample_close(). */
enum media_fault resample_open(const AVFrame *like, const struct resample_to *to,
                               struct resample **resample_out);

/* Put a frame in, which must last until resample_next() has said that there is no more; NULL is the
 * end. */
void resample_feed(struct resample *r, const AVFrame *frame);

/* Take the next frame that is full, after the end also the last one; *frame_out NULL: none now. It
 * is good, and may be written to, until the next call. */
enum media_fault resample_next(struct resample *r, AVFrame **frame_out);

/* Free everything and clear *resample. */
void resample_close(struct resample **resample);

#endif
