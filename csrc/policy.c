/* SPDX-License-Identifier: MIT
 * policy.c - whether several threads are worth while for a job: learned from what jobs of its kind took, on several and
 * alone. No rule foresees it: the threads may have no core to run on, or one so far away that fetching what the other
 * wrote takes longer than to do it all, and both may change while a program runs.
 *
 * The way that was quicker is taken; the other is tried now and then, ever more seldom while it stays slower. Nothing
 * here changes a result. Of callers at once one has the records, the others learn nothing; nor ever does a child forked
 * just then. */
#include "frnn.h"

enum {
    RECORDS = 64,
    APART = 2,         /* calls from one trial of the slower way to the next; doubled each time ... */
    MOST_APART = 1000, /* ... up to here */
};

static const double ALONE_FOR = 0.3; /* seconds after which several threads are tried again, at the latest */
static const double SHARED_FOR = 3;  /* and one */
static const double LONG = 0.02;     /* seconds: nobody shall wait for the trial of one thread */
static const double BETTER = 0.97;   /* several threads have to be quicker by this to be taken */
static const double SLOWER = 0.2; /* how much a slower time counts beside those before; a quicker one replaces them */

typedef struct record {
    unsigned long long kind;
    double alone, shared; /* seconds; 0: not known yet */
    int left, apart;      /* calls to the next trial, and from that to the one after */
} record;

static record records[RECORDS];
static char busy;

static int taken(void) { return __atomic_test_and_set(&busy, __ATOMIC_ACQUIRE); }
static void give(void) { __atomic_clear(&busy, __ATOMIC_RELEASE); }

/* The record of a kind, which takes the place of what was there before. */
static record *record_of(unsigned long long kind)
{
    record *r = &records[kind / 2 % RECORDS];
    if (r->kind != kind)
        *r = (record){.kind = kind, .left = APART, .apart = APART};
    return r;
}

static int is_worth(const record *r) { return r->alone == 0 || r->shared == 0 || r->shared < BETTER * r->alone; }

static int until_trial(const record *r)
{
    double calls = is_worth(r) ? SHARED_FOR / r->shared : ALONE_FOR / r->alone;
    int most = calls < MOST_APART ? (int)calls : MOST_APART;
    return r->apart < most ? r->apart : most > APART ? most : APART;
}

static void learn(double *known, double seconds)
{
    *known = *known == 0 || seconds < *known ? seconds : *known + SLOWER * (seconds - *known);
}

int frnn_worth(unsigned long long kind)
{
    if (taken())
        return 1;
    record *r = record_of(kind);
    int worth = is_worth(r);
    if (r->left > 0) {
        r->left--;
    } else if (r->shared != 0) {
        r->left = until_trial(r);
        r->apart = r->apart < MOST_APART ? 2 * r->apart : r->apart;
        worth = worth && r->shared > LONG ? 1 : !worth;
    }
    give();
    return worth;
}

void frnn_note(unsigned long long kind, int parts, double seconds, double idle)
{
    if (taken())
        return;
    record *r = record_of(kind);
    int was = is_worth(r);
    learn(parts > 1 ? &r->shared : &r->alone, seconds);
    if (parts > 1 && seconds > LONG) /* one alone would take as often what the caller did not wait */
        learn(&r->alone, parts * (seconds - idle));
    if (is_worth(r) != was)
        r->left = r->apart = APART;
    give();
}
