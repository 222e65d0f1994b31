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
int frnn_punctual(void) { return 0; }
void frnn_judge(double seconds, double idle, int parts) { (void)seconds, (void)idle, (void)parts; }

void frnn_run(frnn_task task, void *job, int want)
{
    (void)want;
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
    LATE = 2,           /* calls in a row that were not worth several threads: one is a hiccup */
    APART = 2,          /* calls on one thread after that; doubled each time ... */
    MOST_APART = 1000,  /* ... up to here, or to as many as take SECONDS_APART */
};

static const double WAKING = 3e-4; /* seconds that a worker may take to wake, or to be made */
static const double SECONDS_APART = 0.3;

static struct {
    pthread_mutex_t caller, sleep;
    pthread_cond_t wake;
    int workers, sleepers, parts;
    frnn_task task;
    void *job;
    unsigned born[MOST]; /* the round each worker was made in: it starts with the next */
    pthread_t thread[MOST];
    atomic_bool asleep[MOST];          /* or not yet there */
    _Alignas(64) atomic_uint round;    /* of tasks; every worker takes note of each */
    _Alignas(64) atomic_int running;   /* workers that have not done with this round */
    _Alignas(64) atomic_int arrived;   /* at the barrier */
    _Alignas(64) atomic_uint barriers; /* passed */
    int late;                          /* calls in a row */
    int next_apart;
    _Alignas(64) atomic_int apart; /* questions of frnn_punctual still to be denied */
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER,
          .sleep = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER,
          .next_apart = APART};

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

int frnn_punctual(void)
{
    if (atomic_load_explicit(&pool.apart, memory_order_relaxed) <= 0)
        return 1;
    atomic_fetch_sub_explicit(&pool.apart, 1, memory_order_relaxed);
    return 0;
}

/* One thread would have taken about `parts` times what the caller did not spend waiting. */
void frnn_judge(double seconds, double idle, int parts)
{
    if (parts * (seconds - idle) > 1.1 * seconds) {
        pool.late = 0;
        pool.next_apart = APART;
    } else if (++pool.late >= LATE) {
        int most = seconds * MOST_APART < SECONDS_APART ? MOST_APART : (int)(SECONDS_APART / seconds);
        int apart = pool.next_apart < most ? pool.next_apart : most;
        atomic_store_explicit(&pool.apart, apart > APART ? apart : APART, memory_order_relaxed);
        pool.next_apart = 2 * pool.next_apart < MOST_APART ? 2 * pool.next_apart : MOST_APART;
    }
}

static void wait_for_round_after(unsigned seen, int part)
{
    for (int spins = 0; spins < SPINS; spins++) {
        if (atomic_load_explicit(&pool.round, memory_order_acquire) != seen)
            return;
        relax();
    }
    pthread_mutex_lock(&pool.sleep);
    pool.sleepers++;
    atomic_store_explicit(&pool.asleep[part], true, memory_order_relaxed);
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
        wait_for_round_after(seen, part);
        atomic_store_explicit(&pool.asleep[part], false, memory_order_relaxed);
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
        atomic_store(&pool.asleep[part], true);
        if (pthread_create(&pool.thread[part], NULL, worker, (void *)(intptr_t)part) != 0)
            break;
        pthread_detach(pool.thread[part]);
        pool.workers++;
    }
    return pool.workers;
}

static bool all_awake(int parts)
{
    for (int part = 1; part < parts; part++)
        if (atomic_load_explicit(&pool.asleep[part], memory_order_relaxed))
            return false;
    return true;
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
    const bool awake = all_awake(parts);
    const double start = now();
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
    if (!awake) /* to wake takes its time once, and says nothing of the next call */
        waited = waited > WAKING ? waited - WAKING : 0;
    frnn_judge(now() - start, waited, parts);
}

void frnn_run(frnn_task task, void *job, int want)
{
    unsigned long saved = frnn_flush();
    if (want > MOST)
        want = MOST;
    if (want > 1 && pthread_mutex_trylock(&pool.caller) == 0) {
        int parts = hire(want - 1) + 1;
        run_shared(task, job, parts < want ? parts : want);
        pthread_mutex_unlock(&pool.caller);
    } else {
        task(job, 0, 1);
    }
    frnn_unflush(saved);
}

#endif
