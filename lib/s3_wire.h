/* What S3 says and wants to hear, as pure computation: endpoints, XML, errors, back-off. For s3.c
 * only.
 *
 * XML is read by expat without a document type (hence without entities), to a bounded depth and
 * text length. Results live in the arena that is passed. Nothing here blocks. */
#ifndef LIB_S3_WIRE_H
#define LIB_S3_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/s3.h"
#include "lib/str.h"

/* An endpoint taken apart. */
struct s3_endpoint {
    const char *base; /* "https://host:port", no slash behind */
    const char *host; /* what Host carries: no port where it is the scheme's own */
};

/* Take "http://host[:port][/]" apart. What is behind the authority is dropped; a text of another
 * form gives a base that no request gets through to. */
struct s3_endpoint s3_endpoint_parse(struct arena *a, const char *text);

/* Value of Content-Disposition that saves a download under this name, whatever it holds: RFC 6266
 * with an ASCII form, and RFC 8187 where that is not the whole name. */
const char *s3_disposition(struct arena *a, const char *name);

/* What a status and S3's error code (may be "") mean. */
struct s3_verdict {
    enum err err;      /* OK for 2xx */
    bool is_passing;   /* may work when tried again */
    bool is_no_upload; /* NoSuchUpload */
};

/* Judge a reply. A missing bucket is no NOT_FOUND: it is our set-up. */
struct s3_verdict s3_judge(int status, const char *code);

/* Code of an error document ("NoSuchKey"); "" where it is not one. */
const char *s3_xml_error(struct arena *a, const char *xml, size_t len);

/* Upload id of InitiateMultipartUploadResult; NULL: not one. */
const char *s3_xml_upload_id(struct arena *a, const char *xml, size_t len);

/* Is it a CompleteMultipartUploadResult? */
bool s3_xml_is_completed(struct arena *a, const char *xml, size_t len);

/* One page of ListPartsResult. False: not one. next_out is the marker of the next page. */
bool s3_xml_parts(struct arena *a, const char *xml, size_t len, struct s3_part **parts_out,
                  size_t *n_out, bool *more_out, int *next_out);

/* One page of ListBucketResult with URL-encoded keys. False: not one, or more than 1000 keys. */
bool s3_xml_list(struct arena *a, const char *xml, size_t len, struct s3_listed **items_out,
                 size_t *n_out, bool *more_out);

/* One page of ListMultipartUploadsResult with URL-encoded keys. False: not one, or more than
 * 1000. */
bool s3_xml_open(struct arena *a, const char *xml, size_t len, struct s3_open **items_out,
                 size_t *n_out, bool *more_out);

/* The body of CompleteMultipartUpload. */
struct strbuf s3_xml_complete(struct arena *a, const struct s3_part *parts, size_t n);

/* Time to wait before try number 1, 2 and so on: at random (random is 64 random bits) in 0 to
 * min(max_ms, first_ms * 2^(try - 1)): full jitter, so that clients that failed together do not
 * come back together. */
int64_t s3_backoff_ms(int try_number, int64_t first_ms, int64_t max_ms, uint64_t random);

#endif
