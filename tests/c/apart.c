/* SPDX-License-Identifier: MIT
 * apart.c - the cells apart from their products, with peepholes and a clip: against their formulas in long double, and
 * to the bit against themselves row by row, beside a row of NaN, on another instruction set, and against the fused
 * steps. */
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
    matrix *z;                    /* n rows */
    const matrix *h_prev, *p, *q; /* p and q may be null */
    matrix *h, *c, *tape;         /* h: rh of gru_gates; c and tape: may be null */
} job;

/* The rows r..r+n-1 of a job, and what they come to at one row and unit. */
typedef void runner(const job *j, ptrdiff_t r, ptrdiff_t n);
typedef struct wanted {
    long double h, c, gates[3];
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

static void run_gates(const job *j, ptrdiff_t r, ptrdiff_t n)
{
    j->s->t->gru_gates(n, j->H, j->clip, &AT(j->z, r, 0), &AT(j->h_prev, r, 0), j->h_prev->ld, &AT(j->h, r, 0),
                       j->h->ld);
}
static wanted gates(const job *j, ptrdiff_t row, ptrdiff_t u)
{
    ptrdiff_t H = j->H;
    long double r = sigmoid_of(kept(j, WAS(j->z, row, u))), z = sigmoid_of(kept(j, WAS(j->z, row, H + u)));
    return (wanted){.h = r * AT(j->h_prev, row, u), .gates = {r, z, WAS(j->z, row, 2 * H + u)}};
}

static void run_reset(const job *j, ptrdiff_t r, ptrdiff_t n)
{
    j->s->t->gru_reset(n, j->H, j->clip, &AT(j->z, r, 0), j->q ? &AT(j->q, r, 0) : NULL, &AT(j->h_prev, r, 0),
                       j->h_prev->ld, &AT(j->h, r, 0), j->h->ld, j->tape ? &AT(j->tape, r, 0) : NULL);
}
static wanted reset(const job *j, ptrdiff_t row, ptrdiff_t u)
{
    ptrdiff_t H = j->H;
    long double r = AT(j->z, row, u), z = AT(j->z, row, H + u);
    long double n = tanh_of(kept(j, AT(j->z, row, 2 * H + u) + (j->q ? r * AT(j->q, row, u) : 0)));
    return (wanted){.h = n + z * (AT(j->h_prev, row, u) - n), .gates = {r, z, n}};
}

/* ---- what holds for each ----------------------------------------------------------------------------------------- */

enum { RESULTS = 4 };

/* Those that a job has, at most so many. */
static int results_of(const job *j, matrix **results)
{
    matrix *all[RESULTS] = {j->h, j->c, j->tape, j->z};
    int n = 0;
    for (int k = 0; k < RESULTS; k++)
        if (all[k] && all[k]->result)
            results[n++] = all[k];
    return n;
}

static void keep_results(const job *j)
{
    matrix *results[RESULTS];
    for (int k = 0, n = results_of(j, results); k < n; k++)
        keep(results[k]);
}

static void same_results(const job *j, const char *what)
{
    matrix *results[RESULTS];
    intact();
    for (int k = 0, n = results_of(j, results); k < n; k++)
        same(results[k], what);
}

static void check_numbers(formula *wants, const job *j)
{
    const matrix *gates_of = j->z->result ? j->z : j->tape;
    for (ptrdiff_t r = 0; r < j->h->rows; r++)
        for (ptrdiff_t u = 0; u < j->H; u++) {
            wanted want = wants(j, r, u);
            near(j->h, r, u, want.h, LIMIT);
            if (j->c)
                near(j->c, r, u, want.c, LIMIT);
            for (ptrdiff_t k = 0; gates_of && k < 3; k++)
                near(gates_of, r, k * j->H + u, want.gates[k], LIMIT);
            if (j->tape) /* of its last part others take care */
                equal(j->tape, r, 3 * j->H + u, WAS(j->tape, r, 3 * j->H + u));
        }
}

/* A row of NaN stays one, and its neighbours have the bits that were kept. */
static void check_sick_row(runner *run, job j)
{
    ptrdiff_t n = j.h->rows, sick_row = n / 2;
    matrix *sick = stand(n, j.z->cols, j.z->cols, j.z->result);
    for (ptrdiff_t r = 0; r < n; r++)
        for (ptrdiff_t k = 0; k < sick->cols; k++)
            AT(sick, r, k) = r == sick_row ? (real)NAN : WAS(j.z, r, k);
    j.z = remembered(sick);
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
        CHECKING("%s %s n=%td H=%td clip=%g relu=%d p=%d q=%d tape=%d", sets[i].name, name, n, j.H, (double)j.clip,
                 j.relu, !!j.p, !!j.q, !!j.tape);
        j.s = &sets[i];
        again();
        run(&j, 0, n);
        intact();
        check_numbers(wants, &j);
        if (follows(i))
            same_results(&j, "another instruction set");
        keep_results(&j);
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
        keep_results(&j);
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
    job first = {.H = H, .h_prev = given(n, H, H + 2 * gap), .h = blank(n, H, H + gap)}, second = first;
    const matrix *q = given(n, H, H);
    matrix *tape = blank(n, FRNN_GRU_TAPE * H, FRNN_GRU_TAPE * H);
    first.z = both(n, 3 * H, 3 * H);
    second.z = given(n, 3 * H, 3 * H);
    for (ptrdiff_t k = 0; k < LENGTH(clips); k++) {
        first.clip = second.clip = clips[k];
        check_cell(run_gates, gates, first, "gru_gates");
        for (int with = 0; with < 4; with++) {
            second.q = with & 1 ? q : NULL;
            second.tape = with & 2 ? tape : NULL;
            check_cell(run_reset, reset, second, "gru_reset");
        }
    }
}

int main(void)
{
    prepare();
    everywhere(check_rnn);
    everywhere(check_lstm);
    everywhere(check_gru);
    report("apart");
}
