/* SPDX-License-Identifier: MIT
 * products.c - packing, products and sums against loops over their definitions in frnn.h, to the bit. */
#define _GNU_SOURCE
#include "fence.h"

/* ---- packing ----------------------------------------------------------------------------------------------------- */

static void check_pack_columns(ptrdiff_t n, ptrdiff_t N, ptrdiff_t K, ptrdiff_t gap)
{
    for (int i = 0; i < n_sets; i++)
        for (int transposed = 0; transposed < 2; transposed++) {
            CHECKING("%s pack_columns N=%td K=%td k0=%td transposed=%d", sets[i].name, N, K, n, transposed);
            ptrdiff_t VL = sets[i].t->lanes, panel = 4 * VL, K_all = K + n + gap;
            taken = 0;
            matrix *w = transposed ? given(N, K, K + gap) : given(K, N, N + gap);
            matrix *to = blank(K_all * round_up(N, VL), 1, 1);
            sets[i].t->pack_columns(K, N, transposed, w->at, w->ld, to->at, K_all, n);
            intact();
            ptrdiff_t at = 0;
            for (ptrdiff_t first = 0; first < N; first += panel)
                for (ptrdiff_t k = 0; k < K_all; k++)
                    for (ptrdiff_t j = first; j < first + least(panel, round_up(N - first, VL)); j++, at++)
                        if (k < n || k >= n + K)
                            equal(to, at, 0, WAS(to, at, 0));
                        else
                            equal(to, at, 0, j >= N ? 0 : transposed ? AT(w, j, k - n) : AT(w, k - n, j));
        }
}

static void check_pack_gates(ptrdiff_t n, ptrdiff_t H, ptrdiff_t K, ptrdiff_t gap)
{
    for (int i = 0; i < n_sets; i++)
        for (ptrdiff_t G = 2; G <= 4; G++) {
            ptrdiff_t VL = sets[i].t->lanes, K_all = K + n + gap, first = n % G;
            CHECKING("%s pack_gates G=%td H=%td K=%td k0=%td first=%td", sets[i].name, G, H, K, n, first);
            taken = 0;
            matrix *w = given(G * H, K, K + gap);
            matrix *to = blank(K_all * G * round_up(H, VL), 1, 1);
            sets[i].t->pack_gates(G, H, K, (int)first, w->at, w->ld, to->at, K_all, n);
            intact();
            ptrdiff_t at = 0;
            for (ptrdiff_t block = 0; block < H; block += VL)
                for (ptrdiff_t k = 0; k < K_all; k++)
                    for (ptrdiff_t g = 0; g < G; g++)
                        for (ptrdiff_t u = block; u < block + VL; u++, at++)
                            if (k < n || k >= n + K)
                                equal(to, at, 0, WAS(to, at, 0));
                            else
                                equal(to, at, 0, u >= H ? 0 : AT(w, (first + g) % G * H + u, k - n));
        }
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* c = z + a w, where z is a matrix, one row, nothing (null), or c itself. */
static void gemm_from(const set *s, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, ptrdiff_t gap, int z_rows, int in_place)
{
    CHECKING("%s gemm M=%td N=%td K=%td gap=%td z_rows=%d in_place=%d", s->name, M, N, K, gap, z_rows, in_place);
    taken = 0;
    matrix *a = given(M, K, K + gap), *w = given(K, N, N), *z = given(z_rows ? M : 1, N, N + 2 * gap);
    matrix *c = in_place ? both(M, N, N + gap) : blank(M, N, N + gap), *sick = given(M, K, K);
    matrix *packed = blank(K * round_up(N, s->t->lanes), 1, 1);
    const real *start = in_place ? c->at : z_rows < 0 ? NULL : z->at;
    ptrdiff_t ldz = in_place ? c->ld : z_rows > 0 ? z->ld : 0;
    s->t->pack_columns(K, N, 0, w->at, w->ld, packed->at, K, 0);
    s->t->gemm((int)(M + N) & 1, M, N, K, a->at, a->ld, packed->at, start, ldz, c->at, c->ld);
    intact();
    for (ptrdiff_t r = 0; r < M; r++)
        for (ptrdiff_t j = 0; j < N; j++) {
            real sum = in_place ? WAS(c, r, j) : z_rows < 0 ? 0 : AT(z, z_rows ? r : 0, j);
            for (ptrdiff_t k = 0; k < K; k++)
                sum = multiply_add(s, AT(a, r, k), AT(w, k, j), sum);
            equal(c, r, j, sum);
        }
    keep(c);
    if (in_place)
        return;
    /* A row of NaN stays a row of NaN, and nobody else's. */
    for (ptrdiff_t r = 0; r < M; r++)
        for (ptrdiff_t k = 0; k < K; k++)
            AT(sick, r, k) = r == M / 2 ? (real)NAN : AT(a, r, k);
    s->t->gemm((int)(M + N + 1) & 1, M, N, K, sick->at, sick->ld, packed->at, start, ldz, c->at, c->ld);
    same_rows(c, 0, M / 2, "a neighbour's NaN");
    same_rows(c, M / 2 + 1, M, "a neighbour's NaN");
    for (ptrdiff_t j = 0; j < N; j++)
        if (!isnan(AT(c, M / 2, j)))
            fail("NaN was lost in column %td", j);
}

static void check_gemm(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, ptrdiff_t gap)
{
    for (int i = 0; i < n_sets; i++) {
        gemm_from(&sets[i], M, N, K, gap, 1, 0);
        gemm_from(&sets[i], M, N, K, gap, 0, 0);
        gemm_from(&sets[i], M, N, K, gap, -1, 0);
        gemm_from(&sets[i], M, N, K, gap, 1, 1);
    }
}

/* c = z + w a, where z is a vector, nothing (null), or c itself. */
static void gemv_from(const set *s, ptrdiff_t N, ptrdiff_t K, ptrdiff_t gap, int from)
{
    CHECKING("%s gemv N=%td K=%td gap=%td from=%d", s->name, N, K, gap, from);
    taken = 0;
    matrix *w = given(N, K, K + gap), *a = given(1, K, K), *z = given(1, N, N);
    matrix *c = from == 2 ? both(1, N, N) : blank(1, N, N);
    s->t->gemv(N, K, w->at, w->ld, a->at, from == 2 ? c->at : from ? z->at : NULL, c->at);
    intact();
    for (ptrdiff_t j = 0; j < N; j++) {
        real sum = from == 2 ? WAS(c, 0, j) : from ? AT(z, 0, j) : 0;
        for (ptrdiff_t k = 0; k < K; k++)
            sum = multiply_add(s, AT(a, 0, k), AT(w, j, k), sum);
        equal(c, 0, j, sum);
    }
}

static void check_gemv(ptrdiff_t n, ptrdiff_t N, ptrdiff_t K, ptrdiff_t gap)
{
    for (int i = 0; i < n_sets; i++)
        gemv_from(&sets[i], N, K, gap, (int)((n + N) % 3));
}

static void outer_from(const set *s, int more, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, ptrdiff_t gap)
{
    CHECKING("%s outer more=%d K=%td M=%td N=%td gap=%td", s->name, more, K, M, N, gap);
    taken = 0;
    matrix *a = given(K, M, M + gap), *d = given(K, N, N + 2 * gap);
    matrix *c = more ? both(M, N, N + gap) : blank(M, N, N + gap);
    matrix *work = blank(frnn_outer_work(K, N, s->t->lanes, sizeof(real)), 1, 1);
    s->t->outer(more, K, M, N, a->at, a->ld, d->at, d->ld, c->at, c->ld, work->at);
    intact();
    for (ptrdiff_t r = 0; r < M; r++)
        for (ptrdiff_t j = 0; j < N; j++) {
            real sum = more ? WAS(c, r, j) : 0;
            for (ptrdiff_t k = 0; k < K; k++)
                sum = multiply_add(s, AT(a, k, r), AT(d, k, j), sum);
            equal(c, r, j, sum);
        }
}

static void check_outer(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, ptrdiff_t gap)
{
    for (int i = 0; i < n_sets; i++) {
        outer_from(&sets[i], 0, M, N, K, gap);
        outer_from(&sets[i], 1, M, N, K, gap);
    }
}

/* ---- sums -------------------------------------------------------------------------------------------------------- */

static void check_sums(ptrdiff_t n, ptrdiff_t N, ptrdiff_t K, ptrdiff_t gap)
{
    for (int i = 0; i < n_sets; i++) {
        CHECKING("%s add, copy and add_rows n=%td N=%td K=%td gap=%td", sets[i].name, n, N, K, gap);
        taken = 0;
        matrix *src = given(n, N, N + gap), *dst = both(n, N, N + 2 * gap);
        matrix *d = given(K, N, N + gap), *sums = both(1, N, N), *twin = blank(n, N, N + 2 * gap),
               *none = blank(n, N, N);
        sets[i].t->add(n, N, src->at, NULL, src->ld, dst->at, dst->ld);
        sets[i].t->copy(n, N, src->at, NULL, src->ld, twin->at, NULL, twin->ld);
        sets[i].t->copy(n, N, NULL, NULL, 0, none->at, NULL, none->ld);
        sets[i].t->add_rows(K, N, d->at, d->ld, sums->at);
        intact();
        for (ptrdiff_t j = 0; j < N; j++) {
            real sum = WAS(sums, 0, j);
            for (ptrdiff_t k = 0; k < K; k++)
                sum += AT(d, k, j);
            equal(sums, 0, j, sum);
            for (ptrdiff_t r = 0; r < n; r++) {
                equal(dst, r, j, WAS(dst, r, j) + AT(src, r, j));
                equal(twin, r, j, AT(src, r, j));
                equal(none, r, j, 0);
            }
        }
    }
}

/* The same from and to rows that do not follow each other: here the last comes first. */
static void check_moves(ptrdiff_t n, ptrdiff_t N, ptrdiff_t K, ptrdiff_t gap)
{
    (void)K;
    for (int i = 0; i < n_sets; i++) {
        CHECKING("%s add and copy of rows n=%td N=%td gap=%td", sets[i].name, n, N, gap);
        taken = 0;
        matrix *src = given(n, N, N + gap), *dst = both(n, N, N + 2 * gap);
        matrix *near = blank(n, N, N + gap), *far = blank(n, N, N + 2 * gap);
        ptrdiff_t from[MOST_ROWS], to[MOST_ROWS];
        for (ptrdiff_t r = 0; r < n; r++)
            from[r] = (n - 1 - r) * src->ld, to[r] = (n - 1 - r) * far->ld;
        sets[i].t->add(n, N, src->at, from, 0, dst->at, dst->ld);
        sets[i].t->copy(n, N, src->at, from, 0, near->at, NULL, near->ld);
        sets[i].t->copy(n, N, src->at, NULL, src->ld, far->at, to, 0);
        intact();
        for (ptrdiff_t j = 0; j < N; j++)
            for (ptrdiff_t r = 0; r < n; r++) {
                equal(dst, r, j, WAS(dst, r, j) + AT(src, n - 1 - r, j));
                equal(near, r, j, AT(src, n - 1 - r, j));
                equal(far, r, j, AT(src, n - 1 - r, j));
            }
    }
}

int main(void)
{
    prepare();
    everywhere(check_pack_columns);
    everywhere(check_pack_gates);
    everywhere(check_gemm);
    everywhere(check_gemv);
    everywhere(check_outer);
    check_outer(5, 20, 300, 3);  /* deeper than is summed up at a time */
    check_outer(101, 150, 3, 3); /* more rows than are done at a time; by a small near cache, more columns */
    everywhere(check_sums);
    everywhere(check_moves);
    report("products");
}
