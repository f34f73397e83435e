/* A door for Prometheus: a port of the loopback where a program that serves no requests tells its
 * metrics (GET /metrics, text format 0.0.4). One thread, one caller at a time, 2 s for each. */
#ifndef LIB_DOOR_H
#define LIB_DOOR_H

#include <stdbool.h>
#include <stdio.h>

#include "lib/str.h"

enum door_metric {
#define DOOR(symbol, name, type, help) DOOR_##symbol,
#include "lib/door.def"
#undef DOOR
    DOOR__COUNT
};

/* Open the door in a thread of its own; write appends all metrics, in that thread. Port 0: none is
 * wanted. False: the port cannot be had; a line in the log says so. Once per process. */
bool door_open(int port, void (*write)(struct strbuf *out));

/* Append the HELP and TYPE lines of a metric; returns its name for the samples behind them. */
const char *door_head(struct strbuf *out, enum door_metric metric);

/* Print the table's part of docs/metrics.md. */
void door_print_docs(FILE *out);

#endif
