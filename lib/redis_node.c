/* A table of nodes that only grows and re-uses: a number and its generation stand for an address,
 * so a thread sees by one load that its connection belongs to a node that is gone. Hold-back is
 * kept with the instance, by address, since one thread's failure is news for all its processes. */
#include <pthread.h>
#include <stdatomic.h>

#include "lib/clock.h"
#include "lib/config.h"
#include "lib/instance.h"
#include "lib/redis_internal.h"
#include "lib/str.h"

enum {
    BACKOFF_FIRST_MS = 20,
    BACKOFF_MAX_MS = 500,
    PROBE_GRACE_PART = 4, /* of its limit: a prober may tell that much later */
    SUSPECT_WAITING = 3,  /* with the one who asks: one or two may wait for dear work */
    PORT_DEFAULT = 6379,
    PORT_MAX = 65535
};

/* Words of a node's hold-back: failures in a row, when the last was, when one may probe, and
 * whether it accepts and does not answer. */
enum { HOLD_FAILURES, HOLD_FAILED_MS, HOLD_RETRY_MS, HOLD_SILENT, HOLD_WORDS };

_Static_assert((int)HOLD_WORDS <= (int)INSTANCE_TOPIC_WORDS, "a hold-back fits into a topic");

struct node {
    _Atomic(_Atomic int64_t *) hold; /* the instance's, or own */
    _Atomic int64_t own[HOLD_WORDS]; /* where the instance has no room */
    _Atomic int n_waiting;           /* threads of this process */
    _Atomic int64_t sign_mono_ms;    /* of its last answer, or since when somebody waits */
    _Atomic uint32_t generation;     /* odd: in use */
    struct redis_address address;    /* under the lock */
};

static struct node nodes[REDIS_NODES_MAX];
static struct redis_seeds seeds;
static _Atomic(const char *) seeds_url; /* what they were read from */
static _Atomic int n_used;              /* numbers ever used; changed under the lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static _Atomic int64_t *hold_of(int node)
{
    _Atomic int64_t *hold = atomic_load_explicit(&nodes[node].hold, memory_order_acquire);

    return hold != NULL ? hold : nodes[node].own; /* NULL: it is about to be entered */
}

static bool is_in_use(int node)
{
    return atomic_load_explicit(&nodes[node].generation, memory_order_acquire) % 2 == 1;
}

/* Give the unused number to the address. Under the lock. */
static void enter(int node, const struct redis_address *address)
{
    struct node *n = &nodes[node];
    char name[REDIS_HOST_SIZE + 32];
    _Atomic int64_t *shared;
    int i;

    snprintf(name, sizeof(name), "redis %s:%d", address->host, address->port);
    shared = instance_topic(name);
    n->address = *address;
    for (i = 0; i < HOLD_WORDS; i++) {
        atomic_store(&n->own[i], 0);
    }
    atomic_store(&n->hold, shared != NULL ? shared : n->own);
    atomic_fetch_add(&n->generation, 1);
}

/* --- REDIS_URL. --- */

/* Copy with %XX decoded; a '%' that begins no escape stands for itself. */
static bool decode(const char *text, size_t len, char *out, size_t size)
{
    size_t i, n = 0;

    for (i = 0; i < len; i++) {
        char c = text[i];

        if (c == '%' && i + 2 < len && hex_digit(text[i + 1]) >= 0 && hex_digit(text[i + 2]) >= 0) {
            c = (char)(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
            i += 2;
        }
        if (c == '\0' || n + 1 >= size) {
            return false;
        }
        out[n++] = c;
    }
    out[n] = '\0';
    return true;
}

/* [user]:password, or the password alone. */
static bool parse_credentials(const char *text, size_t len, struct redis_seeds *out)
{
    const char *colon = memchr(text, ':', len);
    size_t user_len = colon == NULL ? 0 : (size_t)(colon - text);
    size_t skip = colon == NULL ? 0 : user_len + 1;

    return decode(text, user_len, out->user, sizeof(out->user)) &&
           decode(text + skip, len - skip, out->password, sizeof(out->password));
}

static bool parse_port(const char *text, size_t len, int *out)
{
    char copy[8];
    int64_t port;

    if (len == 0 || len >= sizeof(copy)) {
        return false;
    }
    memcpy(copy, text, len);
    copy[len] = '\0';
    if (!i64_parse(copy, &port) || port < 1 || port > PORT_MAX) {
        return false;
    }
    *out = (int)port;
    return true;
}

/* host[:port][/0] of len bytes; an IPv6 address stands in brackets. */
static bool parse_host(const char *text, size_t len, struct redis_address *out)
{
    bool is_bracketed = len > 0 && *text == '[';
    const char *path = memchr(text, '/', len);
    size_t host_len;
    const char *host = text + is_bracketed, *end;

    if (path != NULL) {
        size_t path_len = len - (size_t)(path - text);

        if (path_len > 2 || (path_len == 2 && path[1] != '0')) {
            return false; /* a cluster has database 0 only, so nobody gets another */
        }
        len -= path_len;
    }
    end = memchr(text, is_bracketed ? ']' : ':', len);
    if (is_bracketed && end == NULL) {
        return false;
    }
    host_len = end == NULL ? len : (size_t)(end - host);
    if (host_len == 0 || host_len >= sizeof(out->host)) {
        return false;
    }
    memcpy(out->host, host, host_len);
    out->host[host_len] = '\0';
    out->port = PORT_DEFAULT;
    end = end == NULL ? text + len : end + is_bracketed;
    len -= (size_t)(end - text);
    return len == 0 || (*end == ':' && parse_port(end + 1, len - 1, &out->port));
}

static bool parse_one(const char *text, size_t len, struct redis_seeds *out)
{
    static const char scheme[] = "redis://";
    bool has_scheme = len >= sizeof(scheme) - 1 && has_prefix(text, scheme);
    const char *at;

    if (out->n == REDIS_SEEDS_MAX || (!has_scheme && out->n == 0)) {
        return false;
    }
    text += has_scheme ? sizeof(scheme) - 1 : 0;
    len -= has_scheme ? sizeof(scheme) - 1 : 0;
    at = memrchr(text, '@', len);
    if (at != NULL) {
        if (!parse_credentials(text, (size_t)(at - text), out)) {
            return false;
        }
        len -= (size_t)(at + 1 - text);
        text = at + 1;
    }
    return parse_host(text, len, &out->addresses[out->n++]);
}

bool redis_url_parse(const char *url, struct redis_seeds *out)
{
    memset(out, 0, sizeof(*out));
    for (;;) {
        size_t len = strcspn(url, ",");

        if (!parse_one(url, len, out)) {
            return false;
        }
        if (url[len] == '\0') {
            return true;
        }
        url += len + 1;
    }
}

/* Make the seeds the only nodes. Connections to the others are dropped when they are looked at. */
static void enter_seeds(void)
{
    int i, n = (int)seeds.n;

    for (i = 0; i < atomic_load(&n_used); i++) {
        if (is_in_use(i)) {
            atomic_fetch_add(&nodes[i].generation, 1);
        }
    }
    for (i = 0; i < n; i++) {
        enter(i, &seeds.addresses[i]);
    }
    if (n > atomic_load(&n_used)) {
        atomic_store(&n_used, n);
    }
}

const struct redis_seeds *redis_seeds(void)
{
    const char *url = config()->redis_url;

    if (atomic_load_explicit(&seeds_url, memory_order_acquire) != url) {
        const char *old;

        pthread_mutex_lock(&lock);
        old = atomic_load(&seeds_url);
        /* A reload gives the same text at another place; only tests change it. */
        if (old == NULL || strcmp(old, url) != 0) {
            if (!redis_url_parse(url, &seeds)) {
                seeds.n = 0;
            }
            enter_seeds();
        }
        atomic_store_explicit(&seeds_url, url, memory_order_release);
        pthread_mutex_unlock(&lock);
    }
    return &seeds;
}

/* --- The table. --- */

static bool equal(const struct redis_address *a, const struct redis_address *b)
{
    return a->port == b->port && strcmp(a->host, b->host) == 0;
}

int redis_node_of(const struct redis_address *address)
{
    int i, found = -1, unused = -1;

    (void)redis_seeds(); /* they have the first numbers */
    pthread_mutex_lock(&lock);
    for (i = 0; i < atomic_load(&n_used) && found < 0; i++) {
        if (!is_in_use(i)) {
            unused = i;
        } else if (equal(&nodes[i].address, address)) {
            found = i;
        }
    }
    if (found < 0 && unused < 0 && atomic_load(&n_used) < REDIS_NODES_MAX) {
        unused = atomic_fetch_add(&n_used, 1);
    }
    if (found < 0 && unused >= 0) {
        found = unused;
        enter(found, address);
    }
    pthread_mutex_unlock(&lock);
    return found;
}

int redis_node_count(void)
{
    (void)redis_seeds();
    return atomic_load(&n_used);
}

uint32_t redis_node_address(int node, struct redis_address *address_out)
{
    uint32_t generation;

    pthread_mutex_lock(&lock);
    *address_out = nodes[node].address;
    generation = redis_node_generation(node);
    pthread_mutex_unlock(&lock);
    return generation;
}

uint32_t redis_node_generation(int node)
{
    uint32_t generation = atomic_load_explicit(&nodes[node].generation, memory_order_acquire);

    return generation % 2 == 1 ? generation : 0;
}

void redis_nodes_keep(const bool kept[REDIS_NODES_MAX])
{
    int i;

    pthread_mutex_lock(&lock);
    for (i = (int)seeds.n; i < atomic_load(&n_used); i++) {
        if (!kept[i] && is_in_use(i)) {
            atomic_fetch_add(&nodes[i].generation, 1);
        }
    }
    pthread_mutex_unlock(&lock);
}

/* --- Hold-back. --- */

static int64_t backoff_ms(int64_t failures)
{
    int64_t ms = failures > 5 ? BACKOFF_MAX_MS : (int64_t)BACKOFF_FIRST_MS << (failures - 1);

    return ms > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : ms;
}

/* Several wait, and for BULKHEAD_WAIT_MS none has had an answer: the node stands still. Waiting
 * for the first time-out would bind every thread that serves its keys, and with them those that
 * could serve others'. */
static bool stands_still(const struct node *n)
{
    return atomic_load_explicit(&n->n_waiting, memory_order_relaxed) >= SUSPECT_WAITING &&
           clock_mono_ms() - atomic_load_explicit(&n->sign_mono_ms, memory_order_relaxed) >=
               config()->bulkhead_wait_ms;
}

bool redis_node_may_try(int node, bool is_open, int64_t limit_ms)
{
    _Atomic int64_t *hold = hold_of(node);
    int64_t now_ms, retry_ms;

    if (atomic_load_explicit(&hold[HOLD_SILENT], memory_order_relaxed) == 0 &&
        stands_still(&nodes[node])) {
        redis_node_failed(node, true);
    }
    if (atomic_load_explicit(&hold[HOLD_FAILURES], memory_order_relaxed) == 0 ||
        (is_open && !atomic_load_explicit(&hold[HOLD_SILENT], memory_order_relaxed))) {
        return true;
    }
    now_ms = clock_mono_ms();
    retry_ms = atomic_load(&hold[HOLD_RETRY_MS]);
    return now_ms >= retry_ms &&
           atomic_compare_exchange_strong(&hold[HOLD_RETRY_MS], &retry_ms,
                                          now_ms + limit_ms + limit_ms / PROBE_GRACE_PART);
}

void redis_node_asked(int node, int64_t now_ms)
{
    if (atomic_fetch_add(&nodes[node].n_waiting, 1) == 0) {
        atomic_store(&nodes[node].sign_mono_ms, now_ms);
    }
}

void redis_node_told(int node, bool is_answer, int64_t now_ms)
{
    if (is_answer) {
        atomic_store(&nodes[node].sign_mono_ms, now_ms);
    }
    atomic_fetch_sub(&nodes[node].n_waiting, 1);
}

void redis_node_failed(int node, bool is_silent)
{
    _Atomic int64_t *hold = hold_of(node);
    int64_t failures = atomic_load(&hold[HOLD_FAILURES]), now_ms = clock_mono_ms(), ms;

    if (is_silent) {
        atomic_store(&hold[HOLD_SILENT], 1);
    }
    /* Threads that fail together tell one failure, not many. */
    if (failures > 0 &&
        now_ms - atomic_load(&hold[HOLD_FAILED_MS]) < backoff_ms(failures) * 3 / 4) {
        return;
    }
    if (atomic_compare_exchange_strong(&hold[HOLD_FAILURES], &failures, failures + 1)) {
        ms = backoff_ms(failures + 1);
        atomic_store(&hold[HOLD_FAILED_MS], now_ms);
        /* Less up to a quarter, so that instances do not come back in step. */
        atomic_store(&hold[HOLD_RETRY_MS], now_ms + ms - clock_mono_us() % (ms / 4 + 1));
    }
}

void redis_node_answered(int node, bool is_fresh)
{
    _Atomic int64_t *hold = hold_of(node);

    if (atomic_load_explicit(&hold[HOLD_FAILURES], memory_order_relaxed) > 0 &&
        (is_fresh || atomic_load(&hold[HOLD_SILENT]) != 0)) {
        atomic_store(&hold[HOLD_SILENT], 0);
        atomic_store(&hold[HOLD_FAILURES], 0);
    }
}

bool redis_node_is_held(int node)
{
    _Atomic int64_t *hold = hold_of(node);

    return atomic_load(&hold[HOLD_FAILURES]) > 0 &&
           clock_mono_ms() < atomic_load(&hold[HOLD_RETRY_MS]);
}

enum breaker_state redis_breaker(void)
{
    enum breaker_state worst = BREAKER_CLOSED;
    int i;

    for (i = 0; i < redis_node_count(); i++) {
        if (is_in_use(i) && atomic_load(&hold_of(i)[HOLD_FAILURES]) > 0) {
            if (redis_node_is_held(i)) {
                return BREAKER_OPEN;
            }
            worst = BREAKER_HALF_OPEN;
        }
    }
    return worst;
}
