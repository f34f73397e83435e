/* Smallest and largest sample of every run of samples: audiowaveform's numbers, and the outline of
 * a picture. Pure computation; no libav in here.
 *
 * Byte-exact with audiowaveform (WaveformGenerator) for integer PCM: samples are cut to 16 bits,
 * mono is the sum of the channels divided by their number towards zero, a last incomplete run
 * counts. */
#ifndef WORKERS_MEDIA_PEAKS_H
#define WORKERS_MEDIA_PEAKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PEAKS_BLOCK = 4096, PEAKS_CHANNELS_MAX = 8 };

/* Minimum and maximum over len > 0 samples. */
void peaks_range(const int16_t *samples, size_t len, int16_t *min_out, int16_t *max_out);

/* Sum of squares over len <= PEAKS_BLOCK samples. */
uint64_t peaks_energy(const int16_t *samples, size_t len);

/* out[i] = sum over the channels / n_channels, towards zero. */
void peaks_mix(const int16_t *const *channels, size_t n_channels, size_t len, int16_t *out);

/* Every stride-th sample as 16 bits. Integers are cut, floats are scaled by 32767, cut towards
 * zero and clipped. */
void peaks_from_u8(const uint8_t *in, size_t stride, size_t len, int16_t *out);
void peaks_from_s16(const int16_t *in, size_t stride, size_t len, int16_t *out);
void peaks_from_s32(const int32_t *in, size_t stride, size_t len, int16_t *out);
void peaks_from_float(const float *in, size_t stride, size_t len, int16_t *out);
void peaks_from_double(const double *in, size_t stride, size_t len, int16_t *out);

/* One zoom level: a growing list of (min, max) per channel and run. */
struct zoom {
    int64_t samples_per_pixel;
    size_t n_channels;
    int64_t count; /* samples in the current run */
    int16_t min[PEAKS_CHANNELS_MAX], max[PEAKS_CHANNELS_MAX];
    int16_t *data;       /* min, max, interleaved by channel */
    size_t length, room; /* runs */
};

/* Begin; samples_per_pixel > 0. Ends with zoom_done(). */
void zoom_init(struct zoom *z, int64_t samples_per_pixel, size_t n_channels);

/* Add len samples of each channel. False: no memory. */
bool zoom_add(struct zoom *z, const int16_t *const *channels, size_t len);

/* Close the last run. False: no memory. */
bool zoom_end(struct zoom *z);

/* Give back the room of a list that has been emptied (length 0). */
void zoom_shrink(struct zoom *z);

/* Begin again with nothing. */
void zoom_restart(struct zoom *z);

/* Free the list. */
void zoom_done(struct zoom *z);

/* The whole piece in a bounded number of equal columns, whatever its length: runs double in length
 * as they fill up. */
enum { OUTLINE_MAX = 32768 };

struct outline_run {
    int16_t min, max;
    uint64_t energy; /* sum of squares */
};

struct outline {
    size_t n_channels;
    int64_t per_run, count;   /* samples of a full run, and in the current one */
    size_t length;            /* full runs */
    struct outline_run *runs; /* OUTLINE_MAX + 1 per channel, channel after channel */
};

/* Begin; false: no memory. Ends with outline_done(). */
bool outline_init(struct outline *o, size_t n_channels);

/* Add len samples of each channel. */
void outline_add(struct outline *o, const int16_t *const *channels, size_t len);

/* Columns of a channel for a picture: min, max and root mean square of each of width columns.
 * False: there was no sample. */
struct outline_column {
    float min, max, rms; /* -1 … 1 */
};
bool outline_columns(const struct outline *o, size_t channel, size_t width,
                     struct outline_column *columns_out);

/* Free it. */
void outline_done(struct outline *o);

#endif
