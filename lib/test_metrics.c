/* Metrics of one process, as Prometheus reads them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/config.h"
#include "lib/metrics.h"
#include "lib/pg_internal.h"

static const char *route_name(int index)
{
    return index == 0 ? "GET /a" : "POST /b";
}

static const struct metrics_plan plan = {.routes = 2, .route_name = route_name};

static int group_setup(void **state)
{
    (void)state;
    setenv("INSTANCE_SHM", "", 1); /* memory of this process only */
    return config_load(stderr) ? 0 : -1;
}

static int setup(void **state)
{
    *state = arena_open(1 << 20);
    metrics_open(&plan);
    return 0;
}

static int teardown(void **state)
{
    struct arena *arena = *state;

    metrics_close();
    arena_close(&arena);
    return 0;
}

static const char *page(struct arena *a)
{
    struct strbuf b;

    strbuf_init(&b, a, 1024);
    metrics_write(&b);
    return b.data;
}

static void assert_line(struct arena *a, const char *line)
{
    const char *text = page(a), *at = strstr(text, line);

    if (at == NULL || (at != text && at[-1] != '\n') || at[strlen(line)] != '\n') {
        fail_msg("there is no line %s in\n%s", line, text);
    }
}

static void test_counters_start_at_nothing_and_add_up(void **state)
{
    assert_line(*state, "maxbooster_rate_limited_total 0");
    metrics_add(METRIC_RATE_LIMITED, 1);
    metrics_add(METRIC_RATE_LIMITED, 41);
    assert_line(*state, "maxbooster_rate_limited_total 42");
    assert_line(*state, "maxbooster_overloaded_total 0");
}

static void test_counters_never_go_down(void **state)
{
    metrics_add(METRIC_RATE_LIMITED, 5);
    metrics_add(METRIC_RATE_LIMITED, -3);
    metrics_add(METRIC_RATE_LIMITED, 0);
    assert_line(*state, "maxbooster_rate_limited_total 5");
}

#define BUCKET(le)                                                  \
    "http_server_request_duration_seconds_bucket{http_route=\"GET " \
    "/a\",status_class=\"2xx\",le=\"" le "\"} "

static void test_a_duration_falls_into_its_bucket_and_all_above(void **state)
{
    metrics_request(0, 200, 1000);     /* on the bound: within it */
    metrics_request(0, 204, 1001);     /* just past it */
    metrics_request(0, 299, 99999999); /* past the last */
    assert_line(*state, BUCKET("0.001") "1");
    assert_line(*state, BUCKET("0.0025") "2");
    assert_line(*state, BUCKET("10") "2");
    assert_line(*state, BUCKET("+Inf") "3");
    assert_line(*state, "http_server_request_duration_seconds_sum{http_route=\"GET /a\","
                        "status_class=\"2xx\"} 100.002000");
    assert_line(*state, "http_server_request_duration_seconds_count{http_route=\"GET /a\","
                        "status_class=\"2xx\"} 3");
}

static void test_routes_and_classes_are_kept_apart(void **state)
{
    metrics_request(0, 200, 1);
    metrics_request(1, 404, 1);
    metrics_request(1, 503, 1);
    metrics_request(-1, 404, 1);
    metrics_request(0, 0, 1);
    assert_line(*state, "http_server_request_duration_seconds_count{http_route=\"POST /b\","
                        "status_class=\"4xx\"} 1");
    assert_line(*state, "http_server_request_duration_seconds_count{http_route=\"POST /b\","
                        "status_class=\"5xx\"} 1");
    assert_line(*state, "http_server_request_duration_seconds_count{http_route=\"none\","
                        "status_class=\"4xx\"} 1");
    assert_line(*state, "http_server_request_duration_seconds_count{http_route=\"GET /a\","
                        "status_class=\"0xx\"} 1");
    assert_null(strstr(page(*state), "{http_route=\"POST /b\",status_class=\"2xx\""));
}

static void test_a_clock_that_went_back_does_no_harm(void **state)
{
    metrics_request(0, 200, -5);
    assert_line(*state, "http_server_request_duration_seconds_sum{http_route=\"GET /a\","
                        "status_class=\"2xx\"} 0.000000");
}

static void test_this_process_and_its_databases_are_told(void **state)
{
    assert_line(*state, "maxbooster_processes 1");
    pg_pool_of("host=a port=5432 dbname=x", NULL);
    pg_pool_of("host=b port=5433 dbname=x", NULL);
    assert_line(*state, "maxbooster_db_connections_used{database=\"a:5432/x\"} 0");
    assert_line(*state, "maxbooster_db_breaker_state{database=\"b:5433/x\"} 0");
}

/* Text format 0.0.4: every sample's name was announced, each name once, and the page ends with a
 * line end. */
static void test_the_page_is_well_formed(void **state)
{
    char *text, *line, *rest;
    char announced[128] = "";

    metrics_request(0, 200, 1);
    text = arena_strdup(*state, page(*state));
    assert_int_equal(text[strlen(text) - 1], '\n');
    for (line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "# TYPE ", 7) == 0) {
            assert_true(strncmp(line + 7, announced, strlen(announced)) == 0);
        } else if (strncmp(line, "# HELP ", 7) == 0) {
            snprintf(announced, sizeof(announced), "%.*s", (int)strcspn(line + 7, " "), line + 7);
        } else {
            assert_true(strncmp(line, announced, strlen(announced)) == 0);
            assert_non_null(strrchr(line, ' '));
        }
    }
}

static void test_the_docs_list_every_metric(void **state)
{
    static const char *const names[] = {
#define COUNTER(symbol, name, help) name,
#define ROUTE_HISTOGRAM(symbol, name, help) name,
#define GAUGE(symbol, name, help) name,
#define LAYER(symbol, name, level, help) "maxbooster_layer_active{layer=\"" name "\"}",
#define COMPUTED(write, name, type, by, help) name,
#define DATABASE(field, name, type, help) name,
#include "lib/metrics.def"
    };
    char *docs = NULL;
    size_t len = 0, i;
    FILE *out = open_memstream(&docs, &len);

    metrics_print_docs(out);
    fclose(out);
    for (i = 0; i < ARRAY_LEN(names); i++) {
        assert_non_null(strstr(docs, names[i]));
        assert_non_null(strstr(page(*state), names[i]));
    }
    free(docs);
}

static void test_openmetrics_names_families_without_total_and_ends(void **state)
{
    struct arena *arena = arena_open(1 << 20);
    struct strbuf text, out;

    (void)state;
    strbuf_init(&text, arena, 64);
    strbuf_init(&out, arena, 64);
    strbuf_puts(&text, "# HELP a_total x_total y\n# TYPE a_total counter\na_total 1\n"
                       "# TYPE b gauge\nb{l=\"_total\"} 2\n");
    metrics_to_openmetrics(&text, &out);
    assert_string_equal(out.data, "# HELP a x_total y\n# TYPE a counter\na_total 1\n"
                                  "# TYPE b gauge\nb{l=\"_total\"} 2\n# EOF\n");
    arena_close(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_counters_start_at_nothing_and_add_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_counters_never_go_down, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_duration_falls_into_its_bucket_and_all_above, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_routes_and_classes_are_kept_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_clock_that_went_back_does_no_harm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_this_process_and_its_databases_are_told, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_page_is_well_formed, setup, teardown),
        cmocka_unit_test(test_openmetrics_names_families_without_total_and_ends),
        cmocka_unit_test_setup_teardown(test_the_docs_list_every_metric, setup, teardown),
    };

    return cmocka_run_group_tests_name("metrics", tests, group_setup, NULL);
}
