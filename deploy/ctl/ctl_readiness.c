/* maxboosterctl readiness: the checklist, line by line. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "deploy/ctl/ctl.h"
#include "deploy/ctl/readiness.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/fleet.h"
#include "lib/json.h"

enum {
    PAGE_ARENA_BYTES = 4 * 1024 * 1024,
    TARGETS_MAX = 256 * 1024,
    SECONDS_MAX = 3600,
    LOOK_MS = 50
};

static const char *const verdicts[] = {[RD_UNKNOWN] = "unknown",
                                       [RD_PASS] = "pass",
                                       [RD_FAIL] = "fail",
                                       [RD_NOT_APPLICABLE] = "not applicable"};

/* In this order: the trace runs over all that asks, the kills come behind it, and the histograms
 * are read when everything has been asked. */
static const struct line {
    const char *name;
    const char *checked;
    rd_check *check;
} lines[] = {
    {"health", "liveness and readiness answer", rd_health},
    {"instances", "two instances or more, each of which answers", rd_instances},
    {"stateless", "any request of any route to any instance gets the same answer", rd_stateless},
    {"read-write-split", "reads go to replicas, which follow", rd_read_split},
    {"refusal-429", "past a limit: 429 with Retry-After", rd_refusal_429},
    {"refusal-503", "a dependency that does not answer: 503 with Retry-After", rd_refusal_503},
    {"local-files", "no process writes a local file (system calls)", rd_local_files},
    {"configuration", "every value comes by the environment", rd_configuration},
    {"kills", "processes die, and nobody notices", rd_kills},
    {"queued", "no route works for over 1 s (the servers' own histograms)", rd_queued},
};

static bool is_line(const char *name)
{
    size_t i;

    for (i = 0; i < ARRAY_LEN(lines); i++) {
        if (strcmp(lines[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

static bool read_words(struct rd *rd, int argc, char **argv)
{
    int i;

    for (i = 0; i < argc; i++) {
        bool has_value = i + 1 < argc;

        if (strcmp(argv[i], "--json") == 0) {
            rd->is_json = true;
        } else if (strcmp(argv[i], "--kill") == 0) {
            rd->may_kill = true;
        } else if (strcmp(argv[i], "--trace") == 0) {
            rd->may_trace = true;
        } else if (strcmp(argv[i], "--url") == 0 && has_value) {
            rd->url = argv[++i];
        } else if (strcmp(argv[i], "--only") == 0 && has_value && is_line(argv[i + 1])) {
            rd->only = argv[++i];
        } else if (strcmp(argv[i], "--targets") == 0 && has_value) {
            rd->targets = argv[++i];
        } else if (strcmp(argv[i], "--seconds") == 0 && has_value &&
                   i64_parse(argv[i + 1], &rd->seconds) && rd->seconds >= 0 &&
                   rd->seconds <= SECONDS_MAX) {
            i++;
        } else {
            return false;
        }
    }
    return true;
}

/* Take on what the fleet was told, as the instances have. */
static enum err join_fleet(struct scope *sc)
{
    struct fleet_state state;

    TRY(fleet_read(sc, &state));
    return config_apply(state.epoch, state.pairs, state.n, NULL, stderr)
               ? OK
               : scope_fail(sc, ERR_CONFLICT, "the fleet's values do not fit this configuration");
}

/* Is it one of our programs, on this machine? */
static pid_t local_pid(const char *host, int64_t pid)
{
    char own[64] = "", path[64], exe[4096];
    ssize_t len;
    const char *name;

    gethostname(own, sizeof(own) - 1);
    if (strcmp(own, host) != 0 || pid <= 1) {
        return 0;
    }
    snprintf(path, sizeof(path), "/proc/%" PRId64 "/exe", pid);
    len = readlink(path, exe, sizeof(exe) - 1);
    if (len <= 0) {
        return 0;
    }
    exe[len] = '\0';
    name = strrchr(exe, '/');
    return name != NULL && has_prefix(name, "/maxbooster-") ? (pid_t)pid : 0;
}

/* "instance/program/host:pid" */
static void add_member(struct rd *rd, const struct fleet_member *m)
{
    char *name = arena_strdup(rd->sc->arena, m->name);
    char *program = strchr(name, '/'), *host = program != NULL ? strchr(program + 1, '/') : NULL;
    char *pid = host != NULL ? strrchr(host, ':') : NULL;
    struct rd_process *p = &rd->processes[rd->n_processes];
    int64_t number;

    if (pid == NULL || !i64_parse(pid + 1, &number) || rd->n_processes == RD_PROCESSES_MAX) {
        return;
    }
    *program++ = '\0';
    *host++ = '\0';
    *pid = '\0';
    if (strcmp(program, "edge") == 0) {
        return; /* it serves nobody, and writes the proxy's limits into a file, as it shall */
    }
    *p = (struct rd_process){.instance = name,
                             .program = program,
                             .pid = local_pid(host, number),
                             .is_refusing = m->refused_epoch > 0};
    rd->n_processes++;
    rd->n_remote += p->pid == 0;
}

/* targets.json beside CONFIG_FILE or under conf/ there, where the stack's tool writes it. */
static const char *default_targets(struct arena *a)
{
    static const char *const places[] = {"targets.json", "conf/targets.json"};
    const char *file = getenv("CONFIG_FILE");
    const char *slash = file != NULL ? strrchr(file, '/') : NULL;
    size_t i;

    for (i = 0; slash != NULL && i < ARRAY_LEN(places); i++) {
        const char *path = arena_printf(a, "%.*s/%s", (int)(slash - file), file, places[i]);

        if (access(path, R_OK) == 0) {
            return path;
        }
    }
    return NULL;
}

static void add_target(struct rd *rd, const struct json *group)
{
    const char *instance = json_str(json_get(json_get(group, "labels"), "instance_id"), NULL);
    const struct json *targets = json_get(group, "targets");
    size_t i;

    for (i = 0; i < json_length(targets) && rd->n_doors < RD_DOORS_MAX; i++) {
        const char *address = json_str(json_item(targets, i), NULL);
        struct rd_door *door = &rd->doors[rd->n_doors];
        const char *page;

        if (address == NULL) {
            continue;
        }
        door->instance = instance != NULL ? instance : "";
        door->url = arena_printf(rd->sc->arena, "http://%s/metrics", address);
        page = rd_page(rd, door);
        door->is_open = page != NULL;
        if (page != NULL) {
            rd_routes_add(&door->before, page);
            door->replica_calls_before = rd_page_sum(page, "maxbooster_db_replica_calls_total");
        }
        rd->n_doors++;
    }
}

/* Prometheus' file_sd form: [{"targets": ["host:port"], "labels": {"instance_id": "1"}}, …]. */
static enum err read_targets(struct rd *rd)
{
    char *text = arena_alloc(rd->sc->arena, TARGETS_MAX);
    const struct json *groups;
    size_t len, i;
    FILE *in;

    rd->targets = rd->targets != NULL ? rd->targets : default_targets(rd->sc->arena);
    if (rd->targets == NULL) {
        return OK;
    }
    in = fopen(rd->targets, "re");
    if (in == NULL) {
        return scope_fail(rd->sc, ERR_NOT_FOUND, "%s cannot be read", rd->targets);
    }
    len = fread(text, 1, TARGETS_MAX - 1, in);
    fclose(in);
    TRY(json_parse(rd->sc, text, len, &groups));
    for (i = 0; i < json_length(groups); i++) {
        add_target(rd, json_item(groups, i));
    }
    return OK;
}

static enum err look_around(struct rd *rd)
{
    struct fleet_member *members;
    size_t n, i;

    TRY(join_fleet(rd->sc));
    rd->url = rd->url != NULL ? rd->url : config()->public_url;
    TRY(fleet_members(rd->sc, &members, &n));
    for (i = 0; i < n; i++) {
        add_member(rd, &members[i]);
    }
    return read_targets(rd);
}

static void begin_trace(struct rd *rd)
{
    pid_t *pids = arena_array(rd->sc->arena, pid_t, RD_PROCESSES_MAX);
    size_t i, n = 0;

    for (i = 0; i < rd->n_processes; i++) {
        if (rd->processes[i].pid > 0) {
            pids[n++] = rd->processes[i].pid;
        }
    }
    if (n > 0 && rd_trace_open(rd->sc, pids, n, &rd->trace) != OK) {
        rd->trace = NULL;
    }
}

static void tell(const struct rd *rd, struct strbuf *json, const struct line *line,
                 enum rd_verdict verdict, const char *evidence)
{
    if (!rd->is_json) {
        printf("%-14s  %-17s %s: %s\n", verdicts[verdict], line->name, line->checked, evidence);
        fflush(stdout);
        return;
    }
    strbuf_puts(json, json->data[json->len - 1] == '[' ? "{\"name\":" : ",{\"name\":");
    strbuf_json(json, line->name);
    strbuf_puts(json, ",\"checked\":");
    strbuf_json(json, line->checked);
    strbuf_puts(json, ",\"evidence\":");
    strbuf_json(json, evidence);
    strbuf_printf(json, ",\"verdict\":\"%s\"}", verdicts[verdict]);
}

static bool check_all(struct rd *rd)
{
    int64_t until_ms = clock_mono_ms() + rd->seconds * 1000;
    struct strbuf json;
    bool is_ready = true;
    size_t i;

    strbuf_init(&json, rd->sc->arena, 0);
    strbuf_puts(&json, "{\"url\":");
    strbuf_json(&json, rd->url);
    strbuf_printf(&json, ",\"phase\":%" PRId64 ",\"lines\":[", config()->phase);
    if (rd->may_trace) {
        begin_trace(rd);
    }
    for (i = 0; i < ARRAY_LEN(lines); i++) {
        const char *evidence = "";
        enum rd_verdict verdict;

        if (rd->only != NULL && strcmp(rd->only, lines[i].name) != 0) {
            continue;
        }
        while (lines[i].check == rd_local_files && clock_mono_ms() < until_ms) {
            clock_nap_ms(LOOK_MS); /* what else the fleet does is looked at too */
        }
        rd_renew(rd);
        verdict = lines[i].check(rd, &evidence);
        tell(rd, &json, &lines[i], verdict, evidence);
        is_ready = is_ready && (verdict == RD_PASS || verdict == RD_NOT_APPLICABLE);
    }
    strbuf_printf(&json, "],\"ready\":%s}\n", is_ready ? "true" : "false");
    fputs(rd->is_json ? json.data : is_ready ? "ready\n" : "not ready\n", stdout);
    return is_ready;
}

int ctl_readiness(struct scope *sc, int argc, char **argv)
{
    struct rd *rd = arena_new(sc->arena, struct rd);
    bool is_ready = false;
    enum err e;

    rd->sc = sc;
    if (!read_words(rd, argc, argv)) {
        fputs("maxboosterctl: readiness takes --json, --only LINE, --kill, --trace, "
              "--seconds N (0 to 3600), --url URL and --targets FILE.\n",
              stderr);
        return CTL_USAGE;
    }
    rd->page = arena_open(PAGE_ARENA_BYTES);
    rd_renew(rd);
    e = look_around(rd);
    if (e == OK) {
        is_ready = check_all(rd);
    }
    arena_close(&rd->page);
    return e != OK ? ctl_fail(sc, e, "looking at the fleet") : is_ready ? CTL_DONE : CTL_FAILED;
}
