/* The operator's tool: configuration as the programs read it (CONFIG_FILE, environment), then
 * one command. */
#include <stdio.h>
#include <string.h>

#include "deploy/ctl/ctl.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/instance.h"
#include "lib/log.h"
#include "lib/pg.h"

enum { ARENA_BYTES = 1024 * 1024, TIMEOUT_MS = 30000 };

static const struct ctl_command commands[] = {
    {"config", "check", "", "is the configuration good?", 0, 0, ctl_config_check},
    {"config", "show", "", "every value; secrets masked", 0, 0, ctl_config_show},
    {"config", "set", "NAME=value …",
     "change reloadable values of the whole fleet; NAME= takes back", 1, 60, ctl_config_set},
    {"config", "reload", "", "every process of the fleet reads its file again", 0, 0,
     ctl_config_reload},
    {"config", "members", "", "every process and the epoch it runs with", 0, 0, ctl_config_members},
    {"config", "follow", "NAME,… COMMAND …",
     "run a command with these values in its environment, now and after each change", 2, 60,
     ctl_config_follow},
    {"shards", "list", "", "the map: every shard, where it is, and whether it answers", 0, 0,
     ctl_shards_list},
    {"shards", "status", "", "the map, and moves that are open", 0, 0, ctl_shards_status},
    {"shards", "move", "SHARD --to LOCATION [--rest-to LOCATION] [--max-wait-ms N] [--dry-run]",
     "move a shard to another database, or go on with that", 1, 8, ctl_shards_move},
    {"shards", "split", "[COUNT] [--to LOCATION] [--max-wait-ms N] [--dry-run]",
     "double the shards, each in a database of its own ({shard} in LOCATION is its number)", 0, 6,
     ctl_shards_split},
    {"shards", "way-back", "[--max-wait-ms N]", "undo moves that are not cleaned up", 0, 2,
     ctl_shards_way_back},
    {"shards", "abort", "", "undo moves that have not cut over", 0, 0, ctl_shards_abort},
    {"shards", "clean-up", "[--drop]", "make moves final; the old databases are emptied or dropped",
     0, 1, ctl_shards_clean_up},
    {"queue", "stats", "[QUEUE]", "what waits and runs", 0, 1, ctl_queue_stats},
    {"queue", "pause", "QUEUE", "give out no more jobs", 1, 1, ctl_queue_pause},
    {"queue", "resume", "QUEUE", "give out jobs again", 1, 1, ctl_queue_resume},
    {"queue", "drain", "QUEUE", "pause, and wait until nothing runs", 1, 1, ctl_queue_drain},
    {"queue", "dead", "[TYPE]", "list the jobs that have failed", 0, 1, ctl_queue_dead},
    {"queue", "retry", "JOB_ID|TYPE", "queue a failed job anew, or all of a type", 1, 1,
     ctl_queue_retry},
    {"queue", "drop", "JOB_ID|TYPE", "forget a failed job, or all of a type", 1, 1, ctl_queue_drop},
    {"queue", "show", "JOB_ID", "a job and what it has said", 1, 1, ctl_queue_show},
    {"cron", "list", "", "what is made by the clock", 0, 0, ctl_cron_list},
    {"cron", "set", "NAME TYPE SCHEDULE [ZONE [none|one|all [PAYLOAD]]]",
     "a job at each tick of a schedule; missed ticks make none, one or all of their jobs", 3, 6,
     ctl_cron_set},
    {"cron", "pause", "NAME", "make no more of its jobs", 1, 1, ctl_cron_pause},
    {"cron", "resume", "NAME", "go on from now", 1, 1, ctl_cron_resume},
    {"cron", "drop", "NAME", "forget a schedule", 1, 1, ctl_cron_drop},
    {"mail", "suppressed", "", "list the addresses that get no mail", 0, 0, ctl_mail_suppressed},
    {"mail", "suppress", "EMAIL [REASON]", "send an address no more mail", 1, 2, ctl_mail_suppress},
    {"mail", "allow", "EMAIL", "send it mail again", 1, 1, ctl_mail_allow},
    {"sessions", "count", "", "live sessions of the whole fleet", 0, 0, ctl_sessions_count},
    {"sessions", "revoke", "USER_ID", "end all sessions of a user", 1, 1, ctl_sessions_revoke},
    {"user", "create-admin", "EMAIL [NAME] | --email EMAIL [--name NAME]",
     "make an administrator; the password of a new one is read from standard input", 1, 4,
     ctl_user_create_admin},
    {"readiness", "",
     "[--json] [--only LINE] [--trace] [--kill] [--seconds N] [--url URL] [--targets FILE]",
     "the readiness checklist, proved on what runs; fails where a line is not proved", 0, 11,
     ctl_readiness},
    {"capacity", "", "[--costs FILE] [--uploads N] [--json]",
     "what 10,000 to 100,000,000 users need and cost, by measured costs (make capacity)", 0, 5,
     ctl_capacity},
};

int ctl_fail(const struct scope *sc, enum err e, const char *doing)
{
    const char *why = sc->detail != NULL ? sc->detail : err_info(e)->title;

    fprintf(stderr, "maxboosterctl: %s: %s%s%s\n", doing, why, sc->cause != NULL ? ": " : ".",
            sc->cause != NULL ? sc->cause : "");
    return CTL_FAILED;
}

static int usage(FILE *out)
{
    size_t i;

    fputs("usage: maxboosterctl GROUP COMMAND …\n\n", out);
    for (i = 0; i < ARRAY_LEN(commands); i++) {
        const struct ctl_command *c = &commands[i];

        fprintf(out, "  %s%s%s %s\n      %s\n", c->group, *c->verb != '\0' ? " " : "", c->verb,
                c->arguments, c->help);
    }
    fputs("\nThe configuration is read from the file that CONFIG_FILE names and the environment.\n",
          out);
    return CTL_USAGE;
}

/* Who moves shards uses connections of his own, and is not to follow the map with pools. */
static bool is_mover(const struct ctl_command *command)
{
    return strcmp(command->group, "shards") == 0 && strcmp(command->verb, "list") != 0;
}

static int run(const struct ctl_command *command, int argc, char **argv)
{
    const struct instance_plan instance = {.path = NULL};
    struct arena *arena = arena_open(ARENA_BYTES);
    struct scope sc;
    int status;

    log_open("ctl");
    log_to_stderr();
    crypto_open();
    instance_open(
        &instance); /* private: an operator's connections do not count as the instance's */
    if (!is_mover(command)) {
        pg_open();
    }
    scope_init(&sc, arena, TIMEOUT_MS);
    status = command->run(&sc, argc, argv);
    scope_done(&sc);
    if (!is_mover(command)) {
        pg_close();
    }
    instance_close();
    arena_close(&arena);
    return status;
}

int main(int argc, char **argv)
{
    size_t i;

    if (argc == 2 && (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0)) {
        usage(stdout);
        return CTL_DONE;
    }
    for (i = 0; argc >= 2 && i < ARRAY_LEN(commands); i++) {
        const struct ctl_command *c = &commands[i];
        int n_words = *c->verb != '\0' ? 2 : 1, n_args = argc - 1 - n_words;

        if (strcmp(argv[1], c->group) == 0 && n_args >= c->min_args && n_args <= c->max_args &&
            (n_words == 1 || strcmp(argv[2], c->verb) == 0)) {
            return config_load(stderr) ? run(c, n_args, argv + 1 + n_words) : CTL_FAILED;
        }
    }
    return usage(stderr);
}
