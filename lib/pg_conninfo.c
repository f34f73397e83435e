/* Connection strings. libpq reads them in all their forms (URLs, words); we write the form of
 * words, in libpq's order, so that one place has one text. */
#include <postgresql/libpq-fe.h>

#include <string.h>

#include "lib/pg_admin.h"
#include "lib/pg_internal.h"
#include "lib/str.h"

static bool is_server_word(const char *keyword)
{
    return strcmp(keyword, "host") == 0 || strcmp(keyword, "hostaddr") == 0 ||
           strcmp(keyword, "port") == 0;
}

static bool is_where_word(const char *keyword)
{
    return is_server_word(keyword) || strcmp(keyword, "dbname") == 0;
}

/* The words that are set; the caller frees them. NULL: no connection string. */
static PQconninfoOption *words_of(const char *text)
{
    return text == NULL ? NULL : PQconninfoParse(text, NULL);
}

static const char *value_of(const PQconninfoOption *words, const char *keyword)
{
    while (words->keyword != NULL && strcmp(words->keyword, keyword) != 0) {
        words++;
    }
    return words->keyword == NULL || words->val == NULL || words->val[0] == '\0' ? NULL
                                                                                 : words->val;
}

static void add_word(struct strbuf *out, const char *keyword, const char *value)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                "_-.,:/@%";

    if (value == NULL) {
        return;
    }
    strbuf_printf(out, "%s%s=", out->len > 0 ? " " : "", keyword);
    if (value[0] != '\0' && value[strspn(value, plain)] == '\0') {
        strbuf_puts(out, value);
        return;
    }
    strbuf_putc(out, '\'');
    for (; *value != '\0'; value++) {
        if (*value == '\'' || *value == '\\') {
            strbuf_putc(out, '\\');
        }
        strbuf_putc(out, *value);
    }
    strbuf_putc(out, '\'');
}

bool pg_conninfo_location(struct arena *a, const char *url, const char **location_out)
{
    PQconninfoOption *words = words_of(url);
    const char *port, *dbname;
    struct strbuf out;

    if (words == NULL) {
        return false;
    }
    port = value_of(words, "port");
    dbname = value_of(words, "dbname");
    strbuf_init(&out, a, 128);
    add_word(&out, "host", value_of(words, "host"));
    add_word(&out, "hostaddr", value_of(words, "hostaddr"));
    add_word(&out, "port", port == NULL ? "5432" : port);
    add_word(&out, "dbname", dbname == NULL ? value_of(words, "user") : dbname);
    PQconninfoFree(words);
    *location_out = out.data;
    return true;
}

bool pg_conninfo_is_location(const char *text)
{
    PQconninfoOption *words = words_of(text), *w;
    bool is_one = words != NULL && value_of(words, "dbname") != NULL;

    for (w = words; is_one && w->keyword != NULL; w++) {
        is_one = w->val == NULL || is_where_word(w->keyword);
    }
    PQconninfoFree(words);
    return is_one;
}

/* url with the other's database instead of its own, and the other's server where that is asked. */
static const char *replace_words(struct arena *a, const char *url, const char *where,
                                 bool server_too)
{
    PQconninfoOption *base = words_of(url), *over = words_of(where), *w;
    const char *text = NULL;
    struct strbuf out;

    if (base != NULL && over != NULL) {
        strbuf_init(&out, a, 256);
        for (w = base; w->keyword != NULL; w++) {
            bool is_taken =
                strcmp(w->keyword, "dbname") == 0 || (server_too && is_server_word(w->keyword));

            add_word(&out, w->keyword, is_taken ? value_of(over, w->keyword) : w->val);
        }
        text = out.data;
    }
    PQconninfoFree(base);
    PQconninfoFree(over);
    return text;
}

const char *pg_conninfo_at(struct arena *a, const char *url, const char *location)
{
    return replace_words(a, url, location, true);
}

const char *pg_conninfo_of_server(struct arena *a, const char *url, const char *location)
{
    return replace_words(a, url, location, false);
}

const char *pg_conninfo_without_password(struct arena *a, const char *conninfo)
{
    PQconninfoOption *words = words_of(conninfo), *w;
    const char *text = NULL;
    struct strbuf out;

    if (words != NULL) {
        strbuf_init(&out, a, 256);
        for (w = words; w->keyword != NULL; w++) {
            add_word(&out, w->keyword, strcmp(w->keyword, "password") == 0 ? NULL : w->val);
        }
        text = out.data;
    }
    PQconninfoFree(words);
    return text;
}

const char *pg_conninfo_get(struct arena *a, const char *conninfo, const char *keyword)
{
    PQconninfoOption *words = words_of(conninfo);
    const char *value = words != NULL ? arena_strdup(a, value_of(words, keyword)) : NULL;

    PQconninfoFree(words);
    return value;
}
