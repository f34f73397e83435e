/* What a format can do stands in one table, and a combination that its encoder would refuse is
 * refused here, before there is a job. */
#include "handlers/encoding.h"

#include <math.h>

#include "handlers/payload.h"

/* What a format can be made with. */
struct format {
    const char *name;
    int64_t bitrate_min, bitrate_max; /* bit/s; 0: lossless, takes neither bitrate nor quality */
    bool has_quality;
    const int64_t *rates; /* Hz, 0 behind the last; NULL: any */
    int64_t channels_max;
};

static const int64_t mp3_rates[] = {8000,  11025, 12000, 16000, 22050,
                                    24000, 32000, 44100, 48000, 0};
static const int64_t aac_rates[] = {8000,  11025, 12000, 16000, 22050, 24000, 32000,
                                    44100, 48000, 64000, 88200, 96000, 0};
static const int64_t opus_rates[] = {8000, 12000, 16000, 24000, 48000, 0};

static const struct format formats[] = {
    {"mp3", 32000, 320000, true, mp3_rates, 2},
    {"wav", 0, 0, false, NULL, 8},
    {"flac", 0, 0, false, NULL, 8},
    {"aac", 16000, 512000, true, aac_rates, 8},
    {"m4a", 16000, 512000, true, aac_rates, 8},
    {"ogg", 8000, 500000, true, NULL, 8},
    {"opus", 6000, 510000, true, opus_rates, 8},
};
const char *const encoding_formats[] = {"mp3", "wav", "flac", "aac", "m4a", "ogg", "opus", NULL};

/* What libvorbis 1.3 takes in bit/s a channel, measured: it couples two channels, and has a table
 * of its own for six. Above 50 kHz it knows only quality. */
struct vorbis_range {
    int64_t min, max;
};

struct vorbis_band {
    int64_t rate_below;
    struct vorbis_range two, six, other;
};

static const struct vorbis_band vorbis_bands[] = {
    {9000, {6000, 42000}, {8000, 42000}, {8000, 42000}},
    {15000, {8000, 50000}, {12000, 50000}, {12000, 50000}},
    {19000, {12000, 100000}, {16000, 100000}, {16000, 100000}},
    {26000, {15000, 90000}, {16000, 90000}, {16000, 90000}},
    {40000, {18000, 190000}, {30000, 190000}, {30000, 190000}},
    {50001, {22500, 250000}, {14000, 240000}, {32000, 240000}},
};

/* For ogg with neither bitrate nor quality: no bitrate fits all rates and channels. About 160
 * kbit/s for stereo at 44.1 kHz. */
enum { OGG_QUALITY_DEFAULT = 5 };

/* The highest bit/s a channel that libopus takes. */
enum { OPUS_BITRATE_CHANNEL_MAX = 256000 };

static const struct format *find_format(const char *name)
{
    size_t i = 0;

    while (strcmp(formats[i].name, name) != 0) {
        i++; /* the shape lets only names of the table through */
    }
    return &formats[i];
}

static enum err check_rate(struct scope *sc, const struct format *f, int64_t rate)
{
    struct strbuf list;
    size_t i;

    if (rate == ABSENT_I64 || f->rates == NULL) {
        return OK;
    }
    strbuf_init(&list, sc->arena, 128);
    for (i = 0; f->rates[i] != 0; i++) {
        if (f->rates[i] == rate) {
            return OK;
        }
        strbuf_printf(&list, "%s%lld", i > 0 ? ", " : "", (long long)f->rates[i]);
    }
    return scope_violation(sc, "sampleRate", "value", "%s takes only %s Hz", f->name, list.data);
}

static enum err check_bitrate(struct scope *sc, const struct format *f, const struct encoding *in)
{
    if (in->bitrate == ABSENT_I64) {
        return OK;
    }
    if (f->bitrate_max == 0) {
        return scope_violation(sc, "bitrate", "value", "%s is lossless and takes no bitrate",
                               f->name);
    }
    if (in->bitrate < f->bitrate_min || in->bitrate > f->bitrate_max) {
        return scope_violation(sc, "bitrate", "range", "must be from %lld to %lld for %s",
                               (long long)f->bitrate_min, (long long)f->bitrate_max, f->name);
    }
    if (isfinite(in->quality)) {
        return scope_violation(sc, "quality", "value", "cannot be combined with bitrate");
    }
    return OK;
}

/* Do the parameters fit the format and each other? All faults are told. */
enum err encoding_check(struct scope *sc, const struct encoding *in)
{
    const struct format *f = find_format(in->format);
    enum err e = check_bitrate(sc, f, in);

    if (isfinite(in->quality) && !f->has_quality) {
        e = scope_violation(sc, "quality", "value", "%s takes no quality", f->name);
    }
    if (check_rate(sc, f, in->sample_rate) != OK) {
        e = ERR_VALIDATION_FAILED;
    }
    if (in->channels != ABSENT_I64 && in->channels > f->channels_max) {
        e = scope_violation(sc, "channels", "range", "%s takes up to %lld channels", f->name,
                            (long long)f->channels_max);
    }
    return e;
}

/* The bitrate as asked against what the result will be, once the file is known. */
static enum err check_vorbis(struct scope *sc, int64_t bitrate, int64_t rate, int64_t channels)
{
    const struct vorbis_band *band = vorbis_bands;
    const struct vorbis_range *range;

    while (band < vorbis_bands + ARRAY_LEN(vorbis_bands) && rate >= band->rate_below) {
        band++;
    }
    if (band == vorbis_bands + ARRAY_LEN(vorbis_bands)) {
        return scope_violation(sc, "bitrate", "value", "ogg takes only quality at %lld Hz",
                               (long long)rate);
    }
    range = channels == 2 ? &band->two : channels == 6 ? &band->six : &band->other;
    if (bitrate < range->min * channels || bitrate > range->max * channels) {
        return scope_violation(sc, "bitrate", "range",
                               "must be from %lld to %lld for ogg with %lld channels at %lld Hz",
                               (long long)(range->min * channels),
                               (long long)(range->max * channels), (long long)channels,
                               (long long)rate);
    }
    return OK;
}

enum err encoding_check_result(struct scope *sc, const struct encoding *in, int64_t rate,
                               int64_t channels)
{
    rate = in->sample_rate != ABSENT_I64 ? in->sample_rate : rate;
    channels = in->channels != ABSENT_I64 ? in->channels : channels;
    if (in->bitrate == ABSENT_I64) {
        return OK;
    }
    if (strcmp(in->format, "ogg") == 0) {
        return check_vorbis(sc, in->bitrate, rate, channels);
    }
    if (strcmp(in->format, "opus") == 0 && in->bitrate > channels * OPUS_BITRATE_CHANNEL_MAX) {
        return scope_violation(
            sc, "bitrate", "range", "must be up to %lld for opus with %lld channels",
            (long long)(channels * OPUS_BITRATE_CHANNEL_MAX), (long long)channels);
    }
    return OK;
}

void encoding_write(struct strbuf *json, const struct encoding *in)
{
    bool usual =
        in->bitrate == ABSENT_I64 && !isfinite(in->quality) && strcmp(in->format, "ogg") == 0;

    strbuf_printf(json, ",\"format\":\"%s\"", in->format);
    payload_i64(json, "bitrate", in->bitrate);
    payload_f64(json, "quality", usual ? OGG_QUALITY_DEFAULT : in->quality);
    payload_i64(json, "sampleRate", in->sample_rate);
    payload_i64(json, "channels", in->channels);
    payload_f64(json, "targetLufs", in->target_lufs);
}
