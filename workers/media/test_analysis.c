/* Tones whose loudness, peak, tempo and silence are known by arithmetic. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>

#include "workers/media/analysis.h"

enum { RATE = 48000 };

static const double PI = 3.14159265358979323846;

static const struct analysis_format stereo = {.sample_rate = RATE, .n_channels = 2};

/* Sample i of channel c. */
typedef float signal_fn(int64_t i, size_t c);

static void feed(struct analysis *a, size_t n_channels, int64_t from, int64_t to, signal_fn *signal)
{
    static float block[ANALYSIS_BLOCK * ANALYSIS_CHANNELS_MAX];
    size_t len, i, c;

    for (; from < to; from += (int64_t)len) {
        len = to - from < ANALYSIS_BLOCK ? (size_t)(to - from) : ANALYSIS_BLOCK;
        for (i = 0; i < len; i++) {
            for (c = 0; c < n_channels; c++) {
                block[i * n_channels + c] = signal(from + (int64_t)i, c);
            }
        }
        assert_true(analysis_add(a, block, len));
    }
}

static struct analysis_found analyse(struct analysis_format format, double seconds,
                                     signal_fn *signal)
{
    struct analysis_found found;
    struct analysis *a = analysis_open(&format);

    assert_non_null(a);
    feed(a, format.n_channels, 0, (int64_t)(seconds * format.sample_rate), signal);
    assert_true(analysis_end(a, &found));
    analysis_close(&a);
    assert_null(a);
    return found;
}

static float sine_997(int64_t i, size_t c)
{
    (void)c;
    return 0.1f * (float)sin(2 * PI * 997 * (double)i / RATE);
}

static float silence(int64_t i, size_t c)
{
    (void)i;
    (void)c;
    return 0;
}

/* EBU Tech 3341: a stereo 997 Hz sine is as many LUFS as its peak is dBFS. */
static void a_sine_is_as_loud_as_its_peak(void **state)
{
    struct analysis_found found = analyse(stereo, 20, sine_997);

    (void)state;
    assert_true(fabs(found.integrated_lufs + 20) < 0.05);
    assert_true(fabs(found.true_peak_dbtp + 20) < 0.05);
    assert_true(found.loudness_range < 0.05);
    assert_true(isnan(found.tempo_bpm));
    assert_int_equal(found.samples, 20 * RATE);
    assert_int_equal(found.clipped_samples, 0);
}

static void mono_is_3_lu_less(void **state)
{
    (void)state;
    assert_true(
        fabs(analyse((struct analysis_format){.sample_rate = RATE, .n_channels = 1}, 5, sine_997)
                 .integrated_lufs +
             23.01) < 0.05);
}

static float one_of_three(int64_t i, size_t c)
{
    return c == 0 ? sine_997(i, c) : 0;
}

static void channels_weigh_by_their_place(void **state)
{
    struct analysis_format f = {.sample_rate = RATE, .n_channels = 3};
    double front;

    (void)state;
    front = analyse(f, 5, one_of_three).integrated_lufs;
    assert_true(fabs(front + 23.01) < 0.05);
    f.places[0] = ANALYSIS_AROUND;
    assert_true(fabs(analyse(f, 5, one_of_three).integrated_lufs - front - 1.49) < 0.02);
    f.places[0] = ANALYSIS_LOW;
    assert_true(isnan(analyse(f, 5, one_of_three).integrated_lufs));
}

static float two_levels(int64_t i, size_t c)
{
    return i < 20 * RATE ? sine_997(i, c) : sine_997(i, c) * 0.316227766f;
}

/* EBU Tech 3342, case 1: 20 s each at −20 and −30 LUFS. */
static void two_levels_are_their_distance_apart(void **state)
{
    struct analysis_found found = analyse(stereo, 40, two_levels);

    (void)state;
    assert_true(fabs(found.loudness_range - 10) < 0.1);
}

/* Full scale at a quarter of the rate, sampled beside its peaks; faded in, since a sudden start
 * overshoots. */
static float between(int64_t i, size_t c)
{
    double gain = i < RATE ? (double)i / RATE : 2 - (double)i / RATE;

    (void)c;
    return (float)(gain * sin(PI / 2 * (double)i + PI / 4));
}

static void the_true_peak_is_between_samples(void **state)
{
    (void)state;
    assert_true(fabs(analyse(stereo, 2, between).true_peak_dbtp) < 0.1);
}

static void silence_has_no_figures_and_no_end(void **state)
{
    struct analysis_found found = analyse(stereo, 3, silence);

    (void)state;
    assert_true(isnan(found.integrated_lufs) && isnan(found.loudness_range));
    assert_true(isnan(found.true_peak_dbtp) && isnan(found.tempo_bpm));
    assert_int_equal(found.leading_silence, 3 * RATE);
    assert_int_equal(found.trailing_silence, 3 * RATE);
}

/* One sample over the threshold of −60 dBFS at each end, and others just below it. */
static float bounded(int64_t i, size_t c)
{
    return c == 1 && (i == 1000 || i == RATE - 501) ? -0.00101f : 0.00099f;
}

static void silence_ends_at_the_first_loud_sample_of_any_channel(void **state)
{
    struct analysis_found found = analyse(stereo, 1, bounded);

    (void)state;
    assert_int_equal(found.leading_silence, 1000);
    assert_int_equal(found.trailing_silence, 500);
}

static float full_16(int64_t i, size_t c)
{
    return i >= 10 ? 0.5f : c == 0 ? 32767 / 32768.0f : i < 4 ? -1.0f : 32766 / 32768.0f;
}

static void full_scale_depends_on_the_depth(void **state)
{
    struct analysis_format f = stereo;

    (void)state;
    f.bit_depth = 16;
    assert_int_equal(analyse(f, 1, full_16).clipped_samples, 14);
    f.bit_depth = 0;
    assert_int_equal(analyse(f, 1, full_16).clipped_samples, 4);
}

static float damaged(int64_t i, size_t c)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-42f};

    return i % 7 == 0 ? odd[(size_t)(i / 7) % 6] : sine_997(i, c);
}

static void what_is_no_number_spoils_nothing(void **state)
{
    struct analysis_found found = analyse(stereo, 10, damaged);

    (void)state;
    assert_true(isfinite(found.integrated_lufs) && isfinite(found.true_peak_dbtp));
    assert_true(found.true_peak_dbtp < 50);
}

/* A click every half second; the tracker thinks in steps of 12 ms, so 2 % is as good as it gets. */
static float clicks(int64_t i, size_t c)
{
    (void)c;
    return i % (RATE / 2) < 480 ? 0.8f * (float)sin((double)i * 0.9) : 0;
}

static void clicks_twice_a_second_are_120_bpm(void **state)
{
    (void)state;
    assert_true(fabs(analyse(stereo, 30, clicks).tempo_bpm - 120) < 2.4);
}

static void odd_rates_are_analysed_as_far_as_they_go(void **state)
{
    static const int rates[] = {1000, 3999, 4000, 7350, 11025, 192000, 768000};
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
        const struct analysis_format f = {.sample_rate = rates[i], .n_channels = 1};
        struct analysis_found found = analyse(f, 4, sine_997);

        assert_int_equal(isfinite(found.integrated_lufs), rates[i] >= 4000);
        assert_int_equal(found.samples, 4 * rates[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sine_is_as_loud_as_its_peak),
        cmocka_unit_test(mono_is_3_lu_less),
        cmocka_unit_test(channels_weigh_by_their_place),
        cmocka_unit_test(two_levels_are_their_distance_apart),
        cmocka_unit_test(the_true_peak_is_between_samples),
        cmocka_unit_test(silence_has_no_figures_and_no_end),
        cmocka_unit_test(silence_ends_at_the_first_loud_sample_of_any_channel),
        cmocka_unit_test(full_scale_depends_on_the_depth),
        cmocka_unit_test(what_is_no_number_spoils_nothing),
        cmocka_unit_test(clicks_twice_a_second_are_120_bpm),
        cmocka_unit_test(odd_rates_are_analysed_as_far_as_they_go),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
