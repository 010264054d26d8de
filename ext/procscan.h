/*
 * procscan: ask the kernel about many threads, and tell it their CPUs, in one call.
 *
 * The rules of this file:
 *  - The caller owns all memory. Functions return a count, or -errno where the whole call failed.
 *  - What goes wrong with one thread is written in that thread's row and never fails the call.
 *  - A CPU mask is `words` 64-bit words in the machine's byte order, the lowest CPUs first, as
 *    sched_setaffinity(2) takes it; masks of several threads follow each other. Any width.
 *  - No policy and no text parsing but of numbers; nothing shared, so that callers need no lock
 *    (cffi drops the interpreter's lock during each call).
 *
 * `proc` is a descriptor of a /proc folder (or of a recorded one). cffi reads this file without
 * its lines that begin with '#'.
 */
#ifndef KVMAFF_PROCSCAN_H
#define KVMAFF_PROCSCAN_H

#include <stddef.h>
#include <stdint.h>

/* One thread, as /proc/PID/task/TID/stat has it. */
struct ps_task {
    uint64_t ino;      /* of its folder in task/; another thread with the same tid has another one */
    uint64_t start;    /* clock ticks after boot (stat field 22) */
    uint32_t flags;    /* PF_* (stat field 9) */
    int32_t  pid;      /* its thread group, as the caller named it */
    int32_t  tid;
    int32_t  cpu;      /* where it ran last (stat field 39); -1: not told */
    int32_t  err;      /* 0, or -errno of what could not be read */
    uint8_t  state;    /* R, S, D, Z… (stat field 3); 0: not told */
    uint8_t  comm_len;
    char     comm[66]; /* its name, raw bytes, not terminated; kernel workers have up to 63 */
};

/* What became of one thread that was to be bound. */
enum ps_outcome {
    PS_UNTOUCHED = 0,  /* not reached */
    PS_KEPT,           /* had the mask already */
    PS_SET,            /* set, proved and read back */
    PS_CLIPPED,        /* set, but the kernel gave another mask than asked: see `after` */
    PS_GONE,           /* the thread ended, or its number now belongs to another one */
    PS_MOVED,          /* its mask was not the expected one: somebody else is at work; left alone */
    PS_REFUSED,        /* the kernel said no: see `err` */
    PS_STRAY           /* set, and then the number belonged to another thread: see `err` */
};

struct ps_bind {
    uint64_t ino;      /* expected; 0: not known */
    uint64_t start;    /* expected */
    int32_t  pid;
    int32_t  tid;
    int32_t  outcome;  /* out: enum ps_outcome */
    int32_t  err;      /* out: 0 or -errno */
};

/* Open a path below a folder; no link and no ".." in it leads out of the folder (openat2, Linux 5.6).
 * Returns a descriptor or -errno. */
int ps_open_beneath(int folder, const char *path, int flags);

/* List the numeric entries of a folder below proc ("." or "123/task").
 * Fills at most `cap` numbers and inode numbers; returns how many there are (more than `cap`: call
 * again with more room) or -errno. `inos` may be NULL. */
long ps_list(int proc, const char *path, int32_t *ids, uint64_t *inos, size_t cap);

/* Fill rows whose pid, tid (and ino) are set with what each thread's stat says.
 * Returns how many could be read. */
long ps_stat(int proc, struct ps_task *rows, size_t n);

/* The least number of words with which the running kernel hands out a mask, or -errno. */
long ps_mask_words(void);

/* Read the affinity of n threads: masks[i * words], errs[i] = 0 or -errno.
 * Returns how many could be read. */
long ps_masks(const int32_t *tids, size_t n, uint64_t *masks, size_t words, int32_t *errs);

/* Bind n threads. For each: prove that the number still names the expected thread, read its mask; where it
 * is want[i] keep it; where it is not expect[i] leave it alone (PS_MOVED); else set want[i], prove again, read back
 * into after[i]. `sure` is a time in clock ticks after boot: a thread that started before it is known by
 * its start alone, as any later owner of its number started later; a younger one is known by its inode
 * number too. Threads of one process should stand together.
 * Returns how many are PS_SET or PS_KEPT, or -errno. */
long ps_bind(int proc, struct ps_bind *rows, size_t n, uint64_t sure,
             const uint64_t *expect, const uint64_t *want, uint64_t *after, size_t words);

#endif
