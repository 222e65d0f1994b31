/* SPDX-License-Identifier: MIT
 * isa_portable_f64.c - the primitives for double on the compiler's default target. */
#define FRNN_WIDE 1
#include "shell.h"

#include "vec_portable.h"
#include "body.h"

const frnn_f64 frnn_portable_f64 = FRNN_PRIMITIVES;
