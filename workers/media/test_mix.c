/* Arithmetic of a mix and the limiter, against formulas. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base.h"
#include "workers/media/limiter.h"
#include "workers/media/mix.h"

enum { RATE = 48000, SAMPLES = 48000 };

static void test_times_go_to_the_nearest_sample(void **state)
{
    (void)state;
    assert_int_equal(mix_samples(0, 44100), 0);
    assert_int_equal(mix_samples(1, 44100), 44);
    assert_int_equal(mix_samples(10, 11025), 110); /* 110.25 */
    assert_int_equal(mix_samples(30, 11025), 331); /* 330.75 */
    assert_int_equal(mix_samples(864000000, 768000), 663552000000);
}

static void test_pan_has_constant_power_and_leaves_the_centre(void **state)
{
    double left, right;
    int i;

    (void)state;
    mix_pan(0, &left, &right);
    assert_true(left == 1 && right == 1);
    mix_pan(-1, &left, &right);
    assert_true(fabs(left - sqrt(2)) < 1e-9 && right == 0);
    mix_pan(1, &left, &right);
    assert_true(left == 0 && fabs(right - sqrt(2)) < 1e-9);
    for (i = -10; i <= 10; i++) {
        mix_pan(i / 10.0, &left, &right);
        assert_true(fabs(left * left + right * right - 2) < 1e-9);
        assert_true((right > left) == (i > 0));
    }
}

static void test_fades_are_straight_and_mirror_each_other(void **state)
{
    const struct mix_fade fade = {.in = 100, .out = 100, .length = 1000};
    float shape[1000];
    int i;

    (void)state;
    mix_fade_shape(&fade, 0, shape, 1000);
    for (i = 0; i < 1000; i++) {
        assert_true(fabsf(shape[i] - shape[999 - i]) < 1e-6f);
        assert_true(i >= 100 || fabsf(shape[i] - (float)i / 100) < 1e-6f);
    }
    assert_true(shape[100] == 1 && shape[500] == 1 && shape[899] == 1 && shape[999] == 0);
    assert_true(mix_fade_touches(&fade, 99, 1) && !mix_fade_touches(&fade, 100, 800));
    assert_true(mix_fade_touches(&fade, 100, 801));
}

static void test_a_track_longer_than_told_stays_silent_after_its_fade(void **state)
{
    const struct mix_fade fade = {.out = 10, .length = 20};
    float shape[8];

    (void)state;
    mix_fade_shape(&fade, 17, shape, 8);
    assert_true(shape[0] > 0 && shape[2] == 0 && shape[7] == 0);
}

static void test_overlapping_fades_multiply(void **state)
{
    const struct mix_fade fade = {.in = 100, .out = 100, .length = 101};
    float shape[101];

    (void)state;
    mix_fade_shape(&fade, 0, shape, 101);
    assert_true(fabsf(shape[50] - 0.25f) < 1e-6f);
}

/* Run it over the samples in blocks of odd sizes; out is in time with in. */
static void limit(const float *in, float *out, int n, double ceiling)
{
    static float late[SAMPLES + 8192];
    static const int sizes[] = {1, 4096, 77, 1000, 128, 129};
    struct limiter *l = NULL;
    int at, size, i = 0, delay;

    assert_int_equal(limiter_open(RATE, 1, ceiling, &l), MEDIA_OK);
    delay = limiter_delay(l);
    memset(late, 0, sizeof(late));
    memcpy(late, in, (size_t)n * sizeof(float));
    for (at = 0; at < n + delay; at += size) {
        float *plane = late + at;

        size = sizes[i++ % (int)ARRAY_LEN(sizes)];
        size = size < n + delay - at ? size : n + delay - at;
        limiter_run(l, &plane, size);
    }
    memcpy(out, late + delay, (size_t)n * sizeof(float));
    for (i = 0; i < delay; i++) {
        assert_true(late[i] == 0);
    }
    limiter_close(&l);
    assert_null(l);
}

static float in_samples[SAMPLES], out_samples[SAMPLES];

static void sine(double frequency, double amplitude, double phase)
{
    int i;

    for (i = 0; i < SAMPLES; i++) {
        in_samples[i] = (float)(amplitude * sin(2 * M_PI * frequency * i / RATE + phase));
    }
}

static void test_what_is_below_the_ceiling_passes_bit_by_bit(void **state)
{
    (void)state;
    sine(997, 0.88, 0);
    limit(in_samples, out_samples, SAMPLES, 0.891);
    assert_memory_equal(in_samples, out_samples, sizeof(in_samples));
}

static void test_nothing_passes_the_ceiling(void **state)
{
    int i, clipped = 0;

    (void)state;
    sine(331, 3, 0);
    for (i = 0; i < SAMPLES; i += 5000) {
        in_samples[i] = 12; /* clicks */
    }
    limit(in_samples, out_samples, SAMPLES, 0.891);
    for (i = 0; i < SAMPLES; i++) {
        assert_true(fabsf(out_samples[i]) <= 0.8911f);
        assert_true(in_samples[i] * out_samples[i] >= 0);
        clipped += fabsf(out_samples[i]) > 0.89f;
    }
    assert_true(clipped < SAMPLES / 20); /* turned down, not cut flat */
}

static void test_peaks_between_samples_count(void **state)
{
    float most = 0;
    int i;

    (void)state;
    /* A quarter of the rate, sampled at 45 degrees: samples reach 0.707 of the real peak. */
    sine(RATE / 4.0, 1.2, M_PI_4);
    limit(in_samples, out_samples, SAMPLES, 0.891);
    for (i = SAMPLES / 4; i < SAMPLES; i++) {
        most = fabsf(out_samples[i]) > most ? fabsf(out_samples[i]) : most;
    }
    assert_true(most * sqrtf(2) < 0.9f && most * sqrtf(2) > 0.85f);
}

static void test_the_gain_comes_back_after_a_peak(void **state)
{
    int i;

    (void)state;
    sine(500, 0.5, 0);
    in_samples[1000] = 4;
    limit(in_samples, out_samples, SAMPLES, 0.891);
    for (i = 0; i < 800; i++) {
        assert_true(in_samples[i] == out_samples[i]);
    }
    assert_true(fabsf(out_samples[1000]) <= 0.8911f);
    for (i = SAMPLES - 1000; i < SAMPLES; i++) {
        assert_true(fabsf(out_samples[i] - in_samples[i]) < 1e-4f);
    }
}

static void test_what_is_no_number_does_not_stay(void **state)
{
    int i;

    (void)state;
    sine(500, 0.5, 0);
    in_samples[100] = NAN;
    in_samples[200] = INFINITY;
    in_samples[300] = -INFINITY;
    limit(in_samples, out_samples, SAMPLES, 0.891);
    for (i = 0; i < SAMPLES; i++) {
        assert_true(fabsf(out_samples[i]) <= 0.8911f);
    }
    assert_true(fabsf(out_samples[SAMPLES - 1] - in_samples[SAMPLES - 1]) < 1e-3f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times_go_to_the_nearest_sample),
        cmocka_unit_test(test_pan_has_constant_power_and_leaves_the_centre),
        cmocka_unit_test(test_fades_are_straight_and_mirror_each_other),
        cmocka_unit_test(test_a_track_longer_than_told_stays_silent_after_its_fade),
        cmocka_unit_test(test_overlapping_fades_multiply),
        cmocka_unit_test(test_what_is_below_the_ceiling_passes_bit_by_bit),
        cmocka_unit_test(test_nothing_passes_the_ceiling),
        cmocka_unit_test(test_peaks_between_samples_count),
        cmocka_unit_test(test_the_gain_comes_back_after_a_peak),
        cmocka_unit_test(test_what_is_no_number_does_not_stay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
