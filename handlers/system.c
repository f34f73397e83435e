/* Liveness, readiness, configuration and metrics. */
#include <pthread.h>
#include <string.h>

#include "fcgi/req.h"
#include "handlers.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/metrics.h"
#include "lib/pg.h"
#include "lib/queue.h"
#include "lib/redis.h"
#include "lib/s3.h"
#include "lib/version.h"

enum {
    CHECK_LIMIT_MS = 1000,
    STATUS_FRESH_MS = 250,
    STATUS_TEXT_MAX = 1024,
    METRICS_PAGE_BYTES = 1048576
};

enum err h_system_health(struct req *r)
{
    struct strbuf json = req_json(r);

    strbuf_puts(&json, "{\"status\":\"ok\"}");
    return req_reply_json(r, 200, &json);
}

/* A dependency's check: OK, with the time it took. */
struct check {
    const char *name;
    enum err (*ask)(struct scope *sc, int64_t *latency_us_out);
};

/* All databases must answer; the slowest one's time is told. */
static enum err ask_database(struct scope *sc, int64_t *latency_us_out)
{
    int database;

    *latency_us_out = 0;
    for (database = 0; database < pg_database_count(); database++) {
        int64_t start_us = clock_mono_us(), latency_ms;
        int64_t took_us;

        TRY(pg_ping(sc, database, &latency_ms));
        took_us = clock_mono_us() - start_us;
        *latency_us_out = took_us > *latency_us_out ? took_us : *latency_us_out;
    }
    return OK;
}

static enum err ask_redis(struct scope *sc, int64_t *latency_us_out)
{
    int64_t start_us = clock_mono_us();
    struct redis_reply reply;

    TRY(redis_do(sc, "", &reply, "PING", NULL));
    *latency_us_out = clock_mono_us() - start_us;
    return OK;
}

static enum err ask_storage(struct scope *sc, int64_t *latency_us_out)
{
    int64_t start_us = clock_mono_us(), latency_ms;

    TRY(s3_ping(sc, CHECK_LIMIT_MS, &latency_ms));
    *latency_us_out = clock_mono_us() - start_us;
    return OK;
}

static enum err ask_queue(struct scope *sc, int64_t *latency_us_out)
{
    int64_t start_us = clock_mono_us();
    struct queue_stats stats;

    TRY(queue_stats(sc, job_type(JOB_AUDIO_WAVEFORM)->queue, &stats));
    *latency_us_out = clock_mono_us() - start_us;
    return OK;
}

static const struct check checks[] = {
    {"database", ask_database},
    {"redis", ask_redis},
    {"storage", ask_storage},
    {"queue", ask_queue},
};

/* One check in its own time, so that a dependency that hangs does not make the others look down. */
static enum err ask_within(const struct check *check, struct scope *sc, int64_t *latency_us_out)
{
    int64_t deadline_mono_ms = sc->deadline_mono_ms;
    enum err e;

    sc->deadline_mono_ms = clock_mono_ms() + scope_left_ms(sc, CHECK_LIMIT_MS);
    e = check->ask(sc, latency_us_out);
    sc->deadline_mono_ms = deadline_mono_ms;
    return e;
}

/* What the last round of checks of this process found. Readiness is open to everybody: whoever asks
 * more often than STATUS_FRESH_MS gets the last answer, and costs no dependency anything. */
static struct {
    pthread_mutex_t lock;
    int64_t asked_mono_ms;
    bool is_ready;
    char text[STATUS_TEXT_MAX];
} last = {.lock = PTHREAD_MUTEX_INITIALIZER, .asked_mono_ms = INT64_MIN / 2};

static bool recall(struct strbuf *json, bool *is_ready_out)
{
    bool is_fresh;

    pthread_mutex_lock(&last.lock);
    is_fresh = clock_mono_ms() - last.asked_mono_ms < STATUS_FRESH_MS;
    if (is_fresh) {
        strbuf_puts(json, last.text);
        *is_ready_out = last.is_ready;
    }
    pthread_mutex_unlock(&last.lock);
    return is_fresh;
}

static void remember(const struct strbuf *json, bool is_ready)
{
    pthread_mutex_lock(&last.lock);
    if (json->len < sizeof(last.text)) {
        memcpy(last.text, json->data, json->len + 1);
        last.is_ready = is_ready;
        last.asked_mono_ms = clock_mono_ms();
    }
    pthread_mutex_unlock(&last.lock);
}

/* Layers that act in the instance now; the gravest tells the level. */
static void write_degradation(struct strbuf *json)
{
    int worst = 0, level;
    enum layer layer;

    strbuf_puts(json, "\"degradation\":{\"layers\":[");
    for (layer = 0; layer < LAYER__COUNT; layer++) {
        if (metrics_layer_is_active(layer)) {
            strbuf_puts(json, worst > 0 ? ",\"" : "\"");
            strbuf_puts(json, metrics_layer_name(layer, &level));
            strbuf_putc(json, '"');
            worst = level > worst ? level : worst;
        }
    }
    strbuf_printf(json, "],\"level\":%d}}", worst);
}

/* Ask everybody and write down what they say; are all there, and are we to stay? */
static bool check_all(struct req *r, struct strbuf *json)
{
    struct strbuf list = req_json(r);
    bool is_ready;
    int n_down = 0;
    size_t i;

    for (i = 0; i < ARRAY_LEN(checks); i++) {
        int64_t latency_us = 0;
        enum err e = ask_within(&checks[i], req_scope(r), &latency_us);

        n_down += e != OK;
        strbuf_printf(&list, "%s\"%s\":{\"status\":\"%s\",\"latencyMs\":", i > 0 ? "," : "",
                      checks[i].name, e == OK ? "ok" : "down");
        if (e == OK) {
            strbuf_printf(&list, "%.3f}", (double)latency_us / 1000);
        } else {
            strbuf_puts(&list, "null}");
        }
    }
    is_ready = n_down == 0 && !req_is_draining();
    strbuf_printf(json, "{\"status\":\"%s\",\"version\":\"%s\",\"phase\":%d,\"checks\":{%s},",
                  is_ready ? "ok" : "down", VERSION, (int)config()->phase, list.data);
    strbuf_printf(json, "\"configEpoch\":%lld,", (long long)config_epoch());
    write_degradation(json);
    return is_ready;
}

enum err h_system_status(struct req *r)
{
    struct strbuf json = req_json(r);
    bool is_ready;

    if (req_is_draining() || !recall(&json, &is_ready)) {
        is_ready = check_all(r, &json);
        remember(&json, is_ready);
    }
    if (!is_ready) {
        req_reply_header(r, "Retry-After", "1");
    }
    return req_reply_json(r, is_ready ? 200 : 503, &json);
}

enum err h_system_edge(struct req *r)
{
    metrics_layer(LAYER_EDGE);
    return req_reply_empty(r, 204);
}

static void add_item(void *context, const struct config_item *item)
{
    struct strbuf *json = context;

    strbuf_puts(json, json->data[json->len - 1] == '[' ? "{\"name\":" : ",{\"name\":");
    strbuf_json(json, item->name);
    strbuf_puts(json, ",\"value\":");
    strbuf_json(json, item->value);
    strbuf_puts(json, ",\"unit\":");
    strbuf_json(json, item->unit);
    strbuf_printf(json, ",\"reloadable\":%s,\"secret\":%s,\"doc\":",
                  item->is_reloadable ? "true" : "false", item->is_secret ? "true" : "false");
    strbuf_json(json, item->doc);
    strbuf_putc(json, '}');
}

enum err h_system_config(struct req *r)
{
    struct strbuf json = req_json(r);

    strbuf_printf(&json, "{\"epoch\":%lld,\"items\":[", (long long)config_epoch());
    config_each(add_item, &json);
    strbuf_puts(&json, "]}");
    return req_reply_json(r, 200, &json);
}

static void close_page(void *p)
{
    struct arena *page = p;

    arena_close(&page);
}

/* What the scheduler has found; nothing while Redis is away, since the instance's own figures are
 * wanted then most. */
static void add_fleet_metrics(struct req *r, struct strbuf *text)
{
    struct scope *sc = req_scope(r);
    struct redis_args args = {0};
    struct redis_reply reply;
    enum metric_fleet m;

    redis_arg(&args, "HMGET");
    redis_arg(&args, METRICS_FLEET_KEY);
    for (m = 0; m < METRIC_FLEET__COUNT; m++) {
        redis_arg(&args, metrics_fleet_field(m));
    }
    if (redis_call(sc, METRICS_FLEET_KEY, &args, &reply) != OK) {
        scope_forgive(sc);
        return;
    }
    for (m = 0; m < reply.n_items; m++) {
        if (reply.items[m].kind == REDIS_TEXT) {
            metrics_write_fleet(text, m, strtoll(reply.items[m].text, NULL, 10));
        }
    }
}

enum err h_system_metrics(struct req *r)
{
    /* The page grows with the routes, to megabytes: more than a request's arena is made for. */
    struct arena *page = arena_open(METRICS_PAGE_BYTES);
    const char *accept = req_header(r, "ACCEPT");
    struct strbuf text, open;

    arena_defer(req_arena(r), close_page, page);
    strbuf_init(&text, page, METRICS_PAGE_BYTES / 4);
    metrics_write(&text);
    if (accept != NULL && strstr(accept, "application/openmetrics-text") != NULL) {
        strbuf_init(&open, page, text.len + 64);
        metrics_to_openmetrics(&text, &open);
        return req_reply_text(r, 200, "application/openmetrics-text; version=1.0.0; charset=utf-8",
                              &open);
    }
    add_fleet_metrics(r, &text);
    return req_reply_text(r, 200, "text/plain; version=0.0.4; charset=utf-8", &text);
}
