/* One socket for words, one mapping for bytes. A source is read block by block: the parent says
 * where in the mapping a block stands, and we ask again only when we need bytes from outside of
 * it. */
#include "workers/media/link.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EXIT_LINK = 3 };

struct window {
    int64_t offset, len; /* of the source */
    const unsigned char *data;
};

struct link {
    union {
        struct media_msg msg;
        char bytes[MEDIA_MESSAGE_MAX];
    } in;
    size_t in_len; /* of the payload */
    unsigned char *memory;
    const struct media_start *start;
    struct window windows[MEDIA_SOURCES_MAX];
    int next_slot, slots_busy; /* slots are used and given back in turn */
    int percent;
};

static struct link the_link;

static void send_message(const struct media_msg *msg, const void *payload, size_t len)
{
    unsigned char packet[sizeof(*msg) + MEDIA_RESULT_MAX];

    if (len > MEDIA_RESULT_MAX) {
        _exit(EXIT_LINK);
    }
    memcpy(packet, msg, sizeof(*msg));
    if (len > 0) {
        memcpy(packet + sizeof(*msg), payload, len);
    }
    while (send(MEDIA_FD_SOCKET, packet, sizeof(*msg) + len, MSG_NOSIGNAL) < 0) {
        if (errno != EINTR) {
            _exit(EXIT_LINK);
        }
    }
}

static void receive(struct link *l)
{
    ssize_t got;

    do {
        got = recv(MEDIA_FD_SOCKET, l->in.bytes, sizeof(l->in.bytes), 0);
    } while (got < 0 && errno == EINTR);
    if (got < (ssize_t)sizeof(l->in.msg)) {
        _exit(EXIT_LINK);
    }
    l->in_len = (size_t)got - sizeof(l->in.msg);
}

/* Wait for an answer of the type; acknowledgements may come in between. */
static const struct media_msg *await(struct link *l, enum media_msg_type type)
{
    for (;;) {
        receive(l);
        if (l->in.msg.type == MEDIA_ACK && l->slots_busy > 0) {
            l->slots_busy--;
        }
        if (l->in.msg.type == (uint32_t)type) {
            return &l->in.msg;
        }
        if (l->in.msg.type != MEDIA_ACK) {
            _exit(EXIT_LINK);
        }
    }
}

struct link *link_open(const struct media_start **start_out, const char **params_out)
{
    struct link *l = &the_link;
    struct media_start *start;
    char *payload;
    size_t need;

    *l = (struct link){.percent = 0};
    receive(l);
    if (l->in.msg.type != MEDIA_START || l->in_len < sizeof(*start)) {
        _exit(EXIT_LINK);
    }
    payload = malloc(l->in_len + 1);
    if (payload == NULL) {
        _exit(EXIT_LINK);
    }
    memcpy(payload, l->in.bytes + sizeof(l->in.msg), l->in_len);
    payload[l->in_len] = '\0';
    start = (struct media_start *)(void *)payload;
    need = (size_t)start->n_sources * MEDIA_IN_SLOTS * start->in_block +
           (size_t)MEDIA_OUT_SLOTS * MEDIA_OUT_BLOCK;
    if (start->n_sources == 0 || start->n_sources > MEDIA_SOURCES_MAX ||
        start->params_len != l->in_len - sizeof(*start) || (size_t)start->memory_bytes != need) {
        _exit(EXIT_LINK);
    }
    l->memory = mmap(NULL, need, PROT_READ | PROT_WRITE, MAP_SHARED, MEDIA_FD_MEMORY, 0);
    if (l->memory == MAP_FAILED) {
        _exit(EXIT_LINK);
    }
    l->start = start;
    *start_out = start;
    *params_out = payload + sizeof(*start);
    return l;
}

/* Ask for the block that holds offset. */
static void ask(struct link *l, uint32_t source, int64_t offset)
{
    const struct media_msg read = {.type = MEDIA_READ, .index = source, .offset = offset};
    struct window *w = &l->windows[source];
    const struct media_msg *answer;

    send_message(&read, NULL, 0);
    answer = await(l, MEDIA_DATA);
    if (answer->len < 0 || answer->position < 0 ||
        answer->position > l->start->memory_bytes - answer->len) {
        _exit(EXIT_LINK);
    }
    *w =
        (struct window){.offset = offset, .len = answer->len, .data = l->memory + answer->position};
}

size_t link_read(struct link *l, uint32_t source, int64_t offset, void *buffer, size_t len)
{
    struct window *w = &l->windows[source];
    size_t have;

    if (offset < 0 || offset >= l->start->sizes[source]) {
        return 0;
    }
    if (offset < w->offset || offset >= w->offset + w->len) {
        ask(l, source, offset);
        if (w->len == 0) {
            return 0;
        }
    }
    have = (size_t)(w->offset + w->len - offset);
    len = len < have ? len : have;
    memcpy(buffer, w->data + (offset - w->offset), len);
    return len;
}

static void send_block(struct link *l, const struct media_msg *like, const void *data, size_t len)
{
    struct media_msg msg = *like;
    size_t base = (size_t)l->start->n_sources * MEDIA_IN_SLOTS * l->start->in_block;

    while (l->slots_busy == MEDIA_OUT_SLOTS) {
        (void)await(l, MEDIA_ACK);
    }
    memcpy(l->memory + base + (size_t)l->next_slot * MEDIA_OUT_BLOCK, data, len);
    msg.position = l->next_slot;
    msg.len = (int64_t)len;
    l->next_slot = (l->next_slot + 1) % MEDIA_OUT_SLOTS;
    l->slots_busy++;
    send_message(&msg, NULL, 0);
}

static void send_blocks(struct link *l, struct media_msg like, const void *data, size_t len)
{
    const unsigned char *from = data;

    while (len > 0) {
        size_t n = len < MEDIA_OUT_BLOCK ? len : MEDIA_OUT_BLOCK;

        send_block(l, &like, from, n);
        like.offset += (int64_t)n;
        from += n;
        len -= n;
    }
}

void link_write(struct link *l, uint32_t output, const void *data, size_t len)
{
    send_blocks(l, (struct media_msg){.type = MEDIA_WRITE, .index = output}, data, len);
}

void link_rewrite(struct link *l, uint32_t output, int64_t offset, const void *data, size_t len)
{
    send_blocks(l, (struct media_msg){.type = MEDIA_REWRITE, .index = output, .offset = offset},
                data, len);
}

void link_finish(struct link *l, uint32_t output)
{
    const struct media_msg msg = {.type = MEDIA_FINISH, .index = output};

    (void)l;
    send_message(&msg, NULL, 0);
}

void link_progress(struct link *l, int percent)
{
    const struct media_msg msg = {.type = MEDIA_PROGRESS, .len = percent};

    if (percent > l->percent && percent < 100) {
        l->percent = percent;
        send_message(&msg, NULL, 0);
    }
}

void link_result(struct link *l, const char *json)
{
    const struct media_msg msg = {.type = MEDIA_RESULT};

    (void)l;
    send_message(&msg, json, strlen(json));
}

void link_fail(struct link *l, enum media_fault fault, int64_t value, uint32_t source,
               const char *param)
{
    const struct media_msg msg = {
        .type = MEDIA_FAIL, .index = fault, .offset = value, .position = source};

    (void)l;
    send_message(&msg, param, param == NULL ? 0 : strlen(param));
}
