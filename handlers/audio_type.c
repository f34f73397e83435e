/* The extension of a key and every judgement of a type come from this one table, never from a
 * client's file name. */
#include "handlers/audio_type.h"

#include <strings.h>

#include "lib/str.h"

static const struct audio_type types[] = {
    {"mp3",
     {"audio/mpeg", "audio/mp3", "audio/x-mp3", "audio/mpeg3", "audio/x-mpeg"},
     "mp3",
     {"mp3"}},
    {"wav",
     {"audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"},
     "wav",
     {"pcm_*", "adpcm_*"}},
    {"flac", {"audio/flac", "audio/x-flac"}, "flac", {"flac"}},
    {"m4a", {"audio/mp4", "audio/x-m4a", "audio/m4a"}, "mov", {"aac", "alac"}},
    {"aac", {"audio/aac", "audio/x-aac", "audio/aacp"}, "aac", {"aac"}},
    {"ogg", {"audio/ogg", "audio/vorbis", "application/ogg"}, "ogg", {"vorbis", "opus", "flac"}},
    {"opus", {"audio/opus"}, "ogg", {"opus"}},
};

const struct audio_type *audio_type_declared(struct arena *a, const char *content_type,
                                             const char **canonical_out)
{
    const char *start = content_type + strspn(content_type, " \t");
    const char *base = arena_strndup(a, start, strcspn(start, "; \t"));
    size_t i, j;

    for (i = 0; i < ARRAY_LEN(types); i++) {
        for (j = 0; j < AUDIO_CONTENT_TYPES_MAX && types[i].content_types[j] != NULL; j++) {
            if (strcasecmp(types[i].content_types[j], base) == 0) {
                *canonical_out = types[i].content_types[j];
                return &types[i];
            }
        }
    }
    return NULL;
}

static bool codec_matches(const char *pattern, const char *codec)
{
    size_t len = strlen(pattern);

    if (pattern[len - 1] == '*') {
        return strncmp(pattern, codec, len - 1) == 0;
    }
    return strcmp(pattern, codec) == 0;
}

bool audio_type_fits(const struct audio_type *type, const struct media_probe *probe)
{
    size_t i;

    if (strcmp(type->container, probe->container) != 0) {
        return false;
    }
    for (i = 0; i < AUDIO_CODECS_MAX && type->codecs[i] != NULL; i++) {
        if (codec_matches(type->codecs[i], probe->codec)) {
            return true;
        }
    }
    return false;
}

bool audio_type_in(const struct audio_type *type, const char *list)
{
    size_t len = strlen(type->name);
    const char *p = list;

    while (*p != '\0') {
        size_t word;

        p += strspn(p, ", \t");
        word = strcspn(p, ", \t");
        if (word == len && strncasecmp(p, type->name, len) == 0) {
            return true;
        }
        p += word;
    }
    return false;
}

const char *audio_download_name(struct arena *a, const char *label, const char *key)
{
    const char *wanted = strrchr(key, '.');
    const char *has = strrchr(label, '.');

    if (wanted == NULL || (has != NULL && strcasecmp(has, wanted) == 0)) {
        return label;
    }
    return arena_printf(a, "%s%s", label, wanted);
}
