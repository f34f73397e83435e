/* One area per process slot; a sum over the slots is the instance's figure, exact across crashes
 * (instance.h). */
#include "lib/metrics.h"

#include <stdatomic.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/depend.h"
#include "lib/door.h"
#include "lib/instance.h"
#include "lib/pg.h"

enum { CLASSES = 6, BUCKETS = 14, LAYOUT = 3 };

/* Upper bounds: OpenTelemetry's advice for http.server.request.duration, and 1 ms and 2.5 ms before
 * it. */
static const int64_t bounds_us[BUCKETS] = {1000,    2500,    5000,    10000,   25000,
                                           50000,   75000,   100000,  250000,  500000,
                                           1000000, 2500000, 5000000, 10000000};

struct histogram {
    _Atomic uint64_t buckets[BUCKETS + 1]; /* the last is +Inf; not cumulated */
    _Atomic uint64_t sum_us;
};

struct area {
    _Atomic uint64_t counters[METRIC__COUNT];
    _Atomic int64_t gauges[METRIC_GAUGE__COUNT];
    _Atomic int64_t
        layers[LAYER__COUNT]; /* clock_mono_ms() of the last action; one clock a machine */
    struct histogram requests[METRICS_ROUTES_MAX + 1][CLASSES]; /* the last row: no route */
};

static struct metrics_plan plan;
static struct area *mine;

void metrics_open(const struct metrics_plan *wanted)
{
    const struct instance_plan instance = {.path = config()->instance_shm,
                                           .area_bytes = sizeof(struct area),
                                           .area_layout = LAYOUT * 1000003u +
                                                          METRIC__COUNT * 1009u +
                                                          METRIC_GAUGE__COUNT * 31u + LAYER__COUNT};
    int i;

    plan = *wanted;
    instance_open(&instance);
    mine = instance_area();
    for (i = 0; i < METRIC_GAUGE__COUNT; i++) {
        atomic_store(&mine->gauges[i], 0); /* a predecessor's */
    }
    for (i = 0; i < LAYER__COUNT; i++) {
        atomic_store(&mine->layers[i], 0);
    }
}

void metrics_close(void)
{
    mine = NULL;
    instance_close();
}

static void write_head(struct strbuf *out, const char *name, const char *type, const char *help)
{
    strbuf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void metrics_add(enum metric metric, int64_t n)
{
    if (mine != NULL && n > 0) {
        atomic_fetch_add_explicit(&mine->counters[metric], (uint64_t)n, memory_order_relaxed);
    }
}

void metrics_gauge(enum metric_gauge gauge, int64_t value)
{
    if (mine != NULL) {
        atomic_store_explicit(&mine->gauges[gauge], value, memory_order_relaxed);
    }
}

void metrics_gauge_add(enum metric_gauge gauge, int64_t n)
{
    if (mine != NULL) {
        atomic_fetch_add_explicit(&mine->gauges[gauge], n, memory_order_relaxed);
    }
}

static const struct {
    const char *name, *help;
    int level;
} layers[] = {
#define LAYER(symbol, n, l, h) {.name = n, .help = h, .level = l},
#include "lib/metrics.def"
};

void metrics_layer(enum layer layer)
{
    if (mine != NULL) {
        atomic_store_explicit(&mine->layers[layer], clock_mono_ms(), memory_order_relaxed);
    }
}

bool metrics_layer_is_active(enum layer layer)
{
    int64_t since = clock_mono_ms() - config()->degradation_hold_ms;
    int slot;

    for (slot = 0; mine != NULL && slot < INSTANCE_SLOTS; slot++) {
        const struct area *area = instance_area_of(slot, NULL);
        int64_t at =
            area == NULL ? 0 : atomic_load_explicit(&area->layers[layer], memory_order_relaxed);

        if (at > 0 && at >= since) {
            return true;
        }
    }
    return false;
}

const char *metrics_layer_name(enum layer layer, int *level_out)
{
    *level_out = layers[layer].level;
    return layers[layer].name;
}

static void write_layers(struct strbuf *out)
{
    enum layer layer;

    write_head(out, "maxbooster_layer_active", "gauge",
               "Has the layer of degradation acted within DEGRADATION_HOLD_MS?");
    for (layer = 0; layer < LAYER__COUNT; layer++) {
        strbuf_printf(out, "maxbooster_layer_active{layer=\"%s\"} %d\n", layers[layer].name,
                      metrics_layer_is_active(layer));
    }
}

void metrics_request(int route, int status, int64_t duration_us)
{
    int class = status >= 100 && status < 600 ? status / 100 : 0;
    struct histogram *h;
    int i = 0;

    if (mine == NULL) {
        return;
    }
    h = &mine->requests[route < 0 ? METRICS_ROUTES_MAX : route][class];
    while (i < BUCKETS && duration_us > bounds_us[i]) {
        i++;
    }
    atomic_fetch_add_explicit(&h->buckets[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_us, duration_us > 0 ? (uint64_t)duration_us : 0,
                              memory_order_relaxed);
}

/* Sum of one histogram over all slots. */
static uint64_t sum_histogram(int route, int class, uint64_t buckets[BUCKETS + 1],
                              uint64_t *sum_us_out)
{
    uint64_t total = 0;
    int slot, i;

    memset(buckets, 0, sizeof(buckets[0]) * (BUCKETS + 1));
    *sum_us_out = 0;
    for (slot = 0; slot < INSTANCE_SLOTS; slot++) {
        const struct area *area = instance_area_of(slot, NULL);
        const struct histogram *h;

        if (area == NULL) {
            continue;
        }
        h = &area->requests[route][class];
        for (i = 0; i <= BUCKETS; i++) {
            uint64_t n = atomic_load_explicit(&h->buckets[i], memory_order_relaxed);

            buckets[i] += n;
            total += n;
        }
        *sum_us_out += atomic_load_explicit(&h->sum_us, memory_order_relaxed);
    }
    return total;
}

static void write_histogram(struct strbuf *out, const char *name, int route, int class)
{
    const char *route_name = route == METRICS_ROUTES_MAX ? "none" : plan.route_name(route);
    uint64_t buckets[BUCKETS + 1], sum_us, running = 0;
    uint64_t total = sum_histogram(route, class, buckets, &sum_us);
    int i;

    if (total == 0) {
        return;
    }
    for (i = 0; i <= BUCKETS; i++) {
        running += buckets[i];
        strbuf_printf(out, "%s_bucket{http_route=\"%s\",status_class=\"%dxx\",le=\"", name,
                      route_name, class);
        if (i < BUCKETS) {
            strbuf_printf(out, "%g", (double)bounds_us[i] / 1e6);
        } else {
            strbuf_puts(out, "+Inf");
        }
        strbuf_printf(out, "\"} %llu\n", (unsigned long long)running);
    }
    strbuf_printf(out, "%s_sum{http_route=\"%s\",status_class=\"%dxx\"} %.6f\n", name, route_name,
                  class, (double)sum_us / 1e6);
    strbuf_printf(out, "%s_count{http_route=\"%s\",status_class=\"%dxx\"} %llu\n", name, route_name,
                  class, (unsigned long long)total);
}

static void write_route_histogram(struct strbuf *out, const char *name, const char *help)
{
    int route, class;

    write_head(out, name, "histogram", help);
    for (route = 0; route <= METRICS_ROUTES_MAX; route++) {
        if (route >= plan.routes && route != METRICS_ROUTES_MAX) {
            continue;
        }
        for (class = 0; class < CLASSES; class ++) {
            write_histogram(out, name, route, class);
        }
    }
}

static void write_counter(struct strbuf *out, enum metric metric, const char *name,
                          const char *help)
{
    uint64_t sum = 0;
    int slot;

    for (slot = 0; slot < INSTANCE_SLOTS; slot++) {
        const struct area *area = instance_area_of(slot, NULL);

        if (area != NULL) {
            sum += atomic_load_explicit(&area->counters[metric], memory_order_relaxed);
        }
    }
    write_head(out, name, "counter", help);
    strbuf_printf(out, "%s %llu\n", name, (unsigned long long)sum);
}

static void write_gauge(struct strbuf *out, enum metric_gauge gauge, const char *name,
                        const char *help)
{
    int slot;

    write_head(out, name, "gauge", help);
    for (slot = 0; slot < INSTANCE_SLOTS; slot++) {
        bool is_alive = false;
        const struct area *area = instance_area_of(slot, &is_alive);

        if (area != NULL && is_alive) {
            strbuf_printf(
                out, "%s{process=\"%d\"} %lld\n", name, slot,
                (long long)atomic_load_explicit(&area->gauges[gauge], memory_order_relaxed));
        }
    }
}

static void write_processes(struct strbuf *out, const char *name)
{
    int i, n = 0;

    for (i = 0; i < INSTANCE_SLOTS; i++) {
        bool is_alive = false;

        n += instance_area_of(i, &is_alive) != NULL && is_alive;
    }
    strbuf_printf(out, "%s %d\n", name, n);
}

/* One sample of each database. */
static void write_databases(struct strbuf *out, int64_t (*value)(const struct pg_pool_view *),
                            const char *name, const char *type, const char *help)
{
    int i;

    write_head(out, name, type, help);
    for (i = 0; i < pg_pools(); i++) {
        struct pg_pool_view view;

        pg_pool_view(i, &view);
        strbuf_printf(out, "%s{database=\"%s\"} %lld\n", name, view.name, (long long)value(&view));
    }
}

/* A function for each member of the view that the table names. */
#define VALUE_NAME2(line) value_##line
#define VALUE_NAME(line) VALUE_NAME2(line)
#define DATABASE(field, name, type, help)                             \
    static int64_t VALUE_NAME(__LINE__)(const struct pg_pool_view *v) \
    {                                                                 \
        return (int64_t)v->field;                                     \
    }
#include "lib/metrics.def"

void metrics_write(struct strbuf *out)
{
#define COUNTER(symbol, name, help) write_counter(out, METRIC_##symbol, name, help);
#define ROUTE_HISTOGRAM(symbol, name, help) write_route_histogram(out, name, help);
#define GAUGE(symbol, name, help) write_gauge(out, METRIC_GAUGE_##symbol, name, help);
#define COMPUTED(write, name, type, by, help) \
    write_head(out, name, type, help);        \
    write(out, name);
#define DATABASE(field, name, type, help) \
    write_databases(out, VALUE_NAME(__LINE__), name, type, help);
#include "lib/metrics.def"
    write_layers(out);
}

static const struct {
    const char *field, *name, *type, *help;
} fleet_metrics[] = {
#define FLEET(symbol, field, name, type, help) {field, name, type, help},
#include "lib/metrics_fleet.def"
#undef FLEET
};

const char *metrics_fleet_field(enum metric_fleet metric)
{
    return fleet_metrics[metric].field;
}

void metrics_write_fleet(struct strbuf *out, enum metric_fleet metric, int64_t value)
{
    write_head(out, fleet_metrics[metric].name, fleet_metrics[metric].type,
               fleet_metrics[metric].help);
    strbuf_printf(out, "%s %lld\n", fleet_metrics[metric].name, (long long)value);
}

void metrics_to_openmetrics(const struct strbuf *text, struct strbuf *out)
{
    const char *line = text->data;

    while (*line != '\0') {
        size_t len = strcspn(line, "\n"), name_at = strlen("# HELP "), name_len;

        if (*line == '#') { /* "# HELP name …", "# TYPE name …": both words have four letters */
            name_len = strcspn(line + name_at, " ");
            strbuf_add(out, line, name_at + name_len);
            if (name_len > strlen("_total") && memcmp(line + name_at + name_len - strlen("_total"),
                                                      "_total", strlen("_total")) == 0) {
                out->len -= strlen("_total");
                out->data[out->len] = '\0';
            }
            strbuf_add(out, line + name_at + name_len, len - name_at - name_len);
        } else {
            strbuf_add(out, line, len);
        }
        strbuf_putc(out, '\n');
        line += len + (line[len] == '\n');
    }
    strbuf_puts(out, "# EOF\n");
}

void metrics_print_docs(FILE *out)
{
    size_t i;

    fputs("# Metrics\n\nGenerated from `lib/metrics.def`. Asked for at the inner port's "
          "`/metrics`; each figure is the sum over the instance's processes, crashed ones "
          "included.\n\n"
          "| metric | type | meaning |\n|---|---|---|\n",
          out);
#define COUNTER(symbol, name, help) fprintf(out, "| `%s` | counter | %s |\n", name, help);
#define ROUTE_HISTOGRAM(symbol, name, help) \
    fprintf(out, "| `%s` | histogram by `http_route`, `status_class` | %s |\n", name, help);
#define GAUGE(symbol, name, help) fprintf(out, "| `%s` | gauge by `process` | %s |\n", name, help);
#define LAYER(symbol, name, level, help)                                                       \
    fprintf(out, "| `maxbooster_layer_active{layer=\"%s\"}` | gauge, level %d | %s |\n", name, \
            level, help);
#define COMPUTED(write, name, type, by, help) \
    fprintf(out, "| `%s` | %s%s | %s |\n", name, type, by, help);
#define DATABASE(field, name, type, help) \
    fprintf(out, "| `%s` | %s by `database` | %s |\n", name, type, help);
#include "lib/metrics.def"
    for (i = 0; i < METRIC_FLEET__COUNT; i++) {
        fprintf(out, "| `%s` | %s | %s |\n", fleet_metrics[i].name, fleet_metrics[i].type,
                fleet_metrics[i].help);
    }
    door_print_docs(out);
}
