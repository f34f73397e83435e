/* A chain of filters with one way in and one way out. The only door to libavfilter. */
#ifndef WORKERS_MEDIA_CHAIN_H
#define WORKERS_MEDIA_CHAIN_H

#include <libavutil/frame.h>

#include "lib/media_proto.h"

struct chain;

/* Make the chain that text describes (libavfilter's words) for frames like first. The caller owns
 * *chain_out, also after a fault, and ends it with chain_close(). */
enum media_fault chain_open(const AVFrame *first, const char *text, struct chain **chain_out);

/* Put a frame in (it is copied by reference); NULL is the end. */
enum media_fault chain_feed(struct chain *c, const AVFrame *frame);

/* Take the next frame that is ready; *frame_out NULL: none now. Good until the next call. */
enum media_fault chain_next(struct chain *c, AVFrame **frame_out);

/* Free everything and clear *chain. */
void chain_close(struct chain **chain);

#endif
