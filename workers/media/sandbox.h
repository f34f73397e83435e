/* What the media child gives up before it looks at a file. */
#ifndef WORKERS_MEDIA_SANDBOX_H
#define WORKERS_MEDIA_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>

/* Do the lazy things of libc that need the system (they are not possible afterwards), then for
 * good: die with the parent, no core, no new privileges, limits on address space (address_bytes
 * beyond what is mapped now; 0: none), CPU time, files, processes, and a system call filter that
 * kills the process on anything but memory, time, words on MEDIA_FD_SOCKET and the end. False: the
 * system refuses; do not go on. Once per process. */
bool sandbox_enter(int64_t address_bytes, uint32_t cpu_s);

#endif
