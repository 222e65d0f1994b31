/* SPDX-License-Identifier: MIT
 * policy.c - whether several threads are worth while for a job: learned from what jobs of its kind took, on several and
 * alone. No rule foresees it: the threads may have no core to run on, or sleep, or be so far away that fetching what
 * the other wrote takes longer than to do it all, and all that may change while a program runs.
 *
 * The way that is quicker on average is taken; the other is tried now and then, ever more seldom while it stays slower.
 * Nothing here changes a result. Of callers at once one has the records, the others learn nothing. */
#include "frnn.h"

enum {
    RECORD_BITS = 8,
    APART = 2,         /* calls from one trial of the slower way to the next: at first, ... */
    MOST_APART = 4000, /* ... and in the end */
    WARM = 3,          /* calls of a trial of several threads, if they are short: the first may have to wake them */
};

static const double ALONE_FOR = 0.3;  /* seconds after which several threads are tried again, at the latest */
static const double SHARED_FOR = 3;   /* and one */
static const double LONG = 0.003;     /* seconds on several threads: nobody shall wait for a trial of one */
static const double SHORT = 0.001;    /* seconds: to wake a thread takes far less */
static const double BETTER = 0.97;    /* several threads have to be quicker by this to be taken */
static const double KNOWN_FOR = 0.01; /* seconds of calls that an average is over, ... */
static const double NEWEST = 0.05;    /* ... or 20 calls, if these take longer */

enum { ALONE, SHARED };

typedef struct record {
    unsigned long long key;
    struct {
        double time; /* seconds for a unit of work; 0: not known yet */
        int apart;   /* calls from one trial to the next, while it is not taken */
    } way[2];
    int left; /* calls to the next trial; below 0 those of it so far */
} record;

static record records[1 << RECORD_BITS];
static char locked;

static int try_lock(void) { return !__atomic_test_and_set(&locked, __ATOMIC_ACQUIRE); }
static void unlock(void) { __atomic_clear(&locked, __ATOMIC_RELEASE); }

void frnn_unlock_records(void) { unlock(); }

/* The record of a key, which takes the place of what was there before. Keys are alike where jobs are: multiplied by
 * 2^64 over the golden ratio (Knuth), they differ in their first bits, too. */
static record *record_of(unsigned long long key)
{
    record *r = &records[(key * 0x9e3779b97f4a7c15u) >> (64 - RECORD_BITS)];
    if (r->key != key)
        *r = (record){.key = key, .way = {{0, APART}, {0, APART}}, .left = APART};
    return r;
}

static int best_way(const record *r)
{
    double alone = r->way[ALONE].time, shared = r->way[SHARED].time;
    return alone == 0 || shared == 0 || shared < BETTER * alone ? SHARED : ALONE;
}

/* Calls until this way, the slower one, is to be tried. */
static int until_trial(const record *r, int way, double work)
{
    double calls = (way == SHARED ? ALONE_FOR : SHARED_FOR) / (r->way[!way].time * work);
    int most = calls > MOST_APART ? MOST_APART : calls > APART ? (int)calls : APART;
    return r->way[way].apart < most ? r->way[way].apart : most;
}

/* Whether the call of a trial, not a quick one, was its last. */
static int last_try(record *r, int way, double seconds)
{
    return way == ALONE || seconds > SHORT || --r->left <= -WARM;
}

/* A trial makes the next one of that way later; if it was in vain, the way in use returns the sooner, should it ever be
 * the slower one. Else both would be used in turns where one is quicker by chance only. */
static void tried(record *r, int way, int in_vain)
{
    int *own = &r->way[way].apart, *other = &r->way[!way].apart;
    *own = 2 * *own < MOST_APART ? 2 * *own : MOST_APART;
    if (in_vain)
        *other = *other / 2 > APART ? *other / 2 : APART;
}

/* A way that is seldom tried is taken at its best: once it is in use, its average shows, in which a call that was
 * interrupted counts for all that it cost. What is inferred from the way in use is averaged, too: it was interrupted as
 * often. */
static void learn(double *known, double time, int in_use, double work)
{
    double share = *known * work / KNOWN_FOR;
    if (*known == 0 || (time < *known && !in_use))
        *known = time;
    else
        *known += (share < NEWEST ? share : NEWEST) * (time - *known);
}

int frnn_worth(frnn_kind kind)
{
    if (!try_lock())
        return 1;
    record *r = record_of(kind.key);
    int way = best_way(r);
    if (r->left > 0)
        r->left--;
    else if (r->way[SHARED].time != 0 && (way == ALONE || r->way[SHARED].time * kind.work < LONG))
        way = !way;
    unlock();
    return way == SHARED;
}

void frnn_note(frnn_kind kind, int parts, double seconds, double idle)
{
    if (!try_lock())
        return;
    record *r = record_of(kind.key);
    int way = parts > 1 ? SHARED : ALONE, was = best_way(r), in_use = way == was && r->way[!way].time != 0;
    learn(&r->way[way].time, seconds / kind.work, in_use, kind.work);
    if (way == SHARED && seconds > LONG) /* one alone would take as often what the caller did not wait */
        learn(&r->way[ALONE].time, parts * (seconds - idle) / kind.work, 1, kind.work);
    int is = best_way(r), ended = is != was || (way != was && last_try(r, way, seconds));
    if (ended && way != was)
        tried(r, way, is == was);
    if (ended)
        r->left = until_trial(r, !is, kind.work);
    unlock();
}
