/* SPDX-License-Identifier: MIT
 * isa_avx2_f64.c - the primitives for double on AVX2 with FMA. */
#define FRNN_WIDE 1
#include "isa_avx2.h"

#if defined(__x86_64__)
const frnn_f64 frnn_avx2_f64 = FRNN_PRIMITIVES;
#endif
