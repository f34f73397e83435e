/* decode → resample (rate, channels, format, frame size) → encode → mux, one frame at a time. With
 * a loudness target level is set in between, on planar floats of the output's rate and channels. */
#include <libavutil/channel_layout.h>

#include "workers/media/asked.h"
#include "workers/media/input.h"
#include "workers/media/level.h"
#include "workers/media/loudness.h"
#include "workers/media/resample.h"

struct convert {
    struct op *op;
    struct input *in;
    struct output *out;
    struct output_settings settings;
    struct asked asked;
    double gain_db;
    int percent_base;            /* what measuring was worth */
    struct resample *to_encoder; /* the last step */
    struct resample *to_level;   /* and level: NULL without a loudness target */
    struct level *level;
    AVFrame *block; /* of level's kind, to push its end out with */
};

enum {
    MEASURE_PERCENT = 40,
    FRAME_USUAL = 8192 /* samples; where the encoder takes any number, few large ones cost less */
};

/* A depth that loses nothing of the input, as far as the format has one. */
static int choose_depth(const struct convert *c)
{
    int depth = input_info(c->in)->bit_depth;

    if (c->asked.bit_depth != 0) {
        return (int)c->asked.bit_depth;
    }
    if (depth <= 16) {
        return 16;
    }
    return depth == 32 && c->settings.format->encoder == NULL &&
                   av_get_packed_sample_fmt((enum AVSampleFormat)input_first(c->in)->format) ==
                       AV_SAMPLE_FMT_S32
               ? 32
               : 24;
}

static enum media_fault choose_settings(struct convert *c)
{
    const AVFrame *first = input_first(c->in);
    const struct input_info *info = input_info(c->in);
    struct output_settings *s = &c->settings;
    const AVCodec *encoder;
    int channels = c->asked.channels > 0 ? (int)c->asked.channels : info->channels;

    s->bit_depth = choose_depth(c);
    encoder = output_encoder(s->format, s->bit_depth);
    if (encoder == NULL) {
        return MEDIA_FAULT_INTERNAL;
    }
    s->sample_rate = output_rate(s->format, encoder,
                                 c->asked.sample_rate > 0    ? (int)c->asked.sample_rate
                                 : s->format->rate_usual > 0 ? s->format->rate_usual
                                                             : info->sample_rate);
    if (c->asked.sample_rate > 0 && s->sample_rate != c->asked.sample_rate) {
        return asked_bad(c->op, "sampleRate");
    }
    if (!output_layout(encoder, channels, &first->ch_layout, &s->layout)) {
        if (c->asked.channels > 0 || !output_layout(encoder, 2, &first->ch_layout, &s->layout)) {
            return asked_bad(c->op, "channels");
        }
    }
    s->samples_exact = info->duration_exact;
    s->samples_expected =
        info->duration_ms < 0
            ? -1
            : (int64_t)((double)info->duration_ms / 1000.0 * s->sample_rate) + s->sample_rate;
    s->samples_promised = s->sample_rate == info->sample_rate ? info->samples : -1;
    s->level_changed = c->gain_db != 0;
    s->tags = input_format(c->in);
    return MEDIA_OK;
}

/* Where 16 bits are less than there was, dither hides the steps. */
static bool wants_dither(const struct convert *c, const AVFrame *from)
{
    enum AVSampleFormat format = av_get_packed_sample_fmt((enum AVSampleFormat)from->format);

    return !c->settings.format->lossy && c->settings.bit_depth == 16 &&
           (c->level != NULL || (format == AV_SAMPLE_FMT_S32 && input_info(c->in)->bit_depth > 16));
}

static enum media_fault encode(struct convert *c, const AVFrame *frame)
{
    AVFrame *full;
    enum media_fault f;

    resample_feed(c->to_encoder, frame);
    do {
        f = resample_next(c->to_encoder, &full);
        f = f == MEDIA_OK && full != NULL ? output_frame(c->out, full) : f;
    } while (f == MEDIA_OK && full != NULL);
    return f;
}

/* NULL: what the limiter still holds, which comes out behind silence. */
static enum media_fault level_and_encode(struct convert *c, AVFrame *block)
{
    int left = block == NULL ? level_left(c->level) : 0, n, i;
    enum media_fault f = MEDIA_OK;

    if (block != NULL) {
        level_apply(c->level, block);
        return block->nb_samples > 0 ? encode(c, block) : MEDIA_OK;
    }
    for (; f == MEDIA_OK && left > 0; left -= n) {
        n = left < LEVEL_BLOCK ? left : LEVEL_BLOCK;
        c->block->nb_samples = n;
        for (i = 0; i < c->block->ch_layout.nb_channels; i++) {
            memset(c->block->extended_data[i], 0, (size_t)n * sizeof(float));
        }
        f = level_and_encode(c, c->block);
    }
    return f;
}

/* NULL is the end. */
static enum media_fault feed(struct convert *c, const AVFrame *frame)
{
    AVFrame *block;
    enum media_fault f;

    if (c->level == NULL) {
        return encode(c, frame);
    }
    resample_feed(c->to_level, frame);
    do {
        f = resample_next(c->to_level, &block);
        f = f == MEDIA_OK && block != NULL ? level_and_encode(c, block) : f;
    } while (f == MEDIA_OK && block != NULL);
    if (f == MEDIA_OK && frame == NULL) {
        f = level_and_encode(c, NULL);
        f = f != MEDIA_OK ? f : encode(c, NULL);
    }
    return f;
}

/* Planar floats at the output's rate, and level on them. */
static enum media_fault make_level(struct convert *c, const AVFrame *first)
{
    const struct output_settings *s = &c->settings;
    const struct resample_to blocks = {.format = AV_SAMPLE_FMT_FLTP,
                                       .rate = s->sample_rate,
                                       .layout = &s->layout,
                                       .frame_size = LEVEL_BLOCK};
    enum media_fault f = resample_open(first, &blocks, &c->to_level);

    if (f != MEDIA_OK || (c->block = av_frame_alloc()) == NULL) {
        return f != MEDIA_OK ? f : MEDIA_FAULT_MEMORY;
    }
    c->block->format = AV_SAMPLE_FMT_FLTP;
    c->block->sample_rate = s->sample_rate;
    c->block->nb_samples = LEVEL_BLOCK;
    if (av_channel_layout_copy(&c->block->ch_layout, &s->layout) < 0 ||
        av_frame_get_buffer(c->block, 0) < 0) {
        return MEDIA_FAULT_MEMORY;
    }
    return level_open(s, c->gain_db, &c->level);
}

static enum media_fault make_steps(struct convert *c, const AVFrame *first)
{
    const AVCodecContext *codec = output_codec(c->out);
    bool any_size = (codec->codec->capabilities & AV_CODEC_CAP_VARIABLE_FRAME_SIZE) != 0;
    struct resample_to frames = {.format = codec->sample_fmt,
                                 .rate = codec->sample_rate,
                                 .layout = &codec->ch_layout,
                                 .frame_size = any_size ? FRAME_USUAL : codec->frame_size};
    enum media_fault f = c->asked.target_lufs < 0 ? make_level(c, first) : MEDIA_OK;

    frames.dither = wants_dither(c, first);
    return f != MEDIA_OK
               ? f
               : resample_open(c->level != NULL ? c->block : first, &frames, &c->to_encoder);
}

/* All that has to know the first frame. */
static enum media_fault begin(struct convert *c)
{
    enum media_fault f = choose_settings(c);

    if (f == MEDIA_OK) {
        f = output_open(c->op->link, 0, &c->settings, &c->out);
        if (f == MEDIA_FAULT_PARAM) {
            c->op->param = c->settings.bit_rate > 0 ? "bitrate" : "format";
        }
    }
    return f != MEDIA_OK ? f : make_steps(c, input_first(c->in));
}

/* A first pass for a loudness target. */
static enum media_fault measure(struct convert *c)
{
    enum media_fault f = MEDIA_OK;
    double lufs;

    if (c->asked.target_lufs < 0) {
        f = loudness_measure(c->op, 0, MEASURE_PERCENT, &lufs);
        c->percent_base = MEASURE_PERCENT;
        if (f == MEDIA_OK && lufs > LOUDNESS_SILENT) {
            c->gain_db = c->asked.target_lufs - lufs;
        }
    }
    return f;
}

static enum media_fault convert(struct convert *c)
{
    const AVFrame *frame;
    enum media_fault f;

    for (;;) {
        f = input_next(c->in, &frame);
        if (f != MEDIA_OK || frame == NULL) {
            break;
        }
        if (c->out == NULL && (f = begin(c)) != MEDIA_OK) {
            return f;
        }
        if ((f = feed(c, frame)) != MEDIA_OK) {
            return f;
        }
        link_progress(c->op->link,
                      c->percent_base + input_percent(c->in) * (100 - c->percent_base) / 100);
    }
    f = f != MEDIA_OK ? f : feed(c, NULL);
    return f != MEDIA_OK ? f : output_end(c->out);
}

enum media_fault op_convert(struct op *op)
{
    struct convert *c = av_mallocz(sizeof(*c));
    enum media_fault f;

    if (c == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    c->op = op;
    f = asked_read(op, &c->settings, &c->asked);
    f = f != MEDIA_OK ? f : measure(c);
    if (f == MEDIA_OK) {
        f = input_open(op->link, 0, op->start->sizes[0], op->start->duration_max_s, &c->in);
    }
    f = f != MEDIA_OK ? f : convert(c);
    if (f == MEDIA_OK) {
        asked_result(op, &c->settings, c->out);
    }
    op->value = c->in == NULL ? op->value : input_value(c->in);
    resample_close(&c->to_encoder);
    resample_close(&c->to_level);
    level_close(&c->level);
    av_frame_free(&c->block);
    output_close(&c->out);
    input_close(&c->in);
    av_channel_layout_uninit(&c->settings.layout);
    av_free(c);
    return f;
}
