/* What was given up is gone, for children too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_process_and_its_children_gain_nothing_and_leave_no_core),
    };

    return cmocka_run_group_tests_name("harden", tests, NULL, NULL);
}
