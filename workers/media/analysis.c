/* Loudness is libebur128's, beats are aubio's; silence and clipping are counted on the way.
 *
 * The loudness range is put together here from libebur128's 100 ms blocks: by itself it takes a
 * short-term value once a second only, and is then up to 0.3 LU away from meters that take ten.
 *
 * The tempo of a piece is the mean of the beats' distances near their median, so an intro without a
 * beat or a break does not move it. */
#include "workers/media/analysis.h"

#include <aubio/aubio.h>
#include <ebur128.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* −60 dBFS: below what a listener hears as the start of a piece, above the dither and the noise of
 * converters and lossy codecs. */
static const float SILENCE = 0.001f;

/* +36 dBFS. What is louder is no level but damage; libraries get numbers that they can square. */
static const float LEVEL_MAX = 64.0f;

/* aubio finds beats in anything: in noise and steady tones with up to 0.10, in music with 0.2 to 2.
 */
static const float CONFIDENCE_MIN = 0.15f;

enum {
    LOUDNESS_RATE_MIN = 4000, /* the weighting filter's shelf stands at 1.7 kHz */
    HOP_PER_SECOND = 86,      /* 512 samples at 44.1 kHz, which aubio's beat tracker is tuned for */
    WINDOW_HOPS = 2,
    BPM_BINS = 4000,   /* of a tenth of a BPM */
    BPM_SPREAD = 25,   /* a share of the median: ±4 % is one tempo */
    BEATS_MIN = 8,     /* distances; fewer are no tempo */
    STEPS = 30,        /* of 100 ms: the 3 s of a short-term value */
    GATE = -70,        /* LUFS */
    RANGE_BINS = 11000 /* of a hundredth LU, from the gate */
};

/* Short-term loudness of every 100 ms (EBU Tech 3342). */
struct range {
    double energy[STEPS]; /* of the latest steps, in a ring */
    int64_t n_steps;
    size_t until_step; /* samples */
    uint32_t bins[RANGE_BINS];
    uint32_t n;
};

struct beats {
    aubio_tempo_t *tracker;
    fvec_t *hop, *found;
    size_t filled;
    uint32_t last; /* sample of the latest beat; 0 none */
    uint32_t bins[BPM_BINS];
    uint32_t n;
};

struct analysis {
    struct analysis_format format;
    ebur128_state *loudness; /* NULL: the rate is too low */
    struct range range;
    struct beats beats;
    float full_scale;
    int64_t samples, first_loud, last_loud; /* first_loud −1: none yet */
    int64_t clipped;
};

static void quiet(sint_t level, const char_t *message, void *context)
{
    (void)level;
    (void)message;
    (void)context;
}

static bool beats_open(struct beats *b, int sample_rate)
{
    uint_t hop = 16;

    while ((int)hop * HOP_PER_SECOND * 3 < sample_rate * 2) {
        hop *= 2;
    }
    aubio_log_set_function(quiet, NULL); /* it would write to a descriptor */
    b->tracker = new_aubio_tempo("default", hop * WINDOW_HOPS, hop, (uint_t)sample_rate);
    b->hop = new_fvec(hop);
    b->found = new_fvec(2);
    if (b->tracker == NULL || b->hop == NULL || b->found == NULL) {
        return false;
    }
    /* Beats within a pause count too; the confidence judges. */
    (void)aubio_tempo_set_silence(b->tracker, -HUGE_VALF);
    return true;
}

static void beats_close(struct beats *b)
{
    if (b->tracker != NULL) {
        del_aubio_tempo(b->tracker);
    }
    if (b->hop != NULL) {
        del_fvec(b->hop);
    }
    if (b->found != NULL) {
        del_fvec(b->found);
    }
}

static void beats_hop(struct beats *b, int sample_rate)
{
    uint32_t now, distance;
    double bin;

    b->filled = 0;
    aubio_tempo_do(b->tracker, b->hop, b->found);
    if (b->found->data[0] == 0) {
        return;
    }
    now = aubio_tempo_get_last(b->tracker);
    distance = now - b->last; /* also across 2^32 */
    if (b->last != 0 && distance > 0 && aubio_tempo_get_confidence(b->tracker) >= CONFIDENCE_MIN) {
        bin = 60.0 * sample_rate / distance * 10 + 0.5;
        if (bin >= 1 && bin < BPM_BINS) {
            b->bins[(size_t)bin]++;
            b->n++;
        }
    }
    b->last = now;
}

static void beats_add(struct beats *b, int sample_rate, const float *samples, size_t n_channels,
                      size_t len)
{
    size_t i, c;

    for (i = 0; i < len; i++) {
        float sum = 0;

        for (c = 0; c < n_channels; c++) {
            sum += samples[i * n_channels + c];
        }
        b->hop->data[b->filled++] = sum / (float)n_channels;
        if (b->filled == b->hop->length) {
            beats_hop(b, sample_rate);
        }
    }
}

static double beats_tempo(const struct beats *b)
{
    size_t median, i;
    uint32_t n = 0;
    double minutes = 0;

    if (b->n < BEATS_MIN) {
        return NAN;
    }
    for (median = 0; (n += b->bins[median]) < b->n - b->n / 2; median++) {
    }
    n = 0;
    for (i = median - median / BPM_SPREAD; i <= median + median / BPM_SPREAD && i < BPM_BINS; i++) {
        if (b->bins[i] > 0) {
            minutes += b->bins[i] * 10.0 / (double)i;
            n += b->bins[i];
        }
    }
    return n / minutes;
}

static double energy_of(double lufs)
{
    return pow(10, (lufs + 0.691) / 10);
}

static double lufs_of(double energy)
{
    return 10 * log10(energy) - 0.691;
}

static double bin_energy(size_t bin)
{
    return energy_of(GATE + ((double)bin + 0.5) / 100);
}

/* Another 100 ms have gone by, this loud. */
static void range_step(struct range *r, double lufs)
{
    double sum = 0, bin;
    size_t i;

    r->energy[r->n_steps++ % STEPS] = isfinite(lufs) ? energy_of(lufs) : 0;
    for (i = 0; i < STEPS; i++) {
        sum += r->energy[i];
    }
    bin = r->n_steps < STEPS || sum <= 0 ? -1 : (lufs_of(sum / STEPS) - GATE) * 100;
    if (bin >= 0) {
        r->bins[bin < RANGE_BINS ? (size_t)bin : RANGE_BINS - 1]++;
        r->n++;
    }
}

/* The bin that holds this share of the values from first up. */
static size_t range_share(const struct range *r, size_t first, uint32_t n, double share)
{
    uint32_t seen = 0, wanted = (uint32_t)(n * share + 0.5);
    size_t i;

    for (i = first; i < RANGE_BINS - 1 && (seen += r->bins[i]) < wanted; i++) {
    }
    return i;
}

/* From the 10 % to the 95 % point of what is not 20 LU below the mean. */
static double range_end(const struct range *r)
{
    double sum = 0, gate;
    uint32_t n = 0;
    size_t first, i;

    if (r->n == 0) {
        return 0;
    }
    for (i = 0; i < RANGE_BINS; i++) {
        sum += r->bins[i] * bin_energy(i);
    }
    gate = (lufs_of(sum / r->n) - 20 - GATE) * 100;
    first = gate > 0 ? (size_t)gate : 0;
    for (i = first; i < RANGE_BINS; i++) {
        n += r->bins[i];
    }
    return (double)(range_share(r, first, n, 0.95) - range_share(r, first, n, 0.10)) / 100;
}

static size_t step_length(const struct analysis_format *f)
{
    return (size_t)(f->sample_rate + 5) / 10; /* as libebur128 rounds */
}

/* Feed it so that it can be asked at the end of every 100 ms. */
static bool loudness_add(struct analysis *a, const float *samples, size_t len)
{
    size_t at, n;
    double lufs;

    for (at = 0; at < len; at += n) {
        n = len - at < a->range.until_step ? len - at : a->range.until_step;
        if (ebur128_add_frames_float(a->loudness, samples + at * a->format.n_channels, n) !=
            EBUR128_SUCCESS) {
            return false;
        }
        a->range.until_step -= n;
        if (a->range.until_step == 0) {
            a->range.until_step = step_length(&a->format);
            if (ebur128_loudness_window(a->loudness, 100, &lufs) == EBUR128_SUCCESS) {
                range_step(&a->range, lufs);
            }
        }
    }
    return true;
}

static int loudness_channel(enum analysis_place place)
{
    switch (place) {
    case ANALYSIS_AROUND:
        return EBUR128_Mp110; /* weighed by 1.41, as all from the side and from behind are */
    case ANALYSIS_LOW:
        return EBUR128_UNUSED;
    default:
        return EBUR128_LEFT;
    }
}

static bool loudness_open(struct analysis *a)
{
    const struct analysis_format *f = &a->format;
    unsigned c;

    if (f->sample_rate < LOUDNESS_RATE_MIN) {
        return true;
    }
    a->range.until_step = step_length(f);
    a->loudness = ebur128_init((unsigned)f->n_channels, (unsigned long)f->sample_rate,
                               EBUR128_MODE_I | EBUR128_MODE_TRUE_PEAK);
    for (c = 0; a->loudness != NULL && c < f->n_channels; c++) {
        (void)ebur128_set_channel(a->loudness, c, loudness_channel(f->places[c]));
    }
    return a->loudness != NULL;
}

struct analysis *analysis_open(const struct analysis_format *format)
{
    struct analysis *a = calloc(1, sizeof(*a));

    if (a == NULL) {
        return NULL;
    }
    a->format = *format;
    a->first_loud = -1;
    a->full_scale = 1.0f;
    if (format->bit_depth > 0) { /* the largest positive sample; the negative one is 1.0 */
        a->full_scale -= ldexpf(1.0f, 1 - format->bit_depth);
    }
    if (!loudness_open(a) || !beats_open(&a->beats, format->sample_rate)) {
        analysis_close(&a);
    }
    return a;
}

void analysis_close(struct analysis **analysis)
{
    struct analysis *a = *analysis;

    *analysis = NULL;
    if (a == NULL) {
        return;
    }
    beats_close(&a->beats);
    if (a->loudness != NULL) {
        ebur128_destroy(&a->loudness);
    }
    free(a);
}

/* Make all of them numbers, and count what is at full scale and what is loud. */
static void add_levels(struct analysis *a, float *samples, size_t len)
{
    size_t n_channels = a->format.n_channels, i, c;
    float loudest, level;

    for (i = 0; i < len; i++) {
        loudest = 0;
        for (c = 0; c < n_channels; c++) {
            float *s = &samples[i * n_channels + c];

            if (!(fabsf(*s) <= LEVEL_MAX)) {
                *s = isfinite(*s) ? copysignf(LEVEL_MAX, *s) : 0;
            }
            level = fabsf(*s);
            loudest = level > loudest ? level : loudest;
            a->clipped += level >= a->full_scale;
        }
        if (loudest > SILENCE) {
            a->last_loud = a->samples + (int64_t)i;
            a->first_loud = a->first_loud < 0 ? a->last_loud : a->first_loud;
        }
    }
}

bool analysis_add(struct analysis *a, float *samples, size_t len)
{
    add_levels(a, samples, len);
    a->samples += (int64_t)len;
    beats_add(&a->beats, a->format.sample_rate, samples, a->format.n_channels, len);
    return a->loudness == NULL || loudness_add(a, samples, len);
}

static double true_peak(const struct analysis *a)
{
    double peak = 0, one;
    unsigned c;

    for (c = 0; a->loudness != NULL && c < a->format.n_channels; c++) {
        if (ebur128_true_peak(a->loudness, c, &one) == EBUR128_SUCCESS && one > peak) {
            peak = one;
        }
    }
    return peak > 0 ? 20 * log10(peak) : NAN;
}

bool analysis_end(struct analysis *a, struct analysis_found *found_out)
{
    double lufs = NAN;

    if (a->loudness != NULL && ebur128_loudness_global(a->loudness, &lufs) != EBUR128_SUCCESS) {
        return false;
    }
    if (!isfinite(lufs)) {
        lufs = NAN;
    }
    *found_out = (struct analysis_found){
        .integrated_lufs = lufs,
        .loudness_range = isnan(lufs) ? NAN : range_end(&a->range),
        .true_peak_dbtp = true_peak(a),
        .tempo_bpm = beats_tempo(&a->beats),
        .samples = a->samples,
        .leading_silence = a->first_loud < 0 ? a->samples : a->first_loud,
        .trailing_silence = a->first_loud < 0 ? a->samples : a->samples - 1 - a->last_loud,
        .clipped_samples = a->clipped,
    };
    return true;
}
