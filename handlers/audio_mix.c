/* Mixes: all tracks are found by one query, and every fault is told with its track's number. */
#include <math.h>

#include "handlers.h"
#include "handlers/encoding.h"
#include "handlers/jobs.h"
#include "handlers/payload.h"
#include "lib/config.h"
#include "lib/pg.h"
#include "queries.h"

enum {
    TRACKS_MIN = 2,
    TRACKS_MAX = 64, /* sources of the media child */
    GAIN_DB_MIN = -60,
    GAIN_DB_MAX = 24,
    FADE_MS_MAX = 60000,
    CHANNELS_DEFAULT = 2
};

struct mix_in {
    const struct json *tracks;
    struct encoding made;
};

static const struct field mix_fields[] = {
    F_ANY(mix_in, tracks, "tracks", 0),
    ENCODING_FIELDS(mix_in, made),
};
static const struct shape shape_mix = SHAPE(mix_in, mix_fields);

struct track_in {
    struct id file_id;
    double gain_db, pan;
    int64_t offset_ms, fade_in_ms, fade_out_ms;
};

static const struct field track_fields[] = {
    F_ID(track_in, file_id, "fileId", 0),
    F_F64(track_in, gain_db, "gainDb", GAIN_DB_MIN, GAIN_DB_MAX, F_OPTIONAL),
    F_F64(track_in, pan, "pan", -1, 1, F_OPTIONAL),
    F_I64(track_in, offset_ms, "offsetMs", 0, INT64_MAX, F_OPTIONAL),
    F_I64(track_in, fade_in_ms, "fadeInMs", 0, FADE_MS_MAX, F_OPTIONAL),
    F_I64(track_in, fade_out_ms, "fadeOutMs", 0, FADE_MS_MAX, F_OPTIONAL),
};
static const struct shape shape_track = SHAPE(track_in, track_fields);

/* A track as asked for, with its file. */
struct track {
    struct track_in in;
    const struct audio_file *file;
};

static enum err check_offset(struct scope *sc, size_t i, const struct track_in *in)
{
    int64_t most = config()->media_duration_max_s * 1000;

    if (in->offset_ms == ABSENT_I64 || in->offset_ms <= most) {
        return OK;
    }
    return scope_violation(sc, arena_printf(sc->arena, "tracks[%zu].offsetMs", i), "range",
                           "must be from 0 to %lld", (long long)most);
}

/* All faults of all tracks are told. */
static enum err read_tracks(struct scope *sc, const struct json *value, struct track *tracks,
                            size_t *n_out)
{
    size_t i, n = json_length(value);
    enum err e = OK;

    if (json_kind(value) != JSON_ARRAY) {
        return scope_violation(sc, "tracks", "type", "must be an array");
    }
    if (n < TRACKS_MIN || n > TRACKS_MAX) {
        return scope_violation(sc, "tracks", "length", "must have %d to %d tracks", TRACKS_MIN,
                               TRACKS_MAX);
    }
    for (i = 0; i < n; i++) {
        const struct json *item = json_item(value, i);

        if (json_kind(item) != JSON_OBJECT) {
            e = scope_violation(sc, arena_printf(sc->arena, "tracks[%zu]", i), "type",
                                "must be an object");
        } else if (shape_read(sc, &shape_track, item, arena_printf(sc->arena, "tracks[%zu].", i),
                              &tracks[i].in) != OK ||
                   check_offset(sc, i, &tracks[i].in) != OK) {
            e = ERR_VALIDATION_FAILED;
        }
    }
    *n_out = n;
    return e;
}

static const struct audio_file *file_of(const struct audio_file *files, size_t n, struct id id)
{
    size_t i;

    for (i = 0; i < n; i++) {
        if (id_equal(files[i].id, id)) {
            return &files[i];
        }
    }
    return NULL;
}

/* As with one file: 404 for one that is not the user's, 409 for one that is not verified. */
static enum err find_files(struct req *r, struct track *tracks, size_t n)
{
    struct scope *sc = req_scope(r);
    struct strbuf ids = req_json(r);
    size_t i, n_files;
    void *files;

    for (i = 0; i < n; i++) {
        strbuf_printf(&ids, "%s\"%s\"", i > 0 ? "," : "[",
                      id_text(sc->arena, tracks[i].in.file_id));
    }
    strbuf_putc(&ids, ']');
    TRY(pg_many(sc, q_audio_by_ids(sc, req_user(r), ids.data), &shape_audio_file, &files,
                &n_files));
    for (i = 0; i < n; i++) {
        tracks[i].file = file_of(files, n_files, tracks[i].in.file_id);
        if (tracks[i].file == NULL) {
            return req_fail(r, ERR_NOT_FOUND, "tracks[%zu].fileId: There is no such file of yours.",
                            i);
        }
        if (strcmp(tracks[i].file->status, "verified") != 0) {
            return req_fail(r, ERR_CONFLICT, "tracks[%zu].fileId: The file is not verified but %s.",
                            i, tracks[i].file->status);
        }
    }
    return OK;
}

static int64_t or_zero(int64_t value)
{
    return value == ABSENT_I64 ? 0 : value;
}

/* What can be known of the result before it is made. */
static enum err check_result(struct scope *sc, const struct encoding *made,
                             const struct track *tracks, size_t n)
{
    int64_t rate = 0, most = config()->media_duration_max_s * 1000;
    enum err e = OK;
    size_t i;

    for (i = 0; i < n; i++) {
        const struct audio_file *f = tracks[i].file;

        rate = or_zero(f->sample_rate) > rate ? f->sample_rate : rate;
        if (or_zero(tracks[i].in.offset_ms) > most - or_zero(f->duration_ms)) {
            e = scope_violation(sc, arena_printf(sc->arena, "tracks[%zu].offsetMs", i), "range",
                                "the track must end within %lld ms", (long long)most);
        }
    }
    return encoding_check_result(sc, made, rate, CHANNELS_DEFAULT) != OK ? ERR_VALIDATION_FAILED
                                                                         : e;
}

static const char *write_payload(struct req *r, const struct encoding *made,
                                 const struct track *tracks, size_t n)
{
    struct strbuf json = req_json(r);
    size_t i;

    strbuf_puts(&json, "{\"tracks\":[");
    for (i = 0; i < n; i++) {
        struct strbuf track = payload_begin(r, tracks[i].file);

        payload_f64(&track, "gainDb", tracks[i].in.gain_db);
        payload_f64(&track, "pan", tracks[i].in.pan);
        payload_i64(&track, "offsetMs", tracks[i].in.offset_ms);
        payload_i64(&track, "fadeInMs", tracks[i].in.fade_in_ms);
        payload_i64(&track, "fadeOutMs", tracks[i].in.fade_out_ms);
        strbuf_printf(&json, "%s%s}", i > 0 ? "," : "", track.data);
    }
    strbuf_putc(&json, ']');
    encoding_write(&json, made);
    strbuf_putc(&json, '}');
    return json.data;
}

enum err h_audio_mix(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct track *tracks = arena_array(sc->arena, struct track, TRACKS_MAX);
    struct mix_in in;
    enum err e;
    size_t n = 0;

    TRY(req_body(r, &shape_mix, &in));
    e = encoding_check(sc, &in.made);
    TRY(read_tracks(sc, in.tracks, tracks, &n));
    TRY(e);
    TRY(req_transaction(r));
    TRY(find_files(r, tracks, n));
    TRY(check_result(sc, &in.made, tracks, n));
    in.made.channels = in.made.channels == ABSENT_I64 ? CHANNELS_DEFAULT : in.made.channels;
    return jobs_accept(r, JOB_AUDIO_MIX, write_payload(r, &in.made, tracks, n));
}
