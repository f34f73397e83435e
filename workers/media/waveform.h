/* Peaks at all asked zooms and a picture, from frames as they are decoded; the parameters are the
 * operation's own (see docs/internals/media.md). Functions return MEDIA_OK or a fault. */
#ifndef WORKERS_MEDIA_WAVEFORM_H
#define WORKERS_MEDIA_WAVEFORM_H

#include "workers/media/input.h"
#include "workers/media/op.h"

struct waveform;

/* Read what is asked for. The caller owns *waveform_out, also after a fault, and ends it with
 * waveform_close(). */
enum media_fault waveform_open(struct op *op, struct waveform **waveform_out);

/* Add a frame of the input. MEDIA_FAULT_RESULT_SIZE where the peaks take too much memory. */
enum media_fault waveform_add(struct waveform *w, const struct input *in, const AVFrame *frame);

/* After the last frame, of at least one: write the outputs, and tell of them in result:
 * {"durationMs","sampleRate","channels","files":[{"output","format","samplesPerPixel"}]}. */
enum media_fault waveform_write(struct waveform *w, char *result, size_t size);

/* Free everything and clear *w. */
void waveform_close(struct waveform **w);

#endif
