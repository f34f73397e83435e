/* A browser sends our cookie with requests that other sites make. It also says where they come
 * from: Sec-Fetch-Site (W3C Fetch Metadata) and Origin (RFC 6454). Unsafe requests by cookie must
 * be our own; where neither field is there, no browser sent it. */
#include <string.h>
#include <strings.h>

#include "fcgi/req_private.h"
#include "lib/config.h"

/* Is the origin scheme://authority of this request itself? */
static bool is_own_origin(const struct req *r, const char *origin)
{
    const char *host = req_header(r, "HOST");
    const char *authority = strstr(origin, "://");
    const char *public = config()->public_url;
    size_t public_len = strlen(public);

    while (public_len > 0 && public[public_len - 1] == '/') {
        public_len--;
    }
    if (strlen(origin) == public_len && strncasecmp(origin, public, public_len) == 0) {
        return true;
    }
    return host != NULL && *host != '\0' && authority != NULL &&
           strcasecmp(authority + strlen("://"), host) == 0;
}

enum err guard_csrf(struct req *r)
{
    const char *site = req_header(r, "SEC_FETCH_SITE");
    const char *origin = req_header(r, "ORIGIN");
    bool is_foreign;

    /* A log-in sets the cookie: another site must not be able to log its victim in as somebody
     * else. */
    if (!r->is_unsafe || (!r->who.by_cookie && r->match.route->rate != RATE_CRITICAL)) {
        return OK;
    }
    is_foreign = origin != NULL ? !is_own_origin(r, origin)
                                : site != NULL && strcmp(site, "same-origin") != 0 &&
                                      strcmp(site, "none") != 0;
    if (site != NULL && strcmp(site, "cross-site") == 0) {
        is_foreign = true;
    }
    if (is_foreign) {
        return scope_refuse(&r->scope, ERR_CROSS_ORIGIN,
                            "A cookie is good only for requests from our own pages.");
    }
    return OK;
}
