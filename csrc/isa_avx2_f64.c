/* SPDX-License-Identifier: MIT
 * isa_avx2_f64.c - the primitives for double on AVX2 with FMA. */
#define FRNN_WIDE 1
#include "shell.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#include "vec_avx2.h"
#include "body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const frnn_f64 frnn_avx2_f64 = FRNN_PRIMITIVES;
#endif
