/* Pictures, read back by libpng. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <png.h>

#include "workers/media/picture.h"

enum { WIDTH = 200, HEIGHT = 100, SAMPLES = 20000 };

struct file {
    uint8_t data[1 << 20];
    size_t len;
};

static void on_data(void *context, const void *data, size_t len)
{
    struct file *f = context;

    assert_true(f->len + len <= sizeof(f->data));
    memcpy(f->data + f->len, data, len);
    f->len += len;
}

static const struct picture plain = {.width = WIDTH,
                                     .height = HEIGHT,
                                     .background = {255, 255, 255, 255},
                                     .waveform = {0, 0, 255, 255}};

/* Draw channels of a sine whose amplitude grows from 0 to full. */
static uint8_t *draw(const struct picture *p, size_t n_channels, struct file *f)
{
    static int16_t sine[SAMPLES];
    const int16_t *channels[2] = {sine, sine};
    png_image image = {.version = PNG_IMAGE_VERSION};
    struct outline o;
    uint8_t *pixels;
    size_t i;

    for (i = 0; i < SAMPLES; i++) {
        sine[i] = (int16_t)(32767.0 * i / SAMPLES * sin((double)i * 0.7));
    }
    assert_true(outline_init(&o, n_channels));
    outline_add(&o, channels, SAMPLES);
    f->len = 0;
    assert_true(picture_draw(p, &o, on_data, f));
    outline_done(&o);
    assert_true(png_image_begin_read_from_memory(&image, f->data, f->len));
    assert_int_equal(image.width, p->width);
    assert_int_equal(image.height, p->height);
    image.format = PNG_FORMAT_RGBA;
    pixels = malloc(PNG_IMAGE_SIZE(image));
    assert_true(png_image_finish_read(&image, NULL, pixels, 0, NULL));
    return pixels;
}

static const uint8_t *pixel(const uint8_t *pixels, int x, int y)
{
    return pixels + (y * WIDTH + x) * 4;
}

static void test_the_wave_is_drawn_where_it_is(void **state)
{
    static struct file f;
    uint8_t *pixels = draw(&plain, 1, &f);

    (void)state;
    assert_memory_equal(pixel(pixels, 0, 0), "\xff\xff\xff\xff", 4);
    assert_memory_equal(pixel(pixels, WIDTH - 1, 6), "\0\0\xff\xff", 4);
    assert_memory_equal(pixel(pixels, WIDTH / 2, 30), "\0\0\xff\xff", 4);
    assert_memory_equal(pixel(pixels, WIDTH / 2, 15), "\xff\xff\xff\xff", 4);
    assert_true(pixel(pixels, WIDTH - 1, HEIGHT / 2)[2] < 200); /* loudness: a darker shade */
    assert_true(pixel(pixels, 1, HEIGHT / 2)[0] < 200);         /* silence: a line */
    free(pixels);
}

static void test_each_channel_has_its_row(void **state)
{
    static struct file f;
    uint8_t *pixels = draw(&plain, 2, &f);

    (void)state;
    assert_true(pixel(pixels, WIDTH - 1, 25)[0] == 0 && pixel(pixels, WIDTH - 1, 75)[0] == 0);
    assert_memory_equal(pixel(pixels, WIDTH - 1, 50), "\xff\xff\xff\xff", 4);
    free(pixels);
}

static void test_a_clear_background_is_clear(void **state)
{
    static struct file f;
    struct picture p = plain;
    uint8_t *pixels;

    (void)state;
    memset(p.background, 0, 4);
    pixels = draw(&p, 1, &f);
    assert_int_equal(pixel(pixels, 0, 0)[3], 0);
    assert_int_equal(pixel(pixels, WIDTH - 1, 6)[3], 255);
    free(pixels);
}

static void test_the_same_gives_the_same_bytes(void **state)
{
    static struct file a, b;

    (void)state;
    free(draw(&plain, 1, &a));
    free(draw(&plain, 1, &b));
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
}

static void test_the_smallest_and_the_largest_can_be_drawn(void **state)
{
    static struct file f;
    struct picture p = plain;

    (void)state;
    p.width = p.height = 1;
    free(draw(&p, 2, &f));
    p.width = PICTURE_WIDTH_MAX;
    p.height = PICTURE_HEIGHT_MAX;
    free(draw(&p, 1, &f));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_wave_is_drawn_where_it_is),
        cmocka_unit_test(test_each_channel_has_its_row),
        cmocka_unit_test(test_a_clear_background_is_clear),
        cmocka_unit_test(test_the_same_gives_the_same_bytes),
        cmocka_unit_test(test_the_smallest_and_the_largest_can_be_drawn),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
