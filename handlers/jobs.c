/* Jobs as their owner sees them. Stored results name objects by key only: the URLs that a client
 * needs are signed whenever a result is shown, so an old result is as good as a new one. */
#include "handlers/jobs.h"

#include "handlers.h"
#include "handlers/signer.h"
#include "lib/config.h"
#include "lib/pg.h"
#include "queries.h"

/* A page ends early where its results would fill more: with a URL for each file they grow up
to fourfold. */
enum { PAGE_RESULT_BYTES = 65536, RESULT_GROWTH = 4 };

struct job_row {
    struct id id;
    const char *type, *status;
    int64_t progress, attempts, created_at, started_at, finished_at;
    const char *result, *error; /* JSON */
    int64_t version;
    bool has_result; /* false: left out of the page */
};

static const struct field job_fields[] = {
    F_ID(job_row, id, "jobId", 0),
    F_STR(job_row, type, "type", 1, 64, 0),
    F_STR(job_row, status, "status", 1, 32, 0),
    F_I64(job_row, progress, "progress", 0, 100, 0),
    F_I64(job_row, attempts, "attempts", 0, INT64_MAX, 0),
    F_TIME(job_row, created_at, "createdAt", 0),
    F_TIME(job_row, started_at, "startedAt", 0),
    F_TIME(job_row, finished_at, "finishedAt", 0),
    F_JSON(job_row, result, "result", 0),
    F_JSON(job_row, error, "error", 0),
    F_I64(job_row, version, "version", 0, INT64_MAX, F_HIDDEN),
    F_BOOL(job_row, has_result, "hasResult", F_HIDDEN),
};
static const struct shape shape_job = SHAPE(job_row, job_fields);

/* Keys that a result of this user's job may show; whatever a stored result says, no other one is
 * signed. */
struct result_view {
    struct signer *signer;
    struct strbuf *out;
    const char *allowed[3];
    const char *separator;
};

static bool is_allowed(const struct result_view *view, const char *key)
{
    size_t i;

    for (i = 0; i < ARRAY_LEN(view->allowed); i++) {
        if (has_prefix(key, view->allowed[i])) {
            return true;
        }
    }
    return false;
}

static void write_value(struct result_view *view, const struct json *value);

static bool write_member(void *context, const char *name, const struct json *value)
{
    struct result_view *view = context;
    const char *key = strcmp(name, "key") == 0 ? json_str(value, NULL) : NULL;

    strbuf_puts(view->out, view->separator);
    strbuf_json(view->out, name);
    strbuf_putc(view->out, ':');
    write_value(view, value);
    view->separator = ",";
    if (key != NULL && is_allowed(view, key)) {
        struct s3_presign what = {
            .method = "GET", .key = key, .content_length = -1, .ttl_s = config()->s3_url_ttl_s};

        strbuf_puts(view->out, ",\"url\":");
        signer_put(view->signer, view->out, &what, NULL);
    }
    return true;
}

/* Copy a value; each object with a key gets a url behind it. */
static void write_value(struct result_view *view, const struct json *value)
{
    size_t i;

    if (json_kind(value) == JSON_OBJECT) {
        view->separator = "";
        strbuf_putc(view->out, '{');
        json_each(value, write_member, view);
        strbuf_putc(view->out, '}');
    } else if (json_kind(value) == JSON_ARRAY) {
        strbuf_putc(view->out, '[');
        for (i = 0; i < json_length(value); i++) {
            strbuf_puts(view->out, i > 0 ? "," : "");
            write_value(view, json_item(value, i));
        }
        strbuf_putc(view->out, ']');
    } else {
        json_write(view->out, value);
    }
}

/* Sign a URL behind each key of the job's result. */
static enum err add_urls(struct req *r, struct signer *signer, struct job_row *job)
{
    struct scope *sc = req_scope(r);
    const char *user = id_text(sc->arena, req_user(r));
    const struct json *value;
    struct strbuf out;
    struct result_view view = {
        .signer = signer,
        .out = &out,
        .allowed = {arena_printf(sc->arena, "audio/%s/", user),
                    arena_printf(sc->arena, "waveforms/%s/", user),
                    arena_printf(sc->arena, "temp/%s/", id_text(sc->arena, job->id))},
        .separator = ""};

    if (job->result == NULL) {
        return OK;
    }
    if (json_parse(sc, job->result, strlen(job->result), &value) != OK) {
        scope_forgive(sc);
        return scope_fail(sc, ERR_INTERNAL, "result of job %s does not parse",
                          id_text(sc->arena, job->id));
    }
    strbuf_init(&out, sc->arena, strlen(job->result) * RESULT_GROWTH);
    write_value(&view, value);
    job->result = out.data;
    return OK;
}

static enum err find_job(struct req *r, struct job_row *job_out)
{
    struct scope *sc = req_scope(r);
    struct id id;
    enum err e = req_own_id(r, &id);

    if (e == OK) {
        e = pg_one(sc, q_jobs_by_owner(sc, req_user(r), id), &shape_job, job_out);
    }
    return e == ERR_NOT_FOUND ? req_fail(r, e, "There is no such job of yours.") : e;
}

struct push {
    enum job_kind kind;
    struct id job;
};

static void push_job(struct req *r, void *context)
{
    const struct push *p = context;

    /* the scheduler finds the row if this is lost; the cause stays in the request's log line */
    (void)!queue_push(req_scope(r), p->kind, p->job, req_user(r));
}

static void cancel_job(struct req *r, void *context)
{
    const struct push *p = context;

    /* a worker that misses this meets the row's new fence */
    (void)!queue_cancel(req_scope(r), p->kind, p->job);
}

static void after_commit(struct req *r, void (*fn)(struct req *r, void *context),
                         enum job_kind kind, struct id job)
{
    struct push *p = arena_new(req_arena(r), struct push);

    *p = (struct push){.kind = kind, .job = job};
    req_after_commit(r, fn, p);
}

enum err jobs_start(struct req *r, enum job_kind kind, const char *payload, struct id *id_out)
{
    struct scope *sc = req_scope(r);
    struct id id = id_make_owned(req_place(r));
    const char *trace = sc->traceparent[0] != '\0' ? sc->traceparent : NULL;

    TRY(req_transaction(r));
    TRY(pg_exec(
        sc, q_jobs_insert(sc, id, req_user(r), job_type(kind)->name, payload, trace, ABSENT_I64),
        NULL));
    after_commit(r, push_job, kind, id);
    *id_out = id;
    return OK;
}

enum err jobs_accept(struct req *r, enum job_kind kind, const char *payload)
{
    struct scope *sc = req_scope(r);
    struct strbuf json = req_json(r);
    const char *path;
    struct id id;

    TRY(jobs_start(r, kind, payload, &id));
    path = arena_printf(sc->arena, "/api/jobs/%s", id_text(sc->arena, id));
    req_location(r, "%s", path);
    strbuf_printf(&json, "{\"jobId\":\"%s\",\"status\":\"processing\",\"statusUrl\":\"%s\"}",
                  id_text(sc->arena, id), path);
    return req_reply_json(r, 202, &json);
}

enum err h_jobs_list(struct req *r)
{
    static const char *const known[] = {"limit", "cursor", NULL};
    struct scope *sc = req_scope(r);
    struct req_page page;
    struct signer signer;
    struct job_row *jobs;
    size_t n, i;

    TRY(req_query_only(r, known));
    TRY(req_page(r, &page));
    TRY(pg_many(sc, q_jobs_list(sc, req_user(r), page.after, page.limit + 1, PAGE_RESULT_BYTES),
                &shape_job, &jobs, &n));
    pg_release(sc);
    signer_init(&signer, r);
    for (i = 0; i < n; i++) {
        if (!jobs[i].has_result) {
            page.limit = (int64_t)i; /* the first one always has its result */
            n = i + 1;
            break;
        }
        TRY(add_urls(r, &signer, &jobs[i]));
    }
    return req_reply_page(r, &shape_job, jobs, n, &page, offsetof(struct job_row, id));
}

enum err h_jobs_get(struct req *r)
{
    struct signer signer;
    struct job_row job;

    TRY(find_job(r, &job));
    signer_init(&signer, r);
    TRY(add_urls(r, &signer, &job));
    req_etag(r, job.version);
    return req_reply(r, 200, &shape_job, &job);
}

enum err h_jobs_delete(struct req *r)
{
    struct scope *sc = req_scope(r);
    const struct job_type *type;
    struct job_row job;
    enum err e;

    TRY(find_job(r, &job));
    TRY(req_if_match(r, job.version));
    e = pg_one(sc, q_jobs_cancel(sc, req_user(r), job.id), &shape_job, &job);
    if (e == ERR_NOT_FOUND) {
        scope_forgive(sc);
        TRY(find_job(r, &job));
        if (strcmp(job.status, "cancelled") != 0) {
            return req_fail(r, ERR_CONFLICT, "The job has ended already: it is %s.", job.status);
        }
        return req_reply_empty(r, 204);
    }
    TRY(e);
    type = job_type_find(job.type);
    if (type != NULL) {
        after_commit(r, cancel_job, type->kind, job.id);
    }
    return req_reply_empty(r, 204);
}
