/* A look-ahead limiter for true peaks: what stays below the ceiling passes through bit by bit.
 *
 * Peaks between samples are estimated at four times the rate. The gain is lowered smoothly over
 * the look-ahead, so that it is low enough when the peak comes, and rises again in about 50 ms;
 * all channels share it. Nothing here blocks. */
#ifndef WORKERS_MEDIA_LIMITER_H
#define WORKERS_MEDIA_LIMITER_H

#include <stdbool.h>

#include "lib/media_proto.h"

enum { LIMITER_BLOCK = 4096, LIMITER_CHANNELS_MAX = 8 };

struct limiter;

/* A limiter for planar floats. ceiling: largest peak that passes (1 is full scale). The caller
 * owns *limiter_out, also after a fault, and ends it with limiter_close(). */
enum media_fault limiter_open(int rate, int channels, double ceiling, struct limiter **limiter_out);

/* Samples by which what comes out is late. */
int limiter_delay(const struct limiter *l);

/* Take n samples (up to LIMITER_BLOCK) of each channel and put the ones of limiter_delay() ago in
 * their place. Before the first there is silence. What is not a number becomes silence too. */
void limiter_run(struct limiter *l, float *const *planes, int n);

/* Free everything and clear *limiter. */
void limiter_close(struct limiter **limiter);

#endif
