/* SPDX-License-Identifier: MIT
 * vec_types.h - the types and operations that are the same on every instruction set, given FRNN_BYTES and FRNN_WIDE.
 *
 * real float or double; vec a vector of VL reals; quad a vector of 4; ivec the integers of their bits. Operators work
 * lane by lane; a comparison gives lanes of all ones or all zeros. */
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

typedef real quad __attribute__((vector_size(4 * sizeof(real))));
typedef real quad_anywhere __attribute__((vector_size(4 * sizeof(real)), aligned(sizeof(real)), may_alias));
#if defined(__clang__)
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef integer quad_index __attribute__((vector_size(4 * sizeof(real))));
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (quad_index){i, j, k, l})
#endif

#define VL ((ptrdiff_t)(FRNN_BYTES / sizeof(real)))

INLINE vec load(const real *p) { return *(const vec_anywhere *)p; }
INLINE void put(real *p, vec v) { *(vec_anywhere *)p = v; }
INLINE vec all(real x) { return x - (vec){0}; }
