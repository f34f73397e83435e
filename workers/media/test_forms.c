/* The small pure forms: audiowaveform's files, parameters, cover art. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "workers/media/cover.h"
#include "workers/media/params.h"
#include "workers/media/wavefile.h"

struct text {
    char data[4096];
    size_t len;
};

static void on_data(void *context, const void *data, size_t len)
{
    struct text *t = context;

    assert_true(t->len + len < sizeof(t->data));
    memcpy(t->data + t->len, data, len);
    t->len += len;
    t->data[t->len] = '\0';
}

static struct zoom two_channels(void)
{
    static int16_t data[] = {-32768, 32767, -255, 255, -256, 256, 0, 1};

    return (struct zoom){.samples_per_pixel = 512, .n_channels = 2, .data = data, .length = 2};
}

static void test_dat_is_audiowaveforms_binary_form(void **state)
{
    static const char v2[] = "\2\0\0\0\1\0\0\0\x80\xbb\0\0\0\2\0\0\2\0\0\0\2\0\0\0"
                             "\x80\x7f\0\0\xff\1\0\0";
    static const char v1[] = "\1\0\0\0\0\0\0\0\x80\xbb\0\0\0\2\0\0\2\0\0\0"
                             "\0\x80\xff\x7f\1\xff\xff\0";
    struct zoom z = two_channels();
    struct wavefile w = {.zoom = &z, .sample_rate = 48000, .bits = 8, .version = 2};
    struct text t = {.len = 0};

    (void)state;
    wavefile_dat(&w, on_data, &t);
    assert_int_equal(t.len, sizeof(v2) - 1);
    assert_memory_equal(t.data, v2, t.len);
    z.n_channels = 1;
    w.bits = 16;
    w.version = 1;
    t.len = 0;
    wavefile_dat(&w, on_data, &t);
    assert_int_equal(t.len, sizeof(v1) - 1);
    assert_memory_equal(t.data, v1, t.len);
}

static void test_json_is_audiowaveforms(void **state)
{
    struct zoom z = two_channels();
    struct wavefile w = {.zoom = &z, .sample_rate = 44100, .bits = 16, .version = 1};
    struct text t = {.len = 0};

    (void)state;
    wavefile_json(&w, on_data, &t);
    assert_string_equal(t.data, "{\"version\":2,\"channels\":2,\"sample_rate\":44100,"
                                "\"samples_per_pixel\":512,\"bits\":16,\"length\":2,\"data\":"
                                "[-32768,32767,-255,255,-256,256,0,1]}\n");
    w.bits = 8;
    t.len = 0;
    wavefile_json(&w, on_data, &t);
    assert_non_null(strstr(t.data, "\"bits\":8,\"length\":2,\"data\":[-128,127,0,0,-1,1,0,0]}"));
}

static const char params[] = "zoom.0=256\nzoom=12\nname=a=b\nf=-1.5\nyes=true\nno=false\n"
                             "big=99999999999999999999\nred=#ff0000\nclear=#0102037f\nempty=\n";

static void test_numbers_are_read_with_their_bounds(void **state)
{
    int64_t n = -1;
    double d = -1;

    (void)state;
    assert_true(params_i64(params, "zoom", 1, 100, &n) && n == 12);
    assert_true(params_i64(params, "zoom.0", 1, 1000, &n) && n == 256);
    n = 5;
    assert_true(params_i64(params, "zoo", 1, 100, &n) && n == 5);
    assert_false(params_i64(params, "zoom", 13, 100, &n));
    assert_false(params_i64(params, "zoom", 1, 11, &n));
    assert_false(params_i64(params, "big", INT64_MIN, INT64_MAX, &n));
    assert_false(params_i64(params, "f", -5, 5, &n));
    assert_false(params_i64(params, "empty", 0, 5, &n));
    assert_true(params_double(params, "f", -2, 0, &d) && d == -1.5);
    assert_false(params_double(params, "name", -2, 0, &d));
    assert_false(params_double(params, "f", 0, 2, &d));
}

static void test_texts_flags_and_colours_are_read(void **state)
{
    uint8_t rgba[4] = {9, 9, 9, 9};
    bool flag = false;
    char text[4];

    (void)state;
    assert_true(params_text(params, "name", text, sizeof(text)));
    assert_string_equal(text, "a=b");
    assert_false(params_text(params, "name", text, 3));
    assert_false(params_text(params, "b", text, sizeof(text)));
    assert_true(params_bool(params, "yes", &flag) && flag);
    assert_true(params_bool(params, "no", &flag) && !flag);
    assert_false(params_bool(params, "zoom", &flag));
    assert_true(params_color(params, "none", rgba) && rgba[0] == 9);
    assert_true(params_color(params, "red", rgba));
    assert_memory_equal(rgba, "\xff\0\0\xff", 4);
    assert_true(params_color(params, "clear", rgba));
    assert_memory_equal(rgba, "\1\2\3\x7f", 4);
    assert_false(params_color(params, "zoom", rgba));
    assert_false(params_color("c=#12345g\n", "c", rgba));
    assert_false(params_color("c=red", "c", rgba) && rgba[0] == 'r'); /* a line without an end */
}

static void test_pictures_are_known_by_their_own_headers(void **state)
{
    uint8_t png[64] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n', 0, 0, 0, 13,
                       'I',  'H', 'D', 'R', 0,    0,    1,    0,    0, 0, 0, 200};
    uint8_t jpeg[64] = {0xff, 0xd8, 0xff, 0xe0, 0, 4, 1, 2, 0xff, 0xc0, 0, 11, 8, 0, 120, 2, 0};
    int width, height;
    size_t len;

    (void)state;
    assert_int_equal(cover_look(png, sizeof(png), &width, &height), COVER_PNG);
    assert_int_equal(width, 256);
    assert_int_equal(height, 200);
    assert_int_equal(cover_look(jpeg, sizeof(jpeg), &width, &height), COVER_JPEG);
    assert_int_equal(width, 512);
    assert_int_equal(height, 120);
    for (len = 0; len < 18; len++) { /* cut anywhere: nothing read behind the end */
        uint8_t *exact = malloc(len + 1);

        memcpy(exact, jpeg, len);
        (void)cover_look(exact, len, &width, &height);
        free(exact);
    }
    png[16] = 1; /* 16 million pixels wide */
    assert_int_equal(cover_look(png, sizeof(png), &width, &height), COVER_NONE);
    jpeg[4] = 0xff; /* a segment that leads out of the file */
    assert_int_equal(cover_look(jpeg, sizeof(jpeg), &width, &height), COVER_NONE);
    assert_int_equal(cover_look((const uint8_t *)"GIF89a", 6, &width, &height), COVER_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dat_is_audiowaveforms_binary_form),
        cmocka_unit_test(test_json_is_audiowaveforms),
        cmocka_unit_test(test_numbers_are_read_with_their_bounds),
        cmocka_unit_test(test_texts_flags_and_colours_are_read),
        cmocka_unit_test(test_pictures_are_known_by_their_own_headers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
