/* config.def unfolded: one descriptor per variable, one generic parser, snapshots that never
 * change. */
#include "lib/config.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "lib/log.h"
#include "lib/str.h"

extern char **environ;

enum kind { KIND_INT, KIND_STR, KIND_SECRET };
enum when { RELOAD, RESTART };

enum { NAME_MAX_LEN = 64, LINE_MAX_LEN = 2048, FILE_MAX_LINES = 2000 };

struct variable {
    const char *name; /* field name, or the pattern of a family */
    enum kind kind;
    enum when when;
    size_t offset;
    int count; /* members of a family, 0 for a single one */
    int64_t min, max;
    int64_t default_i64;
    const char *default_text;
    const char *unit, *doc;
};

#define CFG_INT(field, unit, least, most, def, when, doc) \
    _Static_assert((def) >= (least) && (def) <= (most), #field ": default out of range");
#define CFG_STR(field, max_length, def, when, doc) \
    _Static_assert(sizeof(def) - 1 <= (max_length), #field ": default too long");
#define CFG_SECRET(field, max_length, def, when, doc)
#define CFG_SECRETS(field, count, max_length, pattern, when, doc)
#include "lib/config.def"
#undef CFG_INT
#undef CFG_STR
#undef CFG_SECRET
#undef CFG_SECRETS

/* clang-format off: a table, not code */
#define CFG_INT(field, u, least, most, def, w, d) \
    {.name = #field,                              \
     .kind = KIND_INT,                            \
     .when = w,                                   \
     .offset = offsetof(struct config, field),    \
     .min = least,                                \
     .max = most,                                 \
     .default_i64 = def,                          \
     .unit = u,                                   \
     .doc = d},
#define CFG_STR(field, max_length, def, w, d)  \
    {.name = #field,                           \
     .kind = KIND_STR,                         \
     .when = w,                                \
     .offset = offsetof(struct config, field), \
     .max = max_length,                        \
     .default_text = def,                      \
     .unit = "",                               \
     .doc = d},
#define CFG_SECRET(field, max_length, def, w, d) \
    {.name = #field,                             \
     .kind = KIND_SECRET,                        \
     .when = w,                                  \
     .offset = offsetof(struct config, field),   \
     .max = max_length,                          \
     .default_text = def,                        \
     .unit = "",                                 \
     .doc = d},
#define CFG_SECRETS(field, n, max_length, pattern, w, d) \
    {.name = pattern,                                    \
     .kind = KIND_SECRET,                                \
     .when = w,                                          \
     .offset = offsetof(struct config, field),           \
     .count = n,                                         \
     .max = max_length,                                  \
     .default_text = "",                                 \
     .unit = "",                                         \
     .doc = d},
/* clang-format on */
static const struct variable variables[] = {
#include "lib/config.def"
};
#undef CFG_INT
#undef CFG_STR
#undef CFG_SECRET
#undef CFG_SECRETS

/* A snapshot that was published stays for ever, since somebody may still read it; the chain
 * keeps it findable. */
struct snapshot {
    struct config config;
    struct snapshot *older;
};

static _Atomic(const struct config *) published;
static struct snapshot *newest;

/* What the fleet has been told, our own copy: a reload of the file takes it on again. */
struct overlay {
    struct config_pair *pairs;
    size_t n;
};

static pthread_mutex_t changing =
    PTHREAD_MUTEX_INITIALIZER; /* guards the overlay, and publishing */
static struct overlay overlay;
static _Atomic int64_t epoch;

const struct config *config(void)
{
    return atomic_load_explicit(&published, memory_order_acquire);
}

/* Environment name of a variable, or of member i of a family. */
static void env_name(const struct variable *v, int i, char out[NAME_MAX_LEN])
{
    char *p;

    if (v->count > 0) {
        const char *percent = strchr(v->name, '%');
        bool is_padded = percent[1] == '0';

        snprintf(out, NAME_MAX_LEN, is_padded ? "%.*s%02d%s" : "%.*s%d%s", (int)(percent - v->name),
                 v->name, i, strchr(percent, 'd') + 1);
        return;
    }
    snprintf(out, NAME_MAX_LEN, "%s", v->name);
    for (p = out; *p != '\0'; p++) {
        if (*p >= 'a' && *p <= 'z') {
            *p = (char)(*p - 'a' + 'A');
        }
    }
}

static const char **text_slot(const struct variable *v, struct config *c, int i)
{
    return (const char **)((char *)c + v->offset) + i;
}

static int64_t *int_slot(const struct variable *v, struct config *c)
{
    return (int64_t *)((char *)c + v->offset);
}

/* Texts other than the default are the snapshot's own. */
static void drop_text(const struct variable *v, const char **slot)
{
    if (*slot != v->default_text) {
        free((char *)(uintptr_t)*slot);
        *slot = v->default_text;
    }
}

static bool set_value(const struct variable *v, int i, const char *text, struct config *c,
                      FILE *faults)
{
    char name[NAME_MAX_LEN];
    int64_t value;

    env_name(v, i, name);
    if (v->kind == KIND_INT) {
        if (!i64_parse(text, &value) || value < v->min || value > v->max) {
            fprintf(faults, "%s is \"%s\": allowed is a whole number from %lld to %lld%s%s.\n",
                    name, text, (long long)v->min, (long long)v->max, *v->unit != '\0' ? " " : "",
                    v->unit);
            return false;
        }
        *int_slot(v, c) = value;
        return true;
    }
    if ((int64_t)strlen(text) > v->max || !utf8_valid(text, strlen(text))) {
        fprintf(faults, "%s is too long or not UTF-8: allowed are up to %lld bytes.\n", name,
                (long long)v->max);
        return false;
    }
    drop_text(v, text_slot(v, c, i)); /* the file's, where the environment wins */
    *text_slot(v, c, i) = strdup(text);
    return true;
}

static void set_defaults(struct config *c)
{
    size_t n;
    int i;

    for (n = 0; n < ARRAY_LEN(variables); n++) {
        const struct variable *v = &variables[n];

        if (v->kind == KIND_INT) {
            *int_slot(v, c) = v->default_i64;
            continue;
        }
        for (i = 0; i < (v->count > 0 ? v->count : 1); i++) {
            *text_slot(v, c, i) = v->default_text;
        }
    }
}

/* Find a variable by its environment name. */
static const struct variable *find(const char *name, int *index_out)
{
    char candidate[NAME_MAX_LEN];
    size_t n;
    int i;

    for (n = 0; n < ARRAY_LEN(variables); n++) {
        int count = variables[n].count > 0 ? variables[n].count : 1;

        for (i = 0; i < count; i++) {
            env_name(&variables[n], i, candidate);
            if (strcmp(candidate, name) == 0) {
                *index_out = i;
                return &variables[n];
            }
        }
    }
    return NULL;
}

/* Edit distance (Levenshtein), for names that are nearly right. */
static int distance(const char *a, const char *b)
{
    int row[NAME_MAX_LEN + 1];
    int i, j, len_b = (int)strlen(b);

    for (j = 0; j <= len_b; j++) {
        row[j] = j;
    }
    for (i = 1; a[i - 1] != '\0'; i++) {
        int diagonal = row[0];

        row[0] = i;
        for (j = 1; j <= len_b; j++) {
            int change = diagonal + (a[i - 1] != b[j - 1]);
            int drop = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;

            diagonal = row[j];
            row[j] = change < drop ? change : drop;
        }
    }
    return row[len_b];
}

static void report_unknown(const char *name, const char *path, int line, FILE *faults)
{
    char candidate[NAME_MAX_LEN], nearest[NAME_MAX_LEN] = "";
    int least = 5;
    size_t n;

    for (n = 0; n < ARRAY_LEN(variables) && strlen(name) < NAME_MAX_LEN; n++) {
        int d;

        env_name(&variables[n], 0, candidate);
        d = distance(name, candidate);
        if (d < least) {
            least = d;
            memcpy(nearest, candidate, sizeof(nearest));
        }
    }
    fprintf(faults, "%s:%d: there is no variable %s", path, line, name);
    if (*nearest != '\0') {
        fprintf(faults, "; do you mean %s?\n", nearest);
    } else {
        fputs("; docs/config.md lists them all.\n", faults);
    }
}

/* Apply one line of the file. */
static bool apply_line(char *text, const char *path, int line, struct config *c, FILE *faults)
{
    size_t len = strcspn(text, "\r\n");
    const struct variable *v;
    char *equals;
    int i;

    text[len] = '\0';
    if (*text == '#' || *text == '\0') {
        return true;
    }
    equals = strchr(text, '=');
    if (equals == NULL) {
        fprintf(faults, "%s:%d: a line is NAME=value, a comment or empty.\n", path, line);
        return false;
    }
    *equals = '\0';
    v = find(text, &i);
    if (v == NULL) {
        report_unknown(text, path, line, faults);
        return false;
    }
    return set_value(v, i, equals + 1, c, faults);
}

static bool apply_file(const char *path, struct config *c, FILE *faults)
{
    FILE *file = fopen(path, "re");
    char text[LINE_MAX_LEN];
    bool is_good = true;
    int line;

    if (file == NULL) {
        fprintf(faults, "CONFIG_FILE %s cannot be read: %s.\n", path, strerror(errno));
        return false;
    }
    for (line = 1; fgets(text, sizeof(text), file) != NULL; line++) {
        if (line > FILE_MAX_LINES) {
            fprintf(faults, "CONFIG_FILE %s has more than %d lines.\n", path, FILE_MAX_LINES);
            is_good = false;
            break;
        }
        if (strchr(text, '\n') == NULL && strlen(text) == sizeof(text) - 1) {
            fprintf(faults, "%s:%d: the line is longer than %d bytes.\n", path, line,
                    LINE_MAX_LEN - 2);
            is_good = false;
            break; /* what follows is the middle of a line */
        }
        is_good = apply_line(text, path, line, c, faults) && is_good;
    }
    fclose(file);
    return is_good;
}

static bool apply_environment(struct config *c, FILE *faults)
{
    char name[NAME_MAX_LEN];
    bool is_good = true;
    size_t n;
    int i;

    for (n = 0; n < ARRAY_LEN(variables); n++) {
        const struct variable *v = &variables[n];

        for (i = 0; i < (v->count > 0 ? v->count : 1); i++) {
            const char *value;

            env_name(v, i, name);
            value = getenv(name);
            if (value != NULL) {
                is_good = set_value(v, i, value, c, faults) && is_good;
            }
        }
    }
    return is_good;
}

/* Values of the fleet: only such as a running process can take on, and no secrets, since they
 * stand in Redis for everybody to read. */
static bool apply_pairs(const struct config_pair *pairs, size_t n, struct config *c, FILE *faults)
{
    bool is_good = true;
    size_t k;
    int i;

    for (k = 0; k < n; k++) {
        const struct variable *v = find(pairs[k].name, &i);

        if (v == NULL) {
            report_unknown(pairs[k].name, "fleet", (int)k + 1, faults);
            is_good = false;
        } else if (v->when == RESTART || v->kind == KIND_SECRET) {
            fprintf(faults,
                    "%s takes effect only with a restart: set it where the programs start.\n",
                    pairs[k].name);
            is_good = false;
        } else {
            is_good = set_value(v, i, pairs[k].value, c, faults) && is_good;
        }
    }
    return is_good;
}

/* Is every word of the list a guard that can look on? */
static bool guards_are_known(const char *list)
{
    static const char *const known[] = {"load", "rate", "session_capacity", "csrf"};
    size_t i;

    while (*list != '\0') {
        size_t len = strcspn(list, ",");

        for (i = 0; i < ARRAY_LEN(known); i++) {
            if (strlen(known[i]) == len && strncmp(known[i], list, len) == 0) {
                break;
            }
        }
        if (i == ARRAY_LEN(known)) {
            return false;
        }
        list += len + (list[len] == ',');
    }
    return true;
}

/* The next number of SHARD_MAP, -1 where there is none. */
static int next_database(const char **list)
{
    char *end;
    long n;

    if (**list < '0' || **list > '9') {
        return -1;
    }
    n = strtol(*list, &end, 10);
    *list = end;
    if (*end == ',' && end[1] != '\0') {
        (*list)++;
    }
    return n < (long)ARRAY_LEN(((struct config *)NULL)->database_shard_url) ? (int)n : -1;
}

/* Each shard names a database, and each database named has an address. */
static bool shards_have_places(const struct config *c, FILE *faults)
{
    const char *list = c->shard_map;
    int64_t i;

    for (i = 0; i < c->shard_count; i++) {
        int database = *c->shard_map == '\0' ? (int)i : next_database(&list);

        if (database < 0) {
            fprintf(faults,
                    "SHARD_MAP is \"%s\": allowed is a comma list of SHARD_COUNT (%lld) numbers "
                    "from 0 to %d.\n",
                    c->shard_map, (long long)c->shard_count,
                    (int)ARRAY_LEN(c->database_shard_url) - 1);
            return false;
        }
        if (database > 0 && *c->database_shard_url[database] == '\0') {
            fprintf(faults, "SHARD_COUNT is \"%lld\": DATABASE_SHARD_%02d_URL is missing.\n",
                    (long long)c->shard_count, database);
            return false;
        }
    }
    if (*list != '\0') {
        fprintf(faults, "SHARD_MAP is \"%s\": it names more than SHARD_COUNT (%lld) shards.\n",
                c->shard_map, (long long)c->shard_count);
        return false;
    }
    return true;
}

/* Rules that span several variables. */
static bool fits_together(const struct config *c, FILE *faults)
{
    if (strcmp(c->event_bus, "redis") != 0 && strcmp(c->event_bus, "kafka") != 0) {
        fprintf(faults, "EVENT_BUS is \"%s\": allowed are redis and kafka.\n", c->event_bus);
        return false;
    }
    if (strcmp(c->log_level, "debug") != 0 && strcmp(c->log_level, "info") != 0 &&
        strcmp(c->log_level, "warn") != 0 && strcmp(c->log_level, "error") != 0) {
        fprintf(faults, "LOG_LEVEL is \"%s\": allowed are debug, info, warn and error.\n",
                c->log_level);
        return false;
    }
    if (!guards_are_known(c->guards_shadow)) {
        fprintf(faults,
                "GUARDS_SHADOW is \"%s\": allowed is a comma list of load, rate, "
                "session_capacity and csrf.\n",
                c->guards_shadow);
        return false;
    }
    if (c->memory_warning_threshold > c->memory_shed_bulk_threshold ||
        c->memory_shed_bulk_threshold > c->memory_shed_best_effort_threshold ||
        c->memory_shed_best_effort_threshold > c->memory_recycle_threshold) {
        fprintf(faults,
                "MEMORY_WARNING_THRESHOLD is \"%lld\": allowed is at most "
                "MEMORY_SHED_BULK_THRESHOLD (%lld), that at most "
                "MEMORY_SHED_BEST_EFFORT_THRESHOLD (%lld), and that at most "
                "MEMORY_RECYCLE_THRESHOLD (%lld).\n",
                (long long)c->memory_warning_threshold, (long long)c->memory_shed_bulk_threshold,
                (long long)c->memory_shed_best_effort_threshold,
                (long long)c->memory_recycle_threshold);
        return false;
    }
    if (c->request_arena_bytes < c->body_max_bytes / 2) {
        /* a body may cost a few times its size; at 16 times its budget an arena aborts */
        fprintf(
            faults,
            "REQUEST_ARENA_BYTES is \"%lld\": allowed is at least half of BODY_MAX_BYTES (%lld).\n",
            (long long)c->request_arena_bytes, (long long)c->body_max_bytes);
        return false;
    }
    return shards_have_places(c, faults);
}

/* End a snapshot that was never published. */
static void discard(struct snapshot *s)
{
    size_t n;
    int i;

    for (n = 0; n < ARRAY_LEN(variables); n++) {
        const struct variable *v = &variables[n];

        for (i = 0; v->kind != KIND_INT && i < (v->count > 0 ? v->count : 1); i++) {
            drop_text(v, text_slot(v, &s->config, i));
        }
    }
    free(s);
}

static void publish(struct snapshot *s)
{
    s->older = newest;
    newest = s;
    atomic_store_explicit(&published, &s->config, memory_order_release);
}

/* A new snapshot, or NULL with the faults told. */
static struct snapshot *read_all(const struct config_pair *pairs, size_t n, FILE *faults)
{
    struct snapshot *s = calloc(1, sizeof(*s));
    const char *path = getenv("CONFIG_FILE");
    bool is_good;

    if (s == NULL) {
        fputs("There is no memory for the configuration.\n", faults);
        return NULL;
    }
    set_defaults(&s->config);
    is_good = path == NULL || *path == '\0' || apply_file(path, &s->config, faults);
    is_good = apply_environment(&s->config, faults) && is_good;
    is_good = apply_pairs(pairs, n, &s->config, faults) && is_good;
    if (!is_good || !fits_together(&s->config, faults)) {
        discard(s);
        return NULL;
    }
    return s;
}

bool config_load(FILE *faults)
{
    struct snapshot *s = read_all(NULL, 0, faults);

    if (s == NULL) {
        return false;
    }
    publish(s);
    return true;
}

/* The first member that differs, -1 if none does. */
static int changed_member(const struct variable *v, struct config *old, struct config *new)
{
    int i;

    if (v->kind == KIND_INT) {
        return *int_slot(v, old) != *int_slot(v, new) ? 0 : -1;
    }
    for (i = 0; i < (v->count > 0 ? v->count : 1); i++) {
        if (strcmp(*text_slot(v, old, i), *text_slot(v, new, i)) != 0) {
            return i;
        }
    }
    return -1;
}

/* Does anything differ that only a restart changes? */
static bool needs_restart(struct config *old, struct config *new, FILE *faults)
{
    bool is_needed = false;
    size_t n;

    for (n = 0; n < ARRAY_LEN(variables); n++) {
        int member = changed_member(&variables[n], old, new);

        if (variables[n].when == RESTART && member >= 0) {
            char name[NAME_MAX_LEN];

            env_name(&variables[n], member, name);
            fprintf(faults, "%s has changed, but takes effect only with a restart.\n", name);
            is_needed = true;
        }
    }
    return is_needed;
}

/* What is about to change, as "NAME old -> new" each. */
static void tell_changes(struct config *old, struct config *new, FILE *changes)
{
    const char *separator = "";
    size_t n;

    for (n = 0; n < ARRAY_LEN(variables); n++) {
        const struct variable *v = &variables[n];
        int member = changed_member(v, old, new);
        char name[NAME_MAX_LEN];

        if (member < 0) {
            continue;
        }
        env_name(v, member, name);
        if (v->kind == KIND_INT) {
            fprintf(changes, "%s%s %lld -> %lld", separator, name, (long long)*int_slot(v, old),
                    (long long)*int_slot(v, new));
        } else {
            fprintf(changes, "%s%s \"%s\" -> \"%s\"", separator, name, *text_slot(v, old, member),
                    *text_slot(v, new, member));
        }
        separator = ", ";
    }
}

/* Read everything under these pairs and publish it, or change nothing. Under the lock. */
static bool renew(const struct config_pair *pairs, size_t n, FILE *changes, FILE *faults)
{
    struct config *old = (struct config *)(uintptr_t)config();
    struct snapshot *s = read_all(pairs, n, faults);

    if (s == NULL) {
        return false;
    }
    if (needs_restart(old, &s->config, faults)) {
        discard(s);
        return false;
    }
    if (changes != NULL) {
        tell_changes(old, &s->config, changes);
    }
    publish(s);
    return true;
}

bool config_reload(FILE *changes, FILE *faults)
{
    bool is_good;

    pthread_mutex_lock(&changing);
    is_good = renew(overlay.pairs, overlay.n, changes, faults);
    pthread_mutex_unlock(&changing);
    return is_good;
}

static void keep_overlay(const struct config_pair *pairs, size_t n)
{
    size_t i;

    for (i = 0; i < overlay.n; i++) {
        free((char *)(uintptr_t)overlay.pairs[i].name);
        free((char *)(uintptr_t)overlay.pairs[i].value);
    }
    free(overlay.pairs);
    overlay = (struct overlay){.pairs = calloc(n + 1, sizeof(*pairs)), .n = n};
    if (overlay.pairs == NULL) {
        abort();
    }
    for (i = 0; i < n; i++) {
        overlay.pairs[i] =
            (struct config_pair){.name = strdup(pairs[i].name), .value = strdup(pairs[i].value)};
    }
}

bool config_apply(int64_t new_epoch, const struct config_pair *pairs, size_t n, FILE *changes,
                  FILE *faults)
{
    bool is_good;

    pthread_mutex_lock(&changing);
    is_good = renew(pairs, n, changes, faults);
    if (is_good) {
        keep_overlay(pairs, n);
        atomic_store(&epoch, new_epoch);
    }
    pthread_mutex_unlock(&changing);
    return is_good;
}

bool config_would_apply(const struct config_pair *pairs, size_t n, FILE *faults)
{
    struct snapshot *s = read_all(pairs, n, faults);

    if (s != NULL) {
        discard(s);
    }
    return s != NULL;
}

bool config_is_shadowed(const char *guard)
{
    const char *list = config()->guards_shadow;
    size_t len = strlen(guard);

    while (*list != '\0') {
        size_t n = strcspn(list, ",");

        if (n == len && strncmp(list, guard, len) == 0) {
            return true;
        }
        list += n + (list[n] == ',');
    }
    return false;
}

int64_t config_epoch(void)
{
    return atomic_load_explicit(&epoch, memory_order_relaxed);
}

void config_each_fleet(void (*fn)(void *context, const struct config_pair *pair), void *context)
{
    size_t i;

    pthread_mutex_lock(&changing);
    for (i = 0; i < overlay.n; i++) {
        fn(context, &overlay.pairs[i]);
    }
    pthread_mutex_unlock(&changing);
}

void config_log_change(bool is_good, const char *by, const char *changes, const char *faults)
{
    struct log_line l;

    log_begin(&l, is_good ? LOG_INFO : LOG_ERROR, "config.reload");
    log_i64(&l, "epoch", config_epoch());
    log_str(&l, "by", by);
    log_str(&l, "what", is_good ? changes : "nothing");
    log_str(&l, "message",
            is_good ? "the configuration was read again" : "refused, everything stays as it was");
    log_str(&l, "cause", is_good ? NULL : faults);
    log_end(&l);
}

void config_reload_logged(void)
{
    char *told[2] = {NULL, NULL}; /* changes, faults */
    size_t len[2];
    FILE *changes = open_memstream(&told[0], &len[0]), *faults = open_memstream(&told[1], &len[1]);
    bool is_good = changes != NULL && faults != NULL && config_reload(changes, faults);

    if (changes != NULL) {
        fclose(changes);
    }
    if (faults != NULL) {
        fclose(faults);
    }
    config_log_change(is_good, "SIGHUP", told[0], told[1]);
    free(told[0]);
    free(told[1]);
}

static void tell_item(const struct variable *v, int i,
                      void (*fn)(void *context, const struct config_item *item), void *context)
{
    struct config *c = (struct config *)(uintptr_t)config();
    char name[NAME_MAX_LEN], number[24];
    struct config_item item = {.name = name,
                               .unit = v->unit,
                               .doc = v->doc,
                               .is_reloadable = v->when == RELOAD,
                               .is_secret = v->kind == KIND_SECRET};

    env_name(v, i, name);
    if (v->kind == KIND_INT) {
        snprintf(number, sizeof(number), "%lld", (long long)*int_slot(v, c));
        item.value = number;
    } else {
        item.value = *text_slot(v, c, i);
        if (v->kind == KIND_SECRET && *item.value != '\0') {
            item.value = "***";
        }
    }
    if (v->count == 0 || *item.value != '\0') {
        fn(context, &item);
    }
}

void config_each(void (*fn)(void *context, const struct config_item *item), void *context)
{
    size_t n;
    int i;

    for (n = 0; n < ARRAY_LEN(variables); n++) {
        for (i = 0; i < (variables[n].count > 0 ? variables[n].count : 1); i++) {
            tell_item(&variables[n], i, fn, context);
        }
    }
}

static void print_item(void *out, const struct config_item *item)
{
    fprintf(out, "%s=%s\n", item->name, item->value);
}

void config_print(FILE *out)
{
    config_each(print_item, out);
}

/* "DATABASE_SHARD_nn_URL" rather than member 0 of the family. */
static void doc_name(const struct variable *v, char out[NAME_MAX_LEN])
{
    if (v->count > 0) {
        const char *percent = strchr(v->name, '%');

        snprintf(out, NAME_MAX_LEN, "%.*s%s%s", (int)(percent - v->name), v->name,
                 percent[1] == '0' ? "nn" : "n", strchr(percent, 'd') + 1);
    } else {
        env_name(v, 0, out);
    }
}

void config_print_docs(FILE *out)
{
    char name[NAME_MAX_LEN];
    size_t n;

    fputs("# Configuration\n\nGenerated from `lib/config.def`. Values come from the file that "
          "`CONFIG_FILE` names, then from the environment, which wins. A bad or unknown value "
          "stops the start with a sentence that names it.\n\n"
          "| variable | default | range | takes effect | meaning |\n|---|---|---|---|---|\n",
          out);
    for (n = 0; n < ARRAY_LEN(variables); n++) {
        const struct variable *v = &variables[n];

        doc_name(v, name);
        fprintf(out, "| `%s` | ", name);
        if (v->kind == KIND_INT) {
            fprintf(out, "%lld | %lld … %lld %s", (long long)v->default_i64, (long long)v->min,
                    (long long)v->max, v->unit);
        } else {
            fprintf(out, "%s | up to %lld bytes%s", v->default_text, (long long)v->max,
                    v->kind == KIND_SECRET ? ", secret" : "");
        }
        fprintf(out, " | %s | %s |\n", v->when == RELOAD ? "on reload" : "on restart", v->doc);
    }
}

void config_print_env_example(FILE *out)
{
    char name[NAME_MAX_LEN];
    size_t n;

    fputs("# Generated from lib/config.def. Every variable with its default; "
          "docs/config.md says more.\n",
          out);
    for (n = 0; n < ARRAY_LEN(variables); n++) {
        const struct variable *v = &variables[n];

        doc_name(v, name);
        fprintf(out, "\n# %s\n#%s=", v->doc, name);
        if (v->kind == KIND_INT) {
            fprintf(out, "%lld\n", (long long)v->default_i64);
        } else {
            fprintf(out, "%s\n", v->default_text);
        }
    }
}
