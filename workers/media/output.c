/* Muxers write a header, the audio, and in the end correct the header (sizes, counts, hash, seek
 * table). Appending and correcting are two messages of the link; all corrections lie within the
 * first MEDIA_REWRITABLE bytes, which the picture's bound sees to. */
#include "workers/media/output.h"

#include <libavutil/channel_layout.h>
#include <libavutil/intreadwrite.h>
#include <libavutil/samplefmt.h>

#include "workers/media/m4a.h"
#include "workers/media/tags.h"

enum {
    IO_BUFFER = 256 << 10,
    COVER_BYTES_MAX =
        3 << 20, /* below MEDIA_REWRITABLE: an MP3's counts stand behind its picture */
    ID3_BEFORE_MAX = 768 << 10, /* a larger picture would hide ADTS from those who probe it */
    RATE_MAX_LIBVORBIS = 192000,
    VORBIS_QUALITY_USUAL = 6, /* about 192 kbit/s at 44.1 kHz stereo */
    BIT_RATE_USUAL = 96000,   /* a channel */
    BIT_RATE_TRIES = 20,
    RIFF_HEADER = 8, /* a chunk's name and size */
    RF64_SIZE_AT = 20,
    WAV_BYTES_MAX = 0x7fff0000 /* beyond it the RF64 form, which counts in 64 bits */
};

static const float LOUDEST = 4.0f; /* full scale is 1 */

struct output {
    struct link *link;
    uint32_t index;
    int64_t position, size;
    bool failed; /* a correction out of reach */
    AVIOContext *io;
    AVFormatContext *format;
    struct m4a *m4a; /* writes instead of the muxer; NULL: another format */
    AVCodecContext *codec;
    AVStream *stream, *cover;
    AVPacket *packet;
    int64_t samples;
    size_t tag_bytes;
    enum picture_place place;
    struct tags_cover picture;
    uint8_t *id3; /* NULL: none */
    int id3_len;
};

static const struct output_format formats[] = {
    {"mp3", "mp3", "libmp3lame", true, PICTURE_STREAM, 48000, 0},
    {"wav", "wav", NULL, false, PICTURE_ID3_BEHIND, 768000, 0},
    {"flac", "flac", "flac", false, PICTURE_STREAM, 655350, 0},
    {"aac", "adts", "aac", true, PICTURE_ID3_BEFORE, 96000, 0},
    {"m4a", "ipod", "aac", true, PICTURE_STREAM, 96000, 0},
    {"ogg", "ogg", "libvorbis", true, PICTURE_COMMENT, RATE_MAX_LIBVORBIS, 0},
    {"opus", "opus", "libopus", true, PICTURE_COMMENT, 48000, 48000}, /* what it is decoded at */
};

const struct output_format *output_format_find(const char *name)
{
    size_t i;

    for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        if (strcmp(formats[i].name, name) == 0) {
            return &formats[i];
        }
    }
    return NULL;
}

const AVCodec *output_encoder(const struct output_format *format, int bit_depth)
{
    return avcodec_find_encoder_by_name(format->encoder != NULL ? format->encoder
                                        : bit_depth == 16       ? "pcm_s16le"
                                        : bit_depth == 24       ? "pcm_s24le"
                                                                : "pcm_s32le");
}

int output_rate(const struct output_format *format, const AVCodec *encoder, int wanted)
{
    const int *rate = encoder->supported_samplerates;
    int best = 0;

    if (rate == NULL) {
        return wanted < format->rate_max ? wanted : format->rate_max;
    }
    for (; *rate != 0; rate++) {
        /* The smallest that is not below what is wanted, else the largest. */
        if (best == 0 || (best<wanted && * rate> best) || (*rate >= wanted && *rate < best)) {
            best = *rate;
        }
    }
    return best;
}

bool output_layout(const AVCodec *encoder, int channels, const AVChannelLayout *like,
                   AVChannelLayout *layout_out)
{
    const AVChannelLayout *l = encoder->ch_layouts, *same_count = NULL;

    if (l == NULL) {
        if (like->nb_channels == channels) {
            return av_channel_layout_copy(layout_out, like) >= 0;
        }
        av_channel_layout_default(layout_out, channels);
        return true;
    }
    for (; l->nb_channels != 0; l++) {
        if (av_channel_layout_compare(l, like) == 0 && channels == like->nb_channels) {
            return av_channel_layout_copy(layout_out, l) >= 0;
        }
        if (l->nb_channels == channels && same_count == NULL) {
            same_count = l;
        }
    }
    return same_count != NULL && av_channel_layout_copy(layout_out, same_count) >= 0;
}

static enum media_fault fault_of(int rc)
{
    return rc >= 0 ? MEDIA_OK : rc == AVERROR(ENOMEM) ? MEDIA_FAULT_MEMORY : MEDIA_FAULT_INTERNAL;
}

static int out_write(void *opaque, uint8_t *data, int size)
{
    struct output *out = opaque;
    int64_t over = out->size - out->position; /* so much of it replaces */
    size_t len = (size_t)size, old = over <= 0 ? 0 : over < size ? (size_t)over : len;

    if (old > 0) {
        if (out->position + (int64_t)old > MEDIA_REWRITABLE) {
            out->failed = true;
            return AVERROR(EIO);
        }
        link_rewrite(out->link, out->index, out->position, data, old);
    }
    if (len > old) {
        link_write(out->link, out->index, data + old, len - old);
    }
    out->position += size;
    out->size = out->position > out->size ? out->position : out->size;
    return size;
}

static int64_t out_seek(void *opaque, int64_t offset, int whence)
{
    struct output *out = opaque;

    if (whence == AVSEEK_SIZE) {
        return out->size;
    }
    offset += whence == SEEK_CUR ? out->position : whence == SEEK_END ? out->size : 0;
    if (offset < 0 || offset > out->size) {
        return AVERROR(EINVAL);
    }
    out->position = offset;
    return offset;
}

/* ---- tags and picture ---- */

/* What goes before the muxer's header. */
static enum media_fault take_tags(struct output *out, const struct output_settings *s)
{
    enum picture_place place = out->place = s->format->picture;
    enum media_fault f = MEDIA_OK;

    if (s->tags == NULL) {
        return MEDIA_OK;
    }
    out->tag_bytes = tags_copy(&out->format->metadata, s->tags, !s->level_changed);
    out->picture =
        tags_cover(s->tags, place == PICTURE_ID3_BEFORE ? ID3_BEFORE_MAX : COVER_BYTES_MAX);
    if (place == PICTURE_ID3_BEFORE || place == PICTURE_ID3_BEHIND) {
        if (av_dict_count(out->format->metadata) > 0 || out->picture.picture != NULL) {
            f = tags_id3(out->format->metadata, &out->picture, &out->id3, &out->id3_len);
        }
    } else if (out->picture.picture != NULL && place == PICTURE_COMMENT) {
        f = tags_cover_comment(&out->format->metadata, &out->picture);
    } else if (out->picture.picture != NULL) {
        out->cover = tags_cover_stream(out->format, &out->picture);
        f = out->cover == NULL ? MEDIA_FAULT_MEMORY : MEDIA_OK;
    }
    if (f == MEDIA_OK && place == PICTURE_ID3_BEFORE && out->id3_len > 0) {
        avio_write(out->io, out->id3, out->id3_len);
    }
    return f;
}

static enum media_fault write_cover(struct output *out)
{
    int rc;

    if (out->cover == NULL) {
        return MEDIA_OK;
    }
    rc = av_packet_ref(out->packet, out->picture.picture);
    out->packet->stream_index = out->cover->index;
    out->packet->pts = out->packet->dts = 0;
    rc = rc < 0 ? rc : av_write_frame(out->format, out->packet);
    av_packet_unref(out->packet);
    return rc < 0 ? MEDIA_FAULT_INTERNAL : MEDIA_OK;
}

/* ---- encoder and muxer ---- */

/* Our scale (10 is best) in the encoder's words. AAC and Opus have no quality of their own worth
 * using: a bit rate stands for it. */
static void set_quality(AVCodecContext *codec, const struct output_settings *s)
{
    const char *name = s->format->encoder;
    int channels = s->layout.nb_channels;
    double q = s->quality;

    if (strcmp(name, "libmp3lame") == 0) {
        codec->flags |= AV_CODEC_FLAG_QSCALE;
        codec->global_quality = (int)((9.0 - q * 0.9) * FF_QP2LAMBDA + 0.5);
    } else if (strcmp(name, "libvorbis") == 0) {
        codec->flags |= AV_CODEC_FLAG_QSCALE;
        codec->global_quality = (int)(q * FF_QP2LAMBDA + 0.5);
    } else if (strcmp(name, "libopus") == 0) {
        codec->bit_rate = (int64_t)(channels * (16000 + q * 11200));
    } else {
        codec->bit_rate = (int64_t)(channels * (32000 + q * 9600));
    }
}

/* bit_rate 0: none asked for. */
static void set_rate(AVCodecContext *codec, const struct output_settings *s, int64_t bit_rate)
{
    struct output_settings usual = *s;

    if (s->quality >= 0) {
        set_quality(codec, s);
    } else if (bit_rate > 0) {
        codec->bit_rate = bit_rate;
    } else if (strcmp(s->format->encoder, "libvorbis") == 0) {
        usual.quality = VORBIS_QUALITY_USUAL; /* any bit rate is wrong for some sample rate */
        set_quality(codec, &usual);
    } else {
        codec->bit_rate = BIT_RATE_USUAL * (int64_t)s->layout.nb_channels;
    }
}

static enum media_fault try_codec(struct output *out, const struct output_settings *s,
                                  int64_t bit_rate)
{
    const AVCodec *encoder = output_encoder(s->format, s->bit_depth);
    AVCodecContext *codec = avcodec_alloc_context3(encoder);
    int rc;

    avcodec_free_context(&out->codec);
    out->codec = codec;
    if (encoder == NULL || codec == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    codec->sample_rate = s->sample_rate;
    codec->time_base = (AVRational){1, s->sample_rate};
    codec->thread_count = 1;
    codec->flags |= AV_CODEC_FLAG_BITEXACT;
    codec->sample_fmt = encoder->sample_fmts[0];
    if (av_channel_layout_copy(&codec->ch_layout, &s->layout) < 0) {
        return MEDIA_FAULT_MEMORY;
    }
    if (s->format->lossy) {
        set_rate(codec, s, bit_rate);
    } else {
        codec->sample_fmt = s->bit_depth == 16 ? AV_SAMPLE_FMT_S16 : AV_SAMPLE_FMT_S32;
        codec->bits_per_raw_sample = s->bit_depth;
    }
    if ((out->format->oformat->flags & AVFMT_GLOBALHEADER) != 0) {
        codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    }
    rc = avcodec_open2(codec, encoder, NULL);
    return rc == AVERROR(ENOMEM) ? MEDIA_FAULT_MEMORY : rc < 0 ? MEDIA_FAULT_PARAM : MEDIA_OK;
}

/* What bit rates an encoder takes depends on rate and channels in ways of its own: take the
 * nearest that it does. */
static enum media_fault open_codec(struct output *out, const struct output_settings *s)
{
    enum media_fault f = try_codec(out, s, s->bit_rate);
    int64_t lower = s->bit_rate, higher = s->bit_rate;
    int i;

    for (i = 0; f == MEDIA_FAULT_PARAM && s->bit_rate > 0 && i < BIT_RATE_TRIES; i++) {
        lower -= lower / 8;
        higher += higher / 8;
        f = try_codec(out, s, lower);
        f = f == MEDIA_FAULT_PARAM ? try_codec(out, s, higher) : f;
    }
    return f;
}

static enum media_fault open_muxer(struct output *out, const struct output_settings *s)
{
    unsigned char *buffer = av_malloc(IO_BUFFER);

    out->packet = av_packet_alloc();
    out->io = buffer == NULL
                  ? NULL
                  : avio_alloc_context(buffer, IO_BUFFER, 1, out, NULL, out_write, out_seek);
    if (out->packet == NULL || out->io == NULL ||
        avformat_alloc_output_context2(&out->format, NULL, s->format->muxer, NULL) < 0) {
        return MEDIA_FAULT_MEMORY;
    }
    out->io->seekable = AVIO_SEEKABLE_NORMAL;
    /* Same input, same bytes: no program version, no random stream number, no date. */
    out->format->flags |= AVFMT_FLAG_CUSTOM_IO | AVFMT_FLAG_BITEXACT;
    out->format->flush_packets = 0; /* as much as a message carries, not a message a packet */
    return MEDIA_OK;
}

/* M4A: its index (moov) goes to the start, so that players and pipes need not wait for the end. The
 * room that is kept for it allows for some error in the length. */
static enum media_fault open_m4a(struct output *out, const struct output_settings *s)
{
    int64_t error = s->samples_expected / (s->samples_exact ? 64 : 2);
    int64_t texts =
        (int64_t)out->tag_bytes * 2 + (out->cover == NULL ? 0 : out->picture.picture->size);
    AVDictionary *options = NULL;
    int rc;

    /* the edit list, which says where delay and padding are, counts in it */
    (void)av_dict_set_int(&options, "movie_timescale", s->sample_rate, 0);
    rc = m4a_open(out->format, &options, out->io,
                  s->samples_expected < 0 ? 0 : m4a_room(s->samples_expected + error, texts),
                  &out->m4a);
    av_dict_free(&options);
    return fault_of(rc);
}

/* WAV: its sizes are filled in at once where the length is promised. If the promise is kept the
 * end corrects nothing, and what was hashed as it passed by is right. */
static void promise_wav_sizes(struct output *out, const struct output_settings *s)
{
    int64_t data = s->samples_promised * s->layout.nb_channels * (s->bit_depth / 8);
    int64_t id3 = out->id3_len == 0 ? 0 : RIFF_HEADER + out->id3_len + (out->id3_len & 1);
    int64_t whole = out->size - RIFF_HEADER + data + (data & 1) + id3;
    uint8_t size[4];

    if (s->samples_promised < 0 || data > WAV_BYTES_MAX || whole > WAV_BYTES_MAX) {
        return;
    }
    AV_WL32(size, (uint32_t)whole);
    link_rewrite(out->link, out->index, 4, size, sizeof(size));
    AV_WL32(size, (uint32_t)data);
    link_rewrite(out->link, out->index, out->size - 4, size, sizeof(size));
}

static enum media_fault write_header(struct output *out, const struct output_settings *s)
{
    AVDictionary *options = NULL;
    double bytes = (double)s->samples_expected * s->layout.nb_channels * (s->bit_depth / 8);
    bool promised = strcmp(s->format->muxer, "wav") == 0;
    int rc;

    if (strcmp(s->format->muxer, "mp3") == 0) {
        (void)av_dict_set(&options, "id3v2_version", "3", 0);
    } else if (strcmp(s->format->muxer, "wav") == 0 &&
               (s->samples_expected < 0 || bytes > WAV_BYTES_MAX / (s->samples_exact ? 1 : 8))) {
        (void)av_dict_set(&options, "rf64", "auto", 0);
        promised = false;
    }
    out->format->pb = out->io;
    rc = avformat_write_header(out->format, &options);
    av_dict_free(&options);
    if (rc >= 0 && promised) {
        avio_flush(out->io);
        promise_wav_sizes(out, s);
    }
    return fault_of(rc);
}

enum media_fault output_open(struct link *l, uint32_t index, const struct output_settings *s,
                             struct output **output_out)
{
    struct output *out = av_mallocz(sizeof(*out));
    enum media_fault f;

    *output_out = out;
    if (out == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    out->link = l;
    out->index = index;
    f = open_muxer(out, s);
    f = f != MEDIA_OK ? f : open_codec(out, s);
    if (f != MEDIA_OK) {
        return f;
    }
    out->stream = avformat_new_stream(out->format, NULL);
    if (out->stream == NULL ||
        avcodec_parameters_from_context(out->stream->codecpar, out->codec) < 0) {
        return MEDIA_FAULT_MEMORY;
    }
    out->stream->time_base = out->codec->time_base;
    f = take_tags(out, s);
    if (f == MEDIA_OK) {
        f = strcmp(s->format->muxer, "ipod") == 0 ? open_m4a(out, s) : write_header(out, s);
    }
    return f != MEDIA_OK ? f : write_cover(out);
}

const AVCodecContext *output_codec(const struct output *out)
{
    return out->codec;
}

static enum media_fault drain(struct output *out)
{
    int rc;

    while ((rc = avcodec_receive_packet(out->codec, out->packet)) >= 0) {
        out->packet->stream_index = out->stream->index;
        av_packet_rescale_ts(out->packet, out->codec->time_base, out->stream->time_base);
        rc = out->m4a != NULL ? m4a_packet(out->m4a, out->packet)
                              : av_write_frame(out->format, out->packet);
        av_packet_unref(out->packet);
        if (rc < 0) {
            break;
        }
    }
    return rc == AVERROR(EAGAIN) || rc == AVERROR_EOF ? MEDIA_OK : fault_of(rc);
}

/* A float file may hold anything. An encoder of floats may search for ever for what fits an
 * infinity, so nothing is let through that is not a number, or far beyond full scale. */
static void tame(float *samples, int n)
{
    int i;

    for (i = 0; i < n; i++) {
        float x = samples[i] == samples[i] ? samples[i] : 0.0f;

        x = x > -LOUDEST ? x : -LOUDEST;
        samples[i] = x < LOUDEST ? x : LOUDEST;
    }
}

static enum media_fault tame_frame(AVFrame *frame)
{
    int c, planes = frame->ch_layout.nb_channels, n = frame->nb_samples;

    if (av_get_packed_sample_fmt((enum AVSampleFormat)frame->format) != AV_SAMPLE_FMT_FLT) {
        return MEDIA_OK;
    }
    if (av_frame_make_writable(frame) < 0) {
        return MEDIA_FAULT_MEMORY;
    }
    if (!av_sample_fmt_is_planar((enum AVSampleFormat)frame->format)) {
        n *= planes;
        planes = 1;
    }
    for (c = 0; c < planes; c++) {
        tame((float *)(void *)frame->extended_data[c], n);
    }
    return MEDIA_OK;
}

enum media_fault output_frame(struct output *out, AVFrame *frame)
{
    enum media_fault f = tame_frame(frame);

    if (f != MEDIA_OK) {
        return f;
    }
    frame->pts = out->samples;
    out->samples += frame->nb_samples;
    return avcodec_send_frame(out->codec, frame) < 0 ? MEDIA_FAULT_INTERNAL : drain(out);
}

/* WAV: tags and picture as a chunk behind all others, and the size of the whole again, which
 * stands at the start: in 32 bits, or as RF64 (EBU Tech 3306) in 64. */
static void add_id3_chunk(struct output *out)
{
    int64_t before = out->size - RIFF_HEADER, pad = out->id3_len & 1;
    int64_t after = before + RIFF_HEADER + out->id3_len + pad;

    if (before < UINT32_MAX && after >= UINT32_MAX) {
        return; /* the form is chosen, and has no room */
    }
    (void)avio_seek(out->io, 0, SEEK_END);
    avio_write(out->io, (const unsigned char *)"id3 ", 4);
    avio_wl32(out->io, (unsigned)out->id3_len);
    avio_write(out->io, out->id3, out->id3_len);
    if (pad > 0) {
        avio_w8(out->io, 0);
    }
    if (before < UINT32_MAX) {
        (void)avio_seek(out->io, 4, SEEK_SET);
        avio_wl32(out->io, (unsigned)after);
    } else {
        (void)avio_seek(out->io, RF64_SIZE_AT, SEEK_SET);
        avio_wl64(out->io, (uint64_t)after);
    }
}

enum media_fault output_end(struct output *out)
{
    enum media_fault f;

    f = avcodec_send_frame(out->codec, NULL) < 0 ? MEDIA_FAULT_INTERNAL : drain(out);
    if (f == MEDIA_OK) {
        f = fault_of(out->m4a != NULL ? m4a_end(out->m4a) : av_write_trailer(out->format));
    }
    avio_flush(out->io);
    if (f == MEDIA_OK && out->place == PICTURE_ID3_BEHIND && out->id3_len > 0) {
        add_id3_chunk(out);
        avio_flush(out->io);
    }
    if (f == MEDIA_OK && (out->failed || out->io->error < 0)) {
        f = MEDIA_FAULT_INTERNAL;
    }
    if (f == MEDIA_OK) {
        link_finish(out->link, out->index);
    }
    return f;
}

int64_t output_samples(const struct output *out)
{
    return out->samples;
}

void output_close(struct output **output)
{
    struct output *out = *output;

    *output = NULL;
    if (out == NULL) {
        return;
    }
    av_free(out->id3);
    av_packet_free(&out->packet);
    avcodec_free_context(&out->codec);
    m4a_close(&out->m4a);
    avformat_free_context(out->format);
    if (out->io != NULL) {
        av_freep(&out->io->buffer);
        avio_context_free(&out->io);
    }
    av_free(out);
}
