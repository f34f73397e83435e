/* posix_spawn, a pidfd, a socket pair and a sealed memory file. Only this pid is ever waited for,
 * so that children of other threads are left to them; sealing its size means that the child cannot
 * make our reads of it fault. */
#include "lib/media_child.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/config.h"
#include "lib/media_proto.h"

enum {
    END_GRACE_MS = 1000, /* for a core that dies to become waitable */
    SAFE_FD = 16         /* above the descriptors that the child is given */
};

struct media_child {
    pid_t pid;
    int pidfd, socket, memory_fd;
    unsigned char *memory;
    size_t memory_bytes;
    bool ended;
};

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        (void)close(*fd);
    }
    *fd = -1;
}

static void child_defer(void *p)
{
    int signal_number;

    (void)media_child_end(p, true, &signal_number);
}

/* Move a descriptor out of the way of 3 and 4, so that the order of the dup2s in the child does
 * not matter. */
static int raise_fd(int fd)
{
    int raised = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, SAFE_FD);

    close_fd(&fd);
    return raised;
}

static bool make_memory(struct media_child *c)
{
    c->memory_fd = raise_fd(memfd_create("media", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (c->memory_fd < 0 || ftruncate(c->memory_fd, (off_t)c->memory_bytes) != 0 ||
        fcntl(c->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return false;
    }
    c->memory = mmap(NULL, c->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->memory_fd, 0);
    return c->memory != MAP_FAILED;
}

/* The configured program, or maxbooster-media beside our own. */
static bool program_path(char path[PATH_MAX])
{
    static const char name[] = "maxbooster-media";
    const char *configured = config()->media_program;
    ssize_t len;
    char *slash;

    if (configured[0] != '\0') {
        return snprintf(path, PATH_MAX, "%s", configured) < PATH_MAX;
    }
    len = readlink("/proc/self/exe", path, PATH_MAX - sizeof(name));
    if (len <= 0) {
        return false;
    }
    path[len] = '\0';
    slash = strrchr(path, '/');
    if (slash == NULL) {
        return false;
    }
    memcpy(slash + 1, name, sizeof(name));
    return true;
}

static int spawn(const char *path, int socket_fd, int memory_fd, pid_t *pid_out)
{
    char *const argv[] = {(char[]){"maxbooster-media"}, NULL};
    char *const envp[] = {NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int rc;

    (void)sigemptyset(&none);
    (void)sigfillset(&all);
    if (posix_spawn_file_actions_init(&actions) != 0) {
        return ENOMEM;
    }
    if (posix_spawnattr_init(&attr) != 0) {
        (void)posix_spawn_file_actions_destroy(&actions);
        return ENOMEM;
    }
    rc = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
    rc = rc != 0 ? rc : posix_spawn_file_actions_adddup2(&actions, 0, 1);
    rc = rc != 0 ? rc : posix_spawn_file_actions_adddup2(&actions, 0, 2);
    rc = rc != 0 ? rc : posix_spawn_file_actions_adddup2(&actions, socket_fd, MEDIA_FD_SOCKET);
    rc = rc != 0 ? rc : posix_spawn_file_actions_adddup2(&actions, memory_fd, MEDIA_FD_MEMORY);
    rc = rc != 0 ? rc : posix_spawn_file_actions_addclosefrom_np(&actions, MEDIA_FD_MEMORY + 1);
    rc = rc != 0 ? rc : posix_spawnattr_setsigmask(&attr, &none);
    rc = rc != 0 ? rc : posix_spawnattr_setsigdefault(&attr, &all);
    /* A group of its own: a ^C is for the worker, which lets its children finish. */
    rc = rc != 0 ? rc : posix_spawnattr_setpgroup(&attr, 0);
    rc = rc != 0 ? rc
                 : posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                       POSIX_SPAWN_SETPGROUP);
    rc = rc != 0 ? rc : posix_spawn(pid_out, path, &actions, &attr, argv, envp);
    (void)posix_spawnattr_destroy(&attr);
    (void)posix_spawn_file_actions_destroy(&actions);
    return rc;
}

enum err media_child_start(struct scope *sc, size_t memory_bytes, struct media_child **child_out)
{
    struct media_child *c = arena_new(sc->arena, struct media_child);
    char path[PATH_MAX];
    int sockets[2], theirs, rc;

    *c = (struct media_child){.pid = -1,
                              .pidfd = -1,
                              .socket = -1,
                              .memory_fd = -1,
                              .memory_bytes = memory_bytes,
                              .memory = MAP_FAILED};
    arena_defer(sc->arena, child_defer, c);
    if (!make_memory(c)) {
        return scope_fail(sc, ERR_INTERNAL, "media: no shared memory: %s", strerror(errno));
    }
    if (!program_path(path)) {
        return scope_fail(sc, ERR_INTERNAL, "media: cannot tell where maxbooster-media is");
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
        return scope_fail(sc, ERR_INTERNAL, "media: no socket pair: %s", strerror(errno));
    }
    c->socket = sockets[0];
    theirs = raise_fd(sockets[1]);
    rc = theirs < 0 || fcntl(c->socket, F_SETFL, O_NONBLOCK) != 0
             ? errno
             : spawn(path, theirs, c->memory_fd, &c->pid);
    close_fd(&theirs);
    close_fd(&c->memory_fd);
    if (rc != 0) {
        c->pid = -1;
        return scope_fail(sc, ERR_INTERNAL, "media: cannot start %s: %s", path, strerror(rc));
    }
    c->pidfd = pidfd_open(c->pid, 0);
    *child_out = c;
    return OK;
}

int media_child_socket(const struct media_child *child)
{
    return child->socket;
}

unsigned char *media_child_memory(const struct media_child *child)
{
    return child->memory;
}

static enum media_child_end how(const siginfo_t *info, int *signal_out)
{
    if (info->si_code == CLD_EXITED) {
        return MEDIA_CHILD_EXITED;
    }
    *signal_out = info->si_status;
    switch (info->si_status) {
    case SIGSEGV:
    case SIGBUS:
    case SIGILL:
    case SIGFPE:
    case SIGABRT:
    case SIGSYS:
    case SIGTRAP:
    case SIGXCPU:
        return MEDIA_CHILD_CRASHED;
    default:
        return MEDIA_CHILD_KILLED;
    }
}

enum media_child_end media_child_end(struct media_child *child, bool kill_now, int *signal_out)
{
    enum media_child_end end = MEDIA_CHILD_EXITED;
    siginfo_t info = {0};

    *signal_out = 0;
    if (child->ended) {
        return end;
    }
    child->ended = true;
    close_fd(&child->socket);
    if (child->pid > 0) {
        struct pollfd pfd = {.fd = child->pidfd, .events = POLLIN};

        if (kill_now || child->pidfd < 0 || poll(&pfd, 1, END_GRACE_MS) <= 0) {
            (void)kill(child->pid, SIGKILL);
        }
        while (waitid(P_PID, (id_t)child->pid, &info, WEXITED) != 0 && errno == EINTR) {
        }
        end = how(&info, signal_out);
    }
    close_fd(&child->pidfd);
    close_fd(&child->memory_fd);
    if (child->memory != MAP_FAILED) {
        (void)munmap(child->memory, child->memory_bytes);
        child->memory = MAP_FAILED;
    }
    return end;
}
