/* One loop per child: take a message, judge it, do it; between messages read ahead; twenty times a
 * second ask the watch. The child is taken for an attacker: every number is checked, shared memory
 * is copied before it is looked at, texts for clients come from media.def. */
#include "lib/media.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/json.h"
#include "lib/media_child.h"
#include "lib/media_proto.h"
#include "lib/str.h"

enum {
    WATCH_MS = 20, /* the rest of what media_watch is promised is for the machine */
    IN_BLOCK_COLD =
        256 << 10,  /* a jump: headers and tags are small, so do not fetch a whole block */
    CPU_SLACK_S = 2 /* RLIMIT_CPU is the second line behind the time limit */
};

struct in_slot {
    int64_t offset, len;
    uint64_t used; /* of the run's tick, for least recently used */
};

struct in_state {
    struct in_slot slots[MEDIA_IN_SLOTS];
    int current;      /* the child may still read from this one; -1 none */
    int64_t expected; /* where the child goes on if it reads in order */
    int64_t ahead;    /* to be read ahead, -1 nothing */
};

struct out_state {
    bool finished;
    struct media_output made;
    int64_t size;
};

struct run {
    struct scope *sc;
    struct media_child *child;
    const struct media_source *sources;
    size_t n_sources;
    size_t in_block;
    struct in_state *in;
    uint64_t tick;
    const struct media_sink *sink;
    struct out_state out[MEDIA_OUTPUTS_MAX];
    int64_t written, written_max;
    const struct media_watch *watch;
    int percent;
    int64_t watched_ms, deadline_ms;
    bool closed;  /* the child closed its end */
    bool crashed; /* set once it has ended */
    const char *result;
    union {
        struct media_msg msg;
        char bytes[MEDIA_MESSAGE_MAX];
    } in_msg;
    size_t in_len;
};

struct fault_row {
    const char *code, *text;
};

static const struct fault_row faults[] = {
#define FAULT(name, code_word, text_format) \
    [MEDIA_FAULT_##name] = {.code = (code_word), .text = (text_format)},
#include "lib/media.def"
#undef FAULT
};

/* field: what the file is called where the job was asked for. */
static enum err refuse(struct scope *sc, const char *field, uint32_t fault, int64_t value)
{
    const struct fault_row *row = &faults[fault];
    const char *text = arena_printf(sc->arena, row->text, (long long)value);

    (void)scope_violation(sc, field, row->code, "%s", text);
    return scope_refuse(sc, ERR_MEDIA_INVALID, "%s", text);
}

/* One source is the file, several are the tracks of a mix. */
static const char *source_field(const struct run *run, int64_t source)
{
    return run->n_sources == 1 || source < 0 || source >= (int64_t)run->n_sources
               ? "file"
               : arena_printf(run->sc->arena, "tracks[%d].fileId", (int)source);
}

static enum err broken(struct run *run, const char *what)
{
    return scope_fail(run->sc, ERR_INTERNAL, "media: the child broke the protocol: %s", what);
}

/* ---- parameters: JSON for callers, lines for the child, which needs no JSON parser ---- */

struct flat {
    struct strbuf lines;
    const char *prefix;
    enum err e;
    struct scope *sc;
};

static enum err flatten(struct scope *sc, struct strbuf *lines, const char *name,
                        const struct json *value);

static bool flatten_member(void *context, const char *name, const struct json *value)
{
    struct flat *f = context;

    f->e = flatten(f->sc, &f->lines, arena_printf(f->sc->arena, "%s%s", f->prefix, name), value);
    return f->e == OK;
}

static enum err flatten_object(struct scope *sc, struct strbuf *lines, const char *prefix,
                               const struct json *object)
{
    struct flat f = {.lines = *lines, .prefix = prefix, .e = OK, .sc = sc};

    json_each(object, flatten_member, &f);
    *lines = f.lines;
    return f.e;
}

static bool is_line(const char *text, size_t len)
{
    size_t i;

    for (i = 0; i < len; i++) {
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f) {
            return false;
        }
    }
    return true;
}

static enum err flatten(struct scope *sc, struct strbuf *lines, const char *name,
                        const struct json *value)
{
    size_t i, len = 0;
    const char *text;

    switch (json_kind(value)) {
    case JSON_NULL:
        return OK;
    case JSON_OBJECT:
        return flatten_object(sc, lines, arena_printf(sc->arena, "%s.", name), value);
    case JSON_ARRAY:
        for (i = 0; i < json_length(value); i++) {
            TRY(flatten(sc, lines, arena_printf(sc->arena, "%s.%zu", name, i),
                        json_item(value, i)));
        }
        return OK;
    case JSON_STRING:
        text = json_str(value, &len);
        if (!is_line(text, len)) {
            return scope_violation(sc, arena_strdup(sc->arena, name), "format",
                                   "Control characters are not allowed.");
        }
        strbuf_printf(lines, "%s=%s\n", name, text);
        return OK;
    default:
        strbuf_printf(lines, "%s=", name);
        json_write(lines, value);
        strbuf_putc(lines, '\n');
        return OK;
    }
}

/* ---- messages ---- */

static enum err send_message(struct run *run, const struct media_msg *msg, const void *payload,
                             size_t payload_len)
{
    struct iovec parts[] = {
        {.iov_base = (void *)(uintptr_t)msg, .iov_len = sizeof(*msg)},
        {.iov_base = (void *)(uintptr_t)payload, .iov_len = payload_len},
    };
    struct msghdr header = {.msg_iov = parts, .msg_iovlen = payload_len > 0 ? 2 : 1};

    if (sendmsg(media_child_socket(run->child), &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        if (errno == EPIPE || errno == ECONNRESET) {
            run->closed = true; /* it has ended; whatever it said before is still read */
            return OK;
        }
        return broken(run, "it does not take messages");
    }
    return OK;
}

/* *got_out false: nothing there now, or the end (run->closed). */
static enum err receive_message(struct run *run, bool *got_out)
{
    ssize_t got = recv(media_child_socket(run->child), run->in_msg.bytes, sizeof(run->in_msg.bytes),
                       MSG_DONTWAIT | MSG_TRUNC);

    *got_out = false;
    if (got < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNRESET)) {
        return OK; /* ECONNRESET comes once, before the last words of a child that has ended */
    }
    if (got <= 0) {
        run->closed = true;
        return OK;
    }
    if ((size_t)got < sizeof(struct media_msg) || (size_t)got > sizeof(run->in_msg.bytes)) {
        return broken(run, "a message of wrong size");
    }
    run->in_len = (size_t)got - sizeof(struct media_msg);
    *got_out = true;
    return OK;
}

static enum err send_start(struct run *run, const char *operation, const struct strbuf *params,
                           size_t memory_bytes, int64_t timeout_ms)
{
    const struct config *cf = config();
    struct media_msg msg = {.type = MEDIA_START};
    struct media_start *start;
    size_t i, len = sizeof(*start) + params->len;

    if (params->len > MEDIA_PARAMS_MAX || strlen(operation) >= sizeof(start->operation)) {
        return scope_violation(run->sc, "", "length", "The parameters are too long.");
    }
    start = arena_alloc(run->sc->arena, len);
    *start = (struct media_start){
        .n_sources = (uint32_t)run->n_sources,
        .in_block = (uint32_t)run->in_block,
        .params_len = (uint32_t)params->len,
        .cpu_s = (uint32_t)(timeout_ms / 1000 + CPU_SLACK_S),
        .memory_bytes = (int64_t)memory_bytes,
        .address_bytes = cf->media_memory_mib << 20,
        .duration_max_s = cf->media_duration_max_s,
    };
    memcpy(start->operation, operation, strlen(operation));
    for (i = 0; i < run->n_sources; i++) {
        start->sizes[i] = run->sources[i].size;
    }
    memcpy(start + 1, params->data, params->len);
    return send_message(run, &msg, start, len);
}

/* ---- input ---- */

static unsigned char *slot_memory(const struct run *run, size_t source, int slot)
{
    return media_child_memory(run->child) +
           (source * MEDIA_IN_SLOTS + (size_t)slot) * run->in_block;
}

static int find_slot(const struct in_state *in, int64_t offset)
{
    int i;

    for (i = 0; i < MEDIA_IN_SLOTS; i++) {
        const struct in_slot *s = &in->slots[i];

        if (offset >= s->offset && offset < s->offset + s->len) {
            return i;
        }
    }
    return -1;
}

/* Fill the least recently used slot but the current one from offset. */
static enum err fetch(struct run *run, size_t source, int64_t offset, size_t want, int *slot_out)
{
    const struct media_source *from = &run->sources[source];
    struct in_state *in = &run->in[source];
    size_t got, have = 0;
    int i, slot = -1;

    for (i = 0; i < MEDIA_IN_SLOTS; i++) {
        if (i != in->current && (slot < 0 || in->slots[i].used < in->slots[slot].used)) {
            slot = i;
        }
    }
    if ((int64_t)want > from->size - offset) {
        want = (size_t)(from->size - offset);
    }
    in->slots[slot] = (struct in_slot){.offset = offset, .used = ++run->tick};
    while (have < want) {
        TRY(from->read(from->context, run->sc, offset + (int64_t)have, want - have,
                       slot_memory(run, source, slot) + have, &got));
        if (got == 0) {
            break;
        }
        have += got < want - have ? got : want - have;
    }
    in->slots[slot].len = (int64_t)have;
    *slot_out = slot;
    return OK;
}

static enum err on_read(struct run *run)
{
    size_t source = run->in_msg.msg.index;
    int64_t offset = run->in_msg.msg.offset;
    struct media_msg reply = {.type = MEDIA_DATA};
    struct in_state *in;
    int slot;

    if (source >= run->n_sources || offset < 0) {
        return broken(run, "a read of what is not there");
    }
    in = &run->in[source];
    if (offset < run->sources[source].size) {
        slot = find_slot(in, offset);
        if (slot < 0) {
            bool in_order = offset == in->expected && offset > 0;

            TRY(fetch(run, source, offset,
                      in_order || run->in_block < IN_BLOCK_COLD ? run->in_block : IN_BLOCK_COLD,
                      &slot));
        }
        reply.len = in->slots[slot].offset + in->slots[slot].len - offset;
        reply.position = slot_memory(run, source, slot) - media_child_memory(run->child) +
                         (offset - in->slots[slot].offset);
        in->slots[slot].used = ++run->tick;
        in->current = slot;
        in->ahead = offset == in->expected ? offset + reply.len : -1;
        in->expected = offset + reply.len;
    }
    return send_message(run, &reply, NULL, 0);
}

/* Read one block ahead for one source, if there is any that reads in order. */
static enum err read_ahead(struct run *run, bool *did_out)
{
    size_t i;
    int slot;

    *did_out = false;
    for (i = 0; i < run->n_sources; i++) {
        struct in_state *in = &run->in[i];
        int64_t offset = in->ahead;

        in->ahead = -1;
        if (offset > 0 && offset < run->sources[i].size && find_slot(in, offset) < 0) {
            *did_out = true;
            return fetch(run, i, offset, run->in_block, &slot);
        }
    }
    return OK;
}

/* ---- output ---- */

/* Where len bytes of a slot lie: in memory that the child has as well. */
static enum err open_slot(struct run *run, struct out_state **out, const void **data_out)
{
    const struct media_msg *m = &run->in_msg.msg;
    size_t base = run->n_sources * MEDIA_IN_SLOTS * run->in_block;

    if (run->sink == NULL || m->index >= MEDIA_OUTPUTS_MAX || m->position < 0 ||
        m->position >= MEDIA_OUT_SLOTS || m->len <= 0 || m->len > MEDIA_OUT_BLOCK) {
        return broken(run, "a write out of bounds");
    }
    *out = &run->out[m->index];
    if ((*out)->finished) {
        return broken(run, "a write behind the end");
    }
    if (m->len > run->written_max - run->written) {
        return refuse(run->sc, "file", MEDIA_FAULT_RESULT_SIZE, 0);
    }
    run->written += m->len;
    *data_out = media_child_memory(run->child) + base + (size_t)m->position * MEDIA_OUT_BLOCK;
    return OK;
}

static enum err give_slot(struct run *run)
{
    const struct media_msg ack = {.type = MEDIA_ACK};

    return send_message(run, &ack, NULL, 0);
}

static enum err on_write(struct run *run)
{
    const struct media_msg *m = &run->in_msg.msg;
    struct out_state *out;
    const void *data;

    TRY(open_slot(run, &out, &data));
    TRY(run->sink->write(run->sink->context, run->sc, (int)m->index, data, (size_t)m->len));
    out->size += m->len;
    return give_slot(run);
}

static enum err on_rewrite(struct run *run)
{
    const struct media_msg *m = &run->in_msg.msg;
    struct out_state *out;
    const void *data;

    TRY(open_slot(run, &out, &data));
    if (m->offset < 0 || m->offset > MEDIA_REWRITABLE - m->len || m->offset > out->size - m->len) {
        return broken(run, "a correction out of bounds");
    }
    TRY(run->sink->rewrite(run->sink->context, run->sc, (int)m->index, m->offset, data,
                           (size_t)m->len));
    return give_slot(run);
}

static enum err on_finish(struct run *run)
{
    const struct media_msg *m = &run->in_msg.msg;
    struct out_state *out;

    if (run->sink == NULL || m->index >= MEDIA_OUTPUTS_MAX || run->out[m->index].finished) {
        return broken(run, "an output finished twice");
    }
    out = &run->out[m->index];
    out->finished = true;
    return run->sink->finish(run->sink->context, run->sc, (int)m->index, &out->made);
}

/* ---- the end ---- */

struct rewriting {
    struct run *run;
    struct strbuf json;
    bool first;
    enum err e;
};

static enum err write_result(struct run *run, struct strbuf *json, const struct json *value);

static bool write_member(void *context, const char *name, const struct json *value)
{
    struct rewriting *w = context;

    strbuf_puts(&w->json, w->first ? "" : ",");
    w->first = false;
    strbuf_json(&w->json, name);
    strbuf_putc(&w->json, ':');
    w->e = write_result(w->run, &w->json, value);
    return w->e == OK;
}

static enum err write_object(struct run *run, struct strbuf *json, const struct json *object)
{
    struct rewriting w = {.run = run, .json = *json, .first = true, .e = OK};
    int64_t n;

    strbuf_putc(&w.json, '{');
    json_each(object, write_member, &w);
    if (w.e == OK && json_i64(json_get(object, "output"), &n)) {
        if (n < 0 || n >= MEDIA_OUTPUTS_MAX || !run->out[n].finished) {
            return broken(run, "a result that names an output which is not there");
        }
        strbuf_printf(&w.json, ",\"size\":%lld,\"sha256\":\"%s\"", (long long)run->out[n].made.size,
                      run->out[n].made.sha256);
    }
    strbuf_putc(&w.json, '}');
    *json = w.json;
    return w.e;
}

/* Copy the child's result and add to each object that names an output what the sink says of it. */
static enum err write_result(struct run *run, struct strbuf *json, const struct json *value)
{
    size_t i;

    if (json_kind(value) == JSON_OBJECT) {
        return write_object(run, json, value);
    }
    if (json_kind(value) != JSON_ARRAY) {
        json_write(json, value);
        return OK;
    }
    strbuf_putc(json, '[');
    for (i = 0; i < json_length(value); i++) {
        strbuf_puts(json, i > 0 ? "," : "");
        TRY(write_result(run, json, json_item(value, i)));
    }
    strbuf_putc(json, ']');
    return OK;
}

static enum err on_result(struct run *run)
{
    const char *text = run->in_msg.bytes + sizeof(struct media_msg);
    const struct json *value;
    struct strbuf json;
    size_t i;

    if (run->in_len > MEDIA_RESULT_MAX || json_parse(run->sc, text, run->in_len, &value) != OK ||
        json_kind(value) != JSON_OBJECT) {
        scope_forgive(run->sc);
        return broken(run, "a result that is no JSON object");
    }
    for (i = 0; i < MEDIA_OUTPUTS_MAX; i++) {
        if (run->out[i].size > 0 && !run->out[i].finished) {
            return broken(run, "an output without an end");
        }
    }
    strbuf_init(&json, run->sc->arena, run->in_len + 1024);
    TRY(write_result(run, &json, value));
    run->result = json.data;
    return OK;
}

static enum err on_fail(struct run *run)
{
    const struct media_msg *m = &run->in_msg.msg;
    const char *text = run->in_msg.bytes + sizeof(struct media_msg);

    if (m->index > MEDIA_OK && m->index < MEDIA_FAULT_PARAM) {
        return refuse(run->sc, source_field(run, m->position), m->index, m->offset);
    }
    if (m->index == MEDIA_FAULT_PARAM && run->in_len < 64 && utf8_valid(text, run->in_len) &&
        is_line(text, run->in_len)) {
        return scope_violation(run->sc, arena_strndup(run->sc->arena, text, run->in_len), "value",
                               "This value does not fit the others or the file.");
    }
    return scope_fail(run->sc, ERR_INTERNAL, "media: the child gave up: fault %u, %lld", m->index,
                      (long long)m->offset);
}

static enum err on_message(struct run *run)
{
    const struct media_msg *m = &run->in_msg.msg;

    switch (m->type) {
    case MEDIA_READ:
        return on_read(run);
    case MEDIA_WRITE:
        return on_write(run);
    case MEDIA_REWRITE:
        return on_rewrite(run);
    case MEDIA_FINISH:
        return on_finish(run);
    case MEDIA_PROGRESS:
        if (m->len > run->percent && m->len <= 99) {
            run->percent = (int)m->len;
        }
        return OK;
    case MEDIA_RESULT:
        return on_result(run);
    case MEDIA_FAIL:
        return on_fail(run);
    default:
        return broken(run, "an unknown message");
    }
}

static enum err watch(struct run *run)
{
    int64_t now = clock_mono_ms();

    if (now >= run->deadline_ms) {
        return scope_fail(run->sc, ERR_TIMED_OUT, "media: the child ran out of time");
    }
    if (run->watch != NULL && now - run->watched_ms >= WATCH_MS) {
        run->watched_ms = now;
        if (!run->watch->progress(run->watch->context, run->percent)) {
            return scope_fail(run->sc, ERR_CONFLICT, "media: cancelled");
        }
    }
    return OK;
}

/* The socket is closed and no result came: what ended it? */
static enum err on_end(struct run *run)
{
    int signal_number;

    run->crashed = media_child_end(run->child, false, &signal_number) == MEDIA_CHILD_CRASHED;
    return scope_fail(run->sc, ERR_INTERNAL, "media: the child ended by itself, signal %d",
                      signal_number);
}

static enum err loop(struct run *run)
{
    while (run->result == NULL) {
        bool busy;

        TRY(watch(run));
        TRY(receive_message(run, &busy));
        if (busy) {
            TRY(on_message(run));
            continue;
        }
        if (run->closed) {
            return on_end(run);
        }
        TRY(read_ahead(run, &busy));
        if (!busy) {
            struct pollfd pfd = {.fd = media_child_socket(run->child), .events = POLLIN};

            (void)poll(&pfd, 1, WATCH_MS);
        }
    }
    return OK;
}

static enum err start(struct run *run, const char *operation, const char *params_json,
                      int64_t timeout_ms)
{
    size_t i, memory_bytes;
    const struct json *params;
    struct strbuf lines;

    for (i = 0; i < run->n_sources; i++) {
        if (run->sources[i].size == 0) {
            return refuse(run->sc, source_field(run, (int64_t)i), MEDIA_FAULT_EMPTY, 0);
        }
        run->in[i] = (struct in_state){.current = -1, .ahead = -1};
    }
    TRY(json_parse(run->sc, params_json, strlen(params_json), &params));
    strbuf_init(&lines, run->sc->arena, 256);
    TRY(flatten_object(run->sc, &lines, "", params));
    memory_bytes =
        run->n_sources * MEDIA_IN_SLOTS * run->in_block + (size_t)MEDIA_OUT_SLOTS * MEDIA_OUT_BLOCK;
    TRY(media_child_start(run->sc, memory_bytes, &run->child));
    return send_start(run, operation, &lines, memory_bytes, timeout_ms);
}

/* A power of two, so that blocks of all sources stay within MEDIA_IN_BYTES. */
static size_t in_block(size_t n_sources)
{
    size_t block = MEDIA_IN_BLOCK;

    while (block * n_sources * MEDIA_IN_SLOTS > MEDIA_IN_BYTES) {
        block /= 2;
    }
    return block;
}

static enum err run_child(struct run *run, const char *operation, const char *params_json,
                          int64_t timeout_ms)
{
    struct arena *arena = run->sc->arena;
    int signal_number;
    enum err e;

    if (run->n_sources == 0 || run->n_sources > MEDIA_SOURCES_MAX) {
        return scope_fail(run->sc, ERR_INTERNAL, "media: %zu sources", run->n_sources);
    }
    timeout_ms = scope_left_ms(run->sc, timeout_ms);
    run->deadline_ms = clock_mono_ms() + timeout_ms;
    run->watched_ms = clock_mono_ms();
    run->in_block = in_block(run->n_sources);
    run->in = arena_array(arena, struct in_state, run->n_sources);
    run->written_max = config()->media_output_max_bytes;
    e = start(run, operation, params_json, timeout_ms);
    if (e == OK) {
        e = loop(run);
    }
    if (run->child != NULL) {
        (void)media_child_end(run->child, true, &signal_number);
    }
    return e;
}

enum err media_run(struct scope *sc, const char *operation, const char *params_json,
                   const struct media_source *sources, size_t n_sources,
                   const struct media_sink *sink, const struct media_watch *watch_by,
                   int64_t timeout_ms, const char **result_out)
{
    struct run *run = arena_new(sc->arena, struct run);

    run->sc = sc;
    run->sources = sources;
    run->n_sources = n_sources;
    run->sink = sink;
    run->watch = watch_by;
    TRY(run_child(run, operation, params_json, timeout_ms));
    *result_out = run->result;
    return OK;
}

/* ---- probe ---- */

static bool is_word(const char *text)
{
    size_t len = text == NULL ? 0 : strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_");

    return len > 0 && len <= 32 && text[len] == '\0';
}

static bool number(const struct json *object, const char *name, int64_t least, int64_t most,
                   int64_t *out)
{
    return json_i64(json_get(object, name), out) && *out >= least && *out <= most;
}

static enum err read_probe(struct run *run, struct media_probe *out)
{
    struct scope *sc = run->sc;
    const struct json *r;

    TRY(json_parse(sc, run->result, strlen(run->result), &r));
    out->container = json_str(json_get(r, "container"), NULL);
    out->codec = json_str(json_get(r, "codec"), NULL);
    out->bit_depth = ABSENT_I64;
    if (!is_word(out->container) || !is_word(out->codec) ||
        !number(r, "durationMs", 0, INT64_MAX / 1000, &out->duration_ms) ||
        !number(r, "sampleRate", 1, INT32_MAX, &out->sample_rate) ||
        !number(r, "channels", 1, 64, &out->channels) ||
        !number(r, "bitRate", 0, INT64_MAX, &out->bit_rate) ||
        (json_has(r, "bitDepth") && json_get(r, "bitDepth") != NULL &&
         !number(r, "bitDepth", 1, 64, &out->bit_depth))) {
        return broken(run, "a probe out of range");
    }
    return OK;
}

enum err media_probe(struct scope *sc, const struct media_source *source,
                     struct media_probe *probe_out)
{
    struct run *run = arena_new(sc->arena, struct run);
    enum err e;

    run->sc = sc;
    run->sources = source;
    run->n_sources = 1;
    e = run_child(run, "probe", "{}", config()->media_probe_timeout_ms);
    if (e == ERR_INTERNAL && run->crashed) {
        return refuse(sc, "file", MEDIA_FAULT_CORRUPT, 0);
    }
    TRY(e);
    return read_probe(run, probe_out);
}
