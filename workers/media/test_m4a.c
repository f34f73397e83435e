/* Files beside those that libavformat's muxer makes of the same packets: byte for byte the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>

#include <cmocka.h>

#include <libavcodec/avcodec.h>
#include <libavutil/channel_layout.h>
#include <libavutil/intreadwrite.h>
#include <libavutil/log.h>

#include "workers/media/m4a.h"
#include "workers/media/tags.h"

enum { RATE = 44100, FRAME = 1024, IO_BUFFER = 4096, ROOM = 1 << 20, PACKET_MAX = UINT16_MAX };

static const int64_t FILE_MAX = INT64_C(5) << 30; /* of address space */

struct file {
    uint8_t *data; /* zeros where nothing was written */
    int64_t position, size;
};

struct plan {
    uint32_t packets;
    int size, spread; /* of a packet: size … size + spread - 1 bytes */
    int64_t start, step, last;
    int64_t room;
    bool has_texts;
};

static const struct plan usual = {
    .packets = 500, .size = 300, .spread = 100, .start = -FRAME, .step = FRAME, .last = 77};

/* ---- files in memory ---- */

static int on_write(void *opaque, uint8_t *data, int size)
{
    struct file *f = opaque;

    assert_true(f->position + size <= FILE_MAX);
    if (size < PACKET_MAX) { /* the largest packets are zeros */
        memcpy(f->data + f->position, data, (size_t)size);
    }
    f->position += size;
    f->size = f->position > f->size ? f->position : f->size;
    return size;
}

static int64_t on_seek(void *opaque, int64_t offset, int whence)
{
    struct file *f = opaque;

    assert_int_equal(whence, SEEK_SET);
    f->position = offset;
    f->size = f->position > f->size ? f->position : f->size;
    return offset;
}

static AVIOContext *open_file(struct file *f)
{
    AVIOContext *io =
        avio_alloc_context(av_malloc(IO_BUFFER), IO_BUFFER, 1, f, NULL, on_write, on_seek);

    *f = (struct file){.data = mmap(NULL, (size_t)FILE_MAX, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)};
    assert_ptr_not_equal(f->data, MAP_FAILED);
    io->direct = 1; /* large packets are not even copied */
    return io;
}

static void close_io(AVIOContext *io)
{
    avio_flush(io);
    assert_int_equal(io->error, 0);
    av_free(io->buffer);
    avio_context_free(&io);
}

static void drop_file(struct file *f)
{
    assert_int_equal(munmap(f->data, (size_t)FILE_MAX), 0);
}

/* ---- muxing ---- */

static AVFormatContext *make_muxer(const struct plan *p, const struct tags_cover *cover)
{
    static const uint8_t config[] = {0x12, 0x10};
    AVFormatContext *muxer = NULL;
    AVStream *s;

    assert_true(avformat_alloc_output_context2(&muxer, NULL, "ipod", NULL) >= 0);
    muxer->flags |= AVFMT_FLAG_BITEXACT | AVFMT_FLAG_CUSTOM_IO;
    s = avformat_new_stream(muxer, NULL);
    s->time_base = (AVRational){1, RATE};
    s->codecpar->codec_type = AVMEDIA_TYPE_AUDIO;
    s->codecpar->codec_id = AV_CODEC_ID_AAC;
    s->codecpar->sample_rate = RATE;
    s->codecpar->bit_rate = 128000;
    s->codecpar->frame_size = FRAME;
    s->codecpar->extradata = av_mallocz(sizeof(config) + AV_INPUT_BUFFER_PADDING_SIZE);
    s->codecpar->extradata_size = sizeof(config);
    memcpy(s->codecpar->extradata, config, sizeof(config));
    av_channel_layout_default(&s->codecpar->ch_layout, 2);
    if (p->has_texts) {
        assert_true(av_dict_set(&muxer->metadata, "title", "Grün", 0) >= 0);
        assert_non_null(tags_cover_stream(muxer, cover));
    }
    return muxer;
}

static void write_cover(AVFormatContext *muxer, const struct tags_cover *cover)
{
    AVPacket *packet = av_packet_clone(cover->picture);

    packet->stream_index = 1;
    packet->pts = packet->dts = 0;
    assert_true(av_write_frame(muxer, packet) >= 0);
    av_packet_free(&packet);
}

/* The packets of a plan, to m4a or, where that is NULL, to the muxer. */
static void write_packets(const struct plan *p, struct m4a *m4a, AVFormatContext *muxer)
{
    static uint8_t data[PACKET_MAX + AV_INPUT_BUFFER_PADDING_SIZE];
    AVPacket *packet = av_packet_alloc();
    uint32_t i;

    memset(data, p->size == PACKET_MAX ? 0 : 0x21, sizeof(data));
    for (i = 0; i < p->packets; i++) {
        packet->data = data;
        packet->size = p->size + (p->spread > 0 ? (int)(i * 7919 % (uint32_t)p->spread) : 0);
        data[0] = (uint8_t)(p->size == PACKET_MAX ? 0 : i);
        packet->pts = packet->dts = p->start + i * p->step;
        packet->duration = i + 1 < p->packets ? p->step : p->last;
        assert_true((m4a != NULL ? m4a_packet(m4a, packet) : av_write_frame(muxer, packet)) >= 0);
    }
    av_packet_free(&packet);
}

/* with_muxer: what libavformat makes, instead of ours. */
static void make_file(const struct plan *p, bool with_muxer, struct file *f)
{
    static uint8_t png[64] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n', 0, 0, 0, 13,
                              'I',  'H', 'D', 'R', 0,    0,    1,    0,    0, 0, 0, 200};
    AVPacket *picture = av_packet_alloc();
    struct tags_cover cover = {.picture = picture, .kind = COVER_PNG, .width = 256, .height = 200};
    AVIOContext *io = open_file(f);
    AVFormatContext *muxer = make_muxer(p, &cover);
    AVDictionary *options = NULL;
    struct m4a *m4a = NULL;

    picture->data = png;
    picture->size = sizeof(png);
    assert_true(av_dict_set_int(&options, "movie_timescale", RATE, 0) >= 0);
    if (with_muxer) {
        muxer->pb = io;
        io->seekable = AVIO_SEEKABLE_NORMAL;
        assert_true(av_dict_set_int(&options, "moov_size", p->room, 0) >= 0);
        assert_true(avformat_write_header(muxer, &options) >= 0);
    } else {
        assert_int_equal(m4a_open(muxer, &options, io, p->room, &m4a), 0);
    }
    if (p->has_texts) {
        write_cover(muxer, &cover);
    }
    write_packets(p, m4a, muxer);
    assert_int_equal(with_muxer ? av_write_trailer(muxer) : m4a_end(m4a), 0);
    m4a_close(&m4a);
    av_dict_free(&options);
    avformat_free_context(muxer);
    close_io(io);
    av_packet_free(&picture);
}

/* ---- looking ---- */

/* The place of a box by its path, names of 4 letters without anything between; 0: not there. */
static int64_t find(const struct file *f, const char *path)
{
    int64_t at = 0, end = f->size;

    while (at + 8 <= end) {
        int64_t size = AV_RB32(f->data + at);
        bool is_it = memcmp(f->data + at + 4, path, 4) == 0;

        size = size == 1 ? (int64_t)AV_RB64(f->data + at + 8) : size;
        assert_true(size >= 8 && at + size <= end);
        if (is_it && path[4] == '\0') {
            return at;
        }
        if (is_it) {
            end = at + size;
            path += 4;
            size = 8;
        }
        at += size;
    }
    assert_int_equal(at, end);
    return 0;
}

static uint32_t number(const struct file *f, const char *path, int64_t offset)
{
    int64_t at = find(f, path);

    assert_int_not_equal(at, 0);
    return AV_RB32(f->data + at + offset);
}

static uint64_t number64(const struct file *f, const char *path, int64_t offset)
{
    return (uint64_t)number(f, path, offset) << 32 | number(f, path, offset + 4);
}

#define STBL "moovtrakmdiaminfstbl"

/* Our file is the muxer's: all of it, or where it is long, what stands before and behind the audio.
 * The caller drops it. */
static struct file check(const struct plan *p)
{
    struct file ours, theirs;
    int64_t len;

    make_file(p, false, &ours);
    make_file(p, true, &theirs);
    assert_int_equal(ours.size, theirs.size);
    len = p->size == PACKET_MAX ? 2 * ROOM : ours.size;
    assert_memory_equal(ours.data, theirs.data, (size_t)len);
    assert_memory_equal(ours.data + ours.size - len, theirs.data + ours.size - len, (size_t)len);
    drop_file(&theirs);
    return ours;
}

static void test_any_number_of_packets_is_as_the_muxer_has_it(void **state)
{
    static const uint32_t numbers[] = {0, 1, 2, 3, 500, 70000}; /* 65,536 in a block of sizes */
    struct plan p = usual;
    size_t i;
    int k;

    (void)state;
    for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        for (k = 0; k < 4; k++) {
            struct file f;

            p.packets = numbers[i];
            p.has_texts = k & 1;
            p.room = (k & 2) != 0 ? ROOM : 0;
            f = check(&p);
            assert_true(p.packets == 0 || number(&f, STBL "stsz", 16) == p.packets);
            assert_true((find(&f, "moov") < find(&f, "mdat")) == (p.room > 0));
            drop_file(&f);
        }
    }
}

static void test_delay_and_padding_are_in_samples(void **state)
{
    static const int64_t lasts[] = {1, 77, FRAME};
    struct plan p = usual;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(lasts) / sizeof(lasts[0]); i++) {
        int64_t samples = (p.packets - 2) * FRAME + lasts[i];
        struct file f;

        p.last = lasts[i];
        f = check(&p);
        assert_int_equal(number(&f, "moovtrakedtselst", 16), samples);
        assert_int_equal(number(&f, "moovtrakedtselst", 20), FRAME);
        assert_int_equal(number(&f, "moovtrakmdiamdhd", 24), samples + FRAME);
        assert_int_equal(number(&f, STBL "stts", 12), lasts[i] == FRAME ? 1 : 2);
        assert_int_equal(number(&f, STBL "sbgp", 20), p.packets);
        drop_file(&f);
    }
}

static void test_packets_of_one_size_need_no_table(void **state)
{
    struct plan p = usual;
    struct file f;

    (void)state;
    p.spread = 0;
    p.packets = 10000; /* 3 chunks, of which the last is shorter */
    f = check(&p);
    assert_int_equal(number(&f, STBL "stsz", 12), 300);
    assert_int_equal(number(&f, STBL "stsz", 0), 20);
    assert_int_equal(number(&f, STBL "stco", 12), 3);
    assert_int_equal(number(&f, STBL "stsc", 12), 2);
    drop_file(&f);
    p.size = 4096; /* a whole part of a chunk's limit */
    p.packets = 255 * 3;
    f = check(&p);
    assert_int_equal(number(&f, STBL "stco", 12), 3);
    assert_int_equal(number(&f, STBL "stsc", 12), 1);
    drop_file(&f);
}

static void test_lengths_beyond_32_bits(void **state)
{
    struct plan p = usual;
    struct file f;

    (void)state;
    p.packets = 9;
    p.step = 1 << 30;
    f = check(&p);
    assert_int_equal(number64(&f, "moovmvhd", 32), 8 * p.step + p.last - FRAME);
    assert_int_equal(number64(&f, "moovtrakmdiamdhd", 32), 8 * p.step + p.last);
    assert_int_equal(number64(&f, "moovtrakedtselst", 16), 8 * p.step + p.last - FRAME);
    drop_file(&f);
}

static void test_audio_beyond_4_gib(void **state)
{
    struct plan p = usual;
    struct file f;
    uint32_t n;

    (void)state;
    p.packets = 67000;
    p.size = PACKET_MAX;
    p.spread = 0;
    p.room = ROOM;
    f = check(&p);
    n = number(&f, STBL "co64", 12);
    assert_int_equal(find(&f, STBL "stco"), 0);
    assert_int_equal(number(&f, "mdat", 0), 1);
    assert_int_equal(number64(&f, "mdat", 8), (uint64_t)p.packets * PACKET_MAX + 16);
    assert_int_equal(number64(&f, STBL "co64", 16), find(&f, "mdat") + 16);
    assert_int_equal(number64(&f, STBL "co64", 16 + 8 * (n - 1)),
                     find(&f, "mdat") + 16 + (int64_t)(n - 1) * 16 * PACKET_MAX);
    drop_file(&f);
}

static void test_an_index_larger_than_its_room_goes_behind(void **state)
{
    struct plan p = usual;
    struct file f = check(&p);
    int64_t size = number(&f, "moov", 0), more;

    (void)state;
    drop_file(&f);
    for (more = -1; more <= 9; more++) { /* what is left has room for a free box, or is nothing */
        bool fits = more == 0 || more >= 8;

        p.room = size + more;
        make_file(&p, false, &f);
        assert_int_equal(number(&f, "moov", 0), size);
        assert_true((find(&f, "moov") < find(&f, "mdat")) == fits);
        assert_int_equal(number(&f, "free", 0), more == 0 ? 8 : fits ? more : size + more);
        assert_int_equal(number(&f, STBL "stco", 16), find(&f, "mdat") + 8);
        drop_file(&f);
    }
}

static void test_packets_that_no_table_here_can_tell_of_are_refused(void **state)
{
    static uint8_t data[PACKET_MAX + 1 + AV_INPUT_BUFFER_PADDING_SIZE];
    static const struct {
        int behind; /* so many good ones */
        int size;
        int64_t pts, duration;
    } rows[] = {{0, 9, AV_NOPTS_VALUE, FRAME},
                {0, 9, INT64_MAX, FRAME},
                {1, 9, 0, FRAME},
                {1, 9, -FRAME, FRAME},
                {1, 9, INT64_MAX, FRAME},
                {2, 0, 2 * FRAME, FRAME},
                {2, PACKET_MAX + 1, 2 * FRAME, FRAME},
                {2, 9, 2 * FRAME, -1},
                {2, 9, 2 * FRAME, INT64_MAX},
                {2, 9, 2 * FRAME + 1, FRAME},
                {2, 9, FRAME, FRAME},
                {2, 9, AV_NOPTS_VALUE, FRAME}};
    int good = 0;
    struct file f;
    AVIOContext *io = open_file(&f);
    AVFormatContext *muxer = make_muxer(&usual, NULL);
    AVPacket *packet = av_packet_alloc();
    struct m4a *m4a;
    size_t i;

    (void)state;
    assert_int_equal(m4a_open(muxer, NULL, io, 0, &m4a), 0);
    packet->data = data;
    for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (; good < rows[i].behind; good++) {
            packet->size = PACKET_MAX;
            packet->pts = (int64_t)good * FRAME;
            packet->duration = FRAME;
            assert_int_equal(m4a_packet(m4a, packet), 0);
        }
        packet->size = rows[i].size;
        packet->pts = rows[i].pts;
        packet->duration = rows[i].duration;
        assert_int_equal(m4a_packet(m4a, packet), AVERROR_BUG);
    }
    assert_int_equal(m4a_end(m4a), 0);
    m4a_close(&m4a);
    assert_null(m4a);
    avformat_free_context(muxer);
    close_io(io);
    assert_int_equal(number(&f, STBL "stsz", 16), 2);
    drop_file(&f);
    av_packet_free(&packet);
}

static void test_room_is_for_the_whole_index_or_there_is_none(void **state)
{
    static const int64_t hour = INT64_C(3600) * RATE;
    struct plan p = usual;
    struct file f;

    (void)state;
    assert_true(m4a_room(0, 0) > 0);
    assert_true(m4a_room(hour, 0) > hour / FRAME * 4);
    assert_int_equal(m4a_room(24 * hour, 0), 0);
    assert_int_equal(m4a_room(hour, 4 << 20), 0);
    p.packets = 20000;
    p.size = 8000; /* the largest there are, which make the most chunks */
    p.room = m4a_room(p.packets * FRAME, 0);
    f = check(&p);
    assert_true(find(&f, "moov") < find(&f, "mdat"));
    drop_file(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_number_of_packets_is_as_the_muxer_has_it),
        cmocka_unit_test(test_delay_and_padding_are_in_samples),
        cmocka_unit_test(test_packets_of_one_size_need_no_table),
        cmocka_unit_test(test_lengths_beyond_32_bits),
        cmocka_unit_test(test_audio_beyond_4_gib),
        cmocka_unit_test(test_an_index_larger_than_its_room_goes_behind),
        cmocka_unit_test(test_packets_that_no_table_here_can_tell_of_are_refused),
        cmocka_unit_test(test_room_is_for_the_whole_index_or_there_is_none),
    };

    av_log_set_level(AV_LOG_QUIET); /* it misses the file's name */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
