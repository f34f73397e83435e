/* Words every module uses. Nothing here has state. */
#ifndef LIB_BASE_H
#define LIB_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

/* The caller must look at the result; ignoring it does not compile (-Werror). */
#define MUST_USE __attribute__((warn_unused_result))

/* The format string is checked like printf's. */
#define PRINTF_LIKE(format_index, first_arg) \
    __attribute__((format(printf, format_index, first_arg)))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Return from the calling function where the expression is an error. The only macro of the
 * project that hides control flow. */
#define TRY(expression)                  \
    do {                                 \
        enum err try_err = (expression); \
        if (try_err != OK) {             \
            return try_err;              \
        }                                \
    } while (0)

/* "Not there" for a number or a time that may be absent: SQL NULL, JSON null or no member.
 * A text that may be absent is a NULL pointer. */
#define ABSENT_I64 INT64_MIN

#endif
