/* Build the canonical key, look it up once; only where that fails try the other methods. */
#include "fcgi/router.h"

#include <string.h>

#include "lib/str.h"

static const char *const methods[] = {"GET", "POST", "PATCH", "PUT", "DELETE"};

/* Append the path to key with ids replaced by '*'. False: too long. */
static bool canonical_path(const char *path, struct route_match *m, char *key, size_t size)
{
    size_t n = 0;

    while (*path != '\0') {
        size_t len;

        if (n + 2 >= size) {
            return false;
        }
        if (*path == '/') {
            key[n++] = *path++;
            continue;
        }
        len = strcspn(path, "/");
        if (m->n_ids < ROUTE_IDS_MAX && id_parse(path, len, &m->ids[m->n_ids])) {
            m->n_ids++;
            key[n++] = '*';
        } else if (n + len + 1 < size) {
            memcpy(key + n, path, len);
            n += len;
        } else {
            return false;
        }
        path += len;
    }
    key[n] = '\0';
    return true;
}

static const struct route *lookup(const char *method, const char *path_key)
{
    char key[ROUTE_KEY_MAX + 16];
    int len = snprintf(key, sizeof(key), "%s %s", method, path_key);

    return len > 0 && (size_t)len < sizeof(key) ? route_lookup(key, (size_t)len) : NULL;
}

/* Fill m->allow with the methods that the path has; false if none. */
static bool other_methods(const char *path_key, struct route_match *m)
{
    size_t i, n = 0;

    for (i = 0; i < ARRAY_LEN(methods); i++) {
        if (lookup(methods[i], path_key) != NULL) {
            n += (size_t)snprintf(m->allow + n, sizeof(m->allow) - n, "%s%s%s", n > 0 ? ", " : "",
                                  methods[i], i == 0 ? ", HEAD" : "");
        }
    }
    return n > 0;
}

enum err router_find(struct scope *sc, const char *method, const char *path,
                     struct route_match *match_out)
{
    char path_key[ROUTE_KEY_MAX];

    *match_out = (struct route_match){.route = NULL};
    if (strchr(path, '%') != NULL) {
        path = percent_decode(sc->arena, path, strlen(path), false);
        if (path == NULL) {
            return scope_refuse(sc, ERR_BAD_REQUEST, "The path has a broken percent-escape.");
        }
    }
    if (!canonical_path(path, match_out, path_key, sizeof(path_key))) {
        return ERR_URI_TOO_LONG;
    }
    match_out->route = lookup(strcmp(method, "HEAD") == 0 ? "GET" : method, path_key);
    if (match_out->route != NULL && strchr(path, '*') == NULL) {
        return OK;
    }
    if (strchr(path, '*') != NULL || !other_methods(path_key, match_out)) {
        return ERR_NOT_FOUND;
    }
    return scope_refuse(sc, ERR_METHOD_NOT_ALLOWED, "Allowed here: %s.", match_out->allow);
}
