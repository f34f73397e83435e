/* maxbooster-worker: runs jobs of the queues that it is told. */
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
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

enum {
    EXIT_CONFIG = 78, /* EX_CONFIG */
    SLICE_NS = 100000 /* the least that Linux allows */
};

/* struct sched_attr of sched_setattr(2): glibc has none yet, and Linux' own clashes with glibc. */
struct sched_attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

/* Threads and children inherit it. Niceness says which share of the CPU work gets; the slice, how
 * long it may go on once somebody else wakes up (Linux 6.12 on): with the usual one of some
 * milliseconds a request waits that long at each step of its way. A batch never interrupts others
 * when it wakes up itself (sched(7)). */
static void yield_to_requests(int niceness)
{
    struct sched_attributes attributes = {
        .size = sizeof(attributes), .policy = SCHED_BATCH, .runtime = SLICE_NS};

    errno = 0;
    if (nice(niceness) == -1 && errno != 0) {
        log_event(LOG_WARN, "niceness", "the worker keeps the priority it has");
        return;
    }
    attributes.nice = getpriority(PRIO_PROCESS, 0);
    (void)syscall(SYS_sched_setattr, 0, &attributes, 0); /* an older kernel keeps its own slices */
}

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
    yield_to_requests((int)config()->worker_niceness); /* before any thread or child */
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
