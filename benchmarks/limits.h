/* SPDX-License-Identifier: MIT
 * limits.h - what no kernel can beat: how fast this processor, with one instruction set and one thread, multiplies and
 * adds, and how fast it reads. Each takes about half a millisecond, reading from memory more. */
#ifndef LIMITS_H
#define LIMITS_H

#include <stddef.h>

/* So many turns of multiply-adds on registers; returns the floating-point operations, a multiply-add being two. */
double fma_turns(long turns);

/* Those a second. */
double fma_rate(void);

/* Bytes a second, from an array that is read again and again: from the cache that holds so many bytes. */
double read_rate(const void *from, size_t bytes);

/* Seconds, from some moment on. */
double now(void);

#endif
