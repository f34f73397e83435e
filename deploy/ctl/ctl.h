/* maxboosterctl: commands of one or two words, one function each. */
#ifndef DEPLOY_CTL_CTL_H
#define DEPLOY_CTL_CTL_H

#include "lib/scope.h"

/* A command gets its arguments behind its words. It prints results on standard output, and
 * returns the process's exit status: 0 done, 1 failed (a sentence on standard error says why), 2
 * wrong usage. */
struct ctl_command {
    const char *group;
    const char *verb;      /* "": the group alone */
    const char *arguments; /* for the usage: "USER_ID" */
    const char *help;
    int min_args, max_args;
    int (*run)(struct scope *sc, int argc, char **argv);
};

enum { CTL_DONE = 0, CTL_FAILED = 1, CTL_USAGE = 2 };

/* Print "maxboosterctl: doing: why" from an error and what the scope knows; returns CTL_FAILED. */
int ctl_fail(const struct scope *sc, enum err e, const char *doing);

/* The commands, one function each. */
int ctl_config_check(struct scope *sc, int argc, char **argv);
int ctl_config_show(struct scope *sc, int argc, char **argv);
int ctl_config_set(struct scope *sc, int argc, char **argv);
int ctl_config_reload(struct scope *sc, int argc, char **argv);
int ctl_config_members(struct scope *sc, int argc, char **argv);
int ctl_config_follow(struct scope *sc, int argc, char **argv);
int ctl_shards_list(struct scope *sc, int argc, char **argv);
int ctl_shards_status(struct scope *sc, int argc, char **argv);
int ctl_shards_move(struct scope *sc, int argc, char **argv);
int ctl_shards_split(struct scope *sc, int argc, char **argv);
int ctl_shards_way_back(struct scope *sc, int argc, char **argv);
int ctl_shards_abort(struct scope *sc, int argc, char **argv);
int ctl_shards_clean_up(struct scope *sc, int argc, char **argv);
int ctl_queue_stats(struct scope *sc, int argc, char **argv);
int ctl_queue_pause(struct scope *sc, int argc, char **argv);
int ctl_queue_resume(struct scope *sc, int argc, char **argv);
int ctl_queue_drain(struct scope *sc, int argc, char **argv);
int ctl_queue_dead(struct scope *sc, int argc, char **argv);
int ctl_queue_retry(struct scope *sc, int argc, char **argv);
int ctl_queue_drop(struct scope *sc, int argc, char **argv);
int ctl_queue_show(struct scope *sc, int argc, char **argv);
int ctl_cron_list(struct scope *sc, int argc, char **argv);
int ctl_cron_set(struct scope *sc, int argc, char **argv);
int ctl_cron_pause(struct scope *sc, int argc, char **argv);
int ctl_cron_resume(struct scope *sc, int argc, char **argv);
int ctl_cron_drop(struct scope *sc, int argc, char **argv);
int ctl_mail_suppressed(struct scope *sc, int argc, char **argv);
int ctl_mail_suppress(struct scope *sc, int argc, char **argv);
int ctl_mail_allow(struct scope *sc, int argc, char **argv);
int ctl_sessions_count(struct scope *sc, int argc, char **argv);
int ctl_sessions_revoke(struct scope *sc, int argc, char **argv);
int ctl_capacity(struct scope *sc, int argc, char **argv);
int ctl_readiness(struct scope *sc, int argc, char **argv);
int ctl_user_create_admin(struct scope *sc, int argc, char **argv);

#endif
