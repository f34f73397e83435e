/* What a load needs, on costs that can be reckoned by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "deploy/ctl/capacity.h"

/* 1 ms of each tier a request; instances cost each other nothing. */
static const struct cap_costs plain = {
    .request_ms = {[CAP_PROXY] = 0.1, [CAP_API] = 0.1, [CAP_POSTGRES] = 0.1, [CAP_REDIS] = 0.05},
    .upload_ms = {[CAP_WORKER] = 5000},
    .upload_bytes = 10e6,
    .law = {10000, 0, 0},
    .n_measured = 6,
};

static void test_users_are_a_load_by_littles_law(void **state)
{
    struct cap_need n;

    (void)state;
    cap_plan(&plain, 10000, 0.001, &n);
    assert_true(fabs(n.requests_per_s - 980.392) < 0.001);
    assert_true(fabs(n.uploads_per_s - 0.980392) < 0.001);
    assert_true(fabs(n.cores[CAP_API] - 0.0980392) < 0.0001);
    assert_true(fabs(n.cores[CAP_WORKER] - 4.90196) < 0.001);
}

static void test_ten_thousand_users_take_one_machine(void **state)
{
    struct cap_need n;

    (void)state;
    cap_plan(&plain, 10000, 0, &n);
    assert_int_equal(n.phase, 0);
    assert_int_equal(n.machines, 1);
    assert_true(n.dollars == 62.05);
    assert_true(n.storage_dollars == 0);
}

static void test_a_fleet_is_the_sum_of_its_tiers(void **state)
{
    struct cap_need n;

    (void)state;
    cap_plan(&plain, 100000000, 0, &n); /* 9,803,922 requests a second */
    assert_int_equal(n.phase, 3);
    assert_int_equal(n.instances, 817); /* 980.4 cores / (2 × 0.6) */
    assert_int_equal(n.proxies, 817);
    assert_int_equal(n.database_groups, 246); /* 980.4 / (2 × 4 × 0.5) */
    assert_int_equal(n.shards, 256);
    assert_int_equal(n.redis_nodes, 2 * 981); /* 490.2 / 0.5 */
    assert_int_equal(n.workers, 2);
    assert_int_equal(n.machines, 817 + 817 + 3 * 246 + 2 * 981 + 2);
    assert_true(n.is_beyond);
}

static void test_sessions_alone_may_need_redis_nodes(void **state)
{
    struct cap_costs idle = {.law = {10000, 0, 0}, .n_measured = 6};
    struct cap_need n;

    (void)state;
    cap_plan(&idle, 100000000, 0, &n);
    assert_int_equal(n.redis_nodes, 2 * 10); /* 95.4 GiB / 9.6 */
}

static void test_contention_and_coherency_cost_instances(void **state)
{
    struct cap_costs c = plain;
    struct cap_need without, with;

    (void)state;
    cap_plan(&plain, 1000000, 0, &without);
    c.law.sigma = 0.02;
    cap_plan(&c, 1000000, 0, &with);
    assert_true(with.instances > without.instances);
    c.law.kappa = 0.01; /* the peak, at 10, is the bound then */
    cap_plan(&c, 1000000, 0, &with);
    assert_true(with.is_beyond && with.instances > without.instances);
    assert_true(with.instances < 100 * without.instances);
}

static void test_more_users_never_need_less(void **state)
{
    struct cap_costs c = plain;
    struct cap_need before, now;
    int64_t users;

    (void)state;
    c.law.sigma = 0.01;
    c.law.kappa = 0.0001;
    cap_plan(&c, 1000, 0.0001, &before);
    for (users = 2000; users <= 100000000; users *= 2) {
        cap_plan(&c, users, 0.0001, &now);
        assert_true(now.dollars >= before.dollars && now.instances >= before.instances);
        assert_true(now.shards >= before.shards && now.workers >= before.workers);
        before = now;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_users_are_a_load_by_littles_law),
        cmocka_unit_test(test_ten_thousand_users_take_one_machine),
        cmocka_unit_test(test_a_fleet_is_the_sum_of_its_tiers),
        cmocka_unit_test(test_sessions_alone_may_need_redis_nodes),
        cmocka_unit_test(test_contention_and_coherency_cost_instances),
        cmocka_unit_test(test_more_users_never_need_less),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
