/* The sandboxed media child, seen from its parent.
 *
 * maxbooster-media decodes hostile files in a process of its own: no network, no files, limited memory and time; all its bytes
 * pass through descriptors that it inherits. This module starts it, feeds it from a struct media_source, takes its outputs to struct
 * media_sink, and ends it. A child that crashes, hangs or breaks the protocol is one failed call, nothing more. */
#ifndef LIB_MEDIA_H
#define LIB_MEDIA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/scope.h"

/* Where a child's input comes from; called from the thread that runs the child. */
struct media_source {
    /* Fill buffer with up to len bytes from offset; *got_out 0 is the end. */
    enum err (*read)(void *context, struct scope *sc, int64_t offset, size_t len, void *buffer,
                     size_t *got_out);
    void *context;
    int64_t size; /* bytes */
};

/* Where a child's outputs go: numbered streams, written in order from their start, then finished. */
struct media_sink {
    enum err (*write)(void *context, struct scope *sc, int output, const void *data, size_t len);
    enum err (*finish)(void *context, struct scope *sc, int output);
    void *context;
};

/* Told now and then while a child works; false ends the child (ERR_CONFLICT: cancelled, lease lost). */
struct media_watch {
    bool (*progress)(void *context, int percent);
    void *context;
};

/* What is in an audio file. */
struct media_probe {
    const char *container; /* libavformat's short name: "mp3", "wav", "flac", "ogg", "mov" … */
    const char *codec;     /* libavcodec's name: "mp3", "pcm_s16le", "flac" … */
    int64_t duration_ms;
    int64_t sample_rate;
    int64_t channels;
    int64_t bit_depth;     /* ABSENT_I64 for lossy codecs */
    int64_t bit_rate;      /* bit/s */
};

/* Probe by decoding its head. ERR_MEDIA_INVALID with a violation (field "file") where it is not usable audio. Blocks up to
 * media_probe_timeout_ms. */
MUST_USE enum err media_probe(struct scope *sc, const struct media_source *source,
                              struct media_probe *probe_out);

/* Run one operation: "waveform" or "convert" with its parameters as a JSON object; *result_out gets the child's result
 * (a JSON object in the arena). Errors: ERR_MEDIA_INVALID (bad input: do not retry), ERR_TIMED_OUT, ERR_INTERNAL (the child crashed),
 * ERR_CONFLICT (watch said stop), or what source and sink returned. */
MUST_USE enum err media_run(struct scope *sc, const char *operation, const char *params_json,
                            const struct media_source *sources, size_t n_sources,
                            const struct media_sink *sink, const struct media_watch *watch,
                            int64_t timeout_ms, const char **result_out);

#endif
