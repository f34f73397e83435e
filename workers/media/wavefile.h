/* audiowaveform's data files. Pure formatting. */
#ifndef WORKERS_MEDIA_WAVEFILE_H
#define WORKERS_MEDIA_WAVEFILE_H

#include <stddef.h>
#include <stdint.h>

#include "workers/media/peaks.h"

/* Called with pieces of the file, in order. */
typedef void wavefile_write(void *context, const void *data, size_t len);

struct wavefile {
    const struct zoom *zoom;
    int64_t sample_rate;
    int bits;    /* 8 or 16 */
    int version; /* of .dat: 1 (one channel only) or 2 */
};

/* The binary form, version 1 or 2. */
void wavefile_dat(const struct wavefile *w, wavefile_write *write, void *context);

/* The JSON form; as audiowaveform writes it, always version 2, with a line feed behind it. */
void wavefile_json(const struct wavefile *w, wavefile_write *write, void *context);

#endif
