/* An instance: the processes of one pool, and the memory that they share.
 *
 * One file (config instance_shm) holds a slot per process with an area for its metrics, and two
 * permit sets per database. A process claims a slot at start and holds a lock of the kernel on
 * it, which ends with the process however it ends. The areas of dead processes stay and count; a
 * new process takes a dead slot over with all its counters and counts on from there. Hence a sum
 * over all slots is exact at any time, also across kill -9. Where the file cannot be used, the
 * memory is private to this process and a warning says so. See docs/internals/pg.md. */
#ifndef LIB_INSTANCE_H
#define LIB_INSTANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base.h"
#include "lib/permit.h"

enum {
    INSTANCE_SLOTS = 512,       /* processes; 256 of the old version and 256 of the new one */
    INSTANCE_LEASES_MAX = 1000, /* the largest DB_POOL_SIZE */
    INSTANCE_OPEN_MAX = 10000,  /* the largest DB_MAX_CONNECTIONS */
    INSTANCE_DATABASES_MAX = 1024
};

struct instance_plan {
    const char *path;     /* NULL or "": private memory */
    int databases;        /* permit sets are numbered below this */
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

/* Permits of leased connections of a database, and of open ones. NULL without instance_open(). */
struct permit_set *instance_leases(int database);
struct permit_set *instance_open_connections(int database);

/* The owner that this process takes permits as. */
uint16_t instance_owner(void);

/* Free the permits of processes that died; returns how many processes. Costs a system call per
 * process; never waits. */
int instance_reclaim(void);

#endif
