/* libavformat reads through input_read() below and has no other way to get a byte. */
#include "workers/media/input.h"

#include <libavcodec/avcodec.h>
#include <libavutil/channel_layout.h>
#include <libavutil/opt.h>
#include <libswresample/swresample.h>

#include "workers/media/lame.h"

enum {
    IO_BUFFER = 32 << 10,
    PROBE_BYTES = 2 << 20, /* most that finding the streams may read ahead */
    ANALYZE_US = 2000000,
    PROBE_SCORE_MIN = AVPROBE_SCORE_RETRY, /* below it a ZIP passes for MP3 */
    SILENT_PACKETS_MAX = 200000,           /* packets in a row that give no sample */
    ID3_TAGS_MAX = 4,
    HEADER_OFF_MS = 200, /* a count that differs more from libav's duration is none */
    PADDING_MAX = 16384  /* samples that an AAC encoder may add; iTunes adds up to 3,135 */
};

struct input {
    struct link *link;
    uint32_t source;
    int64_t size, position;
    AVIOContext *io;
    AVFormatContext *format;
    AVStream *stream;
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame, *first, *converted;
    SwrContext *swr; /* where a frame differs from the first */
    bool draining, at_end;
    int64_t samples, samples_max;
    int64_t samples_end; /* where the padding begins, as iTunes tells it; -1 not told */
    int64_t packet_most; /* samples of the packet at the decoder, if it is the last; -1 it is not */
    int silent_packets;
    int64_t value;
    struct input_info info;
    char container[32];
};

static int input_read(void *opaque, uint8_t *buffer, int size)
{
    struct input *in = opaque;
    size_t got = link_read(in->link, in->source, in->position, buffer, (size_t)size);

    in->position += (int64_t)got;
    return got == 0 ? AVERROR_EOF : (int)got;
}

static int64_t input_seek(void *opaque, int64_t offset, int whence)
{
    struct input *in = opaque;

    switch (whence & ~AVSEEK_FORCE) {
    case AVSEEK_SIZE:
        return in->size;
    case SEEK_CUR:
        offset += in->position;
        break;
    case SEEK_END:
        offset += in->size;
        break;
    case SEEK_SET:
        break;
    default:
        return AVERROR(EINVAL);
    }
    if (offset < 0 || offset > in->size) {
        return AVERROR(EINVAL);
    }
    in->position = offset;
    return offset;
}

/* Playlists, external references and the like. */
static int refuse_open(AVFormatContext *format, AVIOContext **io, const char *url, int flags,
                       AVDictionary **options)
{
    (void)format;
    (void)io;
    (void)url;
    (void)flags;
    (void)options;
    return AVERROR(EPERM);
}

static enum media_fault fault(struct input *in, enum media_fault f, int64_t value)
{
    in->value = value;
    return f;
}

static enum media_fault open_format(struct input *in)
{
    unsigned char *buffer = av_malloc(IO_BUFFER);
    AVDictionary *options = NULL;
    int rc;

    in->packet = av_packet_alloc();
    in->frame = av_frame_alloc();
    in->format = avformat_alloc_context();
    in->io = buffer == NULL
                 ? NULL
                 : avio_alloc_context(buffer, IO_BUFFER, 0, in, input_read, NULL, input_seek);
    if (in->packet == NULL || in->frame == NULL || in->format == NULL || in->io == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    in->format->pb = in->io;
    in->format->flags |= AVFMT_FLAG_CUSTOM_IO | AVFMT_FLAG_BITEXACT | AVFMT_FLAG_DISCARD_CORRUPT;
    in->format->io_open = refuse_open;
    in->format->max_streams = INPUT_STREAMS_MAX;
    in->format->probesize = PROBE_BYTES;
    in->format->max_analyze_duration = ANALYZE_US;
    in->format->error_recognition = 0;
    in->format->protocol_whitelist = av_strdup("");
    rc = avformat_open_input(&in->format, NULL, NULL, &options); /* frees the context if it fails */
    av_dict_free(&options);
    if (rc == AVERROR(ENOMEM)) {
        return MEDIA_FAULT_MEMORY;
    }
    return rc < 0 || in->format->probe_score < PROBE_SCORE_MIN ? MEDIA_FAULT_NOT_AUDIO : MEDIA_OK;
}

/* Cover art is copied as it stands and everything else is dropped, so nothing but audio is worth
 * looking at. */
static void drop_other_streams(const struct input *in)
{
    unsigned i;

    for (i = 0; i < in->format->nb_streams; i++) {
        if (in->format->streams[i] != in->stream) {
            in->format->streams[i]->discard = AVDISCARD_ALL;
        }
    }
}

static AVStream *first_audio(const AVFormatContext *format)
{
    unsigned i;

    for (i = 0; i < format->nb_streams; i++) {
        if (format->streams[i]->codecpar->codec_type == AVMEDIA_TYPE_AUDIO) {
            return format->streams[i];
        }
    }
    return NULL;
}

static enum media_fault choose_stream(struct input *in)
{
    if (in->format->nb_streams > INPUT_STREAMS_MAX) {
        return fault(in, MEDIA_FAULT_STREAMS, INPUT_STREAMS_MAX);
    }
    in->stream = first_audio(in->format);
    if (in->stream == NULL && in->format->nb_streams > 0) {
        return MEDIA_FAULT_NO_AUDIO;
    }
    drop_other_streams(in);
    if (avformat_find_stream_info(in->format, NULL) == AVERROR(ENOMEM)) {
        return MEDIA_FAULT_MEMORY;
    }
    in->stream = first_audio(in->format);
    drop_other_streams(in);
    if (in->format->nb_streams > INPUT_STREAMS_MAX) {
        return fault(in, MEDIA_FAULT_STREAMS, INPUT_STREAMS_MAX);
    }
    if (in->stream == NULL) {
        return MEDIA_FAULT_NO_AUDIO;
    }
    /* A packet that the end of the file cuts short counts as corrupt. Of samples as they are, each
     * one that is there is good: a WAV written into a pipe, without its length, ends like this. */
    if (av_get_exact_bits_per_sample(in->stream->codecpar->codec_id) >= 8) {
        in->format->flags &= ~AVFMT_FLAG_DISCARD_CORRUPT;
    }
    return MEDIA_OK;
}

static enum media_fault check_claims(struct input *in, int rate, int channels)
{
    if (rate < INPUT_RATE_MIN || rate > INPUT_RATE_MAX) {
        return fault(in, MEDIA_FAULT_SAMPLE_RATE, rate);
    }
    if (channels < 1 || channels > INPUT_CHANNELS_MAX) {
        return fault(in, MEDIA_FAULT_CHANNELS, channels);
    }
    return MEDIA_OK;
}

static enum media_fault open_codec(struct input *in)
{
    const AVCodecParameters *par = in->stream->codecpar;
    const AVCodec *decoder = avcodec_find_decoder(par->codec_id);
    int rc;

    if (par->sample_rate != 0 && par->ch_layout.nb_channels != 0) {
        enum media_fault f = check_claims(in, par->sample_rate, par->ch_layout.nb_channels);

        if (f != MEDIA_OK) {
            return f;
        }
    }
    if (decoder == NULL) {
        return MEDIA_FAULT_CODEC;
    }
    in->codec = avcodec_alloc_context3(decoder);
    if (in->codec == NULL || avcodec_parameters_to_context(in->codec, par) < 0) {
        return MEDIA_FAULT_MEMORY;
    }
    in->codec->pkt_timebase = in->stream->time_base;
    in->codec->thread_count = 1;
    in->codec->max_samples = (int64_t)INPUT_RATE_MAX * 60; /* of one frame */
    rc = avcodec_open2(in->codec, decoder, NULL);
    return rc == AVERROR(ENOMEM) ? MEDIA_FAULT_MEMORY : rc < 0 ? MEDIA_FAULT_CORRUPT : MEDIA_OK;
}

static int depth_of(const AVCodecParameters *par)
{
    int bits = av_get_exact_bits_per_sample(par->codec_id);
    const AVCodecDescriptor *d = avcodec_descriptor_get(par->codec_id);

    if (bits >= 8 && par->codec_id != AV_CODEC_ID_PCM_ALAW &&
        par->codec_id != AV_CODEC_ID_PCM_MULAW) {
        return bits;
    }
    if (d == NULL || (d->props & AV_CODEC_PROP_LOSSY) != 0) {
        return 0;
    }
    return par->bits_per_raw_sample > 0 ? par->bits_per_raw_sample : par->bits_per_coded_sample;
}

/* ---- exact length: without what the encoder put before and behind ---- */

static int64_t mp3_samples(const struct input *in)
{
    uint8_t head[LAME_BYTES];
    int64_t at = 0, tag = 0;
    size_t got;
    int i;

    for (i = 0; i == 0 || (i <= ID3_TAGS_MAX && tag > 0); i++) {
        at += tag;
        got = link_read(in->link, in->source, at, head, sizeof(head));
        tag = lame_id3_bytes(head, got);
    }
    return lame_samples(head, got);
}

/* What iTunes writes: zeros, delay, padding, samples, each in hexadecimal. */
static int64_t itunes_samples(const struct input *in)
{
    const AVDictionaryEntry *tag = av_dict_get(in->format->metadata, "iTunSMPB", NULL, 0);
    unsigned long long samples;

    if (tag == NULL || sscanf(tag->value, " %*x %*x %*x %16llx", &samples) != 1 ||
        samples > INT64_MAX / 2 || (int64_t)samples > in->stream->duration ||
        in->stream->duration - (int64_t)samples > PADDING_MAX) {
        return -1;
    }
    return (int64_t)samples;
}

/* Samples per channel as the headers promise them; -1 where they do not. */
static int64_t promised_samples(struct input *in)
{
    const AVCodecParameters *par = in->stream->codecpar;
    int64_t samples = in->stream->duration;

    if (par->codec_id == AV_CODEC_ID_MP3 && strcmp(in->container, "mp3") == 0) {
        return mp3_samples(in);
    }
    if (samples <= 0 || av_cmp_q(in->stream->time_base, (AVRational){1, par->sample_rate}) != 0) {
        return -1;
    }
    if (strcmp(in->container, "mov") == 0) {
        in->samples_end = itunes_samples(in);
        return in->samples_end >= 0 ? in->samples_end : samples;
    }
    return par->codec_id == AV_CODEC_ID_OPUS ? samples - par->initial_padding : samples;
}

static void settle_length(struct input *in)
{
    struct input_info *info = &in->info;
    int64_t ms;

    info->samples = promised_samples(in);
    if (info->samples < 0 || info->duration_ms < 0) {
        return;
    }
    ms = av_rescale(info->samples, 1000, info->sample_rate);
    if (llabs(ms - info->duration_ms) > HEADER_OFF_MS) {
        info->samples = -1;
    } else {
        info->duration_ms =
            av_rescale_rnd(info->samples, 1000, info->sample_rate, AV_ROUND_NEAR_INF);
    }
}

static void describe(struct input *in)
{
    const AVCodecParameters *par = in->stream->codecpar;
    struct input_info *info = &in->info;
    int bits = av_get_exact_bits_per_sample(par->codec_id);
    int64_t us = in->format->duration;

    (void)snprintf(in->container, sizeof(in->container), "%.*s",
                   (int)strcspn(in->format->iformat->name, ","), in->format->iformat->name);
    if (in->stream->duration > 0 && in->stream->duration != AV_NOPTS_VALUE) {
        us = av_rescale_q(in->stream->duration, in->stream->time_base, AV_TIME_BASE_Q);
        if (par->codec_id == AV_CODEC_ID_MP3 && in->stream->start_time > 0) {
            /* The encoder's delay, which decoding skips. */
            us -= av_rescale_q(in->stream->start_time, in->stream->time_base, AV_TIME_BASE_Q);
        }
    }
    *info = (struct input_info){
        .container = in->container,
        .codec = avcodec_get_name(par->codec_id),
        .duration_ms = us > 0 && us != AV_NOPTS_VALUE ? (us + 500) / 1000 : -1,
        .duration_exact =
            us > 0 && in->format->duration_estimation_method != AVFMT_DURATION_FROM_BITRATE,
        .bit_rate = par->bit_rate,
        .sample_rate = par->sample_rate,
        .channels = par->ch_layout.nb_channels,
        .bit_depth = depth_of(par),
        .samples = -1,
    };
    if (bits > 0 && par->sample_rate > 0 && info->channels > 0) {
        /* What a cut-off file claims is more than what its bytes can hold. */
        double most = (double)in->size * 8000.0 / bits / par->sample_rate / info->channels;

        if ((double)info->duration_ms > most) {
            info->duration_ms = (int64_t)most;
        }
    }
    if (par->sample_rate > 0) {
        settle_length(in);
    }
    if (info->bit_rate <= 0 && info->duration_ms > 0) {
        info->bit_rate = (int64_t)((double)in->size * 8000.0 / (double)info->duration_ms);
    }
}

enum media_fault input_open(struct link *l, uint32_t source, int64_t size, int64_t duration_max_s,
                            struct input **input_out)
{
    struct input *in = av_mallocz(sizeof(*in));
    enum media_fault f;

    *input_out = in;
    if (in == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    in->link = l;
    in->source = source;
    in->size = size;
    in->packet_most = in->samples_end = -1;
    f = open_format(in);
    f = f != MEDIA_OK ? f : choose_stream(in);
    f = f != MEDIA_OK ? f : open_codec(in);
    if (f != MEDIA_OK) {
        return f;
    }
    describe(in);
    f = check_claims(in, in->info.sample_rate, in->info.channels);
    if (f != MEDIA_OK) {
        return f;
    }
    in->samples_max = duration_max_s * in->info.sample_rate;
    return in->info.duration_ms > duration_max_s * 1000
               ? fault(in, MEDIA_FAULT_TOO_LONG, duration_max_s)
               : MEDIA_OK;
}

void input_close(struct input **input)
{
    struct input *in = *input;

    *input = NULL;
    if (in == NULL) {
        return;
    }
    swr_free(&in->swr);
    av_frame_free(&in->frame);
    av_frame_free(&in->first);
    av_frame_free(&in->converted);
    av_packet_free(&in->packet);
    avcodec_free_context(&in->codec);
    avformat_close_input(&in->format);
    if (in->io != NULL) {
        av_freep(&in->io->buffer);
        avio_context_free(&in->io);
    }
    av_free(in);
}

const struct input_info *input_info(const struct input *in)
{
    return &in->info;
}

/* How much of the packet is sound, if it is the last one of an MP4: its encoder has filled up the
 * rest. */
static int64_t last_packet_samples(const struct input *in)
{
    int n = strcmp(in->container, "mov") == 0 ? avformat_index_get_entries_count(in->stream) : 0;
    const AVIndexEntry *last = n > 0 ? avformat_index_get_entry(in->stream, n - 1) : NULL;

    return last != NULL && last->timestamp == in->packet->dts && in->packet->duration > 0
               ? av_rescale_q(in->packet->duration, in->stream->time_base,
                              (AVRational){1, in->info.sample_rate})
               : -1;
}

/* Cut the padding off a decoded frame; perhaps nothing is left. */
static void cut_padding(const struct input *in, AVFrame *frame)
{
    int64_t most = frame->nb_samples;

    if (in->packet_most >= 0 && in->packet_most < most) {
        most = in->packet_most;
    }
    if (in->samples_end >= 0 && in->samples_end - in->samples < most) {
        most = in->samples_end > in->samples ? in->samples_end - in->samples : 0;
    }
    frame->nb_samples = (int)most;
}

/* Give the decoder its next packet. A damaged one is passed over. */
static enum media_fault feed(struct input *in)
{
    int rc;

    do {
        av_packet_unref(in->packet);
        rc = av_read_frame(in->format, in->packet);
        if (rc == AVERROR(EAGAIN) && ++in->silent_packets < SILENT_PACKETS_MAX) {
            continue;
        }
    } while (rc == AVERROR(EAGAIN) || (rc >= 0 && in->packet->stream_index != in->stream->index));
    if (rc == AVERROR(ENOMEM)) {
        return MEDIA_FAULT_MEMORY;
    }
    if (rc < 0) {
        in->draining = true;
        (void)avcodec_send_packet(in->codec, NULL);
        return MEDIA_OK;
    }
    in->packet_most = last_packet_samples(in);
    if (++in->silent_packets > SILENT_PACKETS_MAX) {
        return MEDIA_FAULT_CORRUPT;
    }
    return avcodec_send_packet(in->codec, in->packet) == AVERROR(ENOMEM) ? MEDIA_FAULT_MEMORY
                                                                         : MEDIA_OK;
}

static bool is_like(const AVFrame *a, const AVFrame *b)
{
    return a->format == b->format && a->sample_rate == b->sample_rate &&
           av_channel_layout_compare(&a->ch_layout, &b->ch_layout) == 0;
}

/* A chained file may change its format on the way: bring the frame into the first one's. */
static enum media_fault convert(struct input *in, const AVFrame **frame_out)
{
    int rc;

    if (in->converted == NULL && (in->converted = av_frame_alloc()) == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    av_frame_unref(in->converted);
    in->converted->format = in->first->format;
    in->converted->sample_rate = in->first->sample_rate;
    if (av_channel_layout_copy(&in->converted->ch_layout, &in->first->ch_layout) < 0) {
        return MEDIA_FAULT_MEMORY;
    }
    if (in->swr == NULL && (in->swr = swr_alloc()) == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    rc = swr_convert_frame(in->swr, in->converted, in->frame);
    if (rc == AVERROR_INPUT_CHANGED) {
        swr_close(in->swr);
        rc = swr_config_frame(in->swr, in->converted, in->frame);
        rc = rc < 0 ? rc : swr_convert_frame(in->swr, in->converted, in->frame);
    }
    *frame_out = in->converted;
    return rc < 0 ? MEDIA_FAULT_CORRUPT : MEDIA_OK;
}

/* Check a decoded frame and count it. */
static enum media_fault accept_frame(struct input *in, const AVFrame **frame_out)
{
    enum media_fault f = check_claims(in, in->frame->sample_rate, in->frame->ch_layout.nb_channels);

    if (f != MEDIA_OK) {
        return f;
    }
    in->silent_packets = 0;
    *frame_out = in->frame;
    if (in->frame->ch_layout.order == AV_CHANNEL_ORDER_UNSPEC) {
        av_channel_layout_default(&in->frame->ch_layout, in->frame->ch_layout.nb_channels);
    }
    if (in->first == NULL) {
        in->first = av_frame_clone(in->frame);
        if (in->first == NULL) {
            return MEDIA_FAULT_MEMORY;
        }
        in->samples_max = in->samples_max / in->info.sample_rate * in->frame->sample_rate;
        in->info.sample_rate = in->frame->sample_rate;
        in->info.channels = in->frame->ch_layout.nb_channels;
    } else if (!is_like(in->first, in->frame)) {
        f = convert(in, frame_out);
    }
    in->samples += (*frame_out)->nb_samples;
    if (f == MEDIA_OK && in->samples > in->samples_max) {
        return fault(in, MEDIA_FAULT_TOO_LONG, in->samples_max / in->info.sample_rate);
    }
    return f;
}

enum media_fault input_next(struct input *in, const AVFrame **frame_out)
{
    enum media_fault f;
    int rc;

    *frame_out = NULL;
    while (!in->at_end) {
        rc = avcodec_receive_frame(in->codec, in->frame);
        if (rc >= 0) {
            cut_padding(in, in->frame);
        }
        if (rc >= 0 && in->frame->nb_samples > 0) {
            return accept_frame(in, frame_out);
        }
        if (rc == AVERROR(ENOMEM)) {
            return MEDIA_FAULT_MEMORY;
        }
        if (rc < 0 && in->draining) {
            in->at_end = rc == AVERROR_EOF || ++in->silent_packets > SILENT_PACKETS_MAX;
        } else if (rc < 0) {
            f = feed(in);
            if (f != MEDIA_OK) {
                return f;
            }
        }
    }
    return in->samples == 0 ? MEDIA_FAULT_CORRUPT : MEDIA_OK;
}

enum media_fault input_scan_duration(struct input *in)
{
    int64_t ticks = 0, first = AV_NOPTS_VALUE, last = AV_NOPTS_VALUE;
    int rc;

    while ((rc = av_read_frame(in->format, in->packet)) >= 0 || rc == AVERROR(EAGAIN)) {
        if (rc >= 0 && in->packet->stream_index == in->stream->index) {
            ticks += in->packet->duration;
            first = first == AV_NOPTS_VALUE ? in->packet->pts : first;
            if (in->packet->pts != AV_NOPTS_VALUE) {
                last = in->packet->pts + in->packet->duration;
            }
        }
        av_packet_unref(in->packet);
        if (++in->silent_packets > SILENT_PACKETS_MAX * 10) {
            break;
        }
    }
    in->silent_packets = 0;
    if (first != AV_NOPTS_VALUE && last > first && last - first > ticks) {
        ticks = last - first;
    }
    if (ticks > 0) {
        in->info.duration_ms = av_rescale_q_rnd(ticks, in->stream->time_base, (AVRational){1, 1000},
                                                AV_ROUND_NEAR_INF);
        in->info.duration_exact = true;
        in->info.bit_rate =
            in->info.duration_ms > 0
                ? (int64_t)((double)in->size * 8000.0 / (double)in->info.duration_ms)
                : in->info.bit_rate;
    }
    if (rc == AVERROR(ENOMEM)) {
        return MEDIA_FAULT_MEMORY;
    }
    (void)av_seek_frame(in->format, in->stream->index, 0, AVSEEK_FLAG_BACKWARD);
    return in->info.duration_ms / 1000 > in->samples_max / in->info.sample_rate
               ? fault(in, MEDIA_FAULT_TOO_LONG, in->samples_max / in->info.sample_rate)
               : MEDIA_OK;
}

int64_t input_samples(const struct input *in)
{
    return in->samples;
}

int input_percent(const struct input *in)
{
    double done = in->size > 0 ? (double)in->position / (double)in->size : 0;

    if (in->info.duration_ms > 0 && in->info.duration_exact) {
        done = (double)in->samples * 1000.0 / in->info.sample_rate / (double)in->info.duration_ms;
    }
    return done > 0.99 ? 99 : (int)(done * 100);
}

int64_t input_value(const struct input *in)
{
    return in->value;
}

AVFormatContext *input_format(const struct input *in)
{
    return in->format;
}

AVStream *input_stream(const struct input *in)
{
    return in->stream;
}

const AVFrame *input_first(const struct input *in)
{
    return in->first;
}
