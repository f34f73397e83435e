/* Frames are brought to 16 bits block by block, in the cache, and forgotten. */
#include "workers/media/waveform.h"

#include <libavutil/samplefmt.h>

#include "workers/media/params.h"
#include "workers/media/picture.h"
#include "workers/media/wavefile.h"

enum {
    ZOOMS_MAX = 8,
    ZOOM_DEFAULT = 256,
    ZOOM_MAX = 1000000,
    PIXELS_PER_SECOND_MAX = 100000,
    WIDTH_DEFAULT = 1800,
    HEIGHT_DEFAULT = 280,
    PEAKS_BYTES_MAX =
        192 << 20 /* of all zooms; 8 h of stereo at 48 kHz, zoom 256, per channel are 43 MB */
};

struct waveform {
    struct op *op;
    const struct input *in;
    int64_t samples_per_pixel[ZOOMS_MAX];
    size_t n_zooms;
    int64_t pixels_per_second, bits, version;
    bool per_channel;
    struct picture picture;
    size_t n_channels; /* of the input */
    struct zoom zooms[ZOOMS_MAX];
    struct outline outline;
    int16_t planes[PEAKS_CHANNELS_MAX][PEAKS_BLOCK];
    int16_t mono[PEAKS_BLOCK];
    uint32_t output; /* next number */
    char *result;    /* where the files are listed, with room for so many bytes */
    size_t result_size, result_len;
};

static enum media_fault bad(struct op *op, const char *param)
{
    op->param = param;
    return MEDIA_FAULT_PARAM;
}

static enum media_fault read_zooms(struct waveform *w)
{
    const char *params = w->op->params;
    char name[16];
    int64_t one = 0;

    if (!params_i64(params, "pixelsPerSecond", 1, PIXELS_PER_SECOND_MAX, &w->pixels_per_second)) {
        return bad(w->op, "pixelsPerSecond");
    }
    if (!params_i64(params, "zoom", 2, ZOOM_MAX, &one)) {
        return bad(w->op, "zoom");
    }
    if (one > 0) {
        w->samples_per_pixel[w->n_zooms++] = one;
    }
    for (; w->n_zooms <= ZOOMS_MAX; w->n_zooms++) {
        one = 0;
        (void)snprintf(name, sizeof(name), "zoom.%zu", w->n_zooms);
        if (!params_i64(params, name, 2, ZOOM_MAX, &one)) {
            return bad(w->op, "zoom");
        }
        if (one == 0) {
            break;
        }
        if (w->n_zooms == ZOOMS_MAX) {
            return bad(w->op, "zoom");
        }
        w->samples_per_pixel[w->n_zooms] = one;
    }
    return w->n_zooms > 0 && w->pixels_per_second > 0 ? bad(w->op, "pixelsPerSecond") : MEDIA_OK;
}

static enum media_fault read_params(struct waveform *w)
{
    static const struct picture plain = {.background = {255, 255, 255, 255},
                                         .waveform = {76, 110, 245, 255}};
    const char *params = w->op->params;
    int64_t width = WIDTH_DEFAULT, height = HEIGHT_DEFAULT;

    w->bits = 16;
    w->picture = plain;
    if (!params_i64(params, "bits", 8, 16, &w->bits) || (w->bits != 8 && w->bits != 16)) {
        return bad(w->op, "bits");
    }
    if (!params_i64(params, "version", 1, 2, &w->version)) {
        return bad(w->op, "version");
    }
    if (!params_bool(params, "perChannel", &w->per_channel)) {
        return bad(w->op, "perChannel");
    }
    if (!params_i64(params, "width", 1, PICTURE_WIDTH_MAX, &width)) {
        return bad(w->op, "width");
    }
    if (!params_i64(params, "height", 1, PICTURE_HEIGHT_MAX, &height)) {
        return bad(w->op, "height");
    }
    if (!params_color(params, "colors.background", w->picture.background)) {
        return bad(w->op, "colors.background");
    }
    if (!params_color(params, "colors.waveform", w->picture.waveform)) {
        return bad(w->op, "colors.waveform");
    }
    w->picture.width = (int)width;
    w->picture.height = (int)height;
    return read_zooms(w);
}

/* What depends on the file: channels, rate, the default zoom. */
static enum media_fault prepare(struct waveform *w)
{
    const struct input_info *info = input_info(w->in);
    size_t i, rows;

    w->n_channels = (size_t)info->channels;
    rows = w->per_channel ? w->n_channels : 1;
    if (w->version == 1 && rows > 1) {
        return bad(w->op, "version"); /* version 1 knows one channel */
    }
    if (w->version == 0) {
        w->version = rows > 1 ? 2 : 1; /* as audiowaveform chooses */
    }
    if (w->n_zooms == 0) {
        w->samples_per_pixel[w->n_zooms++] =
            w->pixels_per_second > 0 ? info->sample_rate / w->pixels_per_second : ZOOM_DEFAULT;
        if (w->samples_per_pixel[0] < 2) {
            return bad(w->op, "pixelsPerSecond");
        }
    }
    for (i = 0; i < w->n_zooms; i++) {
        zoom_init(&w->zooms[i], w->samples_per_pixel[i], rows);
    }
    return outline_init(&w->outline, rows) ? MEDIA_OK : MEDIA_FAULT_MEMORY;
}

/* One channel of part of a frame as 16 bits. */
static bool load(const AVFrame *f, size_t channel, size_t at, size_t len, int16_t *out)
{
    bool planar = av_sample_fmt_is_planar((enum AVSampleFormat)f->format);
    size_t stride = planar ? 1 : (size_t)f->ch_layout.nb_channels;
    size_t first = planar ? at : at * stride + channel;
    const uint8_t *data = f->extended_data[planar ? channel : 0];

    switch (av_get_packed_sample_fmt((enum AVSampleFormat)f->format)) {
    case AV_SAMPLE_FMT_U8:
        peaks_from_u8(data + first, stride, len, out);
        return true;
    case AV_SAMPLE_FMT_S16:
        peaks_from_s16((const int16_t *)(const void *)data + first, stride, len, out);
        return true;
    case AV_SAMPLE_FMT_S32:
        peaks_from_s32((const int32_t *)(const void *)data + first, stride, len, out);
        return true;
    case AV_SAMPLE_FMT_FLT:
        peaks_from_float((const float *)(const void *)data + first, stride, len, out);
        return true;
    case AV_SAMPLE_FMT_DBL:
        peaks_from_double((const double *)(const void *)data + first, stride, len, out);
        return true;
    default:
        return false;
    }
}

static enum media_fault add_block(struct waveform *w, const AVFrame *frame, size_t at, size_t len)
{
    const int16_t *channels[PEAKS_CHANNELS_MAX];
    size_t c, i;

    for (c = 0; c < w->n_channels; c++) {
        if (!load(frame, c, at, len, w->planes[c])) {
            return MEDIA_FAULT_CODEC;
        }
        channels[c] = w->planes[c];
    }
    if (!w->per_channel && w->n_channels > 1) {
        peaks_mix(channels, w->n_channels, len, w->mono);
        channels[0] = w->mono;
    }
    for (i = 0; i < w->n_zooms; i++) {
        if (!zoom_add(&w->zooms[i], channels, len)) {
            return MEDIA_FAULT_MEMORY;
        }
    }
    outline_add(&w->outline, channels, len);
    return MEDIA_OK;
}

enum media_fault waveform_add(struct waveform *w, const struct input *in, const AVFrame *frame)
{
    size_t at, len, total = (size_t)frame->nb_samples, i, bytes = 0;
    enum media_fault f = MEDIA_OK;

    if (w->in == NULL) {
        w->in = in;
        f = prepare(w);
    }
    for (at = 0; f == MEDIA_OK && at < total; at += len) {
        len = total - at < PEAKS_BLOCK ? total - at : PEAKS_BLOCK;
        f = add_block(w, frame, at, len);
    }
    for (i = 0; i < w->n_zooms; i++) {
        bytes += w->zooms[i].length * w->zooms[i].n_channels * 4;
    }
    return f == MEDIA_OK && bytes > PEAKS_BYTES_MAX ? MEDIA_FAULT_RESULT_SIZE : f;
}

static void on_data(void *context, const void *data, size_t len)
{
    struct waveform *w = context;

    link_write(w->op->link, w->output, data, len);
}

/* The current output is written: name it in the result. */
static void finish_output(struct waveform *w, const char *format, int64_t samples_per_pixel)
{
    char *to = w->result + w->result_len;
    size_t room = w->result_size - w->result_len;
    int len = snprintf(to, room, "%s{\"output\":%u,\"format\":\"%s\",\"samplesPerPixel\":%lld}",
                       w->output > 0 ? "," : "", w->output, format, (long long)samples_per_pixel);

    w->result_len += (size_t)len < room ? (size_t)len : 0;
    link_finish(w->op->link, w->output++);
}

enum media_fault waveform_write(struct waveform *w, char *result, size_t size)
{
    const struct input_info *info = input_info(w->in);
    int64_t samples = input_samples(w->in);
    size_t i;

    w->result = result;
    w->result_size = size;
    w->result_len = (size_t)snprintf(
        result, size, "{\"durationMs\":%lld,\"sampleRate\":%d,\"channels\":%d,\"files\":[",
        (long long)((samples * 1000 + info->sample_rate / 2) / info->sample_rate),
        info->sample_rate, info->channels);
    for (i = 0; i < w->n_zooms; i++) {
        const struct wavefile file = {.zoom = &w->zooms[i],
                                      .sample_rate = info->sample_rate,
                                      .bits = (int)w->bits,
                                      .version = (int)w->version};

        if (!zoom_end(&w->zooms[i])) {
            return MEDIA_FAULT_MEMORY;
        }
        wavefile_dat(&file, on_data, w);
        finish_output(w, "dat", file.zoom->samples_per_pixel);
        wavefile_json(&file, on_data, w);
        finish_output(w, "json", file.zoom->samples_per_pixel);
    }
    if (!picture_draw(&w->picture, &w->outline, on_data, w)) {
        return MEDIA_FAULT_MEMORY;
    }
    finish_output(w, "png", (samples + w->picture.width - 1) / w->picture.width);
    (void)snprintf(result + w->result_len, size - w->result_len, "]}");
    return MEDIA_OK;
}

enum media_fault waveform_open(struct op *op, struct waveform **waveform_out)
{
    struct waveform *w = calloc(1, sizeof(*w));

    *waveform_out = w;
    if (w == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    w->op = op;
    return read_params(w);
}

void waveform_close(struct waveform **waveform)
{
    struct waveform *w = *waveform;
    size_t i;

    *waveform = NULL;
    if (w == NULL) {
        return;
    }
    for (i = 0; i < ZOOMS_MAX; i++) {
        zoom_done(&w->zooms[i]);
    }
    outline_done(&w->outline);
    free(w);
}
