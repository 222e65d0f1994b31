/* SPDX-License-Identifier: MIT
 * dispatch.c - which instruction sets this build has, and which of them this processor and system can run. */
#include "tables.h"

#if defined(__x86_64__)
/* The compiler's own test: it asks the system too whether it saves the wide registers. */
static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

int frnn_isa_at(int i, frnn_isa *isa)
{
    switch (i) {
    case 0: *isa = (frnn_isa){"portable", 1, &frnn_portable_f32, &frnn_portable_f64}; return 1;
#if defined(__x86_64__)
    case 1: *isa = (frnn_isa){"avx2", has_avx2(), &frnn_avx2_f32, &frnn_avx2_f64}; return 1;
    case 2: *isa = (frnn_isa){"avx512", has_avx512(), &frnn_avx512_f32, &frnn_avx512_f64}; return 1;
#endif
    default: return 0;
    }
}

const char *frnn_compiler(void)
{
#if defined(__clang__)
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}
