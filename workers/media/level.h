/* Level of what goes to an encoder: a gain, then a limiter for true peaks. */
#ifndef WORKERS_MEDIA_LEVEL_H
#define WORKERS_MEDIA_LEVEL_H

#include <libavutil/frame.h>

#include "workers/media/output.h"

enum { LEVEL_BLOCK = 4096 };

struct level;

/* For planar floats that those settings' encoder gets. The caller owns *level_out, also after a
 * fault, and ends it with level_close(). */
enum media_fault level_open(const struct output_settings *settings, double gain_db,
                            struct level **level_out);

/* Set level of a frame of up to LEVEL_BLOCK samples, in place. What comes out is late by the
 * limiter's look-ahead; the silence before the first sample is cut off, so that nb_samples may
 * become less, also 0. */
void level_apply(struct level *l, AVFrame *frame);

/* After the last frame: samples that are still inside. So many of silence, applied as frames, bring
 * them out. */
int level_left(const struct level *l);

/* Free everything and clear *level. */
void level_close(struct level **level);

#endif
