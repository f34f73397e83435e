/* One operation of the media child: a file op_<name>.c and a row in main.c's table. */
#ifndef WORKERS_MEDIA_OP_H
#define WORKERS_MEDIA_OP_H

#include <stdint.h>

#include "workers/media/link.h"

/* What an operation is given, and where it says what came of it. */
struct op {
    struct link *link;
    const struct media_start *start;
    const char *params;            /* params.h */
    char result[MEDIA_RESULT_MAX]; /* JSON object, to be written by the operation */
    int64_t value;                 /* number that belongs to the fault */
    uint32_t source;               /* whose fault it is, where there are several */
    const char *param;             /* name of the parameter, for MEDIA_FAULT_PARAM */
};

/* Result: {"container","codec","durationMs","sampleRate","channels","bitDepth","bitRate"}. Needs
 * one source. */
enum media_fault op_probe(struct op *op);

/* Result: {"durationMs","sampleRate","channels","files":[{"output","format","samplesPerPixel"}]}.
 * Needs one source. */
enum media_fault op_waveform(struct op *op);

/* Result: {"output","format","codec","sampleRate","channels","bitDepth","durationMs"}. Needs one
 * source. */
enum media_fault op_convert(struct op *op);

/* The same result, of all sources added up. */
enum media_fault op_mix(struct op *op);

/* Result: {"analysis":{"integratedLufs","loudnessRangeLu","truePeakDbtp","tempoBpm",
 * "leadingSilenceMs","trailingSilenceMs","clippedSamples","clippedRatio","durationMs","codec",
 * "sampleRate","channels","bitDepth"},"waveform"}; null: cannot be told. The waveform is as
 * op_waveform() would make it. Needs one source. */
enum media_fault op_analyse(struct op *op);

#endif
