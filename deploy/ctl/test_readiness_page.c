/* Pages of metrics as readiness reads them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "deploy/ctl/readiness_page.h"

#define BUCKET(route, class, le, n)                                   \
    "http_server_request_duration_seconds_bucket{http_route=\"" route \
    "\",status_class=\"" class "\",le=\"" le "\"} " n "\n"
#define COUNT(route, class, n)                                       \
    "http_server_request_duration_seconds_count{http_route=\"" route \
    "\",status_class=\"" class "\"} " n "\n"
#define SUM(route, class, n)                                       \
    "http_server_request_duration_seconds_sum{http_route=\"" route \
    "\",status_class=\"" class "\"} " n "\n"

static const char page[] =
    "# HELP http_server_request_duration_seconds Time.\n"
    "# TYPE http_server_request_duration_seconds histogram\n" BUCKET("GET /a/*", "2xx", "0.5", "90")
        BUCKET("GET /a/*", "2xx", "1", "97") BUCKET("GET /a/*", "2xx", "10", "100")
            BUCKET("GET /a/*", "2xx", "+Inf", "100") SUM("GET /a/*", "2xx", "40.25")
                COUNT("GET /a/*", "2xx", "100") BUCKET("GET /a/*", "5xx", "1", "0")
                    COUNT("GET /a/*", "5xx", "7") BUCKET("POST /b", "4xx", "1", "3")
                        COUNT("POST /b", "4xx", "3") "maxbooster_db_calls_total 5\n"
                                                     "maxbooster_db_calls_total_more 100\n"
                                                     "maxbooster_config_epoch{process=\"0\"} 2\n"
                                                     "maxbooster_config_epoch{process=\"1\"} 2.5\n";

static void test_answers_and_slow_ones_are_counted_by_route(void **state)
{
    static struct rd_routes routes;
    const struct rd_route *a, *b;

    (void)state;
    routes.n = 0;
    rd_routes_add(&routes, page);
    assert_int_equal(routes.n, 2);
    a = rd_routes_find(&routes, "GET /a/*");
    assert_non_null(a);
    assert_int_equal(a->n, 107);
    assert_int_equal(a->n_done, 100);
    assert_int_equal(a->n_slow, 3); /* refusals after a wait are no work */
    b = rd_routes_find(&routes, "POST /b");
    assert_int_equal(b->n, 3);
    assert_int_equal(b->n_done, 0);
    assert_null(rd_routes_find(&routes, "GET /a"));
}

static void test_pages_of_several_instances_add_up(void **state)
{
    static struct rd_routes routes;

    (void)state;
    routes.n = 0;
    rd_routes_add(&routes, page);
    rd_routes_add(&routes, page);
    assert_int_equal(routes.n, 2);
    assert_int_equal(rd_routes_find(&routes, "GET /a/*")->n_slow, 6);
}

static void test_a_route_is_slow_past_one_percent_and_one_answer(void **state)
{
    (void)state;
    assert_true(rd_route_is_slow(&(struct rd_route){.n_done = 100, .n_slow = 2}));
    assert_false(rd_route_is_slow(&(struct rd_route){.n_done = 200, .n_slow = 2}));
    assert_false(rd_route_is_slow(&(struct rd_route){.n_done = 1, .n_slow = 1}));
    assert_true(rd_route_is_slow(&(struct rd_route){.n_done = 2, .n_slow = 2}));
    assert_false(rd_route_is_slow(&(struct rd_route){.n_done = 0, .n_slow = 0}));
}

static void test_a_metric_is_summed_over_its_labels_by_its_whole_name(void **state)
{
    (void)state;
    assert_true(rd_page_sum(page, "maxbooster_db_calls_total") == 5);
    assert_true(rd_page_sum(page, "maxbooster_config_epoch") == 4.5);
    assert_true(rd_page_sum(page, "maxbooster_db") == 0);
}

static void test_damaged_pages_are_read_as_far_as_they_go(void **state)
{
    static const char *const damaged[] = {
        "",
        "\n",
        "{",
        "}",
        "a{",
        "a{b=\"",
        "a{b=\"c\"}",
        "a{b=\"c\"} x\n",
        " ",
        "a \n",
        "http_server_request_duration_seconds_count{http_route=\"\n",
        "http_server_request_duration_seconds_count{http_route=\"x\"} 1",
        "http_server_request_duration_seconds_bucket{le=\"1\",http_route} 1",
    };
    static struct rd_routes routes;
    static char full[256], half[256];
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(damaged) / sizeof(damaged[0]); i++) {
        routes.n = 0;
        rd_routes_add(&routes, damaged[i]);
        assert_int_equal(routes.n, 0);
        assert_true(rd_page_sum(damaged[i], "a") == 0);
    }
    memset(full, 'r', sizeof(full) - 1); /* a name beyond the bound */
    rd_routes_add(&routes, full);
    memcpy(half, page, sizeof(half) - 1);
    rd_routes_add(&routes, half);
    assert_int_equal(routes.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_and_slow_ones_are_counted_by_route),
        cmocka_unit_test(test_pages_of_several_instances_add_up),
        cmocka_unit_test(test_a_route_is_slow_past_one_percent_and_one_answer),
        cmocka_unit_test(test_a_metric_is_summed_over_its_labels_by_its_whole_name),
        cmocka_unit_test(test_damaged_pages_are_read_as_far_as_they_go),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
