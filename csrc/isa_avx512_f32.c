/* SPDX-License-Identifier: MIT
 * isa_avx512_f32.c - the primitives for float on AVX-512. */
#define FRNN_WIDE 0
#include "shell.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))),                   \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif

#include "vec_avx512.h"
#include "body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const frnn_f32 frnn_avx512_f32 = FRNN_PRIMITIVES;
#endif
