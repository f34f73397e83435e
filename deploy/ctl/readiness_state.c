/* What readiness reads of the fleet: its members, its doors, its replicas, its configuration. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "deploy/ctl/readiness.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/json.h"
#include "lib/pg_admin.h"

enum {
    READS_LIMIT_MS = 5000,
    READS = 2, /* a round; all rounds together stay within a usual quota */
    LOOK_AGAIN_MS = 100,
    REPLICA_LIMIT_MS = 3000,
    COMMAND_MAX = 4096,
    MISSING_TOLD = 3
};

/* --- Instances. --- */

static bool is_open_with(const struct rd *rd, const char *instance)
{
    size_t i;

    for (i = 0; i < rd->n_processes; i++) {
        if (strcmp(rd->processes[i].program, "api") == 0 &&
            strcmp(rd->processes[i].instance, instance) == 0) {
            return true;
        }
    }
    return false;
}

enum rd_verdict rd_instances(struct rd *rd, const char **evidence_out)
{
    size_t i, n_open = 0, n_beating = 0;

    for (i = 0; i < rd->n_doors; i++) {
        n_open += rd->doors[i].is_open;
        n_beating += rd->doors[i].is_open && is_open_with(rd, rd->doors[i].instance);
    }
    *evidence_out = arena_printf(rd->sc->arena,
                                 "%zu instances are known by their metrics, %zu of them answer, "
                                 "%zu have processes that beat; phase %lld",
                                 rd->n_doors, n_open, n_beating, (long long)config()->phase);
    if (rd->n_doors == 0) {
        return RD_UNKNOWN;
    }
    if (n_open < rd->n_doors || n_beating < n_open) {
        return RD_FAIL;
    }
    if (config()->phase == 0) {
        return RD_NOT_APPLICABLE; /* it has one */
    }
    return n_open >= 2 ? RD_PASS : RD_FAIL;
}

/* --- Reads to replicas. --- */

/* Is it a replica that follows closely? What is wrong, or NULL. */
static const char *look_at_replica(struct rd *rd, const char *url)
{
    /* Where nothing has come since the start, what it has received begins behind what it has. */
    static const char sql[] =
        "SELECT pg_is_in_recovery()::text, CASE WHEN pg_last_wal_receive_lsn() <= "
        "pg_last_wal_replay_lsn() THEN 0 ELSE (extract(epoch FROM clock_timestamp() - "
        "pg_last_xact_replay_timestamp()) * 1000)::bigint END::text";
    struct scope *sc = rd->sc;
    struct pg_admin *c = NULL;
    struct pg_table t;
    const char *fault = NULL;
    int64_t lag_ms;

    if (pg_admin_open(sc, url, REPLICA_LIMIT_MS, &c) != OK ||
        pg_admin_run(sc, c, REPLICA_LIMIT_MS, sql, 0, NULL, &t) != OK) {
        fault = sc->cause != NULL ? sc->cause : "does not answer";
    } else if (strcmp(pg_cell(&t, 0, 0), "true") != 0) {
        fault = arena_printf(sc->arena, "%s is no replica", pg_admin_name(c));
    } else if (pg_cell(&t, 0, 1) == NULL || !i64_parse(pg_cell(&t, 0, 1), &lag_ms) ||
               lag_ms > config()->db_max_replica_lag_ms) {
        fault = arena_printf(sc->arena, "%s is %s ms behind", pg_admin_name(c),
                             pg_cell(&t, 0, 1) != NULL ? pg_cell(&t, 0, 1) : "?");
    }
    pg_admin_close(&c);
    scope_forgive(sc);
    return fault;
}

/* The same, looked at again for a while: right behind a write none is up to date. */
static const char *fault_of_replica(struct rd *rd, const char *url)
{
    int64_t until_ms = clock_mono_ms() + REPLICA_LIMIT_MS;
    const char *fault;

    while ((fault = look_at_replica(rd, url)) != NULL && clock_mono_ms() < until_ms) {
        clock_nap_ms(LOOK_AGAIN_MS);
    }
    return fault;
}

/* Reads that the instances have sent to replicas since the beginning. */
static double count_replica_calls(struct rd *rd)
{
    double n = 0;
    size_t i;

    for (i = 0; i < rd->n_doors; i++) {
        const char *page = rd_page(rd, &rd->doors[i]);

        n += page != NULL ? rd_page_sum(page, "maxbooster_db_replica_calls_total") -
                                rd->doors[i].replica_calls_before
                          : 0;
    }
    return n;
}

/* Read lists with one session until reads have gone to replicas: behind a log-in they go to the
 * primary for DB_MAX_REPLICA_LAG_MS. Returns how many did. */
static double read_lists(struct rd *rd)
{
    int64_t until_ms = clock_mono_ms() + READS_LIMIT_MS;
    struct id user = id_make_user();
    char token[SESSION_TOKEN_SIZE];
    struct http_response reply;
    double n = 0;
    int i;

    if (rd_session(rd, user, "user", token) != OK) {
        scope_forgive(rd->sc);
        return 0;
    }
    while (n <= 0 && clock_mono_ms() < until_ms) {
        for (i = 0; i < READS; i++) {
            if (rd_ask(rd, "GET", arena_printf(rd->sc->arena, "%s/api/audio", rd->url), token, NULL,
                       NULL, &reply) != OK) {
                scope_forgive(rd->sc);
            }
        }
        n = count_replica_calls(rd);
        if (n <= 0) {
            clock_nap_ms(LOOK_AGAIN_MS);
        }
    }
    if (session_end_all(rd->sc, user, (struct id){{0}}) != OK) {
        scope_forgive(rd->sc);
    }
    return n;
}

enum rd_verdict rd_read_split(struct rd *rd, const char **evidence_out)
{
    const struct config *cf = config();
    const char *fault = NULL;
    double n_calls;
    int n = 0;
    size_t i;

    for (i = 0; i < ARRAY_LEN(cf->database_replica_url); i++) {
        if (cf->database_replica_url[i] != NULL && *cf->database_replica_url[i] != '\0') {
            const char *found = fault_of_replica(rd, cf->database_replica_url[i]);

            fault = fault != NULL ? fault : found;
            n++;
        }
    }
    *evidence_out = "no replica is configured";
    if (n == 0) {
        return cf->phase == 0 ? RD_NOT_APPLICABLE : RD_FAIL;
    }
    n_calls = read_lists(rd);
    *evidence_out = arena_printf(
        rd->sc->arena, "%d replicas; %s; %.0f reads of these probes were sent to replicas", n,
        fault != NULL ? fault : "each is in recovery and within DB_MAX_REPLICA_LAG_MS", n_calls);
    return fault != NULL || n_calls <= 0 ? RD_FAIL : RD_PASS;
}

/* --- Local files. --- */

enum rd_verdict rd_local_files(struct rd *rd, const char **evidence_out)
{
    struct rd_trace_result r;
    const char *file = NULL;
    pid_t pid = 0;
    size_t i, n = 0;

    *evidence_out = rd->may_trace ? rd->sc->cause != NULL ? rd->sc->cause : "nothing to look at"
                                  : "give --trace: strace looks at the processes of this machine, "
                                    "which makes them slower for that time";
    if (rd->trace == NULL) {
        return RD_UNKNOWN;
    }
    for (i = 0; i < rd->n_processes; i++) {
        if (rd->processes[i].pid > 0) {
            n++;
            pid = file == NULL ? rd->processes[i].pid : pid;
            file = file == NULL ? rd_open_file(rd->sc->arena, pid) : file;
        }
    }
    rd_trace_close(rd->sc, &rd->trace, &r);
    *evidence_out = arena_printf(
        rd->sc->arena,
        "%zu processes here looked at (%zu are on other machines): %zu calls that open or change "
        "files, %zu of them change local ones %s; files held open for writing, beside the log: %s",
        n, rd->n_remote, r.n_calls, r.n_writes, r.first,
        file != NULL ? arena_printf(rd->sc->arena, "%s (process %d)", file, (int)pid) : "none");
    if (r.n_writes > 0 || file != NULL) {
        return RD_FAIL;
    }
    if (!r.is_whole || rd->n_remote > 0) {
        *evidence_out =
            arena_printf(rd->sc->arena, "%s; not all was seen %s", *evidence_out, r.trouble);
        return RD_UNKNOWN;
    }
    return RD_PASS;
}

/* --- Configuration. --- */

/* Arguments of a process beside --queues: settings that the environment does not have. */
static const char *foreign_argument(struct rd *rd, pid_t pid)
{
    char path[64], text[COMMAND_MAX];
    const char *at;
    size_t len;
    FILE *in;

    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    in = fopen(path, "re");
    if (in == NULL) {
        return NULL;
    }
    len = fread(text, 1, sizeof(text) - 1, in);
    fclose(in);
    text[len] = '\0';
    for (at = text + strlen(text) + 1; at < text + len; at += strlen(at) + 1) {
        if (strcmp(at, "--queues") != 0) {
            return arena_strdup(rd->sc->arena, at);
        }
        at += strlen(at) + 1; /* its value */
    }
    return NULL;
}

/* Values that are one process's own by their nature. */
static bool is_own(const char *name)
{
    static const char *const own[] = {"INSTANCE_ID", "INSTANCE_SHM", "METRICS_PORT",
                                      "WORKER_QUEUES"};
    size_t i;

    for (i = 0; i < ARRAY_LEN(own); i++) {
        if (strcmp(own[i], name) == 0) {
            return true;
        }
    }
    return false;
}

struct comparison {
    struct rd *rd;
    const struct json *items; /* as the API tells them */
    size_t n_same, n_other;
    const char *first; /* name of the first that differs */
};

static void compare(void *context, const struct config_item *item)
{
    struct comparison *c = context;
    const char *value = NULL;
    size_t i;

    if (is_own(item->name)) {
        return;
    }
    for (i = 0; i < json_length(c->items); i++) {
        const struct json *told = json_item(c->items, i);
        const char *name = json_str(json_get(told, "name"), NULL);

        if (name != NULL && strcmp(name, item->name) == 0) {
            value = json_str(json_get(told, "value"), NULL);
        }
    }
    if (value != NULL && strcmp(value, item->value) == 0) {
        c->n_same++;
    } else {
        c->n_other++;
        c->first = c->first != NULL ? c->first : arena_strdup(c->rd->sc->arena, item->name);
    }
}

/* Ask the API for the values that it runs with, and hold ours against them. */
static bool compare_once(struct rd *rd, const char *token, struct comparison *c)
{
    const struct json *told;
    struct http_response reply;

    if (rd_ask(rd, "GET", arena_printf(rd->sc->arena, "%s/api/system/config", rd->url), token, NULL,
               NULL, &reply) != OK ||
        reply.status != 200 || json_parse(rd->sc, reply.body, reply.body_len, &told) != OK) {
        return false;
    }
    c->items = json_get(told, "items");
    c->n_same = 0;
    config_each(compare, c);
    return true;
}

enum rd_verdict rd_configuration(struct rd *rd, const char **evidence_out)
{
    struct comparison c = {.rd = rd};
    struct id user = id_make_user();
    char token[SESSION_TOKEN_SIZE];
    const char *argument = NULL;
    size_t i, n_here = 0, n_refusing = 0;
    bool is_asked = rd_session(rd, user, "admin", token) == OK;

    for (i = 0; is_asked && i < 2 * rd->n_doors + 1; i++) {
        is_asked = compare_once(rd, token, &c);
    }
    if (session_end_all(rd->sc, user, (struct id){{0}}) != OK) {
        scope_forgive(rd->sc);
    }
    for (i = 0; i < rd->n_processes; i++) {
        const char *found =
            rd->processes[i].pid > 0 ? foreign_argument(rd, rd->processes[i].pid) : NULL;

        n_here += rd->processes[i].pid > 0;
        n_refusing += rd->processes[i].is_refusing;
        argument = argument != NULL ? argument : found;
    }
    *evidence_out = arena_printf(
        rd->sc->arena,
        "%zu values that the instances run with are the environment's (with CONFIG_FILE and what "
        "the fleet was told), %zu are not%s%s; %zu processes here take no settings as "
        "arguments%s%s; %zu processes refuse what the fleet was told",
        c.n_same, c.n_other, c.first != NULL ? ", as " : "", c.first != NULL ? c.first : "", n_here,
        argument != NULL ? ", but for " : "", argument != NULL ? argument : "", n_refusing);
    if (c.n_other > 0 || argument != NULL || n_refusing > 0) {
        return RD_FAIL;
    }
    if (!is_asked || n_here == 0 || rd->n_remote > 0) {
        *evidence_out = arena_printf(rd->sc->arena, "%s; not all could be asked", *evidence_out);
        return RD_UNKNOWN;
    }
    return RD_PASS;
}

/* --- Long work. --- */

static const char *slow_text(struct rd *rd, const struct rd_route *r)
{
    return arena_printf(rd->sc->arena, "%s took over 1 s in %lld of %lld", r->name,
                        (long long)r->n_slow, (long long)r->n_done);
}

/* Routes of the API's description that have never done anything. */
static size_t count_unseen(struct rd *rd, const struct rd_routes *routes, struct strbuf *names)
{
    size_t i, n = 0;

    for (i = 0; i < rd->n_operations; i++) {
        const struct rd_route *r = rd_routes_find(routes, rd->operations[i].key);

        if (r == NULL || r->n_done == 0) {
            if (++n <= MISSING_TOLD) {
                strbuf_printf(names, "%s%s", n > 1 ? ", " : "", rd->operations[i].key);
            }
        }
    }
    return n;
}

enum rd_verdict rd_queued(struct rd *rd, const char **evidence_out)
{
    struct rd_routes *routes = arena_new(rd->sc->arena, struct rd_routes);
    const char *slow = NULL;
    int64_t n_done = 0, n_slow = 0;
    struct strbuf unseen;
    size_t i, n_unseen;

    if (!rd_operations(rd, evidence_out)) {
        return RD_UNKNOWN;
    }
    *evidence_out = "no door answers";
    for (i = 0; i < rd->n_doors; i++) {
        const char *page = rd_page(rd, &rd->doors[i]);

        if (page == NULL) {
            return RD_UNKNOWN;
        }
        rd_routes_add(routes, page);
    }
    for (i = 0; i < routes->n; i++) {
        n_done += routes->items[i].n_done;
        n_slow += routes->items[i].n_slow;
        if (slow == NULL && rd_route_is_slow(&routes->items[i])) {
            slow = slow_text(rd, &routes->items[i]);
        }
    }
    strbuf_init(&unseen, rd->sc->arena, 0);
    n_unseen = count_unseen(rd, routes, &unseen);
    *evidence_out = arena_printf(
        rd->sc->arena,
        "%lld requests of %zu routes were done since the instances' start, %lld of them in over 1 "
        "s; %s; %zu routes have done nothing yet %s%s%s",
        (long long)n_done, routes->n, (long long)n_slow,
        slow != NULL ? slow : "no route needs that for more than 1 % of its requests", n_unseen,
        n_unseen > 0 ? "(" : "", unseen.data,
        n_unseen > MISSING_TOLD ? ", …)"
        : n_unseen > 0          ? ")"
                                : "");
    if (slow != NULL) {
        return RD_FAIL;
    }
    return rd->n_doors == 0 || n_unseen > 0 ? RD_UNKNOWN : RD_PASS;
}
