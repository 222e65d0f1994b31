/* SPDX-License-Identifier: MIT
 * threads.c - the worker pool: every part of a task once, barriers, several callers at once, nesting, forked children,
 * threads that cannot be had; and the flushing of subnormals, undone afterwards. A hang ends in an alarm. */
#define _GNU_SOURCE
#include <fenv.h>
#include <float.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
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

enum { MOST = 64, PHASES = 5 };

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
    frnn_run(count, &w, want);
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

enum { APART = 2, MOST_APART = 1000 };

static int questions_denied(void)
{
    int denied = 0;
    while (!frnn_punctual())
        denied++;
    return denied;
}

/* Two parts of so many seconds each, the caller's share of it spent waiting in vain or not. */
static int denied_after(double idle, double seconds)
{
    frnn_judge(seconds, idle * seconds, 2);
    return questions_denied();
}

/* A caller that waits for others in vain twice running is told so for a while, twice as long each time; one that waits
 * once, or not for long, is not. Told, not timed: what a machine does meanwhile is its own affair. */
static void check_punctual(void)
{
    frnn_judge(1, 0, 2); /* forgets how the tasks before went */
    questions_denied();
    REQUIRE(denied_after(0.9, 1e-4) == 0 && denied_after(0.1, 1e-4) == 0); /* a hiccup */
    REQUIRE(denied_after(0.5, 1e-4) == 0);
    for (int apart = APART; apart < 2 * MOST_APART; apart *= 2)
        REQUIRE(denied_after(0.5, 1e-4) == (apart < MOST_APART ? apart : MOST_APART));
    REQUIRE(denied_after(0.5, 0.01) == 30 && denied_after(0.5, 1) == APART); /* long ones are asked again sooner */
    REQUIRE(denied_after(0.4, 1e-4) == 0 && denied_after(0.9, 1e-4) == 0);
    REQUIRE(denied_after(0.9, 1e-4) == APART); /* what came before is forgotten */
    frnn_judge(1, 0, 2);
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
        frnn_run(call_inside, NULL, 3);
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
    frnn_run(count, &w, 10 * MOST);
    REQUIRE(w.parts == MOST);
    w = (work){.parts = 0};
    frnn_run(count, &w, 0);
    REQUIRE(w.parts == 1);
}

#if defined(__GLIBC__)
/* Before the pool has grown to 3 workers: a fourth would need more stack than there is room for. */
static void check_poverty(void)
{
    pthread_attr_t usual, vast;
    REQUIRE(pthread_getattr_default_np(&usual) == 0 && pthread_attr_init(&vast) == 0);
    REQUIRE(pthread_attr_setstacksize(&vast, (size_t)1 << 50) == 0 && pthread_setattr_default_np(&vast) == 0);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(60);
        REQUIRE(counted(4) == 1);
        REQUIRE(pthread_setattr_default_np(&usual) == 0);
        REQUIRE(counted(4) == 4);
        _exit(0);
    }
    REQUIRE(pthread_setattr_default_np(&usual) == 0);
    REQUIRE(succeeded(child));
}
#else
static void check_poverty(void) {}
#endif

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
    check_punctual();
    check_callers();
    check_nested();
    if (!NO_FORK)
        check_fork(), check_poverty();
    check_limits();
    printf("ok threads\n");
}
