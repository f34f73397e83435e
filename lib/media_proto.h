/* What maxbooster-media and its parent say to each other. Shared by lib/media.c and
 * workers/media/.
 *
 * Messages travel over a sequenced-packet socket (descriptor 3 of the child), bulk data through
 * one sealed memory file (descriptor 4). The parent believes nothing: every number of the child is
 * checked against what it was given.
 *
 * Memory: for each source MEDIA_IN_SLOTS blocks of in_block bytes, filled by the parent; then
 * MEDIA_OUT_SLOTS blocks of MEDIA_OUT_BLOCK bytes, filled by the child. A slot of the child is
 * free again when its write is acknowledged. */
#ifndef LIB_MEDIA_PROTO_H
#define LIB_MEDIA_PROTO_H

#include <stdint.h>

enum {
    MEDIA_FD_SOCKET = 3,
    MEDIA_FD_MEMORY = 4,
    MEDIA_SOURCES_MAX = 64,    /* tracks of a mix */
    MEDIA_OUTPUTS_MAX = 32,    /* 8 zooms in 2 formats and a picture, with room */
    MEDIA_IN_SLOTS = 4,        /* head, tail, current and next block of a source */
    MEDIA_IN_BLOCK = 1 << 20,  /* a range worth a request to S3 */
    MEDIA_IN_BYTES = 16 << 20, /* of all blocks together: many sources have smaller ones */
    MEDIA_OUT_SLOTS = 4,
    MEDIA_OUT_BLOCK = 1 << 18,
    MEDIA_REWRITABLE =
        4 << 20, /* formats that correct their header in the end (sizes, counts) change no more */
    MEDIA_PARAMS_MAX = 16384,
    MEDIA_RESULT_MAX = 16384,
    MEDIA_OPERATION_MAX = 16
};

/* Why a child gives up. */
enum media_fault {
    MEDIA_OK = 0,
#define FAULT(name, code, text) MEDIA_FAULT_##name,
#include "lib/media.def"
#undef FAULT
    MEDIA_FAULT_PARAM,    /* a parameter does not fit; the payload names it */
    MEDIA_FAULT_INTERNAL, /* anything else */
    MEDIA_FAULT__COUNT
};

enum media_msg_type {
    /* to the child */
    MEDIA_START =
        1,      /* payload: struct media_start, then params_len bytes of "name=value\n" lines */
    MEDIA_DATA, /* answer to READ: len bytes stand at position; 0 at the end of the source */
    MEDIA_ACK,  /* the oldest unacknowledged slot is free */
    /* to the parent */
    MEDIA_READ,     /* index: source; offset */
    MEDIA_WRITE,    /* index: output; position: slot; len: append */
    MEDIA_REWRITE,  /* the same at offset, within the first MEDIA_REWRITABLE bytes */
    MEDIA_FINISH,   /* index: output is complete */
    MEDIA_PROGRESS, /* len: percent */
    MEDIA_RESULT,   /* payload: JSON object; the child is done */
    MEDIA_FAIL      /* index: enum media_fault; offset: its number; position: the source that it
                      is about; payload: name of a parameter */
};

struct media_msg {
    uint32_t type;
    uint32_t index;
    int64_t offset;
    int64_t position;
    int64_t len;
};

enum { MEDIA_MESSAGE_MAX = 32768 }; /* header and payload */

struct media_start {
    char operation[MEDIA_OPERATION_MAX];
    uint32_t n_sources;
    uint32_t in_block;
    uint32_t params_len;
    uint32_t cpu_s;        /* RLIMIT_CPU */
    int64_t memory_bytes;  /* of the file at MEDIA_FD_MEMORY */
    int64_t address_bytes; /* RLIMIT_AS beyond what is mapped at the start */
    int64_t duration_max_s;
    int64_t sizes[MEDIA_SOURCES_MAX];
};

#endif
