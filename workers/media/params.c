/* A handful of lines, looked through from the start each time. */
#include "workers/media/params.h"

#include <errno.h>
#include <math.h>

static const char *find(const char *params, const char *name, size_t *len_out)
{
    size_t name_len = strlen(name);
    const char *line = params, *end;

    for (; *line != '\0'; line = end + 1) {
        end = strchr(line, '\n');
        if (end == NULL) {
            return NULL;
        }
        if (strncmp(line, name, name_len) == 0 && line[name_len] == '=') {
            *len_out = (size_t)(end - line) - name_len - 1;
            return line + name_len + 1;
        }
    }
    return NULL;
}

bool params_text(const char *params, const char *name, char *out, size_t size)
{
    size_t len;
    const char *value = find(params, name, &len);

    if (value == NULL || len >= size) {
        return false;
    }
    memcpy(out, value, len);
    out[len] = '\0';
    return true;
}

static bool is_there(const char *params, const char *name)
{
    size_t len;

    return find(params, name, &len) != NULL;
}

bool params_i64(const char *params, const char *name, int64_t least, int64_t most, int64_t *out)
{
    char text[32], *end;
    long long value;

    if (!is_there(params, name)) {
        return true;
    }
    if (!params_text(params, name, text, sizeof(text))) {
        return false;
    }
    errno = 0;
    value = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < least || value > most) {
        return false;
    }
    *out = value;
    return true;
}

bool params_double(const char *params, const char *name, double least, double most, double *out)
{
    char text[64], *end;
    double value;

    if (!is_there(params, name)) {
        return true;
    }
    if (!params_text(params, name, text, sizeof(text))) {
        return false;
    }
    value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value) || value < least || value > most) {
        return false;
    }
    *out = value;
    return true;
}

bool params_bool(const char *params, const char *name, bool *out)
{
    char text[8];

    if (!is_there(params, name)) {
        return true;
    }
    if (!params_text(params, name, text, sizeof(text)) ||
        (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)) {
        return false;
    }
    *out = text[0] == 't';
    return true;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

bool params_color(const char *params, const char *name, uint8_t out[4])
{
    uint8_t rgba[4] = {0, 0, 0, 255};
    char text[16];
    size_t i, len;

    if (!is_there(params, name)) {
        return true;
    }
    if (!params_text(params, name, text, sizeof(text))) {
        return false;
    }
    len = strlen(text);
    if (text[0] != '#' || (len != 7 && len != 9)) {
        return false;
    }
    for (i = 0; i < (len - 1) / 2; i++) {
        int high = hex(text[1 + 2 * i]), low = hex(text[2 + 2 * i]);

        if (high < 0 || low < 0) {
            return false;
        }
        rgba[i] = (uint8_t)(high * 16 + low);
    }
    memcpy(out, rgba, sizeof(rgba));
    return true;
}
