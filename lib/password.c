/* A task lives on its caller's stack. Whoever finds the deadline passed while the task is still
 * queued takes it out; once it runs, its caller waits the few milliseconds that are left. */
#include "lib/password.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "breached_passwords.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/log.h"
#include "lib/str.h"

enum { NICENESS = 10, THREADS_MAX = 64, PASSWORD_BYTES_MAX = 1024 };

enum task_state { TASK_QUEUED, TASK_RUNNING, TASK_DONE };

struct task {
    struct task *next;
    const char *password;
    const char *hash; /* to judge by; NULL: make one */
    char made[PASSWORD_HASH_SIZE];
    bool is_good;
    enum task_state state;
    pthread_cond_t done;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct task *first;
    int n_waiting;
    int n_threads;
    bool is_stopping;
    pthread_t threads[THREADS_MAX];
    char decoy[PASSWORD_HASH_SIZE]; /* hash of a random password: for accounts that are not there */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER};

static struct task *take_first(void)
{
    struct task *t = pool.first;

    pool.first = t->next;
    pool.n_waiting--;
    t->state = TASK_RUNNING;
    return t;
}

static void *run(void *unused)
{
    (void)unused;
    /* Linux gives each thread a niceness of its own: hashing yields to requests, and to nothing
     * else that they do not yield to. */
    errno = 0;
    if (nice(NICENESS) == -1 && errno != 0) {
        log_event(LOG_WARN, "password", "the hash thread keeps normal priority");
    }
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        struct task *t;

        while (pool.first == NULL && !pool.is_stopping) {
            pthread_cond_wait(&pool.work, &pool.lock);
        }
        if (pool.first == NULL) {
            break;
        }
        t = take_first();
        pthread_mutex_unlock(&pool.lock);
        t->is_good = t->hash == NULL ? crypto_password_hash(t->password, t->made)
                                     : crypto_password_fits(t->hash, t->password);
        pthread_mutex_lock(&pool.lock);
        t->state = TASK_DONE;
        pthread_cond_signal(&t->done);
    }
    pthread_mutex_unlock(&pool.lock);
    return NULL;
}

void password_open(void)
{
    char random[33];
    uint8_t bytes[16];

    crypto_random(bytes, sizeof(bytes));
    hex_encode(bytes, sizeof(bytes), random);
    if (!crypto_password_hash(random, pool.decoy)) {
        fprintf(stderr, "password: no memory for one hash\n");
        abort();
    }
    for (pool.n_threads = 0; pool.n_threads < config()->password_hash_threads; pool.n_threads++) {
        if (pthread_create(&pool.threads[pool.n_threads], NULL, run, NULL) != 0) {
            abort();
        }
    }
}

void password_close(void)
{
    pthread_mutex_lock(&pool.lock);
    pool.is_stopping = true;
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);
    while (pool.n_threads > 0) {
        pthread_join(pool.threads[--pool.n_threads], NULL);
    }
}

static void append(struct task *t)
{
    struct task **at = &pool.first;

    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = t;
    pool.n_waiting++;
    pthread_cond_signal(&pool.work);
}

static void withdraw(struct task *t)
{
    struct task **at = &pool.first;

    while (*at != t) {
        at = &(*at)->next;
    }
    *at = t->next;
    pool.n_waiting--;
}

/* Wait under the lock until the task is done; false: withdrawn at the deadline. */
static bool wait_done(struct scope *sc, struct task *t)
{
    struct timespec until;
    int64_t at_ms = clock_wall_ms() + scope_left_ms(sc, INT64_MAX / 2);

    until.tv_sec = (time_t)(at_ms / 1000);
    until.tv_nsec = (long)(at_ms % 1000 * 1000000);
    while (t->state != TASK_DONE) {
        if (t->state == TASK_RUNNING) {
            pthread_cond_wait(&t->done, &pool.lock);
        } else if (pthread_cond_timedwait(&t->done, &pool.lock, &until) != 0 &&
                   t->state == TASK_QUEUED) {
            withdraw(t);
            return false;
        }
    }
    return true;
}

static enum err do_task(struct scope *sc, struct task *t)
{
    bool is_done;

    if (strlen(t->password) > PASSWORD_BYTES_MAX) {
        return scope_fail(sc, ERR_INTERNAL, "password: longer than a shape allows");
    }
    pthread_mutex_lock(&pool.lock);
    if (pool.n_waiting >= config()->password_hash_queue) {
        pthread_mutex_unlock(&pool.lock);
        return scope_fail(sc, ERR_OVERLOADED, "password: the hash queue is full");
    }
    pthread_cond_init(&t->done, NULL);
    append(t);
    is_done = wait_done(sc, t);
    pthread_mutex_unlock(&pool.lock);
    pthread_cond_destroy(&t->done);
    return is_done ? OK : scope_fail(sc, ERR_TIMED_OUT, "password: waited too long for a hash");
}

enum err password_hash(struct scope *sc, const char *password, char hash_out[PASSWORD_HASH_SIZE])
{
    struct task t = {.password = password};

    TRY(do_task(sc, &t));
    if (!t.is_good) {
        return scope_fail(sc, ERR_OVERLOADED, "password: no memory for a hash");
    }
    memcpy(hash_out, t.made, PASSWORD_HASH_SIZE);
    return OK;
}

enum err password_fits(struct scope *sc, const char *hash, const char *password, bool *fits_out)
{
    struct task t = {.password = password, .hash = hash != NULL ? hash : pool.decoy};

    TRY(do_task(sc, &t));
    *fits_out = t.is_good && hash != NULL;
    return OK;
}

static int compare(const void *key, const void *row)
{
    return strcmp(key, *(const char *const *)row);
}

bool password_is_breached(const char *password)
{
    char lower[PASSWORD_BYTES_MAX + 1];
    size_t i;

    for (i = 0; i < PASSWORD_BYTES_MAX && password[i] != '\0'; i++) {
        char c = password[i];

        lower[i] = (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    }
    lower[i] = '\0';
    return bsearch(lower, breached_passwords, breached_passwords_count,
                   sizeof(breached_passwords[0]), compare) != NULL;
}
