/* Children inherit this, the media child adds its own (workers/media/sandbox.c). */
#include "lib/harden.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/log.h"

void harden_process(void)
{
    const struct rlimit none = {.rlim_cur = 0, .rlim_max = 0};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || setrlimit(RLIMIT_CORE, &none) != 0) {
        log_event(LOG_WARN, "harden", "the kernel keeps what we would give up");
    }
}

void harden_follow_supervisor(void)
{
    const pid_t parent = getppid();

    if (getenv("SUPERVISOR_ENABLED") != NULL) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != parent) {
            raise(SIGTERM);
        }
    }
}
