/* Frames are brought to 16 bits block by block, in the cache, and forgotten. Peaks are held until
 * the end, where they are written file by file, as long as they are few. The zoom that holds most
 * is written as it goes when they become too many: its .dat while the file is decoded, and its
 * JSON, which begins with the number of runs, while it is decoded once more. */
#include "workers/media/waveform.h"

#include <endian.h>

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
    HELD_BYTES_MAX = 24 << 20,   /* of all zooms; 8 h at 48 kHz and zoom 256 are 21.6 MiB */
    PEAKS_BYTES_MAX = 192 << 20, /* of all zooms, held or written */
    STREAM_RUNS = 16384          /* written at once */
};

/* What is done with a zoom's runs. */
enum zoom_way { HOLD, STREAM_DAT, STREAM_JSON, LEAVE };

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
    enum zoom_way ways[ZOOMS_MAX];
    uint32_t runs[ZOOMS_MAX];     /* STREAM_DAT: as far as they are known; later: of the whole */
    uint32_t streamed[ZOOMS_MAX]; /* of them, in this decode */
    bool may_stream, is_second;   /* the second decode, for JSON */
    struct outline outline;
    int16_t planes[PEAKS_CHANNELS_MAX][PEAKS_BLOCK];
    int16_t mono[PEAKS_BLOCK];
    uint32_t output; /* being written: zoom i's .dat is 2i, its .json 2i + 1, the picture last */
    int64_t samples; /* once all are decoded */
    int sample_rate;
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
        if (w->ways[i] != LEAVE && !zoom_add(&w->zooms[i], channels, len)) {
            return MEDIA_FAULT_MEMORY;
        }
    }
    if (!w->is_second) {
        outline_add(&w->outline, channels, len);
    }
    return MEDIA_OK;
}

static void on_data(void *context, const void *data, size_t len)
{
    struct waveform *w = context;

    link_write(w->op->link, w->output, data, len);
}

static struct wavefile file_of(const struct waveform *w, size_t i)
{
    return (struct wavefile){.zoom = &w->zooms[i],
                             .sample_rate = input_info(w->in)->sample_rate,
                             .bits = (int)w->bits,
                             .version = (int)w->version};
}

/* ---- what is too much to hold ---- */

/* Write what zoom i holds, and let go of it. */
static void stream(struct waveform *w, size_t i)
{
    const struct wavefile file = file_of(w, i);

    if (w->ways[i] == STREAM_DAT) {
        w->output = 2 * (uint32_t)i;
        wavefile_dat_data(&file, on_data, w);
    } else {
        w->output = 2 * (uint32_t)i + 1;
        wavefile_json_data(&file, w->streamed[i] == 0, on_data, w);
    }
    w->streamed[i] += (uint32_t)w->zooms[i].length;
    w->zooms[i].length = 0;
}

/* From now on zoom i is written as it goes. Its head says how many runs there will be, as far as
 * the input's headers tell; the end corrects it where they were wrong. */
static void begin_stream(struct waveform *w, size_t i)
{
    const struct input_info *info = input_info(w->in);
    const struct wavefile file = file_of(w, i);
    int64_t samples = info->samples >= 0 ? info->samples : 0, per_run = w->samples_per_pixel[i];

    w->ways[i] = STREAM_DAT;
    w->runs[i] = (uint32_t)((samples + per_run - 1) / per_run);
    w->output = 2 * (uint32_t)i;
    wavefile_dat_head(&file, w->runs[i], on_data, w);
    stream(w, i);
    zoom_shrink(&w->zooms[i]);
}

static size_t run_bytes(const struct zoom *z)
{
    return z->n_channels * 2 * sizeof(*z->data);
}

/* Keep within bounds what is held and what becomes of it all. */
static enum media_fault look_at_size(struct waveform *w)
{
    size_t i, most = 0, held = 0, all = 0;

    for (i = 0; i < w->n_zooms; i++) {
        const struct zoom *z = &w->zooms[i];

        if (w->ways[i] == STREAM_DAT || w->ways[i] == STREAM_JSON) {
            if (z->length >= STREAM_RUNS) {
                stream(w, i);
            }
        } else {
            held += z->length * run_bytes(z);
            most = z->length * run_bytes(z) > w->zooms[most].length * run_bytes(&w->zooms[most])
                       ? i
                       : most;
        }
        all += (z->length + w->streamed[i]) * run_bytes(z);
    }
    if (all > PEAKS_BYTES_MAX || (held > HELD_BYTES_MAX && !w->may_stream)) {
        return MEDIA_FAULT_RESULT_SIZE;
    }
    if (held > HELD_BYTES_MAX) {
        begin_stream(w, most);
    }
    return MEDIA_OK;
}

enum media_fault waveform_add(struct waveform *w, const struct input *in, const AVFrame *frame)
{
    size_t at, len, total = (size_t)frame->nb_samples;
    enum media_fault f = MEDIA_OK;

    if (w->in == NULL) {
        w->in = in;
        f = w->is_second ? MEDIA_OK : prepare(w);
    }
    for (at = 0; f == MEDIA_OK && at < total; at += len) {
        len = total - at < PEAKS_BLOCK ? total - at : PEAKS_BLOCK;
        f = add_block(w, frame, at, len);
    }
    return f == MEDIA_OK ? look_at_size(w) : f;
}

/* The end of a zoom that was written as it went. */
static enum media_fault end_stream(struct waveform *w, size_t i)
{
    uint32_t le;

    stream(w, i);
    if (w->ways[i] == STREAM_JSON) {
        wavefile_json_tail(on_data, w);
    } else if (w->streamed[i] != w->runs[i]) {
        le = htole32(w->streamed[i]);
        link_rewrite(w->op->link, w->output, WAVEFILE_DAT_LENGTH_AT, &le, sizeof(le));
    }
    link_finish(w->op->link, w->output);
    if (w->ways[i] == STREAM_JSON && w->streamed[i] != w->runs[i]) {
        return MEDIA_FAULT_INTERNAL; /* it was decoded otherwise than before */
    }
    w->runs[i] = w->streamed[i];
    return MEDIA_OK;
}

/* Write the files of a zoom that is held. */
static void write_held(struct waveform *w, size_t i)
{
    const struct wavefile file = file_of(w, i);

    w->output = 2 * (uint32_t)i;
    wavefile_dat(&file, on_data, w);
    link_finish(w->op->link, w->output);
    w->output++;
    wavefile_json(&file, on_data, w);
    link_finish(w->op->link, w->output);
}

static enum media_fault write_picture(struct waveform *w)
{
    w->output = 2 * (uint32_t)w->n_zooms;
    if (!picture_draw(&w->picture, &w->outline, on_data, w)) {
        return MEDIA_FAULT_MEMORY;
    }
    link_finish(w->op->link, w->output);
    return MEDIA_OK;
}

/* Get ready to decode once more for the JSON of what was streamed. */
static void begin_second(struct waveform *w)
{
    size_t i;

    w->is_second = true;
    for (i = 0; i < w->n_zooms; i++) {
        if (w->ways[i] == STREAM_DAT) {
            const struct wavefile file = file_of(w, i);

            zoom_restart(&w->zooms[i]);
            w->ways[i] = STREAM_JSON;
            w->streamed[i] = 0;
            w->output = 2 * (uint32_t)i + 1;
            wavefile_json_head(&file, w->runs[i], on_data, w);
        } else {
            zoom_done(&w->zooms[i]);
            w->ways[i] = LEAVE;
        }
    }
    w->in = NULL;
}

enum media_fault waveform_end(struct waveform *w, bool *again_out)
{
    enum media_fault f = MEDIA_OK;
    bool any = false;
    size_t i;

    for (i = 0; f == MEDIA_OK && i < w->n_zooms; i++) {
        if (w->ways[i] != LEAVE && !zoom_end(&w->zooms[i])) {
            f = MEDIA_FAULT_MEMORY;
        } else if (w->ways[i] == HOLD) {
            write_held(w, i);
        } else if (w->ways[i] != LEAVE) {
            any = true;
            f = end_stream(w, i);
        }
    }
    *again_out = any && !w->is_second;
    if (f == MEDIA_OK && !w->is_second) {
        w->samples = input_samples(w->in);
        w->sample_rate = input_info(w->in)->sample_rate;
        f = write_picture(w);
    }
    if (f == MEDIA_OK && *again_out) {
        begin_second(w);
    }
    return f;
}

int waveform_percent(const struct waveform *w, int percent)
{
    size_t i;

    for (i = 0; i < w->n_zooms; i++) {
        if (w->ways[i] == STREAM_DAT) {
            return percent / 2;
        }
    }
    return w->is_second ? 50 + percent / 2 : percent;
}

void waveform_tell(const struct waveform *w, char *result, size_t size)
{
    size_t i, at;

    at = (size_t)snprintf(result, size,
                          "{\"durationMs\":%lld,\"sampleRate\":%d,\"channels\":%zu,\"files\":[",
                          (long long)((w->samples * 1000 + w->sample_rate / 2) / w->sample_rate),
                          w->sample_rate, w->n_channels);
    for (i = 0; i < 2 * w->n_zooms && at < size; i++) {
        at += (size_t)snprintf(result + at, size - at,
                               "{\"output\":%zu,\"format\":\"%s\",\"samplesPerPixel\":%lld},", i,
                               i % 2 == 0 ? "dat" : "json", (long long)w->samples_per_pixel[i / 2]);
    }
    if (at < size) {
        (void)snprintf(result + at, size - at,
                       "{\"output\":%zu,\"format\":\"png\",\"samplesPerPixel\":%lld}]}", i,
                       (long long)((w->samples + w->picture.width - 1) / w->picture.width));
    }
}

enum media_fault waveform_open(struct op *op, bool may_stream, struct waveform **waveform_out)
{
    struct waveform *w = calloc(1, sizeof(*w));

    *waveform_out = w;
    if (w == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    w->op = op;
    w->may_stream = may_stream;
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
