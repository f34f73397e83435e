/* A word per permit says who holds it, so there is no counter that a crash could leave wrong.
 * Waiters sleep on `turn`: its lowest bit says that somebody may wait, and each give counts it up
 * by two, so a give between a waiter's last look and its sleep is never missed. A woken waiter
 * sets the bit again, since others may still sleep. */
#include "lib/permit.h"

#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/clock.h"

enum { LINE = 64, WAITERS = 1, GIVE = 2 };

struct permit_set {
    _Atomic uint32_t turn;
    int32_t capacity;
    _Alignas(LINE) _Atomic uint16_t owner[];
};

size_t permit_set_size(int capacity)
{
    size_t size = sizeof(struct permit_set) + (size_t)capacity * sizeof(uint16_t);

    return (size + LINE - 1) / LINE * LINE;
}

struct permit_set *permit_set_init(void *memory, int capacity)
{
    struct permit_set *set = memory;

    set->capacity = capacity;
    return set;
}

static bool try_one(struct permit_set *set, uint16_t owner, int i)
{
    uint16_t free_word = 0;

    /* A plain look first: a failed compare-and-swap takes the line from its owner. */
    return atomic_load_explicit(&set->owner[i], memory_order_relaxed) == 0 &&
           atomic_compare_exchange_strong(&set->owner[i], &free_word, owner);
}

int permit_try(struct permit_set *set, uint16_t owner, int limit, int hint)
{
    int n = limit < set->capacity ? limit : set->capacity;
    int i, k;

    if (n <= 0) {
        return -1;
    }
    i = hint >= 0 ? hint % n : 0;
    for (k = 0; k < n; k++) {
        if (try_one(set, owner, i)) {
            return i;
        }
        i = i + 1 < n ? i + 1 : 0;
    }
    return -1;
}

/* Sleep while turn is still `seen`, at most left_us. */
static void sleep_on(struct permit_set *set, uint32_t seen, int64_t left_us)
{
    struct timespec ts = {.tv_sec = left_us / 1000000, .tv_nsec = left_us % 1000000 * 1000};

    syscall(SYS_futex, &set->turn, FUTEX_WAIT, seen, &ts, NULL, 0);
}

int permit_take(struct permit_set *set, uint16_t owner, int limit, int hint, int64_t until_mono_us)
{
    bool has_slept = false;

    for (;;) {
        uint32_t seen;
        int64_t left_us;
        int permit = permit_try(set, owner, limit, hint);

        if (permit >= 0 && !has_slept) {
            return permit;
        }
        seen = atomic_fetch_or(&set->turn, WAITERS) | WAITERS;
        if (permit >= 0) {
            return permit;
        }
        permit = permit_try(set, owner, limit, hint);
        if (permit >= 0) {
            return permit;
        }
        left_us = until_mono_us - clock_mono_us();
        if (left_us <= 0) {
            return -1;
        }
        sleep_on(set, seen, left_us);
        has_slept = true;
    }
}

static void wake(struct permit_set *set, int n)
{
    if (atomic_fetch_add(&set->turn, GIVE) & WAITERS) {
        atomic_fetch_and(&set->turn, ~(uint32_t)WAITERS);
        syscall(SYS_futex, &set->turn, FUTEX_WAKE, n, NULL, NULL, 0);
    }
}

void permit_give(struct permit_set *set, int permit)
{
    /* wake() changes turn after this, and a waiter looks again after it has changed turn. */
    atomic_store_explicit(&set->owner[permit], 0, memory_order_release);
    wake(set, 1);
}

bool permit_is_awaited(const struct permit_set *set)
{
    return atomic_load_explicit(&set->turn, memory_order_relaxed) & WAITERS;
}

int permit_reclaim(struct permit_set *set, uint16_t owner)
{
    int i, n = 0;

    for (i = 0; i < set->capacity; i++) {
        uint16_t word = owner;

        n += atomic_compare_exchange_strong(&set->owner[i], &word, 0);
    }
    if (n > 0) {
        wake(set, n);
    }
    return n;
}

/* Of those below limit that are taken; of that owner only where owner is not 0. */
static int count(const struct permit_set *set, uint16_t owner, int limit)
{
    int i, n = 0;

    for (i = 0; i < limit; i++) {
        uint16_t word = atomic_load_explicit(&set->owner[i], memory_order_relaxed);

        n += owner != 0 ? word == owner : word != 0;
    }
    return n;
}

int permit_count_below(const struct permit_set *set, int limit)
{
    return count(set, 0, limit < set->capacity ? limit : set->capacity);
}

int permit_count(const struct permit_set *set, uint16_t owner)
{
    return count(set, owner, set->capacity);
}
