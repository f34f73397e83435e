/* An instance: the processes of one pool, and the memory that they share.
 *
 * One file (config instance_shm) holds a slot per process with an area for its metrics, and what
 * the processes share of each connection pool, found by the pool's name, so that new databases fit
 * in at any time. A process claims a slot at start and holds a lock of the kernel on
 * it, which ends with the process however it ends. The areas of dead processes stay and count; a
 * new process takes a dead slot over with all its counters and counts on from there. Hence a sum
 * over all slots is exact at any time, also across kill -9. Where the file cannot be used, the
 * memory is private to this process and a warning says so. See docs/internals/pg.md. */
#ifndef LIB_INSTANCE_H
#define LIB_INSTANCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base.h"
#include "lib/permit.h"

enum {
    INSTANCE_SLOTS = 512,       /* processes; 256 of the old version and 256 of the new one */
    INSTANCE_LEASES_MAX = 1000, /* the largest DB_POOL_SIZE */
    INSTANCE_OPEN_MAX = 10000,  /* the largest DB_MAX_CONNECTIONS */
    INSTANCE_POOLS = 1024,      /* pools that fit into the file */
    INSTANCE_COUNTERS = 8,      /* of a pool */
    INSTANCE_TOPICS = 1024,     /* that fit into the file */
    INSTANCE_TOPIC_WORDS = 4,
    INSTANCE_BOARD_BYTES = 65536
};

struct instance_plan {
    const char *path;     /* NULL or "": private memory */
    size_t area_bytes;    /* size of a slot's area */
    uint64_t area_layout; /* another number whenever the area means something else */
};

/* Claim a slot; once per process, before its threads. Waits up to 5 s for the file's lock. A file
 * of another layout is put aside: processes that still use it go on among themselves. */
void instance_open(const struct instance_plan *plan);

/* Give back this process's permits and slot (its counters stay). For tests and an orderly end; a
 * crash does the same. */
void instance_close(void);

/* Is the memory shared with the other processes? */
bool instance_is_shared(void);

/* This process's slot, below INSTANCE_SLOTS. */
int instance_slot(void);

/* Its area: zero at first, else with the counters of a predecessor (gauges in there are for the
 * caller to clear). 64-byte aligned; valid until instance_close(). */
void *instance_area(void);

/* Area of any slot, NULL if that was never used. is_alive_out (may be NULL): does its process
 * live? Only then its gauges mean something. */
const void *instance_area_of(int slot, bool *is_alive_out);

/* What the processes share of a pool; all zero at first. Valid until instance_close(). */
struct instance_pool {
    struct permit_set *leases, *opens; /* leased connections, open ones */
    _Atomic uint64_t *breaker;         /* for breaker.h */
    _Atomic int64_t *counters;         /* INSTANCE_COUNTERS of them */
};

/* The pool of that name, entered now if it is new; once per pool and process, since it may wait
 * for the file's lock. Where the file has no room the pool is this process's own; a warning says
 * so. */
struct instance_pool instance_pool(const char *name);

/* INSTANCE_TOPIC_WORDS words that the processes share about what the name tells; entered now if it
 * is new, and zero then, as they are when an instance's first process starts. Never waits; valid
 * until instance_close(). NULL: no instance is open, or the file has no room. */
_Atomic int64_t *instance_topic(const char *name);

/* INSTANCE_BOARD_BYTES that all processes see, 64-byte aligned; zero in a new file, else as the
 * last processes left them. */
void *instance_board(void);

/* The owner that this process takes permits as. */
uint16_t instance_owner(void);

/* Free the permits of processes that died, and wait no more for probes that may have been theirs;
 * returns how many processes. Costs a system call per process; never waits. */
int instance_reclaim(void);

#endif
