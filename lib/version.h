/* The program's version, as /api/system/status and the logs tell it. */
#ifndef LIB_VERSION_H
#define LIB_VERSION_H

#define VERSION "0.1.0"

#endif
