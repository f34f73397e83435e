/* Headers say what a file is; one decoded frame says that it is true. */
#include "workers/media/input.h"
#include "workers/media/op.h"

enum {
    SCAN_BYTES_MAX =
        16 << 20 /* a file without a length is read whole up to this, estimated beyond */
};

static enum media_fault probe(struct op *op, struct input *in)
{
    const struct input_info *info = input_info(in);
    const AVFrame *frame;
    char depth[16];
    enum media_fault f = MEDIA_OK;

    if (!info->duration_exact && op->start->sizes[0] <= SCAN_BYTES_MAX) {
        f = input_scan_duration(in);
    }
    f = f != MEDIA_OK ? f : input_next(in, &frame);
    if (f != MEDIA_OK) {
        return f;
    }
    (void)snprintf(depth, sizeof(depth), "%d", info->bit_depth);
    (void)snprintf(op->result, sizeof(op->result),
                   "{\"container\":\"%s\",\"codec\":\"%s\",\"durationMs\":%lld,\"sampleRate\":%d,"
                   "\"channels\":%d,\"bitDepth\":%s,\"bitRate\":%lld}",
                   info->container, info->codec,
                   (long long)(info->duration_ms < 0 ? 0 : info->duration_ms), info->sample_rate,
                   info->channels, info->bit_depth > 0 ? depth : "null",
                   (long long)(info->bit_rate < 0 ? 0 : info->bit_rate));
    return MEDIA_OK;
}

enum media_fault op_probe(struct op *op)
{
    struct input *in;
    enum media_fault f =
        input_open(op->link, 0, op->start->sizes[0], op->start->duration_max_s, &in);

    f = f != MEDIA_OK ? f : probe(op, in);
    op->value = in == NULL ? 0 : input_value(in);
    input_close(&in);
    return f;
}
