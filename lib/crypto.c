/* A thin door to libsodium, and to libcrypto for SHA-256: files are hashed by the gigabyte, and
 * libcrypto uses the processor's own instructions for it. Its functions below are the ones that
 * need no heap; they are called deprecated since they cannot be replaced by other hardware. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "lib/crypto.h"

#include <openssl/sha.h>
#include <sodium.h>

#include "lib/config.h"
#include "lib/str.h"

_Static_assert(sizeof(SHA256_CTX) <= sizeof(struct crypto_sha256_stream),
               "the stream's storage holds libcrypto's state");
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
    struct crypto_sha256_stream s;

    crypto_sha256_begin(&s);
    crypto_sha256_add(&s, data, len);
    crypto_sha256_end(&s, out);
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
    (void)SHA256_Init((SHA256_CTX *)s->state);
}

void crypto_sha256_add(struct crypto_sha256_stream *s, const void *data, size_t len)
{
    (void)SHA256_Update((SHA256_CTX *)s->state, data, len);
}

void crypto_sha256_end(struct crypto_sha256_stream *s, uint8_t out[SHA256_SIZE])
{
    (void)SHA256_Final(out, (SHA256_CTX *)s->state);
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
