/* Drives lib/s3 from a test: one command a line on standard input, one result a line on standard
 * output. Words are separated by tabs; "-" is an absent one. Each command runs in a scope of its
 * own with the deadline of the last "deadline" command.
 *
 * A result begins with the error's name ("OK", "NOT_FOUND" …), then milliseconds taken, requests
 * sent, then what the command gives. A failure gives its cause. */
#include <stdio.h>

#include "lib/arena.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/http.h"
#include "lib/s3.h"
#include "lib/smtp.h"
#include "lib/str.h"

enum { LINE_MAX_BYTES = 1 << 20, WORDS_MAX = 64, GET_MAX_BYTES = 64 << 20 };

static int64_t deadline_ms = 30000;

static const char *text_or_null(const char *word)
{
    return strcmp(word, "-") == 0 ? NULL : word;
}

static int64_t number(const char *word)
{
    int64_t value;

    if (!i64_parse(word, &value)) {
        fprintf(stderr, "not a number: %s\n", word);
        exit(2);
    }
    return value;
}

/* A body of len bytes that a test can make too: byte i is (i * 31 + seed) mod 251. */
static char *pattern(struct arena *a, size_t len, int64_t seed)
{
    char *data = arena_alloc(a, len);
    size_t i;

    for (i = 0; i < len; i++) {
        data[i] = (char)((i * 31 + (size_t)seed) % 251);
    }
    return data;
}

static enum err run_presign(struct scope *sc, char **w, struct strbuf *out)
{
    struct s3_presign p = {.method = w[1],
                           .key = w[2],
                           .content_type = text_or_null(w[3]),
                           .content_length = text_or_null(w[4]) != NULL ? number(w[4]) : -1,
                           .upload_id = text_or_null(w[5]),
                           .part_number = (int)number(w[6]),
                           .download_name = text_or_null(w[7]),
                           .ttl_s = number(w[8])};
    int64_t expires_ms;
    const char *url = s3_presign_url(sc, &p, &expires_ms);

    strbuf_printf(out, "%s\t%lld", url, (long long)expires_ms);
    return OK;
}

static enum err run_head(struct scope *sc, char **w, struct strbuf *out)
{
    struct s3_object o;

    TRY(s3_head(sc, w[1], &o));
    strbuf_printf(out, "%lld\t%s\t%s\t%lld", (long long)o.size, o.content_type, o.etag,
                  (long long)o.modified_ms);
    return OK;
}

static enum err run_get(struct scope *sc, char **w, struct strbuf *out)
{
    size_t len = (size_t)number(w[4]), got;
    char hash[SHA256_HEX_SIZE];
    char *buffer = arena_alloc(sc->arena, len);

    TRY(s3_get_range(sc, w[1], text_or_null(w[2]), number(w[3]), len, buffer, &got));
    crypto_sha256_hex(buffer, got, hash);
    strbuf_printf(out, "%zu\t%s", got, hash);
    return OK;
}

static enum err run_put(struct scope *sc, char **w, struct strbuf *out)
{
    size_t len = (size_t)number(w[3]);
    const char *etag;

    TRY(s3_put(sc, w[1], w[2], pattern(sc->arena, len, number(w[4])), len, &etag));
    strbuf_puts(out, etag);
    return OK;
}

static enum err run_part(struct scope *sc, char **w, struct strbuf *out)
{
    size_t len = (size_t)number(w[4]);
    struct s3_part part;

    TRY(s3_multipart_put(sc, w[1], w[2], (int)number(w[3]), pattern(sc->arena, len, number(w[5])),
                         len, &part));
    strbuf_printf(out, "%s\t%s", part.etag, part.crc32c);
    return OK;
}

static enum err run_parts(struct scope *sc, char **w, struct strbuf *out)
{
    struct s3_part *parts;
    size_t n, i;

    TRY(s3_multipart_list(sc, w[1], w[2], &parts, &n));
    strbuf_printf(out, "%zu", n);
    for (i = 0; i < n; i++) {
        strbuf_printf(out, "\t%d\t%s\t%lld", parts[i].number, parts[i].etag,
                      (long long)parts[i].size);
    }
    return OK;
}

/* Words from the fourth on: number, ETag, size of each part, and CRC where they are ours. Without
 * them: what S3 lists. */
static enum err run_complete(struct scope *sc, char **w, size_t n_words)
{
    size_t each = strcmp(w[0], "complete-ours") == 0 ? 4 : 3, n = 0, at;
    struct s3_part given[WORDS_MAX / 3], *parts = given;

    for (at = 3; at + each <= n_words; at += each) {
        given[n++] = (struct s3_part){.number = (int)number(w[at]),
                                      .etag = w[at + 1],
                                      .size = number(w[at + 2]),
                                      .crc32c = each == 4 ? w[at + 3] : NULL};
    }
    if (n == 0) {
        TRY(s3_multipart_list(sc, w[1], w[2], &parts, &n));
    }
    return s3_multipart_complete(sc, w[1], w[2], parts, n);
}

static enum err run_list(struct scope *sc, char **w, struct strbuf *out)
{
    struct s3_listed *items;
    size_t n, i;
    bool is_more;

    TRY(s3_list(sc, w[1], w[2], &items, &n, &is_more));
    strbuf_printf(out, "%zu\t%s", n, is_more ? "more" : "all");
    for (i = 0; i < n; i++) {
        strbuf_printf(out, "\t%s\t%lld\t%lld", items[i].key, (long long)items[i].size,
                      (long long)items[i].modified_ms);
    }
    return OK;
}

static enum err run_ping(struct scope *sc, char **w, struct strbuf *out)
{
    int64_t latency_ms;
    enum err e = s3_ping(sc, number(w[1]), &latency_ms);

    strbuf_printf(out, "%lld", (long long)latency_ms);
    return e;
}

static enum err run_begin(struct scope *sc, char **w, struct strbuf *out)
{
    const char *id;

    TRY(s3_multipart_begin(sc, w[1], w[2],
                           strcmp(w[0], "begin-ours") == 0 ? S3_PARTS_BY_US : S3_PARTS_BY_CLIENT,
                           &id));
    strbuf_puts(out, id);
    return OK;
}

/* url, from, to, message with "\n" written as two characters. */
static enum err run_mail(struct scope *sc, char **w)
{
    struct strbuf message;
    const char *p;

    strbuf_init(&message, sc->arena, 1024);
    for (p = w[4]; *p != '\0'; p++) {
        bool is_escape = p[0] == '\\' && p[1] != '\0';

        p += is_escape;
        strbuf_putc(&message, !is_escape ? *p : *p == 'n' ? '\n' : *p == 'r' ? '\r' : *p);
    }
    return smtp_send(sc, w[1], w[2], w[3], message.data, message.len);
}

struct command {
    const char *name;
    size_t n_words; /* with the name; at least */
};

static const struct command commands[] = {
    {"presign", 9}, {"head", 2}, {"get", 5},   {"put", 5},        {"delete", 2},
    {"begin", 3},   {"part", 6}, {"parts", 3}, {"complete", 3},   {"abort", 3},
    {"list", 3},    {"ping", 2}, {"mail", 5},  {"begin-ours", 3}, {"complete-ours", 3},
};

static bool is_known(char **w, size_t n_words)
{
    size_t i;

    for (i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(w[0], commands[i].name) == 0) {
            return n_words >= commands[i].n_words;
        }
    }
    return false;
}

static enum err run(struct scope *sc, char **w, size_t n_words, struct strbuf *out)
{
    const char *name = w[0];

    if (strcmp(name, "presign") == 0) {
        return run_presign(sc, w, out);
    } else if (strcmp(name, "head") == 0) {
        return run_head(sc, w, out);
    } else if (strcmp(name, "get") == 0) {
        return run_get(sc, w, out);
    } else if (strcmp(name, "put") == 0) {
        return run_put(sc, w, out);
    } else if (strcmp(name, "delete") == 0) {
        return s3_delete(sc, w[1]);
    } else if (has_prefix(name, "begin")) {
        return run_begin(sc, w, out);
    } else if (strcmp(name, "part") == 0) {
        return run_part(sc, w, out);
    } else if (strcmp(name, "parts") == 0) {
        return run_parts(sc, w, out);
    } else if (has_prefix(name, "complete")) {
        return run_complete(sc, w, n_words);
    } else if (strcmp(name, "abort") == 0) {
        return s3_multipart_abort(sc, w[1], w[2]);
    } else if (strcmp(name, "list") == 0) {
        return run_list(sc, w, out);
    } else if (strcmp(name, "mail") == 0) {
        return run_mail(sc, w);
    }
    return run_ping(sc, w, out);
}

static void answer(char **w, size_t n_words)
{
    struct arena *a = arena_open(GET_MAX_BYTES);
    int64_t began_ms = clock_mono_ms();
    struct strbuf out;
    struct scope sc;
    enum err e;

    scope_init(&sc, a, deadline_ms);
    strbuf_init(&out, a, 4096);
    e = run(&sc, w, n_words, &out);
    printf("%s\t%lld\t%d\t%s\n", e == OK ? "OK" : err_info(e)->name,
           (long long)(clock_mono_ms() - began_ms), sc.timing.s3_count,
           e == OK            ? out.data
           : sc.cause != NULL ? sc.cause
                              : "");
    scope_done(&sc);
    arena_close(&a);
}

int main(void)
{
    static char line[LINE_MAX_BYTES];

    crypto_open();
    if (!config_load(stderr)) {
        return 1;
    }
    while (fgets(line, sizeof(line), stdin) != NULL) {
        char *words[WORDS_MAX] = {NULL}, *rest = line;
        size_t n = 0;

        line[strcspn(line, "\n")] = '\0';
        while (n < WORDS_MAX && rest != NULL) {
            words[n++] = strsep(&rest, "\t");
        }
        if (n == 2 && strcmp(words[0], "deadline") == 0) {
            deadline_ms = number(words[1]);
            printf("OK\t0\t0\t\n");
        } else if (is_known(words, n)) {
            answer(words, n);
        } else {
            fprintf(stderr, "not a command: %s\n", words[0]);
            return 2;
        }
        fflush(stdout);
    }
    return 0;
}
