/* Outputs are gathered in parts. The hash of an output is taken from memory where it fits into one
 * part, else while it streams by; if its first part is corrected in the end, which an earlier hash
 * cannot know, the object is read back once. */
#include "lib/media_s3.h"

#include <pthread.h>
#include <signal.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/s3.h"
#include "lib/str.h"

enum {
    PARTS_MAX = 10000, /* of S3 */
    ETAG_MAX = 128,
    CRC_MAX = 16,
    BUFFER_FIRST = 64 << 10,
    ABORT_MS = 5000,
    REQUEST_ARENA_BYTES = 64 << 10,
    READ_BACK_BYTES = 4 << 20
};

struct buffer {
    unsigned char *data;
    size_t len, cap;
};

struct part {
    char etag[ETAG_MAX], crc32c[CRC_MAX];
    int64_t size;
};

struct output {
    const char *key, *content_type, *upload_id;
    struct buffer first, current; /* part 1; the part being filled */
    struct part *parts;           /* [0] is part 1, put last */
    int n_parts;
    bool in_parts;  /* part 1 is full: current is in use */
    bool corrected; /* part 1 changed after it was hashed */
    bool begun, finished;
    struct crypto_sha256_stream hash;
    int64_t size;
};

enum upload_state { UPLOAD_IDLE, UPLOAD_BUSY, UPLOAD_QUIT };

/* What the calling thread hands to the uploading one, and what comes back; guarded by the mutex. */
struct upload {
    enum upload_state state;
    struct output *output;
    struct buffer buffer;
    int number;
    enum err e; /* first failure, sticky */
    char cause[256];
};

struct media_s3_sink {
    struct scope *sc;
    media_s3_target *target;
    void *context;
    size_t part_bytes;
    struct output outputs[MEDIA_OUTPUTS_MAX];
    bool has_thread;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct upload upload;
};

/* ---- source ---- */

struct s3_source {
    const char *key, *etag;
};

static enum err source_read(void *context, struct scope *sc, int64_t offset, size_t len,
                            void *buffer, size_t *got_out)
{
    const struct s3_source *s = context;

    return s3_get_range(sc, s->key, s->etag, offset, len, buffer, got_out);
}

void media_source_s3(struct scope *sc, const char *key, const char *etag, int64_t size,
                     struct media_source *source_out)
{
    struct s3_source *s = arena_new(sc->arena, struct s3_source);

    *s = (struct s3_source){.key = key, .etag = etag};
    *source_out = (struct media_source){.read = source_read, .context = s, .size = size};
}

/* ---- the uploading thread ---- */

static enum err put_part(struct scope *sc, struct output *out, int number, const struct buffer *b)
{
    struct part *part = &out->parts[number - 1];
    struct s3_part stored;

    TRY(s3_multipart_put(sc, out->key, out->upload_id, number, b->data, b->len, &stored));
    if (strlen(stored.etag) >= sizeof(part->etag)) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "s3: an ETag of %zu bytes",
                          strlen(stored.etag));
    }
    (void)snprintf(part->etag, sizeof(part->etag), "%s", stored.etag);
    (void)snprintf(part->crc32c, sizeof(part->crc32c), "%s", stored.crc32c);
    part->size = stored.size;
    return OK;
}

static void *upload_main(void *p)
{
    struct media_s3_sink *s = p;
    struct arena *arena = arena_open(REQUEST_ARENA_BYTES);

    (void)pthread_mutex_lock(&s->mutex);
    while (s->upload.state != UPLOAD_QUIT) {
        if (s->upload.state == UPLOAD_BUSY) {
            struct upload mine = s->upload;
            struct scope sc;

            (void)pthread_mutex_unlock(&s->mutex);
            scope_init(&sc, arena, 0);
            sc.deadline_mono_ms = s->sc->deadline_mono_ms;
            if (mine.e == OK) {
                mine.e = put_part(&sc, mine.output, mine.number, &mine.buffer);
                if (mine.e != OK) {
                    (void)snprintf(mine.cause, sizeof(mine.cause), "%s",
                                   sc.cause == NULL ? "" : sc.cause);
                }
            }
            scope_done(&sc);
            arena_reset(arena);
            (void)pthread_mutex_lock(&s->mutex);
            mine.state = s->upload.state == UPLOAD_QUIT ? UPLOAD_QUIT : UPLOAD_IDLE;
            s->upload = mine;
            (void)pthread_cond_broadcast(&s->changed);
        } else {
            (void)pthread_cond_wait(&s->changed, &s->mutex);
        }
    }
    (void)pthread_mutex_unlock(&s->mutex);
    arena_close(&arena);
    return NULL;
}

static enum err thread_start(struct media_s3_sink *s)
{
    sigset_t all, before;
    int rc;

    if (s->has_thread) {
        return OK;
    }
    /* Signals are for the program's own threads. */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&s->thread, NULL, upload_main, s);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    s->has_thread = rc == 0;
    return rc == 0 ? OK : scope_fail(s->sc, ERR_INTERNAL, "media: no thread: %s", strerror(rc));
}

/* Wait until nothing is on its way. The buffer of the last part is empty and ours again. */
static enum err upload_wait(struct media_s3_sink *s)
{
    enum err e;

    (void)pthread_mutex_lock(&s->mutex);
    while (s->upload.state == UPLOAD_BUSY) {
        (void)pthread_cond_wait(&s->changed, &s->mutex);
    }
    s->upload.buffer.len = 0;
    e = s->upload.e;
    (void)pthread_mutex_unlock(&s->mutex);
    return e == OK ? OK : scope_fail(s->sc, e, "%s", s->upload.cause);
}

/* Send the current part off and take the buffer of the one before in exchange. */
static enum err upload_current(struct media_s3_sink *s, struct output *out)
{
    struct buffer full = out->current;

    if (out->n_parts == PARTS_MAX) {
        return scope_fail(s->sc, ERR_INTERNAL, "media: more than %d parts", PARTS_MAX);
    }
    TRY(thread_start(s));
    TRY(upload_wait(s));
    out->n_parts++;
    (void)pthread_mutex_lock(&s->mutex);
    out->current = s->upload.buffer;
    s->upload.buffer = full;
    s->upload.output = out;
    s->upload.number = out->n_parts;
    s->upload.state = UPLOAD_BUSY;
    (void)pthread_cond_broadcast(&s->changed);
    (void)pthread_mutex_unlock(&s->mutex);
    return OK;
}

/* ---- sink ---- */

/* Append up to what makes cap_max bytes; returns how many were taken. */
static size_t buffer_add(struct buffer *b, size_t cap_max, const void *data, size_t len)
{
    if (len > cap_max - b->len) {
        len = cap_max - b->len;
    }
    if (b->len + len > b->cap) {
        size_t cap = b->cap == 0 ? BUFFER_FIRST : b->cap;
        unsigned char *grown;

        while (cap < b->len + len) {
            cap *= 2;
        }
        cap = cap < cap_max ? cap : cap_max;
        grown = realloc(b->data, cap);
        if (grown == NULL) {
            abort(); /* as everywhere: memory for bounded work is there or the process is not */
        }
        b->data = grown;
        b->cap = cap;
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
    return len;
}

static void buffer_free(struct buffer *b)
{
    free(b->data);
    *b = (struct buffer){.data = NULL};
}

static enum err output_of(struct media_s3_sink *s, int output, struct output **out_out)
{
    struct output *out = &s->outputs[output];

    if (!out->begun) {
        out->begun = true;
        s->target(s->context, output, &out->key, &out->content_type);
        crypto_sha256_begin(&out->hash);
    }
    *out_out = out;
    return out->key != NULL
               ? OK
               : scope_fail(s->sc, ERR_INTERNAL, "media: no output %d is expected", output);
}

/* The output is larger than one part. */
static enum err begin_parts(struct media_s3_sink *s, struct output *out)
{
    TRY(s3_multipart_begin(s->sc, out->key, out->content_type, S3_PARTS_BY_US, &out->upload_id));
    out->in_parts = true;
    out->parts = calloc(PARTS_MAX, sizeof(*out->parts));
    if (out->parts == NULL) {
        abort();
    }
    out->n_parts = 1;
    crypto_sha256_add(&out->hash, out->first.data, out->first.len);
    return OK;
}

static enum err sink_write(void *context, struct scope *sc, int output, const void *data,
                           size_t len)
{
    struct media_s3_sink *s = context;
    const unsigned char *from = data;
    struct output *out;
    size_t took;

    (void)sc;
    TRY(output_of(s, output, &out));
    out->size += (int64_t)len;
    if (!out->in_parts) {
        took = buffer_add(&out->first, s->part_bytes, from, len);
        from += took;
        len -= took;
        if (len > 0) {
            TRY(begin_parts(s, out));
        }
    }
    while (len > 0) {
        took = buffer_add(&out->current, s->part_bytes, from, len);
        crypto_sha256_add(&out->hash, out->current.data + out->current.len - took, took);
        from += took;
        len -= took;
        if (out->current.len == s->part_bytes) {
            TRY(upload_current(s, out));
        }
    }
    return OK;
}

static enum err sink_rewrite(void *context, struct scope *sc, int output, int64_t offset,
                             const void *data, size_t len)
{
    struct media_s3_sink *s = context;
    struct output *out;

    TRY(output_of(s, output, &out));
    if (offset < 0 || (uint64_t)offset > out->first.len || len > out->first.len - (size_t)offset) {
        return scope_fail(sc, ERR_INTERNAL, "media: a correction behind the first part");
    }
    if (memcmp(out->first.data + offset, data, len) != 0) {
        memcpy(out->first.data + offset, data, len);
        out->corrected = out->in_parts;
    }
    return OK;
}

/* Hash the stored object. */
static enum err read_back(struct media_s3_sink *s, struct output *out)
{
    unsigned char *buffer = malloc(READ_BACK_BYTES);
    struct media_source back;
    enum err e = OK;
    int64_t at = 0;
    size_t got = 0;

    if (buffer == NULL) {
        abort();
    }
    media_source_s3(s->sc, out->key, NULL, out->size, &back);
    crypto_sha256_begin(&out->hash);
    while (e == OK && at < out->size) {
        e = back.read(back.context, s->sc, at, READ_BACK_BYTES, buffer, &got);
        if (e == OK && got == 0) {
            e = scope_fail(s->sc, ERR_DEPENDENCY_UNAVAILABLE, "s3: the object is cut short");
        }
        if (e == OK) {
            crypto_sha256_add(&out->hash, buffer, got);
            at += (int64_t)got;
        }
    }
    free(buffer);
    return e;
}

static enum err finish_parts(struct media_s3_sink *s, struct output *out)
{
    struct s3_part *parts;
    int i;

    if (out->current.len > 0) {
        TRY(upload_current(s, out));
    }
    TRY(put_part(s->sc, out, 1, &out->first));
    TRY(upload_wait(s));
    parts = arena_array(s->sc->arena, struct s3_part, (size_t)out->n_parts);
    for (i = 0; i < out->n_parts; i++) {
        parts[i] = (struct s3_part){.number = i + 1,
                                    .etag = out->parts[i].etag,
                                    .size = out->parts[i].size,
                                    .crc32c = out->parts[i].crc32c};
    }
    TRY(s3_multipart_complete(s->sc, out->key, out->upload_id, parts, (size_t)out->n_parts));
    out->upload_id = NULL;
    return out->corrected ? read_back(s, out) : OK;
}

static void output_free(struct output *out)
{
    buffer_free(&out->first);
    buffer_free(&out->current);
    free(out->parts);
    out->parts = NULL;
}

static enum err sink_finish(void *context, struct scope *sc, int output,
                            struct media_output *made_out)
{
    struct media_s3_sink *s = context;
    uint8_t hash[SHA256_SIZE];
    struct output *out;

    TRY(output_of(s, output, &out));
    if (out->in_parts) {
        TRY(finish_parts(s, out));
    } else {
        const void *data = out->first.data == NULL ? (const void *)"" : out->first.data;

        crypto_sha256_add(&out->hash, data, out->first.len);
        TRY(s3_put(sc, out->key, out->content_type, data, out->first.len, NULL));
    }
    crypto_sha256_end(&out->hash, hash);
    hex_encode(hash, sizeof(hash), made_out->sha256);
    made_out->size = out->size;
    out->finished = true;
    output_free(out);
    return OK;
}

struct media_s3_sink *media_s3_sink_open(struct scope *sc, media_s3_target *target, void *context,
                                         struct media_sink *sink_out)
{
    struct media_s3_sink *s = arena_new(sc->arena, struct media_s3_sink);

    s->sc = sc;
    s->target = target;
    s->context = context;
    s->part_bytes = (size_t)config()->multipart_part_bytes;
    (void)pthread_mutex_init(&s->mutex, NULL);
    (void)pthread_cond_init(&s->changed, NULL);
    *sink_out = (struct media_sink){
        .write = sink_write, .rewrite = sink_rewrite, .finish = sink_finish, .context = s};
    return s;
}

static void thread_stop(struct media_s3_sink *s)
{
    if (s->has_thread) {
        (void)pthread_mutex_lock(&s->mutex);
        s->upload.state = UPLOAD_QUIT;
        (void)pthread_cond_broadcast(&s->changed);
        (void)pthread_mutex_unlock(&s->mutex);
        (void)pthread_join(s->thread, NULL);
    }
    buffer_free(&s->upload.buffer);
    (void)pthread_cond_destroy(&s->changed);
    (void)pthread_mutex_destroy(&s->mutex);
}

void media_s3_sink_close(struct media_s3_sink **sink)
{
    struct media_s3_sink *s = *sink;
    struct scope sc;
    int i;

    *sink = NULL;
    thread_stop(s);
    scope_init(&sc, s->sc->arena, ABORT_MS);
    for (i = 0; i < MEDIA_OUTPUTS_MAX; i++) {
        struct output *out = &s->outputs[i];

        if (out->upload_id != NULL) {
            enum err e = s3_multipart_abort(&sc, out->key, out->upload_id);

            (void)e; /* if this fails too, the sweep of old uploads finds it */
        }
        output_free(out);
    }
    scope_done(&sc);
}
