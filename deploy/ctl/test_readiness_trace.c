/* What counts as a change of a local file, in strace's lines and in open descriptors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "deploy/ctl/readiness_trace.h"

static const char *const writes[] = {
    "openat(AT_FDCWD, \"/tmp/x\", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3",
    "[pid  2972] openat(AT_FDCWD, \"/var/lib/x\", O_RDWR|O_CLOEXEC) = 12",
    "[pid 7] openat(AT_FDCWD, \"up.mp3\", O_WRONLY <unfinished ...>",
    "openat(AT_FDCWD, \"/tmp\", O_RDWR|O_EXCL|O_TMPFILE, 0600) = 4",
    "open(\"/etc/motd\", O_WRONLY|O_APPEND) = 3",
    "creat(\"/tmp/y\", 0644) = 3",
    "[pid 12] mkdir(\"/tmp/folder\", 0777) = 0",
    "rename(\"/dev/shm/a\", \"/tmp/b\") = 0",
    "unlinkat(AT_FDCWD, \"/tmp/b\", 0) = 0",
    "truncate(\"/srv/data\", 0) = 0",
};

static const char *const others[] = {
    "openat(AT_FDCWD, \"/etc/ld.so.cache\", O_RDONLY|O_CLOEXEC) = 3",
    "openat(AT_FDCWD, \"/dev/null\", O_RDWR|O_CLOEXEC) = 3",
    "openat(AT_FDCWD, \"/proc/self/oom_score_adj\", O_WRONLY) = 3",
    "openat(AT_FDCWD, \"/dev/shm/maxbooster-1\", O_RDWR|O_CREAT, 0600) = 3",
    "openat(AT_FDCWD, \"/srv/x\", O_WRONLY|O_CREAT, 0666) = -1 EACCES (Permission denied)",
    "mkdir(\"/tmp\", 0777) = -1 EEXIST (File exists)",
};

static const char *const no_calls[] = {
    "",
    "[pid",
    "[pid 7",
    "[pid 7] ",
    "+++ exited with 0 +++",
    "--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---",
    "[pid 7] <... openat resumed>) = 3",
    "strace: Process 7 attached",
};

static void test_what_changes_local_files_is_told_from_the_rest(void **state)
{
    size_t i;
    bool is_call;

    (void)state;
    for (i = 0; i < ARRAY_LEN(writes); i++) {
        assert_true(rd_trace_is_write(writes[i], &is_call));
        assert_true(is_call);
    }
    for (i = 0; i < ARRAY_LEN(others); i++) {
        assert_false(rd_trace_is_write(others[i], &is_call));
        assert_true(is_call);
    }
    for (i = 0; i < ARRAY_LEN(no_calls); i++) {
        assert_false(rd_trace_is_write(no_calls[i], &is_call));
        assert_false(is_call);
    }
}

static void test_a_file_held_open_for_writing_is_found(void **state)
{
    struct arena *a = arena_open(4096);
    char path[] = "/tmp/readiness-XXXXXX";
    const char *found;
    int fd = mkstemp(path), reading;

    (void)state;
    assert_true(fd >= 0);
    found = rd_open_file(a, getpid());
    assert_non_null(found);
    assert_string_equal(found, path);
    reading = open(path, O_RDONLY | O_CLOEXEC);
    close(fd);
    found = rd_open_file(a, getpid());
    assert_true(found == NULL || strcmp(found, path) != 0);
    close(reading);
    unlink(path);
    arena_close(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_changes_local_files_is_told_from_the_rest),
        cmocka_unit_test(test_a_file_held_open_for_writing_is_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
