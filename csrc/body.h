/* SPDX-License-Identifier: MIT
 * body.h - every primitive of frnn.h, once, in the vocabulary of vec_*.h, for one real type.
 *
 * isa_*.[ch] include it with FRNN_WIDE set (is the type double?), a vec_*.h in view, inside the target region of their
 * instruction set, and isa_*.c make a table of FRNN_PRIMITIVES. Letters as in frnn.h, and: VL lanes, V vectors of a
 * tile, m its rows, t its number in a panel, p panels taken together, b the number of a block (a panel of gemm, or the
 * gates of VL units), u its first unit, buf a tile of accumulators between product and cell: [row][vector][lane]. */

#define PANEL (4 * VL)
#define NEAR ((ptrdiff_t)(FRNN_NEAR_BYTES / sizeof(real)))
#define BUF (8 * 4 * FRNN_BYTES / sizeof(real)) /* the largest tile */
#define ALIGNED __attribute__((aligned(64)))

#include "activations.h"

INLINE ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
INLINE vec get(const real *p, ptrdiff_t lanes) { return lanes == VL ? load(p) : part(p, lanes); }
INLINE void set(real *p, vec v, ptrdiff_t lanes)
{
    if (lanes == VL)
        put(p, v);
    else
        put_part(p, v, lanes);
}

/* Row i and the vector of units from u on, of which `lanes` are there. */
#define EACH_VECTOR(n, U)                                                                                              \
    for (ptrdiff_t i = 0; i < n; i++)                                                                                  \
        for (ptrdiff_t u = 0, lanes; lanes = least(VL, U - u), u < U; u += VL)

/* One row of V vectors, the last one perhaps cut short, to or from V full ones. */
INLINE void take_columns(ptrdiff_t cols, const real *from, real *to)
{
    ptrdiff_t v = 0;
    for (; v + VL <= cols; v += VL)
        put(to + v, load(from + v));
    if (v < cols)
        put(to + v, part(from + v, cols - v));
}
INLINE void give_columns(ptrdiff_t cols, const real *from, real *to)
{
    ptrdiff_t v = 0;
    for (; v + VL <= cols; v += VL)
        put(to + v, load(from + v));
    if (v < cols)
        put_part(to + v, load(from + v), cols - v);
}

/* ---- packing ---------------------------------------------------------------------------------------------------- */

/* t[k]: the k-th elements of VL rows of w, for the first few k. */
#if FRNN_LANES == 2
#define FEW 2
INLINE void columns(const real *w, ptrdiff_t ldw, vec t[FEW])
{
    vec a = load(w), b = load(w + ldw);
    t[0] = (vec){a[0], b[0]};
    t[1] = (vec){a[1], b[1]};
}
#else
#define FEW 4
INLINE void columns(const real *w, ptrdiff_t ldw, vec t[FEW])
{
    vec a = quads(w, 4 * ldw), b = quads(w + ldw, 4 * ldw);
    vec c = quads(w + 2 * ldw, 4 * ldw), d = quads(w + 3 * ldw, 4 * ldw);
    vec ab = SHUFFLE(a, b, 0, 4, 1, 5), cd = SHUFFLE(c, d, 0, 4, 1, 5);
    vec ab2 = SHUFFLE(a, b, 2, 6, 3, 7), cd2 = SHUFFLE(c, d, 2, 6, 3, 7);
    t[0] = SHUFFLE(ab, cd, 0, 1, 4, 5);
    t[1] = SHUFFLE(ab, cd, 2, 3, 6, 7);
    t[2] = SHUFFLE(ab2, cd2, 0, 1, 4, 5);
    t[3] = SHUFFLE(ab2, cd2, 2, 3, 6, 7);
}
#endif

/* to[k * step + lane] = w[lane * ldw + k] for K by VL of them, zeros in the lanes past the last. */
static void pack_lanes(ptrdiff_t K, ptrdiff_t lanes, const real *w, ptrdiff_t ldw, real *to, ptrdiff_t step)
{
    ptrdiff_t k = 0;
    vec t[FEW];
    for (; lanes == VL && k + FEW <= K; k += FEW) {
        columns(w + k, ldw, t);
        UNROLL for (int i = 0; i < FEW; i++)
            put(to + (k + i) * step, t[i]);
    }
    for (; k < K; k++) {
        for (ptrdiff_t lane = 0; lane < lanes; lane++)
            to[k * step + lane] = w[lane * ldw + k];
        for (ptrdiff_t lane = lanes; lane < VL; lane++)
            to[k * step + lane] = 0;
    }
}

static void pack_columns(ptrdiff_t K, ptrdiff_t N, int transposed, const real *w, ptrdiff_t ldw, real *to,
                         ptrdiff_t K_all, ptrdiff_t k0)
{
    for (ptrdiff_t n = 0; n < N; n += PANEL) {
        ptrdiff_t vectors = (least(PANEL, N - n) + VL - 1) / VL, width = vectors * VL;
        real *panel = to + k0 * width;
        if (transposed)
            for (ptrdiff_t v = 0; v < width; v += VL)
                pack_lanes(K, least(VL, N - n - v), w + (n + v) * ldw, ldw, panel + v, width);
        else
            for (ptrdiff_t k = 0; k < K; k++)
                take_columns(least(PANEL, N - n), w + k * ldw + n, panel + k * width);
        to += K_all * width;
    }
}

static void pack_gates(ptrdiff_t G, ptrdiff_t H, ptrdiff_t K, int first, const real *w, ptrdiff_t ldw, real *to,
                       ptrdiff_t K_all, ptrdiff_t k0)
{
    for (ptrdiff_t u = 0; u < H; u += VL, to += K_all * G * VL)
        for (ptrdiff_t g = 0; g < G; g++) {
            const real *rows = w + ((first + g) % G * H + u) * ldw;
            pack_lanes(K, least(VL, H - u), rows, ldw, to + (k0 * G + g) * VL, G * VL);
        }
}

/* ---- the one product under everything ---------------------------------------------------------------------------- */

/* Where accumulators start: row r, vector v at `at + r * ld + v * apart`, but those of the last vector at `last`. So
 * they may be a row's next vectors (gemm), the same units of each gate, H apart (a step), or in part a bias (the GRU).
 * Tiles take it field by field: as a struct, by pointer or not, it took 2 to 5 % of gemm's speed. */
typedef struct start {
    const real *at;
    ptrdiff_t ld, apart;
    const real *last;
    ptrdiff_t ld_last;
} start;

INLINE start start_at(ptrdiff_t V, const real *at, ptrdiff_t ld, ptrdiff_t apart)
{
    return (start){at, ld, apart, at + (V - 1) * apart, ld};
}

#define START const real *at, ptrdiff_t ld, ptrdiff_t apart, const real *last, ptrdiff_t ld_last
#define FIELDS(z) z.at, z.ld, z.apart, z.last, z.ld_last

#define TILE_ARGUMENTS                                                                                                 \
    ptrdiff_t K, const real *a, ptrdiff_t ar, ptrdiff_t ak, const real *w, START, real *c, ptrdiff_t ldc,              \
        const real *next, ptrdiff_t stride

/* R rows by V vectors of accumulators, from z to c, over k in order:  c[r] = z[r] + sum_k a[r*ar + k*ak] w[k].
 * Whichever side is smaller stays in registers, the other streams past it. ahead: for each k it asks for
 * next[k * stride], which no near cache has and the next tile will want, or a later one. */
enum { NOTHING, SOON, LATER }; /* to L1, or L2 alone */
INLINE void tile_body(int R, int V, int ahead, TILE_ARGUMENTS)
{
    vec acc[8][4], held[8];
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int v = 0; v < V - 1; v++)
            acc[r][v] = load(at + r * ld + v * apart);
        acc[r][V - 1] = load(last + r * ld_last);
    }
    for (ptrdiff_t k = 0; k < K; k++, a += ak, w += V * VL) {
        if (ahead == SOON)
            __builtin_prefetch(next + k * stride);
        else if (ahead == LATER)
            __builtin_prefetch(next + k * stride, 0, 2);
        if (R < V) {
            UNROLL for (int r = 0; r < R; r++)
                held[r] = all(a[r * ar]);
            UNROLL for (int v = 0; v < V; v++) {
                vec wv = load(w + v * VL);
                if (R > 1)
                    FRNN_KEEP(wv);
                UNROLL for (int r = 0; r < R; r++)
                    acc[r][v] = fmadd(held[r], wv, acc[r][v]);
            }
        } else {
            UNROLL for (int v = 0; v < V; v++) {
                held[v] = load(w + v * VL);
                if (R > 1)
                    FRNN_KEEP(held[v]);
            }
            UNROLL for (int r = 0; r < R; r++) {
                vec ar_k = all(a[r * ar]);
                UNROLL for (int v = 0; v < V; v++)
                    acc[r][v] = fmadd(ar_k, held[v], acc[r][v]);
            }
        }
    }
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int v = 0; v < V; v++)
            put(c + r * ldc + v * VL, acc[r][v]);
    }
}

typedef void tile_function(TILE_ARGUMENTS);

#define TILE(R, V)                                                                                                     \
    static void tile_##R##x##V(TILE_ARGUMENTS)                                                                         \
    {                                                                                                                  \
        tile_body(R, V, NOTHING, K, a, ar, ak, w, at, ld, apart, last, ld_last, c, ldc, next, stride);                 \
    }
#define TILES(V) TILE(1, V) TILE(2, V) TILE(3, V) TILE(4, V) TILE(5, V) TILE(6, V) TILE(7, V) TILE(8, V)
TILES(1)
TILES(2)
TILES(3)
TILES(4)

#define IF_LOW(R, V) R <= FRNN_TILE_ROWS(V) ? tile_##R##x##V : NULL /* taller ones are never called */
#define LOW(V)                                                                                                         \
    {IF_LOW(1, V), IF_LOW(2, V), IF_LOW(3, V), IF_LOW(4, V), IF_LOW(5, V), IF_LOW(6, V), IF_LOW(7, V), IF_LOW(8, V)}
static tile_function *const tiles[4][8] = {LOW(1), LOW(2), LOW(3), LOW(4)};

#define ASKING(name, less, V, ahead)                                                                                   \
    static void name(TILE_ARGUMENTS)                                                                                   \
    {                                                                                                                  \
        tile_body(FRNN_TILE_ROWS(V) - less, V, ahead, K, a, ar, ak, w, at, ld, apart, last, ld_last, c, ldc, next,     \
                  stride);                                                                                             \
    }
ASKING(asking_soon, 0, 4, SOON)
ASKING(asking_4, 0, 4, LATER)
ASKING(asking_4_less, 1, 4, LATER)
ASKING(asking_3, 0, 3, LATER)
ASKING(asking_3_less, 1, 3, LATER)
static tile_function *const asking[2][2] = {{asking_3, asking_3_less}, {asking_4, asking_4_less}};

/* The tile for m rows by V vectors. Only the tallest, and those a row shorter, ask for a next panel, if one comes. */
INLINE tile_function *tile_of(ptrdiff_t m, ptrdiff_t V, const real *next)
{
    ptrdiff_t less = FRNN_TILE_ROWS(V) - m;
    return next && V > 2 && less < 2 ? asking[V - 3][less] : tiles[V - 1][m - 1];
}

/* Where in the next panel, of `size` elements, the t-th tile, K deep, begins to ask: for a cache line with each k, so
 * that nothing waits for it. Null once all is asked for. */
#define LINE ((ptrdiff_t)(64 / sizeof(real)))
INLINE const real *share_of(const real *panel, ptrdiff_t size, ptrdiff_t t, ptrdiff_t K)
{
    return panel && t * K * LINE < size ? panel + t * K * LINE : NULL;
}

/* Rows of the next tile when `left` are to do: as even as they can be (32 = 6,6,5,5,5,5). */
INLINE ptrdiff_t tile_rows(ptrdiff_t left, ptrdiff_t V)
{
    ptrdiff_t most = FRNN_TILE_ROWS(V), tall = (left + most - 1) / most;
    if (left <= most)
        return left;
    return (left + tall - 1) / tall;
}

/* A lone row by p panels of V vectors at once, w of each `far` behind that of the one before, c likewise one row: one
 * panel alone has too few sums to keep the multipliers busy, each of them waiting for its term before. */
INLINE void panels_body(int p, int V, ptrdiff_t K, const real *a, const real *w, ptrdiff_t far, START, real *c,
                        ptrdiff_t ldc)
{
    vec acc[4][4];
    UNROLL for (int b = 0; b < p; b++) {
        UNROLL for (int v = 0; v < V - 1; v++)
            acc[b][v] = load(at + b * ld + v * apart);
        acc[b][V - 1] = load(last + b * ld_last);
    }
    for (ptrdiff_t k = 0; k < K; k++, w += V * VL) {
        vec ak = all(a[k]);
        UNROLL for (int b = 0; b < p; b++) {
            UNROLL for (int v = 0; v < V; v++)
                acc[b][v] = fmadd(ak, load(w + b * far + v * VL), acc[b][v]);
        }
    }
    UNROLL for (int b = 0; b < p; b++) {
        UNROLL for (int v = 0; v < V; v++)
            put(c + b * ldc + v * VL, acc[b][v]);
    }
}

#define PANELS(p, V)                                                                                                   \
    static void panels_##p##x##V(ptrdiff_t K, const real *a, const real *w, ptrdiff_t far, START, real *c,             \
                                 ptrdiff_t ldc)                                                                        \
    {                                                                                                                  \
        panels_body(p, V, K, a, w, far, at, ld, apart, last, ld_last, c, ldc);                                         \
    }
PANELS(2, 3)
PANELS(4, 3)
PANELS(2, 4)

/* buf = z + a w. A lone row is not worth a call: done here, it stays in registers from its start to its cell.
 * far: not 0 if the m rows are as many panels of a lone one. */
INLINE void tile_to(real *buf, ptrdiff_t row, start z, ptrdiff_t m, const int V, ptrdiff_t K, const real *a,
                    ptrdiff_t lda, const real *w, ptrdiff_t far, const real *next)
{
    if (far)
        (V == 4 ? panels_2x4 : m == 4 ? panels_4x3 : panels_2x3)(K, a, w, far, FIELDS(z), buf, row);
    else if (m == 1)
        tile_body(1, V, NOTHING, K, a, lda, 1, w, FIELDS(z), buf, row, NULL, 0);
    else
        tile_of(m, V, next)(K, a, lda, 1, w, FIELDS(z), buf, row, next, LINE);
}

/* The place of the b-th block to do. */
INLINE ptrdiff_t block_at(ptrdiff_t b, ptrdiff_t blocks, int turn) { return turn & 1 ? blocks - 1 - b : b; }

/* The block after the b-th one, each `size` long, if together they are too long for a near cache, or null: a third of
 * it, since other weights, inputs and results want a place there, too. */
INLINE const real *block_after(ptrdiff_t b, ptrdiff_t blocks, int turn, const real *w, ptrdiff_t size)
{
    return b + 1 < blocks && blocks * size > NEAR / 3 ? w + block_at(b + 1, blocks, turn) * size : NULL;
}

/* How many blocks, V vectors wide and K deep, a lone row takes together from the b-th one on: of the first `whole`
 * blocks, since the last may lack lanes. For more rows than one, 1. */
INLINE ptrdiff_t together(ptrdiff_t n, ptrdiff_t V, ptrdiff_t K, ptrdiff_t b, ptrdiff_t blocks, ptrdiff_t whole,
                          int turn)
{
    ptrdiff_t p = n == 1 ? FRNN_TOGETHER(V, K) : 1;
    while (p > 1 &&
           (b + p > blocks || block_at(b, blocks, turn) >= whole || block_at(b + p - 1, blocks, turn) >= whole))
        p /= 2;
    return p;
}

static const real zeros[PANEL] ALIGNED = {0};

static void gemm(int turn, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const real *a, ptrdiff_t lda, const real *w,
                 const real *z, ptrdiff_t ldz, real *c, ptrdiff_t ldc)
{
    real buf[BUF] ALIGNED;
    start from;
    const ptrdiff_t panels = (N + PANEL - 1) / PANEL;
    for (ptrdiff_t b = 0; b < panels; b++) {
        ptrdiff_t n = block_at(b, panels, turn) * PANEL, cols = least(PANEL, N - n), V = (cols + VL - 1) / VL;
        ptrdiff_t zrow = z ? ldz : 0, t = 0;
        const real *zn = z ? z + n : zeros, *after = block_after(b, panels, turn, w, K * PANEL);
        if (together(M, 4, K, b, panels, N / PANEL, turn) > 1) {
            n = least(n, block_at(++b, panels, turn) * PANEL);
            from = start_at(4, z ? z + n : zeros, z ? PANEL : 0, VL);
            panels_2x4(K, a, w + n * K, K * PANEL, FIELDS(from), c + n, PANEL);
            continue;
        }
        for (ptrdiff_t r = 0, m; r < M; r += m) {
            const real *next = share_of(after, K * V * VL, t++, K);
            m = tile_rows(M - r, V);
            if (cols == V * VL) {
                from = start_at(V, zn + r * zrow, zrow, VL);
                tile_of(m, V, next)(K, a + r * lda, lda, 1, w + n * K, FIELDS(from), c + r * ldc + n, ldc, next, LINE);
                continue;
            }
            for (ptrdiff_t i = 0; i < m; i++)
                take_columns(cols, zn + (r + i) * zrow, buf + i * V * VL);
            from = start_at(V, buf, V * VL, VL);
            tile_of(m, V, next)(K, a + r * lda, lda, 1, w + n * K, FIELDS(from), buf, V * VL, next, LINE);
            for (ptrdiff_t i = 0; i < m; i++)
                give_columns(cols, buf + i * V * VL, c + (r + i) * ldc + n);
        }
    }
}

/* sum + w a for one vector of units, of which `lanes` are there. */
INLINE vec lone_sum(ptrdiff_t lanes, ptrdiff_t K, const real *w, ptrdiff_t ldw, const real *a, vec sum)
{
    ptrdiff_t k = 0, n;
    real few[FEW * VL] ALIGNED;
    vec t[FEW];
    for (; k < K; k += n) {
        n = least(FEW, K - k);
        if (lanes == VL && n == FEW) {
            columns(w + k, ldw, t);
            UNROLL for (int i = 0; i < FEW; i++)
                sum = fmadd(all(a[k + i]), t[i], sum);
            continue;
        }
        pack_lanes(n, lanes, w + k, ldw, few, VL);
        for (ptrdiff_t i = 0; i < n; i++)
            sum = fmadd(all(a[k + i]), load(few + i * VL), sum);
    }
    return sum;
}

static void gemv(ptrdiff_t N, ptrdiff_t K, const real *w, ptrdiff_t ldw, const real *a, const real *z, real *c)
{
    for (ptrdiff_t n = 0; n < N; n += VL) {
        ptrdiff_t lanes = least(VL, N - n);
        set(c + n, lone_sum(lanes, K, w + n * ldw, ldw, a, z ? get(z + n, lanes) : all(0)), lanes);
    }
}

/* Asks for the next tile's place in c while this tile is at work. */
INLINE void fetch_rows(ptrdiff_t m, ptrdiff_t V, const real *c, ptrdiff_t ldc)
{
    for (ptrdiff_t r = 0; r < m; r++)
        for (ptrdiff_t v = 0; v < V; v++)
            __builtin_prefetch(c + r * ldc + v * VL);
}

/* M rows of a panel of outer's result. The vectors run along d, so that c comes out as the gradients are kept; a is
 * read as it stands, a column of it being a row of the tile (packing a, or c transposed, were both slower).
 * fetch, ask: whether c, whether a, is too long for a near cache. */
static void outer_panel(int more, ptrdiff_t K, ptrdiff_t M, ptrdiff_t cols, int fetch, int ask, const real *a,
                        ptrdiff_t lda, const real *w, real *c, ptrdiff_t ldc)
{
    real buf[BUF] ALIGNED;
    const ptrdiff_t V = (cols + VL - 1) / VL, row = V * VL;
    for (ptrdiff_t r = 0, m; r < M; r += m) {
        real *cr = c + r * ldc;
        start from = more ? start_at(V, cr, ldc, VL) : start_at(V, zeros, 0, VL);
        m = tile_rows(M - r, V);
        if (fetch)
            fetch_rows(least(m, M - r - m), V, cr + m * ldc, ldc);
        if (cols == row) {
            /* What the tile below will want of a: the processor does not foresee it where k strides over memory. */
            int asks = ask && V == 4 && m == FRNN_TILE_ROWS(4);
            (asks ? asking_soon : tiles[V - 1][m - 1])(K, a + r, 1, lda, w, FIELDS(from), cr, ldc, a + r + 2 * m - 1,
                                                       lda);
            continue;
        }
        if (more) {
            for (ptrdiff_t i = 0; i < m; i++)
                take_columns(cols, cr + i * ldc, buf + i * row);
            from = start_at(V, buf, row, VL);
        }
        tiles[V - 1][m - 1](K, a + r, 1, lda, w, FIELDS(from), buf, row, NULL, 0);
        for (ptrdiff_t i = 0; i < m; i++)
            give_columns(cols, buf + i * row, cr + i * ldc);
    }
}

/* M rows of outer's result by all the columns that are packed. */
static void outer_rows(int more, ptrdiff_t K, ptrdiff_t M, ptrdiff_t N, int fetch, int ask, const real *a,
                       ptrdiff_t lda, const real *w, real *c, ptrdiff_t ldc)
{
    for (ptrdiff_t n = 0; n < N; n += PANEL) {
        ptrdiff_t cols = least(PANEL, N - n), width = (cols + VL - 1) / VL * VL;
        for (ptrdiff_t k = 0, deep; k < K; k += deep, w += deep * width) {
            deep = (K - k) / 2 < FRNN_DEPTH ? K - k : FRNN_DEPTH;
            outer_panel(more || k, deep, M, cols, fetch, ask, a + k * lda, lda, w, c + n, ldc);
        }
    }
}

/* As many columns of d are packed at a time as a near cache keeps, and beside them has a place for what a few rows of c
 * take of a: that comes from a far cache once for all these columns, not for each panel. */
static void outer(int more, ptrdiff_t K, ptrdiff_t M, ptrdiff_t N, const real *a, ptrdiff_t lda, const real *d,
                  ptrdiff_t ldd, real *c, ptrdiff_t ldc, real *work)
{
    const ptrdiff_t some = 48; /* whole cache lines of a, whole tiles */
    const int fetch = M * N > NEAR, ask = K * lda > NEAR;
    ptrdiff_t group = frnn_outer_work(K, N, VL, sizeof(real)) / K;
    if (group < (N + VL - 1) / VL * VL)
        group = group / PANEL * PANEL;
    for (ptrdiff_t n = 0; n < N; n += group) {
        ptrdiff_t cols = least(group, N - n);
        pack_columns(K, cols, 0, d + n, ldd, work, K, 0);
        for (ptrdiff_t r = 0; r < M; r += some)
            outer_rows(more, K, least(some, M - r), cols, fetch, ask, a + r, lda, work, c + r * ldc + n, ldc);
    }
}

static void add(ptrdiff_t n, ptrdiff_t N, const real *src, const ptrdiff_t *from, ptrdiff_t ldsrc, real *dst,
                ptrdiff_t lddst)
{
    const ptrdiff_t whole = N / VL * VL, rest = N - whole;
    for (ptrdiff_t r = 0; r < n; r++) {
        const real *s = src + (from ? from[r] : r * ldsrc);
        real *d = dst + r * lddst;
        for (ptrdiff_t u = 0; u < whole; u += VL)
            put(d + u, load(d + u) + load(s + u));
        if (rest)
            put_part(d + whole, part(d + whole, rest) + part(s + whole, rest), rest);
    }
}

INLINE void copy_row(ptrdiff_t N, const int zero, const real *src, real *dst)
{
    ptrdiff_t u = 0;
    for (; u + VL <= N; u += VL)
        put(dst + u, zero ? all(0) : load(src + u));
    if (u < N)
        put_part(dst + u, zero ? all(0) : part(src + u, N - u), N - u);
}

static void copy(ptrdiff_t n, ptrdiff_t N, const real *src, const ptrdiff_t *from, ptrdiff_t ldsrc, real *dst,
                 const ptrdiff_t *to, ptrdiff_t lddst)
{
    for (ptrdiff_t r = 0; r < n; r++) {
        real *d = dst + (to ? to[r] : r * lddst);
        if (src)
            copy_row(N, 0, src + (from ? from[r] : r * ldsrc), d);
        else
            copy_row(N, 1, NULL, d);
    }
}

static void add_rows(ptrdiff_t K, ptrdiff_t N, const real *d, ptrdiff_t ldd, real *sums)
{
    ptrdiff_t n = 0;
    for (; n + PANEL <= N; n += PANEL) {
        vec sum[4];
        UNROLL for (int v = 0; v < 4; v++)
            sum[v] = load(sums + n + v * VL);
        for (ptrdiff_t k = 0; k < K; k++) {
            UNROLL for (int v = 0; v < 4; v++)
                sum[v] = sum[v] + load(d + k * ldd + n + v * VL);
        }
        UNROLL for (int v = 0; v < 4; v++)
            put(sums + n + v * VL, sum[v]);
    }
    for (; n < N; n += VL) {
        ptrdiff_t lanes = least(VL, N - n);
        vec sum = get(sums + n, lanes);
        for (ptrdiff_t k = 0; k < K; k++)
            sum = sum + get(d + k * ldd + n, lanes);
        set(sums + n, sum, lanes);
    }
}

/* ---- one step forward -------------------------------------------------------------------------------------------- */

/* The pre-activations of G gates of m rows, G * VL wide, from where they stand `apart` in z. Tiles start from there
 * themselves if all vectors are whole. */
INLINE void take_gates(ptrdiff_t m, ptrdiff_t G, ptrdiff_t lanes, const real *z, ptrdiff_t ldz, ptrdiff_t apart,
                       real *buf, ptrdiff_t row)
{
    for (ptrdiff_t r = 0; r < m; r++)
        for (ptrdiff_t g = 0; g < G; g++)
            put(buf + r * row + g * VL, get(z + r * ldz + g * apart, lanes));
}

/* Row r of x, or null where x is null: nothing may be added to that, not even 0. */
INLINE const real *row_of(const real *x, ptrdiff_t r, ptrdiff_t ldx) { return x ? x + r * ldx : x; }

/* The pre-activations of a panel of V vectors of units, the last one perhaps cut short. */
static void rnn_panel(ptrdiff_t m, ptrdiff_t V, ptrdiff_t cols, const real *z, ptrdiff_t ldz, const real *x,
                      ptrdiff_t ldx, ptrdiff_t I, const real *h_prev, ptrdiff_t ldh_prev, ptrdiff_t P, const real *w,
                      real *buf, const real *next)
{
    const ptrdiff_t row = V * VL;
    const start here = start_at(V, buf, row, VL);
    start from = start_at(V, z, ldz, VL);
    if (cols != row) {
        for (ptrdiff_t i = 0; i < m; i++)
            take_columns(cols, z + i * ldz, buf + i * row);
        from = here;
    }
    if (I) {
        tiles[V - 1][m - 1](I, x, ldx, 1, w, FIELDS(from), buf, row, NULL, 0);
        from = here;
    }
    tile_of(m, V, next)(P, h_prev, ldh_prev, 1, w + I * row, FIELDS(from), buf, row, next, LINE);
}

/* The pre-activations of two whole panels of a lone row. */
static void rnn_pair(const real *z, const real *x, ptrdiff_t I, const real *h_prev, ptrdiff_t P, const real *w,
                     real *buf)
{
    const start here = start_at(4, buf, PANEL, VL);
    start from = start_at(4, z, PANEL, VL);
    const ptrdiff_t far = (I + P) * PANEL;
    if (I) {
        panels_2x4(I, x, w, far, FIELDS(from), buf, PANEL);
        from = here;
    }
    panels_2x4(P, h_prev, w + I * PANEL, far, FIELDS(from), buf, PANEL);
}

INLINE vec rnn_value(vec a, int relu) { return relu ? max(all(0), a) : tanh_vec(a); }

INLINE void rnn_row(ptrdiff_t cols, const int relu, const real *a, real *h)
{
    ptrdiff_t u = 0;
    for (; u + VL <= cols; u += VL)
        put(h + u, rnn_value(load(a + u), relu));
    if (u < cols)
        put_part(h + u, rnn_value(load(a + u), relu), cols - u);
}

static void rnn_cells(ptrdiff_t m, ptrdiff_t cols, int relu, const real *buf, ptrdiff_t row, real *h, ptrdiff_t ldh)
{
    for (ptrdiff_t i = 0; i < m; i++)
        if (relu)
            rnn_row(cols, 1, buf + i * row, h + i * ldh);
        else
            rnn_row(cols, 0, buf + i * row, h + i * ldh);
}

static void rnn_step(int turn, ptrdiff_t n, ptrdiff_t U, int relu, const real *z, ptrdiff_t ldz, const real *x,
                     ptrdiff_t ldx, ptrdiff_t I, const real *h_prev, ptrdiff_t ldh_prev, ptrdiff_t P, const real *w,
                     real *h, ptrdiff_t ldh)
{
    real buf[BUF] ALIGNED;
    const ptrdiff_t panels = (U + PANEL - 1) / PANEL;
    for (ptrdiff_t b = 0; b < panels; b++) {
        ptrdiff_t u = block_at(b, panels, turn) * PANEL, cols = least(PANEL, U - u), V = (cols + VL - 1) / VL;
        if (together(n, 4, I + P, b, panels, U / PANEL, turn) > 1) {
            u = least(u, block_at(++b, panels, turn) * PANEL);
            rnn_pair(z + u, x, I, h_prev, P, w + u * (I + P), buf);
            rnn_cells(1, 2 * PANEL, relu, buf, 0, h + u, 0);
            continue;
        }
        const real *after = block_after(b, panels, turn, w, PANEL * (I + P));
        for (ptrdiff_t r = 0, m, t = 0; r < n; r += m) {
            m = tile_rows(n - r, V);
            rnn_panel(m, V, cols, z + r * ldz + u, ldz, row_of(x, r, ldx), ldx, I, h_prev + r * ldh_prev, ldh_prev, P,
                      w + u * (I + P), buf, share_of(after, V * VL * (I + P), t++, P));
            rnn_cells(m, cols, relu, buf, V * VL, h + r * ldh + u, ldh);
        }
    }
}

/* A block of units by BLOCK_OF(m, lanes), a call that the step defines, compiled apart for a lone row and for whole
 * vectors: the one keeps its accumulators in registers, the other needs no masked stores of h and c, which would hold
 * up the next step's loads of them. */
#define EACH_KIND(m, lanes)                                                                                            \
    do {                                                                                                               \
        if (lanes != VL)                                                                                               \
            BLOCK_OF(m, lanes);                                                                                        \
        else if (m != 1)                                                                                               \
            BLOCK_OF(m, VL);                                                                                           \
        else                                                                                                           \
            BLOCK_OF(1, VL);                                                                                           \
    } while (0)

/* In two passes: from a row's gates to its h each operation waits for the one before, and the processor looks only some
 * three rows ahead. */
INLINE void lstm_cells(ptrdiff_t m, ptrdiff_t lanes, ptrdiff_t H, real *buf, real *c, ptrdiff_t ldc, real *h,
                       ptrdiff_t ldh, real *tape, ptrdiff_t ldtape)
{
    for (ptrdiff_t r = 0; r < m; r++) {
        real *row = buf + r * 4 * VL;
        quotient i = sigmoid_of(load(row)), f = sigmoid_of(load(row + VL));
        quotient g = tanh_of(load(row + 2 * VL)), o = sigmoid_of(load(row + 3 * VL));
        vec ft = f.num / f.den, ct = fmadd(ft, get(c + r * ldc, lanes), (i.num * g.num) / (i.den * g.den));
        set(c + r * ldc, ct, lanes);
        put(row, ct);
        put(row + VL, o.num);
        put(row + 2 * VL, o.den);
        if (tape) {
            real *to = tape + r * ldtape;
            set(to, i.num / i.den, lanes);
            set(to + H, ft, lanes);
            set(to + 2 * H, g.num / g.den, lanes);
            set(to + 3 * H, o.num / o.den, lanes);
            set(to + 4 * H, ct, lanes);
        }
    }
    for (ptrdiff_t r = 0; r < m; r++) {
        const real *row = buf + r * 4 * VL;
        quotient t = tanh_of(load(row));
        set(h + r * ldh, (load(row + VL) * t.num) / (load(row + 2 * VL) * t.den), lanes);
    }
}

INLINE void lstm_block(ptrdiff_t m, ptrdiff_t lanes, ptrdiff_t far, ptrdiff_t H, const real *z, ptrdiff_t ldz,
                       const real *x, ptrdiff_t ldx, ptrdiff_t I, const real *h_prev, ptrdiff_t ldh_prev, ptrdiff_t P,
                       const real *w, real *c, ptrdiff_t ldc, real *h, ptrdiff_t ldh, real *tape, ptrdiff_t ldtape,
                       const real *next)
{
    real buf[BUF] ALIGNED;
    const ptrdiff_t row = 4 * VL;
    const start here = start_at(4, buf, row, VL);
    start from = start_at(4, z, ldz, H);
    if (lanes != VL) {
        take_gates(m, 4, lanes, z, ldz, H, buf, row);
        from = here;
    }
    if (I) {
        tile_to(buf, row, from, m, 4, I, x, ldx, w, far, NULL);
        from = here;
    }
    tile_to(buf, row, from, m, 4, P, h_prev, ldh_prev, w + I * row, far, next);
    lstm_cells(m, lanes, H, buf, c, ldc, h, ldh, tape, ldtape);
}

static void lstm_step(int turn, ptrdiff_t n, ptrdiff_t U, ptrdiff_t H, const real *z, ptrdiff_t ldz, const real *x,
                      ptrdiff_t ldx, ptrdiff_t I, const real *h_prev, ptrdiff_t ldh_prev, ptrdiff_t P, const real *w,
                      real *c, real *h, ptrdiff_t ldh, real *tape)
{
    const ptrdiff_t blocks = (U + VL - 1) / VL, depth = 4 * (I + P);
    for (ptrdiff_t b = 0; b < blocks; b++) {
        ptrdiff_t u = block_at(b, blocks, turn) * VL, lanes = least(VL, U - u);
        if (together(n, 4, I + P, b, blocks, U / VL, turn) > 1) {
            u = least(u, block_at(++b, blocks, turn) * VL);
            lstm_block(2, VL, depth * VL, H, z + u, VL, x, 0, I, h_prev, 0, P, w + u * depth, c + u, VL, h + u, VL,
                       tape ? tape + u : NULL, VL, NULL);
            continue;
        }
        const real *after = block_after(b, blocks, turn, w, depth * VL);
        for (ptrdiff_t r = 0, m, t = 0; r < n; r += m) {
            const real *next = share_of(after, depth * VL, t++, P);
            m = tile_rows(n - r, 4);
#define BLOCK_OF(m, lanes)                                                                                             \
    lstm_block(m, lanes, 0, H, z + r * ldz + u, ldz, row_of(x, r, ldx), ldx, I, h_prev + r * ldh_prev, ldh_prev, P,    \
               w + u * depth, c + r * H + u, H, h + r * ldh + u, ldh, tape ? tape + r * FRNN_LSTM_TAPE * H + u : NULL, \
               FRNN_LSTM_TAPE * H, next)
            EACH_KIND(m, lanes);
#undef BLOCK_OF
        }
    }
}

/* zn (m, VL): the input's side of n; buf: room for it, then r z q. In two passes, as above. */
INLINE void gru_cells(ptrdiff_t m, ptrdiff_t lanes, ptrdiff_t H, const real *zn, ptrdiff_t ldzn, real *buf,
                      const real *h_prev, ptrdiff_t ldh_prev, real *h, ptrdiff_t ldh, real *tape, ptrdiff_t ldtape)
{
    for (ptrdiff_t i = 0; i < m; i++) {
        real *row = buf + i * 4 * VL;
        vec r = sigmoid_vec(load(row + VL)), q = load(row + 3 * VL);
        put(row + 2 * VL, sigmoid_vec(load(row + 2 * VL)));
        put(row, fmadd(r, q, load(zn + i * ldzn)));
        if (tape) {
            set(tape + i * ldtape, r, lanes);
            set(tape + i * ldtape + 3 * H, q, lanes);
        }
    }
    for (ptrdiff_t i = 0; i < m; i++) {
        const real *row = buf + i * 4 * VL;
        vec n = tanh_vec(load(row)), z = load(row + 2 * VL);
        set(h + i * ldh, fmadd(z, get(h_prev + i * ldh_prev, lanes) - n, n), lanes);
        if (tape) {
            set(tape + i * ldtape + H, z, lanes);
            set(tape + i * ldtape + 2 * H, n, lanes);
        }
    }
}

/* own (m, lanes), ldown: these units in h_prev. */
INLINE void gru_block(ptrdiff_t m, ptrdiff_t lanes, ptrdiff_t far, ptrdiff_t H, const real *z, ptrdiff_t ldz,
                      const real *b_hn, ptrdiff_t ldb_hn, const real *x, ptrdiff_t ldx, ptrdiff_t I, const real *h_prev,
                      ptrdiff_t ldh_prev, const real *own, ptrdiff_t ldown, const real *w, real *h, ptrdiff_t ldh,
                      real *tape, ptrdiff_t ldtape, const real *next)
{
    real buf[BUF] ALIGNED;
    const ptrdiff_t row = 4 * VL;
    const start rzq = {buf + VL, row, VL, buf + 3 * VL, row}, nrz = {buf, row, VL, buf + 2 * VL, row};
    start from = {z, ldz, H, b_hn, ldb_hn};
    const real *zn = z + 2 * H;
    ptrdiff_t ldzn = ldz;
    if (I || lanes != VL) {
        take_gates(m, 2, lanes, z, ldz, H, buf + VL, row);
        take_gates(m, 1, lanes, zn, ldz, 0, buf, row);
        take_gates(m, 1, lanes, b_hn, ldb_hn, 0, buf + 3 * VL, row);
        from = rzq, zn = buf, ldzn = row;
    }
    if (I)
        tile_to(buf, row, nrz, m, 3, I, x, ldx, w, far, NULL);
    tile_to(buf + VL, row, from, m, 3, H, h_prev, ldh_prev, w + I * 3 * VL, far, next);
    gru_cells(m, lanes, H, zn, ldzn, buf, own, ldown, h, ldh, tape, ldtape);
}

static void gru_step(int turn, ptrdiff_t n, ptrdiff_t U, ptrdiff_t H, const real *z, ptrdiff_t ldz, const real *b_hn,
                     const real *x, ptrdiff_t ldx, ptrdiff_t I, const real *h_prev, ptrdiff_t ldh_prev, ptrdiff_t u0,
                     const real *w, real *h, ptrdiff_t ldh, real *tape)
{
    const ptrdiff_t blocks = (U + VL - 1) / VL, depth = 3 * (I + H);
    for (ptrdiff_t b = 0; b < blocks; b++) {
        ptrdiff_t u = block_at(b, blocks, turn) * VL, lanes = least(VL, U - u);
        ptrdiff_t p = together(n, 3, I + H, b, blocks, U / VL, turn);
        if (p > 1) {
            u = least(u, block_at(b += p - 1, blocks, turn) * VL);
            gru_block(p, VL, depth * VL, H, z + u, VL, b_hn + u, VL, x, 0, I, h_prev, 0, h_prev + u0 + u, VL,
                      w + u * depth, h + u, VL, tape ? tape + u : NULL, VL, NULL);
            continue;
        }
        const real *after = block_after(b, blocks, turn, w, depth * VL);
        for (ptrdiff_t r = 0, m, t = 0; r < n; r += m) {
            const real *next = share_of(after, depth * VL, t++, H);
            m = tile_rows(n - r, 3);
#define BLOCK_OF(m, lanes)                                                                                             \
    gru_block(m, lanes, 0, H, z + r * ldz + u, ldz, b_hn + u, 0, row_of(x, r, ldx), ldx, I, h_prev + r * ldh_prev,     \
              ldh_prev, h_prev + r * ldh_prev + u0 + u, ldh_prev, w + u * depth, h + r * ldh + u, ldh,                 \
              tape ? tape + r * FRNN_GRU_TAPE * H + u : NULL, FRNN_GRU_TAPE * H, next)
            EACH_KIND(m, lanes);
#undef BLOCK_OF
        }
    }
}

/* ---- one step backward ------------------------------------------------------------------------------------------- */

INLINE vec sigmoid_slope(vec s) { return s * (all(1) - s); }
INLINE vec tanh_slope(vec t) { return fmadd(-t, t, all(1)); }

INLINE void rnn_back_by(ptrdiff_t n, ptrdiff_t U, ptrdiff_t H, const int relu, const real *h, ptrdiff_t ldh,
                        const real *dh, real *dz, ptrdiff_t lddz)
{
    EACH_VECTOR(n, U)
    {
        vec ht = get(h + i * ldh + u, lanes), dht = get(dh + i * H + u, lanes);
        set(dz + i * lddz + u, relu ? choose(ht <= all(0), all(0), dht) : dht * tanh_slope(ht), lanes);
    }
}

static void rnn_back(ptrdiff_t n, ptrdiff_t U, ptrdiff_t H, int relu, const real *h, ptrdiff_t ldh, const real *dh,
                     real *dz, ptrdiff_t lddz)
{
    if (relu)
        rnn_back_by(n, U, H, 1, h, ldh, dh, dz, lddz);
    else
        rnn_back_by(n, U, H, 0, h, ldh, dh, dz, lddz);
}

static void lstm_back(ptrdiff_t n, ptrdiff_t U, ptrdiff_t H, const real *tape, const real *c_prev, ptrdiff_t ldc_prev,
                      const real *dh, real *dc, real *dz, ptrdiff_t lddz, real *h)
{
    EACH_VECTOR(n, U)
    {
        const real *row = tape + i * FRNN_LSTM_TAPE * H + u;
        real *to = dz + i * lddz + u;
        vec it = get(row, lanes), f = get(row + H, lanes), g = get(row + 2 * H, lanes), o = get(row + 3 * H, lanes);
        vec t = tanh_vec(get(row + 4 * H, lanes)), dht = get(dh + i * H + u, lanes);
        vec dct = fmadd(dht * o, tanh_slope(t), get(dc + i * H + u, lanes));
        set(to, dct * g * sigmoid_slope(it), lanes);
        set(to + H, dct * get(c_prev + i * ldc_prev + u, lanes) * sigmoid_slope(f), lanes);
        set(to + 2 * H, dct * it * tanh_slope(g), lanes);
        set(to + 3 * H, dht * t * sigmoid_slope(o), lanes);
        set(dc + i * H + u, dct * f, lanes);
        if (h)
            set(h + i * H + u, o * t, lanes);
    }
}

static void gru_back(ptrdiff_t n, ptrdiff_t U, ptrdiff_t H, const real *tape, const real *h_prev, ptrdiff_t ldh_prev,
                     real *dh, real *dz, ptrdiff_t lddz)
{
    EACH_VECTOR(n, U)
    {
        const real *row = tape + i * FRNN_GRU_TAPE * H + u;
        real *to = dz + i * lddz + u;
        vec r = get(row, lanes), z = get(row + H, lanes), nt = get(row + 2 * H, lanes), q = get(row + 3 * H, lanes);
        vec dht = get(dh + i * H + u, lanes), dn = dht * (all(1) - z) * tanh_slope(nt);
        set(to, dn, lanes);
        set(to + H, dn * q * sigmoid_slope(r), lanes);
        set(to + 2 * H, dht * (get(h_prev + i * ldh_prev + u, lanes) - nt) * sigmoid_slope(z), lanes);
        set(to + 3 * H, dn * r, lanes);
        set(dh + i * H + u, dht * z, lanes);
    }
}

#include "apart.h"

/* ---- activations on their own ------------------------------------------------------------------------------------ */

static void tanh_row(ptrdiff_t n, const real *x, real *y)
{
    for (ptrdiff_t u = 0; u < n; u += VL)
        set(y + u, tanh_vec(get(x + u, least(VL, n - u))), least(VL, n - u));
}

static void sigmoid_row(ptrdiff_t n, const real *x, real *y)
{
    for (ptrdiff_t u = 0; u < n; u += VL)
        set(y + u, sigmoid_vec(get(x + u, least(VL, n - u))), least(VL, n - u));
}

#define FRNN_PRIMITIVES                                                                                                \
    {.lanes = VL,                                                                                                      \
     .pack_columns = pack_columns,                                                                                     \
     .pack_gates = pack_gates,                                                                                         \
     .gemm = gemm,                                                                                                     \
     .gemv = gemv,                                                                                                     \
     .outer = outer,                                                                                                   \
     .add = add,                                                                                                       \
     .copy = copy,                                                                                                     \
     .add_rows = add_rows,                                                                                             \
     .rnn_step = rnn_step,                                                                                             \
     .lstm_step = lstm_step,                                                                                           \
     .gru_step = gru_step,                                                                                             \
     .rnn_cell = rnn_cell,                                                                                             \
     .lstm_cell = lstm_cell,                                                                                           \
     .gru_gates = gru_gates,                                                                                           \
     .gru_reset = gru_reset,                                                                                           \
     .rnn_back = rnn_back,                                                                                             \
     .lstm_back = lstm_back,                                                                                           \
     .gru_back = gru_back,                                                                                             \
     .gru_reset_back = gru_reset_back,                                                                                 \
     .gru_gates_back = gru_gates_back,                                                                                 \
     .tanh = tanh_row,                                                                                                 \
     .sigmoid = sigmoid_row}
