/* The limiter is late; its first samples of silence are dropped here, and whoever uses this sends
 * as much silence behind the end. */
#include "workers/media/level.h"

#include <stdlib.h>
#include <string.h>

#include "workers/media/limiter.h"
#include "workers/media/mix.h"

_Static_assert((int)LEVEL_BLOCK == (int)LIMITER_BLOCK, "a frame is a block of the limiter");

/* EBU R128 and the streaming services ask for -1 dBTP. Two estimates of a peak between samples
 * differ by up to 0.1 dB. What a lossy coder leaves out raises peaks, the more the coarser it is:
 * decoded again, music that was limited hard had up to 1.1 dB more at 96 kbit/s a channel, 1.4 dB
 * at 64, 2.4 dB at 32 to 48. */
static const double CEILING_DB = -1.1;
static const struct {
    int64_t bit_rate; /* from so much a channel on */
    double quality;   /* or this */
    double ceiling_db;
} lossy[] = {{96000, 5, -2.2}, {64000, 5, -2.6}, {0, 0, -3.4}};

struct level {
    double gain; /* a factor */
    struct limiter *limiter;
    int late;
    int skip; /* of late, still to be dropped */
};

static double ceiling_db(const struct output_settings *s)
{
    size_t i = 0;

    if (!s->format->lossy) {
        return CEILING_DB;
    }
    if (s->quality >= 0) {
        while (s->quality < lossy[i].quality) {
            i++;
        }
    } else if (s->bit_rate > 0) {
        while (s->bit_rate < lossy[i].bit_rate * s->layout.nb_channels) {
            i++;
        }
    }
    return lossy[i].ceiling_db;
}

enum media_fault level_open(const struct output_settings *settings, double gain_db,
                            struct level **level_out)
{
    struct level *l = calloc(1, sizeof(*l));
    enum media_fault f;

    *level_out = l;
    if (l == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    l->gain = mix_gain(gain_db);
    f = limiter_open(settings->sample_rate, settings->layout.nb_channels,
                     mix_gain(ceiling_db(settings)), &l->limiter);
    if (f == MEDIA_OK) {
        l->late = l->skip = limiter_delay(l->limiter);
    }
    return f;
}

void level_apply(struct level *l, AVFrame *frame)
{
    float *const *planes = (float *const *)frame->extended_data;
    int c, n = frame->nb_samples, channels = frame->ch_layout.nb_channels;
    int skip = l->skip < n ? l->skip : n;

    for (c = 0; l->gain != 1.0 && c < channels; c++) {
        mix_scale(planes[c], (float)l->gain, n);
    }
    limiter_run(l->limiter, planes, n);
    for (c = 0; skip > 0 && c < channels; c++) {
        memmove(planes[c], planes[c] + skip, (size_t)(n - skip) * sizeof(float));
    }
    l->skip -= skip;
    frame->nb_samples = n - skip;
}

int level_left(const struct level *l)
{
    return l->late;
}

void level_close(struct level **level)
{
    struct level *l = *level;

    *level = NULL;
    if (l != NULL) {
        limiter_close(&l->limiter);
        free(l);
    }
}
