/* maxbooster-api: threads that serve, and one thread that takes signals. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "fcgi/conn.h"
#include "fcgi/req_private.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/depend.h"
#include "lib/event.h"
#include "lib/fleet.h"
#include "lib/harden.h"
#include "lib/log.h"
#include "lib/metrics.h"
#include "lib/password.h"
#include "lib/pg.h"
#include "lib/redis.h"
#include "lib/version.h"

enum { EXIT_CONFIG = 78, THREADS_MAX = 256, THREAD_STACK_BYTES = 512 * 1024 }; /* 78: EX_CONFIG */

static void *serve_thread(void *unused)
{
    struct conn *conn = conn_open();
    struct arena *arena = arena_open((size_t)config()->request_arena_bytes);

    (void)unused;
    while (conn_next(conn)) {
        dispatch(conn, arena);
    }
    redis_thread_done();
    arena_close(&arena);
    conn_close(&conn);
    return NULL;
}

/* Wait for signals until one says stop. */
static void mind_signals(const sigset_t *signals, pid_t parent)
{
    int signal_number = 0;
    siginfo_t info;
    bool is_ours; /* guard_load.c sends it, so that a fresh process takes our place */

    while (signal_number != SIGTERM && signal_number != SIGINT) {
        signal_number = sigwaitinfo(signals, &info);
        if (signal_number == SIGHUP) {
            config_reload_logged();
        }
    }
    is_ours = info.si_code == SI_USER && info.si_pid == getpid();
    log_event(LOG_INFO, "stop", "finishing what is being served%s",
              is_ours ? "; a fresh process follows" : "");
    if (!is_ours) {
        req_drain();
    }
    /* multiwatch says SIGINT to all of the instance's processes, or has died; SIGTERM is for one
     * process, whose place another one takes at the same socket. */
    conn_stop(signal_number == SIGINT || getppid() != parent);
}

static void start_threads(pthread_t *threads, int n)
{
    pthread_attr_t attributes;
    int i;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
    for (i = 0; i < n; i++) {
        if (pthread_create(&threads[i], &attributes, serve_thread, NULL) != 0) {
            fprintf(stderr, "maxbooster-api: a thread does not start: %s\n", strerror(errno));
            exit(EXIT_FAILURE);
        }
    }
    pthread_attr_destroy(&attributes);
}

static int run(void)
{
    pthread_t threads[THREADS_MAX];
    const struct metrics_plan metrics = {.routes = route_count(), .route_name = route_key};
    int n = (int)config()->api_threads, i;
    const pid_t parent = getppid();
    sigset_t signals;

    /* The supervisor watches our parent; without it nobody would count us. */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (!conn_listen_open()) {
        fputs("maxbooster-api: descriptor 0 is no listening socket: start me by spawn-fcgi.\n",
              stderr);
        return EXIT_FAILURE;
    }
    harden_process();
    crypto_open();
    metrics_open(&metrics); /* first: what is thought of dependencies is the instance's */
    if (!redis_may_start(stderr)) {
        return EXIT_CONFIG;
    }
    pg_open();
    pg_warm((int)config()->api_processes);
    guard_load_open();
    depend_open(n);
    password_open();
    fleet_open("api");
    start_threads(threads, n);
    log_event(LOG_INFO, "start", "version %s, %d threads", VERSION, n);
    mind_signals(&signals, parent);
    for (i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
    fleet_close();
    password_close();
    pg_close();
    metrics_close();
    log_event(LOG_INFO, "stopped", "nothing was cut");
    return EXIT_SUCCESS;
}

/* -x NAME prints what a table generates. */
static int print_table(const char *name)
{
    if (strcmp(name, "config-docs") == 0) {
        config_print_docs(stdout);
    } else if (strcmp(name, "env-example") == 0) {
        config_print_env_example(stdout);
    } else if (strcmp(name, "errors-docs") == 0) {
        err_print_docs(stdout);
    } else if (strcmp(name, "metrics-docs") == 0) {
        metrics_print_docs(stdout);
    } else if (strcmp(name, "events-docs") == 0) {
        event_print_docs(stdout);
    } else {
        fputs("-x takes config-docs, env-example, errors-docs, events-docs or metrics-docs.\n",
              stderr);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "-x") == 0) {
        return print_table(argv[2]);
    }
    log_open("api");
    if (!config_load(stderr)) {
        return EXIT_CONFIG;
    }
    return run();
}
