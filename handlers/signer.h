/* Signing many URLs in one request: what signing needs on its way (some kilobytes a URL) lies in
 * memory of its own. */
#ifndef HANDLERS_SIGNER_H
#define HANDLERS_SIGNER_H

#include "fcgi/req.h"
#include "lib/s3.h"

struct signer {
    struct scope scope;
};

/* Make one in the caller's storage; its memory goes with the request's arena. Nothing here blocks.
 */
void signer_init(struct signer *s, struct req *r);

/* Append the URL as a JSON string. *expires_ms_out may be NULL. */
void signer_put(struct signer *s, struct strbuf *json, const struct s3_presign *what,
                int64_t *expires_ms_out);

#endif
