/* S3: presigned URLs for clients, and our own requests with pooled connections. Knows http.h and
 * sigv4.h.
 *
 * The bucket, region, keys and both endpoints come from config. Keys are generated from ids
 * only; they are never a client's text. Presigning is pure computation; all other calls block up
 * to s3_timeout_ms per try, retry passing failures (connection errors, 429, 5xx) with
 * exponential back-off and full jitter, and never go past the scope's deadline. Errors:
 * ERR_NOT_FOUND (no such key or upload), ERR_DEPENDENCY_UNAVAILABLE, ERR_PRECONDITION_FAILED
 * (If-Match). */
#ifndef LIB_S3_H
#define LIB_S3_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/scope.h"

/* What a presigned URL allows, beyond method and key. */
struct s3_presign {
    const char *method; /* "GET", "PUT" */
    const char *key;
    const char *content_type; /* signed header where not NULL */
    int64_t content_length;   /* signed header where >= 0 */
    const char *upload_id;    /* of a part, with part_number */
    int part_number;
    const char *download_name; /* GET: response-content-disposition, attachment of this name */
    int64_t ttl_s;
};

/* A URL at s3_public_endpoint, in the arena. *expires_ms_out (may be NULL): wall clock. */
const char *s3_presign_url(struct scope *sc, const struct s3_presign *what,
                           int64_t *expires_ms_out);

/* Is target (path and query as they came in, for that Host) a URL of s3_presign_url() for GET that
 * is not over? Of any other it says no, also where S3 would take it. *disposition_out: the value of
 * its response-content-disposition, in the arena, or NULL. Computation only. */
bool s3_presigned_is_ours(struct scope *sc, const char *host, const char *target,
                          const char **disposition_out);

struct s3_object {
    int64_t size;
    const char *content_type;
    const char *etag; /* with its quotes */
    int64_t modified_ms;
};

/* Size, type and ETag of an object. */
MUST_USE enum err s3_head(struct scope *sc, const char *key, struct s3_object *object_out);

/* Bytes [offset, offset + len) into buffer; fewer at the end of the object: *got_out. if_match
 * (may be NULL) is an ETag. */
MUST_USE enum err s3_get_range(struct scope *sc, const char *key, const char *if_match,
                               int64_t offset, size_t len, void *buffer, size_t *got_out);

/* Store a small object whole; *etag_out may be NULL. */
MUST_USE enum err s3_put(struct scope *sc, const char *key, const char *content_type,
                         const void *data, size_t len, const char **etag_out);

/* Delete; deleting what is not there is OK. */
MUST_USE enum err s3_delete(struct scope *sc, const char *key);

/* Who sends the parts of an upload. */
enum s3_parts_by {
    S3_PARTS_BY_CLIENT, /* to presigned URLs */
    S3_PARTS_BY_US      /* s3_multipart_put(); S3 asks for a CRC-32C of each part */
};

/* Begin a multipart upload. */
MUST_USE enum err s3_multipart_begin(struct scope *sc, const char *key, const char *content_type,
                                     enum s3_parts_by parts_by, const char **upload_id_out);

struct s3_part {
    int number;
    const char *etag;
    int64_t size;
    const char *crc32c; /* in base64; NULL: none */
};

/* Store part number 1 … 10000 (at least 5 MiB but the last). Its body is held to its CRC-32C, which
 * is signed, and hashed no further. */
MUST_USE enum err s3_multipart_put(struct scope *sc, const char *key, const char *upload_id,
                                   int number, const void *data, size_t len,
                                   struct s3_part *part_out);

/* All parts that S3 holds, by number. */
MUST_USE enum err s3_multipart_list(struct scope *sc, const char *key, const char *upload_id,
                                    struct s3_part **parts_out, size_t *n_out);

/* Make the object of the parts, each with what s3_multipart_put() said of it. A 200 whose body is
 * an error is an error. */
MUST_USE enum err s3_multipart_complete(struct scope *sc, const char *key, const char *upload_id,
                                        const struct s3_part *parts, size_t n);

/* Drop the upload and its parts; OK where it is gone already. */
MUST_USE enum err s3_multipart_abort(struct scope *sc, const char *key, const char *upload_id);

/* A multipart upload that is neither completed nor aborted. */
struct s3_open {
    const char *key, *upload_id;
    int64_t begun_ms;
};

/* Up to 1000 open uploads, in order of key, behind after (NULL: from the start). */
MUST_USE enum err s3_multipart_open(struct scope *sc, const struct s3_open *after,
                                    struct s3_open **items_out, size_t *n_out, bool *more_out);

struct s3_listed {
    const char *key;
    int64_t size;
    int64_t modified_ms;
};

/* Up to 1000 keys under prefix behind start_after ("" from the start), in order (ListObjectsV2). */
MUST_USE enum err s3_list(struct scope *sc, const char *prefix, const char *start_after,
                          struct s3_listed **items_out, size_t *n_out, bool *more_out);

/* Is S3 there and the bucket ours? One HEAD of the bucket, one try, within limit_ms. */
MUST_USE enum err s3_ping(struct scope *sc, int64_t limit_ms, int64_t *latency_ms_out);

#endif
