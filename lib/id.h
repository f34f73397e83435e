/* Ids, and the shard that each names.
 *
 * A user id is a UUIDv7 (RFC 9562). Its place is the first 8 hex digits of sha256 over the id's 36
 * characters. What a user owns has a UUIDv8 whose first 8 hex digits are that same place, then 48
 * bits of milliseconds and 42 random bits, so that the ids of one owner sort by time. place modulo
 * SHARD_COUNT is the shard, for every SHARD_COUNT, with no directory. */
#ifndef LIB_ID_H
#define LIB_ID_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/arena.h"

struct id {
    uint8_t bytes[16];
};

/* Where a row lives before SHARD_COUNT is applied. */
struct place {
    uint32_t hash;
};

enum { ID_TEXT_SIZE = 37 }; /* 36 characters and the NUL */

/* A new user id for the time now. */
struct id id_make_user(void);

/* A new id for something that the owner of that place owns. */
struct id id_make_owned(struct place place);

/* The id that stands for somebody without an account, made of a text that names him (an address):
 * it has the form and the place of a user id, and is always the same for the same text. */
struct id id_of_stranger(const char *text);

/* The place of a user id (hash of its text) or of an owned id (its first 32 bits). */
struct place id_place(struct id id);

/* The place of an e-mail address: sha256 of its ASCII-lower-cased text. */
struct place id_place_of_email(const char *email);

/* Read 36 lower-case characters of a version 7 or 8 UUID; anything else is false. */
bool id_parse(const char *text, size_t len, struct id *out);

/* Write 36 characters and a NUL. */
void id_format(struct id id, char out[ID_TEXT_SIZE]);

/* The same in an arena. */
const char *id_text(struct arena *a, struct id id);

/* Are they the same? */
bool id_equal(struct id a, struct id b);

/* Is it the id of all zeros (no id)? */
bool id_is_nil(struct id id);

/* Is it a user's id (version 7)? */
bool id_is_user(struct id id);

#endif
