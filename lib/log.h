/* Structured log: one JSON object a line on standard output.
 *
 * A line is built in a fixed buffer on the caller's stack and written with one write(2), so that
 * lines of several threads and processes never mix. Text is escaped as JSON; a line that is too
 * long loses its last members and says "truncated":true. Secrets have no place in any member. */
#ifndef LIB_LOG_H
#define LIB_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

enum { LOG_LINE_MAX = 4096 };

struct log_line {
    bool muted; /* below LOG_LEVEL: everything else is skipped */
    bool truncated;
    size_t len;
    char data[LOG_LINE_MAX];
};

/* Name the program in each line ("api"); call once at start. */
void log_open(const char *program);

/* From now on lines go to standard error: for a tool whose standard output is its result. Before
 * threads. */
void log_to_stderr(void);

/* Start a line with time, level, program, instance, pid and event. */
void log_begin(struct log_line *l, enum log_level level, const char *event);

/* Add a text member; NULL adds nothing. */
void log_str(struct log_line *l, const char *name, const char *value);

/* Add a number. */
void log_i64(struct log_line *l, const char *name, int64_t value);

/* Write the line. Never blocks longer than the descriptor does; errors are ignored. */
void log_end(struct log_line *l);

/* A whole line with one text member "message". */
void log_event(enum log_level level, const char *event, const char *format, ...) PRINTF_LIKE(3, 4);

#endif
