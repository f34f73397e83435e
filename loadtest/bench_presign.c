/* How many presigned URLs one core makes in a second: upload URLs as the API makes them (type and
 * length signed, an id as key), on one thread. Prints one JSON line. Argument: seconds (default
 * 3). */
#include <stdio.h>

#include "lib/arena.h"
#include "lib/clock.h"
#include "lib/config.h"
#include "lib/crypto.h"
#include "lib/s3.h"

enum { BATCH = 256 };

/* CPU time of this process in microseconds: what is measured, so that a busy machine does not blur
 * it. */
static int64_t cpu_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void presign_batch(struct arena *a, size_t *bytes)
{
    const char *key = "audio/018f4a2e-7c3b-7def-8abc-0123456789ab/"
                      "9f86d081-884c-8d65-9a2f-eaa0c55ad015.flac";
    struct s3_presign what = {
        .method = "PUT", .key = key, .content_type = "audio/flac", .ttl_s = 900};
    struct scope sc;
    int i;

    for (i = 0; i < BATCH; i++) {
        arena_reset(a);
        scope_init(&sc, a, 10000);
        what.content_length = 40000000 + i;
        *bytes += strlen(s3_presign_url(&sc, &what, NULL));
        scope_done(&sc);
    }
}

int main(int argc, char **argv)
{
    int64_t seconds = 3, urls = 0, began_us, cpu_began_us, wall_us, used_us;
    struct arena *a;
    size_t bytes = 0;

    if (argc > 1) {
        seconds = strtoll(argv[1], NULL, 10);
    }
    crypto_open();
    if (!config_load(stderr)) {
        return 1;
    }
    a = arena_open((size_t)config()->request_arena_bytes);
    presign_batch(a, &bytes); /* the derived key, the first blocks */
    began_us = clock_mono_us();
    cpu_began_us = cpu_us();
    do {
        presign_batch(a, &bytes);
        urls += BATCH;
        wall_us = clock_mono_us() - began_us;
    } while (wall_us < seconds * 1000000);
    used_us = cpu_us() - cpu_began_us;
    printf("{\"name\":\"presign\",\"urls\":%lld,\"wallUs\":%lld,\"cpuUs\":%lld,"
           "\"urlsPerCpuSecond\":%.0f,\"arenaBytesPerUrl\":%zu}\n",
           (long long)urls, (long long)wall_us, (long long)used_us,
           (double)urls * 1e6 / (double)used_us, arena_used(a));
    arena_close(&a);
    return 0;
}
