/* What a job asks of the file that it makes. */
#ifndef WORKERS_MEDIA_ASKED_H
#define WORKERS_MEDIA_ASKED_H

#include "workers/media/op.h"
#include "workers/media/output.h"

struct asked {
    int64_t sample_rate, channels, bit_depth; /* 0: nothing asked for */
    double target_lufs;                       /* 0: none */
};

/* Say which parameter does not fit: MEDIA_FAULT_PARAM. */
enum media_fault asked_bad(struct op *op, const char *param);

/* Read format, bitrate, quality, sampleRate, channels, bitDepth and targetLufs from the parameters;
 * sets the settings' format, bit_rate and quality. MEDIA_FAULT_PARAM. Pure. */
enum media_fault asked_read(struct op *op, struct output_settings *settings, struct asked *asked);

/* The result of an operation with one output, as JSON. */
void asked_result(struct op *op, const struct output_settings *settings, const struct output *out);

#endif
