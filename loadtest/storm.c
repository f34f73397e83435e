/* An open load: requests start at fixed rates, whatever becomes of those before, and their time is
 * counted from the moment at which they should have started (G. Tene, "How NOT to Measure Latency":
 * a generator that waits for slow answers does not see them). One thread, HTTP/1.1 on kept
 * connections of 127.0.0.1.
 *
 * usage: storm PORT CONNECTIONS TOKENS_FILE PHASES FLOW…
 *   PHASES  seconds:factor[,…]     the rates times the factor, one phase after the other
 *   FLOW    name:rate:METHOD:path  requests a second at factor 1; @ stands for a new random id
 *
 * Prints one JSON object: by phase and flow how many were asked, answered (below 500, not 429),
 * refused (429, 503) and failed, p50, p99 and max of the answered in ms; and, by 100 ms since the
 * start, how many of those that should have started then were asked and answered. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "lib/base.h"

enum {
    FLOWS_MAX = 8,
    PHASES_MAX = 8,
    TOKENS_MAX = 4096,
    CONNECTIONS_MAX = 4096,
    BUFFER_BYTES = 32768,
    QUEUE_MAX = 1 << 20,
    GIVE_UP_US = 10000000, /* what has not been answered by then has failed */
    BUCKET_US = 100000,
    BUCKETS_MAX = 6000,
    MARKS = 2000 /* of a histogram: 1 % steps from 10 µs */
};

struct tally {
    long asked, answered, refused, failed;
    long marks[MARKS];
    int64_t max_us;
};

struct flow {
    const char *name, *method, *path;
    double rate;
    double due_us; /* when the next one should start */
};

struct phase {
    double seconds, factor;
    int64_t ends_us;
};

/* A request that should start, or has. */
struct arrival {
    int64_t due_us;
    int flow, phase;
};

struct connection {
    int fd; /* -1: to be opened */
    bool is_busy;
    struct arrival arrival;
    char in[BUFFER_BYTES];
    size_t len;
};

static struct flow flows[FLOWS_MAX];
static struct phase phases[PHASES_MAX];
static struct tally tallies[PHASES_MAX][FLOWS_MAX];
static long timeline[BUCKETS_MAX][2]; /* asked, answered */
static struct connection connections[CONNECTIONS_MAX];
static struct arrival queue[QUEUE_MAX];
static size_t queue_head, queue_tail;
static char tokens[TOKENS_MAX][80];
static int n_flows, n_phases, n_tokens, n_connections, port, poll_fd;
static int64_t start_us;

static int64_t now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static int mark_of(int64_t us)
{
    double at = 10;
    int i = 0;

    while (at < (double)us && i < MARKS - 1) {
        at *= 1.01;
        i++;
    }
    return i;
}

static double mark_us(const struct tally *t, double share)
{
    double at = 10;
    long seen = 0, wanted = (long)((double)t->answered * share);
    int i;

    for (i = 0; i < MARKS; i++) {
        seen += t->marks[i];
        if (seen > wanted || seen == t->answered) {
            break;
        }
        at *= 1.01;
    }
    return at;
}

/* status 0: no answer. */
static void count(const struct arrival *a, int status)
{
    struct tally *t = &tallies[a->phase][a->flow];
    int64_t took_us = now_us() - a->due_us;
    bool is_answered = status > 0 && status < 500 && status != 429;
    int64_t bucket = (a->due_us - start_us) / BUCKET_US;

    t->answered += is_answered;
    t->refused += status == 429 || status == 503;
    t->failed += !is_answered && status != 429 && status != 503;
    if (is_answered) {
        t->marks[mark_of(took_us)]++;
        t->max_us = took_us > t->max_us ? took_us : t->max_us;
    }
    if (bucket >= 0 && bucket < BUCKETS_MAX) {
        timeline[bucket][0]++;
        timeline[bucket][1] += is_answered;
    }
}

static void drop(struct connection *c)
{
    if (c->fd >= 0) {
        close(c->fd);
    }
    if (c->is_busy) {
        count(&c->arrival, 0);
    }
    c->fd = -1;
    c->is_busy = false;
    c->len = 0;
}

static bool open_connection(struct connection *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof(to)) != 0) {
        drop(c);
        return false;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    return epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &event) == 0;
}

/* The path with "@" made a random UUIDv8. */
static void write_path(const char *path, char *out, size_t size)
{
    const char *at = strchr(path, '@');
    uint8_t r[16];

    if (at == NULL || getrandom(r, sizeof(r), 0) != sizeof(r)) {
        snprintf(out, size, "%s", path);
        return;
    }
    snprintf(out, size, "%.*s%02x%02x%02x%02x-%02x%02x-8%x%02x-8%x%02x-%02x%02x%02x%02x%02x%02x%s",
             (int)(at - path), path, r[0], r[1], r[2], r[3], r[4], r[5], r[6] & 15, r[7], r[8] & 15,
             r[9], r[10], r[11], r[12], r[13], r[14], r[15], at + 1);
}

static void send_request(struct connection *c, const struct arrival *a)
{
    static int turn;
    const struct flow *f = &flows[a->flow];
    const char *body = strcmp(f->method, "POST") == 0
                           ? "{\"fileId\":\"9b2f61d4-0199-8a4b-9c3d-7f6a5b4c3d2e\"}"
                           : "";
    char path[512], text[2048];
    int len;

    write_path(f->path, path, sizeof(path));
    len = snprintf(text, sizeof(text),
                   "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n"
                   "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                   f->method, path, tokens[turn++ % n_tokens], strlen(body), body);
    c->arrival = *a;
    c->is_busy = true;
    if (write(c->fd, text, (size_t)len) != len) {
        drop(c);
    }
}

/* Length of the whole answer in the buffer, 0 while it is not all there. */
static size_t whole_answer(const struct connection *c, int *status_out)
{
    const char *end = memmem(c->in, c->len, "\r\n\r\n", 4);
    const char *length;
    size_t head, body = 0;

    if (end == NULL || c->len < 12) {
        return 0;
    }
    head = (size_t)(end - c->in) + 4;
    *status_out = (int)strtol(c->in + 9, NULL, 10);
    length = memmem(c->in, head, "Content-Length: ", 16);
    if (length != NULL) {
        body = strtoul(length + 16, NULL, 10);
    }
    return c->len >= head + body ? head + body : 0;
}

static void receive(struct connection *c)
{
    ssize_t n = read(c->fd, c->in + c->len, sizeof(c->in) - 1 - c->len);
    int status = 0;

    if (n < 0 && errno == EAGAIN) {
        return;
    }
    if (n <= 0 || c->len + (size_t)n >= sizeof(c->in) - 1) {
        drop(c);
        return;
    }
    c->len += (size_t)n;
    c->in[c->len] = '\0';
    if (c->is_busy && whole_answer(c, &status) > 0) {
        c->is_busy = false;
        count(&c->arrival, status);
        c->len = 0;
    }
}

/* Everything that should have started by now joins the queue. */
static void arrive(int64_t now, int phase)
{
    int i;

    for (i = 0; i < n_flows; i++) {
        double step_us = 1e6 / (flows[i].rate * phases[phase].factor);

        while (flows[i].due_us <= (double)now) {
            queue[queue_tail++ % QUEUE_MAX] =
                (struct arrival){.due_us = (int64_t)flows[i].due_us, .flow = i, .phase = phase};
            tallies[phase][i].asked++;
            flows[i].due_us += step_us;
        }
    }
}

/* Idle connections take what waits; what waited too long has failed. */
static void start_waiting(int64_t now)
{
    static int at;
    int tried;

    while (queue_head < queue_tail && queue[queue_head % QUEUE_MAX].due_us < now - GIVE_UP_US) {
        count(&queue[queue_head++ % QUEUE_MAX], 0);
    }
    for (tried = 0; tried < n_connections && queue_head < queue_tail; tried++) {
        struct connection *c = &connections[at++ % n_connections];

        if (c->is_busy && c->arrival.due_us < now - GIVE_UP_US) {
            drop(c);
        }
        if (!c->is_busy && (c->fd >= 0 || open_connection(c))) {
            send_request(c, &queue[queue_head++ % QUEUE_MAX]);
        }
    }
}

static bool is_anything_left(void)
{
    int i;

    for (i = 0; i < n_connections; i++) {
        if (connections[i].is_busy) {
            return true;
        }
    }
    return queue_head < queue_tail;
}

static void run(void)
{
    struct epoll_event events[256];
    int phase = 0, i, n;
    int64_t now = now_us(), ends;

    start_us = now;
    for (i = 0, ends = now; i < n_phases; i++) {
        ends += (int64_t)(phases[i].seconds * 1e6);
        phases[i].ends_us = ends;
    }
    for (i = 0; i < n_flows; i++) {
        flows[i].due_us = (double)now;
    }
    while (phase < n_phases || (is_anything_left() && now < ends + GIVE_UP_US)) {
        now = now_us();
        while (phase < n_phases && now >= phases[phase].ends_us) {
            phase++;
        }
        if (phase < n_phases) {
            arrive(now, phase);
        }
        start_waiting(now);
        n = epoll_wait(poll_fd, events, 256, 1);
        for (i = 0; i < n; i++) {
            receive(events[i].data.ptr);
        }
    }
    for (i = 0; i < n_connections; i++) {
        drop(&connections[i]);
    }
}

static void print(void)
{
    int p, f;
    size_t i;

    printf("{\"phases\":[");
    for (p = 0; p < n_phases; p++) {
        printf("%s{\"seconds\":%g,\"factor\":%g,\"flows\":{", p > 0 ? "," : "", phases[p].seconds,
               phases[p].factor);
        for (f = 0; f < n_flows; f++) {
            const struct tally *t = &tallies[p][f];

            printf("%s\"%s\":{\"asked\":%ld,\"answered\":%ld,\"refused\":%ld,\"failed\":%ld,"
                   "\"p50Ms\":%.2f,\"p99Ms\":%.2f,\"maxMs\":%.2f}",
                   f > 0 ? "," : "", flows[f].name, t->asked, t->answered, t->refused, t->failed,
                   mark_us(t, 0.5) / 1000, mark_us(t, 0.99) / 1000, (double)t->max_us / 1000);
        }
        printf("}}");
    }
    printf("],\"bucketMs\":%d,\"timeline\":[", BUCKET_US / 1000);
    for (i = 0; i < BUCKETS_MAX && (int64_t)i * BUCKET_US < phases[n_phases - 1].ends_us - start_us;
         i++) {
        printf("%s[%ld,%ld]", i > 0 ? "," : "", timeline[i][0], timeline[i][1]);
    }
    printf("]}\n");
}

static bool read_words(char **argv, int argc)
{
    FILE *file = fopen(argv[3], "re");
    char *at, *save = NULL;
    int i;

    port = (int)strtol(argv[1], NULL, 10);
    n_connections = (int)strtol(argv[2], NULL, 10);
    if (file == NULL || n_connections < 1 || n_connections > CONNECTIONS_MAX) {
        return false;
    }
    while (n_tokens < TOKENS_MAX && fscanf(file, "%79s", tokens[n_tokens]) == 1) {
        n_tokens++;
    }
    fclose(file);
    for (at = strtok_r(argv[4], ",", &save); at != NULL && n_phases < PHASES_MAX;
         at = strtok_r(NULL, ",", &save)) {
        if (sscanf(at, "%lf:%lf", &phases[n_phases].seconds, &phases[n_phases].factor) != 2) {
            return false;
        }
        n_phases++;
    }
    for (i = 5; i < argc && n_flows < FLOWS_MAX; i++) {
        struct flow *f = &flows[n_flows++];
        char *rate;

        f->name = strtok_r(argv[i], ":", &save);
        rate = strtok_r(NULL, ":", &save);
        f->method = strtok_r(NULL, ":", &save);
        f->path = strtok_r(NULL, "", &save);
        f->rate = rate == NULL ? 0 : strtod(rate, NULL);
        if (f->path == NULL || f->rate <= 0) {
            return false;
        }
    }
    return n_tokens > 0 && n_phases > 0 && n_flows > 0;
}

int main(int argc, char **argv)
{
    int i;

    if (argc < 6 || !read_words(argv, argc)) {
        fputs("usage: storm PORT CONNECTIONS TOKENS_FILE seconds:factor[,...] "
              "name:rate:METHOD:path...\n",
              stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (i = 0; i < n_connections; i++) {
        connections[i].fd = -1;
    }
    run();
    print();
    return 0;
}
