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

/* The first rows of all shards, kept while shard after shard is merged in. Two arenas take turns:
 * one holds the page so far, the other gets a shard's rows and what stays of the page. So memory is
 * bound by the page and not by the number of shards. */
struct merge {
    struct arena *arenas[2];
    int at; /* which holds the page */
    struct profile *page;
    size_t n, max;
};

enum {
    MERGE_BUDGET_BYTES = 262144
}; /* two pages of 100 names of 100 characters, and libpq's texts */

static void merge_done(void *p)
{
    struct merge *m = p;

    arena_close(&m->arenas[0]);
    arena_close(&m->arenas[1]);
}

static bool is_before(const struct profile *a, const struct profile *b)
{
    return memcmp(a->id.bytes, b->id.bytes, sizeof(a->id.bytes)) < 0;
}

/* Merge rows, which lie in the other arena, with the page; both are in order of ids. */
static void merge_rows(struct merge *m, const struct profile *rows, size_t n_rows)
{
    struct arena *next = m->arenas[!m->at];
    struct profile *merged = arena_array(next, struct profile, m->max);
    size_t i = 0, j = 0, n = 0;

    while (n < m->max && (i < m->n || j < n_rows)) {
        if (j >= n_rows || (i < m->n && is_before(&m->page[i], &rows[j]))) {
            merged[n] = m->page[i++];
            merged[n].name = arena_strdup(next, merged[n].name);
        } else {
            merged[n] = rows[j++];
        }
        n++;
    }
    arena_reset(m->arenas[m->at]);
    m->at = !m->at;
    m->page = merged;
    m->n = n;
}

/* Each shard's first rows behind the cursor; whoever does not answer is counted. */
static int gather(struct req *r, const char *part, struct id after, struct merge *m)
{
    struct scope *sc = req_scope(r);
    struct arena *arena = sc->arena;
    int shard, n_failed = 0;

    for (shard = 0; shard < pg_shard_count(); shard++) {
        struct profile *rows = NULL;
        size_t n = 0;
        enum err e;

        sc->arena = m->arenas[!m->at];
        e = pg_many(sc, q_users_search(sc, pg_place_on_shard(shard), part, after, (int64_t)m->max),
                    &shape_profile, &rows, &n);
        pg_release(sc);
        scope_forgive(sc); /* its words lie in the arena that is reset next */
        sc->arena = arena;
        if (e == OK) {
            merge_rows(m, rows, n);
        } else {
            arena_reset(m->arenas[!m->at]);
            n_failed++;
        }
    }
    return n_failed;
}

enum err h_users_search(struct req *r)
{
    static const char *const known[] = {"q", "limit", "cursor", NULL};
    const char *part = req_query(r, "q");
    struct merge *merge = arena_new(req_arena(r), struct merge);
    struct req_page page;
    struct strbuf tail;
    int n_failed;

    TRY(req_query_only(r, known));
    TRY(req_page(r, &page));
    if (part == NULL || utf8_length(part) < 1 || utf8_length(part) > 100) {
        return scope_violation(req_scope(r), "q", part == NULL ? "required" : "length",
                               "must have 1 to 100 characters");
    }
    merge->arenas[0] = arena_open(MERGE_BUDGET_BYTES);
    merge->arenas[1] = arena_open(MERGE_BUDGET_BYTES);
    merge->max = (size_t)page.limit + 1;
    arena_defer(req_arena(r), merge_done, merge);
    n_failed = gather(r, part, page.after, merge);
    if (n_failed == pg_shard_count()) {
        return req_fail(r, ERR_DEPENDENCY_UNAVAILABLE, "No shard answered.");
    }
    tail = req_json(r);
    strbuf_printf(&tail, ",\"partial\":%s,\"shardsFailed\":%d", n_failed > 0 ? "true" : "false",
                  n_failed);
    return req_reply_page_with(r, &shape_profile, merge->page, merge->n, &page,
                               offsetof(struct profile, id), tail.data);
}
