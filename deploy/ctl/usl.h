/* The Universal Scalability Law (N. J. Gunther, "Guerrilla Capacity Planning", 2007, ch. 4):
 *
 *   X(N) = gamma N / (1 + sigma (N - 1) + kappa N (N - 1))
 *
 * gamma is what one does alone, sigma the share of work that only one can do at a time
 * (contention), kappa the work of agreeing with each other (coherency). Pure. */
#ifndef DEPLOY_CTL_USL_H
#define DEPLOY_CTL_USL_H

#include <stdbool.h>
#include <stddef.h>

struct usl_point {
    double n;          /* how many work, 1 or more */
    double throughput; /* what they do together, above 0 */
    bool is_held_out;  /* not for the fit, but to judge it */
};

struct usl {
    double gamma, sigma, kappa; /* sigma and kappa are 0 or more */
};

/* Fit by least squares on the points that are not held out; three at least, with different n.
 * False: there are fewer, or they fit no such law. */
bool usl_fit(const struct usl_point *points, size_t n_points, struct usl *out);

/* Throughput of n by the law. */
double usl_throughput(const struct usl *law, double n);

/* Largest relative error of the law on the points that were held out, or on the others; 0 where
 * there are none. */
double usl_error(const struct usl *law, const struct usl_point *points, size_t n_points,
                 bool of_held_out);

#endif
