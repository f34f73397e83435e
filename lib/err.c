/* Errors are rows of one table; this file only unfolds it. */
#include "lib/err.h"

static const struct err_info infos[ERR__COUNT] = {
    [OK] = {"OK", 200, "ok", "OK", RETRY_NEVER},
#define ERR(name, status, code, title, retry) \
    [ERR_##name] = {#name, status, code, title, RETRY_##retry},
#include "lib/err.def"
#undef ERR
};

const struct err_info *err_info(enum err e)
{
    return &infos[e > OK && e < ERR__COUNT ? e : ERR_INTERNAL];
}

void err_print_docs(FILE *out)
{
    static const char *const advice[] = {
        [RETRY_NEVER] = "no", [RETRY_LATER] = "later", [RETRY_SAME_KEY] = "with the same key only"};
    int e;

    fputs("# Errors\n\nGenerated from `lib/err.def`. Every failure is a problem document "
          "(RFC 9457) with one of these codes; its type is `/problems/<code>`.\n\n"
          "| status | code | title | try again? |\n|---|---|---|---|\n",
          out);
    for (e = OK + 1; e < ERR__COUNT; e++) {
        fprintf(out, "| %d | `%s` | %s | %s |\n", infos[e].http_status, infos[e].code,
                infos[e].title, advice[infos[e].retry]);
    }
}
