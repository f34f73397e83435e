/* Hashes, random bytes and password hashes. The only module that knows libsodium and
 * libcrypto. */
#ifndef LIB_CRYPTO_H
#define LIB_CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/scope.h"

enum { SHA256_SIZE = 32, SHA256_HEX_SIZE = 65, PASSWORD_HASH_SIZE = 128 };

/* Start libsodium; once, before threads. Aborts where the system has no random source. */
void crypto_open(void);

/* Fill with unpredictable bytes. Never fails, does not block once the system runs. */
void crypto_random(void *out, size_t len);

/* SHA-256 (FIPS 180-4). */
void crypto_sha256(const void *data, size_t len, uint8_t out[SHA256_SIZE]);

/* The same in lower-case hexadecimal with a NUL. */
void crypto_sha256_hex(const void *data, size_t len, char out[SHA256_HEX_SIZE]);

/* HMAC-SHA-256 (RFC 2104) with a key of any length. */
void crypto_hmac_sha256(const void *key, size_t key_len, const void *data, size_t len,
                        uint8_t out[SHA256_SIZE]);

/* SHA-256 over pieces, in the caller's storage. */
struct crypto_sha256_stream {
    _Alignas(16) uint8_t state[128];
};

/* Start a stream. */
void crypto_sha256_begin(struct crypto_sha256_stream *s);

/* Add a piece. */
void crypto_sha256_add(struct crypto_sha256_stream *s, const void *data, size_t len);

/* Finish; the stream is used up. */
void crypto_sha256_end(struct crypto_sha256_stream *s, uint8_t out[SHA256_SIZE]);

/* argon2id (RFC 9106) with the configured memory and passes into its text form. Takes tens of
 * milliseconds and that memory: only password.c's threads call it. False: no memory. */
bool crypto_password_hash(const char *password, char out[PASSWORD_HASH_SIZE]);

/* Does the password fit the text form? Takes as long as hashing. */
bool crypto_password_fits(const char *hash, const char *password);

#endif
