/* First frames as LAME and libavformat write them, and hostile ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "workers/media/lame.h"

enum { FRAMES = 1000, DELAY = 576, PADDING = 1000, FLAGS_ALL = 15 };

/* A first frame: MPEG 1 or 2, stereo or mono, with these flags. */
static void make_frame(uint8_t out[LAME_BYTES], int mpeg1, int mono, uint32_t flags)
{
    size_t at = 4 + (size_t)(mpeg1 ? (mono ? 17 : 32) : (mono ? 9 : 17));

    memset(out, 0, LAME_BYTES);
    out[0] = 0xff;
    out[1] = mpeg1 ? 0xfb : 0xf3;
    out[2] = 0x90;
    out[3] = mono ? 0xc0 : 0x40;
    memcpy(out + at, "Info", 4);
    out[at + 7] = (uint8_t)flags;
    out[at + 10] = FRAMES >> 8;
    out[at + 11] = FRAMES & 255;
    at +=
        12 + ((flags & 2) != 0 ? 4 : 0) + ((flags & 4) != 0 ? 100 : 0) + ((flags & 8) != 0 ? 4 : 0);
    memcpy(out + at, "LAME3.100", 9);
    out[at + 21] = DELAY >> 4;
    out[at + 22] = (uint8_t)((DELAY & 15) << 4 | PADDING >> 8);
    out[at + 23] = PADDING & 255;
}

static void test_delay_and_padding_are_taken_off(void **state)
{
    uint8_t frame[LAME_BYTES];
    int mono;

    (void)state;
    for (mono = 0; mono < 2; mono++) {
        make_frame(frame, 1, mono, FLAGS_ALL);
        assert_int_equal(lame_samples(frame, LAME_BYTES), FRAMES * 1152 - DELAY - PADDING);
        make_frame(frame, 0, mono, FLAGS_ALL);
        assert_int_equal(lame_samples(frame, LAME_BYTES), FRAMES * 576 - DELAY - PADDING);
        make_frame(frame, 1, mono, 1);
        assert_int_equal(lame_samples(frame, LAME_BYTES), FRAMES * 1152 - DELAY - PADDING);
    }
}

static void test_what_tells_no_length_is_none(void **state)
{
    uint8_t frame[LAME_BYTES];

    (void)state;
    make_frame(frame, 1, 0, FLAGS_ALL - 1); /* without the number of frames */
    assert_int_equal(lame_samples(frame, LAME_BYTES), -1);
    make_frame(frame, 1, 0, FLAGS_ALL);
    assert_int_equal(lame_samples(frame, LAME_BYTES - 1), -1);
    frame[36] = 'X';
    assert_int_equal(lame_samples(frame, LAME_BYTES), -1);
    make_frame(frame, 1, 0, FLAGS_ALL);
    memset(frame + 46, 0, 2); /* fewer frames than delay and padding take */
    frame[47] = 1;
    assert_int_equal(lame_samples(frame, LAME_BYTES), -1);
    memset(frame, 0xff, LAME_BYTES);
    assert_int_equal(lame_samples(frame, LAME_BYTES), -1);
}

static void test_a_tag_in_front_is_measured(void **state)
{
    static const uint8_t tag[] = {'I', 'D', '3', 3, 0, 0, 0, 0, 2, 1};
    static const uint8_t with_footer[] = {'I', 'D', '3', 4, 0, 0x10, 0x7f, 0x7f, 0x7f, 0x7f};

    (void)state;
    assert_int_equal(lame_id3_bytes(tag, sizeof(tag)), 10 + 257);
    assert_int_equal(lame_id3_bytes(tag, sizeof(tag) - 1), 0);
    assert_int_equal(lame_id3_bytes(with_footer, sizeof(with_footer)), 20 + (1 << 28) - 1);
    assert_int_equal(lame_id3_bytes((const uint8_t *)"\xff\xfb\x90\x40\0\0\0\0\0\0", 10), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_delay_and_padding_are_taken_off),
        cmocka_unit_test(test_what_tells_no_length_is_none),
        cmocka_unit_test(test_a_tag_in_front_is_measured),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
