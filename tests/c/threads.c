/* SPDX-License-Identifier: MIT
 * threads.c - the worker pool: every part of a task once, barriers, several callers at once, nesting, forked children,
 * threads that cannot be had, signals; and the flushing of subnormals, undone afterwards. A hang ends in an alarm. */
#define _GNU_SOURCE
#include <errno.h>
#include <fenv.h>
#include <float.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "frnn.h"

#ifndef NO_FORK
#define NO_FORK 0 /* 1 for ThreadSanitizer, which cannot follow threads into a child */
#endif

#define REQUIRE(condition) ((condition) ? (void)0 : fail(#condition, __LINE__))

static void fail(const char *condition, int line)
{
    fprintf(stderr, "FAILED threads.c:%d: %s\n", line, condition);
    _exit(1); /* from whichever thread or child: nobody else is waited for */
}

enum { MOST = FRNN_MOST_THREADS, PHASES = 5 };

static const frnn_kind nameless = {0, 0};

/* ---- a task that counts its parts and, through barriers, watches the others -------------------------------------- */

typedef struct work {
    int parts;       /* as the task was told */
    int phase[MOST]; /* of each part; plain, so that ThreadSanitizer sees whether a barrier orders it */
    int calls[MOST];
    double below_normal; /* what became of a subnormal number */
} work;

static void count(void *job, int part, int parts)
{
    work *w = job;
    volatile double least_normal = DBL_MIN;
    REQUIRE(0 <= part && part < parts && parts <= MOST);
    w->calls[part]++;
    if (part == parts - 1) { /* the last one, so a worker's if there are any */
        w->parts = parts;
        w->below_normal = least_normal * 0.5;
    }
    for (int phase = 1; phase <= PHASES; phase++) {
        w->phase[part] = phase;
        frnn_barrier(parts);
        for (int other = 0; other < parts; other++)
            REQUIRE(w->phase[other] == phase);
        frnn_barrier(parts);
    }
}

/* Runs it and returns how many parts it had: `want`, or 1. */
static int counted(int want)
{
    work w = {.parts = 0};
    frnn_run(count, &w, want, nameless);
    REQUIRE(w.parts == want || w.parts == 1);
    for (int part = 0; part < MOST; part++)
        REQUIRE(w.calls[part] == (part < w.parts));
#if defined(__x86_64__) || defined(__aarch64__)
    REQUIRE(w.below_normal == 0);
#endif
    return w.parts;
}

static void check_run(void)
{
    for (int round = 0; round < 50; round++)
        for (int want = 1; want <= 4; want++)
            REQUIRE(counted(want) == want);
    usleep(20000); /* the workers fall asleep */
    REQUIRE(counted(4) == 4);
}

/* Of parts that do not meet, each is done once, by its worker or by the caller; those of 64 workers on some processors
 * are done by both. */
static void tick(void *job, int part, int parts)
{
    work *w = job;
    REQUIRE(w->parts == parts);
    w->calls[part]++;
}

static void check_apart(void)
{
    for (int round = 0; round < 2000; round++) {
        int want = round % 50 ? 2 + round % 3 : MOST;
        work w = {.parts = want};
        if (round % 500 == 499)
            usleep(2000); /* the workers fall asleep */
        frnn_run(tick, &w, want, nameless);
        for (int part = 0; part < MOST; part++)
            REQUIRE(w.calls[part] == (part < want));
    }
}

/* ---- what is worth several threads, told how long it took: what a machine does meanwhile is its own affair */

static const double WORK = 4e6;

/* Of so many calls of a kind, those on two threads. A call takes `alone` seconds on one, `shared` on two, but each n-th
 * of these four times as long as on one; and half as much again where there is half as much more to do. */
static int shared_calls(unsigned long long key, double alone, double shared, int nth, double idle, int calls)
{
    int on_two = 0;
    for (int call = 0; call < calls; call++) {
        double more = 1 + call % 2 * 0.5;
        frnn_kind kind = {key, more * WORK};
        int two = frnn_worth(kind);
        double took = two && on_two % nth == nth - 1 ? 4 * alone : two ? shared : alone;
        frnn_note(kind, 1 + two, took * more, two ? idle * took * more : 0);
        on_two += two;
    }
    return on_two;
}

/* How many calls, each of so many seconds on one thread and on two, until one is on `threads`; no more than most. */
static int calls_until(int threads, unsigned long long key, double alone, double shared, int most)
{
    const frnn_kind kind = {key, WORK};
    int call = 0;
    for (int on = 0; call < most && on != threads; call++) {
        on = 1 + frnn_worth(kind);
        frnn_note(kind, on, on == 2 ? shared : alone, 0);
    }
    return call;
}

/* A way that was tried in vain, again and again, is tried ever more seldom; but not after it was in use, and the other
 * one tried in vain. */
static void check_return(unsigned long long key)
{
    shared_calls(key, 1e-4, 1.4e-4, 1 << 30, 0, 2000);
    REQUIRE(shared_calls(key, 1e-4, 6e-5, 1 << 30, 0, 20000) > 15000);
    REQUIRE(calls_until(1, key, 1e-4, 3e-4, 4000) < 200);
    REQUIRE(calls_until(2, key, 1e-4, 6e-5, 4000) < 10);
}

/* The same where two threads are quicker, once they are awake. */
static int waking_calls(unsigned long long key, int calls)
{
    int on_two = 0, awake = 0;
    for (int call = 0; call < calls; call++) {
        const frnn_kind kind = {key, WORK};
        int two = frnn_worth(kind);
        frnn_note(kind, 1 + two, !two ? 1e-4 : awake ? 6e-5 : 1.5e-4, 0);
        awake = two, on_two += two;
    }
    return on_two;
}

/* Of 99 calls, too long for a trial of one thread, which would take 15 ms, those on two: 6.6 ms each, but every third
 * time both threads are interrupted. */
static int interrupted_calls(unsigned long long key)
{
    const frnn_kind kind = {key, WORK};
    int on_two = 0;
    for (int call = 0; call < 99; call++) {
        int two = frnn_worth(kind);
        double more = call % 3 == 2 ? 4 : 1;
        frnn_note(kind, 1 + two, two ? more * 6.6e-3 : 15e-3, two ? more * 0.6e-3 + (more - 1) * 2e-3 : 0);
        on_two += two;
    }
    return on_two;
}

/* The quicker way is taken, the other tried, and more seldom from time to time, as soon as it is not the same one. */
static void check_policy(void)
{
    enum {
        GOOD = 1,
        FAR,
        NEW,
        LATE,
        WELL,
        SELDOM,
        OFTEN,
        WAKING,
        SLOW,
        QUICK,
        FIRST,
        AGAIN,
        BUSY,
        TURN,
        NEVER = 1 << 30
    };
    const frnn_kind good = {GOOD, WORK}, far = {FAR, WORK}, first = {FIRST, WORK};
    REQUIRE(frnn_worth(good) && frnn_worth(far)); /* nothing known */
    int goods = shared_calls(GOOD, 1e-4, 6e-5, NEVER, 0, 1000);
    int fars = shared_calls(FAR, 1e-4, 1.4e-4, NEVER, 0.1, 1000);
    REQUIRE(980 < goods && goods < 1000 && 0 < fars && fars < 40);
    REQUIRE(shared_calls(GOOD, 1e-4, 6e-5, NEVER, 0, 1000) > goods);
    REQUIRE(shared_calls(FAR, 1e-4, 1.4e-4, NEVER, 0.1, 1000) < fars);
    REQUIRE(shared_calls(FAR, 1e-4, 6e-5, NEVER, 0, 2000) > 900); /* the other processor has come nearer */
    REQUIRE(shared_calls(GOOD, 1e-4, 1.4e-4, NEVER, 0, 2000) < 200);
    REQUIRE(shared_calls(WELL, 1, 0.6, NEVER, 0.1, 100) == 100); /* nobody waits for a long trial ... */
    REQUIRE(shared_calls(LATE, 1, 1.1, NEVER, 0.6, 99) <= 34);   /* ... but what waits for others could do without */
    REQUIRE(interrupted_calls(BUSY) == 99);
    int in_turn = 0;
    for (int call = 0; call < 500; call++)
        for (int key = 0; key < 4; key++)
            in_turn += shared_calls(TURN + 128 * key, 1e-4, 1.4e-4, NEVER, 0, 1);
    REQUIRE(in_turn < 200);                                        /* kinds that are alike have records of their own */
    REQUIRE(shared_calls(NEW, 1e-4, 9.8e-5, NEVER, 0, 1000) < 40); /* not worth another's processor */
    REQUIRE(waking_calls(WAKING, 1000) > 950);
    frnn_note(first, 2, 4e-3, 0); /* the first call of all may have made the threads */
    REQUIRE(shared_calls(FIRST, 1e-4, 6e-5, NEVER, 0, 100) > 90);
    int slows = shared_calls(SLOW, 1.2e-3, 1.8e-3, NEVER, 0, 20000); /* 30 s: two threads are tried each 0.3 s, ... */
    int quicks = 20000 - shared_calls(QUICK, 1.8e-3, 1.2e-3, NEVER, 0, 20000); /* ... and one each 3 s */
    REQUIRE(70 < slows && slows < 130 && 5 < quicks && quicks < 30);
    check_return(AGAIN);
    REQUIRE(shared_calls(SELDOM, 1e-4, 6e-5, 20, 0, 2000) > 1600); /* quicker on average ... */
    REQUIRE(shared_calls(OFTEN, 1e-4, 6e-5, 4, 0, 20000) < 2000);  /* ... and most times, but not on average */
}

int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
static atomic_long told; /* nanoseconds, or 0 for the true time */
static atomic_int asked; /* how often it was told */

/* What the linker takes for clock_gettime. */
int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
    long now = atomic_load(&told);
    if (now == 0)
        return __real_clock_gettime(id, t);
    atomic_fetch_add(&asked, 1);
    *t = (struct timespec){now / 1000000000, now % 1000000000};
    return 0;
}

static void pass_time(void *nanoseconds, int part, int parts)
{
    if (part == 0)
        atomic_fetch_add(&told, ((long *)nanoseconds)[parts - 1]);
}

/* Of 200 calls of a kind, which take so long on one thread and on two, those on two. */
static int shared_runs(unsigned long long key, long alone, long shared)
{
    const frnn_kind kind = {key, WORK};
    long nanoseconds[] = {alone, shared};
    int on_two = 0;
    for (int call = 0; call < 200; call++) {
        int two = frnn_worth(kind);
        frnn_run(pass_time, nanoseconds, 1 + two, kind);
        on_two += two;
    }
    return on_two;
}

/* Nanoseconds that a call works, and that it then waits for the other part, at a barrier or for its end. */
typedef struct delay {
    long work, wait;
    int barrier;
} delay;

static void be_late(void *job, int part, int parts)
{
    const delay *d = job;
    static atomic_int begun;
    REQUIRE(parts == 2);
    if (part == 0) {
        while (atomic_load(&begun) == 0)
            usleep(100);
        atomic_store(&begun, 0);
        atomic_fetch_add(&told, d->work);
    } else {
        atomic_store(&begun, 1);
        while (atomic_load(&asked) < 2) /* when the call began, and when its wait was found to be long */
            usleep(100);
        atomic_fetch_add(&told, d->wait);
    }
    if (d->barrier)
        frnn_barrier(parts);
}

/* Whether two threads are worth it after one such call on them. */
static int worth_after(unsigned long long key, delay d)
{
    const frnn_kind kind = {key, WORK};
    atomic_store(&asked, 0);
    frnn_run(be_late, &d, 2, kind);
    return frnn_worth(kind);
}

static void check_learning(void)
{
    atomic_store(&told, 1999000000); /* a second ends meanwhile */
    REQUIRE(shared_runs(31, 100000, 60000) > 190);
    REQUIRE(shared_runs(33, 100000, 140000) < 40);
    for (unsigned barrier = 0; barrier < 2; barrier++) {
        REQUIRE(!worth_after(35 + 4 * barrier, (delay){1000000, 10000000, barrier})); /* 2 ms alone, 11 on two */
        REQUIRE(worth_after(37 + 4 * barrier, (delay){9000000, 1000000, barrier}));   /* 18 ms, 10 */
    }
    atomic_store(&told, 0);
}

/* ---- callers at once, and inside one another --------------------------------------------------------------------- */

static void *call_often(void *unused)
{
    (void)unused;
    for (int round = 0; round < 50; round++)
        counted(1 + round % 4);
    return NULL;
}

static void check_callers(void)
{
    pthread_t callers[4];
    for (int i = 0; i < 4; i++)
        REQUIRE(pthread_create(&callers[i], NULL, call_often, NULL) == 0);
    for (int i = 0; i < 4; i++)
        REQUIRE(pthread_join(callers[i], NULL) == 0);
    REQUIRE(counted(4) == 4);
}

static void call_inside(void *unused, int part, int parts)
{
    (void)unused, (void)part;
    REQUIRE(counted(3) == 1);
    frnn_barrier(parts);
}

static void check_nested(void)
{
    for (int round = 0; round < 50; round++)
        frnn_run(call_inside, NULL, 3, nameless);
}

/* ---- children ---------------------------------------------------------------------------------------------------- */

static int succeeded(pid_t child)
{
    int status;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* A child has threads of its own, and so has its child. */
static pid_t forked(int generations)
{
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child)
        return child;
    alarm(60);
    for (int round = 0; round < 20; round++)
        REQUIRE(counted(3) == 3);
    REQUIRE(generations == 1 || succeeded(forked(generations - 1)));
    REQUIRE(counted(2) == 2);
    _exit(0);
}

static void check_fork(void)
{
    REQUIRE(succeeded(forked(2)));
    REQUIRE(counted(3) == 3);
    pthread_t busy; /* a fork can find the pool in the hands of another thread */
    REQUIRE(pthread_create(&busy, NULL, call_often, NULL) == 0);
    for (int i = 0; i < 10; i++)
        REQUIRE(succeeded(forked(1)));
    REQUIRE(pthread_join(busy, NULL) == 0);
}

/* ---- threads that cannot be had ---------------------------------------------------------------------------------- */

static void check_limits(void)
{
    for (int round = 0; round < 3; round++)
        REQUIRE(counted(MOST) == MOST);
    work w = {.parts = 0};
    frnn_run(count, &w, 10 * MOST, nameless);
    REQUIRE(w.parts == MOST);
    w = (work){.parts = 0};
    frnn_run(count, &w, 0, nameless);
    REQUIRE(w.parts == 1);
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *arg);
static atomic_int to_be_had = 1 << 20, never_come = 0;

/* What the linker takes for pthread_create. */
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *arg)
{
    if (atomic_load(&never_come))
        return 0;
    return atomic_fetch_sub(&to_be_had, 1) > 0 ? __real_pthread_create(thread, attributes, run, arg) : EAGAIN;
}

static void check_poverty(void)
{
    atomic_store(&to_be_had, 0);
    REQUIRE(counted(4) == 1);
    atomic_store(&to_be_had, MOST);
    REQUIRE(counted(4) == 4);
}

/* Workers that have no processor to begin on: the caller does it all. */
static void check_absence(void)
{
    atomic_store(&never_come, 1);
    for (int round = 0; round < 3; round++) {
        work w = {.parts = 4};
        frnn_run(tick, &w, 4, nameless);
        for (int part = 0; part < 4; part++)
            REQUIRE(w.calls[part] == 1);
    }
}

static void in_child(void (*check)(void))
{
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(60);
        check();
        _exit(0);
    }
    REQUIRE(succeeded(child));
}

/* ---- signals ----------------------------------------------------------------------------------------------------- */

/* One that the program waits for must not come to a worker, where it would end the program; the caller's go on. */
static void check_signals(void)
{
    sigset_t one, before;
    int got = 0;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    REQUIRE(pthread_sigmask(SIG_BLOCK, &one, &before) == 0 && !sigismember(&before, SIGUSR1));
    REQUIRE(kill(getpid(), SIGUSR1) == 0);
    REQUIRE(sigwait(&one, &got) == 0 && got == SIGUSR1);
    REQUIRE(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
}

/* ---- subnormals and rounding ------------------------------------------------------------------------------------- */

static void check_flush(void)
{
    volatile double least_normal = DBL_MIN, one = 1, tiny = DBL_EPSILON / 8;
    REQUIRE(fesetround(FE_UPWARD) == 0);
    unsigned long outer = frnn_flush(), inner = frnn_flush();
#if defined(__x86_64__) || defined(__aarch64__)
    REQUIRE(least_normal * 0.5 == 0 && one + tiny == 1);
    frnn_unflush(inner);
    REQUIRE(least_normal * 0.5 == 0 && one + tiny == 1);
#endif
    frnn_unflush(outer);
    REQUIRE(least_normal * 0.5 > 0 && one + tiny > 1);
    for (int want = 1; want <= 2; want++) {
        counted(want);
        REQUIRE(least_normal * 0.5 > 0 && one + tiny > 1);
    }
    REQUIRE(fesetround(FE_TONEAREST) == 0);
}

int main(void)
{
    alarm(120);
    check_flush();
    check_run();
    check_apart();
    check_policy();
    check_learning();
    check_callers();
    check_nested();
    if (!NO_FORK)
        check_fork(), in_child(check_poverty), in_child(check_absence);
    check_limits();
    check_signals();
    printf("ok threads\n");
}
