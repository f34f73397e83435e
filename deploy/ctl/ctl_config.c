/* Configuration: what the programs read, and what the whole fleet is told over it. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "deploy/ctl/ctl.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/fleet.h"

enum { FOLLOW_LIMIT_MS = 5000, FOLLOW_LOOK_MS = 50, CARRY_ARENA_BYTES = 64 * 1024 };

int ctl_config_check(struct scope *sc, int argc, char **argv)
{
    (void)sc, (void)argc, (void)argv;
    puts("The configuration is good."); /* main() has read it; it would have told the faults */
    return CTL_DONE;
}

/* Effective values: the fleet's over ours, where Redis can be asked. */
int ctl_config_show(struct scope *sc, int argc, char **argv)
{
    struct fleet_state state;
    char at[CLOCK_TEXT_SIZE];
    enum err e = fleet_read(sc, &state);
    size_t i;

    (void)argc, (void)argv;
    if (e != OK) {
        config_print(stdout);
        printf("# What the fleet is told cannot be asked: %s\n",
               sc->cause != NULL ? sc->cause : "");
        return CTL_DONE;
    }
    if (!config_apply(state.epoch, state.pairs, state.n, NULL, stderr)) {
        fputs("maxboosterctl: the fleet's values do not fit this configuration.\n", stderr);
        return CTL_FAILED;
    }
    config_print(stdout);
    clock_format(state.at_ms, at);
    printf("# fleet: epoch %" PRId64, state.epoch);
    if (state.epoch > 0) {
        printf(" by %s at %s", state.by, at);
    }
    putchar('\n');
    for (i = 0; i < state.n; i++) {
        printf("# fleet: %s=%s\n", state.pairs[i].name, state.pairs[i].value);
    }
    return CTL_DONE;
}

int ctl_config_members(struct scope *sc, int argc, char **argv)
{
    struct fleet_member *members;
    size_t n, i;
    enum err e = fleet_members(sc, &members, &n);

    (void)argc, (void)argv;
    if (e != OK) {
        return ctl_fail(sc, e, "asking who follows");
    }
    for (i = 0; i < n; i++) {
        printf("epoch %" PRId64 " %s%s%s\n", members[i].epoch, members[i].name,
               members[i].refused_epoch > 0 ? " refused: " : "", members[i].refusal);
    }
    return CTL_DONE;
}

/* Who we are, for the log: user@host. */
static const char *whoami(struct scope *sc)
{
    const struct passwd *user = getpwuid(getuid());
    char host[64] = "";

    gethostname(host, sizeof(host) - 1);
    return arena_printf(sc->arena, "%s@%s", user != NULL ? user->pw_name : "?", host);
}

/* Values of the fleet as they would be after the change; at most state->n + n. */
static size_t merge(const struct fleet_state *state, const struct config_pair *changes, size_t n,
                    struct config_pair *out)
{
    size_t n_out = 0, i, k;

    for (i = 0; i < state->n; i++) {
        for (k = 0; k < n && strcmp(changes[k].name, state->pairs[i].name) != 0; k++) {
        }
        if (k == n) {
            out[n_out++] = state->pairs[i];
        }
    }
    for (k = 0; k < n; k++) {
        if (*changes[k].value != '\0') {
            out[n_out++] = changes[k];
        }
    }
    return n_out;
}

/* How many run with an epoch before this one; *n_refused_out of those have refused it. */
static size_t count_behind(const struct fleet_member *members, size_t n, int64_t epoch,
                           size_t *n_refused_out)
{
    size_t n_behind = 0, i;

    *n_refused_out = 0;
    for (i = 0; i < n; i++) {
        n_behind += members[i].epoch < epoch;
        *n_refused_out += members[i].epoch < epoch && members[i].refused_epoch >= epoch;
    }
    return n_behind;
}

static void tell_behind(const struct fleet_member *members, size_t n, int64_t epoch)
{
    size_t i;

    for (i = 0; i < n; i++) {
        const struct fleet_member *m = &members[i];

        if (m->epoch < epoch) {
            fprintf(stderr, "maxboosterctl: %s %s%s\n", m->name,
                    m->refused_epoch >= epoch ? "refused: " : "is silent.",
                    m->refused_epoch >= epoch ? m->refusal : "");
        }
    }
}

/* Wait until everybody follows; tells who does not. */
static int await(struct scope *sc, int64_t epoch)
{
    int64_t start = clock_mono_ms();

    for (;;) {
        struct fleet_member *members;
        size_t n, n_behind, n_refused;
        enum err e;

        arena_reset(sc->arena);
        scope_init(sc, sc->arena, FOLLOW_LIMIT_MS);
        e = fleet_members(sc, &members, &n);
        if (e != OK) {
            return ctl_fail(sc, e, "asking who follows");
        }
        n_behind = count_behind(members, n, epoch, &n_refused);
        if (n_behind == n_refused || clock_mono_ms() - start > FOLLOW_LIMIT_MS) {
            tell_behind(members, n, epoch);
            printf("epoch %" PRId64 ": %zu of %zu processes follow, after %" PRId64 " ms\n", epoch,
                   n - n_behind, n, clock_mono_ms() - start);
            return n_behind == 0 ? CTL_DONE : CTL_FAILED;
        }
        clock_nap_ms(FOLLOW_LOOK_MS);
    }
}

/* The proxy's limit of bodies is rendered from the file. */
static void tell_of_the_edge(const struct config_pair *changes, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        if (strcmp(changes[i].name, "BODY_MAX_BYTES") == 0) {
            puts("note: the proxy's own limit of bodies is rendered from the file; where it is to "
                 "rise too, set it there as well and render it again (make up NAME=value)");
            return;
        }
    }
}

static int change(struct scope *sc, const struct config_pair *changes, size_t n)
{
    struct fleet_state state;
    struct config_pair *merged;
    size_t n_merged;
    int64_t epoch;
    enum err e = fleet_read(sc, &state);

    if (e != OK) {
        return ctl_fail(sc, e, "reading what the fleet is told");
    }
    merged = arena_array(sc->arena, struct config_pair, state.n + n + 1);
    n_merged = merge(&state, changes, n, merged);
    if (n_merged > FLEET_VALUES_MAX) {
        fprintf(stderr, "maxboosterctl: the fleet takes at most %d values.\n", FLEET_VALUES_MAX);
        return CTL_FAILED;
    }
    if (!config_would_apply(merged, n_merged, stderr)) {
        fputs("maxboosterctl: nothing was changed.\n", stderr);
        return CTL_FAILED;
    }
    e = fleet_set(sc, whoami(sc), changes, n, &epoch);
    if (e != OK) {
        return ctl_fail(sc, e, "telling the fleet");
    }
    tell_of_the_edge(changes, n);
    return await(sc, epoch);
}

/* NAME=value …, or NAME value. */
int ctl_config_set(struct scope *sc, int argc, char **argv)
{
    struct config_pair *changes = arena_array(sc->arena, struct config_pair, argc);
    size_t n = 0;
    int i;

    if (argc == 2 && strchr(argv[0], '=') == NULL) {
        changes[0] = (struct config_pair){.name = argv[0], .value = argv[1]};
        return change(sc, changes, 1);
    }
    for (i = 0; i < argc; i++) {
        char *equals = strchr(argv[i], '=');

        if (equals == NULL || equals == argv[i]) {
            fprintf(stderr, "maxboosterctl: \"%s\" is not NAME=value.\n", argv[i]);
            return CTL_USAGE;
        }
        *equals = '\0';
        changes[n++] = (struct config_pair){.name = argv[i], .value = equals + 1};
    }
    return change(sc, changes, n);
}

int ctl_config_reload(struct scope *sc, int argc, char **argv)
{
    (void)argc, (void)argv;
    return change(sc, NULL, 0);
}

/* --- Following. --- */

/* The command, and the values that it is to have. Read by the thread that follows the fleet. */
static struct {
    const char *names;    /* "A,B" */
    char *const *command; /* NULL behind the last word */
} carrier;

/* Is the name in the list? */
static bool is_wanted(const char *name)
{
    const char *at = carrier.names;
    size_t len = strlen(name);

    for (;; at++) {
        if (strncmp(at, name, len) == 0 && (at[len] == ',' || at[len] == '\0')) {
            return true;
        }
        at = strchr(at, ',');
        if (at == NULL) {
            return false;
        }
    }
}

/* The environment that a command gets. */
struct surroundings {
    struct arena *arena;
    char **list;
    size_t n;
};

static void add_value(void *context, const struct config_item *item)
{
    struct surroundings *s = context;

    if (!item->is_secret && is_wanted(item->name)) {
        s->list[s->n++] = arena_printf(s->arena, "%s=%s", item->name, item->value);
    }
}

/* Is it NAME=value of a wanted name? */
static bool is_wanted_pair(struct arena *a, const char *pair)
{
    return is_wanted(arena_strndup(a, pair, strcspn(pair, "=")));
}

/* Ours, with the values of now; ours itself stays, since the configuration is read from it. */
static struct surroundings surround(struct arena *a)
{
    struct surroundings s = {.arena = a};
    size_t n = 0, i;

    while (environ[n] != NULL) {
        n++;
    }
    s.list = arena_array(a, char *, n + FLEET_VALUES_MAX + 1);
    config_each(add_value, &s);
    for (i = 0; i < n; i++) {
        if (!is_wanted_pair(a, environ[i])) {
            s.list[s.n++] = environ[i];
        }
    }
    s.list[s.n] = NULL;
    return s;
}

/* Start the command, with no signal blocked. */
static bool start(char **list, pid_t *child_out)
{
    posix_spawnattr_t attributes;
    sigset_t none;
    int fault;

    sigemptyset(&none);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    fault = posix_spawn(child_out, carrier.command[0], NULL, &attributes, carrier.command, list);
    posix_spawnattr_destroy(&attributes);
    return fault == 0;
}

/* Run the command with the values of now. */
static bool carry(const char **why_out)
{
    struct arena *arena = arena_open(CARRY_ARENA_BYTES);
    bool is_started;
    pid_t child;
    int status = -1;

    is_started = start(surround(arena).list, &child);
    arena_close(&arena);
    *why_out = is_started ? "the command that carries the values failed; see its log"
                          : "the command that carries the values does not start";
    while (is_started && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return is_started && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static size_t count_names(const char *names)
{
    size_t n = 1;

    for (; (names = strchr(names, ',')) != NULL; names++) {
        n++;
    }
    return n;
}

static void count_wanted(void *context, const struct config_item *item)
{
    *(size_t *)context += !item->is_secret && is_wanted(item->name);
}

/* A member of the fleet like any other, until SIGTERM. */
int ctl_config_follow(struct scope *sc, int argc, char **argv)
{
    sigset_t signals;
    size_t n = 0;
    int got;

    (void)sc, (void)argc;
    carrier.names = argv[0];
    carrier.command = argv + 1;
    config_each(count_wanted, &n);
    if (n != count_names(argv[0]) || n > FLEET_VALUES_MAX) {
        fprintf(stderr, "maxboosterctl: \"%s\" names a variable that there is not, or a secret.\n",
                argv[0]);
        return CTL_USAGE;
    }
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    fleet_act(carry);
    fleet_open("edge");
    sigwait(&signals, &got);
    fleet_close();
    return CTL_DONE;
}
