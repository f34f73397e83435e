/* All zooms and the picture from one decode. */
#include "workers/media/waveform.h"

static enum media_fault decode(struct op *op, struct input *in, struct waveform *w)
{
    const AVFrame *frame;
    enum media_fault f;

    for (;;) {
        f = input_next(in, &frame);
        if (f != MEDIA_OK || frame == NULL) {
            return f;
        }
        f = waveform_add(w, in, frame);
        if (f != MEDIA_OK) {
            return f;
        }
        link_progress(op->link, input_percent(in));
    }
}

enum media_fault op_waveform(struct op *op)
{
    struct input *in = NULL;
    struct waveform *w;
    enum media_fault f = waveform_open(op, &w);

    if (f == MEDIA_OK) {
        f = input_open(op->link, 0, op->start->sizes[0], op->start->duration_max_s, &in);
    }
    f = f != MEDIA_OK ? f : decode(op, in, w);
    f = f != MEDIA_OK ? f : waveform_write(w, op->result, sizeof(op->result));
    op->value = in == NULL ? 0 : input_value(in);
    waveform_close(&w);
    input_close(&in);
    return f;
}
