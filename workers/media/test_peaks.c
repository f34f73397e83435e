/* Peaks against the plainest way to compute them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>

#include "workers/media/peaks.h"

enum { N = 100003 };

static int16_t samples[3][N];

static int fill(void **state)
{
    uint32_t x = 1;
    size_t c, i;

    (void)state;
    for (c = 0; c < 3; c++) {
        for (i = 0; i < N; i++) {
            x = x * 1664525 + 1013904223;
            samples[c][i] = (int16_t)(x >> 16);
        }
    }
    return 0;
}

static void plain(const int16_t *s, size_t from, size_t to, int *min, int *max)
{
    *min = INT16_MAX;
    *max = INT16_MIN;
    for (; from < to && from < N; from++) {
        *min = s[from] < *min ? s[from] : *min;
        *max = s[from] > *max ? s[from] : *max;
    }
}

/* Feed all samples in uneven pieces. */
static void feed(struct zoom *z, struct outline *o, size_t n_channels)
{
    size_t at = 0, step = 1, c;

    while (at < N) {
        const int16_t *channels[3];
        size_t n = N - at < step ? N - at : step;

        for (c = 0; c < n_channels; c++) {
            channels[c] = samples[c] + at;
        }
        if (z != NULL) {
            assert_true(zoom_add(z, channels, n));
        } else {
            outline_add(o, channels, n);
        }
        at += n;
        step = step * 7 % PEAKS_BLOCK + 1;
    }
}

static void test_every_run_has_its_smallest_and_largest(void **state)
{
    static const int64_t zooms[] = {1, 2, 63, 64, 4097, 50000, N, N + 1};
    size_t k, i, c;

    (void)state;
    for (k = 0; k < sizeof(zooms) / sizeof(zooms[0]); k++) {
        struct zoom z;

        zoom_init(&z, zooms[k], 3);
        feed(&z, NULL, 3);
        assert_true(zoom_end(&z));
        assert_int_equal(z.length, (N + zooms[k] - 1) / zooms[k]);
        for (i = 0; i < z.length; i++) {
            for (c = 0; c < 3; c++) {
                int min, max;

                plain(samples[c], i * (size_t)zooms[k], (i + 1) * (size_t)zooms[k], &min, &max);
                assert_int_equal(z.data[(i * 3 + c) * 2], min);
                assert_int_equal(z.data[(i * 3 + c) * 2 + 1], max);
            }
        }
        zoom_done(&z);
    }
}

static void test_no_samples_give_no_runs(void **state)
{
    struct zoom z;

    (void)state;
    zoom_init(&z, 10, 1);
    assert_true(zoom_end(&z));
    assert_int_equal(z.length, 0);
    zoom_done(&z);
}

static void test_mixing_divides_towards_zero(void **state)
{
    static const int16_t a[] = {-1, 1, -32768, 32767, 3, -3}, b[] = {0, 0, -32768, 32767, -2, 2},
                         c[] = {-1, 1, -32768, 32767, 1, -1};
    const int16_t *const channels[] = {a, b, c};
    int16_t out[6];

    (void)state;
    peaks_mix(channels, 2, 6, out);
    assert_memory_equal(out, ((int16_t[]){0, 0, -32768, 32767, 0, 0}), sizeof(out));
    peaks_mix(channels, 3, 6, out);
    assert_memory_equal(out, ((int16_t[]){0, 0, -32768, 32767, 0, 0}), sizeof(out));
    peaks_mix(channels, 1, 6, out);
    assert_memory_equal(out, a, sizeof(out));
}

static void test_samples_of_every_form_become_16_bits(void **state)
{
    static const uint8_t bytes[] = {0, 9, 128, 9, 255, 9};
    static const int32_t words[] = {INT32_MIN, 0, -1, 0, INT32_MAX, 0};
    static const float floats[] = {-1.0f, 0, 0.99999f, 0, 2.0f, 0, -7.0f, 0, NAN, 0, -0.00001f, 0};
    static const double doubles[] = {-1.0, 1.0, INFINITY};
    int16_t out[6];

    (void)state;
    peaks_from_u8(bytes, 2, 3, out);
    assert_memory_equal(out, ((int16_t[]){-32768, 0, 32512}), 6);
    peaks_from_s32(words, 2, 3, out);
    assert_memory_equal(out, ((int16_t[]){-32768, -1, 32767}), 6);
    peaks_from_float(floats, 2, 6, out);
    assert_memory_equal(out, ((int16_t[]){-32767, 32766, 32767, -32768, 0, 0}), 12);
    peaks_from_double(doubles, 1, 3, out);
    assert_memory_equal(out, ((int16_t[]){-32767, 32767, 32767}), 6);
    peaks_from_s16(samples[0], 3, 2, out);
    assert_int_equal(out[1], samples[0][3]);
    peaks_from_s16(samples[0], 2, 2, out);
    assert_int_equal(out[1], samples[0][2]);
}

static void test_an_outline_keeps_extremes_and_energy_whatever_the_length(void **state)
{
    struct outline_column columns[500];
    struct outline o;
    double energy = 0, want = 0;
    float min = 1, max = -1;
    size_t i;

    (void)state;
    assert_true(outline_init(&o, 2));
    feed(NULL, &o, 2);
    assert_true(o.length < OUTLINE_MAX);
    assert_true(outline_columns(&o, 1, 500, columns));
    for (i = 0; i < 500; i++) {
        min = columns[i].min < min ? columns[i].min : min;
        max = columns[i].max > max ? columns[i].max : max;
        energy += (double)columns[i].rms * (double)columns[i].rms / 500;
    }
    for (i = 0; i < N; i++) {
        want += samples[1][i] / 32768.0 * samples[1][i] / 32768.0 / N;
    }
    assert_true(min < -0.999f && max > 0.999f);
    assert_true(fabs(energy - want) < want / 100);
    outline_done(&o);
}

static void test_an_outline_of_few_samples_repeats_them(void **state)
{
    static const int16_t three[] = {-32768, 0, 16384};
    const int16_t *const channels[] = {three};
    struct outline_column columns[6];
    struct outline o;

    (void)state;
    assert_true(outline_init(&o, 1));
    assert_false(outline_columns(&o, 0, 6, columns));
    outline_add(&o, channels, 3);
    assert_true(outline_columns(&o, 0, 6, columns));
    assert_true(columns[0].min == -1.0f && columns[1].max == -1.0f);
    assert_true(columns[2].max == 0.0f && columns[5].max == 0.5f && columns[5].rms == 0.5f);
    outline_done(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_run_has_its_smallest_and_largest),
        cmocka_unit_test(test_no_samples_give_no_runs),
        cmocka_unit_test(test_mixing_divides_towards_zero),
        cmocka_unit_test(test_samples_of_every_form_become_16_bits),
        cmocka_unit_test(test_an_outline_keeps_extremes_and_energy_whatever_the_length),
        cmocka_unit_test(test_an_outline_of_few_samples_repeats_them),
    };

    return cmocka_run_group_tests(tests, fill, NULL);
}
