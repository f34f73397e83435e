/* The file grows as ftyp, free (the room), free, mdat: at any time each box but mdat is whole. The
 * second free box has the 8 bytes that mdat's head needs more where its size takes 64 bits. */
#include "workers/media/m4a.h"

#include <stdbool.h>

#include <libavutil/common.h>
#include <libavutil/intreadwrite.h>

#include "lib/media_proto.h"

enum {
    FRAME = 1024,              /* samples of an AAC packet */
    FIXED_BYTES = 8192,        /* boxes of an index that do not grow, generously */
    HEAD = 8,                  /* of a box: size and type */
    TABLE_HEAD = 16,           /* the same, version and flags, number of entries */
    BLOCK = 1 << 16,           /* packets */
    BLOCKS_MAX = 2048,         /* 16 days at 96 kHz; the longest audio of a job is 10 days */
    CHUNK_BYTES = 1 << 20,     /* a chunk has less */
    OUTLINE_SAMPLES = 1 << 30, /* of a packet: the muxer has an int for them */
    SBGP_COUNT_AT = 20,        /* packets in its only group */
    STSD_ESDS_AT = 52,         /* behind the heads of stsd and mp4a */
    ESDS_CONFIG_AT = 20,       /* decoder's configuration */
    ESDS_RATES_AT = 30         /* largest and average bit rate */
};

enum box_type {
    CO64 = MKBETAG('c', 'o', '6', '4'),
    ESDS = MKBETAG('e', 's', 'd', 's'),
    FREE = MKBETAG('f', 'r', 'e', 'e'),
    MDAT = MKBETAG('m', 'd', 'a', 't'),
    MDIA = MKBETAG('m', 'd', 'i', 'a'),
    MINF = MKBETAG('m', 'i', 'n', 'f'),
    MOOV = MKBETAG('m', 'o', 'o', 'v'),
    SBGP = MKBETAG('s', 'b', 'g', 'p'),
    STBL = MKBETAG('s', 't', 'b', 'l'),
    STCO = MKBETAG('s', 't', 'c', 'o'),
    STSC = MKBETAG('s', 't', 's', 'c'),
    STSD = MKBETAG('s', 't', 's', 'd'),
    STSZ = MKBETAG('s', 't', 's', 'z'),
    STTS = MKBETAG('s', 't', 't', 's'),
    TRAK = MKBETAG('t', 'r', 'a', 'k')
};

struct m4a {
    AVFormatContext *muxer;
    AVIOContext *io;
    int64_t room_at, room;       /* in the file */
    int64_t data_at;             /* the free box and mdat's head */
    int64_t start, latest, end;  /* time stamps of the first and last packet, and the last's end */
    int64_t step;                /* from packet to packet */
    int64_t bytes;               /* of all packets */
    uint32_t packets;            /* how many */
    uint16_t *sizes[BLOCKS_MAX]; /* theirs, BLOCK in each */
    /* known in the end */
    uint32_t chunks, runs; /* runs of chunks with the same number of packets */
    bool is_even;          /* packets have one size */
    bool is_wide;          /* the last chunk begins beyond 4 GiB */
    int64_t grown;         /* bytes that the index has more than the muxer's */
};

int64_t m4a_room(int64_t samples, int64_t text_bytes)
{
    int64_t packets = samples / FRAME + 64;
    /* A size is 4 bytes, a chunk's place and count at most 20; a packet has under 8 KiB. */
    int64_t bytes = FIXED_BYTES + text_bytes + packets * 4 + (packets / 100 + 2) * 16;

    return bytes + FIXED_BYTES < MEDIA_REWRITABLE ? bytes : 0;
}

static void put_head(AVIOContext *io, int64_t size, uint32_t type)
{
    avio_wb32(io, (unsigned)size);
    avio_wb32(io, type);
}

/* ---- audio ---- */

static void put_room(AVIOContext *io, int64_t size)
{
    static const uint8_t zeros[4096];
    int64_t left = size - HEAD;
    int n;

    put_head(io, size, FREE);
    for (; left > 0; left -= n) {
        n = left < (int64_t)sizeof(zeros) ? (int)left : (int)sizeof(zeros);
        avio_write(io, zeros, n);
    }
}

int m4a_open(AVFormatContext *muxer, AVDictionary **options, AVIOContext *io, int64_t room,
             struct m4a **m4a_out)
{
    struct m4a *m = av_mallocz(sizeof(*m));
    uint8_t *head;
    int len, ftyp, rc;

    *m4a_out = m;
    if (m == NULL || avio_open_dyn_buf(&muxer->pb) < 0) {
        return AVERROR(ENOMEM);
    }
    m->muxer = muxer;
    m->io = io;
    m->room = room;
    rc = avformat_write_header(muxer, options);
    if (rc < 0) {
        return rc;
    }
    len = avio_get_dyn_buf(muxer->pb, &head);
    ftyp = len < HEAD ? 0 : (int)AV_RB32(head);
    if (len != ftyp + 2 * HEAD) {
        return AVERROR_BUG;
    }
    avio_write(io, head, ftyp);
    m->room_at = avio_tell(io);
    if (room > 0) {
        put_room(io, room);
    }
    m->data_at = avio_tell(io);
    avio_write(io, head + ftyp, 2 * HEAD);
    return 0;
}

/* Whether a packet comes at the time that those before it promise, and fits our tables. */
static bool is_regular(const struct m4a *m, const AVPacket *packet)
{
    int64_t step = av_sat_sub64(packet->pts, m->latest);

    return packet->size > 0 && packet->size <= UINT16_MAX && packet->duration >= 0 &&
           packet->duration <= INT32_MAX && m->packets < (uint32_t)BLOCK * BLOCKS_MAX &&
           (m->packets == 0   ? packet->pts >= -INT32_MAX && packet->pts <= INT32_MAX
            : m->packets == 1 ? step > 0 && step <= INT32_MAX
                              : step == m->step);
}

int m4a_packet(struct m4a *m, const AVPacket *packet)
{
    uint16_t **block = &m->sizes[m->packets / BLOCK];

    if (!is_regular(m, packet)) {
        return AVERROR_BUG;
    }
    if (*block == NULL && (*block = av_malloc(BLOCK * sizeof(**block))) == NULL) {
        return AVERROR(ENOMEM);
    }
    (*block)[m->packets % BLOCK] = (uint16_t)packet->size;
    m->start = m->packets == 0 ? packet->pts : m->start;
    m->step = packet->pts - m->latest;
    m->latest = packet->pts;
    m->end = packet->pts + packet->duration;
    m->bytes += packet->size;
    m->packets++;
    avio_write(m->io, packet->data, packet->size);
    return 0;
}

/* ---- tables ---- */

struct chunk {
    uint32_t first, packets;
    int64_t at, bytes; /* in the file */
};

static uint16_t size_of(const struct m4a *m, uint32_t packet)
{
    return m->sizes[packet / BLOCK][packet % BLOCK];
}

static struct chunk before_chunks(const struct m4a *m)
{
    return (struct chunk){.at = m->data_at + 2 * HEAD};
}

/* Go on to the next chunk. False: none is left. */
static bool next_chunk(const struct m4a *m, struct chunk *c)
{
    *c = (struct chunk){.first = c->first + c->packets, .at = c->at + c->bytes};
    while (c->first + c->packets < m->packets) {
        uint16_t size = size_of(m, c->first + c->packets);

        if (c->bytes + size >= CHUNK_BYTES) {
            break;
        }
        c->bytes += size;
        c->packets++;
    }
    return c->packets > 0;
}

static void count_chunks(struct m4a *m)
{
    struct chunk c = before_chunks(m);
    uint32_t n = 0, i;

    while (next_chunk(m, &c)) {
        m->chunks++;
        m->runs += c.packets != n;
        n = c.packets;
        m->is_wide = c.at > UINT32_MAX;
    }
    m->is_even = true;
    for (i = 1; m->is_even && i < m->packets; i++) {
        m->is_even = size_of(m, i) == size_of(m, 0);
    }
}

static bool has_other_end(const struct m4a *m)
{
    return m->packets > 1 && m->end - m->latest != m->step;
}

/* Of a table that is made here; 0: of any other box. */
static int64_t table_bytes(const struct m4a *m, uint32_t type)
{
    switch (type) {
    case STTS:
        return TABLE_HEAD + (has_other_end(m) ? 2 : 1) * 8;
    case STSC:
        return TABLE_HEAD + (int64_t)m->runs * 12;
    case STSZ:
        return TABLE_HEAD + 4 + (m->is_even ? 0 : (int64_t)m->packets * 4);
    case STCO:
        return TABLE_HEAD + (int64_t)m->chunks * (m->is_wide ? 8 : 4);
    default:
        return 0;
    }
}

static void put_lengths(const struct m4a *m)
{
    bool two = has_other_end(m);

    avio_wb32(m->io, two ? 2 : 1);
    if (two) {
        avio_wb32(m->io, m->packets - 1);
        avio_wb32(m->io, (unsigned)m->step);
    }
    avio_wb32(m->io, two ? 1 : m->packets);
    avio_wb32(m->io, (unsigned)(m->end - m->latest));
}

static void put_counts(const struct m4a *m)
{
    struct chunk c = before_chunks(m);
    uint32_t n = 0, i;

    avio_wb32(m->io, m->runs);
    for (i = 1; next_chunk(m, &c); i++) {
        if (c.packets != n) {
            avio_wb32(m->io, i);
            avio_wb32(m->io, c.packets);
            avio_wb32(m->io, 1); /* of the only description */
        }
        n = c.packets;
    }
}

static void put_sizes(const struct m4a *m)
{
    uint32_t i;

    avio_wb32(m->io, m->is_even ? size_of(m, 0) : 0);
    avio_wb32(m->io, m->packets);
    for (i = 0; !m->is_even && i < m->packets; i++) {
        avio_wb32(m->io, size_of(m, i));
    }
}

static void put_places(const struct m4a *m)
{
    struct chunk c = before_chunks(m);

    avio_wb32(m->io, m->chunks);
    while (next_chunk(m, &c)) {
        if (m->is_wide) {
            avio_wb64(m->io, (uint64_t)c.at);
        } else {
            avio_wb32(m->io, (unsigned)c.at);
        }
    }
}

static void put_table(const struct m4a *m, uint32_t type)
{
    put_head(m->io, table_bytes(m, type), type == STCO && m->is_wide ? CO64 : type);
    avio_wb32(m->io, 0); /* version and flags */
    switch (type) {
    case STTS:
        put_lengths(m);
        break;
    case STSC:
        put_counts(m);
        break;
    case STSZ:
        put_sizes(m);
        break;
    default:
        put_places(m);
        break;
    }
}

/* ---- boxes of the muxer's ---- */

struct box {
    uint8_t *data; /* with its head */
    size_t size;
    uint32_t type;
};

/* Take a box from the front of the bytes. False: there is none. */
static bool next_box(uint8_t **data, size_t *len, struct box *b)
{
    b->data = *data;
    b->size = *len < HEAD ? 0 : AV_RB32(*data);
    if (b->size < HEAD || b->size > *len) {
        return false;
    }
    b->type = AV_RB32(*data + 4);
    *data += b->size;
    *len -= b->size;
    return true;
}

static bool holds_tables(uint32_t type)
{
    return type == MOOV || type == TRAK || type == MDIA || type == MINF || type == STBL;
}

/* In esds (ISO/IEC 14496-1, 7.2.6.5 and 7.2.6.6) the muxer has told the average of its few bytes.
 * The largest rate is what was asked for, unless the average is larger. */
static bool set_bit_rates(const struct m4a *m, const struct box *stsd)
{
    const AVStream *s = m->muxer->streams[0];
    uint8_t *esds = stsd->data + STSD_ESDS_AT;
    int64_t asked = s->codecpar->bit_rate, length = m->end - m->start;
    int64_t average = length > 0 ? m->bytes * 8 * s->time_base.den / length : 0;

    average = average > 0 ? average : asked;
    if (stsd->size < STSD_ESDS_AT + ESDS_RATES_AT + 8 || AV_RB32(esds + 4) != ESDS ||
        esds[ESDS_CONFIG_AT] != 4) {
        return false;
    }
    AV_WB32(esds + ESDS_RATES_AT, (uint32_t)(asked > average ? asked : average));
    AV_WB32(esds + ESDS_RATES_AT + 4, (uint32_t)average);
    return true;
}

/* Learn how much the index grows, and set the numbers that need no room. False: the muxer's boxes
 * are not as we know them. */
static bool prepare(struct m4a *m, const struct box *outer)
{
    uint8_t *data = outer->data + HEAD;
    size_t left = outer->size - HEAD;
    struct box b;
    bool good = true;

    while (good && next_box(&data, &left, &b)) {
        if (holds_tables(b.type)) {
            good = prepare(m, &b);
        } else if (table_bytes(m, b.type) > 0) {
            m->grown += table_bytes(m, b.type) - (int64_t)b.size;
        } else if (b.type == STSD) {
            good = set_bit_rates(m, &b);
        } else if (b.type == SBGP && b.size >= SBGP_COUNT_AT + 4) {
            AV_WB32(b.data + SBGP_COUNT_AT, m->packets);
        }
    }
    return good && left == 0;
}

static void put_box(const struct m4a *m, const struct box *box)
{
    uint8_t *data = box->data + HEAD;
    size_t left = box->size - HEAD;
    struct box b;

    if (table_bytes(m, box->type) > 0) {
        put_table(m, box->type);
    } else if (!holds_tables(box->type)) {
        avio_write(m->io, box->data, (int)box->size);
    } else {
        put_head(m->io, (int64_t)box->size + m->grown, box->type);
        while (next_box(&data, &left, &b)) {
            put_box(m, &b);
        }
    }
}

/* ---- the end ---- */

/* Give the muxer packets of one byte, which together last as long as those that were written. */
static int mux_outline(struct m4a *m)
{
    AVPacket *packet = av_packet_alloc();
    int rc = packet == NULL ? AVERROR(ENOMEM) : av_new_packet(packet, 1);
    int64_t at = m->start;

    if (rc >= 0) {
        packet->data[0] = 0;
    }
    while (rc >= 0 && m->packets > 0 && (at == m->start || at < m->end)) {
        packet->pts = packet->dts = at;
        packet->duration = m->end - at < OUTLINE_SAMPLES ? m->end - at : OUTLINE_SAMPLES;
        rc = av_write_frame(m->muxer, packet);
        at += packet->duration > 0 ? packet->duration : 1;
    }
    av_packet_free(&packet);
    return rc < 0 ? rc : av_write_trailer(m->muxer);
}

static void put_data_size(struct m4a *m)
{
    if (m->bytes + HEAD <= UINT32_MAX) {
        (void)avio_seek(m->io, m->data_at + HEAD, SEEK_SET);
        put_head(m->io, m->bytes + HEAD, MDAT);
        return;
    }
    (void)avio_seek(m->io, m->data_at, SEEK_SET);
    put_head(m->io, 1, MDAT);
    avio_wb64(m->io, (uint64_t)m->bytes + 2 * HEAD);
}

static int put_index(struct m4a *m, const struct box *moov)
{
    int64_t size, end = avio_tell(m->io);
    bool fits;

    count_chunks(m);
    if (!prepare(m, moov)) {
        return AVERROR_BUG;
    }
    size = (int64_t)moov->size + m->grown;
    fits = m->room == size || m->room >= size + HEAD;
    put_data_size(m);
    (void)avio_seek(m->io, fits ? m->room_at : end, SEEK_SET);
    put_box(m, moov);
    if (fits && m->room > size) {
        put_head(m->io, m->room - size, FREE);
    }
    if (fits) {
        (void)avio_seek(m->io, end, SEEK_SET);
    }
    return 0;
}

int m4a_end(struct m4a *m)
{
    int rc = mux_outline(m), len;
    struct box b = {.type = 0};
    uint8_t *data;
    size_t left;

    if (rc < 0) {
        return rc;
    }
    len = avio_get_dyn_buf(m->muxer->pb, &data);
    if (m->muxer->pb->error < 0) {
        return AVERROR(ENOMEM);
    }
    for (left = (size_t)len; next_box(&data, &left, &b);) {
        if (b.type == MOOV) {
            return put_index(m, &b);
        }
    }
    return AVERROR_BUG;
}

void m4a_close(struct m4a **m4a)
{
    struct m4a *m = *m4a;
    uint8_t *file;
    size_t i;

    *m4a = NULL;
    if (m == NULL) {
        return;
    }
    if (m->muxer != NULL) {
        (void)avio_close_dyn_buf(m->muxer->pb, &file);
        m->muxer->pb = NULL;
        av_free(file);
    }
    for (i = 0; i < BLOCKS_MAX; i++) {
        av_free(m->sizes[i]);
    }
    av_free(m);
}
