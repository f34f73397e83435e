/* maxboosterctl capacity: measured costs (make capacity) carried on to numbers of users. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "deploy/ctl/capacity.h"
#include "deploy/ctl/ctl.h"
#include "lib/json.h"

enum { COSTS_MAX = 1024 * 1024, POINTS_MAX = 64, UPLOADS_DEFAULT = 10, UPLOADS_MAX = 100000 };

#define ERROR_MOST 0.10 /* of held-out points; past it nothing is carried on */
#define PER 100000.0    /* uploads are given of so many requests */

static const char *const default_costs = "build/capacity/costs.json";
static const int64_t populations[] = {10000, 100000, 1000000, 10000000, 100000000};
static const char *const tier_names[CAP_TIERS] = {
    [CAP_PROXY] = "proxyMs", [CAP_API] = "apiMs", [CAP_POSTGRES] = "postgresMs",
    [CAP_REDIS] = "redisMs", [CAP_S3] = "s3Ms",   [CAP_WORKER] = "workerMs"};

struct wish {
    const char *file;
    int64_t uploads; /* of PER requests */
    bool is_json;
};

static bool read_words(struct wish *w, int argc, char **argv)
{
    int i;

    for (i = 0; i < argc; i++) {
        bool has_value = i + 1 < argc;

        if (strcmp(argv[i], "--json") == 0) {
            w->is_json = true;
        } else if (strcmp(argv[i], "--costs") == 0 && has_value) {
            w->file = argv[++i];
        } else if (strcmp(argv[i], "--uploads") == 0 && has_value &&
                   i64_parse(argv[i + 1], &w->uploads) && w->uploads >= 0 &&
                   w->uploads <= UPLOADS_MAX) {
            i++;
        } else {
            return false;
        }
    }
    return true;
}

static enum err read_file(struct scope *sc, const char *path, const struct json **out)
{
    char *text = arena_alloc(sc->arena, COSTS_MAX);
    FILE *in = fopen(path, "re");
    size_t len;

    if (in == NULL) {
        return scope_refuse(sc, ERR_NOT_FOUND, "%s cannot be read: make capacity measures it",
                            path);
    }
    len = fread(text, 1, COSTS_MAX - 1, in);
    fclose(in);
    return json_parse(sc, text, len, out);
}

static enum err read_tiers(struct scope *sc, const struct json *costs, const char *name,
                           double out[CAP_TIERS])
{
    const struct json *tiers = json_get(costs, name);
    int i;

    for (i = 0; i < CAP_TIERS; i++) {
        if (!json_double(json_get(tiers, tier_names[i]), &out[i]) || !(out[i] >= 0)) {
            return scope_refuse(sc, ERR_BAD_REQUEST, "%s.%s is no time", name, tier_names[i]);
        }
    }
    return OK;
}

/* The points as throughput of n instances with a core each: n times the requests that an app CPU
 * second did while n ran. */
static size_t read_points(const struct json *costs, struct usl_point *points)
{
    const struct json *items = json_get(costs, "instances");
    size_t i, n = 0;

    for (i = 0; i < json_length(items) && n < POINTS_MAX; i++) {
        const struct json *item = json_item(items, i);
        double count, per_cpu_s;
        bool is_held_out = false;

        if (json_double(json_get(item, "n"), &count) &&
            json_double(json_get(item, "requestsPerCpuS"), &per_cpu_s)) {
            (void)json_truth(json_get(item, "heldOut"), &is_held_out);
            points[n++] = (struct usl_point){count, count * per_cpu_s, is_held_out};
        }
    }
    return n;
}

/* Fit and judge; what was found goes to *error_out. */
static enum err read_law(struct scope *sc, const struct json *costs, struct cap_costs *out,
                         double *error_out)
{
    struct usl_point points[POINTS_MAX];
    size_t i, n = read_points(costs, points), n_held_out = 0;

    for (i = 0; i < n; i++) {
        n_held_out += points[i].is_held_out;
        out->n_measured = points[i].n > out->n_measured ? points[i].n : out->n_measured;
    }
    if (n_held_out == 0 || !usl_fit(points, n, &out->law)) {
        return scope_refuse(sc, ERR_BAD_REQUEST,
                            "it takes three numbers of instances for the fit and one held out");
    }
    *error_out = usl_error(&out->law, points, n, true);
    return OK;
}

static enum err read_costs(struct scope *sc, const struct json *json, struct cap_costs *out,
                           double *error_out)
{
    TRY(read_tiers(sc, json, "perRequest", out->request_ms));
    TRY(read_tiers(sc, json, "perUpload", out->upload_ms));
    if (!json_double(json_get(json_get(json, "perUpload"), "bytes"), &out->upload_bytes)) {
        return scope_refuse(sc, ERR_BAD_REQUEST, "perUpload.bytes is no number");
    }
    return read_law(sc, json, out, error_out);
}

static void print_table(const struct cap_costs *c, double error, double share)
{
    struct cap_need n;
    size_t i;

    printf("CPU of a request, ms: proxy %.3f, API %.3f, PostgreSQL %.3f, Redis %.3f\n"
           "CPU of a track (up, checked, analysed, drawn, converted), ms: API %.1f, PostgreSQL "
           "%.1f, Redis %.1f, S3 %.1f, worker %.0f; %.1f MB kept\n"
           "USL over 1 ... %.0f instances: gamma %.0f/s a core, sigma %.4f, kappa %.6f; held-out "
           "points within %.1f %%\n%.0f tracks of %.0f requests\n\n",
           c->request_ms[CAP_PROXY], c->request_ms[CAP_API], c->request_ms[CAP_POSTGRES],
           c->request_ms[CAP_REDIS], c->upload_ms[CAP_API], c->upload_ms[CAP_POSTGRES],
           c->upload_ms[CAP_REDIS], c->upload_ms[CAP_S3], c->upload_ms[CAP_WORKER],
           c->upload_bytes / 1e6, c->n_measured, c->law.gamma, c->law.sigma, c->law.kappa,
           100 * error, share * PER, PER);
    printf("%11s %9s %7s %9s %6s %6s %7s %8s %11s %13s  %s\n", "users", "req/s", "proxies",
           "instances", "shards", "Redis", "workers", "machines", "$/month", "S3 $/month",
           "the plan");
    for (i = 0; i < ARRAY_LEN(populations); i++) {
        cap_plan(c, populations[i], share, &n);
        printf("%11" PRId64 " %9.0f %7" PRId64 " %8" PRId64 "%c %6" PRId64 " %6" PRId64 " %7" PRId64
               " %8" PRId64 " %11.0f %13.0f  %s\n",
               n.users, n.requests_per_s, n.proxies, n.instances, n.is_beyond ? '*' : ' ', n.shards,
               n.redis_nodes, n.workers, n.machines, n.dollars, n.storage_dollars,
               cap_plan_says(n.users));
    }
    printf("\n* beyond %d times the instances that were measured: the efficiency found there is "
           "kept (docs/internals/capacity.md)\n",
           CAP_CARRY);
}

static void print_json(struct scope *sc, const struct cap_costs *c, double error, double share)
{
    struct strbuf b;
    struct cap_need n;
    size_t i;

    strbuf_init(&b, sc->arena, 0);
    strbuf_printf(&b,
                  "{\"usl\":{\"gamma\":%.3f,\"sigma\":%.6f,\"kappa\":%.8f,\"measured\":%.0f,"
                  "\"heldOutError\":%.4f},\"uploadShare\":%.6f,\"needs\":[",
                  c->law.gamma, c->law.sigma, c->law.kappa, c->n_measured, error, share);
    for (i = 0; i < ARRAY_LEN(populations); i++) {
        cap_plan(c, populations[i], share, &n);
        strbuf_printf(
            &b,
            "%s{\"users\":%" PRId64 ",\"phase\":%d,\"requestsPerS\":%.1f,\"proxies\":%" PRId64
            ",\"instances\":%" PRId64 ",\"databaseGroups\":%" PRId64 ",\"shards\":%" PRId64
            ",\"redisNodes\":%" PRId64 ",\"workers\":%" PRId64 ",\"machines\":%" PRId64
            ",\"dollarsPerMonth\":%.2f,\"storageDollarsPerMonth\":%.2f,\"isBeyond\":%s,"
            "\"plan\":",
            i > 0 ? "," : "", n.users, n.phase, n.requests_per_s, n.proxies, n.instances,
            n.database_groups, n.shards, n.redis_nodes, n.workers, n.machines, n.dollars,
            n.storage_dollars, n.is_beyond ? "true" : "false");
        strbuf_json(&b, cap_plan_says(n.users));
        strbuf_putc(&b, '}');
    }
    strbuf_puts(&b, "]}\n");
    fputs(b.data, stdout);
}

int ctl_capacity(struct scope *sc, int argc, char **argv)
{
    struct wish w = {.file = default_costs, .uploads = UPLOADS_DEFAULT};
    struct cap_costs costs = {.n_measured = 0};
    const struct json *json;
    double error = 0;
    enum err e;

    if (!read_words(&w, argc, argv)) {
        fputs(
            "maxboosterctl: capacity takes --costs FILE, --uploads N (tracks of 100,000 requests, "
            "0 to 100000) and --json.\n",
            stderr);
        return CTL_USAGE;
    }
    e = read_file(sc, w.file, &json);
    e = e == OK ? read_costs(sc, json, &costs, &error) : e;
    if (e == OK && error > ERROR_MOST) {
        e = scope_refuse(sc, ERR_CONFLICT,
                         "the law misses the points that were held out by %.1f %% (10 at most): "
                         "measure again on a quiet machine",
                         100 * error);
    }
    if (e != OK) {
        return ctl_fail(sc, e, "capacity");
    }
    if (w.is_json) {
        print_json(sc, &costs, error, (double)w.uploads / PER);
    } else {
        print_table(&costs, error, (double)w.uploads / PER);
    }
    return CTL_DONE;
}
