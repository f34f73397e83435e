/* A white list: what is not named here kills the process. Decoding needs memory and nothing else;
 * all bytes come and go by one socket and one mapping that exist already. */
#include "workers/media/sandbox.h"

#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/media_proto.h"

/* libseccomp's own macros leave a field out where a comparison has one operand. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

/* Sanitizers map terabytes and start helpers of their own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static int by_value(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* qsort() asks once how much memory there is, strftime() for the time zone (an MP4 has the date of
 * its making); malloc() and the clock have first times too. */
static void warm_up(void)
{
    int numbers[1024];
    struct timespec now;
    size_t i;

    for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        numbers[i] = (int)(i * 7919 % 1021);
    }
    qsort(numbers, sizeof(numbers) / sizeof(numbers[0]), sizeof(numbers[0]), by_value);
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    (void)time(NULL);
    (void)setenv("TZ", "UTC0", 1);
    tzset();
    free(malloc(numbers[3] >= 0 ? 64 : 65));
}

/* Bytes of address space in use now. */
static int64_t mapped_bytes(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (f == NULL || fscanf(f, "%ld", &pages) != 1) {
        pages = 0;
    }
    if (f != NULL) {
        (void)fclose(f);
    }
    return (int64_t)pages * sysconf(_SC_PAGESIZE);
}

static bool limit(int what, uint64_t most)
{
    const struct rlimit r = {.rlim_cur = most, .rlim_max = most};

    return setrlimit(what, &r) == 0;
}

static bool limits(int64_t address_bytes, uint32_t cpu_s)
{
    if (!SANITIZED && address_bytes > 0) {
        int64_t mapped = mapped_bytes();

        if (mapped <= 0 || !limit(RLIMIT_AS, (uint64_t)(mapped + address_bytes))) {
            return false;
        }
    }
    return limit(RLIMIT_CPU, cpu_s) && limit(RLIMIT_FSIZE, 0) && limit(RLIMIT_CORE, 0) &&
           limit(RLIMIT_NPROC, 0) && limit(RLIMIT_MEMLOCK, 0) &&
           limit(RLIMIT_NOFILE, MEDIA_FD_MEMORY + 1);
}

static bool allow_plain(scmp_filter_ctx filter)
{
    static const int calls[] = {
        SCMP_SYS(brk),
        SCMP_SYS(munmap),
        SCMP_SYS(mremap),
        SCMP_SYS(madvise),
        SCMP_SYS(futex),
        SCMP_SYS(clock_gettime),
        SCMP_SYS(gettimeofday),
        SCMP_SYS(time),
        SCMP_SYS(getrandom),
        SCMP_SYS(exit),
        SCMP_SYS(exit_group),
        SCMP_SYS(rt_sigreturn),
        SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(restart_syscall),
        SCMP_SYS(getpid),
        SCMP_SYS(gettid),
    };
    size_t i;

    for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        if (seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0) != 0) {
            return false;
        }
    }
    return true;
}

/* Sanitizers report through file descriptors, read /proc and use signal stacks. */
static bool allow_sanitizer(scmp_filter_ctx filter)
{
    static const int calls[] = {SCMP_SYS(write),
                                SCMP_SYS(open),
                                SCMP_SYS(openat),
                                SCMP_SYS(read),
                                SCMP_SYS(close),
                                SCMP_SYS(sigaltstack),
                                SCMP_SYS(mmap),
                                SCMP_SYS(mprotect),
                                SCMP_SYS(readlink),
                                SCMP_SYS(sched_yield),
                                SCMP_SYS(prctl),
                                SCMP_SYS(rt_sigaction),
                                SCMP_SYS(sched_getaffinity)};
    size_t i;

    for (i = 0; SANITIZED && i < sizeof(calls) / sizeof(calls[0]); i++) {
        if (seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0) != 0) {
            return false;
        }
    }
    return true;
}

static bool allow_bounded(scmp_filter_ctx filter)
{
    /* Words on our socket only, to nowhere but its other end; send() and recv() are these calls
     * without an address. */
    if (seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(sendto), 2,
                         SCMP_A0(SCMP_CMP_EQ, MEDIA_FD_SOCKET), SCMP_A4(SCMP_CMP_EQ, 0)) != 0 ||
        seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(recvfrom), 2,
                         SCMP_A0(SCMP_CMP_EQ, MEDIA_FD_SOCKET), SCMP_A4(SCMP_CMP_EQ, 0)) != 0) {
        return false;
    }
    /* Plain memory: private, of no file, never executable. */
    if (!SANITIZED &&
        (seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2,
                          SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
                          SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, MAP_ANONYMOUS)) != 0 ||
         seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                          SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)) != 0)) {
        return false;
    }
    /* abort() of libc signals the own thread; without it the parent would see SIGSYS. */
    return seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 2,
                            SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()),
                            SCMP_A2(SCMP_CMP_EQ, SIGABRT)) == 0;
}

static bool filter_calls(void)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    bool done;

    if (filter == NULL) {
        return false;
    }
    done = allow_plain(filter) && allow_bounded(filter) && allow_sanitizer(filter) &&
           seccomp_load(filter) == 0;
    seccomp_release(filter);
    return done;
}

bool sandbox_enter(int64_t address_bytes, uint32_t cpu_s)
{
    warm_up();
    return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && prctl(PR_SET_DUMPABLE, 0) == 0 &&
           prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && limits(address_bytes, cpu_s) &&
           filter_calls();
}
