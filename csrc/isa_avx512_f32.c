/* SPDX-License-Identifier: MIT
 * isa_avx512_f32.c - the primitives for float on AVX-512. */
#define FRNN_WIDE 0
#include "isa_avx512.h"

#if defined(__x86_64__)
const frnn_f32 frnn_avx512_f32 = FRNN_PRIMITIVES;
#endif
