/* The same words for every operation that encodes. */
#include "workers/media/asked.h"

#include "workers/media/input.h"
#include "workers/media/params.h"

enum media_fault asked_bad(struct op *op, const char *param)
{
    op->param = param;
    return MEDIA_FAULT_PARAM;
}

enum media_fault asked_read(struct op *op, struct output_settings *settings, struct asked *asked)
{
    const char *params = op->params;
    char format[16];

    settings->quality = -1;
    if (!params_text(params, "format", format, sizeof(format)) ||
        (settings->format = output_format_find(format)) == NULL) {
        return asked_bad(op, "format");
    }
    if (!params_i64(params, "bitrate", 500, 1000000, &settings->bit_rate)) {
        return asked_bad(op, "bitrate");
    }
    if (!params_double(params, "quality", 0, 10, &settings->quality) ||
        (settings->quality >= 0 && settings->bit_rate > 0)) {
        return asked_bad(op, "quality");
    }
    if (!settings->format->lossy && settings->bit_rate > 0) {
        return asked_bad(op, "bitrate");
    }
    if (!params_i64(params, "sampleRate", INPUT_RATE_MIN, INPUT_RATE_MAX, &asked->sample_rate)) {
        return asked_bad(op, "sampleRate");
    }
    if (!params_i64(params, "channels", 1, INPUT_CHANNELS_MAX, &asked->channels)) {
        return asked_bad(op, "channels");
    }
    if (!params_i64(params, "bitDepth", 16, 24, &asked->bit_depth) ||
        (asked->bit_depth != 0 && asked->bit_depth != 16 && asked->bit_depth != 24)) {
        return asked_bad(op, "bitDepth");
    }
    if (!params_double(params, "targetLufs", -70, -5, &asked->target_lufs)) {
        return asked_bad(op, "targetLufs");
    }
    return MEDIA_OK;
}

void asked_result(struct op *op, const struct output_settings *settings, const struct output *out)
{
    const AVCodecContext *codec = output_codec(out);
    int64_t rate = codec->sample_rate;
    char depth[16];

    (void)snprintf(depth, sizeof(depth), "%d", settings->bit_depth);
    (void)snprintf(op->result, sizeof(op->result),
                   "{\"output\":0,\"format\":\"%s\",\"codec\":\"%s\",\"sampleRate\":%lld,"
                   "\"channels\":%d,\"bitDepth\":%s,\"durationMs\":%lld}",
                   settings->format->name, avcodec_get_name(codec->codec_id), (long long)rate,
                   codec->ch_layout.nb_channels, settings->format->lossy ? "null" : depth,
                   (long long)((output_samples(out) * 1000 + rate / 2) / rate));
}
