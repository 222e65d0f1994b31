/* SPDX-License-Identifier: MIT
 * vec_avx2.h - the vector operations of AVX2 with FMA: 16 registers of 32 bytes. vec_portable.h says what they mean. */
#define FRNN_BYTES 32
#define FRNN_TILE_ROWS(V) ((V) == 4 ? 3 : (V) == 3 ? 4 : (V) == 2 ? 6 : 8) /* at most 12 accumulators */
#define FRNN_KEEP(v) __asm__("" : "+x"(v))
#define FRNN_DEPTH 128
#define FRNN_TOGETHER(V, K) ((void)(K), (V) == 3 ? 4 : 2)
#include "vec_types.h"

#if FRNN_WIDE
typedef __m256d native;
#define OP(name) _mm256_##name##_pd
static const int64_t ones_then_zeros[8] = {-1, -1, -1, -1};
INLINE vec quads(const real *p, ptrdiff_t ld) { return (void)ld, load(p); }
#else
typedef __m256 native;
#define OP(name) _mm256_##name##_ps
static const int32_t ones_then_zeros[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
INLINE vec quads(const real *p, ptrdiff_t ld) { return (vec)_mm256_loadu2_m128(p + ld, p); }
#endif

INLINE vec fmadd(vec a, vec b, vec c) { return (vec)OP(fmadd)((native)a, (native)b, (native)c); }
INLINE vec max(vec a, vec b) { return (vec)OP(max)((native)a, (native)b); }
INLINE vec min(vec a, vec b) { return (vec)OP(min)((native)a, (native)b); }
INLINE __m256i first(ptrdiff_t n) { return _mm256_loadu_si256((const __m256i *)(ones_then_zeros + VL - n)); }
INLINE vec part(const real *p, ptrdiff_t n) { return (vec)OP(maskload)(p, first(n)); }
INLINE void put_part(real *p, vec v, ptrdiff_t n) { OP(maskstore)(p, first(n), (native)v); }
