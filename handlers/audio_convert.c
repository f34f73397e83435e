/* Conversions of one file. */
#include "handlers.h"
#include "handlers/encoding.h"
#include "handlers/jobs.h"
#include "handlers/payload.h"

struct convert_in {
    struct id file_id;
    struct encoding made;
};

static const struct field convert_fields[] = {
    F_ID(convert_in, file_id, "fileId", 0),
    ENCODING_FIELDS(convert_in, made),
};
static const struct shape shape_convert = SHAPE(convert_in, convert_fields);

enum err h_audio_convert(struct req *r)
{
    struct scope *sc = req_scope(r);
    struct convert_in in;
    struct audio_file file;
    struct strbuf json;

    TRY(req_body(r, &shape_convert, &in));
    TRY(encoding_check(sc, &in.made));
    TRY(req_transaction(r));
    TRY(audio_find_verified(r, in.file_id, &file));
    TRY(encoding_check_result(sc, &in.made, file.sample_rate, file.channels));
    json = payload_begin(r, &file);
    encoding_write(&json, &in.made);
    strbuf_putc(&json, '}');
    return jobs_accept(r, JOB_AUDIO_CONVERT, json.data);
}
