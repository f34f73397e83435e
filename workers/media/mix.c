/* Loops over samples are kept plain, for the compiler to turn into vector code. */
#include "workers/media/mix.h"

#include <math.h>

int64_t mix_samples(int64_t ms, int rate)
{
    return (ms * rate + 500) / 1000;
}

double mix_gain(double gain_db)
{
    return pow(10.0, gain_db / 20.0);
}

void mix_pan(double pan, double *left_out, double *right_out)
{
    double angle = (pan + 1.0) * M_PI_4;

    *left_out = pan == 0 ? 1.0 : pan >= 1.0 ? 0.0 : M_SQRT2 * cos(angle);
    *right_out = pan == 0 ? 1.0 : pan <= -1.0 ? 0.0 : M_SQRT2 * sin(angle);
}

bool mix_fade_touches(const struct mix_fade *fade, int64_t at, int n)
{
    return at < fade->in || (fade->out > 0 && at + n > fade->length - fade->out);
}

static double ramp(int64_t k, int64_t samples)
{
    return k >= samples ? 1.0 : k <= 0 ? 0.0 : (double)k / (double)samples;
}

void mix_fade_shape(const struct mix_fade *fade, int64_t at, float *shape, int n)
{
    int i;

    for (i = 0; i < n; i++) {
        int64_t left = fade->length - 1 - (at + i);

        shape[i] = (float)((fade->in > 0 ? ramp(at + i, fade->in) : 1.0) *
                           (fade->out > 0 ? ramp(left, fade->out) : 1.0));
    }
}

void mix_add(float *restrict to, const float *restrict from, float factor, int n)
{
    int i;

    for (i = 0; i < n; i++) {
        to[i] += from[i] * factor;
    }
}

void mix_add_shaped(float *restrict to, const float *restrict from, float factor,
                    const float *restrict shape, int n)
{
    int i;

    for (i = 0; i < n; i++) {
        to[i] += from[i] * factor * shape[i];
    }
}

void mix_scale(float *samples, float factor, int n)
{
    int i;

    for (i = 0; i < n; i++) {
        samples[i] *= factor;
    }
}
