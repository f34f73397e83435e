/* Hashes against published vectors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/str.h"

static int group_setup(void **state)
{
    (void)state;
    /* argon2id as cheap as it gets: what is tested is our door, not the hash */
    setenv("PASSWORD_HASH_MEMORY_KIB", "64", 1);
    setenv("PASSWORD_HASH_PASSES", "1", 1);
    crypto_open();
    crypto_open(); /* twice does no harm */
    return config_load(stderr) ? 0 : -1;
}

static void assert_sha256(const char *text, const char *hex)
{
    char out[SHA256_HEX_SIZE];

    crypto_sha256_hex(text, strlen(text), out);
    assert_string_equal(out, hex);
}

static void test_sha_256_has_the_vectors_of_fips_180_4(void **state)
{
    (void)state;
    assert_sha256("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_sha256("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static void test_a_stream_gives_the_hash_of_the_whole(void **state)
{
    static char data[1000];
    uint8_t whole[SHA256_SIZE], streamed[SHA256_SIZE];
    size_t i, step;

    (void)state;
    for (i = 0; i < sizeof(data); i++) {
        data[i] = (char)(i * 7);
    }
    crypto_sha256(data, sizeof(data), whole);
    for (step = 1; step < 200; step += 21) {
        struct crypto_sha256_stream s;

        crypto_sha256_begin(&s);
        for (i = 0; i < sizeof(data); i += step) {
            crypto_sha256_add(&s, data + i, sizeof(data) - i < step ? sizeof(data) - i : step);
        }
        crypto_sha256_end(&s, streamed);
        assert_memory_equal(whole, streamed, SHA256_SIZE);
    }
}

static void assert_hmac(const void *key, size_t key_len, const char *data, const char *hex)
{
    uint8_t mac[SHA256_SIZE];
    char out[SHA256_HEX_SIZE];

    crypto_hmac_sha256(key, key_len, data, strlen(data), mac);
    hex_encode(mac, sizeof(mac), out);
    assert_string_equal(out, hex);
}

static void test_hmac_has_the_vectors_of_rfc_4231(void **state)
{
    uint8_t key[131];

    (void)state;
    memset(key, 0x0b, 20);
    assert_hmac(key, 20, "Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    assert_hmac("Jefe", 4, "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, sizeof(key)); /* longer than a block: hashed first */
    assert_hmac(key, sizeof(key), "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

static void test_random_bytes_do_not_repeat(void **state)
{
    uint8_t a[32] = {0}, b[32] = {0};

    (void)state;
    crypto_random(a, sizeof(a));
    crypto_random(b, sizeof(b));
    assert_memory_not_equal(a, b, sizeof(a));
    crypto_random(a, 0);
}

static void test_a_password_fits_its_own_hash_and_no_other_does(void **state)
{
    char hash[PASSWORD_HASH_SIZE], again[PASSWORD_HASH_SIZE];

    (void)state;
    assert_true(crypto_password_hash("correct horse", hash));
    assert_true(crypto_password_hash("correct horse", again));
    assert_true(has_prefix(hash, "$argon2id$v=19$m=64,t=1,p=1$"));
    assert_string_not_equal(hash, again); /* salted */
    assert_true(crypto_password_fits(hash, "correct horse"));
    assert_false(crypto_password_fits(hash, "correct horsf"));
    assert_false(crypto_password_fits(hash, "correct horse "));
    assert_false(crypto_password_fits(hash, ""));
}

static void test_a_broken_hash_fits_nothing(void **state)
{
    (void)state;
    assert_false(crypto_password_fits("", "x"));
    assert_false(crypto_password_fits("x", "x"));
    assert_false(crypto_password_fits("$argon2id$v=19$m=64,t=1,p=1$", "x"));
    assert_false(crypto_password_fits("$argon2id$v=19$m=99999999,t=1,p=1$AAAA$AAAA", "x"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha_256_has_the_vectors_of_fips_180_4),
        cmocka_unit_test(test_a_stream_gives_the_hash_of_the_whole),
        cmocka_unit_test(test_hmac_has_the_vectors_of_rfc_4231),
        cmocka_unit_test(test_random_bytes_do_not_repeat),
        cmocka_unit_test(test_a_password_fits_its_own_hash_and_no_other_does),
        cmocka_unit_test(test_a_broken_hash_fits_nothing),
    };

    return cmocka_run_group_tests_name("crypto", tests, group_setup, NULL);
}
