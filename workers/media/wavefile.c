/* Written piece by piece, so that a long file costs no second copy. */
#include "workers/media/wavefile.h"

#include <endian.h>

enum { PIECE = 65536, NUMBER_MAX = 7 /* ",-32768" */ };

struct piece {
    wavefile_write *write;
    void *context;
    size_t len;
    char data[PIECE];
};

static void flush(struct piece *p)
{
    if (p->len > 0) {
        p->write(p->context, p->data, p->len);
        p->len = 0;
    }
}

static char *reserve(struct piece *p, size_t len)
{
    if (p->len + len > PIECE) {
        flush(p);
    }
    return p->data + p->len;
}

static void put_u32(struct piece *p, uint32_t value)
{
    uint32_t le = htole32(value);

    memcpy(reserve(p, sizeof(le)), &le, sizeof(le));
    p->len += sizeof(le);
}

static size_t values(const struct wavefile *w)
{
    return w->zoom->length * w->zoom->n_channels * 2;
}

void wavefile_dat_head(const struct wavefile *w, uint32_t runs, wavefile_write *write,
                       void *context)
{
    struct piece p = {.write = write, .context = context};

    put_u32(&p, (uint32_t)w->version);
    put_u32(&p, w->bits == 8 ? 1 : 0);
    put_u32(&p, (uint32_t)w->sample_rate);
    put_u32(&p, (uint32_t)w->zoom->samples_per_pixel);
    put_u32(&p, runs);
    if (w->version == 2) {
        put_u32(&p, (uint32_t)w->zoom->n_channels);
    }
    flush(&p);
}

void wavefile_dat_data(const struct wavefile *w, wavefile_write *write, void *context)
{
    struct piece p = {.write = write, .context = context};
    size_t i, n = values(w);

    for (i = 0; i < n; i++) {
        int16_t value = w->zoom->data[i];

        if (w->bits == 8) {
            *reserve(&p, 1) = (char)(int8_t)(value / 256);
            p.len++;
        } else {
            uint16_t le = htole16((uint16_t)value);

            memcpy(reserve(&p, sizeof(le)), &le, sizeof(le));
            p.len += sizeof(le);
        }
    }
    flush(&p);
}

void wavefile_dat(const struct wavefile *w, wavefile_write *write, void *context)
{
    wavefile_dat_head(w, (uint32_t)w->zoom->length, write, context);
    wavefile_dat_data(w, write, context);
}

/* printf() would be most of the time that a waveform takes. */
static void put_number(struct piece *p, int value, char before)
{
    char digits[NUMBER_MAX], *to = reserve(p, NUMBER_MAX + 1);
    unsigned left = value < 0 ? (unsigned)-value : (unsigned)value;
    size_t n = 0, at = 0;

    do {
        digits[n++] = (char)('0' + left % 10);
        left /= 10;
    } while (left > 0);
    if (before != '\0') {
        to[at++] = before;
    }
    if (value < 0) {
        to[at++] = '-';
    }
    while (n > 0) {
        to[at++] = digits[--n];
    }
    p->len += at;
}

void wavefile_json_head(const struct wavefile *w, uint32_t runs, wavefile_write *write,
                        void *context)
{
    char head[192];
    int len = snprintf(head, sizeof(head),
                       "{\"version\":2,\"channels\":%zu,\"sample_rate\":%lld,"
                       "\"samples_per_pixel\":%lld,\"bits\":%d,\"length\":%u,\"data\":[",
                       w->zoom->n_channels, (long long)w->sample_rate,
                       (long long)w->zoom->samples_per_pixel, w->bits, runs);

    write(context, head, (size_t)len);
}

void wavefile_json_data(const struct wavefile *w, bool is_first, wavefile_write *write,
                        void *context)
{
    struct piece p = {.write = write, .context = context};
    size_t i, n = values(w);
    int divisor = w->bits == 8 ? 256 : 1;

    for (i = 0; i < n; i++) {
        put_number(&p, w->zoom->data[i] / divisor, i == 0 && is_first ? '\0' : ',');
    }
    flush(&p);
}

void wavefile_json_tail(wavefile_write *write, void *context)
{
    write(context, "]}\n", 3);
}

void wavefile_json(const struct wavefile *w, wavefile_write *write, void *context)
{
    wavefile_json_head(w, (uint32_t)w->zoom->length, write, context);
    wavefile_json_data(w, true, write, context);
    wavefile_json_tail(write, context);
}
