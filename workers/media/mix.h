/* The arithmetic of a mix, without files: places, gains, fades, sums. Pure; samples are floats,
 * full scale is 1. */
#ifndef WORKERS_MEDIA_MIX_H
#define WORKERS_MEDIA_MIX_H

#include <stdbool.h>
#include <stdint.h>

/* A time as samples of a rate, to the nearest. */
int64_t mix_samples(int64_t ms, int rate);

/* Decibels as a factor. */
double mix_gain(double gain_db);

/* Factors of the left and the right side for a pan from -1, left, to 1, right. Constant power:
 * left² + right² = 2. In the centre both are 1; at an end one is √2 (+3 dB), the other 0. */
void mix_pan(double pan, double *left_out, double *right_out);

/* Straight ramps at the two ends of a track, in its own samples at the output's rate. */
struct mix_fade {
    int64_t in, out; /* samples; 0: none */
    int64_t length;  /* of the track; needed where out > 0 */
};

/* Does any of the samples at … at + n - 1 lie in a ramp? */
bool mix_fade_touches(const struct mix_fade *fade, int64_t at, int n);

/* The factors of those samples. Sample k of the way in has k / in, and the way out is its mirror
 * image: the last sample has 0. Where both overlap they multiply. */
void mix_fade_shape(const struct mix_fade *fade, int64_t at, float *shape, int n);

/* to += from · factor */
void mix_add(float *restrict to, const float *restrict from, float factor, int n);

/* to += from · factor · shape */
void mix_add_shaped(float *restrict to, const float *restrict from, float factor,
                    const float *restrict shape, int n);

/* samples ·= factor */
void mix_scale(float *samples, float factor, int n);

#endif
