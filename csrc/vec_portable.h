/* SPDX-License-Identifier: MIT
 * vec_portable.h - the vector operations in whatever the compiler makes of 16-byte vectors: SSE2, NEON, VSX.
 *
 * The vocabulary of body.h; vec_types.h adds what is the same everywhere.
 *   fmadd(a, b, c)     a b + c, rounded once; by portable twice, but on aarch64: see frnn.h on bits
 *   max, min(a, b)     the larger, the smaller; b where either is NaN, so that max(limit, x) passes a NaN x on
 *   quads(p, ld)       a vector of quads, one every ld elements from p on
 *   part(p, n)         the n lanes at p, 0 <= n < VL, zeros behind; reads nothing past them
 *   put_part(p, v, n)  the reverse
 *   FRNN_KEEP(v)       keeps v in a register: gcc would fold its load into every FMA that uses it (a third less speed)
 *   FRNN_TILE_ROWS(V)  rows of a tile V vectors wide: as many as the registers hold
 *   FRNN_DEPTH         rows that outer sums up at a time: their part of a panel stays in L1 for some rows of c; the
 *                      last time up to twice as many, so that never few are left
 *   FRNN_TOGETHER(V, K)  panels of a lone row, V vectors wide and K deep, that are best taken together: 1, 2 or, if V
 *                      is 3, 4
 */
#define FRNN_BYTES 16
#if defined(__aarch64__)
#define FRNN_TILE_ROWS(V) ((V) == 4 ? 6 : 8)
#define FRNN_KEEP(v) __asm__("" : "+w"(v))
#else
#define FRNN_TILE_ROWS(V) ((V) == 4 ? 3 : (V) == 3 ? 4 : (V) == 2 ? 6 : 8)
#if defined(__x86_64__)
#define FRNN_KEEP(v) __asm__("" : "+x"(v))
#else
#define FRNN_KEEP(v) (void)(v)
#endif
#endif
#define FRNN_DEPTH 128
#define FRNN_TOGETHER(V, K) ((void)(V), (void)(K), 2)
#include "vec_types.h"

#if defined(__aarch64__) && FRNN_WIDE
INLINE vec fmadd(vec a, vec b, vec c) { return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
#elif defined(__aarch64__)
INLINE vec fmadd(vec a, vec b, vec c) { return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
INLINE vec fmadd(vec a, vec b, vec c) { return a * b + c; }
#endif

INLINE vec max(vec a, vec b) { return (vec)(((ivec)a & (a > b)) | ((ivec)b & ~(a > b))); }
INLINE vec min(vec a, vec b) { return (vec)(((ivec)a & (a < b)) | ((ivec)b & ~(a < b))); }
INLINE vec quads(const real *p, ptrdiff_t ld) { return (void)ld, load(p); }
INLINE vec part(const real *p, ptrdiff_t n)
{
    vec v = {0};
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}
INLINE void put_part(real *p, vec v, ptrdiff_t n) { memcpy(p, &v, (size_t)n * sizeof *p); }
