/* Each try runs in a process of its own, behind the locked door: it must be killed, or refused
 * where memory is asked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/media_proto.h"
#include "workers/media/sandbox.h"

#if defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

enum { CPU_S = 5, ROOM = 64 << 20, EXIT_LOCKED_OUT = 77 };

/* How a process ends that does this behind the locked door: exit status, or minus the signal. */
static int locked_in(long (*deed)(void))
{
    int sockets[2], status;
    pid_t pid;

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(sockets[0], MEDIA_FD_SOCKET);
        (void)dup2(open("/dev/null", O_RDONLY), MEDIA_FD_MEMORY);
        if (!sandbox_enter(ROOM, CPU_S)) {
            _exit(EXIT_LOCKED_OUT);
        }
        _exit((int)deed());
    }
    (void)close(sockets[0]);
    (void)close(sockets[1]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static long do_open(void)
{
    return syscall(SYS_open, "/etc/passwd", O_RDONLY);
}
static long do_openat(void)
{
    return syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY);
}
static long do_creat(void)
{
    return syscall(SYS_creat, "/tmp/x", 0600);
}
static long do_socket(void)
{
    return syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
}
static long do_connect(void)
{
    return syscall(SYS_connect, MEDIA_FD_SOCKET, "x", 1);
}
static long do_fork(void)
{
    return syscall(SYS_fork);
}
static long do_clone(void)
{
    return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}
static long do_exec(void)
{
    return syscall(SYS_execve, "/bin/true", NULL, NULL);
}
static long do_ptrace(void)
{
    return syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0);
}
static long do_kill(void)
{
    return syscall(SYS_kill, getppid(), SIGTERM);
}
static long do_tgkill(void)
{
    return syscall(SYS_tgkill, getppid(), getppid(), SIGABRT);
}
static long do_write_1(void)
{
    return syscall(SYS_write, 1, "x", 1);
}
static long do_write_socket(void)
{
    return syscall(SYS_write, MEDIA_FD_SOCKET, "x", 1);
}
static long do_read_0(void)
{
    char c;

    return syscall(SYS_read, 0, &c, 1);
}
static long do_send_elsewhere(void)
{
    return syscall(SYS_sendto, 5, "x", 1, 0, NULL, 0);
}
static long do_send_to_address(void)
{
    return syscall(SYS_sendto, MEDIA_FD_SOCKET, "x", 1, 0, "\1\0name", 6);
}
static long do_sendmsg(void)
{
    struct msghdr m = {.msg_iov = NULL};

    return syscall(SYS_sendmsg, MEDIA_FD_SOCKET, &m, 0);
}
static long do_mmap_exec(void)
{
    return syscall(SYS_mmap, NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
static long do_mmap_file(void)
{
    return syscall(SYS_mmap, NULL, 4096, PROT_READ, MAP_PRIVATE, MEDIA_FD_MEMORY, 0);
}
static long do_mprotect_exec(void)
{
    return syscall(SYS_mprotect, (uintptr_t)do_mmap_exec & ~(uintptr_t)4095, 4096,
                   PROT_READ | PROT_EXEC);
}
static long do_ftruncate(void)
{
    return syscall(SYS_ftruncate, MEDIA_FD_MEMORY, 0);
}
static long do_ioctl(void)
{
    return syscall(SYS_ioctl, 0, 0, 0);
}
static long do_dup(void)
{
    return syscall(SYS_dup, MEDIA_FD_SOCKET);
}
static long do_prlimit(void)
{
    struct rlimit r = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};

    return syscall(SYS_prlimit64, 0, RLIMIT_AS, &r, NULL);
}
static long do_io_uring(void)
{
    return syscall(425, 1, NULL);
}
static long do_seccomp(void)
{
    return syscall(SYS_seccomp, 0, 0, NULL);
}
static long do_setuid(void)
{
    return syscall(SYS_setuid, 0);
}
static long do_unshare(void)
{
    return syscall(SYS_unshare, 0x10000000);
}
static long do_process_vm(void)
{
    return syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0);
}

static void test_every_way_out_kills(void **state)
{
    static const struct {
        const char *name;
        long (*deed)(void);
        int also_sanitized; /* sanitizers need some of them */
    } ways[] = {
        {"open", do_open, 0},
        {"openat", do_openat, 0},
        {"creat", do_creat, 1},
        {"socket", do_socket, 1},
        {"connect", do_connect, 1},
        {"fork", do_fork, 1},
        {"clone", do_clone, 1},
        {"execve", do_exec, 1},
        {"ptrace", do_ptrace, 1},
        {"kill", do_kill, 1},
        {"tgkill of another", do_tgkill, 1},
        {"write to 1", do_write_1, 0},
        {"write to the socket", do_write_socket, 0},
        {"read from 0", do_read_0, 0},
        {"send elsewhere", do_send_elsewhere, 1},
        {"send to an address", do_send_to_address, 1},
        {"sendmsg", do_sendmsg, 1},
        {"executable memory", do_mmap_exec, 0},
        {"memory of a file", do_mmap_file, 0},
        {"making memory executable", do_mprotect_exec, 0},
        {"ftruncate", do_ftruncate, 1},
        {"ioctl", do_ioctl, 1},
        {"dup", do_dup, 1},
        {"prlimit", do_prlimit, 1},
        {"io_uring", do_io_uring, 1},
        {"seccomp", do_seccomp, 1},
        {"setuid", do_setuid, 1},
        {"unshare", do_unshare, 1},
        {"process_vm_readv", do_process_vm, 1},
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        if (!SANITIZED || ways[i].also_sanitized) {
            int end = locked_in(ways[i].deed);

            if (end != -SIGSYS) {
                fail_msg("%s ended with %d", ways[i].name, end);
            }
        }
    }
}

static long do_work(void)
{
    char *memory = malloc(1 << 20);
    int numbers[2048], i;

    memset(memory, 1, 1 << 20);
    memory = realloc(memory, 8 << 20);
    for (i = 0; i < 2048; i++) {
        numbers[i] = memory[i] * i;
    }
    free(memory);
    return send(MEDIA_FD_SOCKET, numbers, 4, MSG_NOSIGNAL | MSG_DONTWAIT) == 4 || errno == EPIPE ||
                   errno == ECONNRESET
               ? time(NULL) > 0 ? 42 : 1
               : 2;
}

static void test_memory_time_and_words_are_free(void **state)
{
    (void)state;
    assert_int_equal(locked_in(do_work), 42);
}

static long do_hoard(void)
{
    size_t i, got = 0;

    for (i = 0; i < 1024; i++) {
        got += malloc(1 << 20) != NULL;
    }
    return got > 16 && got < 65 ? 42 : (long)got;
}

static void test_memory_ends_where_it_was_said(void **state)
{
    (void)state;
    if (!SANITIZED) {
        assert_int_equal(locked_in(do_hoard), 42);
    }
}

static long do_abort(void)
{
    abort();
}

static void test_an_abort_is_seen_as_one(void **state)
{
    (void)state;
    if (!SANITIZED) {
        assert_int_equal(locked_in(do_abort), -SIGABRT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_way_out_kills),
        cmocka_unit_test(test_memory_time_and_words_are_free),
        cmocka_unit_test(test_memory_ends_where_it_was_said),
        cmocka_unit_test(test_an_abort_is_seen_as_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
