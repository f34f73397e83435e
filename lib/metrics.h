/* Metrics: counted in the instance's shared memory, told as the sum over its processes (also those
 * that crashed).
 *
 * Counting is a relaxed atomic addition and never blocks. */
#ifndef LIB_METRICS_H
#define LIB_METRICS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/str.h"

enum metric {
#define COUNTER(symbol, name, help) METRIC_##symbol,
#include "lib/metrics.def"
    METRIC__COUNT
};

enum metric_gauge {
#define GAUGE(symbol, name, help) METRIC_GAUGE_##symbol,
#include "lib/metrics.def"
    METRIC_GAUGE__COUNT
};

/* Layers of degradation. */
enum layer {
#define LAYER(symbol, name, level, help) LAYER_##symbol,
#include "lib/metrics.def"
    LAYER__COUNT
};

enum metric_fleet {
#define FLEET(symbol, field, name, type, help) METRIC_FLEET_##symbol,
#include "lib/metrics_fleet.def"
#undef FLEET
    METRIC_FLEET__COUNT
};

/* Key in Redis of the hash that the leading scheduler writes them to. */
#define METRICS_FLEET_KEY "metrics:{outbox}"

enum { METRICS_ROUTES_MAX = 250 };

/* What the caller counts by: route names by index. */
struct metrics_plan {
    int routes; /* at most METRICS_ROUTES_MAX */
    const char *(*route_name)(int index);
};

/* Join the instance's shared memory and start counting; once per process, before threads. */
void metrics_open(const struct metrics_plan *plan);

/* Leave it; the counts stay. */
void metrics_close(void);

/* Add to a counter. Before metrics_open() it does nothing. */
void metrics_add(enum metric metric, int64_t n);

/* Set a gauge of this process; it is 0 at first. Before metrics_open() it does nothing. */
void metrics_gauge(enum metric_gauge gauge, int64_t value);

/* Add to a gauge of this process, which threads count together. */
void metrics_gauge_add(enum metric_gauge gauge, int64_t n);

/* A layer has acted. Cheap enough for every refusal. */
void metrics_layer(enum layer layer);

/* Has it acted in a living process of the instance within DEGRADATION_HOLD_MS? */
bool metrics_layer_is_active(enum layer layer);

/* Its name for status, and how grave it is (metrics.def). */
const char *metrics_layer_name(enum layer layer, int *level_out);

/* Count one request by route (-1: none), status and duration. */
void metrics_request(int route, int status, int64_t duration_us);

/* Append all metrics in Prometheus' text format 0.0.4. */
void metrics_write(struct strbuf *out);

/* Field of METRICS_FLEET_KEY that holds a fleet's metric. */
const char *metrics_fleet_field(enum metric_fleet metric);

/* Append one metric of the fleet. */
void metrics_write_fleet(struct strbuf *out, enum metric_fleet metric, int64_t value);

/* The same page as OpenMetrics 1.0: families of counters are named without "_total", and the end is
 * told. text is what metrics_write() wrote. */
void metrics_to_openmetrics(const struct strbuf *text, struct strbuf *out);

/* Print docs/metrics.md from the tables. */
void metrics_print_docs(FILE *out);

#endif
