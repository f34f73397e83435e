/* A window sums up how slow its work was, in thousandths of the usual; whoever finds it over moves
 * the limit. Words: limit in thousandths, begin of the window, sum, number, slow windows in a
 * row. */
#include "lib/limiter.h"

#include "lib/clock.h"

enum {
    WORD_LIMIT,
    WORD_BEGIN,
    WORD_SUM,
    WORD_N,
    WORD_SLOW,
    MILLI = 1000,
    WINDOW_US = 100000,
    WINDOW_LEAST = 10,     /* fewer samples say too little: the window goes on */
    SLOWEST = 100 * MILLI, /* one that hung must not outweigh all others */
    GROW = 2 * MILLI,      /* a window */
    SLOW_WINDOWS = 3,      /* in a row before it shrinks: a hiccup is over by then */
    SHRINK_MOST = 500,     /* thousandths that a window leaves of the limit at least */
    LIGHT_PART = 16,       /* with so few permits of all in use, little goes on, */
    LEARN_SHARE = 64,      /* and the usual time follows by such a part of the way; */
    LOADED_SHARE = 4096,   /* else it follows slower work by this, and faster work as ever */
    USUAL_LEAST_US = 200   /* below this only noise differs */
};

int limiter_limit(const struct limiter *l)
{
    int64_t milli = atomic_load_explicit(&l->words[WORD_LIMIT], memory_order_relaxed);
    int limit = (int)(milli / MILLI);

    return milli == 0 || limit > l->most ? l->most : limit; /* 0: nobody has moved it yet */
}

/* Where a turn's beginning stands; NULL: nowhere. */
static _Atomic int64_t *since_of(struct limiter *l, int permit)
{
    return permit < LIMITER_PERMITS_MAX ? &l->since_us[permit] : NULL;
}

/* Whoever takes the beginning away gives the permit back: who had the turn, or who found it
 * long. */
static bool end_turn(struct limiter *l, int permit, int64_t since_us)
{
    _Atomic int64_t *since = since_of(l, permit);

    if (since != NULL && !atomic_compare_exchange_strong(since, &since_us, 0)) {
        return false;
    }
    permit_give(l->permits, permit);
    return true;
}

/* End the turns of this process that are spent waiting. */
static bool end_stalled(struct limiter *l, int64_t now_us)
{
    int n = l->most < LIMITER_PERMITS_MAX ? l->most : LIMITER_PERMITS_MAX, i;
    bool has_ended = false;

    for (i = 0; i < n; i++) {
        int64_t since_us = atomic_load_explicit(&l->since_us[i], memory_order_relaxed);

        if (since_us != 0 && now_us - since_us > LIMITER_STALLED_US) {
            has_ended = end_turn(l, i, since_us) || has_ended;
        }
    }
    return has_ended;
}

bool limiter_enter(struct limiter *l, int share_percent, int64_t until_mono_us,
                   struct limiter_turn *turn_out)
{
    int most = limiter_limit(l) * share_percent / 100;
    int64_t now_us = clock_mono_us();
    int permit;

    most = most > 1 ? most : 1;
    permit = permit_try(l->permits, l->owner, most, 0);
    if (permit < 0 && end_stalled(l, now_us)) {
        permit = permit_try(l->permits, l->owner, most, 0);
    }
    if (permit < 0 && now_us < until_mono_us) {
        permit = permit_take(l->permits, l->owner, most, 0, until_mono_us);
        now_us = clock_mono_us();
    }
    if (permit < 0) {
        return false;
    }
    *turn_out = (struct limiter_turn){.permit = permit, .since_us = now_us};
    if (since_of(l, permit) != NULL) {
        atomic_store(since_of(l, permit), now_us);
    }
    return true;
}

/* Thousandths of the usual time of its kind, which learns from it. */
static int64_t slowness(struct limiter *l, int kind, int64_t took_us)
{
    _Atomic int64_t *word = &l->usual_us[kind % LIMITER_KINDS_MAX];
    int64_t usual = atomic_load_explicit(word, memory_order_relaxed);
    int64_t took = took_us > USUAL_LEAST_US ? took_us : USUAL_LEAST_US, slow;
    bool is_light = permit_count_below(l->permits, l->most) <= 1 + l->most / LIGHT_PART;

    if (usual == 0) {
        usual = took;
    } else {
        usual += (took - usual) / (is_light || took < usual ? LEARN_SHARE : LOADED_SHARE);
    }
    atomic_store_explicit(word, usual, memory_order_relaxed);
    slow = took * MILLI / usual;
    return slow < SLOWEST ? slow : SLOWEST;
}

static void move(struct limiter *l, int64_t mean, int64_t tolerance_percent, int least)
{
    int64_t limit = (int64_t)limiter_limit(l) * MILLI;
    int64_t wanted = tolerance_percent * MILLI / 100;
    int64_t most = (int64_t)l->most * MILLI;
    int in_use = permit_count_below(l->permits, l->most);

    if (mean <= wanted) {
        atomic_store(&l->words[WORD_SLOW], 0);
    } else if (atomic_fetch_add(&l->words[WORD_SLOW], 1) + 1 < SLOW_WINDOWS) {
        return;
    }
    if (mean > wanted) {
        int64_t share = wanted * MILLI / mean;

        limit = limit * (share > SHRINK_MOST ? share : SHRINK_MOST) / MILLI;
    } else if (2 * in_use * MILLI >= limit) {
        limit += GROW; /* only while it is made use of: else it says nothing */
    }
    limit = limit < (int64_t)least * MILLI ? (int64_t)least * MILLI : limit;
    atomic_store(&l->words[WORD_LIMIT], limit < most ? limit : most);
}

void limiter_leave(struct limiter *l, const struct limiter_turn *turn, int kind, int64_t took_us,
                   int64_t tolerance_percent, int least)
{
    int64_t now = clock_mono_us(), begin = atomic_load(&l->words[WORD_BEGIN]), n;

    if (took_us > 0) {
        atomic_fetch_add(&l->words[WORD_SUM], slowness(l, kind, took_us));
        n = atomic_fetch_add(&l->words[WORD_N], 1) + 1;
        if (now - begin >= WINDOW_US && n >= WINDOW_LEAST &&
            atomic_compare_exchange_strong(&l->words[WORD_BEGIN], &begin, now)) {
            int64_t sum = atomic_exchange(&l->words[WORD_SUM], 0);

            n = atomic_exchange(&l->words[WORD_N], 0);
            move(l, n > 0 ? sum / n : 0, tolerance_percent, least);
        }
    }
    (void)end_turn(l, turn->permit, turn->since_us);
}
