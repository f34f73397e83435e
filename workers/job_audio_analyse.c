/* audio-analyse: what a file sounds like, the hash of its bytes, and its first waveform, from one
 * reading. Nobody asks for it: the request that finds a file to be good starts it. What the child
 * tells is read by a shape, so that nothing but these figures within these bounds gets into the
 * row. */

#include "lib/media_hash.h"
#include "lib/media_s3.h"
#include "lib/pg.h"
#include "lib/shape.h"
#include "lib/str.h"
#include "queries.h"
#include "workers/job_audio.h"

enum { MS_MAX = INT32_MAX, CHANNELS_MAX = 8, LEVEL_DB = 200, TEMPO_MAX = 400 };

struct analysis {
    double integrated_lufs, loudness_range_lu, true_peak_dbtp, tempo_bpm;
    int64_t leading_silence_ms, trailing_silence_ms, clipped_samples;
    double clipped_ratio;
    int64_t duration_ms;
    const char *codec;
    int64_t sample_rate, channels, bit_depth;
};

static const struct field analysis_fields[] = {
    F_F64(analysis, integrated_lufs, "integratedLufs", -LEVEL_DB, LEVEL_DB, F_OPTIONAL),
    F_F64(analysis, loudness_range_lu, "loudnessRangeLu", 0, LEVEL_DB, F_OPTIONAL),
    F_F64(analysis, true_peak_dbtp, "truePeakDbtp", -2 * LEVEL_DB, LEVEL_DB, F_OPTIONAL),
    F_F64(analysis, tempo_bpm, "tempoBpm", 0, TEMPO_MAX, F_OPTIONAL),
    F_I64(analysis, leading_silence_ms, "leadingSilenceMs", 0, MS_MAX, 0),
    F_I64(analysis, trailing_silence_ms, "trailingSilenceMs", 0, MS_MAX, 0),
    F_I64(analysis, clipped_samples, "clippedSamples", 0, INT64_MAX, 0),
    F_F64(analysis, clipped_ratio, "clippedRatio", 0, 1, 0),
    F_I64(analysis, duration_ms, "durationMs", 0, MS_MAX, 0),
    F_STR(analysis, codec, "codec", 1, 64, 0),
    F_I64(analysis, sample_rate, "sampleRate", 1, INT32_MAX, 0),
    F_I64(analysis, channels, "channels", 1, CHANNELS_MAX, 0),
    F_I64(analysis, bit_depth, "bitDepth", 1, 64, F_OPTIONAL),
};
static const struct shape shape_analysis = SHAPE(analysis, analysis_fields);

struct found {
    struct id file;
    char sha256[SHA256_HEX_SIZE];
    const char *json, *waveform; /* waveform NULL: none */
};

/* A file that is deleted meanwhile gets nothing, and the job is done all the same. */
static enum err store(struct job *j, struct scope *sc, void *context)
{
    const struct found *f = context;

    return pg_exec(
        sc, q_audio_set_analysis(sc, job_user(j), f->file, f->sha256, f->json, f->waveform), NULL);
}

static enum err read_analysis(struct job *j, const struct json *value, const char **json_out)
{
    struct scope *sc = job_scope(j);
    struct analysis analysis;
    struct strbuf json;

    if (shape_read(sc, &shape_analysis, value, "", &analysis) != OK) {
        scope_forgive(sc);
        return scope_fail(sc, ERR_INTERNAL, "odd result of the media child");
    }
    strbuf_init(&json, sc->arena, 512);
    shape_write(&json, &shape_analysis, &analysis);
    *json_out = json.data;
    return OK;
}

static void tell(struct job *j, const struct found *f)
{
    job_result(j,
               arena_printf(job_arena(j), "{\"fileId\":\"%s\",\"sha256\":\"%s\",\"analysis\":%s}",
                            id_text(job_arena(j), f->file), f->sha256, f->json));
}

enum err job_audio_analyse(struct job *j)
{
    struct scope *sc = job_scope(j);
    struct found *found = arena_new(sc->arena, struct found);
    const struct media_watch watch = job_watch(j);
    struct media_source object, source;
    struct media_hash *hash;
    struct job_file file;
    const struct job_run run = {
        .operation = "analyse", .params = "{}", .files = &file, .n_files = 1, .source = &source};
    const struct json *result;

    TRY(job_file_read(j, &file));
    found->file = file.id;
    media_source_s3(sc, file.key, file.etag, file.size, &object);
    hash = media_hash_make(sc, &object, &source);
    TRY(job_media_run_all(j, &run, job_waveform_output, &result));
    TRY(media_hash_end(hash, sc, &watch, found->sha256));
    TRY(read_analysis(j, json_get(result, "analysis"), &found->json));
    if (json_get(result, "waveform") != NULL) {
        TRY(job_waveform_tell(j, json_get(result, "waveform"), &found->waveform));
    }
    tell(j, found);
    job_publish(j, store, found);
    return OK;
}
