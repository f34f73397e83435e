/* What the cache before S3 asks. */
#include "fcgi/req.h"
#include "handlers.h"
#include "lib/s3.h"

enum err h_storage_presigned(struct req *r)
{
    const char *target = req_header(r, "X_S3_TARGET"), *host = req_header(r, "HOST");
    const char *disposition = NULL;

    if (target == NULL || host == NULL ||
        !s3_presigned_is_ours(req_scope(r), host, target, &disposition)) {
        return req_fail(r, ERR_UNAUTHENTICATED, "No such URL was signed, or its time is over.");
    }
    if (disposition != NULL) {
        req_reply_header(r, "X-Content-Disposition", disposition);
    }
    return req_reply_empty(r, 204);
}
