/* One table for the process says which node has a slot. Each entry is changed by itself, when a
 * node says so (MOVED) or with the whole map (CLUSTER SLOTS); an entry that is out of date costs
 * one more redirection, so nothing needs to agree with anything else. */
#include <pthread.h>
#include <stdatomic.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/redis_internal.h"
#include "lib/str.h"

enum {
    MOVES_MAX = 8,          /* redirections of one command: a map in motion needs two or three */
    PAUSE_FIRST_MS = 2,     /* before a command that was put off goes again; doubles */
    PAUSE_MAX_MS = 64,      /* … up to this */
    PAUSES_MAX = 12,        /* about 0.5 s in all */
    IMPATIENT_MS = 500,     /* after one has waited in vain, the others do not wait */
    REFRESH_EVERY_MS = 100, /* the map is asked for at most that often, however many miss it */
    REFRESH_ASKS_MAX = 4,   /* nodes asked for it in a row */
    REFRESH_ARENA = 1 << 20 /* a map of 1,000 ranges takes a quarter */
};

/* Polynomial 0x1021, nothing reflected, start 0 (CRC-16/XMODEM), a byte at a time. */
static const uint16_t crc16_table[256] = {
    0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5, 0x60c6, 0x70e7, 0x8108, 0x9129, 0xa14a, 0xb16b,
    0xc18c, 0xd1ad, 0xe1ce, 0xf1ef, 0x1231, 0x0210, 0x3273, 0x2252, 0x52b5, 0x4294, 0x72f7, 0x62d6,
    0x9339, 0x8318, 0xb37b, 0xa35a, 0xd3bd, 0xc39c, 0xf3ff, 0xe3de, 0x2462, 0x3443, 0x0420, 0x1401,
    0x64e6, 0x74c7, 0x44a4, 0x5485, 0xa56a, 0xb54b, 0x8528, 0x9509, 0xe5ee, 0xf5cf, 0xc5ac, 0xd58d,
    0x3653, 0x2672, 0x1611, 0x0630, 0x76d7, 0x66f6, 0x5695, 0x46b4, 0xb75b, 0xa77a, 0x9719, 0x8738,
    0xf7df, 0xe7fe, 0xd79d, 0xc7bc, 0x48c4, 0x58e5, 0x6886, 0x78a7, 0x0840, 0x1861, 0x2802, 0x3823,
    0xc9cc, 0xd9ed, 0xe98e, 0xf9af, 0x8948, 0x9969, 0xa90a, 0xb92b, 0x5af5, 0x4ad4, 0x7ab7, 0x6a96,
    0x1a71, 0x0a50, 0x3a33, 0x2a12, 0xdbfd, 0xcbdc, 0xfbbf, 0xeb9e, 0x9b79, 0x8b58, 0xbb3b, 0xab1a,
    0x6ca6, 0x7c87, 0x4ce4, 0x5cc5, 0x2c22, 0x3c03, 0x0c60, 0x1c41, 0xedae, 0xfd8f, 0xcdec, 0xddcd,
    0xad2a, 0xbd0b, 0x8d68, 0x9d49, 0x7e97, 0x6eb6, 0x5ed5, 0x4ef4, 0x3e13, 0x2e32, 0x1e51, 0x0e70,
    0xff9f, 0xefbe, 0xdfdd, 0xcffc, 0xbf1b, 0xaf3a, 0x9f59, 0x8f78, 0x9188, 0x81a9, 0xb1ca, 0xa1eb,
    0xd10c, 0xc12d, 0xf14e, 0xe16f, 0x1080, 0x00a1, 0x30c2, 0x20e3, 0x5004, 0x4025, 0x7046, 0x6067,
    0x83b9, 0x9398, 0xa3fb, 0xb3da, 0xc33d, 0xd31c, 0xe37f, 0xf35e, 0x02b1, 0x1290, 0x22f3, 0x32d2,
    0x4235, 0x5214, 0x6277, 0x7256, 0xb5ea, 0xa5cb, 0x95a8, 0x8589, 0xf56e, 0xe54f, 0xd52c, 0xc50d,
    0x34e2, 0x24c3, 0x14a0, 0x0481, 0x7466, 0x6447, 0x5424, 0x4405, 0xa7db, 0xb7fa, 0x8799, 0x97b8,
    0xe75f, 0xf77e, 0xc71d, 0xd73c, 0x26d3, 0x36f2, 0x0691, 0x16b0, 0x6657, 0x7676, 0x4615, 0x5634,
    0xd94c, 0xc96d, 0xf90e, 0xe92f, 0x99c8, 0x89e9, 0xb98a, 0xa9ab, 0x5844, 0x4865, 0x7806, 0x6827,
    0x18c0, 0x08e1, 0x3882, 0x28a3, 0xcb7d, 0xdb5c, 0xeb3f, 0xfb1e, 0x8bf9, 0x9bd8, 0xabbb, 0xbb9a,
    0x4a75, 0x5a54, 0x6a37, 0x7a16, 0x0af1, 0x1ad0, 0x2ab3, 0x3a92, 0xfd2e, 0xed0f, 0xdd6c, 0xcd4d,
    0xbdaa, 0xad8b, 0x9de8, 0x8dc9, 0x7c26, 0x6c07, 0x5c64, 0x4c45, 0x3ca2, 0x2c83, 0x1ce0, 0x0cc1,
    0xef1f, 0xff3e, 0xcf5d, 0xdf7c, 0xaf9b, 0xbfba, 0x8fd9, 0x9ff8, 0x6e17, 0x7e36, 0x4e55, 0x5e74,
    0x2e93, 0x3eb2, 0x0ed1, 0x1ef0,
};

/* Node of each slot, plus one; 0: not known. */
static _Atomic uint16_t slot_nodes[REDIS_SLOTS];

/* A slot's entry has been found wrong: the map is asked for with the next command. */
static _Atomic bool is_outdated;
static _Atomic int64_t impatient_mono_ms;
static _Atomic int n_nodes_seen;

/* Who asks for the map. Held while asking, so that the others wait for the answer. */
static pthread_mutex_t refresh_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic uint32_t refresh_count;
static _Atomic int64_t refresh_mono_ms;

int redis_slot(const char *key, size_t len)
{
    const char *open = memchr(key, '{', len);
    uint16_t crc = 0;
    size_t i;

    if (open != NULL) {
        const char *tag = open + 1;
        const char *end = memchr(tag, '}', len - (size_t)(tag - key));

        if (end != NULL && end != tag) {
            key = tag;
            len = (size_t)(end - tag);
        }
    }
    for (i = 0; i < len; i++) {
        crc = (uint16_t)(crc << 8 ^ crc16_table[(crc >> 8 ^ (uint8_t)key[i]) & 0xff]);
    }
    return crc % REDIS_SLOTS;
}

/* --- Reading what nodes say. --- */

/* Number of [low, high] at text, up to the end or a stop character. */
static bool parse_number(const char *text, size_t len, int64_t low, int64_t high, int *out)
{
    char copy[16];
    int64_t value;

    if (len == 0 || len >= sizeof(copy)) {
        return false;
    }
    memcpy(copy, text, len);
    copy[len] = '\0';
    if (!i64_parse(copy, &value) || value < low || value > high) {
        return false;
    }
    *out = (int)value;
    return true;
}

static bool set_host(struct redis_address *out, const char *host, size_t len)
{
    if (len >= sizeof(out->host) || memchr(host, '\0', len) != NULL) {
        return false;
    }
    memcpy(out->host, host, len);
    out->host[len] = '\0';
    return true;
}

/* "MOVED 3999 127.0.0.1:6381"; the host may be empty, or an IPv6 address without brackets. */
static bool parse_redirection(const char *text, int *slot_out, struct redis_address *out)
{
    const char *slot = strchr(text, ' ');
    const char *host = slot == NULL ? NULL : strchr(slot + 1, ' ');
    const char *colon = host == NULL ? NULL : strrchr(host, ':');

    if (colon == NULL || colon < host + 1) {
        return false;
    }
    return parse_number(slot + 1, (size_t)(host - slot - 1), 0, REDIS_SLOTS - 1, slot_out) &&
           set_host(out, host + 1, (size_t)(colon - host - 1)) &&
           parse_number(colon + 1, strlen(colon + 1), 1, 65535, &out->port);
}

enum redis_turn redis_turn_of(const struct redis_reply *reply, int *slot_out,
                              struct redis_address *address_out)
{
    static const char *const later[] = {"TRYAGAIN ", "LOADING ", "CLUSTERDOWN ", "MASTERDOWN "};
    enum redis_turn turn = REDIS_TURN_NONE;
    size_t i;

    if (reply->kind != REDIS_ERROR) {
        return REDIS_TURN_NONE;
    }
    if (has_prefix(reply->text, "MOVED ")) {
        turn = REDIS_TURN_MOVED;
    } else if (has_prefix(reply->text, "ASK ")) {
        turn = REDIS_TURN_ASK;
    }
    if (turn != REDIS_TURN_NONE) {
        return parse_redirection(reply->text, slot_out, address_out) ? turn : REDIS_TURN_NONE;
    }
    for (i = 0; i < ARRAY_LEN(later); i++) {
        if (has_prefix(reply->text, later[i])) {
            return REDIS_TURN_WAIT;
        }
    }
    return REDIS_TURN_NONE;
}

/* [host, port, ...]; a host that is nil or empty is that of the node that was asked. */
static bool parse_node(const struct redis_reply *node, const struct redis_address *asked,
                       struct redis_address *out)
{
    const struct redis_reply *host = node->items;

    if (node->kind != REDIS_LIST || node->n_items < 2 || node->items[1].kind != REDIS_INT ||
        node->items[1].integer < 1 || node->items[1].integer > UINT16_MAX) {
        return false;
    }
    *out = *asked;
    out->port = (int)node->items[1].integer;
    return host->kind == REDIS_NIL ||
           (host->kind == REDIS_TEXT &&
            (host->len == 0 || (host->text[0] != '?' && set_host(out, host->text, host->len))));
}

static bool is_slot(const struct redis_reply *number)
{
    return number->kind == REDIS_INT && number->integer >= 0 && number->integer < REDIS_SLOTS;
}

static bool same_address(const struct redis_address *a, const struct redis_address *b)
{
    return a->port == b->port && strcmp(a->host, b->host) == 0;
}

/* How many nodes the row of a master adds: the master and its replicas, at its first row. */
static int new_nodes(const struct redis_range *ranges, size_t n, const struct redis_reply *row)
{
    size_t i;

    for (i = 0; i < n; i++) {
        if (same_address(&ranges[i].master, &ranges[n].master)) {
            return 0;
        }
    }
    return (int)row->n_items - 2;
}

bool redis_ranges_parse(struct arena *a, const struct redis_reply *reply,
                        const struct redis_address *asked, struct redis_range **ranges_out,
                        size_t *n_out, int *nodes_out)
{
    struct redis_range *ranges;
    size_t i, n = 0;

    if (reply->kind != REDIS_LIST || reply->n_items > REDIS_SLOTS) {
        return false;
    }
    *nodes_out = 0;
    ranges = arena_array(a, struct redis_range, reply->n_items + 1);
    for (i = 0; i < reply->n_items; i++) {
        const struct redis_reply *row = &reply->items[i];

        if (row->kind != REDIS_LIST || row->n_items < 3 || !is_slot(&row->items[0]) ||
            !is_slot(&row->items[1]) || row->items[0].integer > row->items[1].integer) {
            return false;
        }
        ranges[n].first = (int)row->items[0].integer;
        ranges[n].last = (int)row->items[1].integer;
        if (parse_node(&row->items[2], asked, &ranges[n].master)) {
            *nodes_out += new_nodes(ranges, n, row);
            n++;
        }
    }
    *ranges_out = ranges;
    *n_out = n;
    return n > 0;
}

/* --- The map. --- */

/* Node of the slot; -1: not known, or gone. */
static int node_of_slot(int slot)
{
    int node = atomic_load_explicit(&slot_nodes[slot], memory_order_relaxed) - 1;

    return node >= 0 && redis_node_generation(node) != 0 ? node : -1;
}

static void set_slot(int slot, int node)
{
    atomic_store_explicit(&slot_nodes[slot], (uint16_t)(node + 1), memory_order_relaxed);
}

/* Enter the ranges, and forget nodes that have none. */
static void apply(const struct redis_range *ranges, size_t n)
{
    bool kept[REDIS_NODES_MAX] = {false};
    size_t i;
    int slot;

    for (i = 0; i < n; i++) {
        int node = redis_node_of(&ranges[i].master);

        for (slot = ranges[i].first; node >= 0 && slot <= ranges[i].last; slot++) {
            set_slot(slot, node);
        }
    }
    for (slot = 0; slot < REDIS_SLOTS; slot++) {
        int node = atomic_load_explicit(&slot_nodes[slot], memory_order_relaxed) - 1;

        if (node >= 0) {
            kept[node] = true;
        }
    }
    redis_nodes_keep(kept);
}

/* Ask one node for the map and enter it. The reason of a failure goes to the caller's arena. */
static bool ask_for_map(struct scope *sc, int node, int64_t limit_ms, const char **why_out)
{
    static const char *const text[] = {"CLUSTER", "SLOTS"};
    static const size_t len[] = {7, 5};
    const struct redis_command command = {ARRAY_LEN(text), text, len};
    struct arena *arena = arena_open(REFRESH_ARENA); /* a request's has no room for a large map */
    struct redis_address asked;
    struct redis_range *ranges;
    struct redis_reply reply;
    struct scope own;
    const char *why = NULL;
    size_t n;
    int n_seen;

    scope_init(&own, arena, limit_ms);
    (void)redis_node_address(node, &asked);
    if (redis_exchange(&own, node, false, &command, 1, limit_ms, &reply, &why) == REDIS_FINE) {
        if (redis_ranges_parse(arena, &reply, &asked, &ranges, &n, &n_seen)) {
            apply(ranges, n);
            atomic_store(&n_nodes_seen, n_seen);
        } else {
            why = reply.kind == REDIS_ERROR ? reply.text : "CLUSTER SLOTS: no slots";
        }
    }
    sc->timing.redis_us += own.timing.redis_us;
    sc->timing.redis_count += own.timing.redis_count;
    *why_out = why == NULL ? NULL : arena_printf(sc->arena, "%.200s", why);
    arena_close(&arena);
    return why == NULL;
}

/* A node that was not asked yet, from a random one on, those that are held back last; -1: no more.
 * A node that has just failed is held back from then on, so what was asked is told by name. */
static int candidate(int start, const int *asked, int n_asked)
{
    int n = redis_node_count(), turn, at, i;

    for (turn = 0; turn < 2; turn++) {
        for (at = 0; at < n; at++) {
            int node = (start + at) % n;

            for (i = 0; i < n_asked && asked[i] != node; i++) {
            }
            if (i == n_asked && redis_node_generation(node) != 0 &&
                redis_node_is_held(node) == (turn == 1)) {
                return node;
            }
        }
    }
    return -1;
}

static int64_t left_ms(int64_t until_ms)
{
    return until_ms - clock_mono_ms();
}

static bool ask_around(struct scope *sc, int64_t until_ms, const char **why_out)
{
    int64_t each_ms = config()->redis_timeout_ms / REFRESH_ASKS_MAX;
    int start = (int)(clock_mono_us() % REDIS_NODES_MAX), asked[REFRESH_ASKS_MAX], i;

    *why_out = "no node is known";
    for (i = 0; i < REFRESH_ASKS_MAX && (asked[i] = candidate(start, asked, i)) >= 0; i++) {
        int64_t limit_ms = left_ms(until_ms) < each_ms ? left_ms(until_ms) : each_ms;

        if (limit_ms <= 0) {
            *why_out = "no time left";
            return false;
        }
        if (ask_for_map(sc, asked[i], limit_ms, why_out)) {
            return true;
        }
    }
    return false;
}

/* Have a map that is newer than the one of the count seen. Waits for another thread that asks. */
static bool refresh(struct scope *sc, uint32_t seen, int64_t until_ms, const char **why_out)
{
    /* By the wall clock, which thread sanitizers know; who holds the lock has a limit as well, so a
     * step of that clock costs no more. */
    int64_t wall_ms = clock_wall_ms() + left_ms(until_ms);
    struct timespec until = {.tv_sec = (time_t)(wall_ms / 1000),
                             .tv_nsec = (long)(wall_ms % 1000 * 1000000)};
    bool is_good;

    *why_out = "the map was asked for a moment ago";
    if (pthread_mutex_timedlock(&refresh_lock, &until) != 0) {
        return false;
    }
    is_good = atomic_load(&refresh_count) != seen;
    if (!is_good && clock_mono_ms() >= atomic_load(&refresh_mono_ms)) {
        is_good = ask_around(sc, until_ms, why_out);
        atomic_store(&refresh_mono_ms, clock_mono_ms() + REFRESH_EVERY_MS);
        atomic_fetch_add(&refresh_count, is_good);
    }
    pthread_mutex_unlock(&refresh_lock);
    return is_good;
}

/* --- Routing. --- */

/* A command on its way. */
struct route {
    struct scope *sc;
    int slot; /* -1: any node will do */
    int64_t until_ms;
    int moves, pauses;
    int ask_node; /* -1: the slot's own */
    const char *why;
};

static struct route route_of(struct scope *sc, const char *key, int64_t limit_ms)
{
    return (struct route){.sc = sc,
                          .slot = *key == '\0' ? -1 : redis_slot(key, strlen(key)),
                          .until_ms = clock_mono_ms() + limit_ms,
                          .ask_node = -1};
}

/* The node to go to; -1: nobody knows. */
static int next_node(struct route *r)
{
    uint32_t seen = atomic_load(&refresh_count);
    int node;

    if (r->ask_node >= 0) {
        return r->ask_node;
    }
    if (r->slot < 0) {
        (void)redis_seeds();
        return candidate((int)(clock_mono_us() % REDIS_NODES_MAX), NULL, 0);
    }
    if (atomic_load_explicit(&is_outdated, memory_order_relaxed) &&
        clock_mono_ms() >= atomic_load(&refresh_mono_ms) && atomic_exchange(&is_outdated, false)) {
        const char *ignored;

        (void)refresh(r->sc, seen, r->until_ms, &ignored);
    }
    node = node_of_slot(r->slot);
    if (node < 0 && refresh(r->sc, seen, r->until_ms, &r->why)) {
        r->why = "no node has the slot";
        node = node_of_slot(r->slot);
    }
    return node;
}

/* The node was not reached, and nothing was sent. Has the slot another one meanwhile? */
static bool is_elsewhere(struct route *r, int node)
{
    const char *ignored;

    if (++r->moves > MOVES_MAX || left_ms(r->until_ms) <= 0) {
        return false;
    }
    if (r->ask_node >= 0 || r->slot < 0) {
        r->ask_node = -1;
        return true; /* the owner knows best; or: another node will do */
    }
    if (node_of_slot(r->slot) == node) {
        (void)refresh(r->sc, atomic_load(&refresh_count), r->until_ms, &ignored);
    }
    return node_of_slot(r->slot) != node && node_of_slot(r->slot) >= 0;
}

/* Follow MOVED or ASK from the node. False: that leads nowhere. */
static bool follow(struct route *r, int node, enum redis_turn turn, int slot,
                   struct redis_address *to)
{
    struct redis_address from;
    int next;

    if (++r->moves > MOVES_MAX || left_ms(r->until_ms) <= 0) {
        return false;
    }
    if (*to->host == '\0') {
        (void)redis_node_address(node, &from);
        memcpy(to->host, from.host, sizeof(to->host));
    }
    next = redis_node_of(to);
    r->ask_node = turn == REDIS_TURN_ASK ? next : -1;
    if (turn == REDIS_TURN_MOVED && next >= 0) {
        set_slot(slot, next);
        atomic_store(&is_outdated, true);
    }
    return next >= 0;
}

/* Let some time pass before the command goes again. False: it is not worth more waiting. */
static bool put_off(struct route *r, const struct redis_reply *reply)
{
    bool is_slots = has_prefix(reply->text, "TRYAGAIN "); /* of a slot that moves: soon over */
    int64_t ms = r->pauses > 5 ? PAUSE_MAX_MS : (int64_t)PAUSE_FIRST_MS << r->pauses;

    r->ask_node = -1;
    if (!is_slots) {
        atomic_store(&is_outdated, true);
    }
    if (!is_slots && clock_mono_ms() < atomic_load(&impatient_mono_ms)) {
        return false;
    }
    ms -= clock_mono_us() % (ms / 2 + 1);
    if (++r->pauses > PAUSES_MAX || left_ms(r->until_ms) <= ms) {
        if (!is_slots) {
            atomic_store(&impatient_mono_ms, clock_mono_ms() + IMPATIENT_MS);
        }
        return false;
    }
    clock_nap_ms(ms);
    return true;
}

/* Where the command goes after this answer. False: the answer stands. */
static bool goes_on(struct route *r, int node, const struct redis_reply *reply)
{
    struct redis_address to;
    int slot;
    enum redis_turn turn = redis_turn_of(reply, &slot, &to);

    switch (turn) {
    case REDIS_TURN_MOVED:
    case REDIS_TURN_ASK:
        return follow(r, node, turn, slot, &to);
    case REDIS_TURN_WAIT:
        return put_off(r, reply);
    default:
        return false;
    }
}

enum err redis_cluster_run(struct scope *sc, const char *key, const struct redis_command *command,
                           int64_t limit_ms, struct redis_reply *reply_out)
{
    struct route r = route_of(sc, key, limit_ms);

    for (;;) {
        int node = next_node(&r);
        enum redis_fate fate;

        if (node < 0) {
            return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "redis: cluster map: %s", r.why);
        }
        fate = redis_exchange(sc, node, r.ask_node >= 0, command, 1, left_ms(r.until_ms), reply_out,
                              &r.why);
        if (fate == REDIS_FINE) {
            if (!goes_on(&r, node, reply_out)) {
                return OK;
            }
        } else if (fate == REDIS_LOST || !is_elsewhere(&r, node)) {
            atomic_store(&is_outdated, true);
            return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "redis: %s", r.why);
        }
    }
}

enum err redis_cluster_node(struct scope *sc, const char *key, int64_t limit_ms, int *node_out)
{
    struct route r = route_of(sc, key, limit_ms);

    *node_out = next_node(&r);
    return *node_out >= 0 ? OK
                          : scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "redis: cluster map: %s",
                                       r.why == NULL ? "no node is known" : r.why);
}

enum err redis_cluster_masters(struct scope *sc, int64_t limit_ms, int *nodes_out, size_t max,
                               size_t *n_out)
{
    bool is_listed[REDIS_NODES_MAX] = {false};
    const char *why;
    int slot;

    (void)redis_seeds();
    *n_out = 0;
    (void)refresh(sc, atomic_load(&refresh_count), clock_mono_ms() + limit_ms, &why);
    for (slot = 0; slot < REDIS_SLOTS; slot++) {
        int node = node_of_slot(slot);

        if (node >= 0 && !is_listed[node] && *n_out < max) {
            is_listed[node] = true;
            nodes_out[(*n_out)++] = node;
        }
    }
    if (*n_out == 0) {
        return scope_fail(sc, ERR_DEPENDENCY_UNAVAILABLE, "redis: cluster map: %s", why);
    }
    return OK;
}

int redis_nodes(void)
{
    return atomic_load(&n_nodes_seen);
}
