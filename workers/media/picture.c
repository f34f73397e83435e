/* One byte a pixel: the palette holds every mix of background and waveform and of waveform and
 * loudness that smoothing needs, which makes a picture a tenth of the size of true colour and as
 * quick to pack. */
#include "workers/media/picture.h"

#include <math.h>
#include <png.h>

enum {
    STEPS = 127,  /* shades from one colour to the next */
    WAVE = STEPS, /* palette: 0 background … WAVE waveform … LOUD loudness */
    LOUD = 2 * STEPS,
    PNG_LEVEL = 6
};

struct canvas {
    const struct picture *p;
    uint8_t *pixels; /* height rows of width */
};

static uint8_t blend(uint8_t from, uint8_t to, int step)
{
    return (uint8_t)((from * (STEPS - step) + to * step + STEPS / 2) / STEPS);
}

/* The loudness is the waveform's colour, a third of the way to white (dark background) or to the
 * background's side. */
static void loud_color(const struct picture *p, uint8_t out[4])
{
    bool dark = p->background[3] > 127 &&
                p->background[0] * 3 + p->background[1] * 6 + p->background[2] < 1280;
    int i;

    for (i = 0; i < 3; i++) {
        out[i] = (uint8_t)(dark ? p->waveform[i] + (255 - p->waveform[i]) * 45 / 100
                                : p->waveform[i] * 62 / 100);
    }
    out[3] = p->waveform[3];
}

static void make_palette(const struct picture *p, png_color palette[256], png_byte alpha[256])
{
    uint8_t loud[4], under[4];
    int i;

    loud_color(p, loud);
    memcpy(under, p->background, sizeof(under));
    if (under[3] == 0) {
        memcpy(under, p->waveform,
               3); /* clear has no colour of its own: no dark seam at the edge */
    }
    for (i = 0; i <= LOUD; i++) {
        const uint8_t *from = i <= WAVE ? under : p->waveform;
        const uint8_t *to = i <= WAVE ? p->waveform : loud;
        int step = i <= WAVE ? i : i - WAVE;

        palette[i] = (png_color){.red = blend(from[0], to[0], step),
                                 .green = blend(from[1], to[1], step),
                                 .blue = blend(from[2], to[2], step)};
        alpha[i] = blend(from[3], to[3], step);
    }
}

/* How much of pixel row y lies in [top, bottom), 0 … STEPS. */
static int cover(int y, float top, float bottom)
{
    float from = top > (float)y ? top : (float)y;
    float to = bottom < (float)(y + 1) ? bottom : (float)(y + 1);

    return to <= from ? 0 : (int)lrintf((to - from) * STEPS);
}

/* One column of one row of the picture; mid and half in pixels. */
static void draw_column(struct canvas *c, int x, float mid, float half,
                        const struct outline_column *col)
{
    float top = mid - col->max * half, bottom = mid - col->min * half;
    float loud_top = mid - col->rms * half, loud_bottom = mid + col->rms * half;
    int y, first, last;

    if (bottom - top < 1.0f) { /* silence is a line, not nothing */
        float centre = (top + bottom) / 2;

        top = centre - 0.5f;
        bottom = centre + 0.5f;
    }
    loud_top = loud_top > top ? loud_top : top;
    loud_bottom = loud_bottom < bottom ? loud_bottom : bottom;
    first = top > 0 ? (int)top : 0;
    last = (int)ceilf(bottom) < c->p->height ? (int)ceilf(bottom) : c->p->height;
    for (y = first; y < last; y++) {
        int wave = cover(y, top, bottom), loud = cover(y, loud_top, loud_bottom);
        uint8_t *pixel = c->pixels + (size_t)y * (size_t)c->p->width + x;

        if (loud_bottom - loud_top < 1.0f) {
            loud = 0;
        }
        *pixel = (uint8_t)(loud > 0 ? WAVE + loud : wave > *pixel ? wave : *pixel);
    }
}

static bool draw(struct canvas *c, const struct outline *o)
{
    size_t width = (size_t)c->p->width, x, channel;
    struct outline_column *columns = malloc(width * sizeof(*columns));
    float row = (float)c->p->height / (float)o->n_channels;

    if (columns == NULL) {
        return false;
    }
    for (channel = 0; channel < o->n_channels; channel++) {
        if (!outline_columns(o, channel, width, columns)) {
            memset(columns, 0, width * sizeof(*columns));
        }
        for (x = 0; x < width; x++) {
            /* A little air between the rows and at the edges. */
            draw_column(c, (int)x, row * ((float)channel + 0.5f), row * 0.48f, &columns[x]);
        }
    }
    free(columns);
    return true;
}

struct out {
    picture_write *write;
    void *context;
};

static void on_data(png_structp png, png_bytep data, size_t len)
{
    const struct out *out = png_get_io_ptr(png);

    out->write(out->context, data, len);
}

static void on_flush(png_structp png)
{
    (void)png;
}

static bool encode(const struct canvas *c, struct out *out)
{
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png == NULL ? NULL : png_create_info_struct(png);
    png_color palette[256];
    png_byte alpha[256];
    int y;

    /* libpng jumps here when it fails, which is when memory runs out. */
    if (info == NULL || setjmp(png_jmpbuf(png)) != 0) {
        png_destroy_write_struct(&png, &info);
        return false;
    }
    make_palette(c->p, palette, alpha);
    png_set_write_fn(png, out, on_data, on_flush);
    png_set_IHDR(png, info, (png_uint_32)c->p->width, (png_uint_32)c->p->height, 8,
                 PNG_COLOR_TYPE_PALETTE, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_set_PLTE(png, info, palette, LOUD + 1);
    if (c->p->background[3] != 255 || c->p->waveform[3] != 255) {
        png_set_tRNS(png, info, alpha, LOUD + 1, NULL);
    }
    png_set_compression_level(png, PNG_LEVEL);
    png_set_filter(png, PNG_FILTER_TYPE_BASE, PNG_FILTER_NONE);
    png_write_info(png, info);
    for (y = 0; y < c->p->height; y++) {
        png_write_row(png, c->pixels + (size_t)y * (size_t)c->p->width);
    }
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    return true;
}

bool picture_draw(const struct picture *p, const struct outline *o, picture_write *write,
                  void *context)
{
    struct canvas c = {.p = p, .pixels = calloc((size_t)p->width, (size_t)p->height)};
    struct out out = {.write = write, .context = context};
    bool done = c.pixels != NULL && draw(&c, o) && encode(&c, &out);

    free(c.pixels);
    return done;
}
