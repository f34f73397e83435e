/* Redis Streams. One script publishes a batch: it looks whether a newer leader has been there, and
 * whether the stream still ends where we left it (a Redis that was restored or a replica that was
 * promoted may have lost its tail), before it appends anything. So no new event gets ahead of a
 * lost one. */
#include "lib/bus.h"

#include <string.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/redis.h"
#include "lib/str.h"

enum {
    PARTITIONS_MAX = 256, /* of config.def */
    MARK_SIZE = 48,       /* <milliseconds>-<number> */
    ENVELOPE_BYTES = 512,
    FENCE_TTL_MS = 60000 /* a leader number that Redis has lost holds nobody up for longer */
};

/* KEYS stream, fence; ARGV fence, fence_ttl_ms, max_length, mark, (id, event)…
 * Reply: {fate, mark}. */
static struct redis_script publish_script = {
    .name = "bus_publish",
    .source =
        "if tonumber(redis.call('GET', KEYS[2]) or 0) > tonumber(ARGV[1]) then\n"
        "return {'fenced', ''}\n"
        "end\n"
        "if ARGV[4] ~= '' then\n"
        "if redis.call('EXISTS', KEYS[1]) == 0 then return {'lost_all', ''} end\n"
        "local info, last = redis.call('XINFO', 'STREAM', KEYS[1]), '0-0'\n"
        "for i = 1, #info, 2 do\n"
        "if info[i] == 'last-generated-id' then last = info[i + 1] end\n"
        "end\n"
        "local ms, n = last:match('(%d+)-(%d+)')\n"
        "local old_ms, old_n = ARGV[4]:match('(%d+)-(%d+)')\n"
        "ms, n, old_ms, old_n = tonumber(ms), tonumber(n), tonumber(old_ms), tonumber(old_n)\n"
        "if ms < old_ms or (ms == old_ms and n < old_n) then return {'lost_tail', ''} end\n"
        "end\n"
        "redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])\n"
        "local mark = ARGV[4]\n"
        "for i = 5, #ARGV, 2 do\n"
        "mark = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'id', ARGV[i],\n"
        "'event', ARGV[i + 1])\n"
        "end\n"
        "return {'taken', mark}\n"};

/* Where each stream ended when we left it; "": not known. One thread: no locks. */
static char marks[PARTITIONS_MAX][MARK_SIZE];

bool bus_may_start(FILE *faults)
{
    if (strcmp(config()->event_bus, "redis") == 0) {
        return true;
    }
    fprintf(faults, "EVENT_BUS is \"%s\": this version publishes to redis only.\n",
            config()->event_bus);
    return false;
}

int bus_partitions(void)
{
    return (int)config()->event_partitions;
}

int bus_partition(struct id user)
{
    return (int)(id_place(user).hash % (uint32_t)config()->event_partitions);
}

/* The event as CloudEvents 1.0 has it (JSON event format; extensions sequence and distributed
 * tracing). */
static struct strbuf envelope(struct scope *sc, const struct bus_event *event)
{
    char at[CLOCK_TEXT_SIZE];
    struct strbuf json;

    clock_format(event->at_ms, at);
    strbuf_init(&json, sc->arena, ENVELOPE_BYTES);
    strbuf_printf(&json,
                  "{\"specversion\":\"1.0\",\"id\":\"%s\",\"source\":\"/maxbooster\",\"type\":",
                  id_text(sc->arena, event->id));
    strbuf_json(&json, event->type);
    strbuf_printf(
        &json, ",\"dataversion\":\"%lld\",\"subject\":\"%s\",\"sequence\":\"%lld\",\"time\":\"%s\"",
        (long long)event->version, id_text(sc->arena, event->user), (long long)event->seq, at);
    if (event->traceparent != NULL) {
        strbuf_puts(&json, ",\"traceparent\":");
        strbuf_json(&json, event->traceparent);
    }
    strbuf_puts(&json, ",\"datacontenttype\":\"application/json\",\"data\":");
    strbuf_puts(&json, event->data);
    strbuf_putc(&json, '}');
    return json;
}

const char *bus_judge(struct scope *sc, const struct bus_event *event)
{
    size_t len = strlen(event->data);

    return len + ENVELOPE_BYTES <= BUS_EVENT_BYTES_MAX
               ? NULL
               : arena_printf(sc->arena, "its data have %zu bytes; the bus takes %d", len,
                              BUS_EVENT_BYTES_MAX - ENVELOPE_BYTES);
}

static enum err read_reply(struct scope *sc, int partition, const struct redis_reply *reply,
                           enum bus_fate *fate_out)
{
    static const char *const words[] = {[BUS_TAKEN] = "taken",
                                        [BUS_FENCED] = "fenced",
                                        [BUS_LOST_TAIL] = "lost_tail",
                                        [BUS_LOST_ALL] = "lost_all"};
    size_t i;

    for (i = 0; reply->kind == REDIS_LIST && reply->n_items == 2 && i < ARRAY_LEN(words); i++) {
        if (reply->items[0].text != NULL && strcmp(reply->items[0].text, words[i]) == 0) {
            *fate_out = (enum bus_fate)i;
            if (i == BUS_TAKEN) {
                snprintf(marks[partition], MARK_SIZE, "%s", reply->items[1].text);
            }
            return OK;
        }
    }
    return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "odd reply of the event bus");
}

enum err bus_publish(struct scope *sc, int partition, int64_t fence, const struct bus_event *events,
                     size_t n, enum bus_fate *fate_out)
{
    const char *stream = arena_printf(sc->arena, "events:{events:%d}", partition);
    struct redis_args keys = {0}, args = {0};
    struct redis_reply reply;
    size_t i;

    redis_arg(&keys, stream);
    redis_arg(&keys, arena_printf(sc->arena, "%s:fence", stream));
    redis_arg_i64(sc, &args, fence);
    redis_arg_i64(sc, &args, FENCE_TTL_MS);
    redis_arg_i64(sc, &args, config()->event_stream_max);
    redis_arg(&args, marks[partition]);
    for (i = 0; i < n; i++) {
        struct strbuf json = envelope(sc, &events[i]);

        redis_arg(&args, id_text(sc->arena, events[i].id));
        redis_arg_bytes(&args, json.data, json.len);
    }
    TRY(redis_eval(sc, &publish_script, &keys, &args, &reply));
    return read_reply(sc, partition, &reply, fate_out);
}

void bus_forget(void)
{
    memset(marks, 0, sizeof(marks));
}
