/* Opens sessions as fast as it can, from a test: "session_driver COUNT THREADS". One line at the
 * end: how many were admitted and refused. May be killed at any time. */
#include <pthread.h>
#include <stdatomic.h>

#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/id.h"
#include "lib/redis.h"
#include "lib/session.h"
#include "lib/str.h"

enum { THREADS_MAX = 64 };

static atomic_long left, admitted, refused, failed;

static void *open_sessions(void *unused)
{
    struct arena *arena = arena_open(65536);

    (void)unused;
    while (atomic_fetch_sub(&left, 1) > 0) {
        char token[SESSION_TOKEN_SIZE];
        struct id session;
        struct scope sc;
        int64_t expires_at;
        enum err e;

        scope_init(&sc, arena, 10000);
        e = session_create(&sc, id_make_user(), "artist", "198.18.0.1", "driver", token, &session,
                           &expires_at);
        atomic_fetch_add(e == OK ? &admitted : e == ERR_SESSION_CAPACITY ? &refused : &failed, 1);
        scope_done(&sc);
        arena_reset(arena);
    }
    redis_thread_done();
    arena_close(&arena);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS_MAX];
    int64_t count, n, i;

    if (argc != 3 || !i64_parse(argv[1], &count) || !i64_parse(argv[2], &n) || n < 1 ||
        n > THREADS_MAX || !config_load(stderr)) {
        fputs("usage: session_driver COUNT THREADS\n", stderr);
        return 2;
    }
    crypto_open();
    left = count;
    for (i = 0; i < n; i++) {
        if (pthread_create(&threads[i], NULL, open_sessions, NULL) != 0) {
            return 1;
        }
    }
    for (i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
    printf("%ld %ld %ld\n", admitted, refused, failed);
    return 0;
}
