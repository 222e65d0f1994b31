/* SPDX-License-Identifier: MIT
 * tables.h - the tables that isa_*.c define and dispatch.c lists. */
#ifndef FRNN_TABLES_H
#define FRNN_TABLES_H

#include "frnn.h"

extern const frnn_f32 frnn_portable_f32;
extern const frnn_f64 frnn_portable_f64;
#if defined(__x86_64__)
extern const frnn_f32 frnn_avx2_f32, frnn_avx512_f32;
extern const frnn_f64 frnn_avx2_f64, frnn_avx512_f64;
#endif

#endif
