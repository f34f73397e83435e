/* The kernel knows who lives: each process holds an open-file-description lock on its slot's
 * byte, and such locks end with the last descriptor. What must never be seen half done is either
 * one atomic word or done under the lock of byte 0, in steps that may be repeated. */
#include "lib/instance.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/breaker.h"
#include "lib/clock.h"
#include "lib/log.h"

enum {
    PAGE = 4096,
    LOCK_WAIT_MS = 5000, /* the lock is held for microseconds; longer means a stopped process */
    LOCK_BYTE = 0,       /* byte of the lock on the file; slot i has byte 1 + i */
    LAYOUT_VERSION = 3
};

#define MAGIC UINT64_C(0x6d61786273686d31) /* "maxbshm1" */

/* UNUSED → LIVE → FREED → LIVE …; LIVE whose lock is free is dead but not cleaned up yet. */
enum slot_state { SLOT_UNUSED, SLOT_LIVE, SLOT_FREED };

struct slot {
    _Atomic uint32_t state;
    int32_t pid; /* for people */
    int64_t since_ms;
};

/* Its key once entered stays; whoever comes first enters it. */
struct topic {
    _Atomic uint64_t key;
    _Atomic int64_t words[INSTANCE_TOPIC_WORDS];
};

struct header {
    _Atomic uint64_t magic; /* written last */
    uint32_t version;
    uint64_t area_bytes;
    uint64_t area_layout;
    _Alignas(64) struct slot slots[INSTANCE_SLOTS];
    /* Hashes of the pools' names, 0 free: here, since a look into the file's holes fills them. */
    _Atomic uint64_t pool_keys[INSTANCE_POOLS];
    struct topic topics[INSTANCE_TOPICS];
};

/* What is shared of a pool. Entered under the lock of byte 0, its key last; then it stays. */
struct pool_slot {
    _Atomic uint64_t breaker;
    _Atomic int64_t counters[INSTANCE_COUNTERS];
    _Alignas(64) char sets[]; /* leases, then open connections */
};

static struct {
    struct header *base;
    size_t size, board_at, pools_at, pool_stride, areas_at, area_stride;
    int fd;       /* holds the lock of our slot; -1: private memory */
    int probe_fd; /* a second description, for which our own locks are foreign */
    int slot;
    pthread_mutex_t mutex; /* one thread at a time uses probe_fd */
} self = {.fd = -1, .probe_fd = -1, .mutex = PTHREAD_MUTEX_INITIALIZER};

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static void plan_sizes(const struct instance_plan *plan)
{
    self.board_at = round_up(sizeof(struct header), PAGE);
    self.pools_at = self.board_at + INSTANCE_BOARD_BYTES;
    self.pool_stride = round_up(sizeof(struct pool_slot) + permit_set_size(INSTANCE_LEASES_MAX) +
                                    permit_set_size(INSTANCE_OPEN_MAX),
                                PAGE);
    self.areas_at = self.pools_at + self.pool_stride * INSTANCE_POOLS;
    self.area_stride = round_up(plan->area_bytes + 1, PAGE);
    self.size = self.areas_at + self.area_stride * INSTANCE_SLOTS;
}

static bool lock_byte(int fd, off_t byte, short type)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_SETLK, &l) == 0;
}

/* The lock of the file, with a bound: F_OFD_SETLKW has none. */
static bool lock_file(int fd, int64_t wait_ms)
{
    int64_t until_ms = clock_mono_ms() + wait_ms;

    while (!lock_byte(fd, LOCK_BYTE, F_WRLCK)) {
        if ((errno != EAGAIN && errno != EACCES) || clock_mono_ms() >= until_ms) {
            return false;
        }
        clock_nap_ms(1);
    }
    return true;
}

static void unlock_file(int fd)
{
    lock_byte(fd, LOCK_BYTE, F_UNLCK);
}

/* Is the path still the file that we have open? */
static bool is_same_file(int fd, const char *path)
{
    struct stat ours, theirs;

    return fstat(fd, &ours) == 0 && stat(path, &theirs) == 0 && ours.st_ino == theirs.st_ino &&
           ours.st_dev == theirs.st_dev;
}

/* Give an empty file its size; real memory only for what is used, so that a full /dev/shm is an
 * error here and no SIGBUS later. */
static bool size_file(int fd)
{
    return ftruncate(fd, 0) == 0 && ftruncate(fd, (off_t)self.size) == 0 &&
           posix_fallocate(fd, 0, (off_t)self.pools_at) == 0;
}

enum verdict { FILE_OURS, FILE_NEW, FILE_OTHER_LAYOUT, FILE_FOREIGN };

/* What is in the file? A file of zeros is one whose maker died on the way. */
static enum verdict judge_file(int fd, const struct instance_plan *plan)
{
    struct stat st;
    struct header head;
    ssize_t got;

    memset(&head, 0, sizeof(head));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid()) {
        return FILE_FOREIGN;
    }
    got = pread(fd, &head, sizeof(head), 0);
    if (got < 0 || (head.magic != MAGIC && head.magic != 0)) {
        return FILE_FOREIGN;
    }
    if (head.magic == 0) {
        return FILE_NEW;
    }
    if (st.st_size != (off_t)self.size || head.version != LAYOUT_VERSION ||
        head.area_bytes != plan->area_bytes || head.area_layout != plan->area_layout) {
        return FILE_OTHER_LAYOUT;
    }
    return FILE_OURS;
}

static void fill_header(const struct instance_plan *plan)
{
    struct header *h = self.base;

    h->version = LAYOUT_VERSION;
    h->area_bytes = plan->area_bytes;
    h->area_layout = plan->area_layout;
    atomic_store(&h->magic, MAGIC);
}

static bool map(int fd)
{
    int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *p = mmap(NULL, self.size, PROT_READ | PROT_WRITE, flags, fd, 0);

    self.base = p == MAP_FAILED ? NULL : p;
    return self.base != NULL;
}

/* Open the file and lock it; what is at the path may change meanwhile. -1 with a reason where it
 * cannot be used. */
static int open_locked(const struct instance_plan *plan, enum verdict *verdict, const char **reason)
{
    int tries;

    *reason = "it keeps changing";
    for (tries = 0; tries < 10; tries++) {
        int fd = open(plan->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0) {
            *reason = strerror(errno);
            return -1;
        }
        if (!lock_file(fd, LOCK_WAIT_MS)) {
            *reason = "its lock is held by a process that does not move";
            close(fd);
            return -1;
        }
        *verdict = judge_file(fd, plan);
        if (*verdict == FILE_FOREIGN) {
            *reason = "it is not ours";
            close(fd);
            return -1;
        }
        if (is_same_file(fd, plan->path) && *verdict != FILE_OTHER_LAYOUT) {
            return fd;
        }
        if (is_same_file(fd, plan->path)) {
            unlink(plan->path);
        }
        close(fd);
    }
    return -1;
}

/* --- Pools. --- */

static struct pool_slot *pool_at(int i)
{
    return (void *)((char *)self.base + self.pools_at + self.pool_stride * (size_t)i);
}

static struct instance_pool shares_of(struct pool_slot *p)
{
    return (struct instance_pool){
        .leases = (void *)p->sets,
        .opens = (void *)(p->sets + permit_set_size(INSTANCE_LEASES_MAX)),
        .breaker = &p->breaker,
        .counters = p->counters,
    };
}

static struct instance_pool init_pool(struct pool_slot *p)
{
    struct instance_pool shares = shares_of(p);

    permit_set_init(shares.leases, INSTANCE_LEASES_MAX);
    permit_set_init(shares.opens, INSTANCE_OPEN_MAX);
    return shares;
}

/* FNV-1a, never 0. */
static uint64_t hash_of(const char *name)
{
    uint64_t hash = UINT64_C(14695981039346656037);

    for (; *name != '\0'; name++) {
        hash = (hash ^ (uint8_t)*name) * UINT64_C(1099511628211);
    }
    return hash != 0 ? hash : 1;
}

_Atomic int64_t *instance_topic(const char *name)
{
    uint64_t key = hash_of(name);
    size_t i;

    for (i = 0; self.base != NULL && i < INSTANCE_TOPICS; i++) {
        struct topic *t = &self.base->topics[(key + i) % INSTANCE_TOPICS];
        uint64_t found = 0;

        if (atomic_compare_exchange_strong(&t->key, &found, key) || found == key) {
            return t->words;
        }
    }
    return NULL;
}

/* The slot of that key, or the free one where it belongs. -1: all are taken. */
static int find_pool(uint64_t key)
{
    int first = (int)(key % INSTANCE_POOLS), i = first;

    do {
        uint64_t found = atomic_load(&self.base->pool_keys[i]);

        if (found == key || found == 0) {
            return i;
        }
        i = (i + 1) % INSTANCE_POOLS;
    } while (i != first);
    return -1;
}

static bool enter_pool(int i, uint64_t key)
{
    off_t at = (off_t)(self.pools_at + self.pool_stride * (size_t)i);

    if (self.fd >= 0 && posix_fallocate(self.fd, at, (off_t)self.pool_stride) != 0) {
        return false;
    }
    init_pool(pool_at(i)); /* may have been done before, by somebody who died then */
    atomic_store(&self.base->pool_keys[i], key);
    return true;
}

/* Room of this process's own, for ever. */
static struct instance_pool private_pool(const char *name)
{
    struct pool_slot *p = aligned_alloc(64, self.pool_stride);

    log_event(LOG_WARN, "instance_pool_private",
              "%s does not fit into the shared memory: its limits are this process's own", name);
    if (p == NULL) {
        abort();
    }
    memset(p, 0, self.pool_stride);
    return init_pool(p);
}

struct instance_pool instance_pool(const char *name)
{
    uint64_t key = hash_of(name);
    bool is_entered = false;
    int i;

    pthread_mutex_lock(&self.mutex);
    if (self.probe_fd < 0 || lock_file(self.probe_fd, LOCK_WAIT_MS)) {
        i = find_pool(key);
        is_entered = i >= 0 && (self.base->pool_keys[i] == key || enter_pool(i, key));
        if (self.probe_fd >= 0) {
            unlock_file(self.probe_fd);
        }
    }
    pthread_mutex_unlock(&self.mutex);
    return is_entered ? shares_of(pool_at(i)) : private_pool(name);
}

/* What a process that died had: its permits, and maybe a probe that a breaker waits for. Whose
 * probe it is is not known, so at worst another one joins it. */
static void free_what_was_of(int slot)
{
    int i;

    for (i = 0; i < INSTANCE_POOLS; i++) {
        struct breaker breaker = {.word = &pool_at(i)->breaker};

        if (atomic_load(&self.base->pool_keys[i]) != 0) {
            permit_reclaim(shares_of(pool_at(i)).leases, (uint16_t)(slot + 1));
            permit_reclaim(shares_of(pool_at(i)).opens, (uint16_t)(slot + 1));
            breaker_forget_probe(&breaker);
        }
    }
}

void *instance_board(void)
{
    return (char *)self.base + self.board_at;
}

/* --- Slots. --- */

static void *area_at(int slot)
{
    return (char *)self.base + self.areas_at + self.area_stride * (size_t)slot;
}

static void settle_in(int slot)
{
    struct slot *s = &self.base->slots[slot];

    if (atomic_load(&s->state) == SLOT_LIVE) {
        free_what_was_of(slot);
    }
    s->pid = (int32_t)getpid();
    s->since_ms = clock_wall_ms();
    atomic_store(&s->state, SLOT_LIVE);
    self.slot = slot;
}

/* The first slot that was used and whose process is gone, else the first unused one: so the
 * number of areas stays at the most processes that ever lived at once. */
static bool claim_slot(void)
{
    int pass, i;

    for (pass = 0; pass < 2; pass++) {
        for (i = 0; i < INSTANCE_SLOTS; i++) {
            bool is_unused = atomic_load(&self.base->slots[i].state) == SLOT_UNUSED;
            off_t at = (off_t)(self.areas_at + self.area_stride * (size_t)i);

            if (is_unused != (pass == 1) || !lock_byte(self.fd, 1 + i, F_WRLCK)) {
                continue;
            }
            if (posix_fallocate(self.fd, at, (off_t)self.area_stride) != 0) {
                lock_byte(self.fd, 1 + i, F_UNLCK);
                return false;
            }
            settle_in(i);
            return true;
        }
    }
    return false;
}

/* Does somebody hold the slot's lock? Ours is not asked: it is held by another description of
 * this process. */
static bool is_alive(int slot)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 1 + slot, .l_len = 1};

    if (slot == self.slot) {
        return true;
    }
    return self.probe_fd >= 0 && fcntl(self.probe_fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}

static bool is_first_of_instance(void)
{
    int i;

    for (i = 0; i < INSTANCE_SLOTS; i++) {
        if (i != self.slot && self.base->slots[i].state == SLOT_LIVE && is_alive(i)) {
            return false;
        }
    }
    return true;
}

/* The first process of an instance forgets what the last ones thought of dependencies (their clock
 * may have been another boot's), and old databases where they are many, so that they do not fill
 * the table for ever. Nobody else looks at any of it then, since we hold the lock. */
static void forget_the_past(void)
{
    int i, n = 0;

    if (!is_first_of_instance()) {
        return;
    }
    memset(self.base->topics, 0, sizeof(self.base->topics));
    for (i = 0; i < INSTANCE_POOLS; i++) {
        n += self.base->pool_keys[i] != 0;
    }
    for (i = 0; i < INSTANCE_POOLS; i++) {
        if (self.base->pool_keys[i] != 0) {
            atomic_store(&pool_at(i)->breaker, 0);
        }
        if (n > INSTANCE_POOLS / 2 && atomic_exchange(&self.base->pool_keys[i], 0) != 0) {
            memset(pool_at(i), 0, self.pool_stride);
        }
    }
}

/* Everything about the shared file; false with a reason where it cannot be used. */
static bool open_shared(const struct instance_plan *plan, const char **reason)
{
    enum verdict verdict;
    bool is_good;

    self.fd = open_locked(plan, &verdict, reason);
    if (self.fd < 0) {
        return false;
    }
    *reason = "no room or no free slot";
    self.probe_fd = open(plan->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    is_good = self.probe_fd >= 0 && is_same_file(self.probe_fd, plan->path) &&
              (verdict == FILE_OURS || size_file(self.fd)) && map(self.fd);
    if (is_good && verdict == FILE_NEW) {
        fill_header(plan);
    }
    is_good = is_good && claim_slot();
    if (is_good) {
        forget_the_past();
    }
    unlock_file(self.fd);
    return is_good;
}

static void drop(void)
{
    if (self.base != NULL) {
        munmap(self.base, self.size);
    }
    if (self.fd >= 0) {
        close(self.fd);
    }
    if (self.probe_fd >= 0) {
        close(self.probe_fd);
    }
    self.base = NULL;
    self.fd = self.probe_fd = -1;
}

void instance_open(const struct instance_plan *plan)
{
    const char *reason = "no file is configured";
    bool has_path = plan->path != NULL && plan->path[0] != '\0';

    plan_sizes(plan);
    if (has_path && open_shared(plan, &reason)) {
        return;
    }
    drop();
    if (has_path) {
        log_event(LOG_WARN, "instance_private",
                  "%s cannot be shared (%s): limits and metrics are this process's own", plan->path,
                  reason);
    }
    if (!map(-1)) {
        log_event(LOG_ERROR, "instance_no_memory", "%zu bytes cannot be mapped", self.size);
        abort();
    }
    fill_header(plan);
    settle_in(0);
}

void instance_close(void)
{
    if (self.base == NULL) {
        return;
    }
    free_what_was_of(self.slot);
    atomic_store(&self.base->slots[self.slot].state, SLOT_FREED);
    drop();
}

bool instance_is_shared(void)
{
    return self.fd >= 0;
}

int instance_slot(void)
{
    return self.slot;
}

uint16_t instance_owner(void)
{
    return (uint16_t)(self.slot + 1);
}

void *instance_area(void)
{
    return area_at(self.slot);
}

const void *instance_area_of(int slot, bool *is_alive_out)
{
    if (slot < 0 || slot >= INSTANCE_SLOTS ||
        atomic_load(&self.base->slots[slot].state) == SLOT_UNUSED) {
        return NULL;
    }
    if (is_alive_out != NULL) {
        *is_alive_out = is_alive(slot);
    }
    return area_at(slot);
}

/* Free what a dead process held, unless somebody has taken its slot over or is about to. */
static bool reclaim_slot(int slot)
{
    struct slot *s = &self.base->slots[slot];
    bool is_ours = false;

    if (lock_byte(self.probe_fd, 1 + slot, F_WRLCK)) {
        if (atomic_load(&s->state) == SLOT_LIVE) {
            free_what_was_of(slot);
            atomic_store(&s->state, SLOT_FREED);
            is_ours = true;
        }
        lock_byte(self.probe_fd, 1 + slot, F_UNLCK);
    }
    return is_ours;
}

int instance_reclaim(void)
{
    int slot, n = 0;

    if (self.probe_fd < 0 || pthread_mutex_trylock(&self.mutex) != 0) {
        return 0;
    }
    if (lock_byte(self.probe_fd, LOCK_BYTE, F_WRLCK)) {
        for (slot = 0; slot < INSTANCE_SLOTS; slot++) {
            if (slot != self.slot && atomic_load(&self.base->slots[slot].state) == SLOT_LIVE &&
                !is_alive(slot)) {
                n += reclaim_slot(slot);
            }
        }
        unlock_file(self.probe_fd);
    }
    pthread_mutex_unlock(&self.mutex);
    return n;
}
