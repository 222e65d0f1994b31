/* SPDX-License-Identifier: MIT
 * primitives.c - one primitive of frnn.h, timed in turns with the limits of the processor. kernels.py runs it:
 *
 *   primitives ISA ROUNDS NAME n K N   first a line: bytes that a call reads or writes, and its flops; then
 *                                      one for each round: seconds of a call, and the rates of limits.h, fma and read
 *   primitives ISA ROUNDS limits BYTES...  one line for each round: fma, and read for each size
 *
 * n rows; K elements that a row's product sums up (of a step N, or 0: the cell alone); N columns, or units.
 * FRNN_WIDE: in double. A step goes on from the h of the one before, as in the time loop. What a call reads is where
 * the call before left it: in a cache. Flops are those of matrix products, or, where there is none, of tanh and
 * sigmoid. */
#define _DEFAULT_SOURCE /* madvise */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "frnn.h"
#include "limits.h"

#if FRNN_WIDE
typedef double real;
typedef frnn_f64 table;
#define TABLE f64
#else
typedef float real;
typedef frnn_f32 table;
#define TABLE f32
#endif

static const size_t ROOM = (size_t)1 << 28, PAGE = (size_t)1 << 21;
static const double BATCH_SECONDS = 0.002; /* so long calls follow each other */

/* Operations of csrc/activations.h for one element, a multiply-add being two: its polynomial has 4 or 10 of these. */
enum { TANH = FRNN_WIDE ? 38 : 26, SIGMOID = FRNN_WIDE ? 34 : 22 };

/* What is timed, and how far that has come. */
typedef struct bench {
    const table *k;
    ptrdiff_t n, K, N;
    char *memory; /* of all operands */
    size_t bytes; /* of it in use */
    size_t idle;  /* of these that no call touches */
    int rounds, calls;
    double begun;
} bench;

/* A new operand; all of them hold the same small numbers. */
static real *operand(bench *b, ptrdiff_t n)
{
    real *at = (real *)(b->memory + b->bytes);
    b->bytes += ((size_t)n * sizeof *at + 63) / 64 * 64;
    if (b->bytes > ROOM) {
        fputs("primitives: too large\n", stderr);
        exit(1);
    }
    for (ptrdiff_t i = 0; i < n; i++)
        at[i] = (real)(i * 37 % 101 - 50) / 500;
    return at;
}

static void untouched(bench *b, ptrdiff_t n) { b->idle += (size_t)n * sizeof(real); }
static ptrdiff_t padded(const bench *b, ptrdiff_t N) { return (N + b->k->lanes - 1) / b->k->lanes * b->k->lanes; }

/* ---- time ------------------------------------------------------------------------------------------------------- */

static void begin(bench *b, double flops)
{
    printf("%zu %.17g\n", b->bytes - b->idle, flops);
    b->calls = 0;
}

/* Ends a batch of calls and begins the next, each twice as long until they last; then every one is a round. */
static int another(bench *b)
{
    double seconds = now() - b->begun;
    if (b->calls == 0) {
        b->calls = 1;
    } else if (seconds < BATCH_SECONDS && b->calls < 1 << 30) {
        b->calls *= 2;
    } else {
        printf("%.9g %.9g %.9g\n", seconds / b->calls, fma_rate(), read_rate(b->memory, b->bytes));
        if (--b->rounds == 0)
            return 0;
    }
    b->begun = now();
    return 1;
}

#define TIMED(b, flops)                                                                                                \
    for (begin(b, flops); another(b);)                                                                                 \
        for (int call = 0; call < (b)->calls; call++)

/* ---- products, packing, sums, activations ----------------------------------------------------------------------- */

static void gemm(bench *b)
{
    ptrdiff_t n = b->n, K = b->K, N = b->N;
    real *a = operand(b, n * K), *w = operand(b, K * padded(b, N)), *bias = operand(b, N), *c = operand(b, n * N);
    TIMED(b, 2.0 * n * K * N) b->k->gemm(0, n, N, K, a, K, w, bias, 0, c, N);
}

static void gemv(bench *b)
{
    ptrdiff_t K = b->K, N = b->N;
    real *w = operand(b, K * N), *a = operand(b, K), *bias = operand(b, N), *c = operand(b, N);
    TIMED(b, 2.0 * K * N) b->k->gemv(N, K, w, K, a, bias, c);
}

/* Here the sum runs over the rows. Long ones of a are an odd number of cache lines apart, as _bptt.pyx spreads them. */
static void outer(bench *b)
{
    ptrdiff_t n = b->n, K = b->K, N = b->N, line = 64 / (ptrdiff_t)sizeof(real), lines = (K + line - 1) / line;
    ptrdiff_t lda = lines < 64 ? K : (lines | 1) * line;
    real *a = operand(b, n * lda), *d = operand(b, n * N), *c = operand(b, K * N);
    real *work = operand(b, frnn_outer_work(n, N, b->k->lanes, sizeof(real)));
    untouched(b, n * (lda - K));
    TIMED(b, 2.0 * n * K * N) b->k->outer(1, n, K, N, a, lda, d, N, c, N, work);
}

static void pack_columns(bench *b)
{
    ptrdiff_t K = b->K, N = b->N;
    real *w = operand(b, K * N), *to = operand(b, K * padded(b, N));
    TIMED(b, 0) b->k->pack_columns(K, N, 1, w, K, to, K, 0);
}

static void pack_gates(bench *b)
{
    ptrdiff_t K = b->K, N = b->N;
    real *w = operand(b, 4 * K * N), *to = operand(b, 4 * K * padded(b, N));
    TIMED(b, 0) b->k->pack_gates(4, N, K, 0, w, K, to, K, 0);
}

static void add(bench *b)
{
    ptrdiff_t n = b->n, N = b->N;
    real *from = operand(b, n * N), *to = operand(b, n * N);
    TIMED(b, 0) b->k->add(n, N, from, NULL, N, to, N);
}

static void add_rows(bench *b)
{
    ptrdiff_t n = b->n, N = b->N;
    real *d = operand(b, n * N), *sums = operand(b, N);
    TIMED(b, 0) b->k->add_rows(n, N, d, N, sums);
}

static void tanh_row(bench *b)
{
    ptrdiff_t all = b->n * b->N;
    real *x = operand(b, all), *y = operand(b, all);
    TIMED(b, 1.0 * TANH * all) b->k->tanh(all, x, y);
}

static void sigmoid_row(bench *b)
{
    ptrdiff_t all = b->n * b->N;
    real *x = operand(b, all), *y = operand(b, all);
    TIMED(b, 1.0 * SIGMOID * all) b->k->sigmoid(all, x, y);
}

/* ---- steps: h[call & 1] and the other take turns ---------------------------------------------------------------- */

static void rnn_step(bench *b)
{
    ptrdiff_t n = b->n, K = b->K, N = b->N, all = n * N;
    real *w = operand(b, K * padded(b, N)), *z = operand(b, all), *h = operand(b, 2 * all);
    TIMED(b, (K ? 2.0 * K : TANH) * all)
    {
        real *h_prev = h + (call & 1) * all, *h_next = h + (~call & 1) * all;
        b->k->rnn_step(call, n, N, 0, z, N, NULL, 0, 0, h_prev, N, K, w, h_next, N);
    }
}

static void lstm_steps(bench *b, int taped)
{
    ptrdiff_t n = b->n, K = b->K, N = b->N, all = n * N;
    real *w = operand(b, 4 * K * padded(b, N)), *z = operand(b, 4 * all), *h = operand(b, 2 * all);
    real *c = operand(b, all), *tape = taped ? operand(b, FRNN_LSTM_TAPE * all) : NULL;
    TIMED(b, (K ? 8.0 * K : 3 * SIGMOID + 2 * TANH) * all)
    {
        real *h_prev = h + (call & 1) * all, *h_next = h + (~call & 1) * all;
        b->k->lstm_step(call, n, N, N, z, 4 * N, NULL, 0, 0, h_prev, N, K, w, c, h_next, N, tape);
    }
}

static void lstm_step(bench *b) { lstm_steps(b, 0); }
static void lstm_step_taped(bench *b) { lstm_steps(b, 1); }

static void gru_steps(bench *b, int taped)
{
    ptrdiff_t n = b->n, N = b->N, all = n * N;
    real *w = operand(b, 3 * N * padded(b, N)), *z = operand(b, 3 * all), *b_hn = operand(b, N);
    real *h = operand(b, 2 * all), *tape = taped ? operand(b, FRNN_GRU_TAPE * all) : NULL;
    TIMED(b, 6.0 * N * all)
    {
        real *h_prev = h + (call & 1) * all, *h_next = h + (~call & 1) * all;
        b->k->gru_step(call, n, N, N, z, 3 * N, b_hn, NULL, 0, 0, h_prev, N, 0, w, h_next, N, tape);
    }
}

static void gru_step(bench *b) { gru_steps(b, 0); }
static void gru_step_taped(bench *b) { gru_steps(b, 1); }

/* ---- cells apart from their products ---------------------------------------------------------------------------- */

static void rnn_cell(bench *b)
{
    ptrdiff_t n = b->n, N = b->N, all = n * N;
    real *z = operand(b, all), *h = operand(b, all);
    TIMED(b, 1.0 * TANH * all) b->k->rnn_cell(n, N, 0, 1, z, h, N);
}

static void lstm_cell(bench *b)
{
    ptrdiff_t n = b->n, N = b->N, all = n * N;
    real *z = operand(b, 4 * all), *p = operand(b, 3 * N), *c = operand(b, all), *h = operand(b, all);
    TIMED(b, (3.0 * SIGMOID + 2 * TANH) * all) b->k->lstm_cell(n, N, 1, z, p, c, h, N);
}

static void gru_gates(bench *b)
{
    ptrdiff_t n = b->n, N = b->N, all = n * N;
    real *z = operand(b, 3 * all), *h = operand(b, all), *rh = operand(b, all);
    untouched(b, all); /* n of z */
    TIMED(b, 2.0 * SIGMOID * all) b->k->gru_gates(n, N, 1, z, h, N, rh, N);
}

static void gru_reset(bench *b)
{
    ptrdiff_t n = b->n, N = b->N, all = n * N;
    real *z = operand(b, 3 * all), *h_prev = operand(b, all), *h = operand(b, all);
    TIMED(b, 1.0 * TANH * all) b->k->gru_reset(n, N, 1, z, NULL, h_prev, N, h, N, NULL);
}

/* ---- steps backward --------------------------------------------------------------------------------------------- */

static void rnn_back(bench *b)
{
    ptrdiff_t n = b->n, N = b->N, all = n * N;
    real *h = operand(b, all), *dh = operand(b, all), *dz = operand(b, all);
    TIMED(b, 0) b->k->rnn_back(n, N, N, 0, h, N, dh, dz, N);
}

static void lstm_back(bench *b)
{
    ptrdiff_t n = b->n, N = b->N, all = n * N;
    real *tape = operand(b, FRNN_LSTM_TAPE * all), *c_prev = operand(b, all), *dh = operand(b, all);
    real *dc = operand(b, all), *dz = operand(b, 4 * all);
    TIMED(b, 1.0 * TANH * all) b->k->lstm_back(n, N, N, tape, c_prev, N, dh, dc, dz, 4 * N, NULL);
}

static void gru_back(bench *b)
{
    ptrdiff_t n = b->n, N = b->N, all = n * N;
    real *tape = operand(b, FRNN_GRU_TAPE * all), *h_prev = operand(b, all), *dh = operand(b, all);
    real *dz = operand(b, 4 * all);
    TIMED(b, 0) b->k->gru_back(n, N, N, tape, h_prev, N, dh, dz, 4 * N);
}

static void gru_reset_back(bench *b)
{
    ptrdiff_t n = b->n, N = b->N, all = n * N;
    real *tape = operand(b, FRNN_GRU_TAPE * all), *h_prev = operand(b, all), *dh = operand(b, all);
    real *dz = operand(b, 3 * all);
    untouched(b, 3 * all); /* r and rh of the tape, r of dz */
    TIMED(b, 0) b->k->gru_reset_back(n, N, tape, h_prev, N, dh, dz, 3 * N);
}

static void gru_gates_back(bench *b)
{
    ptrdiff_t n = b->n, N = b->N, all = n * N;
    real *tape = operand(b, FRNN_GRU_TAPE * all), *h_prev = operand(b, all), *drh = operand(b, all);
    real *dh = operand(b, all), *dz = operand(b, 3 * all);
    untouched(b, 5 * all); /* all but r of the tape and of dz */
    TIMED(b, 0) b->k->gru_gates_back(n, N, tape, h_prev, N, drh, dh, dz, 3 * N);
}

/* ---- the program ------------------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    void (*time)(bench *b);
} PRIMITIVES[] = {
    {"gemm", gemm},
    {"gemv", gemv},
    {"outer", outer},
    {"pack_columns", pack_columns},
    {"pack_gates", pack_gates},
    {"add", add},
    {"add_rows", add_rows},
    {"tanh", tanh_row},
    {"sigmoid", sigmoid_row},
    {"rnn_step", rnn_step},
    {"lstm_step", lstm_step},
    {"lstm_step_taped", lstm_step_taped},
    {"gru_step", gru_step},
    {"gru_step_taped", gru_step_taped},
    {"rnn_cell", rnn_cell},
    {"lstm_cell", lstm_cell},
    {"gru_gates", gru_gates},
    {"gru_reset", gru_reset},
    {"rnn_back", rnn_back},
    {"lstm_back", lstm_back},
    {"gru_back", gru_back},
    {"gru_reset_back", gru_reset_back},
    {"gru_gates_back", gru_gates_back},
};

static const table *table_of(const char *name)
{
    frnn_isa isa;
    for (int i = 0; frnn_isa_at(i, &isa); i++)
        if (isa.usable && !strcmp(isa.name, name))
            return isa.TABLE;
    return NULL;
}

/* In large pages, so that it is the caches that are measured. */
static char *memory(void)
{
    char *at = aligned_alloc(PAGE, ROOM);
#ifdef MADV_HUGEPAGE
    if (at)
        madvise(at, ROOM, MADV_HUGEPAGE);
#endif
    return at;
}

static void limits(bench *b, int sizes, char **size)
{
    memset(b->memory, 1, ROOM);
    while (b->rounds--) {
        printf("%.9g", fma_rate());
        for (int i = 0; i < sizes; i++)
            printf(" %.9g", read_rate(b->memory, (size_t)atoll(size[i])));
        putchar('\n');
    }
}

int main(int arguments, char **argument)
{
    if (arguments < 5)
        return 2;
    bench b = {.k = table_of(argument[1]), .rounds = atoi(argument[2]), .memory = memory()};
    if (!b.k || !b.memory)
        return 1;
    frnn_flush();
    const char *name = argument[3];
    if (!strcmp(name, "limits")) {
        limits(&b, arguments - 4, argument + 4);
        return 0;
    }
    if (arguments != 7)
        return 2;
    b.n = atoll(argument[4]), b.K = atoll(argument[5]), b.N = atoll(argument[6]);
    for (size_t i = 0; i < sizeof PRIMITIVES / sizeof *PRIMITIVES; i++)
        if (!strcmp(name, PRIMITIVES[i].name)) {
            PRIMITIVES[i].time(&b);
            return 0;
        }
    return 2;
}
