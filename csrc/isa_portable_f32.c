/* SPDX-License-Identifier: MIT
 * isa_portable_f32.c - the primitives for float on the compiler's default target. */
#define FRNN_WIDE 0
#include "shell.h"

#include "vec_portable.h"
#include "body.h"

const frnn_f32 frnn_portable_f32 = FRNN_PRIMITIVES;
