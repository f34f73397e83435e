/* What a process of ours gives up at its start, for good, and whom it ends with. */
#ifndef LIB_HARDEN_H
#define LIB_HARDEN_H

/* No privileges by running another program (no_new_privs), and no core file, which would hold
 * secrets. Before threads and children, which inherit both. Never fails: where the kernel knows
 * neither, a line in the log says so. */
void harden_process(void);

/* End (SIGTERM) with the supervisor that has started this process, since nobody would stop it then;
 * one that was started from a shell outlives the shell. Before threads. */
void harden_follow_supervisor(void);

#endif
