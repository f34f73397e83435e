/* The process and the shared memory of one media child. For media.c only. */
#ifndef LIB_MEDIA_CHILD_H
#define LIB_MEDIA_CHILD_H

#include <stddef.h>

#include "lib/scope.h"

struct media_child;

enum media_child_end {
    MEDIA_CHILD_EXITED,  /* by itself, whatever its status */
    MEDIA_CHILD_CRASHED, /* a signal that tells of a fault of its own: SEGV, ABRT, SYS … */
    MEDIA_CHILD_KILLED   /* another signal */
};

/* Start a child with its socket and memory_bytes of shared memory, sealed in size. It inherits
 * nothing else: no descriptor, no environment. ERR_INTERNAL where the system refuses. Lives in the
 * scope's arena; it is killed and reaped by media_child_end(), at the latest when the arena is
 * reset. */
MUST_USE enum err media_child_start(struct scope *sc, size_t memory_bytes,
                                    struct media_child **child_out);

/* Descriptor of our end of the socket (non-blocking). */
int media_child_socket(const struct media_child *child);

/* The shared memory. The child may change it at any time. */
unsigned char *media_child_memory(const struct media_child *child);

/* Kill it if it still runs, wait for it, give everything back. Blocks only as long as the kernel
 * takes. A child whose socket is closed is given a moment to end by itself, so that its own signal
 * is seen. */
enum media_child_end media_child_end(struct media_child *child, bool kill_now, int *signal_out);

#endif
