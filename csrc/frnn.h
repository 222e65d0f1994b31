/* SPDX-License-Identifier: MIT
 *
 * frnn.h - the whole C interface of fastrnn: the primitives under the time loops, the instruction sets they are
 * built for, the threads they run on, and what is learned of how many to take.
 *
 * Letters. n rows of a step, I input size, H hidden size, P size of h (H, or that of a projection), G gates (RNN 1,
 *   GRU 3, LSTM 4), U units of a share, M by N a product's result and K its depth, VL lanes of a vector; z
 *   pre-activations, h hidden state, c cell state, rh = r h_prev; dz, dh, dc, drh the gradients of the loss with
 *   respect to them.
 * Gate order. LSTM i f g o, GRU r z n: PyTorch's, in every array but W_ih of the GRU packed together with W_hh (n r z)
 *   and the GRU's dz (n r z q, where q = W_hn h + b_hn; n r z for Cho's), so that either side of the cell reads three
 *   gates in a row.
 *
 * Ground rules, valid for every function unless it says otherwise.
 *   Arrays are row-major; counts and leading dimensions (ld*) are ptrdiff_t, in elements; a row's elements touch.
 *   Pointers are not null and their arrays do not overlap. Any alignment of an element is good.
 *   The caller owns all memory. Nothing here allocates (but frnn_run its threads), fails, or keeps a pointer.
 *   Any thread may call, on arrays that no other thread writes.
 *
 * The same bits. Every element of a result is ONE accumulator, started from the bias (or what stands for it) and
 *   continued by fused multiply-add over k in order; vectors run across units, never across k. So the bits of a row
 *   depend on that row and the weights alone: not on the other rows, the tile it fell in, the vector length, or the
 *   thread. `portable`, but on aarch64, rounds twice where others fuse: it has bits of its own there.
 */
#ifndef FRNN_H
#define FRNN_H

#include <stddef.h>

#ifndef FRNN_NEAR_BYTES
#define FRNN_NEAR_BYTES (2 << 20) /* what a near cache is taken to hold; tests make it less */
#endif

enum {
    FRNN_LSTM_TAPE = 5, /* i f g o c: H-wide parts in one row of an LSTM's tape */
    FRNN_GRU_TAPE = 4   /* r z n q; of Cho's r z n rh */
};

/* Elements of outer's `work`, for at most K rows of N columns: a quarter of a near cache, but a panel at least, and no
 * more than there are. */
static inline ptrdiff_t frnn_outer_work(ptrdiff_t K, ptrdiff_t N, ptrdiff_t lanes, size_t itemsize)
{
    ptrdiff_t all = (N + lanes - 1) / lanes * lanes * K, panel = 4 * lanes * K;
    ptrdiff_t some = (ptrdiff_t)(FRNN_NEAR_BYTES / 4 / itemsize);
    some = some > panel ? some : panel;
    return some < all ? some : all;
}

/* The primitives for one real type R, one instruction set.
 *
 * Packed weights come in two layouts, both made of panels and both padded with zeros to whole vectors:
 *   columns  the matrix (K, N) as [panel of 4*VL columns][k][columns]; the last panel holds as many vectors as it needs
 *   gates    a matrix (G*H, K) as [block of VL units][k][G][VL]: the gates of a unit arrive together
 */
#define FRNN_KERNELS(R, name)                                                                                          \
    typedef struct name {                                                                                              \
        ptrdiff_t lanes; /* VL */                                                                                      \
        FRNN_PACKING(R)                                                                                                \
        FRNN_PRODUCTS(R)                                                                                               \
        FRNN_FORWARD(R)                                                                                                \
        FRNN_CELLS(R)                                                                                                  \
        FRNN_BACKWARD(R)                                                                                               \
        FRNN_ACTIVATIONS(R)                                                                                            \
    } name

/* Panels are K_all >= K deep and a matrix fills k0..k0+K-1 of them, so that W_ih and W_hh can stand one after the other
 * for a step that goes on from x to h. `to` has K_all times the padded columns, or units times G, elements.
 * pack_columns: a matrix (K, N). w holds it as it is, or, transposed = 1, as (N, K): the way W_ih stands for x W_ih^T.
 * pack_gates: w (G*H, K). first: the gate of w that comes first, the others follow in a circle (2 makes n r z of
 *   r z n).  Both: ldw is w's leading dimension. */
#define FRNN_PACKING(R)                                                                                                \
    void (*pack_columns)(ptrdiff_t K, ptrdiff_t N, int transposed, const R *w, ptrdiff_t ldw, R *to, ptrdiff_t K_all,  \
                         ptrdiff_t k0);                                                                                \
    void (*pack_gates)(ptrdiff_t G, ptrdiff_t H, ptrdiff_t K, int first, const R *w, ptrdiff_t ldw, R *to,             \
                       ptrdiff_t K_all, ptrdiff_t k0);

/* gemm: c = z + a w.
 *   a (M, K); w (K, N) packed in columns; z (M, N), or one row for all with ldz = 0, or null for zeros; c (M, N) out.
 *   c may be z, with the same leading dimension. turn: odd goes through the panels of w backwards; why: see below.
 * gemv: the same for one row, where w is not worth packing.
 *   a (K,); w (N, K) as W_ih stands; z (N,), or null for zeros; c (N,) out, which may be z.
 * outer: c = a^T d, the weight gradients of K >= 1 rows, or, more = 1, c += a^T d.
 *   a (K, M); d (K, N); c (M, N) out, or in/out; work: frnn_outer_work(K, N, VL, sizeof(R)) elements.
 * add, copy: dst += src, dst = src, both (n, N); copy takes null for zeros. from, to: where each row of src, of dst
 *   begins, in elements; null for one row every ld.
 * add_rows: sums += the sum of the rows of d, in order.  d (K, N); sums (N,) in/out. */
#define FRNN_PRODUCTS(R)                                                                                               \
    void (*gemm)(int turn, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const R *a, ptrdiff_t lda, const R *w, const R *z,   \
                 ptrdiff_t ldz, R *c, ptrdiff_t ldc);                                                                  \
    void (*gemv)(ptrdiff_t N, ptrdiff_t K, const R *w, ptrdiff_t ldw, const R *a, const R *z, R *c);                   \
    void (*outer)(int more, ptrdiff_t K, ptrdiff_t M, ptrdiff_t N, const R *a, ptrdiff_t lda, const R *d,              \
                  ptrdiff_t ldd, R *c, ptrdiff_t ldc, R *work);                                                        \
    void (*add)(ptrdiff_t n, ptrdiff_t N, const R *src, const ptrdiff_t *from, ptrdiff_t ldsrc, R *dst,                \
                ptrdiff_t lddst);                                                                                      \
    void (*copy)(ptrdiff_t n, ptrdiff_t N, const R *src, const ptrdiff_t *from, ptrdiff_t ldsrc, R *dst,               \
                 const ptrdiff_t *to, ptrdiff_t lddst);                                                                \
    void (*add_rows)(ptrdiff_t K, ptrdiff_t N, const R *d, ptrdiff_t ldd, R *sums);

/* One time step for n rows and the first U of H units; a caller that shares the units of a layer out among threads
 * moves the pointers to its first unit, a multiple of VL, of 4*VL for the RNN (and w by that many units).
 *   turn: odd goes through the blocks of units backwards. A loop over time alternates, and so begins each step with the
 *   weights that the cache still holds from the one before (5 to 15 % less time at batch 1 once w is past L1)
 *   z (n, G*H): where the accumulators start, ldz = 0: one row, the bias, for all rows
 *   x (n, I): the input if its product is still to be added; I = 0: it is in z already and x may be null
 *   h_prev (n, P) in;  h (n, U of H) out, must not overlap h_prev
 *   w: gates layout, W_ih then W_hh (K_all = I + P); for the RNN columns layout, I + P deep
 *   tape: what backward needs, H-wide parts row by row, or null for inference
 *
 * rnn_step:   h = relu or tanh(z + x W_ih^T + h_prev W_hh^T)
 * lstm_step:  i, f, o = sigmoid, g = tanh (z + x W_ih^T + h_prev W_hh^T);  c = f c + i g;  h = o tanh(c)
 *   c (n, H) in/out, ld H; tape (n, 5H): i f g o c. With a projection h is o tanh(c), to be projected by gemm.
 * gru_step:   r, z = sigmoid(...);  q = b_hn + W_hn h_prev;  n = tanh(z_n + r q);  h = n + z (h_prev - n)
 *   b_hn (H,); w: W_ih as n r z, then W_hh as r z n; u0: the first unit's place in h_prev, all of whose H units the
 *   step reads; tape (n, 4H): r z n q. */
#define FRNN_FORWARD(R)                                                                                                \
    void (*rnn_step)(int turn, ptrdiff_t n, ptrdiff_t U, int relu, const R *z, ptrdiff_t ldz, const R *x,              \
                     ptrdiff_t ldx, ptrdiff_t I, const R *h_prev, ptrdiff_t ldh_prev, ptrdiff_t P, const R *w, R *h,   \
                     ptrdiff_t ldh);                                                                                   \
    void (*lstm_step)(int turn, ptrdiff_t n, ptrdiff_t U, ptrdiff_t H, const R *z, ptrdiff_t ldz, const R *x,          \
                      ptrdiff_t ldx, ptrdiff_t I, const R *h_prev, ptrdiff_t ldh_prev, ptrdiff_t P, const R *w, R *c,  \
                      R *h, ptrdiff_t ldh, R *tape);                                                                   \
    void (*gru_step)(int turn, ptrdiff_t n, ptrdiff_t U, ptrdiff_t H, const R *z, ptrdiff_t ldz, const R *b_hn,        \
                     const R *x, ptrdiff_t ldx, ptrdiff_t I, const R *h_prev, ptrdiff_t ldh_prev, ptrdiff_t u0,        \
                     const R *w, R *h, ptrdiff_t ldh, R *tape);

/* Cells apart from their products, which gemm has added to z: with peepholes and a clip, Cho's GRU, and where weights
 * are not worth packing.
 * [a] is a kept in -clip..clip; clip > 0, INFINITY for none.
 * rnn_cell:   h = relu or tanh [z].   z (n, H)
 * lstm_cell:  i = sigmoid [z_i + p_i c];  f = sigmoid [z_f + p_f c];  c = f c + i tanh [z_g];
 *   o = sigmoid [z_o + p_o c] of the new c;  h = o tanh [c]
 *   z (n, 4H); p (3, H) i f o, or null for zeros; c (n, H) in/out, ld H.
 * The GRU takes two, the product for n coming between them:
 * gru_gates:  r, z = sigmoid [z_r], sigmoid [z_z];  rh = r h_prev
 *   z (n, 3H) in/out: r and z come where their pre-activations were; rh (n, H) out
 * gru_reset:  n = tanh [z_n + r q];  h = n + z (h_prev - n)
 *   z (n, 3H): r and z, but of n the pre-activation; q (n, H) b_hn + W_hn h_prev, or, with W_hn rh in z_n, null for
 *   zeros: Cho's GRU; tape (n, 4H): its first three parts, r z n, or null. */
#define FRNN_CELLS(R)                                                                                                  \
    void (*rnn_cell)(ptrdiff_t n, ptrdiff_t H, int relu, R clip, const R *z, R *h, ptrdiff_t ldh);                     \
    void (*lstm_cell)(ptrdiff_t n, ptrdiff_t H, R clip, const R *z, const R *p, R *c, R *h, ptrdiff_t ldh);            \
    void (*gru_gates)(ptrdiff_t n, ptrdiff_t H, R clip, R *z, const R *h_prev, ptrdiff_t ldh_prev, R *rh,              \
                      ptrdiff_t ldrh);                                                                                 \
    void (*gru_reset)(ptrdiff_t n, ptrdiff_t H, R clip, const R *z, const R *q, const R *h_prev, ptrdiff_t ldh_prev,   \
                      R *h, ptrdiff_t ldh, R *tape);

/* The same step backwards, element by element: from dh (n, H), ld H, the gradient of this step's h, to dz. The product
 * of dz with the weights is left to gemm. The tape is only read.
 * rnn_back, lstm_back, gru_back: the first U of H units, as in a step forward.
 * rnn_back:  dz = dh (1 - h^2), for relu 0 where h <= 0, else (of NaN, too) dh.   h (n, U of H); dz (n, H) out.
 * lstm_back: dz (n, 4H) out: i f g o; dc (n, H) in/out: becomes the gradient of c_prev.
 *   c_prev (n, H), ldc_prev; h null or (n, H) out: o tanh(c), which a projection's gradient needs.
 * gru_back:  dz (n, 4H) out: n r z q; dh becomes dh z, the part of the gradient of h_prev that passes the gate.
 * gru_reset_back: first half for Cho's GRU: dz (n, 3H) n and z parts out; dh becomes dh z.
 * gru_gates_back: second half: drh (n, H) = dz_n W_hn;  dz's r part out; dh += drh r.   All dz of it: (n, 3H) n r z. */
#define FRNN_BACKWARD(R)                                                                                               \
    void (*rnn_back)(ptrdiff_t n, ptrdiff_t U, ptrdiff_t H, int relu, const R *h, ptrdiff_t ldh, const R *dh, R *dz,   \
                     ptrdiff_t lddz);                                                                                  \
    void (*lstm_back)(ptrdiff_t n, ptrdiff_t U, ptrdiff_t H, const R *tape, const R *c_prev, ptrdiff_t ldc_prev,       \
                      const R *dh, R *dc, R *dz, ptrdiff_t lddz, R *h);                                                \
    void (*gru_back)(ptrdiff_t n, ptrdiff_t U, ptrdiff_t H, const R *tape, const R *h_prev, ptrdiff_t ldh_prev, R *dh, \
                     R *dz, ptrdiff_t lddz);                                                                           \
    void (*gru_reset_back)(ptrdiff_t n, ptrdiff_t H, const R *tape, const R *h_prev, ptrdiff_t ldh_prev, R *dh, R *dz, \
                           ptrdiff_t lddz);                                                                            \
    void (*gru_gates_back)(ptrdiff_t n, ptrdiff_t H, const R *tape, const R *h_prev, ptrdiff_t ldh_prev, const R *drh, \
                           R *dh, R *dz, ptrdiff_t lddz);

/* For tests and benchmarks; the cells have them inside.
 * tanh, sigmoid: y = f(x), both (n,), y may be x. At most 2.5 ulp off; NaN stays NaN; never outside [-1,1], [0,1].
 *   What is subnormal is 0, but only where subnormals are flushed. */
#define FRNN_ACTIVATIONS(R)                                                                                            \
    void (*tanh)(ptrdiff_t n, const R *x, R *y);                                                                       \
    void (*sigmoid)(ptrdiff_t n, const R *x, R *y);

FRNN_KERNELS(float, frnn_f32);
FRNN_KERNELS(double, frnn_f64);

/* One instruction set. */
typedef struct frnn_isa {
    const char *name;
    int usable; /* on this processor, under this system */
    const frnn_f32 *f32;
    const frnn_f64 *f64;
} frnn_isa;

/* The i-th instruction set of this build, weakest first; 0 and nothing written past the last. */
int frnn_isa_at(int i, frnn_isa *isa);

/* The compiler that built this, for `fastrnn info`. */
const char *frnn_compiler(void);

/* frnn_run: task(job, part, parts) once for every part, each on a thread of its own, the caller's among them; a part
 *   that no thread has begun when the caller has done its own, the caller does too. Returns when all are done. parts is
 *   `want`, or fewer: 1 where another caller has the threads, at most FRNN_MOST_THREADS. A task must do the whole work
 *   however many share it. Subnormals are flushed to zero meanwhile. kind: for frnn_note, which a key of 0 spares.
 * frnn_barrier: inside a task, waits until all parts have come here; all do, or none.
 * frnn_worth: whether to want several parts for a job of this kind, by what such jobs took so far; now and then the
 *   way that was slower, to see whether it still is.
 * frnn_note: what one took: its parts, seconds, and how many of these the caller waited for others. frnn_run calls it.
 * frnn_unlock_records: in a forked child: another thread of its parent may have had them locked at that moment.
 * frnn_flush: makes this thread flush subnormals to zero and round to nearest; returns what frnn_unflush restores. */
#if defined(_WIN32)
#define FRNN_MOST_THREADS 1
#else
#define FRNN_MOST_THREADS 64
#endif

typedef void (*frnn_task)(void *job, int part, int parts);

typedef struct frnn_kind {  /* of a job */
    unsigned long long key; /* jobs of one key are alike, but for ... */
    double work;            /* ... how much there is to do, in any unit; it may differ by some factor */
} frnn_kind;

void frnn_run(frnn_task task, void *job, int want, frnn_kind kind);
void frnn_barrier(int parts);
int frnn_worth(frnn_kind kind);
void frnn_note(frnn_kind kind, int parts, double seconds, double idle);
void frnn_unlock_records(void);
unsigned long frnn_flush(void);
void frnn_unflush(unsigned long saved);

#endif
