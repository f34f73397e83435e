/* Payload of a job on an audio file: a JSON object with all that its worker needs. */
#ifndef HANDLERS_PAYLOAD_H
#define HANDLERS_PAYLOAD_H

#include "handlers/audio.h"

/* Begin one in the request's arena: the object, pinned to the ETag that was verified. The caller
 * adds members and the closing brace. Nothing here blocks. */
struct strbuf payload_begin(struct req *r, const struct audio_file *file);

/* Add a number, unless it is absent. */
void payload_i64(struct strbuf *json, const char *name, int64_t value);

/* The same for any number. */
void payload_f64(struct strbuf *json, const char *name, double value);

#endif
