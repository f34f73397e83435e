/* What was given up is gone, for children too; who is supervised ends with the supervisor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/harden.h"

static void test_a_process_and_its_children_gain_nothing_and_leave_no_core(void **state)
{
    struct rlimit core;
    int status;
    pid_t child;

    (void)state;
    harden_process();
    assert_int_equal(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
    assert_int_equal(getrlimit(RLIMIT_CORE, &core), 0);
    assert_int_equal(core.rlim_max, 0);
    child = fork();
    if (child == 0) {
        _exit(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(WEXITSTATUS(status), 1);
}

static void supervise(int told)
{
    setenv("SUPERVISOR_ENABLED", "1", 1);
    if (fork() == 0) {
        harden_follow_supervisor();
        alarm(20); /* should it not work */
        if (write(told, "x", 1) == 1) {
            pause();
        }
        _exit(0);
    }
    pause();
}

static void test_who_is_supervised_ends_with_the_supervisor(void **state)
{
    struct pollfd end = {.events = POLLIN};
    int ends[2];
    pid_t supervisor;
    char byte;

    (void)state;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    supervisor = fork();
    if (supervisor == 0) {
        supervise(ends[1]);
    }
    close(ends[1]);
    end.fd = ends[0];
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_int_equal(poll(&end, 1, 0), 0);
    assert_int_equal(kill(supervisor, SIGKILL), 0);
    assert_int_equal(waitpid(supervisor, NULL, 0), supervisor);
    assert_int_equal(poll(&end, 1, 10000), 1);
    assert_int_equal(read(ends[0], &byte, 1), 0); /* nobody is left who could write */
    close(ends[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_process_and_its_children_gain_nothing_and_leave_no_core),
        cmocka_unit_test(test_who_is_supervised_ends_with_the_supervisor),
    };

    return cmocka_run_group_tests_name("harden", tests, NULL, NULL);
}
