/* decode → filters (loudness, rate, channels, format, frame size) → encode → mux, one frame at a
 * time. */
#include <libavutil/channel_layout.h>

#include "workers/media/asked.h"
#include "workers/media/chain.h"
#include "workers/media/input.h"
#include "workers/media/loudness.h"

struct convert {
    struct op *op;
    struct input *in;
    struct output *out;
    struct output_settings settings;
    struct asked asked;
    double gain_db;
    int percent_base; /* what measuring was worth */
    struct chain *chain;
};

enum { MEASURE_PERCENT = 40 };

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

/* Where precision is lost from integers, dither hides the steps. */
static bool wants_dither(const struct convert *c, enum AVSampleFormat from)
{
    return !c->settings.format->lossy && c->settings.bit_depth == 16 &&
           av_get_packed_sample_fmt(from) == AV_SAMPLE_FMT_S32 && input_info(c->in)->bit_depth > 16;
}

/* Loudness by a plain gain, which leaves the music's dynamics alone; what it lifts over full scale
 * is limited, with room for peaks between samples. */
static int describe_chain(const struct convert *c, char *text, size_t size)
{
    const AVCodecContext *codec = output_codec(c->out);
    char layout[128], loudness[96] = "";

    if (av_channel_layout_describe(&codec->ch_layout, layout, sizeof(layout)) < 0) {
        return -1;
    }
    if (c->gain_db != 0) {
        (void)snprintf(loudness, sizeof(loudness), "volume=%.3fdB:precision=double,%s", c->gain_db,
                       c->gain_db > 0 ? "alimiter=limit=0.84:level=0:latency=1," : "");
    }
    return snprintf(text, size,
                    "%saresample=%d%s,aformat=sample_fmts=%s:sample_rates=%d:channel_layouts=%s",
                    loudness, codec->sample_rate,
                    wants_dither(c, (enum AVSampleFormat)input_first(c->in)->format)
                        ? ":dither_method=triangular"
                        : "",
                    av_get_sample_fmt_name(codec->sample_fmt), codec->sample_rate, layout);
}

/* NULL is the end. Encodes all that the chain has ready. */
static enum media_fault feed(struct convert *c, const AVFrame *frame)
{
    enum media_fault f = chain_feed(c->chain, frame);
    AVFrame *filtered;

    while (f == MEDIA_OK) {
        f = chain_next(c->chain, &filtered);
        if (f != MEDIA_OK || filtered == NULL) {
            break;
        }
        f = output_frame(c->out, filtered);
    }
    return f;
}

static enum media_fault make_chain(struct convert *c)
{
    const AVCodecContext *codec = output_codec(c->out);
    bool any_size = (codec->codec->capabilities & AV_CODEC_CAP_VARIABLE_FRAME_SIZE) != 0;
    char text[512];

    return describe_chain(c, text, sizeof(text)) <= 0
               ? MEDIA_FAULT_INTERNAL
               : chain_open(input_first(c->in), text, any_size ? 0 : codec->frame_size, &c->chain);
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
    return f != MEDIA_OK ? f : make_chain(c);
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
    chain_close(&c->chain);
    output_close(&c->out);
    input_close(&c->in);
    av_channel_layout_uninit(&c->settings.layout);
    av_free(c);
    return f;
}
