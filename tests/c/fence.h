/* SPDX-License-Identifier: MIT
 * fence.h - matrices against the wall: memory in which one element too far is a crash or a broken canary.
 *
 * A matrix has a stretch of memory to itself, between two pages that cannot be touched. It stands flush with the end of
 * the stretch, or with its start, or some elements off, at every place inside a vector; all around it, and in the gaps
 * between its rows, are canaries: a NaN that no computation makes. WIDE says whether the elements are double. */
#ifndef FENCE_H
#define FENCE_H

#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frnn.h"

#if WIDE
typedef double real;
typedef uint64_t bits;
typedef frnn_f64 table;
#define TYPE "double"
#define TABLE f64
#define EPSILON DBL_EPSILON
#define CANARY 0x7ff8c0ffeec0ffee
#define FMA fma
#else
typedef float real;
typedef uint32_t bits;
typedef frnn_f32 table;
#define TYPE "float"
#define TABLE f32
#define EPSILON FLT_EPSILON
#define CANARY 0x7fc0ffee
#define FMA fmaf
#endif

#define LENGTH(array) ((ptrdiff_t)(sizeof(array) / sizeof *(array)))

static inline ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t most(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static inline ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t step) { return (n + step - 1) / step * step; }

/* ---- failure ----------------------------------------------------------------------------------------------------- */

static char where[256]; /* what is being checked */
#define CHECKING(...) snprintf(where, sizeof where, __VA_ARGS__)

static inline __attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fprintf(stderr, "FAILED %s, %s: ", TYPE, where);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    exit(1);
}

/* Says where, then lets the same access crash again, for good. */
static void over_the_fence(int signal_number)
{
    static const char message[] = "FAILED, over the fence: ";
    ssize_t said = write(2, message, sizeof message - 1) + write(2, where, strlen(where)) + write(2, "\n", 1);
    (void)said;
    signal(signal_number, SIG_DFL);
}

/* ---- the tables -------------------------------------------------------------------------------------------------- */

typedef struct set { /* a usable instruction set */
    const char *name;
    const table *t;
    int fused; /* multiply-add rounds once: all such sets give the same bits */
} set;

static set sets[8];
static int n_sets;

static inline void find_sets(void)
{
    frnn_isa isa;
    for (int i = 0; frnn_isa_at(i, &isa); i++) {
        int fused = strcmp(isa.name, "portable") != 0;
#if defined(__aarch64__)
        fused = 1;
#endif
        if (isa.usable)
            sets[n_sets++] = (set){isa.name, isa.TABLE, fused};
    }
}

/* The sets but the first that fuses and those before it: their bits must be that one's. */
static inline int follows(int i) { return i > 0 && sets[i].fused && sets[i - 1].fused; }

/* a b + c as this set rounds it. */
static inline real multiply_add(const set *s, real a, real b, real c) { return s->fused ? FMA(a, b, c) : a * b + c; }

/* ---- matrices ---------------------------------------------------------------------------------------------------- */

typedef struct matrix {
    real *at; /* element (r, j) is at[r * ld + j] */
    ptrdiff_t rows, cols, ld;
    int result;     /* the call may write its elements */
    real *low;      /* where its canaries begin */
    ptrdiff_t size; /* elements, canaries included */
    real *was;      /* all of them, before the call */
    real *kept;     /* all of them, after a call that others must match */
} matrix;

enum { SLOTS = 24, CANARIES = 32, STRETCH = 1 << 20 };
enum { END, START };

static struct {
    int side;
    ptrdiff_t off; /* elements from the fence; not 0: a different number for each matrix */
} place;

static char *stretches[SLOTS];
static matrix matrices[SLOTS];
static int taken; /* of them, in this case */

#define AT(m, r, j) ((m)->at[(r) * (m)->ld + (j)])
#define WAS(m, r, j) ((m)->was[(m)->at - (m)->low + (r) * (m)->ld + (j)])

static inline void build_fences(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < SLOTS; i++) {
        char *all = mmap(NULL, STRETCH + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (all == MAP_FAILED || mprotect(all + page, STRETCH, PROT_READ | PROT_WRITE) != 0)
            fail("no memory");
        stretches[i] = all + page;
        matrices[i].was = malloc(STRETCH);
        matrices[i].kept = malloc(STRETCH);
        if (!matrices[i].was || !matrices[i].kept)
            fail("no memory");
    }
    signal(SIGSEGV, over_the_fence);
    signal(SIGBUS, over_the_fence);
}

static inline matrix *stand(ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t ld, int result)
{
    const bits canary = CANARY;
    ptrdiff_t n = rows > 0 && cols > 0 ? (rows - 1) * ld + cols : 0, room = STRETCH / sizeof(real);
    ptrdiff_t off = place.off ? (place.off + 3 * taken) % (64 / (ptrdiff_t)sizeof(real)) : 0;
    if (taken == SLOTS || n + off > room)
        fail("too large for a stretch");
    real *first = (real *)stretches[taken], *last = first + room;
    matrix *m = &matrices[taken++];
    *m = (matrix){.was = m->was, .kept = m->kept, .rows = rows, .cols = cols, .ld = ld, .result = result};
    m->at = place.side == END ? last - off - n : first + off;
    m->low = m->at - least(CANARIES, m->at - first);
    m->size = m->at - m->low + n + least(CANARIES, last - m->at - n);
    for (ptrdiff_t i = 0; i < m->size; i++)
        memcpy(m->low + i, &canary, sizeof canary);
    return m;
}

static inline matrix *remembered(matrix *m)
{
    memcpy(m->was, m->low, (size_t)m->size * sizeof(real));
    return m;
}

/* Numbers evenly from -1 to 1. */
static inline double uniform(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double)(state >> 11) * 0x1p-52 - 1;
}

static inline matrix *filled(matrix *m, double scale)
{
    for (ptrdiff_t r = 0; r < m->rows; r++)
        for (ptrdiff_t j = 0; j < m->cols; j++)
            AT(m, r, j) = (real)(scale * uniform());
    return remembered(m);
}

/* An argument that is read; one that is written; one that is both. */
static inline matrix *given(ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t ld)
{
    return filled(stand(rows, cols, ld, 0), 1);
}
static inline matrix *blank(ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t ld)
{
    return remembered(stand(rows, cols, ld, 1));
}
static inline matrix *both(ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t ld) { return filled(stand(rows, cols, ld, 1), 1); }

/* What was a result is now an argument that is only read. */
static inline matrix *settled(matrix *m)
{
    m->result = 0;
    return remembered(m);
}

/* All results as before the call. */
static inline void again(void)
{
    for (int i = 0; i < taken; i++)
        if (matrices[i].result)
            memcpy(matrices[i].low, matrices[i].was, (size_t)matrices[i].size * sizeof(real));
}

static inline int differ(const real *a, const real *b, ptrdiff_t n)
{
    return memcmp(a, b, (size_t)n * sizeof(real)) != 0;
}

/* No canary is broken, no argument that is only read has changed. */
static inline void intact(void)
{
    for (int i = 0; i < taken; i++) {
        const matrix *m = &matrices[i];
        ptrdiff_t at = 0;
        for (ptrdiff_t r = 0; m->result && m->cols > 0 && r < m->rows; r++) {
            ptrdiff_t row = m->at - m->low + r * m->ld;
            if (differ(m->low + at, m->was + at, row - at))
                fail("wrote outside matrix %d, before row %td", i, r);
            at = row + m->cols;
        }
        if (differ(m->low + at, m->was + at, m->size - at))
            fail(m->result ? "wrote behind matrix %d" : "wrote into matrix %d, which it may only read", i);
    }
}

static inline void keep(matrix *m) { memcpy(m->kept, m->low, (size_t)m->size * sizeof(real)); }

/* Rows r0..r1-1 have the bits that were kept. */
static inline void same_rows(const matrix *m, ptrdiff_t r0, ptrdiff_t r1, const char *what)
{
    for (ptrdiff_t r = r0; r < r1; r++)
        for (ptrdiff_t j = 0; j < m->cols; j++)
            if (differ(&AT(m, r, j), &m->kept[m->at - m->low + r * m->ld + j], 1))
                fail("%s: element (%td, %td) of matrix %td has other bits: %a", what, r, j, m - matrices,
                     (double)AT(m, r, j));
}

static inline void same(const matrix *m, const char *what) { same_rows(m, 0, m->rows, what); }

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

static double worst; /* error so far, in EPSILON */

/* An element against the formula in long double; limit in EPSILON, of 1 or of the element. */
static inline void near(const matrix *m, ptrdiff_t r, ptrdiff_t j, long double want, double limit)
{
    long double off = fabsl(AT(m, r, j) - want) / fmaxl(1, fabsl(want)) / EPSILON;
    if (!(off <= limit))
        fail("element (%td, %td) is %.9g, not %.9Lg: off by %.3Lg epsilon", r, j, (double)AT(m, r, j), want, off);
    if (off > worst)
        worst = (double)off;
}

static inline void equal(const matrix *m, ptrdiff_t r, ptrdiff_t j, real want)
{
    if (differ(&AT(m, r, j), &want, 1))
        fail("element (%td, %td) is %a, not %a", r, j, (double)AT(m, r, j), (double)want);
}

/* ---- the grid of cases ------------------------------------------------------------------------------------------- */

enum { MOST_ROWS = 13, MOST_SIZE = 65 };
static const ptrdiff_t sizes[] = {1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65}; /* around the vectors' lengths */

/* A case: n rows, two sizes, and the gap between rows. */
typedef void check(ptrdiff_t n, ptrdiff_t N, ptrdiff_t K, ptrdiff_t gap);

/* Every size with every number of rows, flush with either fence and at every place inside a vector. */
static inline void everywhere(check *checked)
{
    ptrdiff_t lanes = 64 / (ptrdiff_t)sizeof(real), i = 0;
    for (ptrdiff_t a = 0; a < LENGTH(sizes); a++)
        for (ptrdiff_t n = 1; n <= MOST_ROWS; n++, i++) {
            ptrdiff_t K = sizes[(a + 5 * n) % LENGTH(sizes)];
            for (int at = 0; at < 3; at++) {
                place.side = at == 1 ? START : END;
                place.off = at == 2 ? 1 + i % (lanes - 1) : 0;
                taken = 0;
                checked(n, sizes[a], K, n % 3);
            }
        }
}

static inline void prepare(void)
{
    build_fences();
    find_sets();
}

static inline void report(const char *program)
{
    printf("ok %s, %s:", program, TYPE);
    for (int i = 0; i < n_sets; i++)
        printf(" %s", sets[i].name);
    printf("; worst error %.2f epsilon\n", worst);
}

#endif
