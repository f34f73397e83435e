/* One XML reader for all replies: it keeps the path of names, and at the end of each element hands
 * its text to the reader of that kind of document. S3's documents are flat, so a reader only
 * compares paths. */
#include "lib/s3_wire.h"

#include <expat.h>
#include <strings.h>

#include "lib/clock.h"

enum { DEPTH_MAX = 8, PATH_MAX_BYTES = 256 };
enum { TEXT_MAX = 8192 };  /* a key has up to 1024 bytes, URL-encoded three times that */
enum { ITEMS_MAX = 1000 }; /* of a page, as S3 has it */
enum { PART_NUMBER_MAX = 10000 };
enum { NAME_MAX_BYTES = 512 }; /* of a file name in Content-Disposition */

struct reader {
    struct arena *arena;
    XML_Parser parser;
    char path[PATH_MAX_BYTES]; /* "/ListPartsResult/Part/ETag" */
    int depth;
    struct strbuf text;
    bool is_broken;
    /* Called at the end of each element; false ends the reading. */
    bool (*element)(struct reader *r, const char *path, const char *text);
    void *result;
};

static void stop(struct reader *r)
{
    r->is_broken = true;
    XML_StopParser(r->parser, XML_FALSE);
}

static void on_doctype(void *context, const char *name, const char *sysid, const char *pubid,
                       int has_internal_subset)
{
    (void)name;
    (void)sysid;
    (void)pubid;
    (void)has_internal_subset;
    stop(context);
}

static void on_start(void *context, const char *name, const char **attributes)
{
    struct reader *r = context;
    size_t path_len = strlen(r->path), name_len = strlen(name);

    (void)attributes;
    if (r->depth == DEPTH_MAX || path_len + name_len + 2 > sizeof(r->path)) {
        stop(r);
        return;
    }
    r->path[path_len] = '/';
    memcpy(r->path + path_len + 1, name, name_len + 1);
    r->depth++;
    r->text.len = 0;
    r->text.data[0] = '\0';
}

static void on_end(void *context, const char *name)
{
    struct reader *r = context;

    (void)name;
    if (!r->element(r, r->path, r->text.data)) {
        stop(r);
        return;
    }
    *strrchr(r->path, '/') = '\0';
    r->depth--;
    r->text.len = 0;
    r->text.data[0] = '\0';
}

static void on_text(void *context, const char *text, int len)
{
    struct reader *r = context;

    if (r->text.len + (size_t)len > TEXT_MAX) {
        stop(r);
        return;
    }
    strbuf_add(&r->text, text, (size_t)len);
}

/* Read a whole document. False: not well-formed, or past the bounds. */
static bool read_xml(struct arena *a, const char *xml, size_t len,
                     bool (*element)(struct reader *r, const char *path, const char *text),
                     void *result)
{
    struct reader r = {.arena = a, .element = element, .result = result};
    bool is_read;

    if (len > INT32_MAX) {
        return false;
    }
    r.parser = XML_ParserCreate("UTF-8");
    if (r.parser == NULL) {
        return false;
    }
    strbuf_init(&r.text, a, 256);
    XML_SetUserData(r.parser, &r);
    XML_SetElementHandler(r.parser, on_start, on_end);
    XML_SetCharacterDataHandler(r.parser, on_text);
    XML_SetStartDoctypeDeclHandler(r.parser, on_doctype);
    is_read = XML_Parse(r.parser, xml, (int)len, 1) == XML_STATUS_OK && !r.is_broken;
    XML_ParserFree(r.parser);
    return is_read;
}

static bool on_error_element(struct reader *r, const char *path, const char *text)
{
    const char **code = r->result;

    if (strcmp(path, "/Error/Code") == 0) {
        *code = arena_strdup(r->arena, text);
    }
    return true;
}

const char *s3_xml_error(struct arena *a, const char *xml, size_t len)
{
    const char *code = NULL;

    /* What was read before a fault counts: an error document may have been cut. */
    (void)read_xml(a, xml, len, on_error_element, &code);
    return code != NULL ? code : "";
}

static bool on_initiated_element(struct reader *r, const char *path, const char *text)
{
    const char **id = r->result;

    if (strcmp(path, "/InitiateMultipartUploadResult/UploadId") == 0) {
        *id = arena_strdup(r->arena, text);
    }
    return true;
}

const char *s3_xml_upload_id(struct arena *a, const char *xml, size_t len)
{
    const char *id = NULL;

    return read_xml(a, xml, len, on_initiated_element, &id) && id != NULL && id[0] != '\0' ? id
                                                                                           : NULL;
}

static bool on_completed_element(struct reader *r, const char *path, const char *text)
{
    bool *is_completed = r->result;

    (void)text;
    *is_completed = *is_completed || strcmp(path, "/CompleteMultipartUploadResult") == 0;
    return true;
}

bool s3_xml_is_completed(struct arena *a, const char *xml, size_t len)
{
    bool is_completed = false;

    return read_xml(a, xml, len, on_completed_element, &is_completed) && is_completed;
}

struct parts {
    struct s3_part *items;
    size_t n;
    struct s3_part next;
    bool is_truncated, is_seen;
    int64_t marker;
};

static bool on_parts_element(struct reader *r, const char *path, const char *text)
{
    struct parts *p = r->result;
    const char *name;
    int64_t number;

    if (!has_prefix(path, "/ListPartsResult")) {
        return false;
    }
    name = path + strlen("/ListPartsResult");
    if (name[0] == '\0') {
        p->is_seen = true;
    } else if (strcmp(name, "/IsTruncated") == 0) {
        p->is_truncated = strcmp(text, "true") == 0;
    } else if (strcmp(name, "/NextPartNumberMarker") == 0) {
        return i64_parse(text, &p->marker) && p->marker >= 0 && p->marker <= PART_NUMBER_MAX;
    } else if (strcmp(name, "/Part/PartNumber") == 0) {
        if (!i64_parse(text, &number) || number < 1 || number > PART_NUMBER_MAX) {
            return false;
        }
        p->next.number = (int)number;
    } else if (strcmp(name, "/Part/ETag") == 0) {
        p->next.etag = arena_strdup(r->arena, text);
    } else if (strcmp(name, "/Part/Size") == 0) {
        return i64_parse(text, &p->next.size) && p->next.size >= 0;
    } else if (strcmp(name, "/Part") == 0) {
        if (p->n == ITEMS_MAX || p->next.number == 0 || p->next.etag == NULL) {
            return false;
        }
        p->items[p->n++] = p->next;
        p->next = (struct s3_part){0};
    }
    return true;
}

bool s3_xml_parts(struct arena *a, const char *xml, size_t len, struct s3_part **parts_out,
                  size_t *n_out, bool *more_out, int *next_out)
{
    struct parts p = {.items = arena_array(a, struct s3_part, ITEMS_MAX)};

    if (!read_xml(a, xml, len, on_parts_element, &p) || !p.is_seen) {
        return false;
    }
    *parts_out = p.items;
    *n_out = p.n;
    /* The last number is a marker as good as S3's, and cannot stand still. */
    *next_out = p.n > 0 ? p.items[p.n - 1].number : 0;
    *more_out = p.is_truncated && p.n > 0;
    return true;
}

struct listing {
    struct s3_listed *items;
    size_t n;
    struct s3_listed next;
    bool is_truncated, is_encoded, is_seen;
};

static bool on_listing_element(struct reader *r, const char *path, const char *text)
{
    struct listing *l = r->result;
    const char *name;

    if (!has_prefix(path, "/ListBucketResult")) {
        return false;
    }
    name = path + strlen("/ListBucketResult");
    if (name[0] == '\0') {
        l->is_seen = true;
    } else if (strcmp(name, "/IsTruncated") == 0) {
        l->is_truncated = strcmp(text, "true") == 0;
    } else if (strcmp(name, "/EncodingType") == 0) {
        l->is_encoded = strcmp(text, "url") == 0;
    } else if (strcmp(name, "/Contents/Key") == 0) {
        l->next.key = arena_strdup(r->arena, text);
    } else if (strcmp(name, "/Contents/Size") == 0) {
        return i64_parse(text, &l->next.size) && l->next.size >= 0;
    } else if (strcmp(name, "/Contents/LastModified") == 0) {
        return clock_parse(text, &l->next.modified_ms);
    } else if (strcmp(name, "/Contents") == 0) {
        if (l->n == ITEMS_MAX || l->next.key == NULL) {
            return false;
        }
        l->items[l->n++] = l->next;
        l->next = (struct s3_listed){0};
    }
    return true;
}

/* EncodingType may stand behind the keys, hence after the reading. A key that is not text (nothing
 * of ours) is left out. */
static void decode_keys(struct arena *a, struct listing *l)
{
    size_t i, kept = 0;

    for (i = 0; i < l->n && l->is_encoded; i++) {
        const char *key = l->items[i].key;

        key = percent_decode(a, key, strlen(key), true);
        if (key != NULL) {
            l->items[kept] = l->items[i];
            l->items[kept++].key = key;
        }
    }
    l->n = l->is_encoded ? kept : l->n;
}

bool s3_xml_list(struct arena *a, const char *xml, size_t len, struct s3_listed **items_out,
                 size_t *n_out, bool *more_out)
{
    struct listing l = {.items = arena_array(a, struct s3_listed, ITEMS_MAX)};

    if (!read_xml(a, xml, len, on_listing_element, &l) || !l.is_seen) {
        return false;
    }
    decode_keys(a, &l);
    *items_out = l.items;
    *n_out = l.n;
    *more_out = l.is_truncated && l.n > 0;
    return true;
}

struct openings {
    struct s3_open *items;
    size_t n;
    struct s3_open next;
    bool is_truncated, is_encoded, is_seen;
};

static bool on_open_element(struct reader *r, const char *path, const char *text)
{
    struct openings *o = r->result;
    const char *name;

    if (!has_prefix(path, "/ListMultipartUploadsResult")) {
        return false;
    }
    name = path + strlen("/ListMultipartUploadsResult");
    if (name[0] == '\0') {
        o->is_seen = true;
    } else if (strcmp(name, "/IsTruncated") == 0) {
        o->is_truncated = strcmp(text, "true") == 0;
    } else if (strcmp(name, "/EncodingType") == 0) {
        o->is_encoded = strcmp(text, "url") == 0;
    } else if (strcmp(name, "/Upload/Key") == 0) {
        o->next.key = arena_strdup(r->arena, text);
    } else if (strcmp(name, "/Upload/UploadId") == 0) {
        o->next.upload_id = arena_strdup(r->arena, text);
    } else if (strcmp(name, "/Upload/Initiated") == 0) {
        return clock_parse(text, &o->next.begun_ms);
    } else if (strcmp(name, "/Upload") == 0) {
        if (o->n == ITEMS_MAX || o->next.key == NULL || o->next.upload_id == NULL) {
            return false;
        }
        o->items[o->n++] = o->next;
        o->next = (struct s3_open){0};
    }
    return true;
}

bool s3_xml_open(struct arena *a, const char *xml, size_t len, struct s3_open **items_out,
                 size_t *n_out, bool *more_out)
{
    struct openings o = {.items = arena_array(a, struct s3_open, ITEMS_MAX)};
    size_t i, kept = 0;

    if (!read_xml(a, xml, len, on_open_element, &o) || !o.is_seen) {
        return false;
    }
    for (i = 0; i < o.n; i++) {
        const char *key = o.items[i].key;

        key = o.is_encoded ? percent_decode(a, key, strlen(key), true) : key;
        if (key != NULL) {
            o.items[kept] = o.items[i];
            o.items[kept++].key = key;
        }
    }
    *items_out = o.items;
    *n_out = kept;
    *more_out = o.is_truncated && kept > 0;
    return true;
}

struct strbuf s3_xml_complete(struct arena *a, const struct s3_part *parts, size_t n)
{
    struct strbuf out;
    size_t i;

    strbuf_init(&out, a, 128 + n * 160);
    strbuf_puts(&out,
                "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (i = 0; i < n; i++) {
        strbuf_puts(&out, "<Part><PartNumber>");
        strbuf_i64(&out, parts[i].number);
        strbuf_puts(&out, "</PartNumber><ETag>");
        strbuf_xml(&out, parts[i].etag);
        strbuf_puts(&out, "</ETag>");
        if (parts[i].crc32c != NULL) {
            strbuf_printf(&out, "<ChecksumCRC32C>%s</ChecksumCRC32C>", parts[i].crc32c);
        }
        strbuf_puts(&out, "</Part>");
    }
    strbuf_puts(&out, "</CompleteMultipartUpload>");
    return out;
}

struct s3_endpoint s3_endpoint_parse(struct arena *a, const char *text)
{
    const char *scheme_end = strstr(text, "://");
    const char *authority = scheme_end != NULL ? scheme_end + 3 : text;
    size_t scheme_len = (size_t)(authority - text), len = strcspn(authority, "/?#");
    size_t host_len = len;

    if (scheme_len == strlen("http://") && len > 3 && memcmp(authority + len - 3, ":80", 3) == 0) {
        host_len = len - 3;
    }
    if (scheme_len == strlen("https://") && len > 4 &&
        memcmp(authority + len - 4, ":443", 4) == 0) {
        host_len = len - 4;
    }
    return (struct s3_endpoint){.base = arena_strndup(a, text, scheme_len + len),
                                .host = arena_strndup(a, authority, host_len)};
}

/* Length to cut the name to: whole characters only. */
static size_t cut_name(const char *name)
{
    size_t len = strlen(name);

    if (len <= NAME_MAX_BYTES) {
        return len;
    }
    len = NAME_MAX_BYTES;
    while (len > 0 && ((unsigned char)name[len] & 0xc0) == 0x80) {
        len--;
    }
    return len;
}

const char *s3_disposition(struct arena *a, const char *name)
{
    char *clean = arena_strndup(a, name, cut_name(name)), *plain, *p;
    bool is_utf8 = utf8_valid(clean, strlen(clean));
    struct strbuf out;

    for (p = clean; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f || *p == '/' || *p == '\\') {
            *p = '_';
        }
    }
    if (clean[0] == '\0') {
        clean = arena_strdup(a, "download");
    }
    /* Quotes and '%' are legal in quoted strings but read differently by different browsers. */
    plain = arena_strdup(a, clean);
    for (p = plain; *p != '\0'; p++) {
        if ((unsigned char)*p >= 0x80 || *p == '"' || *p == '%') {
            *p = '_';
        }
    }
    strbuf_init(&out, a, 64 + strlen(clean) * 4);
    strbuf_puts(&out, "attachment; filename=\"");
    strbuf_puts(&out, plain);
    strbuf_putc(&out, '"');
    if (is_utf8 && strcmp(plain, clean) != 0) {
        strbuf_puts(&out, "; filename*=UTF-8''");
        percent_encode(&out, clean, false);
    }
    return out.data;
}

static bool is_one_of(const char *code, const char *const *list, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        if (strcmp(code, list[i]) == 0) {
            return true;
        }
    }
    return false;
}

struct s3_verdict s3_judge(int status, const char *code)
{
    /* 400s that S3 says when a body stalled or it is itself at fault; 409 while another operation
     * on the key is running */
    static const char *const passing[] = {"RequestTimeout", "InternalError", "SlowDown",
                                          "ServiceUnavailable", "OperationAborted"};
    /* The parts do not make an object: the uploader's doing. */
    static const char *const bad_parts[] = {"InvalidPart", "InvalidPartOrder", "EntityTooSmall",
                                            "EntityTooLarge"};
    struct s3_verdict v = {.err = ERR_DEPENDENCY_UNAVAILABLE};

    if (status == 200 && code[0] != '\0') {
        /* The status was sent before the work was done; S3 says to try again. */
        status = strcmp(code, "NoSuchUpload") == 0 ? 404 : 500;
    }
    if (status >= 200 && status < 300) {
        v.err = OK;
    } else if (status == 404 && strcmp(code, "NoSuchBucket") != 0) {
        v.err = ERR_NOT_FOUND;
        v.is_no_upload = strcmp(code, "NoSuchUpload") == 0;
    } else if (status == 412) {
        v.err = ERR_PRECONDITION_FAILED;
    } else if (is_one_of(code, bad_parts, ARRAY_LEN(bad_parts))) {
        v.err = ERR_CONFLICT;
    } else {
        v.is_passing = status == 408 || status == 429 || status == 500 || status == 502 ||
                       status == 503 || status == 504 ||
                       is_one_of(code, passing, ARRAY_LEN(passing));
    }
    return v;
}

int64_t s3_backoff_ms(int try_number, int64_t first_ms, int64_t max_ms, uint64_t random)
{
    int64_t most = first_ms;
    int i;

    for (i = 1; i < try_number && most < max_ms; i++) {
        most *= 2;
    }
    most = most < max_ms ? most : max_ms;
    return (int64_t)(random % (uint64_t)(most + 1));
}
