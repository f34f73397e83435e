/* What the samples of a piece say: loudness, tempo, silence at its ends, clipping. The only door to
 * libebur128 and aubio; no libav in here.
 *
 * Memory grows with the number of 100 ms blocks (40 bytes each), not with the samples. */
#ifndef WORKERS_MEDIA_ANALYSIS_H
#define WORKERS_MEDIA_ANALYSIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ANALYSIS_CHANNELS_MAX = 8, ANALYSIS_BLOCK = 1024 };

/* Where a channel's speaker stands, as far as loudness weighs it (ITU-R BS.1770). */
enum analysis_place {
    ANALYSIS_FRONT,
    ANALYSIS_AROUND,
    ANALYSIS_LOW /* low frequencies: left out */
};

struct analysis_format {
    int sample_rate;
    size_t n_channels; /* 1 to ANALYSIS_CHANNELS_MAX */
    enum analysis_place places[ANALYSIS_CHANNELS_MAX];
    int bit_depth; /* of integer samples; 0: floats, whose full scale is 1.0 */
};

struct analysis_found {
    double integrated_lufs;  /* NAN: nothing was louder than the gate of −70 LUFS */
    double loudness_range;   /* LU; NAN with integrated_lufs */
    double true_peak_dbtp;   /* NAN: digital silence */
    double tempo_bpm;        /* NAN: too few beats to tell */
    int64_t samples;         /* per channel */
    int64_t leading_silence; /* samples; all of them where nothing is louder */
    int64_t trailing_silence;
    int64_t clipped_samples; /* at full scale, over all channels */
};

struct analysis;

/* Begin. NULL: no memory. The caller ends it with analysis_close(). */
struct analysis *analysis_open(const struct analysis_format *format);

/* Add len <= ANALYSIS_BLOCK samples of each channel, interleaved. They are changed: what is no
 * number becomes 0. False: no memory. */
bool analysis_add(struct analysis *a, float *samples, size_t len);

/* Say what was found in all that was added. False: no memory. */
bool analysis_end(struct analysis *a, struct analysis_found *found_out);

/* Free everything and clear *analysis. */
void analysis_close(struct analysis **analysis);

#endif
