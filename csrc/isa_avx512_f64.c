/* SPDX-License-Identifier: MIT
 * isa_avx512_f64.c - the primitives for double on AVX-512. */
#define FRNN_WIDE 1
#include "isa_avx512.h"

#if defined(__x86_64__)
const frnn_f64 frnn_avx512_f64 = FRNN_PRIMITIVES;
#endif
