/* The API's own description, as built from docs/openapi. */
#include "openapi.h"
#include "fcgi/req.h"
#include "handlers.h"

enum err h_openapi_get(struct req *r)
{
    struct strbuf json = req_json(r);

    strbuf_add(&json, openapi_json, openapi_json_len);
    return req_reply_json(r, 200, &json);
}
