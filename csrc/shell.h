/* SPDX-License-Identifier: MIT
 * shell.h - what every isa_*.[ch] needs before its target region opens: system headers must stay outside of it. */
#ifndef FRNN_SHELL_H
#define FRNN_SHELL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "frnn.h"
#include "tables.h"

#endif
