/* SPDX-License-Identifier: MIT
 * vec_avx512.h - the vector operations of AVX-512: 32 registers of 64 bytes. vec_portable.h says what they mean. */
#define FRNN_BYTES 64
#define FRNN_TILE_ROWS(V) ((V) == 4 ? 6 : 8) /* at most 24 accumulators, beside the V vectors of w */
#define FRNN_KEEP(v) __asm__("" : "+v"(v))
#define FRNN_DEPTH PTRDIFF_MAX /* 24 accumulators ask L2 for half as much as 12 */
/* Four sums alone keep up with L2, and from there two panels at once come no faster. */
#define FRNN_TOGETHER(V, K) ((V) < 4 || (K) <= 64 ? 2 : 1)
#include "vec_types.h"

#if FRNN_WIDE
typedef __m512d native;
typedef __mmask8 lane_mask;
#define OP(name) _mm512_##name##_pd
INLINE vec quads(const real *p, ptrdiff_t ld)
{
    return (vec)_mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(p)), _mm256_loadu_pd(p + ld), 1);
}
#else
typedef __m512 native;
typedef __mmask16 lane_mask;
#define OP(name) _mm512_##name##_ps
INLINE vec quads(const real *p, ptrdiff_t ld)
{
    __m256 low = _mm256_loadu2_m128(p + ld, p), high = _mm256_loadu2_m128(p + 3 * ld, p + 2 * ld);
    return (vec)_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
#endif

INLINE vec fmadd(vec a, vec b, vec c) { return (vec)OP(fmadd)((native)a, (native)b, (native)c); }
INLINE vec max(vec a, vec b) { return (vec)OP(max)((native)a, (native)b); }
INLINE vec min(vec a, vec b) { return (vec)OP(min)((native)a, (native)b); }
INLINE lane_mask first(ptrdiff_t n) { return (lane_mask)((1u << n) - 1); }
INLINE vec part(const real *p, ptrdiff_t n) { return (vec)OP(maskz_loadu)(first(n), p); }
INLINE void put_part(real *p, vec v, ptrdiff_t n) { OP(mask_storeu)(p, first(n), (native)v); }
