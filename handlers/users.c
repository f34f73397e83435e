/* Public profiles: one by id, and a search over all shards. */
#include "handlers/users.h"
#include "fcgi/req.h"
#include "handlers.h"
#include "lib/cache.h"
#include "lib/config.h"
#include "lib/metrics.h"
#include "lib/pg.h"
#include "lib/pg_scatter.h"
#include "queries.h"

const char *users_cache_name(struct arena *a, struct id user)
{
    return arena_printf(a, "profile:%s", id_text(a, user));
}

struct profile {
    struct id id;
    const char *name;
    int64_t created_at;
};

static const struct field profile_fields[] = {
    F_ID(profile, id, "id", 0),
    F_STR(profile, name, "name", 1, 100, 0),
    F_TIME(profile, created_at, "createdAt", 0),
};
static const struct shape shape_profile = SHAPE(profile, profile_fields);

static enum err reply_cached(struct req *r, const struct cache_got *got)
{
    struct strbuf json = req_json(r);

    strbuf_add(&json, got->text, got->len);
    return req_reply_json(r, 200, &json);
}

enum err h_users_get(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct id id = req_path_id(r, 0);
    const char *name = users_cache_name(req_arena(r), id);
    struct strbuf json = req_json(r);
    struct profile profile;
    struct cache_got got;
    enum err e;

    if (!id_is_user(id)) {
        return ERR_NOT_FOUND;
    }
    cache_get(sc, name, &got);
    if (got.state != CACHE_BUILD) {
        return reply_cached(r, &got);
    }
    sc->reads_replica = false; /* what is kept for all must not be older than its invalidation */
    pg_keep_up(sc, id_place(id));
    e = pg_one(sc, q_users_profile(sc, id), &shape_profile, &profile);
    if (e != OK && e != ERR_NOT_FOUND && got.text != NULL) {
        scope_forgive(sc);
        metrics_add(METRIC_CACHE_OUTAGES, 1);
        return reply_cached(r, &got);
    }
    TRY(e);
    pg_release(sc);
    shape_write(&json, &shape_profile, &profile);
    cache_put(sc, name, &got, json.data, json.len, config()->cache_profile_ttl_ms);
    return req_reply_json(r, 200, &json);
}

enum { PART_MAX = 100 }; /* characters, as a name has at most */

enum err h_users_search(struct req *r)
{
    static const char *const known[] = {"q", "limit", "cursor", NULL};
    const char *part = req_query(r, "q");
    struct scope *sc = req_scope(r);
    struct pg_page found;
    struct req_page page;
    struct strbuf tail;

    TRY(req_query_only(r, known));
    TRY(req_page(r, &page));
    if (part == NULL || utf8_length(part) < 1 || utf8_length(part) > PART_MAX) {
        return scope_violation(sc, "q", part == NULL ? "required" : "length",
                               "must have 1 to %d characters", PART_MAX);
    }
    TRY(pg_scatter_page(sc,
                        q_users_search(sc, pg_place_on_shard(0), part, page.after, page.limit + 1),
                        &shape_profile, (size_t)page.limit + 1, &found));
    pg_release(sc);
    tail = req_json(r);
    strbuf_printf(&tail, ",\"partial\":%s,\"shardsFailed\":%d",
                  found.n_shards_failed > 0 ? "true" : "false", found.n_shards_failed);
    return req_reply_page_with(r, &shape_profile, found.items, found.n, &page,
                               offsetof(struct profile, id), tail.data);
}
