/* A thin door to libsodium. */
#include "lib/crypto.h"

#include <sodium.h>

#include "lib/config.h"
#include "lib/str.h"

_Static_assert(sizeof(crypto_hash_sha256_state) <= sizeof(struct crypto_sha256_stream),
               "the stream's storage holds libsodium's state");
_Static_assert(crypto_pwhash_argon2id_STRBYTES <= PASSWORD_HASH_SIZE, "room for a password hash");

void crypto_open(void)
{
    if (sodium_init() < 0) {
        fprintf(stderr, "crypto: libsodium does not start: no random source\n");
        abort();
    }
}

void crypto_random(void *out, size_t len)
{
    randombytes_buf(out, len);
}

void crypto_sha256(const void *data, size_t len, uint8_t out[SHA256_SIZE])
{
    crypto_hash_sha256(out, data, len);
}

void crypto_sha256_hex(const void *data, size_t len, char out[SHA256_HEX_SIZE])
{
    uint8_t hash[SHA256_SIZE];

    crypto_sha256(data, len, hash);
    hex_encode(hash, sizeof(hash), out);
}

void crypto_hmac_sha256(const void *key, size_t key_len, const void *data, size_t len,
                        uint8_t out[SHA256_SIZE])
{
    crypto_auth_hmacsha256_state state;

    crypto_auth_hmacsha256_init(&state, key, key_len);
    crypto_auth_hmacsha256_update(&state, data, len);
    crypto_auth_hmacsha256_final(&state, out);
}

void crypto_sha256_begin(struct crypto_sha256_stream *s)
{
    crypto_hash_sha256_init((crypto_hash_sha256_state *)s->state);
}

void crypto_sha256_add(struct crypto_sha256_stream *s, const void *data, size_t len)
{
    crypto_hash_sha256_update((crypto_hash_sha256_state *)s->state, data, len);
}

void crypto_sha256_end(struct crypto_sha256_stream *s, uint8_t out[SHA256_SIZE])
{
    crypto_hash_sha256_final((crypto_hash_sha256_state *)s->state, out);
}

bool crypto_password_hash(const char *password, char out[PASSWORD_HASH_SIZE])
{
    return crypto_pwhash_argon2id_str(out, password, strlen(password),
                                      (unsigned long long)config()->password_hash_passes,
                                      (size_t)config()->password_hash_memory_kib * 1024) == 0;
}

bool crypto_password_fits(const char *hash, const char *password)
{
    return crypto_pwhash_argon2id_str_verify(hash, password, strlen(password)) == 0;
}
