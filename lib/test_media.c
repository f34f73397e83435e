/* media_run() against children that are this very program: started with the protocol's
 * descriptors it plays the part that the operation names, honest or not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/media.h"
#include "lib/str.h"

enum { SOURCE_BYTES = 5000000, ARENA_BYTES = 32 << 20, SHORT_MS = 300, LONG_MS = 20000 };

/* ---- the child's side ---- */

struct played {
    struct media_start start;
    char params[1024];
    unsigned char *memory;
    size_t out_base;
};

static void say(struct media_msg msg, const char *payload)
{
    char packet[4096];
    size_t len = payload == NULL ? 0 : strlen(payload);

    memcpy(packet, &msg, sizeof(msg));
    memcpy(packet + sizeof(msg), payload == NULL ? "" : payload, len);
    if (send(MEDIA_FD_SOCKET, packet, sizeof(msg) + len, MSG_NOSIGNAL) < 0) {
        _exit(9);
    }
}

static struct media_msg hear(void)
{
    struct media_msg msg;

    if (recv(MEDIA_FD_SOCKET, &msg, sizeof(msg), 0) != sizeof(msg)) {
        _exit(9);
    }
    return msg;
}

static struct media_msg ask(uint32_t source, int64_t offset)
{
    say((struct media_msg){.type = MEDIA_READ, .index = source, .offset = offset}, NULL);
    return hear();
}

static void put(struct played *p, uint32_t output, const void *data, size_t len)
{
    memcpy(p->memory + p->out_base, data, len);
    say((struct media_msg){.type = MEDIA_WRITE, .index = output, .len = (int64_t)len}, NULL);
    (void)hear();
}

static void result(const char *json)
{
    say((struct media_msg){.type = MEDIA_RESULT}, json);
    _exit(0);
}

/* Copy each source to the output of its number, then look back into it at odd places. */
static void play_copy(struct played *p)
{
    static const int64_t places[] = {4999999, 0, 3000001, 2999999, 12, 4000000, 4999990};
    uint32_t i;
    size_t k;

    for (i = 0; i < p->start.n_sources; i++) {
        int64_t at = 0;

        while (at < p->start.sizes[i]) {
            struct media_msg m = ask(i, at);
            int64_t done = 0;

            while (done < m.len) {
                int64_t n = m.len - done < MEDIA_OUT_BLOCK ? m.len - done : MEDIA_OUT_BLOCK;

                put(p, i, p->memory + m.position + done, (size_t)n);
                done += n;
            }
            at += m.len;
        }
        for (k = 0; k < ARRAY_LEN(places) && p->start.sizes[i] == SOURCE_BYTES; k++) {
            struct media_msg m = ask(i, places[k]);

            put(p, i, p->memory + m.position, 1);
        }
        if (ask(i, p->start.sizes[i]).len != 0) {
            _exit(8);
        }
        say((struct media_msg){.type = MEDIA_FINISH, .index = i}, NULL);
    }
    result("{\"files\":[{\"output\":0,\"format\":\"x\"}],\"n\":1.5,\"none\":null}");
}

static void play_params(struct played *p)
{
    put(p, 0, p->params, strlen(p->params));
    say((struct media_msg){.type = MEDIA_FINISH}, NULL);
    result("{}");
}

static void play_rewrite(struct played *p)
{
    put(p, 3, "headbody", 8);
    memcpy(p->memory + p->out_base, "HEAD", 4);
    say((struct media_msg){.type = MEDIA_REWRITE, .index = 3, .len = 4}, NULL);
    (void)hear();
    say((struct media_msg){.type = MEDIA_FINISH, .index = 3}, NULL);
    result("{\"output\":3}");
}

static void play_hostile(const char *what)
{
    if (strcmp(what, "far-read") == 0) {
        say((struct media_msg){.type = MEDIA_READ, .index = 1}, NULL);
    } else if (strcmp(what, "far-write") == 0) {
        say((struct media_msg){.type = MEDIA_WRITE, .position = MEDIA_OUT_SLOTS, .len = 1}, NULL);
    } else if (strcmp(what, "long-write") == 0) {
        say((struct media_msg){.type = MEDIA_WRITE, .len = MEDIA_OUT_BLOCK + 1}, NULL);
    } else if (strcmp(what, "bad-json") == 0) {
        say((struct media_msg){.type = MEDIA_RESULT}, "{\"a\":1,\"a\":2}");
    } else if (strcmp(what, "no-output") == 0) {
        say((struct media_msg){.type = MEDIA_RESULT}, "{\"x\":[{\"output\":0}]}");
    } else if (strcmp(what, "segv") == 0) {
        (void)raise(SIGSEGV);
    } else if (strcmp(what, "spam") == 0) {
        for (;;) {
            say((struct media_msg){.type = MEDIA_WRITE, .len = 1}, NULL);
        }
    }
    (void)pause();
}

static void play(void)
{
    static char packet[65536];
    static struct played p;
    ssize_t got = recv(MEDIA_FD_SOCKET, packet, sizeof(packet), 0);
    const char *what;

    (void)alarm(60);
    if (got < (ssize_t)(sizeof(struct media_msg) + sizeof(p.start))) {
        _exit(7);
    }
    memcpy(&p.start, packet + sizeof(struct media_msg), sizeof(p.start));
    memcpy(p.params, packet + sizeof(struct media_msg) + sizeof(p.start),
           p.start.params_len < sizeof(p.params) ? p.start.params_len : 0);
    p.memory = mmap(NULL, (size_t)p.start.memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                    MEDIA_FD_MEMORY, 0);
    p.out_base = (size_t)p.start.n_sources * MEDIA_IN_SLOTS * p.start.in_block;
    what = p.start.operation;
    if (strcmp(what, "copy") == 0) {
        play_copy(&p);
    } else if (strcmp(what, "params") == 0) {
        play_params(&p);
    } else if (strcmp(what, "rewrite") == 0) {
        play_rewrite(&p);
    } else if (strcmp(what, "probe") == 0) {
        result("{\"container\":\"wav\",\"codec\":\"pcm\",\"durationMs\":5,\"sampleRate\":8000,"
               "\"channels\":1,\"bitDepth\":null,\"bitRate\":1}");
    } else if (strcmp(what, "rate") == 0) {
        say((struct media_msg){.type = MEDIA_FAIL, .index = MEDIA_FAULT_SAMPLE_RATE, .offset = 7},
            NULL);
    } else if (strcmp(what, "param") == 0) {
        say((struct media_msg){.type = MEDIA_FAIL, .index = MEDIA_FAULT_PARAM}, "zoom");
    } else if (strcmp(what, "shrink") == 0) {
        /* With the seal this fails; without it our parent's next look would end it. */
        result(ftruncate(MEDIA_FD_MEMORY, 0) == 0 ? "{\"shrunk\":true}" : "{\"shrunk\":false}");
    } else {
        play_hostile(what);
    }
    _exit(0);
}

/* ---- the parent's side ---- */

static unsigned char source_bytes[SOURCE_BYTES];

struct world {
    struct arena *arena;
    struct scope sc;
    struct media_source sources[2];
    struct media_sink sink;
    struct media_watch watch;
    struct strbuf out[4];
    int finished, asked;
    int64_t most_read, n_reads;
    enum err read_error, write_error;
    int64_t stop_at_ms;
};

static enum err world_read(void *context, struct scope *sc, int64_t offset, size_t len,
                           void *buffer, size_t *got_out)
{
    struct world *w = context;

    (void)sc;
    assert_true(offset >= 0 && offset + (int64_t)len <= SOURCE_BYTES && len > 0);
    if (w->read_error != OK) {
        return w->read_error;
    }
    w->n_reads++;
    *got_out = len > 100000 ? 100000 : len; /* short reads are allowed */
    memcpy(buffer, source_bytes + offset, *got_out);
    w->most_read += (int64_t)*got_out;
    return OK;
}

static enum err world_write(void *context, struct scope *sc, int output, const void *data,
                            size_t len)
{
    struct world *w = context;

    (void)sc;
    assert_in_range(output, 0, 3);
    strbuf_add(&w->out[output], data, len);
    return w->write_error;
}

static enum err world_rewrite(void *context, struct scope *sc, int output, int64_t offset,
                              const void *data, size_t len)
{
    struct world *w = context;

    (void)sc;
    memcpy(w->out[output].data + offset, data, len);
    return OK;
}

static enum err world_finish(void *context, struct scope *sc, int output,
                             struct media_output *made_out)
{
    struct world *w = context;

    (void)sc;
    w->finished++;
    made_out->size = (int64_t)w->out[output].len;
    crypto_sha256_hex(w->out[output].data, w->out[output].len, made_out->sha256);
    return OK;
}

static bool world_progress(void *context, int percent)
{
    struct world *w = context;

    assert_in_range(percent, 0, 99);
    w->asked++;
    return w->stop_at_ms == 0 || clock_mono_ms() < w->stop_at_ms;
}

static struct world *world_open(void)
{
    struct world *w = calloc(1, sizeof(*w));
    size_t i;

    w->arena = arena_open(ARENA_BYTES);
    scope_init(&w->sc, w->arena, LONG_MS);
    for (i = 0; i < 2; i++) {
        w->sources[i] =
            (struct media_source){.read = world_read, .context = w, .size = SOURCE_BYTES};
    }
    w->sink = (struct media_sink){
        .write = world_write, .rewrite = world_rewrite, .finish = world_finish, .context = w};
    w->watch = (struct media_watch){.progress = world_progress, .context = w};
    for (i = 0; i < 4; i++) {
        strbuf_init(&w->out[i], w->arena, 64);
    }
    return w;
}

static void world_close(struct world *w)
{
    arena_close(&w->arena);
    free(w);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nobody left to wait for */
    assert_int_equal(errno, ECHILD);
}

static enum err run(struct world *w, const char *operation, int64_t timeout_ms,
                    const char **result_out)
{
    return media_run(&w->sc, operation, "{}", w->sources, 1, &w->sink, &w->watch, timeout_ms,
                     result_out);
}

static void test_a_source_arrives_whole_and_at_any_place(void **state)
{
    static const int64_t places[] = {4999999, 0, 3000001, 2999999, 12, 4000000, 4999990};
    struct world *w = world_open();
    const char *told = NULL;
    size_t i;

    (void)state;
    assert_int_equal(
        media_run(&w->sc, "copy", "{}", w->sources, 2, &w->sink, &w->watch, LONG_MS, &told), OK);
    for (i = 0; i < 2; i++) {
        size_t k;

        assert_int_equal(w->out[i].len, SOURCE_BYTES + ARRAY_LEN(places));
        assert_memory_equal(w->out[i].data, source_bytes, SOURCE_BYTES);
        for (k = 0; k < ARRAY_LEN(places); k++) {
            assert_int_equal((unsigned char)w->out[i].data[SOURCE_BYTES + k],
                             source_bytes[places[k]]);
        }
    }
    assert_int_equal(w->finished, 2);
    assert_true(w->most_read <
                2 * SOURCE_BYTES + 14 * 1200000); /* in blocks, once where in order */
    world_close(w);
}

static void test_a_result_gets_size_and_hash_of_the_outputs_it_names(void **state)
{
    struct world *w = world_open();
    char hash[SHA256_HEX_SIZE];
    const char *told = NULL;

    (void)state;
    assert_int_equal(run(w, "copy", LONG_MS, &told), OK);
    crypto_sha256_hex(w->out[0].data, w->out[0].len, hash);
    assert_string_equal(told,
                        arena_printf(w->arena,
                                     "{\"files\":[{\"output\":0,\"format\":\"x\",\"size\":%zu,"
                                     "\"sha256\":\"%s\"}],\"n\":1.5,\"none\":null}",
                                     w->out[0].len, hash));
    world_close(w);
}

static void test_parameters_arrive_as_lines(void **state)
{
    struct world *w = world_open();
    const char *told;

    (void)state;
    assert_int_equal(media_run(&w->sc, "params",
                               "{\"a\":1,\"b\":[2,\"x=y\"],\"c\":{\"d\":true,\"e\":[{\"f\":0.5}]},"
                               "\"g\":null}",
                               w->sources, 1, &w->sink, NULL, LONG_MS, &told),
                     OK);
    assert_string_equal(w->out[0].data, "a=1\nb.0=2\nb.1=x=y\nc.d=true\nc.e.0.f=0.5\n");
    world_close(w);
}

static void test_a_parameter_cannot_smuggle_in_another_line(void **state)
{
    struct world *w = world_open();
    const char *told;

    (void)state;
    assert_int_equal(media_run(&w->sc, "params", "{\"a\":\"x\\nb=1\"}", w->sources, 1, &w->sink,
                               NULL, LONG_MS, &told),
                     ERR_VALIDATION_FAILED);
    assert_string_equal(w->sc.violations[0].field, "a");
    world_close(w);
}

static void test_a_beginning_can_be_corrected(void **state)
{
    struct world *w = world_open();
    const char *told;

    (void)state;
    assert_int_equal(run(w, "rewrite", LONG_MS, &told), OK);
    assert_string_equal(w->out[3].data, "HEADbody");
    world_close(w);
}

static void test_hostile_words_end_the_call(void **state)
{
    static const char *const words[] = {"far-read",  "far-write", "long-write", "bad-json",
                                        "no-output", "segv",      "spam"};
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(words); i++) {
        struct world *w = world_open();
        const char *told;

        assert_int_equal(run(w, words[i], LONG_MS, &told), ERR_INTERNAL);
        assert_non_null(w->sc.cause);
        assert_null(w->sc.detail);
        world_close(w);
    }
}

static void test_shared_memory_cannot_be_shrunk_under_us(void **state)
{
    struct world *w = world_open();
    const char *told = NULL;

    (void)state;
    assert_int_equal(run(w, "shrink", LONG_MS, &told), OK);
    assert_string_equal(told, "{\"shrunk\":false}");
    world_close(w);
}

static void test_a_fault_is_told_in_our_words(void **state)
{
    struct world *w = world_open();
    const char *told;

    (void)state;
    assert_int_equal(run(w, "rate", LONG_MS, &told), ERR_MEDIA_INVALID);
    assert_int_equal(w->sc.n_violations, 1);
    assert_string_equal(w->sc.violations[0].field, "file");
    assert_string_equal(w->sc.violations[0].code, "sample_rate");
    assert_string_equal(w->sc.violations[0].detail,
                        "The sample rate of 7 Hz is not supported: 1000 to 768000 Hz are.");
    world_close(w);
    w = world_open();
    assert_int_equal(run(w, "param", LONG_MS, &told), ERR_VALIDATION_FAILED);
    assert_string_equal(w->sc.violations[0].field, "zoom");
    world_close(w);
}

static void test_silence_is_bounded_and_watched(void **state)
{
    struct world *w = world_open();
    int64_t before = clock_mono_ms();
    const char *told;

    (void)state;
    assert_int_equal(run(w, "silent", SHORT_MS, &told), ERR_TIMED_OUT);
    assert_in_range(clock_mono_ms() - before, SHORT_MS, SHORT_MS + 2000);
    assert_in_range(w->asked, 3, SHORT_MS / 20 + 1); /* every 20 ms at most */
    world_close(w);
}

static void test_the_watch_ends_it(void **state)
{
    struct world *w = world_open();
    int64_t before = clock_mono_ms();
    const char *told;

    (void)state;
    w->stop_at_ms = before + 100;
    assert_int_equal(run(w, "silent", LONG_MS, &told), ERR_CONFLICT);
    assert_in_range(clock_mono_ms() - before, 100, 2000);
    world_close(w);
}

static void test_errors_of_source_and_sink_come_back(void **state)
{
    struct world *w = world_open();
    const char *told;

    (void)state;
    w->read_error = ERR_PRECONDITION_FAILED;
    assert_int_equal(run(w, "copy", LONG_MS, &told), ERR_PRECONDITION_FAILED);
    world_close(w);
    w = world_open();
    w->write_error = ERR_DEPENDENCY_UNAVAILABLE;
    assert_int_equal(run(w, "copy", LONG_MS, &told), ERR_DEPENDENCY_UNAVAILABLE);
    world_close(w);
}

static void test_nothing_is_started_for_an_empty_file(void **state)
{
    struct world *w = world_open();
    struct media_probe probe;

    (void)state;
    w->sources[0].size = 0;
    assert_int_equal(media_probe(&w->sc, &w->sources[0], &probe), ERR_MEDIA_INVALID);
    assert_string_equal(w->sc.violations[0].code, "empty");
    world_close(w);
}

static void test_a_probe_is_read_and_may_have_no_depth(void **state)
{
    struct world *w = world_open();
    struct media_probe probe;

    (void)state;
    assert_int_equal(media_probe(&w->sc, &w->sources[0], &probe), OK);
    assert_string_equal(probe.container, "wav");
    assert_int_equal(probe.sample_rate, 8000);
    assert_true(probe.bit_depth == ABSENT_I64);
    world_close(w);
}

static int count_descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(d) != NULL) {
        n++;
    }
    (void)closedir(d);
    return n;
}

static void test_no_descriptor_stays_behind(void **state)
{
    int before = count_descriptors(), i;
    const char *told;

    (void)state;
    for (i = 0; i < 5; i++) {
        struct world *w = world_open();

        (void)!run(w, i % 2 == 0 ? "segv" : "rewrite", LONG_MS, &told);
        world_close(w);
    }
    assert_int_equal(count_descriptors(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_source_arrives_whole_and_at_any_place),
        cmocka_unit_test(test_a_result_gets_size_and_hash_of_the_outputs_it_names),
        cmocka_unit_test(test_parameters_arrive_as_lines),
        cmocka_unit_test(test_a_parameter_cannot_smuggle_in_another_line),
        cmocka_unit_test(test_a_beginning_can_be_corrected),
        cmocka_unit_test(test_hostile_words_end_the_call),
        cmocka_unit_test(test_shared_memory_cannot_be_shrunk_under_us),
        cmocka_unit_test(test_a_fault_is_told_in_our_words),
        cmocka_unit_test(test_silence_is_bounded_and_watched),
        cmocka_unit_test(test_the_watch_ends_it),
        cmocka_unit_test(test_errors_of_source_and_sink_come_back),
        cmocka_unit_test(test_nothing_is_started_for_an_empty_file),
        cmocka_unit_test(test_a_probe_is_read_and_may_have_no_depth),
        cmocka_unit_test(test_no_descriptor_stays_behind),
    };
    struct stat st;
    size_t i;

    if (getenv("PATH") == NULL && fstat(MEDIA_FD_SOCKET, &st) == 0 && S_ISSOCK(st.st_mode)) {
        play();
    }
    for (i = 0; i < SOURCE_BYTES; i++) {
        source_bytes[i] = (unsigned char)(i * 2654435761u >> 13);
    }
    crypto_open();
    (void)setenv("MEDIA_PROGRAM", "/proc/self/exe", 1);
    if (!config_load(stderr)) {
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
