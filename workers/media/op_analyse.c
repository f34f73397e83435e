/* Everything that is told of a piece without being asked, and its first waveform, from one decode.
 */
#include <libavutil/channel_layout.h>
#include <libavutil/samplefmt.h>
#include <math.h>

#include "workers/media/analysis.h"
#include "workers/media/waveform.h"

enum { NUMBER_MAX = 32 };

struct analyse {
    struct op *op;
    struct input *in;
    struct analysis *analysis; /* NULL before the first frame */
    struct waveform *waveform; /* NULL: there is none */
    size_t n_channels;
    float block[ANALYSIS_BLOCK * ANALYSIS_CHANNELS_MAX];
};

static enum analysis_place place_of(enum AVChannel channel)
{
    switch (channel) {
    case AV_CHAN_LOW_FREQUENCY:
    case AV_CHAN_LOW_FREQUENCY_2:
        return ANALYSIS_LOW;
    case AV_CHAN_BACK_LEFT:
    case AV_CHAN_BACK_RIGHT:
    case AV_CHAN_BACK_CENTER:
    case AV_CHAN_SIDE_LEFT:
    case AV_CHAN_SIDE_RIGHT:
    case AV_CHAN_SURROUND_DIRECT_LEFT:
    case AV_CHAN_SURROUND_DIRECT_RIGHT:
    case AV_CHAN_TOP_BACK_LEFT:
    case AV_CHAN_TOP_BACK_CENTER:
    case AV_CHAN_TOP_BACK_RIGHT:
        return ANALYSIS_AROUND;
    default:
        return ANALYSIS_FRONT;
    }
}

/* Significant bits of decoded samples; 0: floats. */
static int depth_of(const AVFrame *frame, int claimed)
{
    enum AVSampleFormat format = av_get_packed_sample_fmt((enum AVSampleFormat)frame->format);
    int bits = av_get_bytes_per_sample(format) * 8;

    if (format == AV_SAMPLE_FMT_FLT || format == AV_SAMPLE_FMT_DBL) {
        return 0;
    }
    return claimed >= 8 && claimed < bits ? claimed : bits;
}

static enum media_fault prepare(struct analyse *w, const AVFrame *frame)
{
    const struct input_info *info = input_info(w->in);
    struct analysis_format format = {.sample_rate = info->sample_rate,
                                     .n_channels = (size_t)info->channels,
                                     .bit_depth = depth_of(frame, info->bit_depth)};
    unsigned c;

    for (c = 0; c < format.n_channels; c++) {
        format.places[c] = place_of(av_channel_layout_channel_from_index(&frame->ch_layout, c));
    }
    w->n_channels = format.n_channels;
    w->analysis = analysis_open(&format);
    return w->analysis == NULL ? MEDIA_FAULT_MEMORY : MEDIA_OK;
}

/* One channel of part of a frame as floats into the interleaved block. */
static bool load(struct analyse *w, const AVFrame *f, size_t channel, size_t at, size_t len)
{
    bool planar = av_sample_fmt_is_planar((enum AVSampleFormat)f->format);
    size_t stride = planar ? 1 : w->n_channels, n = w->n_channels, i;
    size_t first = planar ? at : at * stride + channel;
    const void *data = f->extended_data[planar ? channel : 0];
    float *out = w->block + channel;

    switch (av_get_packed_sample_fmt((enum AVSampleFormat)f->format)) {
    case AV_SAMPLE_FMT_U8:
        for (i = 0; i < len; i++) {
            out[i * n] = (float)(((const uint8_t *)data)[first + i * stride] - 128) / 0x1p7f;
        }
        return true;
    case AV_SAMPLE_FMT_S16:
        for (i = 0; i < len; i++) {
            out[i * n] = (float)((const int16_t *)data)[first + i * stride] / 0x1p15f;
        }
        return true;
    case AV_SAMPLE_FMT_S32:
        for (i = 0; i < len; i++) {
            out[i * n] = (float)((const int32_t *)data)[first + i * stride] / 0x1p31f;
        }
        return true;
    case AV_SAMPLE_FMT_FLT:
        for (i = 0; i < len; i++) {
            out[i * n] = ((const float *)data)[first + i * stride];
        }
        return true;
    case AV_SAMPLE_FMT_DBL:
        for (i = 0; i < len; i++) {
            out[i * n] = (float)((const double *)data)[first + i * stride];
        }
        return true;
    default:
        return false;
    }
}

static enum media_fault add_frame(struct analyse *w, const AVFrame *frame)
{
    size_t at, len, c, total = (size_t)frame->nb_samples;
    enum media_fault f = w->analysis == NULL ? prepare(w, frame) : MEDIA_OK;

    for (at = 0; f == MEDIA_OK && at < total; at += len) {
        len = total - at < ANALYSIS_BLOCK ? total - at : ANALYSIS_BLOCK;
        for (c = 0; c < w->n_channels; c++) {
            if (!load(w, frame, c, at, len)) {
                return MEDIA_FAULT_CODEC;
            }
        }
        f = analysis_add(w->analysis, w->block, len) ? MEDIA_OK : MEDIA_FAULT_MEMORY;
    }
    return f;
}

/* A file whose peaks would take too much memory has no waveform, and an analysis all the same. */
static enum media_fault add_peaks(struct analyse *w, const AVFrame *frame)
{
    enum media_fault f = w->waveform == NULL ? MEDIA_OK : waveform_add(w->waveform, w->in, frame);

    if (f == MEDIA_FAULT_RESULT_SIZE) {
        waveform_close(&w->waveform);
        f = MEDIA_OK;
    }
    return f;
}

static enum media_fault decode(struct analyse *w)
{
    const AVFrame *frame;
    enum media_fault f;

    for (;;) {
        f = input_next(w->in, &frame);
        if (f != MEDIA_OK || frame == NULL) {
            return f;
        }
        f = add_frame(w, frame);
        f = f != MEDIA_OK ? f : add_peaks(w, frame);
        if (f != MEDIA_OK) {
            return f;
        }
        link_progress(w->op->link, input_percent(w->in));
    }
}

/* A number with these decimals, or null. */
static const char *number(char out[NUMBER_MAX], double value, int decimals)
{
    (void)snprintf(out, NUMBER_MAX, isfinite(value) ? "%.*f" : "null", decimals, value);
    return out;
}

static long long ms(const struct analyse *w, int64_t samples)
{
    int rate = input_info(w->in)->sample_rate;

    return (samples * 1000 + rate / 2) / rate;
}

/* Ends the result, which is written up to there. */
static enum media_fault tell_waveform(struct analyse *w, size_t at)
{
    char *to = w->op->result + at;
    size_t room = sizeof(w->op->result) - at - 1;
    enum media_fault f = MEDIA_OK;
    bool again;

    if (w->waveform != NULL) {
        f = waveform_end(w->waveform, &again);
        waveform_tell(w->waveform, to, room);
    } else {
        (void)snprintf(to, room, "null");
    }
    memcpy(to + strlen(to), "}", 2);
    return f;
}

static enum media_fault tell(struct analyse *w)
{
    const struct input_info *info = input_info(w->in);
    char lufs[NUMBER_MAX], range[NUMBER_MAX], peak[NUMBER_MAX], tempo[NUMBER_MAX],
        depth[NUMBER_MAX];
    struct analysis_found found;
    int len;

    if (!analysis_end(w->analysis, &found)) {
        return MEDIA_FAULT_MEMORY;
    }
    len = snprintf(
        w->op->result, sizeof(w->op->result),
        "{\"analysis\":{\"integratedLufs\":%s,\"loudnessRangeLu\":%s,\"truePeakDbtp\":%s,"
        "\"tempoBpm\":%s,\"leadingSilenceMs\":%lld,\"trailingSilenceMs\":%lld,"
        "\"clippedSamples\":%lld,\"clippedRatio\":%.9f,\"durationMs\":%lld,"
        "\"codec\":\"%s\",\"sampleRate\":%d,\"channels\":%d,\"bitDepth\":%s},\"waveform\":",
        number(lufs, found.integrated_lufs, 2), number(range, found.loudness_range, 2),
        number(peak, found.true_peak_dbtp, 2), number(tempo, found.tempo_bpm, 1),
        ms(w, found.leading_silence), ms(w, found.trailing_silence),
        (long long)found.clipped_samples,
        (double)found.clipped_samples / (double)found.samples / (double)w->n_channels,
        ms(w, found.samples), info->codec, info->sample_rate, info->channels,
        number(depth, info->bit_depth > 0 ? info->bit_depth : NAN, 0));
    return tell_waveform(w, (size_t)len);
}

enum media_fault op_analyse(struct op *op)
{
    struct analyse *w = calloc(1, sizeof(*w));
    enum media_fault f;

    if (w == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    w->op = op;
    f = waveform_open(op, false, &w->waveform);
    if (f == MEDIA_OK) {
        f = input_open(op->link, 0, op->start->sizes[0], op->start->duration_max_s, &w->in);
    }
    f = f != MEDIA_OK ? f : decode(w);
    f = f != MEDIA_OK ? f : tell(w);
    op->value = w->in == NULL ? 0 : input_value(w->in);
    analysis_close(&w->analysis);
    waveform_close(&w->waveform);
    input_close(&w->in);
    free(w);
    return f;
}
