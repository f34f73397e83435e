/* The law on points that are known, and on some that follow none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "deploy/ctl/usl.h"
#include "lib/base.h"

static bool is_near(double a, double b)
{
    return fabs(a - b) <= 1e-6 * (1 + fabs(b));
}

static void make(const struct usl *law, struct usl_point *points, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        points[i] = (struct usl_point){.n = (double)(i + 1),
                                       .throughput = usl_throughput(law, (double)(i + 1)),
                                       .is_held_out = i % 3 == 2};
    }
}

static void test_points_of_a_law_give_the_law_back(void **state)
{
    static const struct usl laws[] = {{100, 0, 0},
                                      {8000, 0.05, 0},
                                      {8000, 0.02, 0.0005},
                                      {995.6, 0.0267, 0.000769},
                                      {1, 0, 0.01}};
    struct usl_point points[12];
    struct usl found;
    size_t i;

    (void)state;
    for (i = 0; i < ARRAY_LEN(laws); i++) {
        make(&laws[i], points, ARRAY_LEN(points));
        assert_true(usl_fit(points, ARRAY_LEN(points), &found));
        assert_true(is_near(found.gamma, laws[i].gamma));
        assert_true(is_near(found.sigma, laws[i].sigma));
        assert_true(is_near(found.kappa, laws[i].kappa));
        assert_true(usl_error(&found, points, ARRAY_LEN(points), true) < 1e-6);
    }
}

/* At sqrt((1 - sigma) / kappa). */
static void test_a_law_with_coherency_has_a_peak(void **state)
{
    const struct usl law = {1000, 0.03, 0.001};
    double peak = sqrt((1 - law.sigma) / law.kappa);

    (void)state;
    assert_true(usl_throughput(&law, peak) > usl_throughput(&law, peak - 2));
    assert_true(usl_throughput(&law, peak) > usl_throughput(&law, peak + 2));
}

static void test_better_than_linear_is_read_as_linear(void **state)
{
    struct usl_point points[] = {{1, 100, false}, {2, 204, false}, {4, 416, false}, {6, 630, true}};
    struct usl found;

    (void)state;
    assert_true(usl_fit(points, ARRAY_LEN(points), &found));
    assert_true(found.sigma == 0 && found.kappa == 0);
    assert_true(usl_error(&found, points, ARRAY_LEN(points), true) < 0.05);
}

static void test_held_out_points_are_not_fitted_but_judge(void **state)
{
    const struct usl law = {100, 0.1, 0};
    struct usl_point points[6];
    struct usl found;

    (void)state;
    make(&law, points, ARRAY_LEN(points));
    points[2].throughput *= 2;
    assert_true(usl_fit(points, ARRAY_LEN(points), &found));
    assert_true(is_near(found.sigma, 0.1));
    assert_true(is_near(usl_error(&found, points, ARRAY_LEN(points), true), 0.5));
    assert_true(usl_error(&found, points, ARRAY_LEN(points), false) < 1e-6);
}

static void test_too_few_or_senseless_points_are_refused(void **state)
{
    struct usl_point same[] = {{2, 100, false}, {2, 101, false}, {2, 102, false}};
    struct usl_point few[] = {{1, 100, false}, {2, 200, false}, {3, 300, true}};
    struct usl_point bad[] = {{1, 100, false}, {2, 0, false}, {3, 300, false}, {4, 400, false}};
    struct usl_point nan[] = {{1, 100, false}, {2, NAN, false}, {3, 300, false}};
    struct usl found;

    (void)state;
    assert_false(usl_fit(same, ARRAY_LEN(same), &found));
    assert_false(usl_fit(few, ARRAY_LEN(few), &found));
    assert_false(usl_fit(bad, ARRAY_LEN(bad), &found));
    assert_false(usl_fit(nan, ARRAY_LEN(nan), &found));
    assert_false(usl_fit(NULL, 0, &found));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_points_of_a_law_give_the_law_back),
        cmocka_unit_test(test_a_law_with_coherency_has_a_peak),
        cmocka_unit_test(test_better_than_linear_is_read_as_linear),
        cmocka_unit_test(test_held_out_points_are_not_fitted_but_judge),
        cmocka_unit_test(test_too_few_or_senseless_points_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
