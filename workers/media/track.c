/* A source that already has the output's rate as planar floats is added right from its decoder's
 * frames; any other passes through libswresample, which changes format and rate only. Gain, pan and
 * channels are one matrix, applied while adding. */
#include "workers/media/track.h"

#include <libavcodec/avcodec.h>
#include <libavutil/channel_layout.h>
#include <libavutil/opt.h>
#include <libswresample/swresample.h>

enum {
    PIECE = 4096, /* samples that go into the resampler, or come out of it, at once */
    PIECE_LEAST = 16,
    PIECE_MOST = 65536,
    PIECE_ROOM = 256, /* more comes out at once where some was held back */
    SPREAD = 64 /* swr_build_matrix2() touches so many rows and columns, whatever the layouts */
};

struct track {
    struct op *op;
    uint32_t source;
    struct input *in;
    const AVChannelLayout *layout; /* of the output */
    int rate;
    double gain, pan;
    struct mix_fade fade;
    float matrix[INPUT_CHANNELS_MAX][INPUT_CHANNELS_MAX]; /* [output's channel][ours] */
    int channels;
    SwrContext *swr;      /* NULL: not needed */
    const AVFrame *frame; /* decoded, being converted */
    int frame_at, piece, room;
    uint8_t *converted[INPUT_CHANNELS_MAX];
    const float *ready[INPUT_CHANNELS_MAX]; /* have samples, to be added from ready_at on */
    int ready_at, have;
    int64_t start, done; /* in samples of the output: the first one's place; how many were added */
    bool begun, drained, ended;
    int64_t value;
    float shape[PIECE];
};

static enum media_fault open_input(struct track *t)
{
    const struct media_start *start = t->op->start;
    enum media_fault f;

    input_close(&t->in);
    f = input_open(t->op->link, t->source, start->sizes[t->source], start->duration_max_s, &t->in);
    t->value = t->in == NULL ? 0 : input_value(t->in);
    return f;
}

enum media_fault track_open(struct op *op, uint32_t source, struct track **track_out)
{
    struct track *t = av_mallocz(sizeof(*t));

    *track_out = t;
    if (t == NULL) {
        return MEDIA_FAULT_MEMORY;
    }
    t->op = op;
    t->source = source;
    return open_input(t);
}

void track_close(struct track **track)
{
    struct track *t = *track;

    *track = NULL;
    if (t != NULL) {
        input_close(&t->in);
        swr_free(&t->swr);
        av_freep(&t->converted[0]);
        av_free(t);
    }
}

const struct input_info *track_info(const struct track *t)
{
    return input_info(t->in);
}

bool track_ended(const struct track *t)
{
    return t->ended;
}

int64_t track_end(const struct track *t)
{
    return t->start + t->done;
}

int64_t track_value(const struct track *t)
{
    return t->value;
}

static enum media_fault next_frame(struct track *t)
{
    enum media_fault f = input_next(t->in, &t->frame);

    t->value = input_value(t->in);
    t->frame_at = 0;
    return f;
}

/* ---- length ---- */

/* Do the headers tell the number of samples? Not of a file that was cut off. */
static bool is_counted(const struct track *t)
{
    const struct input_info *info = input_info(t->in);
    const AVStream *s = input_stream(t->in);
    const AVCodecDescriptor *d = avcodec_descriptor_get(s->codecpar->codec_id);
    int rate = s->codecpar->sample_rate;

    return d != NULL && (d->props & AV_CODEC_PROP_LOSSY) == 0 && info->duration_exact &&
           s->duration > 0 && av_cmp_q(s->time_base, (AVRational){1, rate}) == 0 &&
           s->duration * 1000 / rate <= info->duration_ms + 1;
}

static enum media_fault count(struct track *t, int64_t *samples_out)
{
    enum media_fault f = MEDIA_OK;

    if (is_counted(t)) {
        *samples_out = input_stream(t->in)->duration;
    } else {
        do {
            f = next_frame(t);
        } while (f == MEDIA_OK && t->frame != NULL);
        *samples_out = input_samples(t->in);
    }
    *samples_out =
        av_rescale_rnd(*samples_out, t->rate, input_info(t->in)->sample_rate, AV_ROUND_UP);
    if (f == MEDIA_OK && !is_counted(t)) {
        f = open_input(t);
    }
    return f;
}

enum media_fault track_place(struct track *t, const struct track_place *place, int rate,
                             const AVChannelLayout *layout)
{
    t->rate = rate;
    t->layout = layout;
    t->gain = mix_gain(place->gain_db);
    t->pan = place->pan;
    t->start = mix_samples(place->offset_ms, rate);
    t->fade.in = mix_samples(place->fade_in_ms, rate);
    t->fade.out = mix_samples(place->fade_out_ms, rate);
    return t->fade.out > 0 ? count(t, &t->fade.length) : MEDIA_OK;
}

/* ---- channels ---- */

static bool is_one_of(enum AVChannel channel, const enum AVChannel *some)
{
    for (; *some != AV_CHAN_NONE; some++) {
        if (*some == channel) {
            return true;
        }
    }
    return false;
}

static double side_gain(enum AVChannel channel, double left, double right)
{
    static const enum AVChannel lefts[] = {AV_CHAN_FRONT_LEFT,           AV_CHAN_BACK_LEFT,
                                           AV_CHAN_FRONT_LEFT_OF_CENTER, AV_CHAN_SIDE_LEFT,
                                           AV_CHAN_TOP_FRONT_LEFT,       AV_CHAN_NONE};
    static const enum AVChannel rights[] = {AV_CHAN_FRONT_RIGHT,           AV_CHAN_BACK_RIGHT,
                                            AV_CHAN_FRONT_RIGHT_OF_CENTER, AV_CHAN_SIDE_RIGHT,
                                            AV_CHAN_TOP_FRONT_RIGHT,       AV_CHAN_NONE};

    return is_one_of(channel, lefts) ? left : is_one_of(channel, rights) ? right : 1.0;
}

/* How much of each of our channels goes to each of the output's, before gain and pan. One channel
 * goes to both front ones as it is; else ITU-R BS.775, scaled so that full scale stays in range. */
static bool spread(const AVChannelLayout *from, const AVChannelLayout *to, double m[SPREAD][SPREAD])
{
    int left = av_channel_layout_index_from_channel(to, AV_CHAN_FRONT_LEFT);
    int right = av_channel_layout_index_from_channel(to, AV_CHAN_FRONT_RIGHT);

    if (from->nb_channels == 1 && left >= 0 && right >= 0) {
        m[left][0] = m[right][0] = 1.0;
        return true;
    }
    return swr_build_matrix2(from, to, M_SQRT1_2, M_SQRT1_2, 0.0, 1.0, 1.0, m[0], SPREAD,
                             AV_MATRIX_ENCODING_NONE, NULL) >= 0;
}

static enum media_fault make_matrix(struct track *t, const AVChannelLayout *from)
{
    double m[SPREAD][SPREAD] = {{0}}, left, right;
    AVChannelLayout usual = {0};
    bool known = spread(from, t->layout, m);
    int o, i;

    if (!known) { /* a layout that is no speakers' */
        memset(m, 0, sizeof(m));
        av_channel_layout_default(&usual, from->nb_channels);
        known = spread(&usual, t->layout, m);
        av_channel_layout_uninit(&usual);
    }
    mix_pan(t->pan, &left, &right);
    for (o = 0; o < t->layout->nb_channels; o++) {
        double side =
            side_gain(av_channel_layout_channel_from_index(t->layout, (unsigned)o), left, right);

        for (i = 0; i < from->nb_channels; i++) {
            t->matrix[o][i] = (float)(m[o][i] * t->gain * side);
        }
    }
    t->value = from->nb_channels;
    return known ? MEDIA_OK : MEDIA_FAULT_CHANNELS;
}

/* ---- format and rate ---- */

static enum media_fault make_resampler(struct track *t, const AVFrame *first)
{
    int64_t piece = (int64_t)PIECE * first->sample_rate / t->rate;
    AVChannelLayout layout = {0};
    int rc;

    if (first->format == AV_SAMPLE_FMT_FLTP && first->sample_rate == t->rate) {
        return MEDIA_OK;
    }
    rc = av_channel_layout_copy(&layout, &first->ch_layout);
    rc = rc < 0
             ? rc
             : swr_alloc_set_opts2(&t->swr, &layout, AV_SAMPLE_FMT_FLTP, t->rate, &layout,
                                   (enum AVSampleFormat)first->format, first->sample_rate, 0, NULL);
    av_channel_layout_uninit(&layout);
    if (rc < 0 || swr_init(t->swr) < 0) {
        return rc == AVERROR(ENOMEM) ? MEDIA_FAULT_MEMORY : MEDIA_FAULT_INTERNAL;
    }
    t->piece = piece < PIECE_LEAST ? PIECE_LEAST : piece > PIECE_MOST ? PIECE_MOST : (int)piece;
    t->room = (int)av_rescale_rnd(t->piece, t->rate, first->sample_rate, AV_ROUND_UP) + PIECE_ROOM;
    return av_samples_alloc(t->converted, NULL, t->channels, t->room, AV_SAMPLE_FMT_FLTP, 0) < 0
               ? MEDIA_FAULT_MEMORY
               : MEDIA_OK;
}

static enum media_fault begin(struct track *t)
{
    enum media_fault f;

    t->begun = true;
    t->channels = t->frame->ch_layout.nb_channels;
    f = make_matrix(t, &t->frame->ch_layout);
    return f != MEDIA_OK ? f : make_resampler(t, t->frame);
}

/* Convert the next piece of the frame; without one, what the resampler still holds. */
static enum media_fault convert(struct track *t)
{
    const uint8_t *from[INPUT_CHANNELS_MAX] = {NULL};
    int c, n = 0, got;

    if (t->frame != NULL) {
        enum AVSampleFormat format = (enum AVSampleFormat)t->frame->format;
        bool planar = av_sample_fmt_is_planar(format);
        int step = av_get_bytes_per_sample(format) * (planar ? 1 : t->channels);

        n = t->frame->nb_samples - t->frame_at;
        n = n < t->piece ? n : t->piece;
        for (c = 0; c < (planar ? t->channels : 1); c++) {
            from[c] = t->frame->extended_data[c] + (ptrdiff_t)t->frame_at * step;
        }
        t->frame_at += n;
        if (t->frame_at == t->frame->nb_samples) {
            t->frame = NULL;
        }
        got = swr_convert(t->swr, t->converted, t->room, from, n);
    } else {
        got = swr_convert(t->swr, t->converted, t->room, NULL, 0);
        t->drained = got <= 0;
    }
    for (c = 0; c < t->channels; c++) {
        t->ready[c] = (const float *)(const void *)t->converted[c];
    }
    t->have = got;
    return got < 0 ? MEDIA_FAULT_INTERNAL : MEDIA_OK;
}

static void take_frame(struct track *t)
{
    int c;

    for (c = 0; c < t->channels; c++) {
        t->ready[c] = (const float *)(const void *)t->frame->extended_data[c];
    }
    t->have = t->frame->nb_samples;
    t->frame = NULL;
}

/* Make samples ready, or find the end. */
static enum media_fault refill(struct track *t)
{
    enum media_fault f = MEDIA_OK;

    t->ready_at = 0;
    if (t->frame == NULL) {
        f = next_frame(t);
        if (f != MEDIA_OK) {
            return f;
        }
    }
    if (t->frame != NULL && !t->begun && (f = begin(t)) != MEDIA_OK) {
        return f;
    }
    if (t->swr != NULL && !t->drained) {
        f = convert(t);
    } else if (t->frame != NULL) {
        take_frame(t);
    } else {
        t->ended = true;
    }
    return f;
}

/* ---- adding ---- */

static void add(struct track *t, float *const *planes, int to, int n)
{
    bool shaped = mix_fade_touches(&t->fade, t->done, n);
    int o, i;

    if (shaped) {
        mix_fade_shape(&t->fade, t->done, t->shape, n);
    }
    for (o = 0; o < t->layout->nb_channels; o++) {
        for (i = 0; i < t->channels; i++) {
            const float *from = t->ready[i] + t->ready_at;

            if (t->matrix[o][i] != 0 && shaped) {
                mix_add_shaped(planes[o] + to, from, t->matrix[o][i], t->shape, n);
            } else if (t->matrix[o][i] != 0) {
                mix_add(planes[o] + to, from, t->matrix[o][i], n);
            }
        }
    }
    t->ready_at += n;
    t->have -= n;
    t->done += n;
}

enum media_fault track_add(struct track *t, float *const *planes, int64_t from, int n)
{
    enum media_fault f = MEDIA_OK;

    while (f == MEDIA_OK && !t->ended && track_end(t) < from + n) {
        if (t->have == 0) {
            f = refill(t);
        } else {
            int64_t room = from + n - track_end(t);
            int most = t->have < PIECE ? t->have : PIECE;

            add(t, planes, (int)(track_end(t) - from), room < most ? (int)room : most);
        }
    }
    return f;
}
