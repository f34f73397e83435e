/* The errors of the whole system. err.def is the table; this is its enum and its look-ups.
 *
 * OK is 0. Functions return enum err; results come back in trailing *_out parameters. */
#ifndef LIB_ERR_H
#define LIB_ERR_H

#include <stdio.h>

enum err {
    OK = 0,
#define ERR(name, status, code, title, retry) ERR_##name,
#include "lib/err.def"
#undef ERR
    ERR__COUNT
};

enum err_retry { RETRY_NEVER, RETRY_LATER, RETRY_SAME_KEY };

/* One row of err.def. */
struct err_info {
    const char *name;  /* "NOT_FOUND" */
    int http_status;   /* 404 */
    const char *code;  /* "not_found", stable word for clients */
    const char *title; /* one sentence for people */
    enum err_retry retry;
};

/* The row of an error other than OK. Static, never NULL; a value out of range gets INTERNAL's. */
const struct err_info *err_info(enum err e);

/* Print docs/errors.md from the table. */
void err_print_docs(FILE *out);

#endif
