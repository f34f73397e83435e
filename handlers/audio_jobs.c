/* Convert and waveform: what is asked is judged as a whole here, so that a job fails only for what
 * is in its file. The payload of a job holds all that its worker needs: the object pinned to the
 * ETag that was verified, and the parameters with their defaults filled in. */
#include <math.h>

#include "handlers.h"
#include "handlers/audio.h"
#include "handlers/jobs.h"

/* What a format can be made with. */
struct convert_format {
    const char *name;
    int64_t bitrate_min, bitrate_max; /* bit/s; 0: lossless, takes neither bitrate nor quality */
    bool has_quality;
    const int64_t *rates; /* Hz, 0 behind the last; NULL: any */
    int64_t channels_max;
};

static const int64_t mp3_rates[] = {8000,  11025, 12000, 16000, 22050,
                                    24000, 32000, 44100, 48000, 0};
static const int64_t aac_rates[] = {8000,  11025, 12000, 16000, 22050, 24000, 32000,
                                    44100, 48000, 64000, 88200, 96000, 0};
static const int64_t opus_rates[] = {8000, 12000, 16000, 24000, 48000, 0};

static const struct convert_format formats[] = {
    {"mp3", 32000, 320000, true, mp3_rates, 2},
    {"wav", 0, 0, false, NULL, 8},
    {"flac", 0, 0, false, NULL, 8},
    {"aac", 16000, 512000, true, aac_rates, 8},
    {"m4a", 16000, 512000, true, aac_rates, 8},
    {"ogg", 32000, 500000, true, NULL, 8},
    {"opus", 6000, 510000, true, opus_rates, 8},
};
static const char *const format_names[] = {"mp3", "wav", "flac", "aac", "m4a", "ogg", "opus", NULL};

enum { RATE_MIN = 8000, RATE_MAX = 192000, LUFS_MIN = -70, LUFS_MAX = -5 };

struct convert_in {
    struct id file_id;
    const char *format;
    int64_t bitrate, sample_rate, channels;
    double quality, target_lufs;
};

static const struct field convert_fields[] = {
    F_ID(convert_in, file_id, "fileId", 0),
    F_WORD(convert_in, format, "format", format_names, 0),
    F_I64(convert_in, bitrate, "bitrate", 1, INT32_MAX, F_OPTIONAL),
    F_F64(convert_in, quality, "quality", 0, 10, F_OPTIONAL),
    F_I64(convert_in, sample_rate, "sampleRate", RATE_MIN, RATE_MAX, F_OPTIONAL),
    F_I64(convert_in, channels, "channels", 1, 8, F_OPTIONAL),
    F_F64(convert_in, target_lufs, "targetLufs", LUFS_MIN, LUFS_MAX, F_OPTIONAL),
};
static const struct shape shape_convert = SHAPE(convert_in, convert_fields);

enum {
    ZOOMS_MAX = 8, /* each makes two files */
    ZOOM_MIN = 2,
    ZOOM_MAX = 1000000,
    ZOOM_DEFAULT = 256,
    PIXELS_PER_SECOND_MAX = 1000,
    WIDTH_DEFAULT = 1800,
    HEIGHT_DEFAULT = 280
};

struct waveform_in {
    struct id file_id;
    const struct json *zoom, *colors;
    bool per_channel;
    int64_t pixels_per_second, bits, version, width, height;
};

static const struct field waveform_fields[] = {
    F_ID(waveform_in, file_id, "fileId", 0),
    F_ANY(waveform_in, zoom, "zoom", F_OPTIONAL),
    F_I64(waveform_in, pixels_per_second, "pixelsPerSecond", 1, PIXELS_PER_SECOND_MAX, F_OPTIONAL),
    F_I64(waveform_in, bits, "bits", 8, 16, F_OPTIONAL),
    F_I64(waveform_in, version, "version", 1, 2, F_OPTIONAL),
    F_BOOL(waveform_in, per_channel, "perChannel", F_OPTIONAL),
    F_I64(waveform_in, width, "width", 16, 8192, F_OPTIONAL),
    F_I64(waveform_in, height, "height", 16, 2048, F_OPTIONAL),
    F_ANY(waveform_in, colors, "colors", F_OPTIONAL),
};
static const struct shape shape_waveform = SHAPE(waveform_in, waveform_fields);

struct waveform_colors {
    const char *background, *waveform;
};

static const struct field color_fields[] = {
    F_STR(waveform_colors, background, "background", 7, 9, F_OPTIONAL),
    F_STR(waveform_colors, waveform, "waveform", 7, 9, F_OPTIONAL),
};
static const struct shape shape_colors = SHAPE(waveform_colors, color_fields);

static const struct convert_format *find_format(const char *name)
{
    size_t i = 0;

    while (strcmp(formats[i].name, name) != 0) {
        i++; /* the shape lets only names of the table through */
    }
    return &formats[i];
}

static enum err check_rate(struct scope *sc, const struct convert_format *f, int64_t rate)
{
    struct strbuf list;
    size_t i;

    if (rate == ABSENT_I64 || f->rates == NULL) {
        return OK;
    }
    strbuf_init(&list, sc->arena, 128);
    for (i = 0; f->rates[i] != 0; i++) {
        if (f->rates[i] == rate) {
            return OK;
        }
        strbuf_printf(&list, "%s%lld", i > 0 ? ", " : "", (long long)f->rates[i]);
    }
    return scope_violation(sc, "sampleRate", "value", "%s takes only %s Hz", f->name, list.data);
}

static enum err check_bitrate(struct scope *sc, const struct convert_format *f,
                              const struct convert_in *in)
{
    if (in->bitrate == ABSENT_I64) {
        return OK;
    }
    if (f->bitrate_max == 0) {
        return scope_violation(sc, "bitrate", "value", "%s is lossless and takes no bitrate",
                               f->name);
    }
    if (in->bitrate < f->bitrate_min || in->bitrate > f->bitrate_max) {
        return scope_violation(sc, "bitrate", "range", "must be from %lld to %lld for %s",
                               (long long)f->bitrate_min, (long long)f->bitrate_max, f->name);
    }
    if (isfinite(in->quality)) {
        return scope_violation(sc, "quality", "value", "cannot be combined with bitrate");
    }
    return OK;
}

/* Do the parameters fit the format and each other? All faults are told. */
static enum err check_convert(struct scope *sc, const struct convert_in *in)
{
    const struct convert_format *f = find_format(in->format);
    enum err e = check_bitrate(sc, f, in);

    if (isfinite(in->quality) && !f->has_quality) {
        e = scope_violation(sc, "quality", "value", "%s takes no quality", f->name);
    }
    if (check_rate(sc, f, in->sample_rate) != OK) {
        e = ERR_VALIDATION_FAILED;
    }
    if (in->channels != ABSENT_I64 && in->channels > f->channels_max) {
        e = scope_violation(sc, "channels", "range", "%s takes up to %lld channels", f->name,
                            (long long)f->channels_max);
    }
    return e;
}

/* Begin a payload with what every job on a file needs. */
static struct strbuf payload_begin(struct req *r, const struct audio_file *file)
{
    struct strbuf json = req_json(r);

    strbuf_printf(&json, "{\"fileId\":\"%s\",\"key\":", id_text(req_arena(r), file->id));
    strbuf_json(&json, file->key);
    strbuf_puts(&json, ",\"etag\":");
    strbuf_json(&json, file->etag);
    strbuf_puts(&json, ",\"fileName\":");
    strbuf_json(&json, file->file_name);
    strbuf_printf(&json, ",\"size\":%lld,\"durationMs\":%lld", (long long)file->size_bytes,
                  (long long)file->duration_ms);
    return json;
}

static void put_i64(struct strbuf *json, const char *name, int64_t value)
{
    if (value != ABSENT_I64) {
        strbuf_printf(json, ",\"%s\":%lld", name, (long long)value);
    }
}

static void put_f64(struct strbuf *json, const char *name, double value)
{
    if (isfinite(value)) {
        strbuf_printf(json, ",\"%s\":%.15g", name, value);
    }
}

enum err h_audio_convert(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct convert_in in;
    struct audio_file file;
    struct strbuf json;

    TRY(req_body(r, &shape_convert, &in));
    TRY(check_convert(sc, &in));
    TRY(req_transaction(r));
    TRY(audio_find_verified(r, in.file_id, &file));
    json = payload_begin(r, &file);
    strbuf_printf(&json, ",\"format\":\"%s\"", in.format);
    put_i64(&json, "bitrate", in.bitrate);
    put_f64(&json, "quality", in.quality);
    put_i64(&json, "sampleRate", in.sample_rate);
    put_i64(&json, "channels", in.channels);
    put_f64(&json, "targetLufs", in.target_lufs);
    strbuf_putc(&json, '}');
    return jobs_accept(r, JOB_AUDIO_CONVERT, json.data);
}

static enum err check_zoom(struct scope *sc, const char *field, const struct json *value,
                           int64_t *zoom_out)
{
    if (json_kind(value) != JSON_INT) {
        return scope_violation(sc, field, "type", "must be a whole number");
    }
    if (!json_i64(value, zoom_out) || *zoom_out < ZOOM_MIN || *zoom_out > ZOOM_MAX) {
        return scope_violation(sc, field, "range", "must be from %d to %d samples per pixel",
                               ZOOM_MIN, ZOOM_MAX);
    }
    return OK;
}

/* "zoom" is a number or an array of different ones. */
static enum err read_zooms(struct scope *sc, const struct json *zoom, int64_t zooms[ZOOMS_MAX],
                           size_t *n_out)
{
    enum err e = OK;
    size_t i, j;

    *n_out = json_length(zoom);
    if (json_kind(zoom) != JSON_ARRAY) {
        *n_out = 1;
        return check_zoom(sc, "zoom", zoom, &zooms[0]);
    }
    if (*n_out < 1 || *n_out > ZOOMS_MAX) {
        return scope_violation(sc, "zoom", "length", "must have 1 to %d numbers", ZOOMS_MAX);
    }
    for (i = 0; i < *n_out; i++) {
        const char *field = arena_printf(sc->arena, "zoom[%zu]", i);

        if (check_zoom(sc, field, json_item(zoom, i), &zooms[i]) != OK) {
            return ERR_VALIDATION_FAILED;
        }
        for (j = 0; j < i; j++) {
            if (zooms[j] == zooms[i]) {
                e = scope_violation(sc, field, "duplicate", "is asked for twice");
            }
        }
    }
    return e;
}

static enum err check_color(struct scope *sc, const char *field, const char *color)
{
    size_t len, i;

    if (color == NULL) {
        return OK;
    }
    len = strlen(color);
    for (i = 1; i < len && hex_digit(color[i]) >= 0; i++) {
    }
    if (color[0] != '#' || i < len || (len != 7 && len != 9)) {
        return scope_violation(sc, field, "format", "must be #RRGGBB or #RRGGBBAA");
    }
    return OK;
}

static enum err read_colors(struct scope *sc, const struct json *value,
                            struct waveform_colors *colors_out)
{
    enum err e;

    if (value == NULL) {
        shape_clear(&shape_colors, colors_out);
        return OK;
    }
    if (json_kind(value) != JSON_OBJECT) {
        return scope_violation(sc, "colors", "type", "must be an object");
    }
    TRY(shape_read(sc, &shape_colors, value, "colors.", colors_out));
    e = check_color(sc, "colors.background", colors_out->background);
    return check_color(sc, "colors.waveform", colors_out->waveform) != OK ? ERR_VALIDATION_FAILED
                                                                          : e;
}

/* Fill in defaults, and judge what a shape cannot. */
static enum err check_waveform(struct scope *sc, struct waveform_in *in, int64_t zooms[ZOOMS_MAX],
                               size_t *n_zooms_out, struct waveform_colors *colors_out)
{
    bool has_rate = in->pixels_per_second != ABSENT_I64;
    enum err e = read_colors(sc, in->colors, colors_out);

    *n_zooms_out = 0;
    if (in->zoom != NULL && has_rate) {
        e = scope_violation(sc, "pixelsPerSecond", "value", "cannot be combined with zoom");
    } else if (in->zoom != NULL && read_zooms(sc, in->zoom, zooms, n_zooms_out) != OK) {
        e = ERR_VALIDATION_FAILED;
    } else if (in->zoom == NULL && !has_rate) {
        zooms[(*n_zooms_out)++] = ZOOM_DEFAULT;
    }
    in->bits = in->bits == ABSENT_I64 ? 16 : in->bits;
    if (in->bits != 8 && in->bits != 16) {
        e = scope_violation(sc, "bits", "value", "must be 8 or 16");
    }
    in->width = in->width == ABSENT_I64 ? WIDTH_DEFAULT : in->width;
    in->height = in->height == ABSENT_I64 ? HEIGHT_DEFAULT : in->height;
    return e;
}

/* What depends on the file. */
static enum err check_waveform_of(struct scope *sc, const struct waveform_in *in,
                                  const struct audio_file *file)
{
    enum err e = OK;

    if (in->pixels_per_second != ABSENT_I64 &&
        file->sample_rate / in->pixels_per_second < ZOOM_MIN) {
        e = scope_violation(sc, "pixelsPerSecond", "range",
                            "leaves less than %d samples a pixel at %lld Hz", ZOOM_MIN,
                            (long long)file->sample_rate);
    }
    if (in->per_channel && in->version == 1 && file->channels > 1) {
        e = scope_violation(sc, "version", "value", "1 holds one channel, and the file has %lld",
                            (long long)file->channels);
    }
    return e;
}

static void put_colors(struct strbuf *json, const struct waveform_colors *colors)
{
    const char *separator = "";

    strbuf_puts(json, ",\"colors\":{");
    if (colors->background != NULL) {
        strbuf_printf(json, "\"background\":\"%s\"", colors->background);
        separator = ",";
    }
    if (colors->waveform != NULL) {
        strbuf_printf(json, "%s\"waveform\":\"%s\"", separator, colors->waveform);
    }
    strbuf_putc(json, '}');
}

enum err h_audio_waveform(struct req *r)
{
    struct scope *sc = req_scope(r);
    int64_t zooms[ZOOMS_MAX] = {0};
    struct waveform_colors colors;
    struct waveform_in in;
    struct audio_file file;
    struct strbuf json;
    size_t n_zooms, i;

    TRY(req_body(r, &shape_waveform, &in));
    TRY(check_waveform(sc, &in, zooms, &n_zooms, &colors));
    TRY(req_transaction(r));
    TRY(audio_find_verified(r, in.file_id, &file));
    TRY(check_waveform_of(sc, &in, &file));
    json = payload_begin(r, &file);
    if (n_zooms > 0) {
        strbuf_puts(&json, ",\"zoom\":[");
        for (i = 0; i < n_zooms; i++) {
            strbuf_printf(&json, "%s%lld", i > 0 ? "," : "", (long long)zooms[i]);
        }
        strbuf_putc(&json, ']');
    }
    put_i64(&json, "pixelsPerSecond", in.pixels_per_second);
    put_i64(&json, "version", in.version); /* absent: as audiowaveform chooses */
    strbuf_printf(&json, ",\"bits\":%lld,\"perChannel\":%s", (long long)in.bits,
                  in.per_channel ? "true" : "false");
    put_i64(&json, "width", in.width);
    put_i64(&json, "height", in.height);
    put_colors(&json, &colors);
    strbuf_putc(&json, '}');
    return jobs_accept(r, JOB_AUDIO_WAVEFORM, json.data);
}
