/* maxbooster-worker: runs jobs of the queues that it is told. */
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/depend.h"
#include "lib/door.h"
#include "lib/fleet.h"
#include "lib/harden.h"
#include "lib/instance.h"
#include "lib/log.h"
#include "lib/pg.h"
#include "lib/redis.h"
#include "workers/figures.h"
#include "workers/worker.h"

enum { EXIT_CONFIG = 78 }; /* EX_CONFIG */

/* All signals are for the thread that waits for them. */
static void block_signals(void)
{
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"queues", required_argument, NULL, 'q'}, {0}};
    struct instance_plan plan = {.path = NULL};
    const char *queues = NULL;
    int option, status;

    while ((option = getopt_long(argc, argv, "q:", options, NULL)) != -1) {
        if (option != 'q') {
            fputs("usage: maxbooster-worker [--queues audio,email,...]\n", stderr);
            return EXIT_FAILURE;
        }
        queues = optarg;
    }
    log_open("worker");
    if (!config_load(stderr)) {
        return EXIT_CONFIG;
    }
    /* Before any thread or child: both inherit it. */
    errno = 0;
    if (nice((int)config()->worker_niceness) == -1 && errno != 0) {
        log_event(LOG_WARN, "niceness", "the worker keeps the priority it has");
    }
    /* A pool of connections of its own: a worker is an instance by itself. */
    block_signals();
    harden_process();
    harden_follow_supervisor();
    crypto_open();
    if (!redis_may_start(stderr)) {
        return EXIT_CONFIG;
    }
    instance_open(&plan);
    pg_open();
    depend_open(0);
    (void)door_open((int)config()->metrics_port, figures_write);
    fleet_open("worker");
    status = worker_run(queues == NULL ? config()->worker_queues : queues);
    /* Threads that did not end in time may be within libraries: no clean-up that they could
     * stumble over. */
    fflush(NULL);
    _exit(status);
}
