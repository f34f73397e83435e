/* Run one media operation on local files: for tests and measurements of the media child without a
 * stack.
 *
 *   media-driver probe FILE
 *   media-driver run OPERATION PARAMS_JSON OUT_PREFIX FILE…      outputs go to OUT_PREFIX.<n>
 *
 * --s3: FILE is a key, and outputs go to keys OUT_PREFIX.<n>. --timeout-ms N, --cancel-ms N (the
 * watch says stop after that time), --slow-us N (each read takes that long more), --discard
 * (outputs are hashed and dropped), --threads N (run the same N times at once). The result is
 * printed as JSON; a failure as {"error","detail","code","field","cause"}, exit status 1. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/media.h"
#include "lib/media_s3.h"
#include "lib/s3.h"
#include "lib/str.h"

enum { ARENA_BYTES = 4 << 20, THREADS_MAX = 64, EXIT_USAGE = 2 };

struct options {
    int64_t timeout_ms, cancel_ms, slow_us, threads;
    bool discard, s3;
};

struct file {
    int fd;
    const struct options *options;
};

struct files {
    const char *prefix;
    int fds[MEDIA_OUTPUTS_MAX];
    int64_t sizes[MEDIA_OUTPUTS_MAX];
    struct crypto_sha256_stream hashes[MEDIA_OUTPUTS_MAX];
    bool open[MEDIA_OUTPUTS_MAX], rewritten[MEDIA_OUTPUTS_MAX];
    const struct options *options;
};

struct job {
    struct options options;
    int argc;
    char **argv;
    int number;
    bool failed;
};

static enum err file_read(void *context, struct scope *sc, int64_t offset, size_t len, void *buffer,
                          size_t *got_out)
{
    const struct file *f = context;
    ssize_t got;

    if (f->options->slow_us > 0) {
        const struct timespec t = {.tv_sec = f->options->slow_us / 1000000,
                                   .tv_nsec = f->options->slow_us % 1000000 * 1000};

        (void)nanosleep(&t, NULL);
    }
    got = pread(f->fd, buffer, len, (off_t)offset);
    if (got < 0) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "read: %s", strerror(errno));
    }
    *got_out = (size_t)got;
    return OK;
}

static enum err files_open(struct files *f, struct scope *sc, int output)
{
    if (f->open[output]) {
        return OK;
    }
    f->open[output] = true;
    crypto_sha256_begin(&f->hashes[output]);
    if (!f->options->discard) {
        const char *path = arena_printf(sc->arena, "%s.%d", f->prefix, output);

        f->fds[output] = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (f->fds[output] < 0) {
            return scope_fail(sc, ERR_INTERNAL, "open %s: %s", path, strerror(errno));
        }
    }
    return OK;
}

static enum err files_write(void *context, struct scope *sc, int output, const void *data,
                            size_t len)
{
    struct files *f = context;

    TRY(files_open(f, sc, output));
    crypto_sha256_add(&f->hashes[output], data, len);
    if (!f->options->discard &&
        pwrite(f->fds[output], data, len, (off_t)f->sizes[output]) != (ssize_t)len) {
        return scope_fail(sc, ERR_INTERNAL, "write: %s", strerror(errno));
    }
    f->sizes[output] += (int64_t)len;
    return OK;
}

static enum err files_rewrite(void *context, struct scope *sc, int output, int64_t offset,
                              const void *data, size_t len)
{
    struct files *f = context;

    f->rewritten[output] = true;
    if (!f->options->discard && pwrite(f->fds[output], data, len, (off_t)offset) != (ssize_t)len) {
        return scope_fail(sc, ERR_INTERNAL, "write: %s", strerror(errno));
    }
    return OK;
}

static enum err files_finish(void *context, struct scope *sc, int output,
                             struct media_output *made_out)
{
    struct files *f = context;
    uint8_t hash[SHA256_SIZE], buffer[65536];
    off_t at = 0;
    ssize_t got;

    TRY(files_open(f, sc, output));
    if (f->rewritten[output] && !f->options->discard) {
        crypto_sha256_begin(&f->hashes[output]);
        while ((got = pread(f->fds[output], buffer, sizeof(buffer), at)) > 0) {
            crypto_sha256_add(&f->hashes[output], buffer, (size_t)got);
            at += got;
        }
    }
    crypto_sha256_end(&f->hashes[output], hash);
    hex_encode(hash, sizeof(hash), made_out->sha256);
    made_out->size = f->sizes[output];
    if (!f->options->discard) {
        (void)close(f->fds[output]);
    }
    return OK;
}

struct cancel {
    int64_t at_ms;
    int percent;
};

static bool on_progress(void *context, int percent)
{
    struct cancel *c = context;

    c->percent = percent;
    return c->at_ms == 0 || clock_mono_ms() < c->at_ms;
}

static void print_failure(const struct scope *sc, enum err e)
{
    struct strbuf b;

    strbuf_init(&b, sc->arena, 256);
    strbuf_puts(&b, "{\"error\":");
    strbuf_json(&b, err_info(e)->code);
    strbuf_puts(&b, ",\"detail\":");
    strbuf_json(&b, sc->detail);
    strbuf_puts(&b, ",\"code\":");
    strbuf_json(&b, sc->n_violations > 0 ? sc->violations[0].code : NULL);
    strbuf_puts(&b, ",\"field\":");
    strbuf_json(&b, sc->n_violations > 0 ? sc->violations[0].field : NULL);
    strbuf_puts(&b, ",\"cause\":");
    strbuf_json(&b, sc->cause);
    strbuf_puts(&b, "}");
    (void)printf("%s\n", b.data);
}

static enum err probe(struct scope *sc, const struct media_source *source)
{
    struct media_probe p;

    TRY(media_probe(sc, source, &p));
    (void)printf("{\"container\":\"%s\",\"codec\":\"%s\",\"durationMs\":%lld,\"sampleRate\":%lld,"
                 "\"channels\":%lld,\"bitDepth\":%lld,\"bitRate\":%lld}\n",
                 p.container, p.codec, (long long)p.duration_ms, (long long)p.sample_rate,
                 (long long)p.channels, (long long)(p.bit_depth == ABSENT_I64 ? 0 : p.bit_depth),
                 (long long)p.bit_rate);
    return OK;
}

static void on_target(void *context, int output, const char **key_out,
                      const char **content_type_out)
{
    static char keys[MEDIA_OUTPUTS_MAX][256];

    (void)snprintf(keys[output], sizeof(keys[output]), "%s.%d", (const char *)context, output);
    *key_out = keys[output];
    *content_type_out = "application/octet-stream";
}

/* S3 to S3, as a worker does it. */
static enum err run_s3(struct scope *sc, const struct job *job, const struct media_watch *watch)
{
    const char *key = job->argv[4], *result = NULL;
    struct media_s3_sink *s;
    struct media_source source;
    struct media_sink sink;
    struct s3_object object;
    enum err e;

    TRY(s3_head(sc, key, &object));
    media_source_s3(sc, key, object.etag, object.size, &source);
    s = media_s3_sink_open(sc, on_target, job->argv[3], &sink);
    e = media_run(sc, job->argv[1], job->argv[2], &source, 1, &sink, watch, job->options.timeout_ms,
                  &result);
    media_s3_sink_close(&s);
    if (e == OK) {
        (void)printf("%s\n", result);
    }
    return e;
}

static enum err run(struct scope *sc, const struct job *job, const struct media_source *sources,
                    size_t n)
{
    struct files *out = arena_new(sc->arena, struct files);
    const struct media_sink sink = {
        .write = files_write, .rewrite = files_rewrite, .finish = files_finish, .context = out};
    struct cancel cancel = {
        .at_ms = job->options.cancel_ms > 0 ? clock_mono_ms() + job->options.cancel_ms : 0};
    const struct media_watch watch = {.progress = on_progress, .context = &cancel};
    const char *result;

    if (job->options.s3) {
        return run_s3(sc, job, &watch);
    }
    out->options = &job->options;
    out->prefix = job->number == 0 ? job->argv[3]
                                   : arena_printf(sc->arena, "%s-%d", job->argv[3], job->number);
    TRY(media_run(sc, job->argv[1], job->argv[2], sources, n, &sink, &watch,
                  job->options.timeout_ms, &result));
    (void)printf("%s\n", result);
    return OK;
}

static void *work(void *p)
{
    struct job *job = p;
    bool is_probe = strcmp(job->argv[0], "probe") == 0;
    int first = is_probe ? 1 : 4, i;
    struct arena *arena = arena_open(ARENA_BYTES);
    struct media_source *sources;
    struct scope sc;
    enum err e;

    scope_init(&sc, arena, job->options.timeout_ms);
    sources = arena_array(arena, struct media_source, (size_t)(job->argc - first));
    for (i = first; i < job->argc && !job->options.s3; i++) {
        struct file *f = arena_new(arena, struct file);
        struct stat st;

        f->fd = open(job->argv[i], O_RDONLY | O_CLOEXEC);
        f->options = &job->options;
        if (f->fd < 0 || fstat(f->fd, &st) != 0) {
            perror(job->argv[i]);
            exit(EXIT_USAGE);
        }
        sources[i - first] =
            (struct media_source){.read = file_read, .context = f, .size = st.st_size};
    }
    e = is_probe ? probe(&sc, &sources[0]) : run(&sc, job, sources, (size_t)(job->argc - first));
    if (e != OK) {
        print_failure(&sc, e);
    }
    job->failed = e != OK;
    for (i = first; i < job->argc && !job->options.s3; i++) {
        (void)close(((const struct file *)sources[i - first].context)->fd);
    }
    arena_close(&arena);
    return NULL;
}

static bool option(const char *arg, const char *value, struct options *o)
{
    return (strcmp(arg, "--timeout-ms") == 0 && i64_parse(value, &o->timeout_ms)) ||
           (strcmp(arg, "--cancel-ms") == 0 && i64_parse(value, &o->cancel_ms)) ||
           (strcmp(arg, "--slow-us") == 0 && i64_parse(value, &o->slow_us)) ||
           (strcmp(arg, "--threads") == 0 && i64_parse(value, &o->threads) &&
            o->threads <= THREADS_MAX);
}

int main(int argc, char **argv)
{
    struct options options = {.timeout_ms = 600000, .threads = 1};
    struct job jobs[THREADS_MAX];
    pthread_t threads[THREADS_MAX];
    bool failed = false;
    int at = 1, i;

    while (at < argc && strncmp(argv[at], "--", 2) == 0) {
        if (strcmp(argv[at], "--discard") == 0 || strcmp(argv[at], "--s3") == 0) {
            options.discard = options.discard || argv[at][2] == 'd';
            options.s3 = options.s3 || argv[at][2] == 's';
            at++;
        } else if (at + 1 < argc && option(argv[at], argv[at + 1], &options)) {
            at += 2;
        } else {
            return EXIT_USAGE;
        }
    }
    if (argc - at < 2 ||
        (strcmp(argv[at], "probe") != 0 && (strcmp(argv[at], "run") != 0 || argc - at < 5)) ||
        !config_load(stderr)) {
        (void)fprintf(stderr, "usage: media-driver [options] probe FILE | run OP JSON OUT FILE…\n");
        return EXIT_USAGE;
    }
    crypto_open();
    for (i = 0; i < options.threads; i++) {
        jobs[i] =
            (struct job){.options = options, .argc = argc - at, .argv = argv + at, .number = i};
        if (pthread_create(&threads[i], NULL, work, &jobs[i]) != 0) {
            return EXIT_USAGE;
        }
    }
    for (i = 0; i < options.threads; i++) {
        (void)pthread_join(threads[i], NULL);
        failed = failed || jobs[i].failed;
    }
    return failed ? 1 : 0;
}
