/* The databases that shards move to: role, database, schema. The schema comes from pg_dump, so
 * that it is the source's to the letter, with the ledger of migrations and without rows. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "deploy/ctl/reshard.h"

static const char *name_of(struct rs *rs, const char *location)
{
    const char *name = pg_conninfo_get(rs->sc->arena, location, "dbname");

    return name != NULL ? name : "";
}

static enum err exists(struct rs *rs, struct pg_admin *server, const char *name, bool *out)
{
    return rs_truth(rs, server, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1::text)",
                    1, &name, out);
}

enum err rs_target_look(struct rs *rs, const char *location, enum rs_presence *out)
{
    struct pg_admin *server, *c;
    bool is_there;

    *out = RS_ABSENT;
    TRY(rs_server(rs, location, &server));
    TRY(exists(rs, server, name_of(rs, location), &is_there));
    if (!is_there) {
        return OK;
    }
    TRY(rs_peer(rs, location, &c));
    TRY(rs_truth(rs, c,
                 "SELECT EXISTS (SELECT FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S')"
                 " AND relnamespace NOT IN (SELECT oid FROM pg_namespace"
                 " WHERE nspname IN ('pg_catalog', 'information_schema', 'pg_toast')))",
                 0, NULL, &is_there));
    *out = is_there ? RS_FILLED : RS_EMPTY;
    return OK;
}

/* The programs' role with the password that it has where we come from. */
static enum err make_role(struct rs *rs, const struct rs_run *run, struct pg_admin *server)
{
    struct arena *a = rs->sc->arena;
    struct pg_admin *from;
    const char *secret;
    bool is_there;

    TRY(rs_truth(rs, server, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1::text)", 1,
                 &rs->owner, &is_there));
    if (is_there) {
        return OK;
    }
    TRY(rs_server(rs, run->source, &from));
    TRY(rs_value(rs, from, "SELECT rolpassword FROM pg_authid WHERE rolname = $1::text", 1,
                 &rs->owner, &secret));
    return rs_do(rs, server, RS_ASK_MS, "CREATE ROLE %s LOGIN%s%s", pg_quote_name(a, rs->owner),
                 secret != NULL ? " PASSWORD " : "",
                 secret != NULL ? pg_quote_text(a, secret) : "");
}

static enum err make_database(struct rs *rs, const struct rs_run *run, struct pg_admin *server,
                              const char *name)
{
    struct arena *a = rs->sc->arena;
    struct pg_admin *from;
    struct pg_table t;

    TRY(rs_peer(rs, run->source, &from));
    TRY(pg_admin_run(rs->sc, from, RS_ASK_MS,
                     "SELECT pg_encoding_to_char(encoding), datcollate, datctype"
                     " FROM pg_database WHERE datname = current_database()",
                     0, NULL, &t));
    TRY(rs_do(
        rs, server, RS_LONG_MS,
        "CREATE DATABASE %s OWNER %s TEMPLATE template0 ENCODING %s LC_COLLATE %s LC_CTYPE %s",
        pg_quote_name(a, name), pg_quote_name(a, rs->owner), pg_quote_text(a, pg_cell(&t, 0, 0)),
        pg_quote_text(a, pg_cell(&t, 0, 1)), pg_quote_text(a, pg_cell(&t, 0, 2))));
    return rs_do(rs, server, RS_ASK_MS,
                 "COMMENT ON DATABASE %s IS 'made by maxboosterctl, move %s'",
                 pg_quote_name(a, name), run->id);
}

/* Start a program that has that end of a pipe as its descriptor number as. */
static pid_t start(char *const argv[], const char *password, int end, int as, int other_end)
{
    pid_t pid = fork();

    if (pid == 0) {
        dup2(end, as);
        close(end);
        close(other_end);
        if (password != NULL) {
            setenv("PGPASSWORD", password, 1);
        }
        execvp(argv[0], argv);
        fprintf(stderr, "maxboosterctl: %s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    return pid;
}

static bool ended_well(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return false;
        }
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* pg_dump of one into psql of the other; in one transaction there, so that it is all or nothing. */
static enum err copy_schema(struct rs *rs, const char *from, const char *to)
{
    struct arena *a = rs->sc->arena;
    const char *password = pg_conninfo_get(a, rs->admin, "password");
    char *source = arena_strdup(a, pg_conninfo_without_password(a, rs_conninfo(rs, from)));
    char *target = arena_strdup(a, pg_conninfo_without_password(a, rs_conninfo(rs, to)));
    char *dump[] = {"pg_dump",
                    "--no-publications",
                    "--no-subscriptions",
                    "--exclude-table-data=public.*",
                    "-d",
                    source,
                    NULL};
    char *load[] = {
        "psql", "-X",   "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "--single-transaction",
        "-d",   target, NULL};
    int ends[2];
    pid_t reader, writer;
    bool well;

    if (pipe(ends) != 0) {
        return scope_fail(rs->sc, ERR_INTERNAL, "no pipe: %s", strerror(errno));
    }
    writer = start(dump, password, ends[1], STDOUT_FILENO, ends[0]);
    reader = start(load, password, ends[0], STDIN_FILENO, ends[1]);
    close(ends[0]);
    well = writer > 0 && ended_well(writer);
    if (!well && reader > 0) {
        kill(reader, SIGKILL); /* half a schema must not be committed */
    }
    close(ends[1]); /* not before: it is what psql takes for the end */
    well = reader > 0 && ended_well(reader) && well;
    return well ? OK
                : scope_fail(rs->sc, ERR_DEPENDENCY_UNAVAILABLE,
                             "the schema could not be copied (pg_dump, psql)");
}

/* Rows of tables that describe the schema itself. */
static enum err copy_placement(struct rs *rs, const char *from, const char *to)
{
    struct pg_admin *source, *target;
    const char *rows;

    TRY(rs_peer(rs, from, &source));
    TRY(rs_peer(rs, to, &target));
    TRY(rs_value(rs, source, "SELECT json_agg(t) FROM shard_tables t", 0, NULL, &rows));
    return pg_admin_run(rs->sc, target, RS_ASK_MS,
                        "INSERT INTO shard_tables SELECT * FROM"
                        " json_populate_recordset(NULL::shard_tables, $1::json)"
                        " ON CONFLICT (name) DO NOTHING",
                        1, &rows, NULL);
}

enum err rs_target_make(struct rs *rs, const struct rs_run *run, const struct rs_target *target)
{
    const char *name = name_of(rs, target->location);
    enum rs_presence presence;
    struct pg_admin *server;

    TRY(rs_server(rs, target->location, &server));
    TRY(make_role(rs, run, server));
    if (target->is_made) { /* what an earlier attempt has left is of no worth: no row is in it */
        TRY(rs_target_drop(rs, target->location));
        TRY(make_database(rs, run, server, name));
    }
    TRY(rs_target_look(rs, target->location, &presence));
    if (presence == RS_EMPTY) {
        TRY(copy_schema(rs, run->source, target->location));
    }
    TRY(rs_gate_remove(rs, target->location));
    return copy_placement(rs, run->source, target->location);
}

enum err rs_target_drop(struct rs *rs, const char *location)
{
    struct pg_admin *server;

    rs_peer_forget(rs, location);
    TRY(rs_server(rs, location, &server));
    return rs_do(rs, server, RS_LONG_MS, "DROP DATABASE IF EXISTS %s WITH (FORCE)",
                 pg_quote_name(rs->sc->arena, name_of(rs, location)));
}
