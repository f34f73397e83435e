/* Pages of metrics (Prometheus' text format 0.0.4), as far as readiness reads them. Pure. */
#ifndef DEPLOY_CTL_READINESS_PAGE_H
#define DEPLOY_CTL_READINESS_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RD_ROUTE_NAME_MAX = 120, RD_PAGE_ROUTES_MAX = 250 };

/* Requests of one route. */
struct rd_route {
    char name[RD_ROUTE_NAME_MAX + 1]; /* as the metrics label says it */
    int64_t n;                        /* all answers */
    int64_t n_done;                   /* those with 2xx */
    int64_t n_slow;                   /* of them: those that took more than a second */
};

struct rd_routes {
    struct rd_route items[RD_PAGE_ROUTES_MAX];
    size_t n;
};

/* Add a page's histograms of requests to the routes; what is malformed or beyond the bounds is left
 * out. */
void rd_routes_add(struct rd_routes *routes, const char *page);

/* The route of that name, or NULL. */
const struct rd_route *rd_routes_find(const struct rd_routes *routes, const char *name);

/* Sum of a metric's samples over all its labels; 0 where there is none. */
double rd_page_sum(const char *page, const char *name);

/* Does long work run within requests of this route? More than one answer, and more than 1 % of all,
 * took over a second. */
bool rd_route_is_slow(const struct rd_route *route);

#endif
