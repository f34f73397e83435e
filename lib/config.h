/* Configuration: one table (config.def), one immutable snapshot.
 *
 * Values come from the file that CONFIG_FILE names (NAME=value lines, '#' comments), then from the
 * environment, which wins; over both stands what the whole fleet was told (fleet.h). The snapshot
 * is never changed or freed once published: a reload publishes a new one, and a request that still
 * reads the old one is safe. Take config() once per request where several values must fit
 * together. */
#ifndef LIB_CONFIG_H
#define LIB_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/base.h"

struct config {
#define CFG_INT(field, unit, min, max, def, when, doc) int64_t field;
#define CFG_STR(field, max_length, def, when, doc) const char *field;
#define CFG_SECRET(field, max_length, def, when, doc) const char *field;
#define CFG_SECRETS(field, count, max_length, pattern, when, doc) const char *field[count];
#include "lib/config.def"
#undef CFG_INT
#undef CFG_STR
#undef CFG_SECRET
#undef CFG_SECRETS
};

/* The current snapshot; NULL before config_load(). Never blocks. */
const struct config *config(void);

/* Read everything and publish it. On a bad or unknown value nothing is published, and one sentence
 * per fault (name, value, allowed range) goes to faults. Not for use by two threads at once. */
MUST_USE bool config_load(FILE *faults);

/* The same for a running process: only RELOAD values may differ; a changed RESTART value is a
 * fault, all or nothing. changes (may be NULL) gets "NAME old -> new, …". Safe from any thread. */
MUST_USE bool config_reload(FILE *changes, FILE *faults);

/* The same, with the outcome told by a log line: what a process does at SIGHUP. */
void config_reload_logged(void);

/* Does this guard only look on (GUARDS_SHADOW)? */
bool config_is_shadowed(const char *guard);

/* A value over those of file and environment. */
struct config_pair {
    const char *name;
    const char *value;
};

/* Read everything again under the fleet's n values, which replace those of the epoch before, and
 * take that epoch's number on: all or nothing, as config_reload(). Refused are also secrets, and
 * values that only a restart changes. Safe from any thread. */
MUST_USE bool config_apply(int64_t epoch, const struct config_pair *pairs, size_t n, FILE *changes,
                           FILE *faults);

/* Would they be taken on? Changes nothing. */
MUST_USE bool config_would_apply(const struct config_pair *pairs, size_t n, FILE *faults);

/* Number of the fleet's state that this process runs with; 0: none was told. */
int64_t config_epoch(void);

/* Call fn for each of the fleet's values; the texts live until it returns, and it must not call
 * config_…(). */
void config_each_fleet(void (*fn)(void *context, const struct config_pair *pair), void *context);

/* The log line of a reload: who asked, what has changed or why nothing has. */
void config_log_change(bool is_good, const char *by, const char *changes, const char *faults);

/* One variable as operators see it. */
struct config_item {
    const char *name;  /* "DB_POOL_SIZE" */
    const char *value; /* "***" for a secret that is set */
    const char *unit;
    const char *doc;
    bool is_reloadable;
    bool is_secret;
};

/* Call fn for every variable; members of families only where set. The texts live until fn
 * returns. */
void config_each(void (*fn)(void *context, const struct config_item *item), void *context);

/* Print every value as NAME=value; secrets as "***" where set. For operators. */
void config_print(FILE *out);

/* Print the documentation page (Markdown) or the example file from the table. */
void config_print_docs(FILE *out);
void config_print_env_example(FILE *out);

#endif
