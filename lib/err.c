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
