/* UUIDs version 7 and 8, and the place that they carry. */
#include "lib/id.h"

#include <string.h>

#include "lib/clock.h"
#include "lib/crypto.h"
#include "lib/str.h"

enum { TEXT_LEN = ID_TEXT_SIZE - 1 };

static struct place place_of_text(const char *text, size_t len)
{
    uint8_t hash[SHA256_SIZE];

    crypto_sha256(text, len, hash);
    return (struct place){(uint32_t)hash[0] << 24 | (uint32_t)hash[1] << 16 |
                          (uint32_t)hash[2] << 8 | hash[3]};
}

static void set_version(struct id *id, int version)
{
    id->bytes[6] = (uint8_t)((id->bytes[6] & 0x0f) | version << 4);
    id->bytes[8] = (uint8_t)((id->bytes[8] & 0x3f) | 0x80); /* variant 10, RFC 9562 section 4.1 */
}

struct id id_make_user(void)
{
    uint64_t ms = (uint64_t)clock_wall_ms();
    struct id id;
    int i;

    crypto_random(id.bytes, sizeof(id.bytes));
    for (i = 0; i < 6; i++) {
        id.bytes[i] = (uint8_t)(ms >> (40 - 8 * i));
    }
    set_version(&id, 7);
    return id;
}

struct id id_make_owned(struct place place)
{
    uint64_t ms = (uint64_t)clock_wall_ms(); /* 48 bits: 16 + 12 + 20 around version and variant */
    struct id id;

    crypto_random(id.bytes, sizeof(id.bytes));
    id.bytes[0] = (uint8_t)(place.hash >> 24);
    id.bytes[1] = (uint8_t)(place.hash >> 16);
    id.bytes[2] = (uint8_t)(place.hash >> 8);
    id.bytes[3] = (uint8_t)place.hash;
    id.bytes[4] = (uint8_t)(ms >> 40);
    id.bytes[5] = (uint8_t)(ms >> 32);
    id.bytes[6] = (uint8_t)(ms >> 28 & 0x0f);
    id.bytes[7] = (uint8_t)(ms >> 20);
    id.bytes[8] = (uint8_t)(ms >> 14 & 0x3f);
    id.bytes[9] = (uint8_t)(ms >> 6);
    id.bytes[10] = (uint8_t)((ms & 0x3f) << 2 | (id.bytes[10] & 3));
    set_version(&id, 8);
    return id;
}

struct id id_of_stranger(const char *text)
{
    uint8_t hash[SHA256_SIZE];
    struct id id;

    crypto_sha256(text, strlen(text), hash);
    memcpy(id.bytes, hash, sizeof(id.bytes));
    id.bytes[6] = (uint8_t)(0x70 | (id.bytes[6] & 0x0f));
    id.bytes[8] = (uint8_t)(0x80 | (id.bytes[8] & 0x3f));
    return id;
}

struct place id_place(struct id id)
{
    char text[ID_TEXT_SIZE];

    if (!id_is_user(id)) {
        return (struct place){(uint32_t)id.bytes[0] << 24 | (uint32_t)id.bytes[1] << 16 |
                              (uint32_t)id.bytes[2] << 8 | id.bytes[3]};
    }
    id_format(id, text);
    return place_of_text(text, TEXT_LEN);
}

struct place id_place_of_email(const char *email)
{
    char lower[321]; /* longest address: 64 + 1 + 255 */
    size_t i;

    for (i = 0; i < sizeof(lower) - 1 && email[i] != '\0'; i++) {
        lower[i] = (char)(email[i] >= 'A' && email[i] <= 'Z' ? email[i] + 'a' - 'A' : email[i]);
    }
    return place_of_text(lower, i);
}

static bool is_dash_at(size_t i)
{
    return i == 8 || i == 13 || i == 18 || i == 23;
}

bool id_parse(const char *text, size_t len, struct id *out)
{
    size_t i, n = 0;

    if (len != TEXT_LEN) {
        return false;
    }
    for (i = 0; i < TEXT_LEN; i++) {
        int high, low;

        if (is_dash_at(i)) {
            if (text[i] != '-') {
                return false;
            }
            continue;
        }
        high = hex_digit(text[i]);
        low = hex_digit(text[i + 1]);
        if (high < 0 || low < 0 || (text[i] >= 'A' && text[i] <= 'F') ||
            (text[i + 1] >= 'A' && text[i + 1] <= 'F')) {
            return false;
        }
        out->bytes[n++] = (uint8_t)(high << 4 | low);
        i++;
    }
    return (out->bytes[6] >> 4 == 7 || out->bytes[6] >> 4 == 8) && out->bytes[8] >> 6 == 2;
}

void id_format(struct id id, char out[ID_TEXT_SIZE])
{
    static const int groups[] = {4, 2, 2, 2, 6};
    const uint8_t *bytes = id.bytes;
    size_t g;

    for (g = 0; g < ARRAY_LEN(groups); g++) {
        hex_encode(bytes, (size_t)groups[g], out);
        bytes += groups[g];
        out += 2 * groups[g];
        *out++ = g + 1 < ARRAY_LEN(groups) ? '-' : '\0';
    }
}

const char *id_text(struct arena *a, struct id id)
{
    char *text = arena_alloc(a, ID_TEXT_SIZE);

    id_format(id, text);
    return text;
}

bool id_equal(struct id a, struct id b)
{
    return memcmp(a.bytes, b.bytes, sizeof(a.bytes)) == 0;
}

bool id_is_nil(struct id id)
{
    return id_equal(id, (struct id){{0}});
}

bool id_is_user(struct id id)
{
    return id.bytes[6] >> 4 == 7;
}
