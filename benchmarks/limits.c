/* SPDX-License-Identifier: MIT
 * limits.c - limits.h, in the vocabulary of csrc/vec_*.h. kernels.py compiles it for one instruction set, whose header
 * is VECTORS, and one type: FRNN_WIDE, is it double? */
#define _POSIX_C_SOURCE 200112L /* clock_gettime */
#include <time.h>

#include "shell.h"
#include VECTORS

#include "limits.h"

enum {
    CHAINS = 12, /* that do not wait for each other: two units of four cycles need 8; 16 registers hold no more */
    FMA_TURNS = 1 << 17,
    READ_BYTES = 1 << 25
};

static volatile real start = 1, factor = (real)0.999, sink; /* volatile: nothing is known or computed beforehand */

double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

double fma_turns(long turns)
{
    vec x[CHAINS], by = all(factor), more = all(start);
    UNROLL for (int i = 0; i < CHAINS; i++)
        x[i] = all(start + (real)i);
    for (long turn = 0; turn < turns; turn++) {
        UNROLL for (int i = 0; i < CHAINS; i++)
            x[i] = fmadd(x[i], by, more);
    }
    UNROLL for (int i = 0; i < CHAINS; i++)
        sink = x[i][0];
    return 2.0 * (double)turns * CHAINS * VL;
}

double fma_rate(void)
{
    double begun = now(), flops = fma_turns(FMA_TURNS);
    return flops / (now() - begun);
}

/* Bits are gathered instead of sums, so that nothing but loading takes time. */
double read_rate(const void *from, size_t bytes)
{
    enum { AT_ONCE = 8 };
    const real *p = from;
    ptrdiff_t n = (ptrdiff_t)(bytes / sizeof *p), times = 1 + READ_BYTES / (ptrdiff_t)bytes;
    ivec seen[AT_ONCE] = {0};
    double begun = now();
    for (ptrdiff_t time = 0; time < times; time++) {
        ptrdiff_t i = 0;
        for (; i + AT_ONCE * VL <= n; i += AT_ONCE * VL) {
            UNROLL for (int v = 0; v < AT_ONCE; v++)
                seen[v] |= (ivec)load(p + i + v * VL);
        }
        for (; i + VL <= n; i += VL)
            seen[0] |= (ivec)load(p + i);
        __asm__ volatile("" : : : "memory"); /* the array may have changed: read it again */
    }
    double seconds = now() - begun;
    UNROLL for (int v = 0; v < AT_ONCE; v++)
        sink = (real)seen[v][0];
    return (double)times * (double)bytes / seconds;
}
