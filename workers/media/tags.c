/* Formats whose muxer takes no picture get it here: Ogg as a comment; WAV and ADTS in an ID3v2 tag,
 * which the MP3 muxer writes as well without any audio. */
#include "workers/media/tags.h"

#include <strings.h>

#include <libavcodec/avcodec.h>
#include <libavutil/avstring.h>
#include <libavutil/base64.h>
#include <libavutil/channel_layout.h>
#include <libavutil/intreadwrite.h>

enum {
    KEY_MAX = 64,
    VALUE_MAX = 16 << 10,
    BYTES_MAX = 128 << 10, /* of all tags */
    PICTURE_FRONT = 3,     /* ID3v2's and FLAC's number for a front cover */
    BLOCK_NUMBERS = 8,     /* of 4 bytes, in a FLAC picture block */
    BITS_PER_PIXEL = 24
};

static bool is_utf8(const char *text)
{
    const uint8_t *at = (const uint8_t *)text, *end = at + strlen(text);
    int32_t code;

    while (at < end) {
        if (av_utf8_decode(&code, &at, end, 0) < 0) {
            return false;
        }
    }
    return true;
}

/* Of the source's own bytes, or of how it came to be. */
static bool is_technical(const char *key)
{
    static const char *const names[] = {
        "encoder",      "major_brand", "minor_version", "compatible_brands",     "creation_time",
        "handler_name", "vendor_id",   "iTunSMPB",      "METADATA_BLOCK_PICTURE"};
    size_t i;

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcasecmp(key, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_level(const char *key)
{
    return av_stristart(key, "replaygain_", NULL) || av_stristart(key, "r128_", NULL) ||
           strcasecmp(key, "iTunNORM") == 0;
}

static bool is_kept(const AVDictionaryEntry *tag, bool keep_levels)
{
    return !is_technical(tag->key) && (keep_levels || !is_level(tag->key)) &&
           strlen(tag->key) <= KEY_MAX && strlen(tag->value) <= VALUE_MAX && is_utf8(tag->key) &&
           is_utf8(tag->value);
}

static void copy(AVDictionary **to, const AVDictionary *from, bool keep_levels, size_t *bytes)
{
    const AVDictionaryEntry *tag = NULL;

    while ((tag = av_dict_get(from, "", tag, AV_DICT_IGNORE_SUFFIX)) != NULL) {
        size_t len = strlen(tag->key) + strlen(tag->value);

        if (is_kept(tag, keep_levels) && *bytes + len <= BYTES_MAX) {
            *bytes += len;
            (void)av_dict_set(to, tag->key, tag->value, AV_DICT_DONT_OVERWRITE);
        }
    }
}

size_t tags_copy(AVDictionary **to, const AVFormatContext *from, bool keep_levels)
{
    size_t bytes = 0;
    unsigned i;

    copy(to, from->metadata, keep_levels, &bytes);
    for (i = 0; i < from->nb_streams; i++) { /* Ogg keeps them at the stream */
        if (from->streams[i]->codecpar->codec_type == AVMEDIA_TYPE_AUDIO) {
            copy(to, from->streams[i]->metadata, keep_levels, &bytes);
        }
    }
    return bytes;
}

struct tags_cover tags_cover(const AVFormatContext *from, int bytes_max)
{
    struct tags_cover cover = {.picture = NULL};
    unsigned i;

    for (i = 0; i < from->nb_streams && cover.picture == NULL; i++) {
        const AVStream *s = from->streams[i];
        const AVPacket *picture = &s->attached_pic;

        if ((s->disposition & AV_DISPOSITION_ATTACHED_PIC) != 0 && picture->size > 0 &&
            picture->size <= bytes_max) {
            cover.kind =
                cover_look(picture->data, (size_t)picture->size, &cover.width, &cover.height);
            cover.picture = cover.kind != COVER_NONE ? picture : NULL;
        }
    }
    return cover;
}

AVStream *tags_cover_stream(AVFormatContext *to, const struct tags_cover *cover)
{
    AVStream *s = avformat_new_stream(to, NULL);

    if (s != NULL) {
        s->disposition = AV_DISPOSITION_ATTACHED_PIC;
        s->codecpar->codec_type = AVMEDIA_TYPE_VIDEO;
        s->codecpar->codec_id = cover->kind == COVER_PNG ? AV_CODEC_ID_PNG : AV_CODEC_ID_MJPEG;
        s->codecpar->width = cover->width;
        s->codecpar->height = cover->height;
        s->time_base = (AVRational){1, 90000};
        (void)av_dict_set(&s->metadata, "comment", "Cover (front)", 0);
    }
    return s;
}

/* type, length of the MIME type, it, length of the description, width, height, bits per pixel,
 * colours of a palette, length of the data, they: the description is empty. */
static int picture_block(const struct tags_cover *cover, uint8_t *out)
{
    const char *mime = cover->kind == COVER_PNG ? "image/png" : "image/jpeg";
    const uint32_t numbers[] = {
        0, (uint32_t)cover->width,        (uint32_t)cover->height, BITS_PER_PIXEL,
        0, (uint32_t)cover->picture->size};
    size_t mime_len = strlen(mime), i;
    uint8_t *at = out;

    AV_WB32(at, PICTURE_FRONT);
    AV_WB32(at + 4, (uint32_t)mime_len);
    memcpy(at + 8, mime, mime_len);
    at += 8 + mime_len;
    for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++, at += 4) {
        AV_WB32(at, numbers[i]);
    }
    memcpy(at, cover->picture->data, (size_t)cover->picture->size);
    return (int)(at - out) + cover->picture->size;
}

enum media_fault tags_cover_comment(AVDictionary **to, const struct tags_cover *cover)
{
    enum { MIME_MAX = 16 };
    int room = BLOCK_NUMBERS * 4 + MIME_MAX + cover->picture->size, len, rc = AVERROR(ENOMEM);
    uint8_t *block = av_malloc((size_t)room);
    char *text = av_malloc(AV_BASE64_SIZE((size_t)room));

    if (block != NULL && text != NULL) {
        len = picture_block(cover, block);
        rc = av_base64_encode(text, AV_BASE64_SIZE(room), block, len) == NULL
                 ? AVERROR(ENOMEM)
                 : av_dict_set(to, "METADATA_BLOCK_PICTURE", text, 0);
    }
    av_free(block);
    av_free(text);
    return rc < 0 ? MEDIA_FAULT_MEMORY : MEDIA_OK;
}

/* The streams that the MP3 muxer wants to see, though nothing comes of the first. */
static bool add_streams(AVFormatContext *mp3, const struct tags_cover *cover)
{
    AVStream *audio = avformat_new_stream(mp3, NULL);

    if (audio == NULL || (cover->picture != NULL && tags_cover_stream(mp3, cover) == NULL)) {
        return false;
    }
    audio->codecpar->codec_type = AVMEDIA_TYPE_AUDIO;
    audio->codecpar->codec_id = AV_CODEC_ID_MP3;
    audio->codecpar->sample_rate = 44100;
    av_channel_layout_default(&audio->codecpar->ch_layout, 2);
    return true;
}

static int write_id3(AVFormatContext *mp3, const struct tags_cover *cover)
{
    AVDictionary *options = NULL;
    AVPacket *packet = av_packet_alloc();
    int rc = packet == NULL ? AVERROR(ENOMEM) : 0;

    (void)av_dict_set(&options, "id3v2_version", "3", 0);
    (void)av_dict_set(&options, "write_xing", "0", 0);
    rc = rc < 0 ? rc : avformat_write_header(mp3, &options);
    av_dict_free(&options);
    if (rc >= 0 && cover->picture != NULL) {
        rc = av_packet_ref(packet, cover->picture);
        packet->stream_index = 1;
        packet->pts = packet->dts = 0;
        rc = rc < 0 ? rc : av_write_frame(mp3, packet);
    }
    rc = rc < 0 ? rc : av_write_trailer(mp3);
    av_packet_free(&packet);
    return rc;
}

enum media_fault tags_id3(const AVDictionary *tags, const struct tags_cover *cover,
                          uint8_t **data_out, int *len_out)
{
    AVFormatContext *mp3 = NULL;
    int rc = avformat_alloc_output_context2(&mp3, NULL, "mp3", NULL);

    *data_out = NULL;
    *len_out = 0;
    if (rc < 0) {
        return MEDIA_FAULT_MEMORY;
    }
    mp3->flags |= AVFMT_FLAG_BITEXACT;
    rc = av_dict_copy(&mp3->metadata, tags, 0);
    rc = rc < 0 || !add_streams(mp3, cover) ? AVERROR(ENOMEM) : avio_open_dyn_buf(&mp3->pb);
    rc = rc < 0 ? rc : write_id3(mp3, cover);
    if (mp3->pb != NULL) {
        *len_out = avio_close_dyn_buf(mp3->pb, data_out);
    }
    avformat_free_context(mp3);
    return rc == AVERROR(ENOMEM) ? MEDIA_FAULT_MEMORY : rc < 0 ? MEDIA_FAULT_INTERNAL : MEDIA_OK;
}
