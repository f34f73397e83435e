/* audiowaveform's data files. Pure formatting. */
#ifndef WORKERS_MEDIA_WAVEFILE_H
#define WORKERS_MEDIA_WAVEFILE_H

#include <stdbool.h>
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

/* The binary form, version 1 or 2, of all that the zoom holds. */
void wavefile_dat(const struct wavefile *w, wavefile_write *write, void *context);

/* The JSON form; as audiowaveform writes it, always version 2, with a line feed behind it. */
void wavefile_json(const struct wavefile *w, wavefile_write *write, void *context);

/* The same in pieces, for what is too long to be held: a head with the number of runs to come, then
 * as often as need be what the zoom holds at the time, then a tail. */
enum { WAVEFILE_DAT_LENGTH_AT = 16 }; /* where the number stands in .dat: 32 bits, little-endian */
void wavefile_dat_head(const struct wavefile *w, uint32_t runs, wavefile_write *write,
                       void *context);
void wavefile_dat_data(const struct wavefile *w, wavefile_write *write, void *context);
void wavefile_json_head(const struct wavefile *w, uint32_t runs, wavefile_write *write,
                        void *context);
void wavefile_json_data(const struct wavefile *w, bool is_first, wavefile_write *write,
                        void *context);
void wavefile_json_tail(wavefile_write *write, void *context);

#endif
