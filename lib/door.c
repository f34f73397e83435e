/* As much of HTTP/1.0 as a scrape needs. */
#include "lib/door.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/log.h"

enum { CALLER_S = 2, REQUEST_MAX = 4096, ARENA_BYTES = 1 << 18, STACK_BYTES = 256 * 1024 };

static const struct {
    const char *name, *type, *help;
} metrics[DOOR__COUNT] = {
#define DOOR(symbol, name_text, type_text, help_text) \
    [DOOR_##symbol] = {.name = name_text, .type = type_text, .help = help_text},
#include "lib/door.def"
#undef DOOR
};

static struct {
    int listener;
    void (*write)(struct strbuf *out);
} door;

const char *door_head(struct strbuf *out, enum door_metric metric)
{
    strbuf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", metrics[metric].name, metrics[metric].help,
                  metrics[metric].name, metrics[metric].type);
    return metrics[metric].name;
}

void door_print_docs(FILE *out)
{
    size_t i;

    fputs("\n## Workers and schedulers\n\nGenerated from `lib/door.def`. Each process tells its "
          "own at `http://127.0.0.1:METRICS_PORT/metrics`.\n\n"
          "| metric | type | meaning |\n|---|---|---|\n",
          out);
    for (i = 0; i < DOOR__COUNT; i++) {
        fprintf(out, "| `%s` | %s | %s |\n", metrics[i].name, metrics[i].type, metrics[i].help);
    }
}

static void send_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

        if (n <= 0) {
            return;
        }
        data += n;
        len -= (size_t)n;
    }
}

static void answer(int fd, struct arena *arena)
{
    static const char wanted[] = "GET /metrics ";
    char request[REQUEST_MAX + 1];
    struct strbuf head, body;
    size_t len = 0;
    bool is_wanted;

    for (;;) {
        ssize_t n = recv(fd, request + len, REQUEST_MAX - len, 0);

        if (n <= 0) {
            return;
        }
        len += (size_t)n;
        request[len] = '\0';
        if (strstr(request, "\r\n\r\n") != NULL) {
            break;
        }
        if (len == REQUEST_MAX) {
            return;
        }
    }
    strbuf_init(&body, arena, ARENA_BYTES / 4);
    strbuf_init(&head, arena, 256);
    is_wanted = has_prefix(request, wanted);
    if (is_wanted) {
        door.write(&body);
    }
    strbuf_printf(&head,
                  "HTTP/1.0 %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                  "Content-Length: %zu\r\nConnection: close\r\n\r\n",
                  is_wanted ? "200 OK" : "404 Not Found", body.len);
    send_all(fd, head.data, head.len);
    send_all(fd, body.data, body.len);
}

static void *serve(void *unused)
{
    const struct timeval limit = {.tv_sec = CALLER_S};
    struct arena *arena = arena_open(ARENA_BYTES);

    (void)unused;
    for (;;) {
        int fd = accept(door.listener, NULL, NULL);

        if (fd < 0) {
            if (errno != EINTR && errno != ECONNABORTED) {
                sleep(1); /* out of descriptors, perhaps: they come back */
            }
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
        arena_reset(arena);
        answer(fd, arena);
        close(fd);
    }
    return NULL;
}

static int listen_at(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd >= 0 &&
        (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
         bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 8) != 0)) {
        close(fd);
        return -1;
    }
    return fd;
}

bool door_open(int port, void (*write)(struct strbuf *out))
{
    pthread_attr_t attributes;
    pthread_t thread;
    bool is_open = false;
    int listener;

    if (port == 0) {
        return true;
    }
    listener = listen_at(port);
    if (listener >= 0) {
        door.write = write;
        door.listener = listener;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, STACK_BYTES);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        is_open = pthread_create(&thread, &attributes, serve, NULL) == 0;
        pthread_attr_destroy(&attributes);
    }
    if (!is_open) {
        log_event(LOG_WARN, "metrics.door", "METRICS_PORT %d cannot be had: %s", port,
                  strerror(errno));
    }
    return is_open;
}
