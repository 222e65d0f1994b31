/* SPDX-License-Identifier: MIT
 * isa_avx2_f32.c - the primitives for float on AVX2 with FMA. */
#define FRNN_WIDE 0
#include "isa_avx2.h"

#if defined(__x86_64__)
const frnn_f32 frnn_avx2_f32 = FRNN_PRIMITIVES;
#endif
