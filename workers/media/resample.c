/* The resampler writes straight into the frame that is being filled, so a sample is copied once. */
#include "workers/media/resample.h"

#include <libavutil/channel_layout.h>
#include <libavutil/opt.h>
#include <libavutil/samplefmt.h>
#include <libswresample/swresample.h>

enum { CHANNELS_MAX = 8 };

struct resample {
    SwrContext *swr;
    AVFrame *out;
    struct resample_to to;
    AVChannelLayout layout;
    int filled;        /* samples in out */
    const AVFrame *in; /* being used up; NULL: what the resampler holds is asked for */
    int used;          /* samples of in */
    bool is_plain;     /* one sample in is one sample out */
    bool has_ended, is_handed_out;
};

static enum media_fault make_swr(struct resample *r, const AVFrame *like)
{
    AVChannelLayout from = like->ch_layout; /* is only read */
    int rc = swr_alloc_set_opts2(&r->swr, &r->layout, r->to.format, r->to.rate, &from,
                                 (enum AVSampleFormat)like->format, like->sample_rate, 0, NULL);

    if (rc >= 0 && r->to.dither) {
        rc = av_opt_set_int(r->swr, "dither_method", SWR_DITHER_TRIANGULAR, 0);
    }
    rc = rc < 0 ? rc : swr_init(r->swr);
    return rc == AVERROR(ENOMEM) ? MEDIA_FAULT_MEMORY : rc < 0 ? MEDIA_FAULT_INTERNAL : MEDIA_OK;
}

enum media_fault resample_open(const AVFrame *like, const struct resample_to *to,
                               struct resample **resample_out)
{
    struct resample *r = av_mallocz(sizeof(*r));

    *resample_out = r;
    if (r == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    r->to = *to;
    r->to.layout = &r->layout;
    r->is_plain = like->sample_rate == to->rate;
    r->out = av_frame_alloc();
    if (r->out == NULL || av_channel_layout_copy(&r->layout, to->layout) < 0) {
        return MEDIA_FAULT_MEMORY;
    }
    return make_swr(r, like);
}

void resample_feed(struct resample *r, const AVFrame *frame)
{
    r->in = frame;
    r->used = 0;
    r->has_ended = frame == NULL;
}

/* Room for a frame; the buffer of the one before where nobody has kept it. */
static enum media_fault begin_frame(struct resample *r)
{
    r->filled = 0;
    r->is_handed_out = false;
    if (r->out->buf[0] != NULL && av_frame_is_writable(r->out)) {
        r->out->nb_samples = r->to.frame_size;
        return MEDIA_OK;
    }
    av_frame_unref(r->out);
    r->out->format = r->to.format;
    r->out->sample_rate = r->to.rate;
    r->out->nb_samples = r->to.frame_size;
    return av_channel_layout_copy(&r->out->ch_layout, &r->layout) < 0 ||
                   av_frame_get_buffer(r->out, 0) < 0
               ? MEDIA_FAULT_MEMORY
               : MEDIA_OK;
}

/* Where sample number at of each plane lies. */
static void planes_at(const AVFrame *frame, int at, uint8_t *planes[CHANNELS_MAX])
{
    enum AVSampleFormat format = (enum AVSampleFormat)frame->format;
    bool is_planar = av_sample_fmt_is_planar(format);
    int c, n = is_planar ? frame->ch_layout.nb_channels : 1;
    int step = av_get_bytes_per_sample(format) * (is_planar ? 1 : frame->ch_layout.nb_channels);

    for (c = 0; c < n; c++) {
        planes[c] = frame->extended_data[c] + (ptrdiff_t)at * step;
    }
}

/* Fill the rest of the frame as far as there is anything; *did_out: samples. */
static enum media_fault fill(struct resample *r, int *did_out)
{
    uint8_t *to[CHANNELS_MAX] = {NULL}, *from[CHANNELS_MAX] = {NULL};
    int room = r->to.frame_size - r->filled, have = 0;

    planes_at(r->out, r->filled, to);
    if (r->in != NULL) {
        have = r->in->nb_samples - r->used;
        have = r->is_plain && have > room ? room : have; /* so that nothing is held back */
        planes_at(r->in, r->used, from);
        r->used += have;
    }
    *did_out =
        r->in == NULL && !r->has_ended
            ? 0
            : swr_convert(r->swr, to, room, r->in == NULL ? NULL : (const uint8_t **)from, have);
    if (*did_out < 0) {
        return MEDIA_FAULT_INTERNAL;
    }
    r->filled += *did_out;
    return MEDIA_OK;
}

enum media_fault resample_next(struct resample *r, AVFrame **frame_out)
{
    enum media_fault f = MEDIA_OK;
    int did = 1;

    *frame_out = NULL;
    if (r->out->buf[0] == NULL || r->is_handed_out) {
        f = begin_frame(r);
    }
    while (f == MEDIA_OK && r->filled < r->to.frame_size && did > 0) {
        f = fill(r, &did);
    }
    if (f == MEDIA_OK && (r->filled == r->to.frame_size || (r->has_ended && r->filled > 0))) {
        r->out->nb_samples = r->filled;
        r->is_handed_out = true;
        *frame_out = r->out;
    }
    return f;
}

void resample_close(struct resample **resample)
{
    struct resample *r = *resample;

    *resample = NULL;
    if (r != NULL) {
        swr_free(&r->swr);
        av_frame_free(&r->out);
        av_channel_layout_uninit(&r->layout);
        av_free(r);
    }
}
