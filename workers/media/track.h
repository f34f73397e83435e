/* One source of a mix: decoded, brought to the output's rate, and added where it belongs.
 *
 * Functions return MEDIA_OK or a fault; the number that belongs to it is track_value(). A track
 * holds one decoded frame at a time, so its memory does not depend on its length. */
#ifndef WORKERS_MEDIA_TRACK_H
#define WORKERS_MEDIA_TRACK_H

#include "workers/media/input.h"
#include "workers/media/mix.h"
#include "workers/media/op.h"

struct track;

/* What a track is asked to be. */
struct track_place {
    double gain_db, pan; /* pan: mix_pan() on the output's left and right channels */
    int64_t offset_ms, fade_in_ms, fade_out_ms;
};

/* Open source number source and read its headers. The caller owns *track_out, also after a fault,
 * and ends it with track_close(). */
enum media_fault track_open(struct op *op, uint32_t source, struct track **track_out);

/* Free everything and clear *track. */
void track_close(struct track **track);

/* What its headers say. */
const struct input_info *track_info(const struct track *t);

/* Set where it goes in an output of that rate and layout (which must outlive the track). A fade at
 * its end needs its length in samples: where the headers do not tell it for sure, the source is
 * decoded once to count. */
enum media_fault track_place(struct track *t, const struct track_place *place, int rate,
                             const AVChannelLayout *layout);

/* Add its samples for the output's samples from … from + n - 1 to planes[channel][0 … n - 1].
 * Ranges must be asked for in order. */
enum media_fault track_add(struct track *t, float *const *planes, int64_t from, int n);

/* Was its last sample added? */
bool track_ended(const struct track *t);

/* Sample of the output behind its last added one. */
int64_t track_end(const struct track *t);

/* Number that belongs to the last fault. */
int64_t track_value(const struct track *t);

#endif
