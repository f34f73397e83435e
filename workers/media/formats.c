/* libav's registries, with our list in them.
 *
 * libavformat and libavcodec are linked from their static archives. These functions stand in for
 * the ones of their registry objects (allformats.o, allcodecs.o, protocols.o …), so the linker
 * never takes those, and with them some 130 shared libraries, all network protocols and all video
 * decoders stay out of the process that reads hostile files. It also starts in 2 ms instead of 33.
 * Stand-ins exist for the doors to what is left out; each refuses. See docs/internals/media.md. */
#include <libavcodec/avcodec.h>
#include <libavcodec/bsf.h>
#include <libavfilter/avfilter.h>
#include <libavformat/avformat.h>

#define DEMUXER(name) extern const AVInputFormat ff_##name##_demuxer;
#define MUXER(name) extern const AVOutputFormat ff_##name##_muxer;
#define DECODER(name) extern const AVCodec ff_##name##_decoder;
#define ENCODER(name) extern const AVCodec ff_##name##_encoder;
#define PARSER(name) extern const AVCodecParser ff_##name##_parser;
#define FILTER(name, symbol) extern const AVFilter ff_##symbol;
#define BSF(name) extern const AVBitStreamFilter ff_##name##_bsf;
#include "workers/media/formats.def"
#undef DEMUXER
#undef MUXER
#undef DECODER
#undef ENCODER
#undef PARSER
#undef FILTER
#undef BSF

#define NOTHING
#define DEMUXER(name) NOTHING
#define MUXER(name) NOTHING
#define DECODER(name) NOTHING
#define ENCODER(name) NOTHING
#define PARSER(name) NOTHING
#define FILTER(name, symbol) NOTHING
#define BSF(name) NOTHING

static const AVInputFormat *const demuxers[] = {
#undef DEMUXER
#define DEMUXER(name) &ff_##name##_demuxer,
#include "workers/media/formats.def"
#undef DEMUXER
#define DEMUXER(name) NOTHING
    NULL};

static const AVOutputFormat *const muxers[] = {
#undef MUXER
#define MUXER(name) &ff_##name##_muxer,
#include "workers/media/formats.def"
#undef MUXER
#define MUXER(name) NOTHING
    NULL};

static const AVCodec *const codecs[] = {
#undef DECODER
#undef ENCODER
#define DECODER(name) &ff_##name##_decoder,
#define ENCODER(name) &ff_##name##_encoder,
#include "workers/media/formats.def"
#undef DECODER
#undef ENCODER
#define DECODER(name) NOTHING
#define ENCODER(name) NOTHING
    NULL};

static const AVCodecParser *const parsers[] = {
#undef PARSER
#define PARSER(name) &ff_##name##_parser,
#include "workers/media/formats.def"
#undef PARSER
#define PARSER(name) NOTHING
    NULL};

static const AVFilter *const filters[] = {
#undef FILTER
#define FILTER(name, symbol) &ff_##symbol,
#include "workers/media/formats.def"
#undef FILTER
#define FILTER(name, symbol) NOTHING
    NULL};

static const AVBitStreamFilter *const bsfs[] = {
#undef BSF
#define BSF(name) &ff_##name##_bsf,
#include "workers/media/formats.def"
#undef BSF
    NULL};

/* An iterator of libav: *opaque counts, NULL ends. */
#define ITERATE(type, function, table)    \
    const type *function(void **opaque)   \
    {                                     \
        uintptr_t i = (uintptr_t)*opaque; \
        const type *row = table[i];       \
                                          \
        if (row != NULL) {                \
            *opaque = (void *)(i + 1);    \
        }                                 \
        return row;                       \
    }

ITERATE(AVInputFormat, av_demuxer_iterate, demuxers)
ITERATE(AVOutputFormat, av_muxer_iterate, muxers)
ITERATE(AVCodec, av_codec_iterate, codecs)
ITERATE(AVCodecParser, av_parser_iterate, parsers)
ITERATE(AVFilter, av_filter_iterate, filters)
ITERATE(AVBitStreamFilter, av_bsf_iterate, bsfs)

static const AVCodec *find_codec(enum AVCodecID id, const char *name, int encoder)
{
    size_t i;

    for (i = 0; codecs[i] != NULL; i++) {
        if (!av_codec_is_encoder(codecs[i]) == !encoder &&
            (name != NULL ? strcmp(codecs[i]->name, name) == 0 : codecs[i]->id == id)) {
            return codecs[i];
        }
    }
    return NULL;
}

const AVCodec *avcodec_find_decoder(enum AVCodecID id)
{
    return find_codec(id, NULL, 0);
}

const AVCodec *avcodec_find_encoder(enum AVCodecID id)
{
    return find_codec(id, NULL, 1);
}

const AVCodec *avcodec_find_decoder_by_name(const char *name)
{
    return name == NULL ? NULL : find_codec(AV_CODEC_ID_NONE, name, 0);
}

const AVCodec *avcodec_find_encoder_by_name(const char *name)
{
    return name == NULL ? NULL : find_codec(AV_CODEC_ID_NONE, name, 1);
}

const AVFilter *avfilter_get_by_name(const char *name)
{
    size_t i;

    for (i = 0; name != NULL && filters[i] != NULL; i++) {
        if (strcmp(filters[i]->name, name) == 0) {
            return filters[i];
        }
    }
    return NULL;
}

const AVBitStreamFilter *av_bsf_get_by_name(const char *name)
{
    size_t i;

    for (i = 0; name != NULL && bsfs[i] != NULL; i++) {
        if (strcmp(bsfs[i]->name, name) == 0) {
            return bsfs[i];
        }
    }
    return NULL;
}

/* ---- doors to what is left out; the prototypes are libav's internal ones, reduced to what
 * matters ---- */

const AVClass *ff_bsf_child_class_iterate(void **opaque);
const AVClass *ff_urlcontext_child_class_iterate(void **opaque);
const void **ffurl_get_protocols(const char *white, const char *black);
void avpriv_register_devices(const void *out, const void *in);
int avpriv_h264_has_num_reorder_frames(AVCodecContext *codec);
int ff_network_init(void);
void ff_network_close(void);
int ff_tls_init(void);
void ff_tls_deinit(void);
int ff_mov_init_hinting(AVFormatContext *format, int index, int src_index);
int ff_mov_add_hinted_packet(AVFormatContext *format, AVPacket *packet, int track, int sample,
                             uint8_t *data, int size);
void ff_mov_close_hinting(void *track);
int ff_sdp_write_media(void);

const AVClass *ff_bsf_child_class_iterate(void **opaque)
{
    (void)opaque;
    return NULL;
}

const AVClass *ff_urlcontext_child_class_iterate(void **opaque)
{
    (void)opaque;
    return NULL;
}

/* No protocol at all: every attempt of a demuxer to open something else fails. The caller frees
 * the empty list. */
const void **ffurl_get_protocols(const char *white, const char *black)
{
    (void)white;
    (void)black;
    return av_mallocz(sizeof(void *));
}

const char *avio_enum_protocols(void **opaque, int output)
{
    (void)opaque;
    (void)output;
    return NULL;
}

const AVClass *avio_protocol_get_class(const char *name)
{
    (void)name;
    return NULL;
}

void avpriv_register_devices(const void *out, const void *in)
{
    (void)out;
    (void)in;
}

int avpriv_h264_has_num_reorder_frames(AVCodecContext *codec)
{
    (void)codec;
    return 0;
}

int ff_network_init(void)
{
    return 0;
}

void ff_network_close(void)
{
}

int ff_tls_init(void)
{
    return 0;
}

void ff_tls_deinit(void)
{
}

int ff_mov_init_hinting(AVFormatContext *format, int index, int src_index)
{
    (void)format;
    (void)index;
    (void)src_index;
    return AVERROR(ENOSYS);
}

int ff_mov_add_hinted_packet(AVFormatContext *format, AVPacket *packet, int track, int sample,
                             uint8_t *data, int size)
{
    (void)format;
    (void)packet;
    (void)track;
    (void)sample;
    (void)data;
    (void)size;
    return AVERROR(ENOSYS);
}

void ff_mov_close_hinting(void *track)
{
    (void)track;
}

int ff_sdp_write_media(void)
{
    return AVERROR(ENOSYS);
}

/* Hardware and the soxr resampler: tables that libav looks into only when asked for such a thing,
 * which nobody does. */
enum { ABSENT_TABLE_BYTES = 512 };
#define ABSENT_TABLE(name)                      \
    extern const char name[ABSENT_TABLE_BYTES]; \
    const char name[ABSENT_TABLE_BYTES] = {0};
ABSENT_TABLE(ff_hwcontext_type_cuda)
ABSENT_TABLE(ff_hwcontext_type_drm)
ABSENT_TABLE(ff_hwcontext_type_opencl)
ABSENT_TABLE(ff_hwcontext_type_qsv)
ABSENT_TABLE(ff_hwcontext_type_vaapi)
ABSENT_TABLE(ff_hwcontext_type_vdpau)
ABSENT_TABLE(ff_hwcontext_type_vulkan)
ABSENT_TABLE(swri_soxr_resampler)
