/* For each sample the gain that it needs; the smallest of a window; rising slowly; the mean over
 * the window. Each mean that a peak meets is over minima that have seen it, so it is never too
 * high. Gains are whole numbers of 2^-30, so that sums do not drift and "no gain" is exactly 1. */
#include "workers/media/limiter.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    TAPS = 24, /* of the interpolation, half of them ahead */
    AHEAD = TAPS / 2,
    PHASES = 3,        /* points between two samples */
    STRETCH = 128,     /* samples that are looked over for peaks at once */
    LOOK_US = 2000,    /* look-ahead */
    LOOK_LEAST = 16,   /* samples */
    RELEASE_PER_S = 20 /* 1 / time constant of the way back */
};

static const int64_t ONE = 1 << 30;
static const float LOUDEST = 16384.0f; /* no mix of tracks gets there; an infinity does */

struct limiter {
    int channels, look, kept; /* kept: samples of the past in front of a block */
    float ceiling, taps[PHASES][TAPS];
    float reach; /* how much higher than its samples an interpolated peak can be */
    float *past[LIMITER_CHANNELS_MAX]; /* kept + LIMITER_BLOCK samples */
    int64_t need[LIMITER_BLOCK];       /* gain for each detected sample */
    int64_t *low_gain, *low_at;        /* rising minima of the window: ring of look + 1 */
    int low_first, low_n;
    int64_t *mean; /* ring of look gains */
    int mean_at;
    int64_t sum, gain, clock, release;
};

/* A sinc under a raised cosine, made to keep a constant as it is. */
static void make_taps(struct limiter *l)
{
    int p, t;

    l->reach = 1.0f;
    for (p = 0; p < PHASES; p++) {
        double taps[TAPS], sum = 0, size = 0;

        for (t = 0; t < TAPS; t++) {
            double x = t - (AHEAD - 1) - (p + 1) / (double)(PHASES + 1);

            taps[t] = sin(M_PI * x) / (M_PI * x) * (0.5 + 0.5 * cos(M_PI * x / AHEAD));
            sum += taps[t];
        }
        for (t = 0; t < TAPS; t++) {
            l->taps[p][t] = (float)(taps[t] / sum);
            size += fabs(taps[t] / sum);
        }
        l->reach = size > (double)l->reach ? (float)size : l->reach;
    }
}

enum media_fault limiter_open(int rate, int channels, double ceiling, struct limiter **limiter_out)
{
    struct limiter *l = calloc(1, sizeof(*l));
    int c, i;

    *limiter_out = l;
    if (l == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    l->channels = channels;
    l->ceiling = (float)ceiling;
    l->look = (int)((int64_t)rate * LOOK_US / 1000000);
    l->look = l->look > LOOK_LEAST ? l->look : LOOK_LEAST;
    l->kept = l->look + AHEAD;
    l->release = ONE * RELEASE_PER_S / rate;
    make_taps(l);
    l->low_gain = calloc((size_t)l->look + 1, sizeof(*l->low_gain));
    l->low_at = calloc((size_t)l->look + 1, sizeof(*l->low_at));
    l->mean = calloc((size_t)l->look, sizeof(*l->mean));
    if (l->low_gain == NULL || l->low_at == NULL || l->mean == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    for (c = 0; c < channels; c++) {
        l->past[c] = calloc((size_t)l->kept + LIMITER_BLOCK, sizeof(float));
        if (l->past[c] == NULL) {
            return MEDIA_FAULT_MEMORY;
        }
    }
    for (i = 0; i < l->look; i++) {
        l->mean[i] = ONE;
    }
    l->sum = ONE * l->look;
    l->gain = ONE;
    return MEDIA_OK;
}

int limiter_delay(const struct limiter *l)
{
    return l->look - 1 + AHEAD;
}

static void take(struct limiter *l, float *const *planes, int n)
{
    int c, i;

    for (c = 0; c < l->channels; c++) {
        float *to = l->past[c] + l->kept;

        for (i = 0; i < n; i++) {
            float x = planes[c][i];

            x = x == x ? x : 0.0f;
            x = x > -LOUDEST ? x : -LOUDEST;
            to[i] = x < LOUDEST ? x : LOUDEST;
        }
    }
}

static float largest(const float *samples, int n)
{
    float most = 0;
    int i;

    for (i = 0; i < n; i++) {
        float x = fabsf(samples[i]);

        most = x > most ? x : most;
    }
    return most;
}

/* Raise peaks[i] to what lies between samples[i] and its successor. */
static void between(const struct limiter *l, const float *samples, float *peaks, int n)
{
    int p, t, i;

    for (p = 0; p < PHASES; p++) {
        float points[STRETCH] = {0};

        for (t = 0; t < TAPS; t++) {
            const float *from = samples + t - (AHEAD - 1);
            float tap = l->taps[p][t];

            for (i = 0; i < n; i++) {
                points[i] += from[i] * tap;
            }
        }
        for (i = 0; i < n; i++) {
            float x = fabsf(points[i]);

            peaks[i] = x > peaks[i] ? x : peaks[i];
        }
    }
}

/* Fill need[at …] for n samples, up to STRETCH. False: none of them needs anything. */
static bool look_over(struct limiter *l, int at, int n)
{
    float peaks[STRETCH] = {0};
    bool any = false, low = true;
    int c, i;

    for (c = 0; c < l->channels; c++) {
        const float *samples = l->past[c] + l->kept - AHEAD + at;

        if (largest(samples - (AHEAD - 1), n + TAPS - 1) * l->reach <= l->ceiling) {
            continue;
        }
        low = false;
        for (i = 0; i < n; i++) {
            float x = fabsf(samples[i]);

            peaks[i] = x > peaks[i] ? x : peaks[i];
        }
        between(l, samples, peaks, n);
    }
    for (i = 0; i < n; i++) {
        bool over = !low && peaks[i] > l->ceiling;

        l->need[at + i] =
            over ? (int64_t)((double)l->ceiling / (double)peaks[i] * (double)ONE) : ONE;
        any = any || over;
    }
    return any;
}

/* The smallest need of the last look samples. */
static int64_t lowest(struct limiter *l, int64_t need)
{
    int size = l->look + 1;

    l->clock++;
    if (l->low_n > 0 && l->low_at[l->low_first] <= l->clock - l->look) {
        l->low_first = (l->low_first + 1) % size;
        l->low_n--;
    }
    if (need < ONE) {
        while (l->low_n > 0 && l->low_gain[(l->low_first + l->low_n - 1) % size] >= need) {
            l->low_n--;
        }
        l->low_gain[(l->low_first + l->low_n) % size] = need;
        l->low_at[(l->low_first + l->low_n) % size] = l->clock;
        l->low_n++;
    }
    return l->low_n > 0 ? l->low_gain[l->low_first] : ONE;
}

static float next_gain(struct limiter *l, int64_t need)
{
    int64_t low = lowest(l, need);
    int64_t risen =
        l->gain + (int64_t)((double)(ONE - l->gain) * (double)l->release / (double)ONE) + 1;

    l->gain = risen < low ? risen : low;
    l->sum += l->gain - l->mean[l->mean_at];
    l->mean[l->mean_at] = l->gain;
    l->mean_at = (l->mean_at + 1) % l->look;
    return (float)((double)l->sum / ((double)ONE * l->look));
}

void limiter_run(struct limiter *l, float *const *planes, int n)
{
    bool busy = l->low_n > 0 || l->sum != ONE * l->look;
    float gains[LIMITER_BLOCK];
    int at, c, i;

    take(l, planes, n);
    for (at = 0; at < n; at += STRETCH) {
        busy |= look_over(l, at, n - at < STRETCH ? n - at : STRETCH);
    }
    for (i = 0; busy && i < n; i++) {
        gains[i] = next_gain(l, l->need[i]);
    }
    for (c = 0; c < l->channels; c++) {
        const float *from = l->past[c] + l->kept - limiter_delay(l);

        memcpy(planes[c], from, (size_t)n * sizeof(float));
        for (i = 0; busy && i < n; i++) {
            planes[c][i] *= gains[i];
        }
        memmove(l->past[c], l->past[c] + n, (size_t)l->kept * sizeof(float));
    }
}

void limiter_close(struct limiter **limiter)
{
    struct limiter *l = *limiter;
    int c;

    *limiter = NULL;
    if (l != NULL) {
        for (c = 0; c < LIMITER_CHANNELS_MAX; c++) {
            free(l->past[c]);
        }
        free(l->low_gain);
        free(l->low_at);
        free(l->mean);
        free(l);
    }
}
