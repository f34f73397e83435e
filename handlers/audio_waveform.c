/* Waveforms: what is asked is judged as a whole here, so that a job fails only for what is in its
 * file. */
#include "handlers.h"
#include "handlers/jobs.h"
#include "handlers/payload.h"

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

/* Is this what the analysis makes of every upload? */
static bool is_usual(const struct waveform_in *in, const int64_t *zooms, size_t n_zooms,
                     const struct waveform_colors *colors)
{
    return n_zooms == 1 && zooms[0] == ZOOM_DEFAULT && in->bits == 16 && !in->per_channel &&
           (in->version == ABSENT_I64 || in->version == 1) && in->width == WIDTH_DEFAULT &&
           in->height == HEIGHT_DEFAULT && colors->background == NULL && colors->waveform == NULL;
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
    payload_i64(&json, "pixelsPerSecond", in.pixels_per_second);
    payload_i64(&json, "version", in.version); /* absent: as audiowaveform chooses */
    strbuf_printf(&json, ",\"bits\":%lld,\"perChannel\":%s", (long long)in.bits,
                  in.per_channel ? "true" : "false");
    payload_i64(&json, "width", in.width);
    payload_i64(&json, "height", in.height);
    put_colors(&json, &colors);
    if (file.waveform != NULL && is_usual(&in, zooms, n_zooms, &colors)) {
        strbuf_printf(&json, ",\"made\":%s", file.waveform);
    }
    strbuf_putc(&json, '}');
    return jobs_accept(r, JOB_AUDIO_WAVEFORM, json.data);
}
