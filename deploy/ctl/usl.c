/* n / X(n) is linear in the unknowns: a + b (n - 1) + c n (n - 1), with a = 1 / gamma, b = sigma /
 * gamma, c = kappa / gamma. So the normal equations give the fit; each point is weighted by its
 * throughput, so that relative errors count alike. A negative b or c is no cost at all: it is set
 * to 0, and the others are fitted again. */
#include "deploy/ctl/usl.h"

#include <math.h>
#include <string.h>

#include "lib/base.h"

enum { UNKNOWNS = 3, POINTS_LEAST = 3 };

/* Solve by Gauss-Jordan with pivots; unknowns that are not used stay 0. False: singular. */
static bool solve(double m[UNKNOWNS][UNKNOWNS + 1], double x[UNKNOWNS])
{
    int column, row, k;

    for (column = 0; column < UNKNOWNS; column++) {
        int pivot = column;
        double swap;

        for (row = column + 1; row < UNKNOWNS; row++) {
            pivot = fabs(m[row][column]) > fabs(m[pivot][column]) ? row : pivot;
        }
        if (fabs(m[pivot][column]) < 1e-12) {
            return false;
        }
        for (k = 0; k <= UNKNOWNS; k++) {
            swap = m[column][k];
            m[column][k] = m[pivot][k];
            m[pivot][k] = swap;
        }
        for (row = 0; row < UNKNOWNS; row++) {
            double factor = row == column ? 0 : m[row][column] / m[column][column];

            for (k = column; k <= UNKNOWNS; k++) {
                m[row][k] -= factor * m[column][k];
            }
        }
    }
    for (row = 0; row < UNKNOWNS; row++) {
        x[row] = m[row][UNKNOWNS] / m[row][row];
    }
    return true;
}

/* Least squares with the unknowns that are in use. */
static bool fit(const struct usl_point *points, size_t n_points, const bool used[UNKNOWNS],
                double x[UNKNOWNS])
{
    double m[UNKNOWNS][UNKNOWNS + 1] = {{0}};
    size_t i;
    int row, k;

    for (i = 0; i < n_points; i++) {
        const struct usl_point *p = &points[i];
        /* The equation over n / X: what each unknown counts for, relative to what was seen. */
        double seen = p->n / p->throughput;
        double basis[UNKNOWNS] = {1 / seen, (p->n - 1) / seen, p->n * (p->n - 1) / seen};

        for (row = 0; !p->is_held_out && row < UNKNOWNS; row++) {
            for (k = 0; k < UNKNOWNS; k++) {
                m[row][k] += used[row] && used[k] ? basis[row] * basis[k] : 0;
            }
            m[row][UNKNOWNS] += used[row] ? basis[row] : 0;
        }
    }
    for (row = 0; row < UNKNOWNS; row++) {
        m[row][row] = used[row] ? m[row][row] : 1;
    }
    return solve(m, x);
}

static size_t count_fitted(const struct usl_point *points, size_t n_points)
{
    size_t i, n = 0;

    for (i = 0; i < n_points; i++) {
        if (!(points[i].n >= 1) || !(points[i].throughput > 0)) {
            return 0;
        }
        n += !points[i].is_held_out;
    }
    return n;
}

bool usl_fit(const struct usl_point *points, size_t n_points, struct usl *out)
{
    bool used[UNKNOWNS] = {true, true, true};
    double x[UNKNOWNS];
    int i, worst = 0;

    if (count_fitted(points, n_points) < POINTS_LEAST) {
        return false;
    }
    while (worst >= 0) {
        if (!fit(points, n_points, used, x)) {
            return false;
        }
        for (worst = -1, i = 1; i < UNKNOWNS; i++) {
            worst = used[i] && x[i] < 0 && (worst < 0 || x[i] < x[worst]) ? i : worst;
        }
        if (worst >= 0) {
            used[worst] = false;
        }
    }
    *out = (struct usl){.gamma = 1 / x[0], .sigma = x[1] / x[0], .kappa = x[2] / x[0]};
    return x[0] > 0;
}

double usl_throughput(const struct usl *law, double n)
{
    return law->gamma * n / (1 + law->sigma * (n - 1) + law->kappa * n * (n - 1));
}

double usl_error(const struct usl *law, const struct usl_point *points, size_t n_points,
                 bool of_held_out)
{
    double worst = 0;
    size_t i;

    for (i = 0; i < n_points; i++) {
        double told = usl_throughput(law, points[i].n);
        double error = fabs(told - points[i].throughput) / points[i].throughput;

        worst = points[i].is_held_out == of_held_out && error > worst ? error : worst;
    }
    return worst;
}
