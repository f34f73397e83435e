/* The ebur128 filter writes the loudness so far onto each frame; the last one has it all. */
#include "workers/media/loudness.h"

#include "workers/media/chain.h"
#include "workers/media/input.h"

static enum media_fault take(struct chain *chain, double *lufs)
{
    const AVDictionaryEntry *tag;
    enum media_fault f;
    AVFrame *frame;

    while ((f = chain_next(chain, &frame)) == MEDIA_OK && frame != NULL) {
        tag = av_dict_get(frame->metadata, "lavfi.r128.I", NULL, 0);
        if (tag != NULL) {
            *lufs = strtod(tag->value, NULL);
        }
    }
    return f;
}

static enum media_fault measure(struct op *op, struct input *in, struct chain **chain,
                                int percent_max, double *lufs)
{
    const AVFrame *frame;
    enum media_fault f;

    do {
        f = input_next(in, &frame);
        if (f == MEDIA_OK && *chain == NULL) {
            f = chain_open(frame, "ebur128=metadata=1", chain);
        }
        f = f != MEDIA_OK ? f : chain_feed(*chain, frame);
        f = f != MEDIA_OK ? f : take(*chain, lufs);
        link_progress(op->link, input_percent(in) * percent_max / 100);
    } while (f == MEDIA_OK && frame != NULL);
    return f;
}

enum media_fault loudness_measure(struct op *op, uint32_t source, int percent_max, double *lufs_out)
{
    struct chain *chain = NULL;
    struct input *in;
    enum media_fault f;

    *lufs_out = LOUDNESS_SILENT;
    f = input_open(op->link, source, op->start->sizes[source], op->start->duration_max_s, &in);
    f = f != MEDIA_OK ? f : measure(op, in, &chain, percent_max, lufs_out);
    op->value = in == NULL ? 0 : input_value(in);
    chain_close(&chain);
    input_close(&in);
    return f;
}
