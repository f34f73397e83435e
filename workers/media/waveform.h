/* Peaks at all asked zooms and a picture, from frames as they are decoded; the parameters are the
 * operation's own (see docs/internals/media.md). Functions return MEDIA_OK or a fault. */
#ifndef WORKERS_MEDIA_WAVEFORM_H
#define WORKERS_MEDIA_WAVEFORM_H

#include "workers/media/input.h"
#include "workers/media/op.h"

struct waveform;

/* Read what is asked for. may_stream: what is too much to hold is written as it goes, and the input
 * decoded once more. The caller owns *waveform_out, also after a fault, and ends it with
 * waveform_close(). */
enum media_fault waveform_open(struct op *op, bool may_stream, struct waveform **waveform_out);

/* Add a frame of the input. MEDIA_FAULT_RESULT_SIZE where the peaks are too many. */
enum media_fault waveform_add(struct waveform *w, const struct input *in, const AVFrame *frame);

/* After the last frame, of at least one: write the outputs. *again_out: those that are too long to
 * be held need all frames once more, from a new input, and this call behind them. */
enum media_fault waveform_end(struct waveform *w, bool *again_out);

/* How far all of it is where the input of this decode is so far. */
int waveform_percent(const struct waveform *w, int percent);

/* In the end: {"durationMs","sampleRate","channels","files":[{"output","format",
 * "samplesPerPixel"}]}. */
void waveform_tell(const struct waveform *w, char *result, size_t size);

/* Free everything and clear *w. */
void waveform_close(struct waveform **w);

#endif
