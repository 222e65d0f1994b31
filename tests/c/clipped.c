/* SPDX-License-Identifier: MIT
 * clipped.c - the cells on their own, with peepholes and a clip: against their formulas in long double, and to the bit
 * against themselves row by row, beside a row of NaN, on another instruction set, and against the fused steps. */
#define _GNU_SOURCE
#include "fence.h"

#define LIMIT 16 /* of the errors, in epsilon */

static long double tanh_of(long double x) { return tanhl(x); }
static long double sigmoid_of(long double x) { return 1 / (1 + expl(-x)); }

typedef struct job {
    const set *s;
    ptrdiff_t H;
    int relu;
    real clip;
    const matrix *z, *h_prev, *p, *q; /* p and q may be null */
    matrix *h, *c;                    /* c: null but for the LSTM; h: rh of gru_rh */
} job;

/* The rows r..r+n-1 of a job, and what they come to at one row and unit. */
typedef void runner(const job *j, ptrdiff_t r, ptrdiff_t n);
typedef struct wanted {
    long double h, c;
} wanted;
typedef wanted formula(const job *j, ptrdiff_t r, ptrdiff_t u);

static long double kept(const job *j, long double a) { return fminl(fmaxl(a, -j->clip), j->clip); }

static void run_rnn(const job *j, ptrdiff_t r, ptrdiff_t n)
{
    j->s->t->rnn_cell(n, j->H, j->relu, j->clip, &AT(j->z, r, 0), &AT(j->h, r, 0), j->h->ld);
}
static wanted rnn(const job *j, ptrdiff_t r, ptrdiff_t u)
{
    long double z = kept(j, AT(j->z, r, u));
    return (wanted){.h = j->relu ? fmaxl(0, z) : tanh_of(z)};
}

static void run_lstm(const job *j, ptrdiff_t r, ptrdiff_t n)
{
    j->s->t->lstm_cell(n, j->H, j->clip, &AT(j->z, r, 0), j->p ? j->p->at : NULL, &AT(j->c, r, 0), &AT(j->h, r, 0),
                       j->h->ld);
}
static wanted lstm(const job *j, ptrdiff_t r, ptrdiff_t u)
{
    ptrdiff_t H = j->H;
    long double c = WAS(j->c, r, u), p[3] = {0};
    for (ptrdiff_t k = 0; j->p && k < 3; k++)
        p[k] = AT(j->p, k, u);
    long double i = sigmoid_of(kept(j, AT(j->z, r, u) + p[0] * c)),
                f = sigmoid_of(kept(j, AT(j->z, r, H + u) + p[1] * c));
    c = f * c + i * tanh_of(kept(j, AT(j->z, r, 2 * H + u)));
    long double o = sigmoid_of(kept(j, AT(j->z, r, 3 * H + u) + p[2] * c));
    return (wanted){.h = o * tanh_of(kept(j, c)), .c = c};
}

static void run_gru(const job *j, ptrdiff_t r, ptrdiff_t n)
{
    j->s->t->gru_cell(n, j->H, j->clip, &AT(j->z, r, 0), j->q ? &AT(j->q, r, 0) : NULL, &AT(j->h_prev, r, 0),
                      j->h_prev->ld, &AT(j->h, r, 0), j->h->ld);
}
static wanted gru(const job *j, ptrdiff_t row, ptrdiff_t u)
{
    ptrdiff_t H = j->H;
    long double r = sigmoid_of(kept(j, AT(j->z, row, u))), z = sigmoid_of(kept(j, AT(j->z, row, H + u)));
    long double n = tanh_of(kept(j, AT(j->z, row, 2 * H + u) + (j->q ? r * AT(j->q, row, u) : 0)));
    return (wanted){.h = n + z * (AT(j->h_prev, row, u) - n)};
}

static void run_rh(const job *j, ptrdiff_t r, ptrdiff_t n)
{
    j->s->t->gru_rh(n, j->H, j->clip, &AT(j->z, r, 0), &AT(j->h_prev, r, 0), j->h_prev->ld, &AT(j->h, r, 0));
}
static wanted rh(const job *j, ptrdiff_t r, ptrdiff_t u)
{
    return (wanted){.h = sigmoid_of(kept(j, AT(j->z, r, u))) * AT(j->h_prev, r, u)};
}

/* ---- what holds for each ----------------------------------------------------------------------------------------- */

static void same_results(const job *j, const char *what)
{
    intact();
    same(j->h, what);
    if (j->c)
        same(j->c, what);
}

/* A row of NaN stays one, and its neighbours have the bits that were kept. */
static void check_sick_row(runner *run, job j)
{
    ptrdiff_t n = j.h->rows, sick_row = n / 2;
    matrix *sick = blank(n, j.z->cols, j.z->cols);
    for (ptrdiff_t r = 0; r < n; r++)
        for (ptrdiff_t k = 0; k < sick->cols; k++)
            AT(sick, r, k) = r == sick_row ? (real)NAN : AT(j.z, r, k);
    j.z = settled(sick);
    again();
    run(&j, 0, n);
    intact();
    same_rows(j.h, 0, sick_row, "a neighbour's NaN");
    same_rows(j.h, sick_row + 1, n, "a neighbour's NaN");
    for (ptrdiff_t u = 0; u < j.H; u++)
        if (!isnan(AT(j.h, sick_row, u)) || (j.c && !isnan(AT(j.c, sick_row, u))))
            fail("NaN was lost in unit %td", u);
}

static void check_cell(runner *run, formula *wants, job j, const char *name)
{
    ptrdiff_t n = j.h->rows;
    int shared = taken;
    for (int i = 0; i < n_sets; i++, taken = shared) {
        CHECKING("%s %s n=%td H=%td clip=%g relu=%d p=%d q=%d", sets[i].name, name, n, j.H, (double)j.clip, j.relu,
                 !!j.p, !!j.q);
        j.s = &sets[i];
        again();
        run(&j, 0, n);
        intact();
        for (ptrdiff_t r = 0; r < n; r++)
            for (ptrdiff_t u = 0; u < j.H; u++) {
                wanted want = wants(&j, r, u);
                near(j.h, r, u, want.h, LIMIT);
                if (j.c)
                    near(j.c, r, u, want.c, LIMIT);
            }
        if (follows(i))
            same_results(&j, "another instruction set");
        keep(j.h);
        if (j.c)
            keep(j.c);
        again();
        for (ptrdiff_t r = n - 1; r >= 0; r--)
            run(&j, r, 1);
        same_results(&j, "row by row");
        check_sick_row(run, j);
    }
}

/* With neither peepholes nor a clip, the bits of the fused step whose products are in z already. */
static void check_fused(runner *run, runner *fused, job j, const char *name)
{
    for (int i = 0; i < n_sets; i++) {
        CHECKING("%s %s n=%td H=%td relu=%d, the fused step", sets[i].name, name, j.h->rows, j.H, j.relu);
        j.s = &sets[i];
        again();
        fused(&j, 0, j.h->rows);
        keep(j.h);
        if (j.c)
            keep(j.c);
        again();
        run(&j, 0, j.h->rows);
        same_results(&j, "apart from its product");
    }
}
static void fused_rnn(const job *j, ptrdiff_t r, ptrdiff_t n)
{
    j->s->t->rnn_step(0, n, j->H, j->relu, &AT(j->z, r, 0), j->z->ld, NULL, 0, 0, j->z->at, 0, 0, j->z->at,
                      &AT(j->h, r, 0), j->h->ld);
}
static void fused_lstm(const job *j, ptrdiff_t r, ptrdiff_t n)
{
    j->s->t->lstm_step(0, n, j->H, j->H, &AT(j->z, r, 0), j->z->ld, NULL, 0, 0, j->z->at, 0, 0, j->z->at,
                       &AT(j->c, r, 0), &AT(j->h, r, 0), j->h->ld, NULL);
}

/* ---- the cells --------------------------------------------------------------------------------------------------- */

static const real clips[] = {(real)0.25, INFINITY}; /* z is in -1..1 */

static void check_rnn(ptrdiff_t n, ptrdiff_t H, ptrdiff_t unused, ptrdiff_t gap)
{
    (void)unused;
    job j = {.H = H, .z = given(n, H, H), .h = blank(n, H, H + gap)};
    for (j.relu = 0; j.relu < 2; j.relu++) {
        for (ptrdiff_t k = 0; k < LENGTH(clips); k++) {
            j.clip = clips[k];
            check_cell(run_rnn, rnn, j, "rnn_cell");
        }
        check_fused(run_rnn, fused_rnn, j, "rnn_cell");
    }
}

static void check_lstm(ptrdiff_t n, ptrdiff_t H, ptrdiff_t unused, ptrdiff_t gap)
{
    (void)unused;
    job j = {.H = H, .z = given(n, 4 * H, 4 * H), .c = both(n, H, H), .h = blank(n, H, H + gap)};
    const matrix *peepholes[] = {given(3, H, H), NULL};
    for (ptrdiff_t with = 0; with < 2; with++)
        for (ptrdiff_t k = 0; k < LENGTH(clips); k++) {
            j.p = peepholes[with], j.clip = clips[k];
            check_cell(run_lstm, lstm, j, "lstm_cell");
        }
    check_fused(run_lstm, fused_lstm, j, "lstm_cell");
}

static void check_gru(ptrdiff_t n, ptrdiff_t H, ptrdiff_t unused, ptrdiff_t gap)
{
    (void)unused;
    job j = {.H = H, .z = given(n, 3 * H, 3 * H), .h_prev = given(n, H, H + 2 * gap), .h = blank(n, H, H + gap)};
    const matrix *q = given(n, H, H);
    job reset = j;
    reset.h = blank(n, H, H);
    for (ptrdiff_t k = 0; k < LENGTH(clips); k++) {
        j.clip = reset.clip = clips[k];
        j.q = q;
        check_cell(run_gru, gru, j, "gru_cell");
        j.q = NULL;
        check_cell(run_gru, gru, j, "gru_cell");
        check_cell(run_rh, rh, reset, "gru_rh");
    }
}

int main(void)
{
    prepare();
    everywhere(check_rnn);
    everywhere(check_lstm);
    everywhere(check_gru);
    report("clipped");
}
