/* An M4A file whose index takes 2 bytes of memory a packet, where libavformat's muxer keeps 64.
 *
 * The muxer still makes every box, of a file in memory: one that lasts as long as the real one and
 * has a few packets of a byte. Only the tables that tell of single packets are made here, from the
 * packets that were written (ISO/IEC 14496-12, 8.6.1, 8.7 and 8.9.2; ISO/IEC 14496-1, 7.2.6.6 for
 * the bit rate). Functions return 0 or libav's error codes: AVERROR(ENOMEM), or AVERROR_BUG where
 * encoder or muxer did what is not known here. Only writing to the file may block; its errors stay
 * in the I/O context. */
#ifndef WORKERS_MEDIA_M4A_H
#define WORKERS_MEDIA_M4A_H

#include <stdint.h>

#include <libavformat/avformat.h>

struct m4a;

/* Bytes to keep in front of the audio for its index: for so many samples per channel, and tags and
 * picture of text_bytes. 0 where that is more than can be corrected in the end. */
int64_t m4a_room(int64_t samples, int64_t text_bytes);

/* Begin a file in io, which can seek, with room for the index. muxer: "ipod" with its tags and
 * streams (the audio is number 0), but no I/O context; it gets one of its own, and its header is
 * written, with the options. A picture is given to it afterwards. The caller keeps muxer and io
 * until m4a_close(), and owns *m4a_out, also after an error. */
int m4a_open(AVFormatContext *muxer, AVDictionary **options, AVIOContext *io, int64_t room,
             struct m4a **m4a_out);

/* Append a packet. Packets have one distance from each other in time, and the last may be shorter:
 * what else an encoder might do is AVERROR_BUG. */
int m4a_packet(struct m4a *m, const AVPacket *packet);

/* Write sizes and index: into the room if it fits, else behind the audio; what is left of the room
 * is a free box. The muxer has ended then, too. */
int m4a_end(struct m4a *m);

/* Free everything, the muxer's I/O context included, and clear *m4a. */
void m4a_close(struct m4a **m4a);

#endif
