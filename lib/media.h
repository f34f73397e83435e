/* The sandboxed media child, seen from its parent.
 *
 * maxbooster-media decodes hostile files in a process of its own: no network, no files, limited
 * memory and time; all its bytes pass through descriptors that it inherits. This module starts it,
 * feeds it from a struct media_source, takes its outputs to struct media_sink, and ends it. A
 * child that crashes, hangs or breaks the protocol is one failed call, nothing more. Several
 * threads may run children at once. */
#ifndef LIB_MEDIA_H
#define LIB_MEDIA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/crypto.h"
#include "lib/media_proto.h"
#include "lib/scope.h"

/* Where a child's input comes from; called from the thread that runs the child, in large blocks,
 * read ahead. */
struct media_source {
    /* Fill buffer with up to len bytes from offset; *got_out 0 is the end. The buffer is shared
     * with the child: do not look at it again. */
    enum err (*read)(void *context, struct scope *sc, int64_t offset, size_t len, void *buffer,
                     size_t *got_out);
    void *context;
    int64_t size; /* bytes */
};

/* What became of an output. */
struct media_output {
    int64_t size;
    char sha256[SHA256_HEX_SIZE]; /* of all bytes as they stand in the end */
};

/* Where a child's outputs go: numbered streams (0 …), appended to in order, their first
 * MEDIA_REWRITABLE bytes (4 MiB; formats correct their header in the end) changeable until
 * finished. The data lies in memory that the child can change meanwhile, good until the call
 * returns: read it once, and judge (hash, send) nothing but the copy. An error ends the child and
 * comes back from media_run(). */
struct media_sink {
    /* Append. */
    enum err (*write)(void *context, struct scope *sc, int output, const void *data, size_t len);
    /* Replace bytes that were written: offset + len lies within what was written and within
     * MEDIA_REWRITABLE. */
    enum err (*rewrite)(void *context, struct scope *sc, int output, int64_t offset,
                        const void *data, size_t len);
    /* The output is complete (perhaps without a byte): make it last, and say what it is. */
    enum err (*finish)(void *context, struct scope *sc, int output, struct media_output *made_out);
    void *context;
};

/* Told at least every 50 ms while a child works (unless a source or sink call takes longer);
 * false ends the child (ERR_CONFLICT: cancelled, lease lost). */
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
    int64_t bit_depth; /* ABSENT_I64 for lossy codecs */
    int64_t bit_rate;  /* bit/s */
};

/* Probe by reading headers and decoding the head. ERR_MEDIA_INVALID with a violation (field
 * "file", code of media.def) where it is not usable audio, or where decoding it crashes the child.
 * Blocks up to media_probe_timeout_ms. */
MUST_USE enum err media_probe(struct scope *sc, const struct media_source *source,
                              struct media_probe *probe_out);

/* Run one operation: "waveform", "convert" or "mix" with its parameters as a JSON object;
 * *result_out gets the child's result (a JSON object in the arena; every object in it that has
 * "output": n has that output's "size" and "sha256" too). watch may be NULL. Errors:
 * ERR_MEDIA_INVALID with a violation of "file", or of "tracks[i].fileId" where there are several
 * sources (bad input: do not retry), ERR_VALIDATION_FAILED with a violation (a parameter does not
 * fit), ERR_TIMED_OUT, ERR_INTERNAL (the child crashed), ERR_CONFLICT (watch said stop), or what
 * source and sink returned. Never goes past the scope's deadline but by one call of source or
 * sink. */
MUST_USE enum err media_run(struct scope *sc, const char *operation, const char *params_json,
                            const struct media_source *sources, size_t n_sources,
                            const struct media_sink *sink, const struct media_watch *watch,
                            int64_t timeout_ms, const char **result_out);

#endif
