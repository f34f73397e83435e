/* Absent values are left out, but for the ETag: null says that the object is not pinned. */
#include "handlers/payload.h"

#include <math.h>

struct strbuf payload_begin(struct req *r, const struct audio_file *file)
{
    struct strbuf json = req_json(r);

    strbuf_printf(&json, "{\"fileId\":\"%s\",\"key\":", id_text(req_arena(r), file->id));
    strbuf_json(&json, file->key);
    strbuf_puts(&json, ",\"etag\":");
    strbuf_json(&json, file->etag);
    strbuf_puts(&json, ",\"fileName\":");
    strbuf_json(&json, file->file_name);
    payload_i64(&json, "size", file->size_bytes);
    payload_i64(&json, "durationMs", file->duration_ms);
    return json;
}

void payload_i64(struct strbuf *json, const char *name, int64_t value)
{
    if (value != ABSENT_I64) {
        strbuf_printf(json, ",\"%s\":%lld", name, (long long)value);
    }
}

void payload_f64(struct strbuf *json, const char *name, double value)
{
    if (isfinite(value)) {
        strbuf_printf(json, ",\"%s\":%.15g", name, value);
    }
}
