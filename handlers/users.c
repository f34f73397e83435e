/* Public profiles: one by id, and a search over all shards. */
#include <string.h>

#include "fcgi/req.h"
#include "handlers.h"
#include "lib/pg.h"
#include "queries.h"

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

enum err h_users_get(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct id id = req_path_id(r, 0);
    struct profile profile;

    if (!id_is_user(id)) {
        return ERR_NOT_FOUND;
    }
    TRY(pg_one(sc, q_users_profile(sc, id), &shape_profile, &profile));
    return req_reply(r, 200, &shape_profile, &profile);
}

static int compare_profiles(const void *a, const void *b)
{
    return memcmp(((const struct profile *)a)->id.bytes, ((const struct profile *)b)->id.bytes,
                  sizeof(struct id));
}

/* Each shard's first rows behind the cursor; whoever does not answer is counted. */
static int gather(struct req *r, const char *part, const struct req_page *page, struct profile *all,
                  size_t *n_out)
{
    struct scope *sc = req_scope(r);
    int shard, n_failed = 0;

    *n_out = 0;
    for (shard = 0; shard < pg_shard_count(); shard++) {
        struct profile *some = NULL;
        size_t n = 0;
        enum err e = pg_many(
            sc, q_users_search(sc, pg_place_on_shard(shard), part, page->after, page->limit + 1),
            &shape_profile, &some, &n);

        pg_release(sc);
        if (e != OK) {
            n_failed++;
            continue;
        }
        memcpy(all + *n_out, some, n * sizeof(*some));
        *n_out += n;
    }
    return n_failed;
}

enum err h_users_search(struct req *r)
{
    static const char *const known[] = {"q", "limit", "cursor", NULL};
    const char *part = req_query(r, "q");
    struct req_page page;
    struct profile *all;
    struct strbuf tail;
    size_t n;
    int n_failed;

    TRY(req_query_only(r, known));
    TRY(req_page(r, &page));
    if (part == NULL || utf8_length(part) < 1 || utf8_length(part) > 100) {
        return scope_violation(req_scope(r), "q", part == NULL ? "required" : "length",
                               "must have 1 to 100 characters");
    }
    all = arena_array(req_arena(r), struct profile, (size_t)(pg_shard_count() * (page.limit + 1)));
    n_failed = gather(r, part, &page, all, &n);
    if (n_failed == pg_shard_count()) {
        return req_fail(r, ERR_DEPENDENCY_UNAVAILABLE, "No shard answered.");
    }
    scope_forgive(req_scope(r));
    qsort(all, n, sizeof(*all), compare_profiles);
    n = n > (size_t)page.limit ? (size_t)page.limit + 1 : n;
    tail = req_json(r);
    strbuf_printf(&tail, ",\"partial\":%s,\"shardsFailed\":%d", n_failed > 0 ? "true" : "false",
                  n_failed);
    return req_reply_page_with(r, &shape_profile, all, n, &page, offsetof(struct profile, id),
                               tail.data);
}
