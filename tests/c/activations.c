/* SPDX-License-Identifier: MIT
 * activations.c - tanh and sigmoid against the C library's in long double, over a comb through all floats and over many
 * doubles, with NaN, infinities, zeros and the ends of the ranges; and every length, flush with either fence.
 * Subnormals are flushed meanwhile, as they are wherever the primitives are called: a result below the normal numbers
 * must be 0.
 * activations [teeth]: every teeth-th float, by default each 2003rd. */
#define _GNU_SOURCE
#include "fence.h"

#define LIMIT 2.5                                       /* ulp: what frnn.h says */
#define LEAST ((long double)(WIDE ? DBL_MIN : FLT_MIN)) /* normal number */

enum { SIGMOID, TANH, FUNCTIONS };
static const char *const names[] = {"sigmoid", "tanh"};
static long double worst_ulp[LENGTH(sets)][FUNCTIONS];

static void apply(const set *s, int function, ptrdiff_t n, const real *x, real *y)
{
    (function == TANH ? s->t->tanh : s->t->sigmoid)(n, x, y);
}

static long double truth(int function, real x)
{
    return function == TANH ? tanhl(x) : x < 0 ? expl(x) / (1 + expl(x)) : 1 / (1 + expl(-(long double)x));
}

/* The distance between neighbours of the type around a number. */
static long double ulp(long double number)
{
#if WIDE
    const int digits = DBL_MANT_DIG, lowest = DBL_MIN_EXP;
#else
    const int digits = FLT_MANT_DIG, lowest = FLT_MIN_EXP;
#endif
    int exponent;
    frexpl(number, &exponent);
    return ldexpl(1, (exponent > lowest ? exponent : lowest) - digits);
}

static void check_value(int function, int i, real x, real y, long double want)
{
    long double unit = ulp(want), off = fabsl(y - want) / unit;
    CHECKING("%s %s(%a)", sets[i].name, names[function], (double)x);
    if (isnan(x) && isnan(y))
        return;
    if (isnan(x) || !(y <= 1 && y >= (function == TANH ? -1 : 0)))
        fail("%a is outside of its interval", (double)y);
    if (!signbit(y) != !(function == TANH && signbit(x)))
        fail("%a has the wrong sign", (double)y);
    if (y == 0 && fabsl(want) < LEAST + LIMIT * unit)
        return;
    if (fabsl(want) < LEAST - LIMIT * unit)
        fail("%a, not 0", (double)y);
    if (!(off <= LIMIT))
        fail("%a, not %La: off by %.3Lf ulp", (double)y, want, off);
    if (fabsl(want - rintl(want)) < unit / 1024 && y != rintl(want))
        fail("%a, but its end is %.0Lf", (double)y, want);
    if (off > worst_ulp[i][function])
        worst_ulp[i][function] = off;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

enum { LOT = 4096 };

static real arguments[LOT];
static int waiting;

static void check_lot(void)
{
    static real opposite[LOT], y[LOT], first[LOT];
    for (int k = 0; k < waiting; k++)
        opposite[k] = -arguments[k];
    for (int function = 0; function < FUNCTIONS; function++)
        for (int i = 0; i < n_sets; i++) {
            apply(&sets[i], function, waiting, arguments, y);
            if (follows(i) && differ(y, first, waiting))
                fail("%s %s has other bits than %s", sets[i].name, names[function], sets[i - 1].name);
            if (follows(i))
                continue;
            memcpy(first, y, sizeof y);
            for (int k = 0; k < waiting; k++)
                check_value(function, i, arguments[k], y[k], truth(function, arguments[k]));
            if (function == SIGMOID)
                continue;
            apply(&sets[i], function, waiting, opposite, y);
            for (int k = 0; k < waiting; k++)
                if (!isnan(y[k]) && y[k] != -first[k])
                    fail("%s tanh(%a) is not odd", sets[i].name, (double)arguments[k]);
        }
    waiting = 0;
}

static void check_at(real x)
{
    arguments[waiting++] = x;
    if (waiting == LOT)
        check_lot();
}

static void check_bits(bits pattern)
{
    real x;
    memcpy(&x, &pattern, sizeof x);
    check_at(x);
}

#if WIDE
static void check_values(long long teeth)
{
    static const bits nans[] = {0x7ff8000000000000, 0xfff8000000000000, 0x7ff0000000000001, 0xffffffffffffffff};
    for (int i = 0; i < LENGTH(nans); i++)
        check_bits(nans[i]);
    for (long long i = 0; i < 1000000000 / teeth; i++) {
        int exponent = (int)(uniform() * 1080);
        check_at(uniform() * 40); /* where neither function is constant */
        check_at(ldexp(uniform(), exponent));
        check_at(-710 - 20 * uniform()); /* the tail of the sigmoid */
    }
}
#else
static void check_values(long long teeth)
{
    for (long long pattern = 0; pattern <= UINT32_MAX; pattern += teeth)
        check_bits((bits)pattern);
}
#endif

static void check_ends(void)
{
    static const double ends[] = {0, 1, 17, 18, 19, 20, 37, 38, 39, 87, 88, 89, 103, 104, 105, 708, 709, 745, 746, 747};
    for (int i = 0; i < LENGTH(ends); i++)
        for (int sign = -1; sign <= 1; sign += 2)
            check_at((real)(sign * ends[i])), check_at((real)(sign * nextafter(ends[i], INFINITY)));
    real odd[] = {(real)INFINITY, WIDE ? (real)DBL_MAX : FLT_MAX, WIDE ? (real)DBL_MIN : FLT_MIN, EPSILON};
    for (int i = 0; i < LENGTH(odd); i++)
        check_at(odd[i]), check_at(-odd[i]);
    const bits sign = (bits)-1 ^ (bits)-1 >> 1;
    check_bits(1); /* the least number */
    check_bits(sign);
    check_bits(sign + 1);
}

/* ---- lengths ----------------------------------------------------------------------------------------------------- */

/* n * N elements at once, in place or not, have the bits of each alone. */
static void check_lengths(ptrdiff_t n, ptrdiff_t N, ptrdiff_t unused, ptrdiff_t gap)
{
    (void)unused, (void)gap;
    for (int i = 0; i < n_sets; i++)
        for (int function = 0; function < FUNCTIONS; function++) {
            CHECKING("%s %s of %td elements", sets[i].name, names[function], n * N);
            taken = 0;
            matrix *x = given(1, n * N, n * N), *y = blank(1, n * N, n * N), *z = blank(1, n * N, n * N);
            apply(&sets[i], function, n * N, x->at, y->at);
            memcpy(z->at, x->at, (size_t)(n * N) * sizeof(real));
            apply(&sets[i], function, n * N, z->at, z->at);
            intact();
            for (ptrdiff_t k = 0; k < n * N; k++) {
                real alone;
                apply(&sets[i], function, 1, &AT(x, 0, k), &alone);
                equal(y, 0, k, alone);
                equal(z, 0, k, alone);
            }
        }
}

int main(int count, char **words)
{
    prepare();
    frnn_flush();
    check_ends();
    check_values(count > 1 ? atoll(words[1]) : 2003);
    check_lot();
    everywhere(check_lengths);
    printf("ok activations, %s, worst ulp of sigmoid and tanh:", TYPE);
    for (int i = 0; i < n_sets; i++)
        if (!follows(i))
            printf(" %s %.3Lf %.3Lf", sets[i].name, worst_ulp[i][SIGMOID], worst_ulp[i][TANH]);
    printf("\n");
}
