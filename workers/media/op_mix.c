/* Block by block: silence, each track added where it belongs, a limiter, encoder. Only as much of a
 * track is decoded as the block needs, so memory does not grow with lengths or offsets. */
#include <libavutil/channel_layout.h>

#include "workers/media/asked.h"
#include "workers/media/chain.h"
#include "workers/media/level.h"
#include "workers/media/loudness.h"
#include "workers/media/params.h"
#include "workers/media/resample.h"
#include "workers/media/track.h"

enum {
    BLOCK = LEVEL_BLOCK,
    CHANNELS_USUAL = 2,
    RATE_USUAL_MAX = 192000, /* nobody hears more; asked for, there is more */
    MEASURE_PERCENT = 45
};

struct mix {
    struct op *op;
    int n;
    struct track *tracks[MEDIA_SOURCES_MAX];
    struct track_place places[MEDIA_SOURCES_MAX];
    struct output_settings settings;
    struct asked asked;
    struct output *out;
    struct chain *meter;
    struct level *level;
    struct resample *to_encoder;
    AVFrame *frame;
    int64_t at;    /* samples made */
    bool is_plain; /* sums of 16-bit samples: nothing to dither */
    double gain_db, lufs;
    int percent_base, percent_most;
};

/* ---- parameters ---- */

static enum media_fault read_place(struct mix *m, int i)
{
    static char name[64];
    const char *params = m->op->params;
    struct track_place *p = &m->places[i];
    int64_t longest_ms = m->op->start->duration_max_s * 1000;
    const struct {
        const char *name;
        double *number;
        int64_t *ms;
        double least, most;
    } rows[] = {
        {"gainDb", &p->gain_db, NULL, -60, 24},
        {"pan", &p->pan, NULL, -1, 1},
        {"offsetMs", NULL, &p->offset_ms, 0, (double)longest_ms},
        {"fadeInMs", NULL, &p->fade_in_ms, 0, 60000},
        {"fadeOutMs", NULL, &p->fade_out_ms, 0, 60000},
    };
    size_t k;

    for (k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
        (void)snprintf(name, sizeof(name), "tracks.%d.%s", i, rows[k].name);
        if (rows[k].ms != NULL
                ? !params_i64(params, name, (int64_t)rows[k].least, (int64_t)rows[k].most,
                              rows[k].ms)
                : !params_double(params, name, rows[k].least, rows[k].most, rows[k].number)) {
            (void)snprintf(name, sizeof(name), "tracks[%d].%s", i, rows[k].name);
            return asked_bad(m->op, name);
        }
    }
    return MEDIA_OK;
}

static enum media_fault read_params(struct mix *m)
{
    enum media_fault f = asked_read(m->op, &m->settings, &m->asked);
    int i;

    for (i = 0; f == MEDIA_OK && i < m->n; i++) {
        f = read_place(m, i);
    }
    return f;
}

/* ---- tracks ---- */

/* A fault of track i. */
static enum media_fault blame(struct mix *m, int i, enum media_fault f)
{
    if (f != MEDIA_OK) {
        m->op->source = (uint32_t)i;
        m->op->value = m->tracks[i] == NULL ? 0 : track_value(m->tracks[i]);
    }
    return f;
}

static void close_tracks(struct mix *m)
{
    int i;

    for (i = 0; i < m->n; i++) {
        track_close(&m->tracks[i]);
    }
}

static enum media_fault open_tracks(struct mix *m)
{
    enum media_fault f = MEDIA_OK;
    int i;

    close_tracks(m);
    for (i = 0; f == MEDIA_OK && i < m->n; i++) {
        f = blame(m, i, track_open(m->op, (uint32_t)i, &m->tracks[i]));
    }
    return f;
}

static enum media_fault place_tracks(struct mix *m)
{
    enum media_fault f = MEDIA_OK;
    int i;

    for (i = 0; f == MEDIA_OK && i < m->n; i++) {
        f = blame(
            m, i,
            track_place(m->tracks[i], &m->places[i], m->settings.sample_rate, &m->settings.layout));
    }
    return f;
}

/* ---- settings ---- */

static bool is_exact(const struct mix *m, int i)
{
    const struct track_place *p = &m->places[i];
    const struct input_info *info = track_info(m->tracks[i]);

    return p->gain_db == 0 && p->pan == 0 && p->fade_in_ms == 0 && p->fade_out_ms == 0 &&
           info->bit_depth > 0 && info->bit_depth <= 16 &&
           info->sample_rate == m->settings.sample_rate &&
           info->channels <= m->settings.layout.nb_channels && info->channels <= CHANNELS_USUAL;
}

/* What follows from the tracks together. */
static void look_at_tracks(struct mix *m)
{
    struct output_settings *s = &m->settings;
    int i;

    s->samples_exact = true;
    s->samples_promised = -1;
    m->is_plain = m->asked.target_lufs >= 0;
    for (i = 0; i < m->n; i++) {
        const struct input_info *info = track_info(m->tracks[i]);
        int64_t end = mix_samples(m->places[i].offset_ms + info->duration_ms, s->sample_rate);

        s->samples_exact = s->samples_exact && info->duration_exact;
        s->samples_expected = info->duration_ms < 0 || s->samples_expected < 0 ? -1
                              : end > s->samples_expected                      ? end
                                                          : s->samples_expected;
        m->is_plain = m->is_plain && is_exact(m, i);
    }
    if (s->samples_expected >= 0) {
        s->samples_expected += s->sample_rate;
    }
}

/* The highest rate and the greatest depth of the tracks, unless something else is asked for. */
static enum media_fault choose_settings(struct mix *m)
{
    struct output_settings *s = &m->settings;
    int channels = m->asked.channels > 0 ? (int)m->asked.channels : CHANNELS_USUAL;
    int i, rate = 0, depth = 16;
    AVChannelLayout like = {0};
    const AVCodec *encoder;
    bool fits;

    for (i = 0; i < m->n; i++) {
        const struct input_info *info = track_info(m->tracks[i]);

        rate = info->sample_rate > rate ? info->sample_rate : rate;
        depth = info->bit_depth > 16 ? 24 : depth;
    }
    rate = s->format->rate_usual > 0 ? s->format->rate_usual
           : rate < RATE_USUAL_MAX   ? rate
                                     : RATE_USUAL_MAX;
    s->bit_depth = m->asked.bit_depth > 0 ? (int)m->asked.bit_depth : depth;
    encoder = output_encoder(s->format, s->bit_depth);
    if (encoder == NULL) {
        return MEDIA_FAULT_INTERNAL;
    }
    s->sample_rate = output_rate(s->format, encoder,
                                 m->asked.sample_rate > 0 ? (int)m->asked.sample_rate : rate);
    if (m->asked.sample_rate > 0 && s->sample_rate != m->asked.sample_rate) {
        return asked_bad(m->op, "sampleRate");
    }
    av_channel_layout_default(&like, channels);
    fits = output_layout(encoder, channels, &like, &s->layout);
    av_channel_layout_uninit(&like);
    if (!fits) {
        return asked_bad(m->op, "channels");
    }
    look_at_tracks(m);
    return MEDIA_OK;
}

/* ---- blocks ---- */

static enum media_fault new_block(struct mix *m)
{
    int c;

    av_frame_unref(m->frame);
    m->frame->format = AV_SAMPLE_FMT_FLTP;
    m->frame->sample_rate = m->settings.sample_rate;
    m->frame->nb_samples = BLOCK;
    if (av_channel_layout_copy(&m->frame->ch_layout, &m->settings.layout) < 0 ||
        av_frame_get_buffer(m->frame, 0) < 0) {
        return MEDIA_FAULT_MEMORY;
    }
    for (c = 0; c < m->settings.layout.nb_channels; c++) {
        memset(m->frame->extended_data[c], 0, BLOCK * sizeof(float));
    }
    return MEDIA_OK;
}

/* The next block of the sum. A shorter one, perhaps an empty one, is the last. */
static enum media_fault make_block(struct mix *m)
{
    int64_t end = 0, most = m->op->start->duration_max_s * m->settings.sample_rate;
    enum media_fault f = new_block(m);
    bool all_ended = true;
    int i;

    for (i = 0; f == MEDIA_OK && i < m->n; i++) {
        struct track *t = m->tracks[i];

        f = blame(m, i, track_add(t, (float *const *)m->frame->extended_data, m->at, BLOCK));
        all_ended = all_ended && track_ended(t);
        end = track_end(t) > end ? track_end(t) : end;
        if (f == MEDIA_OK && track_end(t) > most) {
            m->op->value = m->op->start->duration_max_s;
            m->op->source = (uint32_t)i;
            f = MEDIA_FAULT_TOO_LONG;
        }
    }
    if (f == MEDIA_OK && all_ended) {
        /* A track may have ended a block ago, with what its resampler still had to give. */
        m->frame->nb_samples = end > m->at ? (int)(end - m->at) : 0;
    }
    m->at += m->frame->nb_samples;
    return f;
}

static void tell(struct mix *m)
{
    int64_t expected = m->settings.samples_expected;
    int64_t percent = expected > 0 ? m->at * 100 / expected : 0;

    percent = percent < 99 ? percent : 99;
    link_progress(m->op->link, m->percent_base + (int)percent * m->percent_most / 100);
}

/* ---- loudness ---- */

static enum media_fault meter(struct mix *m)
{
    AVFrame *frame;
    enum media_fault f = MEDIA_OK;

    if (m->meter == NULL) {
        f = chain_open(m->frame, "ebur128=metadata=1", &m->meter);
    }
    f = f != MEDIA_OK ? f : chain_feed(m->meter, m->frame->nb_samples > 0 ? m->frame : NULL);
    while (f == MEDIA_OK && (f = chain_next(m->meter, &frame)) == MEDIA_OK && frame != NULL) {
        const AVDictionaryEntry *tag = av_dict_get(frame->metadata, "lavfi.r128.I", NULL, 0);

        m->lufs = tag == NULL ? m->lufs : strtod(tag->value, NULL);
    }
    return f;
}

/* A first pass for a loudness target; what it lifts too far is limited in the second. */
static enum media_fault measure(struct mix *m)
{
    enum media_fault f;
    bool last;

    m->lufs = LOUDNESS_SILENT;
    m->percent_most = MEASURE_PERCENT;
    do {
        f = make_block(m);
        last = m->frame->nb_samples < BLOCK;
        f = f != MEDIA_OK ? f : meter(m);
        tell(m);
    } while (f == MEDIA_OK && !last);
    chain_close(&m->meter);
    if (f == MEDIA_OK && m->lufs > LOUDNESS_SILENT) {
        m->gain_db = m->asked.target_lufs - m->lufs;
    }
    m->at = 0;
    m->percent_base = MEASURE_PERCENT;
    m->percent_most = 100 - MEASURE_PERCENT;
    f = f != MEDIA_OK ? f : open_tracks(m);
    return f != MEDIA_OK ? f : place_tracks(m);
}

/* ---- output ---- */

/* NULL is the end. Encodes all that is ready. */
static enum media_fault encode(struct mix *m, const AVFrame *frame)
{
    enum media_fault f;
    AVFrame *full;

    resample_feed(m->to_encoder, frame);
    do {
        f = resample_next(m->to_encoder, &full);
        f = f == MEDIA_OK && full != NULL ? output_frame(m->out, full) : f;
    } while (f == MEDIA_OK && full != NULL);
    return f;
}

/* Limit the block and encode what comes out of the limiter. */
static enum media_fault finish_block(struct mix *m)
{
    level_apply(m->level, m->frame);
    return m->frame->nb_samples > 0 ? encode(m, m->frame) : MEDIA_OK;
}

static enum media_fault flush_level(struct mix *m)
{
    enum media_fault f = MEDIA_OK;
    int left, n;

    for (left = level_left(m->level); f == MEDIA_OK && left > 0; left -= n) {
        n = left < BLOCK ? left : BLOCK;
        f = new_block(m);
        m->frame->nb_samples = n;
        f = f != MEDIA_OK ? f : finish_block(m);
    }
    return f;
}

static enum media_fault render(struct mix *m)
{
    enum media_fault f;
    bool last;

    do {
        f = make_block(m);
        last = m->frame->nb_samples < BLOCK;
        f = f != MEDIA_OK || m->frame->nb_samples == 0 ? f : finish_block(m);
        tell(m);
    } while (f == MEDIA_OK && !last);
    f = f != MEDIA_OK ? f : flush_level(m);
    f = f != MEDIA_OK ? f : encode(m, NULL);
    return f != MEDIA_OK ? f : output_end(m->out);
}

static enum media_fault make_steps(struct mix *m)
{
    const AVCodecContext *codec = output_codec(m->out);
    bool any_size = (codec->codec->capabilities & AV_CODEC_CAP_VARIABLE_FRAME_SIZE) != 0;
    const struct resample_to frames = {.format = codec->sample_fmt,
                                       .rate = codec->sample_rate,
                                       .layout = &codec->ch_layout,
                                       .frame_size = any_size ? BLOCK : codec->frame_size,
                                       .dither = !m->settings.format->lossy &&
                                                 m->settings.bit_depth == 16 && !m->is_plain};
    enum media_fault f = new_block(m);

    f = f != MEDIA_OK ? f : resample_open(m->frame, &frames, &m->to_encoder);
    return f != MEDIA_OK ? f : level_open(&m->settings, m->gain_db, &m->level);
}

static enum media_fault open_output(struct mix *m)
{
    enum media_fault f = output_open(m->op->link, 0, &m->settings, &m->out);

    if (f == MEDIA_FAULT_PARAM) {
        m->op->param = m->settings.bit_rate > 0 ? "bitrate" : "format";
    }
    return f != MEDIA_OK ? f : make_steps(m);
}

static enum media_fault mix(struct mix *m)
{
    enum media_fault f = read_params(m);

    f = f != MEDIA_OK ? f : open_tracks(m);
    f = f != MEDIA_OK ? f : choose_settings(m);
    f = f != MEDIA_OK ? f : place_tracks(m);
    if (f == MEDIA_OK && m->asked.target_lufs < 0) {
        f = measure(m);
    }
    f = f != MEDIA_OK ? f : open_output(m);
    f = f != MEDIA_OK ? f : render(m);
    if (f == MEDIA_OK) {
        asked_result(m->op, &m->settings, m->out);
    }
    return f;
}

enum media_fault op_mix(struct op *op)
{
    struct mix *m = av_mallocz(sizeof(*m));
    enum media_fault f = MEDIA_FAULT_MEMORY;

    if (m == NULL) {
        return f;
    }
    m->op = op;
    m->n = (int)op->start->n_sources;
    m->percent_most = 100;
    m->frame = av_frame_alloc();
    f = m->frame == NULL ? f : mix(m);
    chain_close(&m->meter);
    resample_close(&m->to_encoder);
    level_close(&m->level);
    output_close(&m->out);
    close_tracks(m);
    av_frame_free(&m->frame);
    av_channel_layout_uninit(&m->settings.layout);
    av_free(m);
    return f;
}
