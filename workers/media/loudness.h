/* How loud a source is. */
#ifndef WORKERS_MEDIA_LOUDNESS_H
#define WORKERS_MEDIA_LOUDNESS_H

#include "workers/media/op.h"

enum { LOUDNESS_SILENT = -70 }; /* EBU R128's gate: nothing louder was found */

/* Decode source number source whole and measure its integrated loudness in LUFS (EBU R128). Tells
 * progress from 0 to percent_max. */
enum media_fault loudness_measure(struct op *op, uint32_t source, int percent_max,
                                  double *lufs_out);

#endif
