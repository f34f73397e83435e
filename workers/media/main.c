/* maxbooster-media: take one job from the parent, lock the door, do it, end.
 *
 * Nothing of the input is touched before the sandbox is closed. The process ends without tidying
 * up: its memory goes with it. */
#include <libavutil/log.h>
#include <malloc.h>
#include <sys/socket.h>
#include <unistd.h>

#include "workers/media/op.h"
#include "workers/media/sandbox.h"

#if defined(__SANITIZE_ADDRESS__)
/* Looking for leaks needs a tracer thread, which the sandbox forbids. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0:abort_on_error=1";
}
#endif

enum {
    EXIT_SANDBOX = 4,
    MMAP_BYTES = 1 << 20 /* more than a packet or a frame has: those come and go all the time */
};

static const struct operation {
    const char *name;
    uint32_t sources_min, sources_max;
    enum media_fault (*run)(struct op *op);
} operations[] = {
    {"probe", 1, 1, op_probe},     {"waveform", 1, 1, op_waveform},
    {"convert", 1, 1, op_convert}, {"mix", 1, MEDIA_SOURCES_MAX, op_mix},
    {"analyse", 1, 1, op_analyse},
};

static void quiet(void *context, int level, const char *format, va_list args)
{
    (void)context;
    (void)level;
    (void)format;
    (void)args;
}

static enum media_fault run(struct op *op)
{
    size_t i;

    for (i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        const struct operation *o = &operations[i];

        if (strncmp(op->start->operation, o->name, MEDIA_OPERATION_MAX) == 0 &&
            op->start->n_sources >= o->sources_min && op->start->n_sources <= o->sources_max) {
            return o->run(op);
        }
    }
    return MEDIA_FAULT_INTERNAL;
}

int main(void)
{
    static struct op op;
    enum media_fault fault;

    op.link = link_open(&op.start, &op.params);
    av_log_set_callback(quiet);
    /* Arrays that grow with the length (an index, peaks) are mapped by themselves and give their
     * memory back. Left alone, glibc puts them into the heap once a large one has been freed, and
     * what they leave behind as they grow on stays resident. */
    (void)mallopt(M_MMAP_THRESHOLD, MMAP_BYTES);
    (void)mallopt(M_TRIM_THRESHOLD, 2 * MMAP_BYTES);
    if (!sandbox_enter(op.start->address_bytes, op.start->cpu_s)) {
        link_fail(op.link, MEDIA_FAULT_INTERNAL, EXIT_SANDBOX, 0, NULL);
        _exit(EXIT_SANDBOX);
    }
    fault = run(&op);
    if (fault == MEDIA_OK) {
        link_result(op.link, op.result);
    } else {
        link_fail(op.link, fault, op.value, op.source, op.param);
    }
    _exit(0);
}
