/* All zooms and the picture from one decode, or two where there is more than memory holds. */
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
        link_progress(op->link, waveform_percent(w, input_percent(in)));
    }
}

static enum media_fault pass(struct op *op, struct waveform *w, bool *again_out)
{
    struct input *in = NULL;
    enum media_fault f =
        input_open(op->link, 0, op->start->sizes[0], op->start->duration_max_s, &in);

    f = f != MEDIA_OK ? f : decode(op, in, w);
    f = f != MEDIA_OK ? f : waveform_end(w, again_out);
    op->value = in == NULL ? 0 : input_value(in);
    input_close(&in);
    return f;
}

enum media_fault op_waveform(struct op *op)
{
    bool again = true;
    struct waveform *w;
    enum media_fault f = waveform_open(op, true, &w);

    while (f == MEDIA_OK && again) {
        f = pass(op, w, &again);
    }
    if (f == MEDIA_OK) {
        waveform_tell(w, op->result, sizeof(op->result));
    }
    waveform_close(&w);
    return f;
}
