/* libFuzzer: any bytes as a file, through demuxer, decoder and every operation, with the link
 * replaced by memory. The first byte chooses the operation. The library code is not instrumented,
 * but its heap is watched; ours is instrumented too. */
#include <stdbool.h>

#include <libavutil/log.h>

#include "workers/media/op.h"

enum { FILE_MAX = 1 << 20, WRITTEN_MAX = 64 << 20, DURATION_MAX_S = 20 };

struct link {
    const uint8_t *data;
    size_t size;
    size_t written[MEDIA_OUTPUTS_MAX];
};

static void demand(bool holds)
{
    if (!holds) {
        abort();
    }
}

size_t link_read(struct link *l, uint32_t source, int64_t offset, void *buffer, size_t len)
{
    demand(source == 0);
    if (offset < 0 || (uint64_t)offset >= l->size) {
        return 0;
    }
    len = len < l->size - (size_t)offset ? len : l->size - (size_t)offset;
    memcpy(buffer, l->data + offset, len);
    return len;
}

void link_write(struct link *l, uint32_t output, const void *data, size_t len)
{
    demand(output < MEDIA_OUTPUTS_MAX && data != NULL);
    l->written[output] += len;
    demand(l->written[output] < WRITTEN_MAX);
}

void link_rewrite(struct link *l, uint32_t output, int64_t offset, const void *data, size_t len)
{
    demand(output < MEDIA_OUTPUTS_MAX && data != NULL && offset >= 0);
    demand((size_t)offset + len <= l->written[output] && (size_t)offset + len <= MEDIA_REWRITABLE);
}

void link_finish(struct link *l, uint32_t output)
{
    (void)l;
    demand(output < MEDIA_OUTPUTS_MAX);
}

void link_progress(struct link *l, int percent)
{
    (void)l;
    demand(percent >= 0 && percent <= 100);
}

static void quiet(void *context, int level, const char *format, va_list args)
{
    (void)context;
    (void)level;
    (void)format;
    (void)args;
}

static const struct {
    enum media_fault (*run)(struct op *op);
    const char *params;
} jobs[] = {
    {op_probe, ""},
    {op_analyse, ""},
    {op_waveform, "zoom.0=16\nzoom.1=1000\nwidth=64\nheight=32\n"},
    {op_waveform, "perChannel=true\nbits=8\nwidth=64\nheight=32\n"},
    {op_convert, "format=wav\n"},
    {op_convert, "format=flac\n"},
    {op_convert, "format=mp3\nbitrate=64000\n"},
    {op_convert, "format=m4a\n"},
    {op_convert, "format=aac\n"},
    {op_convert, "format=ogg\nchannels=1\n"},
    {op_convert, "format=opus\ntargetLufs=-20\n"},
    {op_mix, "format=flac\ntracks.0.gainDb=6\ntracks.0.pan=-0.3\ntracks.0.fadeInMs=50\n"},
    {op_mix, "format=wav\nchannels=6\nsampleRate=32000\ntracks.0.offsetMs=10\n"
             "tracks.0.fadeOutMs=90\n"},
    {op_mix, "format=opus\ntargetLufs=-14\n"},
};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    av_log_set_callback(quiet);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct op op;
    struct link link;
    struct media_start start = {.n_sources = 1, .duration_max_s = DURATION_MAX_S};
    size_t job;

    if (size < 2 || size > FILE_MAX) {
        return 0;
    }
    job = data[0] % (sizeof(jobs) / sizeof(jobs[0]));
    link = (struct link){.data = data + 1, .size = size - 1};
    start.sizes[0] = (int64_t)size - 1;
    op = (struct op){.link = &link, .start = &start, .params = jobs[job].params};
    if (jobs[job].run(&op) == MEDIA_OK) {
        demand(op.result[0] == '{' && op.result[strlen(op.result) - 1] == '}');
    }
    return 0;
}
