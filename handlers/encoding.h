/* What is asked of an audio file that a job makes. */
#ifndef HANDLERS_ENCODING_H
#define HANDLERS_ENCODING_H

#include "lib/scope.h"
#include "lib/shape.h"
#include "lib/str.h"

/* Members that a request does not give are absent. */
struct encoding {
    const char *format;
    int64_t bitrate, sample_rate, channels;
    double quality, target_lufs;
};

enum {
    ENCODING_RATE_MIN = 8000, /* Hz */
    ENCODING_RATE_MAX = 192000,
    ENCODING_CHANNELS_MAX = 8,
    ENCODING_LUFS_MIN = -70,
    ENCODING_LUFS_MAX = -5
};

/* Names of the formats, NULL behind the last. */
extern const char *const encoding_formats[];

/* The fields of a request's shape for its member of type struct encoding. */
#define ENCODING_FIELDS(tag, member)                                                       \
    F_WORD(tag, member.format, "format", encoding_formats, 0),                             \
        F_I64(tag, member.bitrate, "bitrate", 1, INT32_MAX, F_OPTIONAL),                   \
        F_F64(tag, member.quality, "quality", 0, 10, F_OPTIONAL),                          \
        F_I64(tag, member.sample_rate, "sampleRate", ENCODING_RATE_MIN, ENCODING_RATE_MAX, \
              F_OPTIONAL),                                                                 \
        F_I64(tag, member.channels, "channels", 1, ENCODING_CHANNELS_MAX, F_OPTIONAL),     \
        F_F64(tag, member.target_lufs, "targetLufs", ENCODING_LUFS_MIN, ENCODING_LUFS_MAX, \
              F_OPTIONAL)

/* Do they fit the format and each other? All faults are told as violations. Pure. */
MUST_USE enum err encoding_check(struct scope *sc, const struct encoding *in);

/* Does the bitrate fit the result? rate, channels: what it has where nothing is asked for. A
 * violation where not. Pure. */
MUST_USE enum err encoding_check_result(struct scope *sc, const struct encoding *in, int64_t rate,
                                        int64_t channels);

/* Add it to a payload, defaults filled in. */
void encoding_write(struct strbuf *json, const struct encoding *in);

#endif
