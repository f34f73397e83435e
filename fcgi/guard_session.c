/* Who asks, and how often. With a session both are one script in Redis, charged to the user;
 * without one the address is charged. A request that is refused here has cost no database. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "fcgi/req_private.h"
#include "lib/config.h"
#include "lib/metrics.h"
#include "lib/pg.h"
#include "lib/session.h"

/* What a route costs by RATE_LIMIT_COSTS, read once per snapshot and thread. */
static int64_t cost_of(const struct route *route)
{
    static _Thread_local const struct config *read_from;
    static _Thread_local int64_t costs[METRICS_ROUTES_MAX];

    if (read_from != config()) {
        const char *list;
        int i;

        read_from = config();
        for (i = 0; i < route_count(); i++) {
            costs[i] = 1;
        }
        for (list = read_from->rate_limit_costs; *list != '\0';) {
            size_t len = strcspn(list, ","), key_len = strcspn(list, "=,");
            const struct route *r = route_lookup(list, key_len);
            int64_t cost = key_len < len ? strtoll(list + key_len + 1, NULL, 10) : 0;

            if (r != NULL && cost > 0) {
                costs[r->index] = cost;
            }
            list += len + (list[len] == ',');
        }
    }
    return costs[route->index];
}

/* What to do where Redis cannot be asked. A user's session cannot be judged without it, so his
 * requests fail closed in any case. */
enum without_redis { FAIL_OPEN, FAIL_LOCAL, FAIL_CLOSED };

static const enum without_redis address_policies[] = {
    [RATE_FREE] = FAIL_OPEN, [RATE_NORMAL] = FAIL_LOCAL, [RATE_CRITICAL] = FAIL_CLOSED};

static struct rate_policy policy_of(const struct req *r)
{
    bool is_critical = r->match.route->rate == RATE_CRITICAL;

    return (struct rate_policy){.name = is_critical ? "critical" : "default",
                                .quota = is_critical ? config()->rate_limit_critical_max
                                                     : config()->rate_limit_max,
                                .window_ms = config()->rate_limit_window_ms,
                                .cost = cost_of(r->match.route)};
}

/* The RateLimit fields (draft-ietf-httpapi-ratelimit-headers-10): remaining, and seconds until the
 * quota is full. */
static void tell_rate(struct req *r, const struct rate_policy *policy,
                      const struct rate_verdict *verdict)
{
    struct arena *a = r->scope.arena;

    req_reply_header(r, "RateLimit-Policy",
                     arena_printf(a, "\"%s\";q=%lld;w=%lld", policy->name, (long long)policy->quota,
                                  (long long)(policy->window_ms + 999) / 1000));
    req_reply_header(r, "RateLimit",
                     arena_printf(a, "\"%s\";r=%lld;t=%lld", policy->name,
                                  (long long)verdict->remaining,
                                  (long long)(verdict->reset_ms + 999) / 1000));
}

static enum err judge_rate(struct req *r, const struct rate_policy *policy,
                           const struct rate_verdict *verdict)
{
    tell_rate(r, policy, verdict);
    if (verdict->is_allowed || req_shadowed(r, "rate")) {
        return OK;
    }
    r->scope.retry_after_s = (int)((verdict->retry_ms + 999) / 1000);
    return scope_refuse(&r->scope, ERR_RATE_LIMITED, "At most %lld requests in %lld s here.",
                        (long long)policy->quota, (long long)(policy->window_ms + 999) / 1000);
}

/* Charge the address. Where Redis is down, critical routes fail closed, and others are judged by
 * this process's own buckets. */
static enum err charge_address(struct req *r, const struct rate_policy *policy)
{
    struct rate_verdict verdict;
    enum err e;

    if (r->match.route->rate == RATE_FREE) {
        return OK;
    }
    e = rate_charge(&r->scope, r->address, policy, &verdict);
    if (e == ERR_DEPENDENCY_UNAVAILABLE && address_policies[r->match.route->rate] == FAIL_LOCAL) {
        scope_forgive(&r->scope);
        rate_charge_locally(r->address, policy, config()->api_processes, &verdict);
        metrics_add(METRIC_RATE_LOCAL, 1);
        e = OK;
    }
    TRY(e);
    return judge_rate(r, policy, &verdict);
}

/* Find the cookie's value in the field; the last character is a ';' or the end. NULL: not there. */
static const char *cookie_value(struct arena *a, const char *field, const char *name)
{
    size_t name_len = strlen(name);

    while (*field != '\0') {
        size_t len;

        field += strspn(field, " \t;");
        len = strcspn(field, ";");
        if (len > name_len && strncmp(field, name, name_len) == 0 && field[name_len] == '=') {
            return arena_strndup(a, field + name_len + 1, len - name_len - 1);
        }
        field += len;
    }
    return NULL;
}

const char *req_token(struct req *r)
{
    const char *authorization = req_header(r, "AUTHORIZATION");
    const char *cookies = req_header(r, "COOKIE");
    bool is_tls = has_prefix(config()->public_url, "https://");

    if (authorization != NULL && strncasecmp(authorization, "Bearer ", 7) == 0) {
        r->who.token = authorization + 7 + strspn(authorization + 7, " ");
    } else if (cookies != NULL) {
        r->who.token = cookie_value(r->scope.arena, cookies, is_tls ? "__Host-session" : "session");
        r->who.by_cookie = r->who.token != NULL;
    }
    return r->who.token;
}

/* ended: what the token claims whose session is gone; NULL: there is no token. */
static enum err no_session(struct req *r, const struct rate_policy *policy,
                           const struct session_claim *ended)
{
    TRY(charge_address(r, policy));
    if (r->match.route->auth == AUTH_OPTIONAL) {
        return OK;
    }
    if (ended != NULL) {
        TRY(guard_idem_ended(r, ended));
    }
    if (r->reply.status != 0) {
        return OK;
    }
    return scope_refuse(&r->scope, ERR_UNAUTHENTICATED,
                        "Send a session's token as a Bearer token or cookie.");
}

enum err guard_session(struct req *r)
{
    const struct rate_policy policy = policy_of(r);
    struct session_claim claim;
    struct session session;
    struct rate_verdict verdict;
    enum err e;

    if (r->match.route->auth == AUTH_NONE) {
        return charge_address(r, &policy);
    }
    if (req_token(r) == NULL || !session_claim(r->who.token, &claim)) {
        return no_session(r, &policy, NULL);
    }
    e = session_check(&r->scope, &claim, &policy, &session, &verdict);
    if (e == ERR_UNAUTHENTICATED) {
        return no_session(r, &policy, &claim);
    }
    if (e == ERR_DEPENDENCY_UNAVAILABLE && r->match.route->auth == AUTH_OPTIONAL) {
        scope_forgive(&r->scope);
        return charge_address(r, &policy); /* served as to a stranger */
    }
    TRY(e);
    r->who.is_signed_in = true;
    r->who.user = claim.user;
    r->who.place = id_place(claim.user);
    r->who.session = claim.session;
    r->who.role = session.role;
    if (session.has_written) {
        pg_see(&r->scope, r->who.place, session.written);
    }
    TRY(judge_rate(r, &policy, &verdict));
    if (r->match.route->auth == AUTH_ADMIN && strcmp(session.role, "admin") != 0) {
        return scope_refuse(&r->scope, ERR_FORBIDDEN, "Only an administrator may see this.");
    }
    return OK;
}
