/* Events are rows: the one place that knows their table is events.def, the one that knows their
 * order is the database. */
#include "lib/event.h"

#include "lib/pg.h"
#include "lib/shape.h"
#include "lib/str.h"
#include "queries.h"

enum { DATA_BYTES = 512 };

#define EVENT(symbol, type, version, doc, ...) \
    static const struct field fields_##symbol[] = {__VA_ARGS__};
#include "lib/events.def"
#undef EVENT

static const struct {
    const char *type, *doc;
    int64_t version;
    struct shape shape;
} events[] = {
#define EVENT(symbol, name, version_number, text, ...) \
    {.type = (name),                                   \
     .doc = (text),                                    \
     .version = (version_number),                      \
     .shape = SHAPE(event_data, fields_##symbol)},
#include "lib/events.def"
#undef EVENT
};

struct added {
    int64_t seq;
};

static const struct field added_fields[] = {F_I64(added, seq, "seq", 1, INT64_MAX, 0)};
static const struct shape shape_added = SHAPE(added, added_fields);

enum err event_add(struct scope *sc, struct id user, enum event_kind kind,
                   const struct event_data *data)
{
    struct id id = id_make_owned(id_place(user));
    struct strbuf json;
    struct added added;

    strbuf_init(&json, sc->arena, DATA_BYTES);
    shape_write(&json, &events[kind].shape, data);
    return pg_one(sc,
                  q_outbox_add(sc, id, user, events[kind].type, events[kind].version,
                               sc->traceparent[0] != '\0' ? sc->traceparent : NULL, json.data),
                  &shape_added, &added);
}

void event_print_docs(FILE *out)
{
    size_t i, f;

    fputs("# Domain events\n\nGenerated from `lib/events.def`. How they are told, and what a "
          "consumer may rely on: [outbox](internals/outbox.md).\n\n"
          "| type | version | data | meaning |\n|---|---|---|---|\n",
          out);
    for (i = 0; i < EVENT__COUNT; i++) {
        const struct shape *shape = &events[i].shape;

        fprintf(out, "| `%s` | %lld | ", events[i].type, (long long)events[i].version);
        for (f = 0; f < shape->n_fields; f++) {
            fprintf(out, "%s`%s`", f > 0 ? ", " : "", shape->fields[f].name);
        }
        fprintf(out, " | %s |\n", events[i].doc);
    }
}
