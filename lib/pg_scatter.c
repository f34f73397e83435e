/* A part per database, all under way at once: connect where need be, ask, take the answer. One
 * poll() waits for all that wait. Rows are merged while they still are libpq's text, and only
 * those of the page become structs: so memory of the request is bound by the page. */
#include "lib/pg_scatter.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/log.h"
#include "lib/metrics.h"
#include "lib/pg_internal.h"

enum stage { CONNECTING, ASKING, OVER };

struct part {
    int database;
    enum stage stage;
    bool is_retry; /* on a new connection, after an old one has failed */
    struct pg_lease *lease;
    int64_t start_ms;
    short events;
    struct pg_answer a; /* rows where it is over and e is OK */
    enum err e;
    const char *cause;
    int row, n_rows; /* the next to be merged, and how many there are */
};

struct scatter {
    struct scope *sc;
    const struct pg_query *q;
    const struct pg_map *map;
    struct part *parts;
    int n;
    int64_t until_ms;
};

static void end(struct scatter *s, struct part *p, enum err e)
{
    p->stage = OVER;
    p->e = e;
    if (e != OK) {
        p->cause = s->sc->cause;
        pg_answer_done(&p->a);
    } else {
        p->n_rows = pg_answer_rows(&p->a);
    }
}

static void fail(struct scatter *s, struct part *p, enum err e)
{
    end(s, p,
        scope_fail(s->sc, e, "database %s: %s: %s %s",
                   pg_pool_name(s->map->databases[p->database].pool), s->q->name, p->a.message,
                   p->a.sqlstate));
}

static void ask(struct scatter *s, struct part *p);

/* The connection failed under a question that may be asked again. */
static void ask_anew(struct scatter *s, struct part *p)
{
    enum err e;

    p->is_retry = true;
    pg_answer_done(&p->a);
    e = pg_lease_restart(s->sc, p->lease);
    if (e != OK) {
        end(s, p, e);
        return;
    }
    p->stage = CONNECTING;
    p->events = 0;
}

/* The exchange is over. */
static void settle(struct scatter *s, struct part *p, enum pg_fate fate)
{
    int64_t now_ms = clock_mono_ms();

    if (fate == PG_LOST || fate == PG_LATE) {
        pg_lease_lost(p->lease, fate, now_ms - p->start_ms);
        if (fate == PG_LOST && !p->is_retry) {
            ask_anew(s, p);
        } else {
            fail(s, p, fate == PG_LATE ? ERR_TIMED_OUT : ERR_DEPENDENCY_UNAVAILABLE);
        }
        return;
    }
    pg_pool_heard(p->lease->pool, p->lease->conn, now_ms);
    if (fate == PG_FINE) {
        end(s, p, OK);
        return;
    }
    if (pg_is_stale(p->a.sqlstate)) {
        pg_lease_drop(p->lease);
        if (!p->is_retry) {
            ask_anew(s, p);
            return;
        }
    }
    fail(s, p, pg_err_of_sqlstate(p->a.sqlstate));
}

/* Take a part as far as it goes without waiting. */
static void advance(struct scatter *s, struct part *p, bool is_ready)
{
    while (p->stage != OVER) {
        enum stage stage = p->stage;
        enum pg_fate fate = pg_conn_step(p->lease->conn, is_ready, &p->events, &p->a);
        enum err e;

        if (fate == PG_PENDING) {
            return;
        }
        is_ready = false;
        if (stage == ASKING) {
            settle(s, p, fate);
            continue;
        }
        e = pg_lease_connected(s->sc, p->lease, fate, clock_mono_ms() - p->start_ms, p->a.message);
        if (e == OK) {
            ask(s, p);
        } else {
            end(s, p, e);
        }
    }
}

static void ask(struct scatter *s, struct part *p)
{
    enum pg_fate fate = pg_conn_send(p->lease->conn, s->q, PG_OPENING_NONE, &p->a);

    s->sc->timing.db_count++;
    p->stage = ASKING;
    if (fate != PG_PENDING) {
        settle(s, p, fate);
    }
}

static void begin(struct scatter *s, struct part *p, int64_t lease_until_us)
{
    bool is_connecting;
    enum err e;

    p->a = (struct pg_answer){.rows = NULL};
    e = pg_lease_start(s->sc, s->map, p->database, lease_until_us, &p->lease, &is_connecting);
    p->start_ms = clock_mono_ms();
    if (e != OK) {
        end(s, p, e);
    } else if (is_connecting) {
        p->stage = CONNECTING;
        p->is_retry = true; /* no second try of a new connection */
    } else {
        ask(s, p);
    }
    advance(s, p, false);
}

/* Time is up for a part. */
static void give_up(struct scatter *s, struct part *p)
{
    int64_t waited_ms = clock_mono_ms() - p->start_ms;
    enum pg_fate fate = pg_conn_late(&p->a);

    if (p->stage == ASKING) {
        p->is_retry = true;
        settle(s, p, fate);
    } else {
        end(s, p, pg_lease_connected(s->sc, p->lease, fate, waited_ms, p->a.message));
    }
}

/* Wait for the parts that are not over; false: there is none. */
static bool wait_for_some(struct scatter *s, struct pollfd *fds)
{
    int64_t left_ms = s->until_ms - clock_mono_ms();
    int i, n_open = 0, n_ready;

    for (i = 0; i < s->n; i++) {
        bool is_open = s->parts[i].stage != OVER;

        n_open += is_open;
        fds[i] = (struct pollfd){.fd = is_open ? pg_conn_socket(s->parts[i].lease->conn) : -1,
                                 .events = s->parts[i].events};
    }
    if (n_open == 0) {
        return false;
    }
    n_ready = poll(fds, (nfds_t)s->n, left_ms > 0 ? (int)left_ms : 0);
    if (n_ready < 0 && errno != EINTR) {
        left_ms = 0;
    }
    for (i = 0; i < s->n; i++) {
        if (s->parts[i].stage == OVER) {
            continue;
        }
        if (n_ready > 0 && fds[i].revents != 0) {
            advance(s, &s->parts[i], true);
        } else if (left_ms <= 0) {
            give_up(s, &s->parts[i]);
        }
    }
    return true;
}

static void run(struct scatter *s)
{
    struct pollfd *fds = arena_array(s->sc->arena, struct pollfd, (size_t)s->n);
    int64_t start_us = clock_mono_us();
    int i;

    for (i = 0; i < s->n; i++) {
        s->parts[i].database = i;
        begin(s, &s->parts[i], start_us + scope_left_ms(s->sc, config()->pool_wait_ms) * 1000);
    }
    while (wait_for_some(s, fds)) {
    }
    s->sc->timing.db_us += clock_mono_us() - start_us;
}

static const char *key_of(const struct part *p)
{
    size_t len;
    const char *key = pg_answer_value(&p->a, p->row, 0, &len);

    return key != NULL ? key : "";
}

/* Keys are uuids, and their texts order as they do. */
static struct part *lowest(struct scatter *s)
{
    struct part *best = NULL;
    int i;

    for (i = 0; i < s->n; i++) {
        struct part *p = &s->parts[i];

        if (p->row < p->n_rows && (best == NULL || strcmp(key_of(p), key_of(best)) < 0)) {
            best = p;
        }
    }
    return best;
}

/* The page, out of what came. */
static enum err merge(struct scatter *s, const struct shape *shape, size_t max,
                      struct pg_page *page)
{
    struct part *p;
    int i;

    page->items = arena_alloc(s->sc->arena, max * shape->size);
    while (page->n < max && (p = lowest(s)) != NULL) {
        TRY(pg_row_read(s->sc, s->q, shape, &p->a, p->row++,
                        (char *)page->items + page->n * shape->size));
        page->n++;
    }
    for (i = 0; i < s->n; i++) {
        if (s->parts[i].row > 0) {
            pg_rows_keep(s->sc, &s->parts[i].a); /* texts of the page lie in there */
        }
    }
    return OK;
}

/* Count and tell what is missing; the error of the last where nothing is there. */
static enum err judge(struct scatter *s, struct pg_page *page)
{
    enum err e = OK;
    int i;

    for (i = 0; i < s->n; i++) {
        const struct part *p = &s->parts[i];

        if (p->e != OK) {
            page->n_shards_failed += s->map->databases[i].n_shards;
            e = p->e;
            s->sc->cause = p->cause;
            log_event(LOG_WARN, "scatter_partial", "request %s: %s: %s", s->sc->request_id,
                      err_info(e)->code, p->cause == NULL ? "" : p->cause);
        }
    }
    metrics_add(METRIC_SCATTER_FAILED, page->n_shards_failed);
    if (page->n_shards_failed == page->n_shards) {
        return e;
    }
    scope_forgive(s->sc);
    return OK;
}

enum err pg_scatter_page(struct scope *sc, struct pg_query q, const struct shape *shape, size_t max,
                         struct pg_page *page_out)
{
    struct scatter s = {.sc = sc,
                        .q = &q,
                        .map = pg_map_now(),
                        .until_ms =
                            clock_mono_ms() + scope_left_ms(sc, config()->db_scatter_timeout_ms)};
    enum err e;
    int i;

    assert(q.kind == PG_MANY && q.read_only);
    s.n = s.map->n_databases;
    *page_out = (struct pg_page){.n_shards = s.map->n_shards};
    s.parts = arena_array(sc->arena, struct part, (size_t)s.n);
    run(&s);
    e = judge(&s, page_out);
    if (e == OK) {
        e = merge(&s, shape, max, page_out);
    }
    for (i = 0; i < s.n; i++) {
        pg_answer_done(&s.parts[i].a);
    }
    return e;
}
