/* strace writes its lines to a pipe; a thread reads them as they come, since a full pipe would stop
 * the processes that it looks at. */
#include "deploy/ctl/readiness_trace.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/str.h"

enum { LINE_KEPT = 400, ATTACH_LIMIT_MS = 10000, LOOK_MS = 20, PATH_KEPT = 4096 };

/* A leading "?": not a fault where the machine does not know the call. */
#define CALLS                                                                                \
    "trace=?open,?openat,?openat2,?creat,?mkdir,?mkdirat,?mknod,?mknodat,?rename,?renameat," \
    "?renameat2,?link,?linkat,?symlink,?symlinkat,?truncate,?unlink,?unlinkat,?rmdir"

extern char **environ;

struct rd_trace {
    pid_t strace;
    int fd;
    pthread_t reader;
    size_t n_pids;
    atomic_size_t n_attached;
    atomic_bool is_ended;
    size_t n_calls, n_writes;
    char first[LINE_KEPT], trouble[LINE_KEPT];
};

static bool is_kernel_path(const char *path)
{
    return has_prefix(path, "/dev/") || has_prefix(path, "/proc/") || has_prefix(path, "/sys/");
}

/* Every path in quotes that the line names is a kernel interface. */
static bool is_about_kernel(const char *args)
{
    const char *quote = strchr(args, '"');

    while (quote != NULL) {
        if (!is_kernel_path(quote + 1)) {
            return false;
        }
        quote = strchr(quote + 1, '"');
        quote = quote != NULL ? strchr(quote + 1, '"') : NULL;
    }
    return true;
}

/* The result stands behind the last " = ". */
static bool has_failed(const char *line)
{
    const char *at = strstr(line, " = "), *last = NULL;

    while (at != NULL) {
        last = at + strlen(" = ");
        at = strstr(last, " = ");
    }
    return last != NULL && *last == '-';
}

bool rd_trace_is_write(const char *line, bool *is_call_out)
{
    static const char *const writing[] = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_TMPFILE"};
    const char *at = line, *args;
    bool is_write;
    size_t i;

    if (has_prefix(at, "[pid")) {
        at = strchr(at, ']') != NULL ? strchr(at, ']') + 1 : at;
        at += strspn(at, " ");
    }
    args = strchr(at, '(');
    *is_call_out = args != NULL && args > at && strcspn(at, " \"<+:") > (size_t)(args - at);
    if (!*is_call_out) {
        return false;
    }
    if (has_failed(line)) {
        return false;
    }
    is_write = !has_prefix(at, "open");
    for (i = 0; i < ARRAY_LEN(writing); i++) {
        is_write = is_write || strstr(args, writing[i]) != NULL;
    }
    return is_write && !is_about_kernel(args);
}

static void keep(char out[LINE_KEPT], const char *line)
{
    if (out[0] == '\0') {
        snprintf(out, LINE_KEPT, "%.*s", (int)strcspn(line, "\n"), line);
    }
}

static void take_line(struct rd_trace *t, const char *line)
{
    bool is_call;

    if (has_prefix(line, "strace: ")) {
        if (strstr(line, " attached") != NULL) {
            atomic_fetch_add(&t->n_attached, 1);
        } else if (strstr(line, " detached") == NULL) {
            keep(t->trouble, line);
        }
        return;
    }
    if (rd_trace_is_write(line, &is_call)) {
        t->n_writes++;
        keep(t->first, line);
    }
    t->n_calls += is_call;
}

static void *read_lines(void *context)
{
    struct rd_trace *t = context;
    FILE *in = fdopen(t->fd, "r");
    char *line = NULL;
    size_t size = 0;

    while (in != NULL && getline(&line, &size, in) > 0) {
        take_line(t, line);
    }
    free(line);
    if (in != NULL) {
        fclose(in);
    }
    atomic_store(&t->is_ended, true);
    return NULL;
}

/* strace -f -e … -p PID -p PID, its standard error into the pipe. */
static int start(struct scope *sc, const pid_t *pids, size_t n, int write_fd, pid_t *out)
{
    char **argv = arena_array(sc->arena, char *, 5 + 2 * n);
    posix_spawn_file_actions_t actions;
    size_t argc = 0, i;
    int fault;

    argv[argc++] = arena_strdup(sc->arena, "strace");
    argv[argc++] = arena_strdup(sc->arena, "-f");
    argv[argc++] = arena_strdup(sc->arena, "-e");
    argv[argc++] = arena_strdup(sc->arena, CALLS);
    for (i = 0; i < n; i++) {
        argv[argc++] = arena_strdup(sc->arena, "-p");
        argv[argc++] = arena_printf(sc->arena, "%d", (int)pids[i]);
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, write_fd, STDERR_FILENO);
    fault = posix_spawnp(out, "strace", &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return fault;
}

enum err rd_trace_open(struct scope *sc, const pid_t *pids, size_t n, struct rd_trace **out)
{
    struct rd_trace *t = arena_new(sc->arena, struct rd_trace);
    int64_t until_ms = clock_mono_ms() + ATTACH_LIMIT_MS;
    int pipe_fds[2], fault;

    *out = NULL;
    if (pipe2(pipe_fds, O_CLOEXEC) != 0) {
        return scope_fail(sc, ERR_INTERNAL, "no pipe: %s", strerror(errno));
    }
    fault = start(sc, pids, n, pipe_fds[1], &t->strace);
    close(pipe_fds[1]);
    t->fd = pipe_fds[0];
    t->n_pids = n;
    if (fault != 0 || pthread_create(&t->reader, NULL, read_lines, t) != 0) {
        close(pipe_fds[0]);
        return scope_fail(sc, ERR_INTERNAL, "strace cannot be started: %s", strerror(fault));
    }
    while (atomic_load(&t->n_attached) < n && !atomic_load(&t->is_ended) &&
           clock_mono_ms() < until_ms) {
        clock_nap_ms(LOOK_MS);
    }
    *out = t;
    return OK;
}

void rd_trace_close(struct scope *sc, struct rd_trace **t_ptr, struct rd_trace_result *out)
{
    struct rd_trace *t = *t_ptr;
    bool was_running = !atomic_load(&t->is_ended);
    int status;

    *t_ptr = NULL;
    /* Asked to end, strace waits for each thread to stop, one after the other: for ever where one
     * is in vfork() and its child has been stopped, and with it stands all that it looks at.
     * Killed, it lets go of all at once (ptrace(2)); its lines were written as they came. */
    kill(t->strace, SIGKILL);
    while (waitpid(t->strace, &status, 0) < 0 && errno == EINTR) {
    }
    pthread_join(t->reader, NULL);
    *out = (struct rd_trace_result){
        .is_whole = was_running && atomic_load(&t->n_attached) >= t->n_pids,
        .n_calls = t->n_calls,
        .n_writes = t->n_writes,
        .first = arena_strdup(sc->arena, t->first),
        .trouble = arena_strdup(sc->arena, t->trouble),
    };
}

/* Flags of an open descriptor, in octal in /proc (O_ACCMODE is the lowest digit). */
static bool is_for_writing(pid_t pid, const char *fd)
{
    char path[64], text[256] = "";
    FILE *in;
    char *flags;

    snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.16s", (int)pid, fd);
    in = fopen(path, "re");
    if (in == NULL) {
        return false;
    }
    text[fread(text, 1, sizeof(text) - 1, in)] = '\0';
    fclose(in);
    flags = strstr(text, "flags:");
    return flags != NULL && (strtol(flags + strlen("flags:"), NULL, 8) & O_ACCMODE) != O_RDONLY;
}

const char *rd_open_file(struct arena *a, pid_t pid)
{
    char folder[64], target[PATH_KEPT];
    const char *found = NULL;
    struct dirent *entry;
    DIR *dir;

    snprintf(folder, sizeof(folder), "/proc/%d/fd", (int)pid);
    dir = opendir(folder);
    while (dir != NULL && found == NULL && (entry = readdir(dir)) != NULL) {
        ssize_t len = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
        bool is_log = strcmp(entry->d_name, "1") == 0 || strcmp(entry->d_name, "2") == 0;

        if (len <= 0 || is_log) {
            continue;
        }
        target[len] = '\0';
        if (target[0] == '/' && !has_prefix(target, "/memfd:") && !is_kernel_path(target) &&
            is_for_writing(pid, entry->d_name)) {
            found = arena_strdup(a, target);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return found;
}
