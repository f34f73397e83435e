/* Sweeps: rows and objects that nobody will ask for again. Each is bounded, idempotent, and told
 * in the log where it found something. Rows go last, so that a sweep that dies half-way finds
 * its work again. One thread does all of the scheduler's work, so a round begins with a short look
 * whether S3 is there, and leaves out all that needs it where it is not. */
#include <string.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/log.h"
#include "lib/pg.h"
#include "lib/s3.h"
#include "lib/shape.h"
#include "queries.h"
#include "workers/scheduler.h"

enum {
    BATCH = 100,
    BATCHES_MAX = 20,                  /* of one sweep, database and round */
    OUTBOX_BATCH = 5000,               /* rows without anything to be done beside them */
    PAGES_MAX = 20,                    /* of a prefix in one round, 1000 keys each */
    LIMIT_MS = 60000,                  /* of one batch */
    LOOK_MS = 1000,                    /* of the look for S3: less than the leader's lock lasts */
    IDEMPOTENCY_TTL_MS = 24 * 3600000, /* the time that the API promises */
    RESERVATION_STALE_MS = 120000      /* longer than any request may take */
};

struct swept_file {
    struct id id, user_id;
    const char *key;
};

static const struct field swept_file_fields[] = {
    F_ID(swept_file, id, "id", 0),
    F_ID(swept_file, user_id, "userId", 0),
    F_STR(swept_file, key, "key", 1, 512, 0),
};
static const struct shape shape_swept_file = SHAPE(swept_file, swept_file_fields);

struct swept_upload {
    struct id id, user_id;
    const char *key, *s3_upload_id;
};

static const struct field swept_upload_fields[] = {
    F_ID(swept_upload, id, "id", 0),
    F_ID(swept_upload, user_id, "userId", 0),
    F_STR(swept_upload, key, "key", 1, 512, 0),
    F_STR(swept_upload, s3_upload_id, "s3UploadId", 1, 1024, 0),
};
static const struct shape shape_swept_upload = SHAPE(swept_upload, swept_upload_fields);

struct reservation {
    const char *email;
    struct id user_id;
};

static const struct field reservation_fields[] = {
    F_STR(reservation, email, "email", 1, 320, 0),
    F_ID(reservation, user_id, "userId", 0),
};
static const struct shape shape_reservation = SHAPE(reservation, reservation_fields);

struct found {
    bool found;
};

static const struct field found_fields[] = {F_BOOL(found, found, "found", 0)};
static const struct shape shape_found = SHAPE(found, found_fields);

/* One batch of a sweep on a database: *n_out rows were looked at, *n_done_out of them done. */
typedef enum err (*sweep_fn)(struct scope *sc, struct place place, int64_t *n_out,
                             int64_t *n_done_out);

static enum err delete_prefix(struct scope *sc, const char *prefix)
{
    struct s3_listed *items;
    bool has_more = true;
    size_t n, i;

    while (has_more) {
        TRY(s3_list(sc, prefix, "", &items, &n, &has_more));
        for (i = 0; i < n; i++) {
            TRY(s3_delete(sc, items[i].key));
        }
        has_more = has_more && n > 0;
    }
    return OK;
}

static enum err sweep_files(struct scope *sc, struct place place, int64_t *n_out,
                            int64_t *n_done_out)
{
    int64_t before = clock_wall_ms() - config()->upload_ttl_s * 1000;
    struct swept_file *files;
    size_t n, i;

    TRY(pg_many(sc, q_sweep_files(sc, place, before, BATCH), &shape_swept_file, &files, &n));
    pg_release(sc);
    *n_out = (int64_t)n;
    for (i = 0; i < n; i++) {
        struct swept_file *f = &files[i];

        TRY(s3_delete(sc, f->key));
        TRY(delete_prefix(sc,
                          arena_printf(sc->arena, "waveforms/%s/%s/",
                                       id_text(sc->arena, f->user_id), id_text(sc->arena, f->id))));
        TRY(pg_exec(sc, q_sweep_file_drop(sc, f->user_id, f->id), NULL));
        pg_release(sc);
        ++*n_done_out;
    }
    return OK;
}

static enum err sweep_uploads(struct scope *sc, struct place place, int64_t *n_out,
                              int64_t *n_done_out)
{
    struct swept_upload *uploads;
    size_t n, i;

    TRY(pg_many(sc, q_uploads_expired(sc, place, BATCH), &shape_swept_upload, &uploads, &n));
    pg_release(sc);
    *n_out = (int64_t)n;
    for (i = 0; i < n; i++) {
        struct swept_upload *u = &uploads[i];

        TRY(s3_multipart_abort(sc, u->key, u->s3_upload_id));
        TRY(pg_exec(sc, q_sweep_upload_close(sc, u->user_id, u->id), NULL));
        pg_release(sc);
        ++*n_done_out;
    }
    return OK;
}

static enum err sweep_resets(struct scope *sc, struct place place, int64_t *n_out,
                             int64_t *n_done_out)
{
    TRY(pg_exec(sc, q_password_resets_sweep(sc, place, BATCH), n_out));
    *n_done_out += *n_out;
    return OK;
}

static enum err sweep_idempotency(struct scope *sc, struct place place, int64_t *n_out,
                                  int64_t *n_done_out)
{
    TRY(pg_exec(sc, q_idempotency_sweep(sc, place, IDEMPOTENCY_TTL_MS, BATCH), n_out));
    *n_done_out += *n_out;
    return OK;
}

static enum err sweep_outbox(struct scope *sc, struct place place, int64_t *n_out,
                             int64_t *n_done_out)
{
    TRY(pg_exec(sc, q_outbox_sweep(sc, place, config()->event_keep_s * 1000, OUTBOX_BATCH), n_out));
    *n_done_out += *n_out;
    *n_out = *n_out < OUTBOX_BATCH ? 0 : BATCH;
    return OK;
}

/* A registration that died between its steps: the user's row decides. */
static enum err sweep_reservations(struct scope *sc, struct place place, int64_t *n_out,
                                   int64_t *n_done_out)
{
    struct reservation *list;
    struct found user;
    size_t n, i;

    TRY(pg_many(sc, q_emails_stale(sc, place, RESERVATION_STALE_MS, BATCH), &shape_reservation,
                &list, &n));
    pg_release(sc);
    *n_out = (int64_t)n;
    for (i = 0; i < n; i++) {
        struct reservation *r = &list[i];

        TRY(pg_one(sc, q_sweep_users_exists(sc, r->user_id), &shape_found, &user));
        pg_release(sc);
        TRY(pg_exec(sc,
                    user.found ? q_sweep_email_activate(sc, place, r->email, r->user_id)
                               : q_emails_release(sc, place, r->email, r->user_id),
                    NULL));
        pg_release(sc);
        ++*n_done_out;
    }
    return OK;
}

struct swept_job {
    struct id id;
};

static const struct field swept_job_fields[] = {F_ID(swept_job, id, "id", 0)};
static const struct shape shape_swept_job = SHAPE(swept_job, swept_job_fields);

/* Jobs that ended long ago; what they made lives by rules of its own. */
static enum err sweep_jobs(struct scope *sc, struct place place, int64_t *n_out,
                           int64_t *n_done_out)
{
    int64_t now = clock_wall_ms();
    struct swept_job *jobs;
    size_t n;

    TRY(pg_many(sc,
                q_jobs_expire(sc, place, now - config()->job_retention_s * 1000,
                              now - config()->job_dead_retention_s * 1000, BATCH),
                &shape_swept_job, &jobs, &n));
    *n_out = (int64_t)n;
    *n_done_out += *n_out;
    return OK;
}

static const struct sweep {
    const char *name;
    sweep_fn fn;
    bool needs_s3;
} sweeps[] = {
    {"uploads", sweep_uploads, true}, /* before files: an open upload keeps its file */
    {"files", sweep_files, true},
    {"password_resets", sweep_resets, false},
    {"idempotency", sweep_idempotency, false},
    {"outbox", sweep_outbox, false},
    {"reservations", sweep_reservations, false},
    {"jobs", sweep_jobs, false},
};

/* Does S3 answer? Else the rest of the round does without it. */
static bool s3_answers(struct arena *arena)
{
    int64_t latency_ms;
    struct scope sc;
    enum err e;

    scope_init(&sc, arena, LOOK_MS);
    e = s3_ping(&sc, LOOK_MS, &latency_ms);
    if (e != OK) {
        log_event(LOG_WARN, "scheduler.sweep", "no sweep of objects in this round: %s",
                  sc.cause == NULL ? err_info(e)->code : sc.cause);
    }
    scope_done(&sc);
    return e == OK;
}

static void tell(const char *name, int database, int64_t n_done, enum err e, const struct scope *sc)
{
    struct log_line l;

    figures_swept(name, n_done, e == OK);
    if (n_done == 0 && e == OK) {
        return;
    }
    log_begin(&l, e == OK ? LOG_INFO : LOG_WARN, "scheduler.sweep");
    log_str(&l, "sweep", name);
    if (database >= 0) {
        log_i64(&l, "database", database);
    }
    log_i64(&l, "swept", n_done);
    if (e != OK) {
        log_str(&l, "code", err_info(e)->code);
        log_str(&l, "cause", sc->cause);
    }
    log_end(&l);
}

static enum err sweep_database(struct arena *arena, const struct sweep *sweep, int database)
{
    int64_t n = BATCH, n_done = 0;
    struct scope sc;
    enum err e = OK;
    int batch;

    scope_init(&sc, arena, LIMIT_MS);
    for (batch = 0;
         batch < BATCHES_MAX && e == OK && n >= BATCH && lead_keep(arena) && !scheduler_stopping();
         batch++) {
        arena_reset(arena);
        scope_init(&sc, arena, LIMIT_MS);
        e = sweep->fn(&sc, pg_place_on_database(database), &n, &n_done);
        pg_release(&sc);
    }
    tell(sweep->name, database, n_done, e, &sc);
    scope_done(&sc);
    return e;
}

/* Objects under a prefix by age; the position is kept from round to round. */
struct aged {
    const char *name, *prefix;
    char after[600];
};

static enum err sweep_aged(struct arena *arena, struct aged *what, int64_t ttl_s)
{
    int64_t before = clock_wall_ms() - ttl_s * 1000, n_done = 0;
    struct s3_listed *items;
    bool has_more = true;
    struct scope sc;
    enum err e = OK;
    size_t n, i;
    int page;

    for (page = 0; page < PAGES_MAX && e == OK && has_more && lead_keep(arena); page++) {
        arena_reset(arena);
        scope_init(&sc, arena, LIMIT_MS);
        e = s3_list(&sc, what->prefix, what->after, &items, &n, &has_more);
        for (i = 0; i < n && e == OK && !scheduler_stopping(); i++) {
            if (items[i].modified_ms < before) {
                e = s3_delete(&sc, items[i].key);
                n_done += e == OK;
            }
        }
        has_more = has_more && e == OK && n > 0 && strlen(items[n - 1].key) < sizeof(what->after);
        snprintf(what->after, sizeof(what->after), "%s", has_more ? items[n - 1].key : "");
        if (e != OK || !has_more || page + 1 == PAGES_MAX) {
            tell(what->name, -1, n_done, e, &sc);
        }
        scope_done(&sc);
    }
    return e;
}

/* No upload of ours is still in use at this age: not a client's, not one of a job that runs. */
static int64_t longest_upload_ms(void)
{
    int64_t longest = config()->upload_ttl_s * 1000;
    enum job_kind kind;

    for (kind = 0; kind < JOB__COUNT; kind++) {
        int64_t timeout_ms = job_limits(kind).timeout_ms;

        longest = timeout_ms > longest ? timeout_ms : longest;
    }
    return longest;
}

/* Multipart uploads without a row: a worker was killed while it stored an output. */
static enum err sweep_multiparts(struct arena *arena)
{
    int64_t before = clock_wall_ms() - longest_upload_ms(), n_done = 0;
    struct s3_open *items, *after = NULL;
    bool has_more = true;
    struct scope sc;
    enum err e = OK;
    size_t n, i;
    int page;

    arena_reset(arena);
    scope_init(&sc, arena, LIMIT_MS);
    for (page = 0; page < PAGES_MAX && e == OK && has_more && !scheduler_stopping(); page++) {
        e = s3_multipart_open(&sc, after, &items, &n, &has_more);
        for (i = 0; e == OK && i < n; i++) {
            after = &items[i];
            if (after->begun_ms < before) {
                e = s3_multipart_abort(&sc, after->key, after->upload_id);
                n_done += e == OK;
            }
        }
    }
    tell("multiparts", -1, n_done, e, &sc);
    scope_done(&sc);
    return e;
}

static enum err sweep_temp(struct arena *arena)
{
    static struct aged temp = {.name = "temp", .prefix = "temp/"};

    return sweep_aged(arena, &temp, config()->temp_ttl_s);
}

static enum err sweep_logs(struct arena *arena)
{
    static struct aged logs = {.name = "logs", .prefix = "logs/"};

    return sweep_aged(arena, &logs, config()->logs_ttl_s);
}

static const struct {
    const char *name;
    enum err (*fn)(struct arena *arena);
} bucket_sweeps[] = {{"temp", sweep_temp}, {"logs", sweep_logs}, {"multiparts", sweep_multiparts}};

/* The sweeps of one database, and of the bucket. *has_s3 is false from where S3 did not answer
 * on: what failed for another reason ends nothing but itself. */
static void sweep_rows(struct arena *arena, int database, bool *has_s3)
{
    size_t i;

    for (i = 0; i < ARRAY_LEN(sweeps); i++) {
        const struct sweep *sweep = &sweeps[i];

        if (sweep->needs_s3 && !*has_s3) {
            figures_swept(sweep->name, 0, false);
        } else if (sweep_database(arena, sweep, database) != OK && sweep->needs_s3) {
            *has_s3 = s3_answers(arena);
        }
    }
}

static void sweep_bucket(struct arena *arena, bool *has_s3)
{
    size_t i;

    for (i = 0; i < ARRAY_LEN(bucket_sweeps); i++) {
        if (!*has_s3) {
            figures_swept(bucket_sweeps[i].name, 0, false);
        } else if (bucket_sweeps[i].fn(arena) != OK) {
            *has_s3 = s3_answers(arena);
        }
    }
}

void sweep_round(struct arena *arena)
{
    static int64_t next_mono_ms;
    bool has_s3;
    int database;

    if (clock_mono_ms() < next_mono_ms) {
        return;
    }
    has_s3 = s3_answers(arena);
    for (database = 0; database < pg_database_count() && !scheduler_stopping(); database++) {
        sweep_rows(arena, database, &has_s3);
    }
    if (!scheduler_stopping()) {
        sweep_bucket(arena, &has_s3);
    }
    next_mono_ms = clock_mono_ms() + config()->sweep_interval_s * 1000;
}
