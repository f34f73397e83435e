/* The inner loops are written for the vectorizer (this file alone is built at -O3); everything
 * around them runs once per pixel. */
#ifndef __clang__
#pragma GCC optimize("O3")
#endif

#include "workers/media/peaks.h"

#include <math.h>

enum { ZOOM_FIRST_ROOM = 4096 };

void peaks_range(const int16_t *samples, size_t len, int16_t *min_out, int16_t *max_out)
{
    int16_t min = samples[0], max = samples[0];
    size_t i;

    for (i = 0; i < len; i++) {
        min = samples[i] < min ? samples[i] : min;
        max = samples[i] > max ? samples[i] : max;
    }
    *min_out = min;
    *max_out = max;
}

uint64_t peaks_energy(const int16_t *samples, size_t len)
{
    uint64_t sum = 0;
    size_t i;

    for (i = 0; i < len; i++) {
        sum += (uint32_t)(samples[i] * samples[i]);
    }
    return sum;
}

static void mix_two(const int16_t *a, const int16_t *b, size_t len, int16_t *out)
{
    size_t i;

    for (i = 0; i < len; i++) {
        out[i] = (int16_t)((a[i] + b[i]) / 2);
    }
}

void peaks_mix(const int16_t *const *channels, size_t n_channels, size_t len, int16_t *out)
{
    int32_t n = (int32_t)n_channels, sum;
    size_t i, c;

    if (n == 1) {
        memcpy(out, channels[0], len * sizeof(*out));
    } else if (n == 2) {
        mix_two(channels[0], channels[1], len, out);
    } else {
        for (i = 0; i < len; i++) {
            for (c = 0, sum = 0; c < n_channels; c++) {
                sum += channels[c][i];
            }
            out[i] = (int16_t)(sum / n);
        }
    }
}

void peaks_from_u8(const uint8_t *in, size_t stride, size_t len, int16_t *out)
{
    size_t i;

    for (i = 0; i < len; i++) {
        out[i] = (int16_t)((in[i * stride] - 128) * 256);
    }
}

void peaks_from_s16(const int16_t *in, size_t stride, size_t len, int16_t *out)
{
    size_t i;

    if (stride == 1) {
        memcpy(out, in, len * sizeof(*out));
    } else if (stride == 2) {
        for (i = 0; i < len; i++) {
            out[i] = in[i * 2];
        }
    } else {
        for (i = 0; i < len; i++) {
            out[i] = in[i * stride];
        }
    }
}

void peaks_from_s32(const int32_t *in, size_t stride, size_t len, int16_t *out)
{
    size_t i;

    for (i = 0; i < len; i++) {
        out[i] = (int16_t)(in[i * stride] >> 16);
    }
}

/* NaN counts as silence; the comparisons come before the conversion, which is undefined out of
 * range. */
static int16_t from_float(float x)
{
    x = x == x ? x * 32767.0f : 0.0f;
    x = x > -32768.0f ? x : -32768.0f;
    x = x < 32767.0f ? x : 32767.0f;
    return (int16_t)(int32_t)x;
}

void peaks_from_float(const float *in, size_t stride, size_t len, int16_t *out)
{
    size_t i;

    if (stride == 1) {
        for (i = 0; i < len; i++) {
            out[i] = from_float(in[i]);
        }
    } else {
        for (i = 0; i < len; i++) {
            out[i] = from_float(in[i * stride]);
        }
    }
}

void peaks_from_double(const double *in, size_t stride, size_t len, int16_t *out)
{
    size_t i;

    for (i = 0; i < len; i++) {
        out[i] = from_float((float)in[i * stride]);
    }
}

static void zoom_reset(struct zoom *z)
{
    size_t c;

    z->count = 0;
    for (c = 0; c < z->n_channels; c++) {
        z->min[c] = INT16_MAX;
        z->max[c] = INT16_MIN;
    }
}

void zoom_init(struct zoom *z, int64_t samples_per_pixel, size_t n_channels)
{
    *z = (struct zoom){.samples_per_pixel = samples_per_pixel, .n_channels = n_channels};
    zoom_reset(z);
}

static bool zoom_append(struct zoom *z)
{
    size_t c;

    if (z->length == z->room) {
        size_t room = z->room == 0 ? ZOOM_FIRST_ROOM : z->room * 2;
        int16_t *grown = realloc(z->data, room * z->n_channels * 2 * sizeof(*grown));

        if (grown == NULL) {
            return false;
        }
        z->data = grown;
        z->room = room;
    }
    for (c = 0; c < z->n_channels; c++) {
        int16_t *to = z->data + (z->length * z->n_channels + c) * 2;

        to[0] = z->min[c];
        to[1] = z->max[c];
    }
    z->length++;
    zoom_reset(z);
    return true;
}

bool zoom_add(struct zoom *z, const int16_t *const *channels, size_t len)
{
    size_t at = 0, c;

    while (at < len) {
        int64_t left = z->samples_per_pixel - z->count;
        size_t n = (int64_t)(len - at) < left ? len - at : (size_t)left;

        for (c = 0; c < z->n_channels; c++) {
            int16_t min, max;

            peaks_range(channels[c] + at, n, &min, &max);
            z->min[c] = min < z->min[c] ? min : z->min[c];
            z->max[c] = max > z->max[c] ? max : z->max[c];
        }
        z->count += (int64_t)n;
        at += n;
        if (z->count == z->samples_per_pixel && !zoom_append(z)) {
            return false;
        }
    }
    return true;
}

bool zoom_end(struct zoom *z)
{
    return z->count == 0 || zoom_append(z);
}

void zoom_shrink(struct zoom *z)
{
    free(z->data);
    z->data = NULL;
    z->room = 0;
}

void zoom_restart(struct zoom *z)
{
    z->length = 0;
    zoom_reset(z);
}

void zoom_done(struct zoom *z)
{
    free(z->data);
    *z = (struct zoom){.n_channels = 0};
}

bool outline_init(struct outline *o, size_t n_channels)
{
    *o = (struct outline){.n_channels = n_channels, .per_run = 1};
    o->runs = calloc(n_channels * (OUTLINE_MAX + 1), sizeof(*o->runs));
    return o->runs != NULL;
}

static struct outline_run *runs_of(const struct outline *o, size_t channel)
{
    return o->runs + channel * (OUTLINE_MAX + 1);
}

static void outline_halve(struct outline *o)
{
    size_t c, i;

    for (c = 0; c < o->n_channels; c++) {
        struct outline_run *r = runs_of(o, c);

        for (i = 0; i < OUTLINE_MAX / 2; i++) {
            const struct outline_run a = r[2 * i], b = r[2 * i + 1];

            r[i] = (struct outline_run){.min = a.min < b.min ? a.min : b.min,
                                        .max = a.max > b.max ? a.max : b.max,
                                        .energy = a.energy + b.energy};
        }
    }
    o->length = OUTLINE_MAX / 2;
    o->per_run *= 2;
}

void outline_add(struct outline *o, const int16_t *const *channels, size_t len)
{
    size_t at = 0, c;

    while (at < len) {
        int64_t left = o->per_run - o->count;
        size_t n = (int64_t)(len - at) < left ? len - at : (size_t)left;

        n = n < PEAKS_BLOCK ? n : PEAKS_BLOCK;
        for (c = 0; c < o->n_channels; c++) {
            struct outline_run *r = runs_of(o, c) + o->length;
            int16_t min, max;

            peaks_range(channels[c] + at, n, &min, &max);
            r->energy = (o->count == 0 ? 0 : r->energy) + peaks_energy(channels[c] + at, n);
            r->min = o->count == 0 || min < r->min ? min : r->min;
            r->max = o->count == 0 || max > r->max ? max : r->max;
        }
        o->count += (int64_t)n;
        at += n;
        if (o->count == o->per_run) {
            o->count = 0;
            if (++o->length == OUTLINE_MAX) {
                outline_halve(o);
            }
        }
    }
}

/* Runs [from, to) of a channel as one column; the last may be the incomplete one. */
static struct outline_column column(const struct outline *o, const struct outline_run *r,
                                    size_t from, size_t to)
{
    int16_t min = r[from].min, max = r[from].max;
    double energy = 0, samples = 0;
    size_t i;

    for (i = from; i < to; i++) {
        min = r[i].min < min ? r[i].min : min;
        max = r[i].max > max ? r[i].max : max;
        energy += (double)r[i].energy;
        samples += (double)(i == o->length ? o->count : o->per_run);
    }
    return (struct outline_column){.min = (float)min / 32768.0f,
                                   .max = (float)max / 32768.0f,
                                   .rms = (float)sqrt(energy / samples) / 32768.0f};
}

bool outline_columns(const struct outline *o, size_t channel, size_t width,
                     struct outline_column *columns_out)
{
    size_t n = o->length + (o->count > 0 ? 1 : 0), x;
    const struct outline_run *r = runs_of(o, channel);

    if (n == 0) {
        return false;
    }
    for (x = 0; x < width; x++) {
        size_t from = x * n / width, to = (x + 1) * n / width;

        columns_out[x] = column(o, r, from, to > from ? to : from + 1);
    }
    return true;
}

void outline_done(struct outline *o)
{
    free(o->runs);
    *o = (struct outline){.n_channels = 0};
}
