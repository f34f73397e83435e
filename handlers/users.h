/* Public profiles, as others see a user. */
#ifndef HANDLERS_USERS_H
#define HANDLERS_USERS_H

#include "lib/arena.h"
#include "lib/id.h"

/* Name of a user's profile in the cache (lib/cache.h), in the arena. Whoever changes what a profile
 * shows drops it after the commit. */
const char *users_cache_name(struct arena *a, struct id user);

#endif
