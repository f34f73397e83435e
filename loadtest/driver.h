/* What the drivers share, programs that speak for a module of lib/ in tests and benches: a command
 * a line on standard input, each in a scope of its own. They end with status 2 for input that is
 * none. Included once by each. */
#ifndef LOADTEST_DRIVER_H
#define LOADTEST_DRIVER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "lib/scope.h"
#include "lib/str.h"

enum { DRIVER_LINE_SIZE = 4096, DRIVER_WORDS_MAX = 64, DRIVER_LIMIT_MS = 10000 };

/* The number that a word is; 0 where there is none. */
static inline int64_t number_of(const char *word)
{
    int64_t value = 0;

    if (word != NULL && !i64_parse(word, &value)) {
        fprintf(stderr, "not a number: %s\n", word);
        exit(2);
    }
    return value;
}

/* What this process has cost so far, in user and system. */
static inline int64_t cpu_us(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * INT64_C(1000000) + u.ru_utime.tv_usec +
           u.ru_stime.tv_usec;
}

/* Run each line's words, the last behind them is NULL, until the input ends. */
static inline void driver_serve(struct arena *arena,
                                void (*run)(struct scope *sc, char **words, int n))
{
    char line[DRIVER_LINE_SIZE];

    while (fgets(line, sizeof(line), stdin) != NULL) {
        char *words[DRIVER_WORDS_MAX + 1] = {NULL}, *rest = line, *word;
        struct scope sc;
        int n = 0;

        while (n < DRIVER_WORDS_MAX && (word = strsep(&rest, " \n")) != NULL) {
            if (*word != '\0') {
                words[n++] = word;
            }
        }
        if (n > 0) {
            arena_reset(arena);
            scope_init(&sc, arena, DRIVER_LIMIT_MS);
            run(&sc, words, n);
            scope_done(&sc);
        }
    }
}

#endif
