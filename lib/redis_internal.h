/* What the parts of redis share: nodes (redis_node.c), connections (redis_conn.c), slots and
 * routing (redis_cluster.c), calls (redis.c). For those and their tests only. */
#ifndef LIB_REDIS_INTERNAL_H
#define LIB_REDIS_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/redis.h"

enum {
    REDIS_NODES_MAX = 1024, /* more than REDIS_CLUSTER_NODES may be */
    REDIS_SEEDS_MAX = 64,   /* REDIS_URL has room for no more that are of use */
    REDIS_SLOTS = 16384,
    REDIS_HOST_SIZE = 256,
    REDIS_SECRET_SIZE = 256,
    REDIS_REPLY_MAX_BYTES = 16 << 20 /* of memory: far above every real reply */
};

struct redis_address {
    char host[REDIS_HOST_SIZE];
    int port;
};

/* --- Nodes: who they are, and which of them are to be left alone for a while. Shared by all
 * threads, hold-back by all processes of the instance; none of these blocks. A node is a number
 * below REDIS_NODES_MAX, a seed's is its place in the list. --- */

/* REDIS_URL taken apart. User and password are one for all nodes. */
struct redis_seeds {
    size_t n;
    struct redis_address addresses[REDIS_SEEDS_MAX];
    char user[REDIS_SECRET_SIZE]; /* "" none */
    char password[REDIS_SECRET_SIZE];
};

/* Read redis://[[user]:password@]host[:port][/0], or a comma list of them; behind the first the
 * scheme may be left out. %XX is decoded in user and password. False: malformed. */
bool redis_url_parse(const char *url, struct redis_seeds *out);

/* REDIS_URL of the configuration, read at the first use; n is 0 where it is malformed. */
const struct redis_seeds *redis_seeds(void);

/* The node of an address, entered if need be. -1: no room, which only hostile maps reach. */
int redis_node_of(const struct redis_address *address);

/* Numbers below are or were in use. */
int redis_node_count(void);

/* The node's address, and its generation: that of another node once the number is used anew. */
uint32_t redis_node_address(int node, struct redis_address *address_out);

/* The generation alone; 0 where the number is not in use. One load. */
uint32_t redis_node_generation(int node);

/* Free the numbers of all nodes that are neither kept nor seeds. */
void redis_nodes_keep(const bool kept[REDIS_NODES_MAX]);

/* May the node be asked now? After a failure one caller at a time probes, the others get false;
 * the prober has limit_ms, and a little more to tell. Who has a connection open is held back only
 * while the node is silent; it counts as silent, before anybody's time is up, once several threads
 * of the process wait for it and none has had an answer for BULKHEAD_WAIT_MS. */
bool redis_node_may_try(int node, bool is_open, int64_t limit_ms);

/* A thread waits for the node from now on, and no longer. Only waits of a command's usual length
 * count: one that means to block says nothing. */
void redis_node_asked(int node, int64_t now_ms);
void redis_node_told(int node, bool is_answer, int64_t now_ms);

/* The node could not be reached, or did not answer in the time that a command has. */
void redis_node_failed(int node, bool is_silent);

/* The node has answered; is_fresh: the first time on that connection. That ends the hold-back,
 * while an answer on an old connection only ends silence (a full server serves those it has, and
 * takes no others). */
void redis_node_answered(int node, bool is_fresh);

/* Is the node left alone at the moment? */
bool redis_node_is_held(int node);

/* --- Connections: the only code that sees hiredis. --- */

/* How a talk with a node ended. */
enum redis_fate {
    REDIS_FINE,
    REDIS_UNSENT, /* nothing was executed: it may be tried again */
    REDIS_LOST    /* no answer, or none to be trusted: it may have been executed */
};

struct redis_command {
    size_t n;
    const char *const *text;
    const size_t *len;
};

/* Send n commands to the node and take their replies, in one round trip. Blocks up to limit_ms.
 * Redis's own errors come back as REDIS_ERROR replies. After anything but REDIS_FINE *why_out is
 * one phrase in the arena that names the node and no secret. asking: each command is preceded by
 * ASKING. */
enum redis_fate redis_exchange(struct scope *sc, int node, bool asking,
                               const struct redis_command *commands, size_t n, int64_t limit_ms,
                               struct redis_reply *replies_out, const char **why_out);

/* Close this thread's connection to the node, if there is one. */
void redis_disconnect(int node);

/* --- Cluster. --- */

/* Hash slot of a key: CRC16/XMODEM of what stands in its first non-empty pair of braces, or of
 * all of it. */
int redis_slot(const char *key, size_t len);

/* A row of CLUSTER SLOTS: the master of a range. */
struct redis_range {
    int first, last;
    struct redis_address master;
};

/* Read a reply to CLUSTER SLOTS that the node at asked gave. *nodes_out counts masters and
 * replicas. False: it is something else, or covers no slot. */
bool redis_ranges_parse(struct arena *a, const struct redis_reply *reply,
                        const struct redis_address *asked, struct redis_range **ranges_out,
                        size_t *n_out, int *nodes_out);

enum redis_turn {
    REDIS_TURN_NONE,  /* an answer, good or bad */
    REDIS_TURN_MOVED, /* the slot is at another node for good */
    REDIS_TURN_ASK,   /* this once, the other node has it */
    REDIS_TURN_WAIT   /* later: TRYAGAIN, LOADING, CLUSTERDOWN, MASTERDOWN */
};

/* Does the reply send us elsewhere? Nothing was executed then. *slot_out and *address_out are set
 * for MOVED and ASK; an empty host there stands for the node that was asked. */
enum redis_turn redis_turn_of(const struct redis_reply *reply, int *slot_out,
                              struct redis_address *address_out);

/* Run one command on the node that has the key's slot, wherever it has gone, within limit_ms. */
MUST_USE enum err redis_cluster_run(struct scope *sc, const char *key,
                                    const struct redis_command *command, int64_t limit_ms,
                                    struct redis_reply *reply_out);

/* The node of the key's slot as far as is known, asking for the map where nothing is known. */
MUST_USE enum err redis_cluster_node(struct scope *sc, const char *key, int64_t limit_ms,
                                     int *node_out);

/* List the masters, up to max of them, after asking for the map where it is not of this moment. */
MUST_USE enum err redis_cluster_masters(struct scope *sc, int64_t limit_ms, int *nodes_out,
                                        size_t max, size_t *n_out);

#endif
