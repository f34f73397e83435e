/* decode → filter graph (rate, channels, format, loudness, frame size) → encode → mux, one frame at a time. */
#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavfilter/buffersrc.h>
#include <libavutil/channel_layout.h>

#include "workers/media/input.h"
#include "workers/media/op.h"
#include "workers/media/output.h"
#include "workers/media/params.h"

struct convert {
    struct op *op;
    struct input *in;
    struct output *out;
    struct output_settings settings;
    int64_t sample_rate, channels, bit_depth; /* asked for; 0: as the input */
    double target_lufs;                       /* 0: none */
    AVFilterGraph *graph;
    AVFilterContext *source, *sink;
    AVFrame *fed, *filtered;
    int64_t fed_samples;
};

static enum media_fault bad(struct op *op, const char *param)
{
    op->param = param;
    return MEDIA_FAULT_PARAM;
}

static enum media_fault read_params(struct convert *c)
{
    const char *params = c->op->params;
    char format[16];

    c->settings.quality = -1;
    if (!params_text(params, "format", format, sizeof(format)) ||
        (c->settings.format = output_format_find(format)) == NULL) {
        return bad(c->op, "format");
    }
    if (!params_i64(params, "bitrate", 500, 1000000, &c->settings.bit_rate)) {
        return bad(c->op, "bitrate");
    }
    if (!params_double(params, "quality", 0, 10, &c->settings.quality) ||
        (c->settings.quality >= 0 && c->settings.bit_rate > 0)) {
        return bad(c->op, "quality");
    }
    if (!c->settings.format->lossy && c->settings.bit_rate > 0) {
        return bad(c->op, "bitrate");
    }
    if (!params_i64(params, "sampleRate", INPUT_RATE_MIN, INPUT_RATE_MAX, &c->sample_rate)) {
        return bad(c->op, "sampleRate");
    }
    if (!params_i64(params, "channels", 1, INPUT_CHANNELS_MAX, &c->channels)) {
        return bad(c->op, "channels");
    }
    if (!params_i64(params, "bitDepth", 16, 24, &c->bit_depth) ||
        (c->bit_depth != 0 && c->bit_depth != 16 && c->bit_depth != 24)) {
        return bad(c->op, "bitDepth");
    }
    if (!params_double(params, "targetLufs", -70, -5, &c->target_lufs)) {
        return bad(c->op, "targetLufs");
    }
    return MEDIA_OK;
}

/* A depth that loses nothing of the input, as far as the format has one. */
static int choose_depth(const struct convert *c)
{
    int depth = input_info(c->in)->bit_depth;

    if (c->bit_depth != 0) {
        return (int)c->bit_depth;
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
    int channels = c->channels > 0 ? (int)c->channels : info->channels;

    s->bit_depth = choose_depth(c);
    encoder = output_encoder(s->format, s->bit_depth);
    if (encoder == NULL) {
        return MEDIA_FAULT_INTERNAL;
    }
    s->sample_rate = output_rate(s->format, encoder,
                                 c->sample_rate > 0 ? (int)c->sample_rate : info->sample_rate);
    if (c->sample_rate > 0 && s->sample_rate != c->sample_rate) {
        return bad(c->op, "sampleRate");
    }
    if (!output_layout(encoder, channels, &first->ch_layout, &s->layout)) {
        if (c->channels > 0 || !output_layout(encoder, 2, &first->ch_layout, &s->layout)) {
            return bad(c->op, "channels");
        }
    }
    s->samples_expected =
        info->duration_exact && info->duration_ms >= 0
            ? (int64_t)((double)info->duration_ms / 1000.0 * s->sample_rate) + s->sample_rate
            : -1;
    s->tags = input_format(c->in);
    return MEDIA_OK;
}

/* Where precision is lost from integers, dither hides the steps. */
static bool wants_dither(const struct convert *c, enum AVSampleFormat from)
{
    return !c->settings.format->lossy && c->settings.bit_depth == 16 &&
           av_get_packed_sample_fmt(from) == AV_SAMPLE_FMT_S32 && input_info(c->in)->bit_depth > 16;
}

static int describe_graph(const struct convert *c, char *text, size_t size)
{
    const AVCodecContext *codec = output_codec(c->out);
    char layout[128], loudness[64] = "";

    if (av_channel_layout_describe(&codec->ch_layout, layout, sizeof(layout)) < 0) {
        return -1;
    }
    if (c->target_lufs < 0) {
        (void)snprintf(loudness, sizeof(loudness), "loudnorm=I=%.2f:TP=-1.5:LRA=11,",
                       c->target_lufs);
    }
    return snprintf(text, size,
                    "%saresample=%d%s,aformat=sample_fmts=%s:sample_rates=%d:channel_layouts=%s",
                    loudness, codec->sample_rate,
                    wants_dither(c, (enum AVSampleFormat)input_first(c->in)->format)
                        ? ":dither_method=triangular"
                        : "",
                    av_get_sample_fmt_name(codec->sample_fmt), codec->sample_rate, layout);
}

/* The graph's open ends, with the input's format set at its source. */
static enum media_fault make_ends(struct convert *c)
{
    const AVFrame *first = input_first(c->in);
    AVBufferSrcParameters *par = av_buffersrc_parameters_alloc();
    int rc;

    c->source = avfilter_graph_alloc_filter(c->graph, avfilter_get_by_name("abuffer"), "in");
    c->sink = avfilter_graph_alloc_filter(c->graph, avfilter_get_by_name("abuffersink"), "out");
    if (c->source == NULL || c->sink == NULL || par == NULL) {
        av_free(par);
        return MEDIA_FAULT_MEMORY;
    }
    par->format = first->format;
    par->sample_rate = first->sample_rate;
    par->time_base = (AVRational){1, first->sample_rate};
    rc = av_channel_layout_copy(&par->ch_layout, &first->ch_layout);
    rc = rc < 0 ? rc : av_buffersrc_parameters_set(c->source, par);
    rc = rc < 0 ? rc : avfilter_init_str(c->source, NULL);
    rc = rc < 0 ? rc : avfilter_init_str(c->sink, NULL);
    av_channel_layout_uninit(&par->ch_layout);
    av_free(par);
    return rc < 0 ? MEDIA_FAULT_INTERNAL : MEDIA_OK;
}

static enum media_fault make_graph(struct convert *c)
{
    AVFilterInOut *inputs = avfilter_inout_alloc(), *outputs = avfilter_inout_alloc();
    const AVCodecContext *codec = output_codec(c->out);
    enum media_fault f;
    char text[512];
    int rc = -1;

    c->graph = avfilter_graph_alloc();
    if (c->graph == NULL || inputs == NULL || outputs == NULL) {
        avfilter_inout_free(&inputs);
        avfilter_inout_free(&outputs);
        return MEDIA_FAULT_MEMORY;
    }
    c->graph->nb_threads = 1;
    f = make_ends(c);
    if (f == MEDIA_OK && describe_graph(c, text, sizeof(text)) > 0) {
        outputs->name = av_strdup("in");
        outputs->filter_ctx = c->source;
        inputs->name = av_strdup("out");
        inputs->filter_ctx = c->sink;
        rc = avfilter_graph_parse_ptr(c->graph, text, &inputs, &outputs, NULL);
        rc = rc < 0 ? rc : avfilter_graph_config(c->graph, NULL);
    }
    avfilter_inout_free(&inputs);
    avfilter_inout_free(&outputs);
    if (f == MEDIA_OK && rc >= 0 && codec->frame_size > 0 &&
        (codec->codec->capabilities & AV_CODEC_CAP_VARIABLE_FRAME_SIZE) == 0) {
        av_buffersink_set_frame_size(c->sink, (unsigned)codec->frame_size);
    }
    return f != MEDIA_OK ? f : rc == AVERROR(ENOMEM) ? MEDIA_FAULT_MEMORY
                           : rc < 0                  ? MEDIA_FAULT_INTERNAL
                                                     : MEDIA_OK;
}

/* Encode all that the graph has ready. */
static enum media_fault drain(struct convert *c)
{
    enum media_fault f = MEDIA_OK;
    int rc = 0;

    while (f == MEDIA_OK && (rc = av_buffersink_get_frame(c->sink, c->filtered)) >= 0) {
        f = output_frame(c->out, c->filtered);
        av_frame_unref(c->filtered);
    }
    return f != MEDIA_OK ? f
           : rc == AVERROR(EAGAIN) || rc == AVERROR_EOF ? MEDIA_OK
           : rc == AVERROR(ENOMEM)                      ? MEDIA_FAULT_MEMORY
                                                        : MEDIA_FAULT_INTERNAL;
}

/* NULL is the end. */
static enum media_fault feed(struct convert *c, const AVFrame *frame)
{
    int rc;

    if (frame != NULL) {
        rc = av_frame_ref(c->fed, frame);
        if (rc >= 0) {
            c->fed->pts = c->fed_samples;
            c->fed_samples += frame->nb_samples;
            rc = av_buffersrc_add_frame(c->source, c->fed);
            av_frame_unref(c->fed);
        }
    } else {
        rc = av_buffersrc_add_frame(c->source, NULL);
    }
    return rc == AVERROR(ENOMEM) ? MEDIA_FAULT_MEMORY
           : rc < 0              ? MEDIA_FAULT_INTERNAL
                                 : drain(c);
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
    f = f != MEDIA_OK ? f : make_graph(c);
    c->fed = av_frame_alloc();
    c->filtered = av_frame_alloc();
    return f == MEDIA_OK && (c->fed == NULL || c->filtered == NULL) ? MEDIA_FAULT_MEMORY : f;
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
        link_progress(c->op->link, input_percent(c->in));
    }
    f = f != MEDIA_OK ? f : feed(c, NULL);
    return f != MEDIA_OK ? f : output_end(c->out);
}

static void write_result(struct convert *c)
{
    const AVCodecContext *codec = output_codec(c->out);
    int64_t rate = codec->sample_rate;
    char depth[16];

    (void)snprintf(depth, sizeof(depth), "%d", c->settings.bit_depth);
    (void)snprintf(c->op->result, sizeof(c->op->result),
                   "{\"output\":0,\"format\":\"%s\",\"codec\":\"%s\",\"sampleRate\":%lld,"
                   "\"channels\":%d,\"bitDepth\":%s,\"durationMs\":%lld}",
                   c->settings.format->name, avcodec_get_name(codec->codec_id), (long long)rate,
                   codec->ch_layout.nb_channels, c->settings.format->lossy ? "null" : depth,
                   (long long)((output_samples(c->out) * 1000 + rate / 2) / rate));
}

enum media_fault op_convert(struct op *op)
{
    struct convert *c = av_mallocz(sizeof(*c));
    enum media_fault f;

    if (c == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    c->op = op;
    f = read_params(c);
    if (f == MEDIA_OK) {
        f = input_open(op->link, 0, op->start->sizes[0], op->start->duration_max_s, &c->in);
    }
    f = f != MEDIA_OK ? f : convert(c);
    if (f == MEDIA_OK) {
        write_result(c);
    }
    op->value = c->in == NULL ? 0 : input_value(c->in);
    av_frame_free(&c->fed);
    av_frame_free(&c->filtered);
    avfilter_graph_free(&c->graph);
    output_close(&c->out);
    input_close(&c->in);
    av_channel_layout_uninit(&c->settings.layout);
    av_free(c);
    return f;
}
