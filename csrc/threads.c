/* SPDX-License-Identifier: MIT
 * threads.c - the worker pool: made on first use, grown on demand, never destroyed.
 *
 * One caller at a time has the pool; another one meanwhile does its work alone, with the same bits. Workers wait for
 * the next task by spinning for a while, since a call is often followed by another, and then sleep. A forked child
 * starts without the pool, whatever its parent's was doing. No OpenMP: a second runtime would clash with PyTorch's. */
#define _GNU_SOURCE
#include "frnn.h"

#include <stdatomic.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* ---- subnormals -------------------------------------------------------------------------------------------------- */

unsigned long frnn_flush(void)
{
#if defined(__x86_64__)
    unsigned long saved = _mm_getcsr();
    _mm_setcsr(0x1f80 | 0x8040); /* the default, no exceptions and nearest, with FTZ and DAZ */
#elif defined(__aarch64__)
    unsigned long saved;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(saved));
    __asm__ __volatile__("msr fpcr, %0" : : "r"(1ul << 24));
#else
    unsigned long saved = 0;
#endif
    return saved;
}

void frnn_unflush(unsigned long saved)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)saved);
#elif defined(__aarch64__)
    __asm__ __volatile__("msr fpcr, %0" : : "r"(saved));
#else
    (void)saved;
#endif
}

/* ---- the pool ---------------------------------------------------------------------------------------------------- */

#if defined(_WIN32)

void frnn_barrier(int parts) { (void)parts; }

void frnn_run(frnn_task task, void *job, int want, unsigned long long kind)
{
    (void)want, (void)kind;
    unsigned long saved = frnn_flush();
    task(job, 0, 1);
    frnn_unflush(saved);
}

#else

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum {
    MOST = 64,
    SPINS = 10000,      /* of about 20 ns: longer than the pause between two calls, shorter than a time slice */
    LATE_AFTER = 100,   /* a meeting takes less */
    YIELD_AFTER = 1000, /* whoever is missing may be waiting for this very core */
};

static struct {
    pthread_mutex_t caller, sleep;
    pthread_cond_t wake;
    int workers, sleepers, parts;
    frnn_task task;
    void *job;
    unsigned born[MOST]; /* the round each worker was made in: it starts with the next */
    pthread_t thread[MOST];
    _Alignas(64) atomic_uint round;    /* of tasks; every worker takes note of each */
    _Alignas(64) atomic_int running;   /* workers that have not done with this round */
    _Alignas(64) atomic_int arrived;   /* at the barrier */
    _Alignas(64) atomic_uint barriers; /* passed */
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static inline void relax(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Seconds that this thread, in the task it is in, has waited for others beyond what they take to meet. */
static _Thread_local double waited;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef struct pause {
    int spins;
    double since; /* when it was found to be long, or 0 */
} pause;

static inline void rest(pause *p)
{
    if (p->spins++ == LATE_AFTER)
        p->since = now();
    if (p->spins <= YIELD_AFTER)
        relax();
    else
        sched_yield();
}

static inline void rested(const pause *p)
{
    if (p->since != 0)
        waited += now() - p->since;
}

void frnn_barrier(int parts)
{
    pause p = {0, 0};
    if (parts == 1)
        return;
    unsigned passed = atomic_load_explicit(&pool.barriers, memory_order_acquire);
    if (atomic_fetch_add_explicit(&pool.arrived, 1, memory_order_acq_rel) == parts - 1) {
        atomic_store_explicit(&pool.arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&pool.barriers, passed + 1, memory_order_release);
        return;
    }
    while (atomic_load_explicit(&pool.barriers, memory_order_acquire) == passed)
        rest(&p);
    rested(&p);
}

static void wait_for_round_after(unsigned seen)
{
    for (int spins = 0; spins < SPINS; spins++) {
        if (atomic_load_explicit(&pool.round, memory_order_acquire) != seen)
            return;
        relax();
    }
    pthread_mutex_lock(&pool.sleep);
    pool.sleepers++;
    while (atomic_load_explicit(&pool.round, memory_order_acquire) == seen)
        pthread_cond_wait(&pool.wake, &pool.sleep);
    pool.sleepers--;
    pthread_mutex_unlock(&pool.sleep);
}

static void *worker(void *arg)
{
    int part = (int)(intptr_t)arg;
    frnn_flush();
    for (unsigned seen = pool.born[part];; seen++) {
        wait_for_round_after(seen);
        if (part < pool.parts)
            pool.task(pool.job, part, pool.parts);
        atomic_fetch_sub_explicit(&pool.running, 1, memory_order_release);
    }
    return NULL;
}

/* The child has no threads but the one that forked, and locks in whatever state they were. */
static void forget_after_fork(void)
{
    pool.workers = pool.sleepers = 0;
    atomic_store(&pool.arrived, 0);
    atomic_store(&pool.running, 0);
    pthread_mutex_init(&pool.caller, NULL);
    pthread_mutex_init(&pool.sleep, NULL);
    pthread_cond_init(&pool.wake, NULL);
}

static void register_fork_handler(void) { pthread_atfork(NULL, NULL, forget_after_fork); }

/* Makes workers until there are `want` beside the caller, or no more can be had; returns how many there are. */
static int hire(int want)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handler);
    while (pool.workers < want) {
        int part = pool.workers + 1;
        pool.born[part] = atomic_load(&pool.round);
        if (pthread_create(&pool.thread[part], NULL, worker, (void *)(intptr_t)part) != 0)
            break;
        pthread_detach(pool.thread[part]);
        pool.workers++;
    }
    return pool.workers;
}

#if defined(__linux__)
static void keep_workers_on(const cpu_set_t *processors)
{
    for (int part = 1; part <= pool.workers; part++)
        pthread_setaffinity_np(pool.thread[part], sizeof *processors, processors);
}

/* Linux often wakes a thread on the very processor of who wakes it, and would have it wait there for this call's end.
 * Where a thread may go counts in the moment it wakes; after that it may be moved anywhere again. */
static void wake_elsewhere(void)
{
    cpu_set_t all, others;
    int here = sched_getcpu();
    bool choice = here >= 0 && pthread_getaffinity_np(pthread_self(), sizeof all, &all) == 0 && CPU_COUNT(&all) > 1;
    if (choice) {
        others = all;
        CPU_CLR((unsigned)here, &others);
        keep_workers_on(&others);
    }
    pthread_cond_broadcast(&pool.wake);
    if (choice)
        keep_workers_on(&all);
}
#else
static void wake_elsewhere(void) { pthread_cond_broadcast(&pool.wake); }
#endif

static void run_shared(frnn_task task, void *job, int parts)
{
    pause p = {0, 0};
    waited = 0;
    pool.task = task;
    pool.job = job;
    pool.parts = parts;
    atomic_store_explicit(&pool.running, pool.workers, memory_order_relaxed);
    atomic_fetch_add_explicit(&pool.round, 1, memory_order_release);
    pthread_mutex_lock(&pool.sleep);
    if (pool.sleepers)
        wake_elsewhere();
    pthread_mutex_unlock(&pool.sleep);
    task(job, 0, parts);
    while (atomic_load_explicit(&pool.running, memory_order_acquire))
        rest(&p);
    rested(&p);
}

void frnn_run(frnn_task task, void *job, int want, unsigned long long kind)
{
    const unsigned long saved = frnn_flush();
    const double start = kind ? now() : 0;
    int parts = 1;
    if (want > 1 && pthread_mutex_trylock(&pool.caller) == 0) {
        parts = hire((want < MOST ? want : MOST) - 1) + 1;
        parts = parts < want ? parts : want;
        run_shared(task, job, parts);
        pthread_mutex_unlock(&pool.caller);
    } else {
        task(job, 0, 1);
    }
    if (kind)
        frnn_note(kind, parts, now() - start, parts > 1 ? waited : 0);
    frnn_unflush(saved);
}

#endif
