/* CRC-32C (Castagnoli; RFC 3720, appendix B.4): S3's cheapest check of a body. Against damage, not
 * against malice. */
#ifndef LIB_CRC32C_H
#define LIB_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Of these bytes, with that of the bytes before them (0: there are none). */
uint32_t crc32c(uint32_t before, const void *data, size_t len);

/* The same without the processor's own instruction, for where there is none. */
uint32_t crc32c_by_table(uint32_t before, const void *data, size_t len);

#endif
