/* SPDX-License-Identifier: MIT
 * threads.c - the worker pool: made on first use, grown on demand, never destroyed; a call takes as many of it as it
 * wants, the others go on sleeping.
 *
 * One caller at a time has the pool; another one meanwhile does its work alone, with the same bits. Workers wait for
 * the next task by spinning for a while, since a call is often followed by another, and then sleep. What a worker has
 * not begun when the caller is done with its own part, the caller does as well: who is asleep, or has no processor, is
 * not waited for. (Where parts meet at barriers, all have begun by then.) A forked child starts without the pool,
 * whatever its parent's was doing. No OpenMP: a second runtime would clash with PyTorch's. */
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

void frnn_run(frnn_task task, void *job, int want, frnn_kind kind)
{
    (void)want, (void)kind;
    unsigned long saved = frnn_flush();
    task(job, 0, 1);
    frnn_unflush(saved);
}

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum {
    SPINS = 10000,      /* of about 20 ns: longer than the pause between two calls, shorter than a time slice */
    LATE_AFTER = 100,   /* a barrier takes less */
    YIELD_AFTER = 1000, /* whoever is missing may be waiting for this very core */
    STACK = 512 << 10,  /* bytes, far more than is used; the default, 8 MiB of address space, may be too much */
};

typedef struct worker {
    _Alignas(64) atomic_uint round; /* of tasks it has been called to */
    atomic_uint begun;              /* the last of them that somebody, it or the caller, has begun with */
    bool asleep;
    pthread_cond_t wake;
    pthread_t thread;
} worker;

static struct {
    pthread_mutex_t caller, sleep;
    int workers, parts;
    frnn_task task;
    void *job;
    worker of_part[FRNN_MOST_THREADS]; /* the caller has part 0 */
    _Alignas(64) atomic_int running;   /* workers that have not done with this round */
    _Alignas(64) atomic_int arrived;   /* at the barrier */
    _Alignas(64) atomic_uint barriers; /* passed */
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER};

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

typedef struct wait_so_far {
    int spins;
    double since; /* when the wait was found to be long, or 0 */
} wait_so_far;

static inline void spin_or_yield(wait_so_far *m)
{
    if (m->spins == YIELD_AFTER) {
        sched_yield();
        return;
    }
    if (++m->spins == LATE_AFTER)
        m->since = now();
    relax();
}

static inline void note_wait(const wait_so_far *m)
{
    if (m->since != 0)
        waited += now() - m->since;
}

void frnn_barrier(int parts)
{
    wait_so_far m = {0, 0};
    if (parts == 1)
        return;
    unsigned passed = atomic_load_explicit(&pool.barriers, memory_order_acquire);
    if (atomic_fetch_add_explicit(&pool.arrived, 1, memory_order_acq_rel) == parts - 1) {
        atomic_store_explicit(&pool.arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&pool.barriers, passed + 1, memory_order_release);
        return;
    }
    while (atomic_load_explicit(&pool.barriers, memory_order_acquire) == passed)
        spin_or_yield(&m);
    note_wait(&m);
}

static void wait_for_round_after(worker *me, unsigned seen)
{
    for (int spins = 0; spins < SPINS; spins++) {
        if (atomic_load_explicit(&me->round, memory_order_acquire) != seen)
            return;
        relax();
    }
    pthread_mutex_lock(&pool.sleep);
    me->asleep = true;
    while (atomic_load_explicit(&me->round, memory_order_acquire) == seen)
        pthread_cond_wait(&me->wake, &pool.sleep);
    me->asleep = false;
    pthread_mutex_unlock(&pool.sleep);
}

/* Does this part of the task if nobody else has begun with it; `before`: the round before this. */
static void do_part(int part, unsigned before)
{
    if (!atomic_compare_exchange_strong(&pool.of_part[part].begun, &before, before + 1))
        return;
    pool.task(pool.job, part, pool.parts);
    atomic_fetch_sub_explicit(&pool.running, 1, memory_order_release);
}

static void *work(void *arg)
{
    int part = (int)(intptr_t)arg;
    frnn_flush();
    for (unsigned seen = 0;; seen++) {
        wait_for_round_after(&pool.of_part[part], seen);
        do_part(part, seen);
    }
    return NULL;
}

/* The child has no threads but the one that forked, and locks in whatever state they were. */
static void forget_after_fork(void)
{
    pool.workers = 0;
    atomic_store(&pool.arrived, 0);
    atomic_store(&pool.running, 0);
    pthread_mutex_init(&pool.caller, NULL);
    pthread_mutex_init(&pool.sleep, NULL);
    frnn_unlock_records();
}

static void register_fork_handler(void) { pthread_atfork(NULL, NULL, forget_after_fork); }

/* A worker takes no signal from whoever in the program waits for it, but its own faults: those, were they blocked,
 * would end the process without a word from any handler. */
static void set_signals_of_worker(sigset_t *before)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    sigset_t blocked;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(&blocked, faults[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, before);
}

static bool start(int part)
{
    worker *new = &pool.of_part[part];
    sigset_t before;
    pthread_attr_t attributes;
    atomic_store(&new->round, 0);
    atomic_store(&new->begun, 0);
    new->asleep = false;
    pthread_cond_init(&new->wake, NULL);
    set_signals_of_worker(&before);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    bool started = pthread_create(&new->thread, &attributes, work, (void *)(intptr_t)part) == 0;
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

/* Makes workers until there are `want` beside the caller, or no more can be had; returns how many there are. */
static int grow_pool(int want)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handler);
    while (pool.workers < want && start(pool.workers + 1))
        pool.workers++;
    return pool.workers;
}

#if defined(__linux__)
/* Linux often wakes a thread on the very processor of who wakes it, and would have it wait there for this call's end.
 * Where a thread may go counts in the moment it wakes; after that it may go where it could before. */
static void wake_elsewhere(worker *w)
{
    cpu_set_t its, others;
    const int here = sched_getcpu();
    bool choice = false;
    if (here >= 0 && pthread_getaffinity_np(w->thread, sizeof its, &its) == 0) {
        others = its;
        CPU_CLR((unsigned)here, &others);
        choice = CPU_COUNT(&others) > 0 && !CPU_EQUAL(&its, &others);
    }
    if (choice)
        pthread_setaffinity_np(w->thread, sizeof others, &others);
    pthread_cond_signal(&w->wake);
    if (choice)
        pthread_setaffinity_np(w->thread, sizeof its, &its);
}
#else
static void wake_elsewhere(worker *w) { pthread_cond_signal(&w->wake); }
#endif

static void run_in_pool(frnn_task task, void *job, int parts)
{
    wait_so_far m = {0, 0};
    waited = 0;
    pool.task = task;
    pool.job = job;
    pool.parts = parts;
    atomic_store_explicit(&pool.running, parts - 1, memory_order_relaxed);
    for (int part = 1; part < parts; part++)
        atomic_fetch_add_explicit(&pool.of_part[part].round, 1, memory_order_release);
    pthread_mutex_lock(&pool.sleep);
    for (int part = 1; part < parts; part++)
        if (pool.of_part[part].asleep)
            wake_elsewhere(&pool.of_part[part]);
    pthread_mutex_unlock(&pool.sleep);
    task(job, 0, parts);
    for (int part = 1; part < parts; part++)
        do_part(part, atomic_load_explicit(&pool.of_part[part].round, memory_order_relaxed) - 1);
    while (atomic_load_explicit(&pool.running, memory_order_acquire))
        spin_or_yield(&m);
    note_wait(&m);
}

void frnn_run(frnn_task task, void *job, int want, frnn_kind kind)
{
    const unsigned long saved = frnn_flush();
    const double began = kind.key ? now() : 0;
    int parts = 1;
    if (want > 1 && pthread_mutex_trylock(&pool.caller) == 0) {
        parts = grow_pool((want < FRNN_MOST_THREADS ? want : FRNN_MOST_THREADS) - 1) + 1;
        parts = parts < want ? parts : want;
        run_in_pool(task, job, parts);
        pthread_mutex_unlock(&pool.caller);
    } else {
        task(job, 0, 1);
    }
    if (kind.key)
        frnn_note(kind, parts, now() - began, parts > 1 ? waited : 0);
    frnn_unflush(saved);
}

#endif
