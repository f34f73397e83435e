/* Line by line: a name, labels in braces, a value. */
#include "deploy/ctl/readiness_page.h"

#include <stdlib.h>
#include <string.h>

#include "lib/str.h"

#define DURATION "http_server_request_duration_seconds"

struct sample {
    const char *name, *labels; /* labels: what is between the braces, or "" */
    size_t name_len, labels_len;
    double value;
};

/* Read the line at *at and go to the next. False: the line is a comment or no sample. */
static bool next_sample(const char **at, struct sample *out)
{
    const char *line = *at, *end = strchr(line, '\n'), *open, *close, *value;
    char *rest;

    end = end != NULL ? end : line + strlen(line);
    *at = *end == '\n' ? end + 1 : end;
    open = memchr(line, '{', (size_t)(end - line));
    close = open != NULL ? memchr(open, '}', (size_t)(end - open)) : NULL;
    value = close != NULL ? close + 1 : memchr(line, ' ', (size_t)(end - line));
    if (line[0] == '#' || value == NULL || (open != NULL && close == NULL)) {
        return false;
    }
    out->name = line;
    out->name_len = (size_t)((open != NULL ? open : value) - line);
    out->labels = open != NULL ? open + 1 : "";
    out->labels_len = open != NULL ? (size_t)(close - open - 1) : 0;
    out->value = strtod(value, &rest);
    return rest != value && rest <= end;
}

static bool is_named(const struct sample *s, const char *name)
{
    return s->name_len == strlen(name) && memcmp(s->name, name, s->name_len) == 0;
}

/* Value of a label within out's size; false: no such label, or it is longer. */
static bool label(const struct sample *s, const char *name, char *out, size_t size)
{
    size_t name_len = strlen(name), i, len;

    for (i = 0; i + name_len + 2 < s->labels_len; i++) {
        const char *at = s->labels + i;

        if ((i == 0 || at[-1] == ',') && memcmp(at, name, name_len) == 0 && at[name_len] == '=' &&
            at[name_len + 1] == '"') {
            const char *text = at + name_len + 2;
            const char *end = memchr(text, '"', s->labels_len - (size_t)(text - s->labels));

            len = end != NULL ? (size_t)(end - text) : size;
            if (len >= size) {
                return false;
            }
            memcpy(out, text, len);
            out[len] = '\0';
            return true;
        }
    }
    return false;
}

static struct rd_route *take(struct rd_routes *routes, const char *name)
{
    struct rd_route *route;
    size_t i;

    for (i = 0; i < routes->n; i++) {
        if (strcmp(routes->items[i].name, name) == 0) {
            return &routes->items[i];
        }
    }
    if (routes->n == RD_PAGE_ROUTES_MAX) {
        return NULL;
    }
    route = &routes->items[routes->n++];
    memset(route, 0, sizeof(*route));
    memcpy(route->name, name, strlen(name) + 1);
    return route;
}

void rd_routes_add(struct rd_routes *routes, const char *page)
{
    const char *at = page;

    while (*at != '\0') {
        char name[RD_ROUTE_NAME_MAX + 1], class[8], le[16];
        struct rd_route *route;
        struct sample s;
        bool is_count, is_second;

        if (!next_sample(&at, &s)) {
            continue;
        }
        is_count = is_named(&s, DURATION "_count");
        is_second = is_named(&s, DURATION "_bucket") && label(&s, "le", le, sizeof(le)) &&
                    strcmp(le, "1") == 0;
        if ((!is_count && !is_second) || !label(&s, "http_route", name, sizeof(name)) ||
            !label(&s, "status_class", class, sizeof(class))) {
            continue;
        }
        route = take(routes, name);
        if (route == NULL) {
            return;
        }
        route->n += is_count ? (int64_t)s.value : 0;
        if (strcmp(class, "2xx") == 0) {
            route->n_done += is_count ? (int64_t)s.value : 0;
            route->n_slow += is_count ? (int64_t)s.value : -(int64_t)s.value;
        }
    }
}

const struct rd_route *rd_routes_find(const struct rd_routes *routes, const char *name)
{
    size_t i;

    for (i = 0; i < routes->n; i++) {
        if (strcmp(routes->items[i].name, name) == 0) {
            return &routes->items[i];
        }
    }
    return NULL;
}

double rd_page_sum(const char *page, const char *name)
{
    const char *at = page;
    struct sample s;
    double sum = 0;

    while (*at != '\0') {
        if (next_sample(&at, &s) && is_named(&s, name)) {
            sum += s.value;
        }
    }
    return sum;
}

bool rd_route_is_slow(const struct rd_route *route)
{
    return route->n_slow > 1 && route->n_slow * 100 > route->n_done;
}
