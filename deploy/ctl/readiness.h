/* The readiness checklist, proved on a running stack: what `maxboosterctl readiness` is made of.
 *
 * A line passes where its proof was seen, fails where the opposite was, and is unknown where the
 * proof could not be had (a door that does not answer, a switch that was not given): unknown is
 * not ready. Everything runs in one thread but the reader of the trace. See
 * docs/internals/readiness.md. */
#ifndef DEPLOY_CTL_READINESS_H
#define DEPLOY_CTL_READINESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "deploy/ctl/readiness_page.h"
#include "deploy/ctl/readiness_trace.h"
#include "lib/http.h"
#include "lib/id.h"
#include "lib/scope.h"
#include "lib/session.h"

enum { RD_DOORS_MAX = 64, RD_PROCESSES_MAX = 1024, RD_ROUTES_MAX = 250 };

enum rd_verdict { RD_UNKNOWN, RD_PASS, RD_FAIL, RD_NOT_APPLICABLE };

/* An API instance's page of metrics, and how often it had answered each route before. */
struct rd_door {
    const char *instance;
    const char *url;
    bool is_open;
    struct rd_routes before;
    double replica_calls_before;
};

/* A process of the fleet; pid is 0 where it runs on another machine. */
struct rd_process {
    const char *instance;
    const char *program; /* api, worker, scheduler */
    pid_t pid;
    bool is_refusing; /* does not take on what the fleet was told */
};

/* A route of the API's own description. */
struct rd_operation {
    const char *key;    /* "GET /api/audio/{id}" with * for {id}: as metrics name it */
    const char *method; /* "GET" */
    const char *path;   /* "/api/audio/{id}" */
    bool is_critical;   /* charged to the operator's address */
    int status;         /* first answer; 0: not asked */
    const char *code;   /* of its problem, or "" */
};

struct rd {
    struct scope *sc;   /* texts that last lie in its arena */
    struct arena *page; /* for one exchange; reset by each */
    const char *url;
    const char *targets;
    const char *only; /* the one line that is wanted, or NULL */
    bool is_json, may_kill, may_trace;
    int64_t seconds;
    struct rd_door doors[RD_DOORS_MAX];
    size_t n_doors;
    struct rd_process processes[RD_PROCESSES_MAX];
    size_t n_processes, n_remote;
    struct rd_operation operations[RD_ROUTES_MAX];
    size_t n_operations;
    struct rd_trace *trace; /* NULL: none runs */
};

/* Judges one line: what was seen, in a sentence. Blocks as long as its probes take. */
typedef enum rd_verdict rd_check(struct rd *rd, const char **evidence_out);

/* What stands in the way of asking at all (in evidence) is an unknown line. */
rd_check rd_health, rd_instances, rd_stateless, rd_read_split, rd_refusal_429, rd_refusal_503;
rd_check rd_local_files, rd_configuration, rd_kills, rd_queued;

/* One exchange with the API or a door. body NULL: none is sent; token NULL: no session; key NULL:
 * no Idempotency-Key. The answer lies in rd->page until the next exchange. Blocks up to 20 s; OK
 * for any status. */
MUST_USE enum err rd_ask(struct rd *rd, const char *method, const char *url, const char *token,
                         const char *key, const char *body, struct http_response *out);

/* Read the routes, once, from the API's own description; false: it cannot be read. */
bool rd_operations(struct rd *rd, const char **evidence_out);

/* A session of a user that does not exist; ended with session_end_all(). */
MUST_USE enum err rd_session(struct rd *rd, struct id user, const char *role, char *token_out);

/* Page of metrics of a door, in rd->page; NULL: it does not answer. */
const char *rd_page(struct rd *rd, const struct rd_door *door);

/* Code of a problem, "" where the answer is none; in the scope's arena. */
const char *rd_code(struct rd *rd, const struct http_response *reply);

/* A fresh deadline for what comes: each check has its own. */
void rd_renew(struct rd *rd);

#endif
