/* SPDX-License-Identifier: MIT
 * vec_types.h - the types and operations that are the same on every instruction set, given FRNN_BYTES and FRNN_WIDE.
 *
 * real float or double; vec a vector of VL reals; ivec the integers of their bits; a quad is 4 lanes in a row.
 * Operators work lane by lane; a comparison gives lanes of all ones or all zeros. */
#define INLINE static inline __attribute__((always_inline, unused))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if FRNN_WIDE
typedef double real;
typedef int64_t integer;
#else
typedef float real;
typedef int32_t integer;
#endif
typedef real vec __attribute__((vector_size(FRNN_BYTES)));
typedef integer ivec __attribute__((vector_size(FRNN_BYTES)));
typedef real vec_anywhere __attribute__((vector_size(FRNN_BYTES), aligned(sizeof(real)), may_alias));

#define VL ((ptrdiff_t)(FRNN_BYTES / sizeof(real)))

/* SHUFFLE: of every quad the lanes i, j, k, l, those below 4 out of a, the others out of b. */
#define FRNN_LANES (FRNN_BYTES / (FRNN_WIDE ? 8 : 4))
#define LANE(quad, i) ((i) < 4 ? 4 * (quad) + (i) : FRNN_LANES + 4 * (quad) + (i) - 4)
#define QUAD(quad, i, j, k, l) LANE(quad, i), LANE(quad, j), LANE(quad, k), LANE(quad, l)
#if FRNN_LANES == 16
#define QUADS(...) QUAD(0, __VA_ARGS__), QUAD(1, __VA_ARGS__), QUAD(2, __VA_ARGS__), QUAD(3, __VA_ARGS__)
#elif FRNN_LANES == 8
#define QUADS(...) QUAD(0, __VA_ARGS__), QUAD(1, __VA_ARGS__)
#else
#define QUADS(...) QUAD(0, __VA_ARGS__)
#endif
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, QUADS(__VA_ARGS__))
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){QUADS(__VA_ARGS__)})
#endif

INLINE vec load(const real *p) { return *(const vec_anywhere *)p; }
INLINE void put(real *p, vec v) { *(vec_anywhere *)p = v; }
INLINE vec all(real x) { return x - (vec){0}; }
