/* The door as a scraper meets it. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/door.h"

static int port;

static void write_metrics(struct strbuf *out)
{
    strbuf_printf(out, "%s 3\n", door_head(out, DOOR_BUSY));
}

static int connect_door(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* All that comes back for a request that is sent in two pieces. */
static void ask(const char *request, char *reply, size_t size)
{
    int fd = connect_door();
    size_t half = strlen(request) / 2, len = 0;
    ssize_t n;

    assert_int_equal(send(fd, request, half, 0), half);
    assert_int_equal(send(fd, request + half, strlen(request) - half, 0), strlen(request) - half);
    while ((n = recv(fd, reply + len, size - 1 - len, 0)) > 0) {
        len += (size_t)n;
    }
    reply[len] = '\0';
    close(fd);
}

static int open_door(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    (void)state;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, (const struct sockaddr *)&address, len) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) != 0) {
        return -1;
    }
    port = ntohs(address.sin_port);
    close(fd);
    return door_open(port, write_metrics) ? 0 : -1;
}

static void test_metrics_are_told_in_prometheus_form(void **state)
{
    char reply[4096];

    (void)state;
    ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", reply, sizeof(reply));
    assert_non_null(strstr(reply, "HTTP/1.0 200 OK\r\n"));
    assert_non_null(strstr(reply, "# TYPE maxbooster_worker_busy_threads gauge\n"
                                  "maxbooster_worker_busy_threads 3\n"));
}

static void test_nothing_else_is_told(void **state)
{
    char reply[4096];

    (void)state;
    ask("GET / HTTP/1.1\r\n\r\n", reply, sizeof(reply));
    assert_non_null(strstr(reply, "404 Not Found"));
    ask("POST /metrics HTTP/1.1\r\n\r\n", reply, sizeof(reply));
    assert_non_null(strstr(reply, "404 Not Found"));
}

static void test_a_caller_who_says_nothing_holds_up_the_next_for_a_moment_only(void **state)
{
    int silent = connect_door();
    char reply[4096];

    (void)state;
    ask("GET /metrics HTTP/1.1\r\n\r\n", reply, sizeof(reply));
    assert_non_null(strstr(reply, "200 OK"));
    close(silent);
}

static void test_a_taken_port_is_told_and_no_port_is_no_fault(void **state)
{
    (void)state;
    assert_false(door_open(port, write_metrics));
    assert_true(door_open(0, write_metrics));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metrics_are_told_in_prometheus_form),
        cmocka_unit_test(test_nothing_else_is_told),
        cmocka_unit_test(test_a_caller_who_says_nothing_holds_up_the_next_for_a_moment_only),
        cmocka_unit_test(test_a_taken_port_is_told_and_no_port_is_no_fault),
    };

    return cmocka_run_group_tests(tests, open_door, NULL);
}
