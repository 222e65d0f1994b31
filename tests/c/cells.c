/* SPDX-License-Identifier: MIT
 * cells.c - one step of each cell, forward and backward: against its formula in long double, and to the bit against the
 * same step done another way: row by row, units shared out, the input's product hoisted, without a tape, beside a row
 * of NaN, on another instruction set. */
#define _GNU_SOURCE
#include "fence.h"

#define LIMIT 32 /* of the errors, in epsilon: sums of up to 130 products of numbers up to 1, and two slopes */

static long double tanh_of(long double x) { return tanhl(x); }
static long double sigmoid_of(long double x) { return 1 / (1 + expl(-x)); }

/* ---- a forward step ---------------------------------------------------------------------------------------------- */

typedef struct job {
    const set *s;
    ptrdiff_t G, H, I, P;
    int relu, turn;
    ptrdiff_t block;                 /* units can be shared out in runs of so many; 0: not at all */
    const matrix *z;                 /* n rows, or one for all */
    const matrix *x;                 /* null: hoisted */
    const matrix *h_prev, *b_hn, *w; /* w packed for the step */
    matrix *c, *h, *tape;            /* those this cell has; without a tape: null */
} job;

/* The rows r..r+n-1 and the units u..u+U-1 of a job. */
typedef void runner(const job *j, ptrdiff_t r, ptrdiff_t n, ptrdiff_t u, ptrdiff_t U);

#define Z(j, r) (AT((j)->z, (j)->z->rows > 1 ? (r) : 0, 0)) /* the first one of a row */
#define LDZ(j) ((j)->z->rows > 1 ? (j)->z->ld : 0)
#define X(j, r) ((j)->x ? &AT((j)->x, r, 0) : NULL), (j)->x ? (j)->x->ld : 0, (j)->x ? (j)->I : 0
#define DEPTH(j) (((j)->x ? (j)->I : 0) + (j)->P)
#define TAPE(j, r, u) ((j)->tape ? &AT((j)->tape, r, u) : NULL)

static void run_rnn(const job *j, ptrdiff_t r, ptrdiff_t n, ptrdiff_t u, ptrdiff_t U)
{
    j->s->t->rnn_step(j->turn, n, U, j->relu, &Z(j, r) + u, LDZ(j), X(j, r), &AT(j->h_prev, r, 0), j->h_prev->ld, j->P,
                      j->w->at + u * DEPTH(j), &AT(j->h, r, u), j->h->ld);
}

static void run_lstm(const job *j, ptrdiff_t r, ptrdiff_t n, ptrdiff_t u, ptrdiff_t U)
{
    j->s->t->lstm_step(j->turn, n, U, j->H, &Z(j, r) + u, LDZ(j), X(j, r), &AT(j->h_prev, r, 0), j->h_prev->ld, j->P,
                       j->w->at + u * 4 * DEPTH(j), &AT(j->c, r, u), &AT(j->h, r, u), j->h->ld, TAPE(j, r, u));
}

static void run_gru(const job *j, ptrdiff_t r, ptrdiff_t n, ptrdiff_t u, ptrdiff_t U)
{
    j->s->t->gru_step(j->turn, n, U, j->H, &Z(j, r) + u, LDZ(j), &AT(j->b_hn, 0, u), X(j, r), &AT(j->h_prev, r, 0),
                      j->h_prev->ld, u, j->w->at + u * 3 * DEPTH(j), &AT(j->h, r, u), j->h->ld, TAPE(j, r, u));
}

static void same_results(const job *j, const char *what)
{
    intact();
    if (j->c)
        same(j->c, what);
    if (j->tape)
        same(j->tape, what);
    same(j->h, what);
}

/* What must not change a bit: `whole` has been run; `hoisted` is the same step with its input's product in z. */
static void check_promises(runner *run, const job *whole, const job *hoisted)
{
    ptrdiff_t n = whole->h->rows, H = whole->H, sick_row = n / 2;
    matrix *results[] = {whole->h, whole->c, whole->tape};
    if (follows((int)(whole->s - sets)))
        same_results(whole, "another instruction set");
    for (ptrdiff_t i = 0; i < LENGTH(results); i++)
        if (results[i])
            keep(results[i]);
    again();
    for (ptrdiff_t r = n - 1; r >= 0; r--)
        run(whole, r, 1, 0, H);
    same_results(whole, "row by row");
    again();
    for (ptrdiff_t u = 0; whole->block && u < H; u += whole->block)
        run(whole, 0, n, u, least(whole->block, H - u));
    if (whole->block)
        same_results(whole, "units shared out");
    again();
    run(hoisted, 0, n, 0, H);
    same_results(whole, "the input's product hoisted");
    job other = *whole;
    other.turn = 1;
    again();
    run(&other, 0, n, 0, H);
    same_results(whole, "from the last unit to the first");
    other.tape = NULL;
    again();
    run(&other, 0, n, 0, H);
    same_results(&other, "without a tape");
    matrix *sick = given(n, whole->I, whole->I);
    for (ptrdiff_t r = 0; r < n; r++)
        for (ptrdiff_t k = 0; k < whole->I; k++)
            AT(sick, r, k) = r == sick_row ? (real)NAN : AT(whole->x, r, k);
    other.x = sick;
    again();
    run(&other, 0, n, 0, H);
    same_rows(whole->h, 0, sick_row, "a neighbour's NaN");
    same_rows(whole->h, sick_row + 1, n, "a neighbour's NaN");
    for (ptrdiff_t u = 0; u < H; u++)
        if (!isnan(AT(whole->h, sick_row, u)))
            fail("NaN was lost in unit %td", u);
    again();
    run(whole, 0, n, 0, H);
}

/* ---- the arguments of a step, and what they come to -------------------------------------------------------------- */

static matrix *w_ih, *w_hh; /* (G*H, I), (G*H, P): small enough to keep the gates open */

static job arguments(ptrdiff_t n, ptrdiff_t G, ptrdiff_t H, ptrdiff_t I, ptrdiff_t P, ptrdiff_t gap)
{
    taken = 0;
    w_ih = filled(stand(G * H, I, I + gap, 0), 0.5);
    w_hh = filled(stand(G * H, P, P, 0), 0.5);
    return (job){.G = G,
                 .H = H,
                 .I = I,
                 .P = P,
                 .z = given(1, G * H, G * H),
                 .x = given(n, I, I + gap),
                 .h_prev = given(n, P, P + 2 * gap),
                 .h = blank(n, H, H + gap)};
}

static long double product(const matrix *a, ptrdiff_t r, const matrix *w, ptrdiff_t j)
{
    long double sum = 0;
    for (ptrdiff_t k = 0; k < a->cols; k++)
        sum += (long double)AT(a, r, k) * AT(w, j, k);
    return sum;
}

/* z + x W_ih^T, and with W_hh h, at row r and row j of the weights. */
static long double from_input(const job *j, ptrdiff_t r, ptrdiff_t row)
{
    return AT(j->z, 0, row) + product(j->x, r, w_ih, row);
}
static long double pre_activation(const job *j, ptrdiff_t r, ptrdiff_t row)
{
    return from_input(j, r, row) + product(j->h_prev, r, w_hh, row);
}

static matrix *room(const job *j, ptrdiff_t G, ptrdiff_t depth)
{
    return blank(depth * G * round_up(j->H, j->s->t->lanes), 1, 1);
}

/* The gates of w_ih from `first` on, then those of w_hh in their own order; or, hoisted, those of w_hh alone. */
static matrix *packed_gates(const job *j, ptrdiff_t G, int first, int hoisted)
{
    ptrdiff_t I = hoisted ? 0 : j->I;
    matrix *to = room(j, G, I + j->P);
    if (!hoisted)
        j->s->t->pack_gates(G, j->H, I, first, w_ih->at, w_ih->ld, to->at, I + j->P, 0);
    j->s->t->pack_gates(G, j->H, j->P, 0, w_hh->at, w_hh->ld, to->at, I + j->P, I);
    return settled(to);
}

/* The same for the one gate g, in columns. */
static matrix *packed_columns(const job *j, ptrdiff_t g, int hoisted)
{
    ptrdiff_t I = hoisted ? 0 : j->I;
    matrix *to = room(j, 1, I + j->P);
    if (!hoisted)
        j->s->t->pack_columns(I, j->H, 1, &AT(w_ih, g * j->H, 0), w_ih->ld, to->at, I + j->P, 0);
    j->s->t->pack_columns(j->P, j->H, 1, &AT(w_hh, g * j->H, 0), w_hh->ld, to->at, I + j->P, I);
    return settled(to);
}

/* z + x W_ih^T of all gates, by gemm. */
static matrix *hoisted_input(const job *j)
{
    ptrdiff_t N = j->G * j->H, VL = j->s->t->lanes;
    matrix *w = blank(j->I * round_up(N, VL), 1, 1), *z = blank(j->h->rows, N, N + 1);
    j->s->t->pack_columns(j->I, N, 1, w_ih->at, w_ih->ld, w->at, j->I, 0);
    j->s->t->gemm(0, j->h->rows, N, j->I, j->x->at, j->x->ld, w->at, j->z->at, 0, z->at, z->ld);
    return settled(z);
}

static job hoisted_job(const job *whole)
{
    job hoisted = *whole;
    hoisted.z = hoisted_input(whole);
    hoisted.x = NULL;
    return hoisted;
}

/* ---- forward, cell by cell --------------------------------------------------------------------------------------- */

static void rnn(ptrdiff_t n, ptrdiff_t H, ptrdiff_t I, ptrdiff_t gap, int relu)
{
    job j = arguments(n, 1, H, I, H, gap);
    j.relu = relu;
    int shared = taken;
    for (int i = 0; i < n_sets; i++, taken = shared) {
        CHECKING("%s rnn_step n=%td H=%td I=%td gap=%td relu=%d", sets[i].name, n, H, I, gap, relu);
        j.s = &sets[i];
        j.block = 4 * j.s->t->lanes;
        j.w = packed_columns(&j, 0, 0);
        again();
        run_rnn(&j, 0, n, 0, H);
        intact();
        for (ptrdiff_t r = 0; r < n; r++)
            for (ptrdiff_t u = 0; u < H; u++) {
                long double z = pre_activation(&j, r, u);
                near(j.h, r, u, relu ? fmaxl(0, z) : tanh_of(z), LIMIT);
            }
        job hoisted = hoisted_job(&j);
        hoisted.w = packed_columns(&j, 0, 1);
        check_promises(run_rnn, &j, &hoisted);
    }
}

static void check_rnn(ptrdiff_t n, ptrdiff_t H, ptrdiff_t I, ptrdiff_t gap)
{
    rnn(n, H, I, gap, 0);
    rnn(n, H, I, gap, 1);
}

static void check_lstm(ptrdiff_t n, ptrdiff_t H, ptrdiff_t I, ptrdiff_t gap)
{
    job j = arguments(n, 4, H, I, n % 2 ? H : (H + 1) / 2, gap); /* every other time projected */
    j.c = both(n, H, H);
    j.tape = blank(n, FRNN_LSTM_TAPE * H, FRNN_LSTM_TAPE * H);
    int shared = taken;
    for (int s = 0; s < n_sets; s++, taken = shared) {
        CHECKING("%s lstm_step n=%td H=%td I=%td P=%td gap=%td", sets[s].name, n, H, I, j.P, gap);
        j.s = &sets[s];
        j.block = j.s->t->lanes;
        j.w = packed_gates(&j, 4, 0, 0);
        again();
        run_lstm(&j, 0, n, 0, H);
        intact();
        for (ptrdiff_t r = 0; r < n; r++)
            for (ptrdiff_t u = 0; u < H; u++) {
                long double i = sigmoid_of(pre_activation(&j, r, u)), f = sigmoid_of(pre_activation(&j, r, H + u));
                long double g = tanh_of(pre_activation(&j, r, 2 * H + u)), c = f * WAS(j.c, r, u) + i * g;
                long double o = sigmoid_of(pre_activation(&j, r, 3 * H + u));
                long double want[] = {i, f, g, o, c};
                for (ptrdiff_t k = 0; k < FRNN_LSTM_TAPE; k++)
                    near(j.tape, r, k * H + u, want[k], LIMIT);
                near(j.c, r, u, c, LIMIT);
                near(j.h, r, u, o * tanh_of(c), LIMIT);
            }
        job hoisted = hoisted_job(&j);
        hoisted.w = packed_gates(&j, 4, 0, 1);
        check_promises(run_lstm, &j, &hoisted);
    }
}

static void check_gru(ptrdiff_t n, ptrdiff_t H, ptrdiff_t I, ptrdiff_t gap)
{
    job j = arguments(n, 3, H, I, H, gap);
    j.b_hn = given(1, H, H);
    j.tape = blank(n, FRNN_GRU_TAPE * H, FRNN_GRU_TAPE * H);
    int shared = taken;
    for (int i = 0; i < n_sets; i++, taken = shared) {
        CHECKING("%s gru_step n=%td H=%td I=%td gap=%td", sets[i].name, n, H, I, gap);
        j.s = &sets[i];
        j.block = j.s->t->lanes;
        j.w = packed_gates(&j, 3, 2, 0);
        again();
        run_gru(&j, 0, n, 0, H);
        intact();
        for (ptrdiff_t row = 0; row < n; row++)
            for (ptrdiff_t u = 0; u < H; u++) {
                long double r = sigmoid_of(pre_activation(&j, row, u)), z = sigmoid_of(pre_activation(&j, row, H + u));
                long double q = AT(j.b_hn, 0, u) + product(j.h_prev, row, w_hh, 2 * H + u);
                long double c = tanh_of(from_input(&j, row, 2 * H + u) + r * q), want[] = {r, z, c, q};
                for (ptrdiff_t k = 0; k < FRNN_GRU_TAPE; k++)
                    near(j.tape, row, k * H + u, want[k], LIMIT);
                near(j.h, row, u, c + z * (AT(j.h_prev, row, u) - c), LIMIT);
            }
        job hoisted = hoisted_job(&j);
        hoisted.w = packed_gates(&j, 3, 2, 1);
        check_promises(run_gru, &j, &hoisted);
    }
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

static long double slope_of_sigmoid(long double s) { return s * (1 - s); }
static long double slope_of_tanh(long double t) { return 1 - t * t; }

typedef struct back { /* the arguments of a backward step; results are null where the cell has none */
    const set *s;
    ptrdiff_t H;
    int relu;
    const matrix *tape, *prev, *drh; /* prev: h_prev, c_prev, or the RNN's h */
    matrix *dh, *dc, *dz, *h;
} back;

/* One step backwards for n rows from row r on. */
typedef void back_runner(const back *b, ptrdiff_t r, ptrdiff_t n);

static void back_rnn(const back *b, ptrdiff_t r, ptrdiff_t n)
{
    for (ptrdiff_t u = 0, U = b->H / 2; u < b->H; u += U, U = b->H - u)
        b->s->t->rnn_back(n, U, b->H, b->relu, &AT(b->prev, r, u), b->prev->ld, &AT(b->dh, r, u), &AT(b->dz, r, u),
                          b->dz->ld);
}
static void back_lstm(const back *b, ptrdiff_t r, ptrdiff_t n)
{
    for (ptrdiff_t u = 0, U = b->H / 2; u < b->H; u += U, U = b->H - u)
        b->s->t->lstm_back(n, U, b->H, &AT(b->tape, r, u), &AT(b->prev, r, u), b->prev->ld, &AT(b->dh, r, u),
                           &AT(b->dc, r, u), &AT(b->dz, r, u), b->dz->ld, b->h ? &AT(b->h, r, u) : NULL);
}
static void back_gru(const back *b, ptrdiff_t r, ptrdiff_t n)
{
    for (ptrdiff_t u = 0, U = b->H / 2; u < b->H; u += U, U = b->H - u)
        b->s->t->gru_back(n, U, b->H, &AT(b->tape, r, u), &AT(b->prev, r, u), b->prev->ld, &AT(b->dh, r, u),
                          &AT(b->dz, r, u), b->dz->ld);
}
static void back_reset(const back *b, ptrdiff_t r, ptrdiff_t n)
{
    b->s->t->gru_reset_back(n, b->H, &AT(b->tape, r, 0), &AT(b->prev, r, 0), b->prev->ld, &AT(b->dh, r, 0),
                            &AT(b->dz, r, 0), b->dz->ld);
}
static void back_gates(const back *b, ptrdiff_t r, ptrdiff_t n)
{
    b->s->t->gru_gates_back(n, b->H, &AT(b->tape, r, 0), &AT(b->prev, r, 0), b->prev->ld, &AT(b->drh, r, 0),
                            &AT(b->dh, r, 0), &AT(b->dz, r, 0), b->dz->ld);
}

/* The gradients at one row and unit; only the parts that the primitive writes count. */
typedef struct gradients {
    long double dz[4], dh, dc, h;
} gradients;
typedef gradients formula(const back *b, ptrdiff_t r, ptrdiff_t u);

static gradients rnn_formula(const back *b, ptrdiff_t r, ptrdiff_t u)
{
    long double h = AT(b->prev, r, u), dh = WAS(b->dh, r, u);
    return (gradients){.dz = {b->relu ? (h > 0 ? dh : 0) : dh * slope_of_tanh(h)}, .dh = dh};
}

static gradients lstm_formula(const back *b, ptrdiff_t r, ptrdiff_t u)
{
    ptrdiff_t H = b->H;
    long double i = AT(b->tape, r, u), f = AT(b->tape, r, H + u), g = AT(b->tape, r, 2 * H + u);
    long double o = AT(b->tape, r, 3 * H + u), t = tanh_of(AT(b->tape, r, 4 * H + u)), dh = WAS(b->dh, r, u);
    long double dc = WAS(b->dc, r, u) + dh * o * slope_of_tanh(t);
    return (gradients){.dz = {dc * g * slope_of_sigmoid(i), dc * AT(b->prev, r, u) * slope_of_sigmoid(f),
                              dc * i * slope_of_tanh(g), dh * t * slope_of_sigmoid(o)},
                       .dh = dh,
                       .dc = dc * f,
                       .h = o * t};
}

/* dz as n r z q; with Cho's GRU n _ z, where r comes from the second half. */
static gradients gru_formula(const back *b, ptrdiff_t row, ptrdiff_t u)
{
    ptrdiff_t H = b->H;
    long double r = AT(b->tape, row, u), z = AT(b->tape, row, H + u), n = AT(b->tape, row, 2 * H + u);
    long double q = AT(b->tape, row, 3 * H + u), dh = WAS(b->dh, row, u), dn = dh * (1 - z) * slope_of_tanh(n);
    long double dr = dn * q * slope_of_sigmoid(r), dz = dh * (AT(b->prev, row, u) - n) * slope_of_sigmoid(z);
    return (gradients){.dz = {dn, dr, dz, dn * r}, .dh = dh * z};
}

static gradients gates_formula(const back *b, ptrdiff_t row, ptrdiff_t u)
{
    long double r = AT(b->tape, row, u), d = AT(b->drh, row, u);
    return (gradients){.dz = {0, d * AT(b->prev, row, u) * slope_of_sigmoid(r)}, .dh = WAS(b->dh, row, u) + d * r};
}

/* parts: of dz; written: which of them, a bit each. The others keep their canaries. */
static void check_back(back_runner *run, formula *wanted, back b, ptrdiff_t parts, int written, const char *name)
{
    ptrdiff_t n = b.dz->rows;
    matrix *results[] = {b.dz, b.dh, b.dc, b.h};
    for (int i = 0; i < n_sets; i++) {
        CHECKING("%s %s n=%td H=%td relu=%d", sets[i].name, name, n, b.H, b.relu);
        b.s = &sets[i];
        again();
        run(&b, 0, n);
        intact();
        for (ptrdiff_t r = 0; r < n; r++)
            for (ptrdiff_t u = 0; u < b.H; u++) {
                gradients want = wanted(&b, r, u);
                for (ptrdiff_t k = 0; k < parts; k++)
                    if (written >> k & 1)
                        near(b.dz, r, k * b.H + u, want.dz[k], LIMIT);
                    else
                        equal(b.dz, r, k * b.H + u, WAS(b.dz, r, k * b.H + u));
                near(b.dh, r, u, want.dh, LIMIT);
                if (b.dc)
                    near(b.dc, r, u, want.dc, LIMIT);
                if (b.h)
                    near(b.h, r, u, want.h, LIMIT);
            }
        for (ptrdiff_t k = 0; k < LENGTH(results); k++)
            if (results[k] && follows(i))
                same(results[k], "another instruction set");
            else if (results[k])
                keep(results[k]);
        again();
        for (ptrdiff_t r = n - 1; r >= 0; r--)
            run(&b, r, 1);
        intact();
        for (ptrdiff_t k = 0; k < LENGTH(results); k++)
            if (results[k])
                same(results[k], "row by row");
    }
}

/* A tape with gates between 0 and 1 where they are sigmoids: any number would do, but these are what will come. */
static matrix *some_tape(ptrdiff_t n, ptrdiff_t parts, ptrdiff_t H, int sigmoids)
{
    matrix *tape = given(n, parts * H, parts * H);
    for (ptrdiff_t r = 0; r < n; r++)
        for (ptrdiff_t j = 0; j < parts * H; j++)
            if (sigmoids >> (j / H) & 1)
                AT(tape, r, j) = (AT(tape, r, j) + 1) / 2;
    return remembered(tape);
}

static void check_backward(ptrdiff_t n, ptrdiff_t H, ptrdiff_t unused, ptrdiff_t gap)
{
    (void)unused;
    taken = 0;
    back b = {.H = H, .prev = given(n, H, H + gap), .dh = both(n, H, H)};
    int shared = taken;
    b.dz = blank(n, H, H + gap);
    check_back(back_rnn, rnn_formula, b, 1, 1, "rnn_back");
    b.relu = 1;
    check_back(back_rnn, rnn_formula, b, 1, 1, "rnn_back");
    b.relu = 0;
    taken = shared;
    b.tape = some_tape(n, FRNN_LSTM_TAPE, H, 1 | 2 | 8);
    b.dc = both(n, H, H);
    b.dz = blank(n, 4 * H, 4 * H + gap);
    check_back(back_lstm, lstm_formula, b, 4, 15, "lstm_back without h");
    b.h = blank(n, H, H);
    check_back(back_lstm, lstm_formula, b, 4, 15, "lstm_back");
    b.dc = b.h = NULL;
    taken = shared;
    b.tape = some_tape(n, FRNN_GRU_TAPE, H, 1 | 2);
    b.dz = blank(n, 4 * H, 4 * H + gap);
    check_back(back_gru, gru_formula, b, 4, 15, "gru_back");
    b.dz = blank(n, 3 * H, 3 * H + gap);
    check_back(back_reset, gru_formula, b, 3, 1 | 4, "gru_reset_back");
    b.drh = given(n, H, H);
    check_back(back_gates, gates_formula, b, 3, 2, "gru_gates_back");
}

int main(void)
{
    prepare();
    everywhere(check_rnn);
    everywhere(check_lstm);
    everywhere(check_gru);
    everywhere(check_backward);
    report("cells");
}
