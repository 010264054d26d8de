/*
 * procscan: ask the kernel about many threads, and tell it their CPUs, in one call; and where pages are.
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

/* One thread. */
struct ps_task {
    uint64_t ino;      /* of its folder in task/; another thread with the same tid has another one */
    uint64_t start;    /* clock ticks after boot (stat field 22) */
    uint64_t since;    /* when a sweep first saw it, in the caller's `now` */
    uint32_t flags;    /* PF_* (stat field 9) */
    int32_t  pid;      /* its thread group, as the caller named it */
    int32_t  tid;
    int32_t  cpu;      /* where it ran last (stat field 39); -1: not told */
    int32_t  err;      /* 0, or -errno of what could not be read; -ESRCH: it has ended since it was listed */
    int32_t  mask_err; /* the same for its mask */
    uint8_t  told;     /* whether stat was read: start and flags count */
    uint8_t  settled;  /* whether its name was read long enough after it was first seen */
    uint8_t  state;    /* R, S, D, Z… (stat field 3); 0: not told */
    uint8_t  comm_len;
    char     comm[68]; /* its name, raw bytes, not terminated; kernel workers have up to 63 */
};

/* What a sweep shall do. */
enum ps_what {
    PS_STATS = 1       /* read stat (1.5 times the price), not only the name */
};

/* Threads of many processes: names and masks. */
struct ps_sweep {
    const int32_t *pids;        /* the processes, ascending */
    const int32_t *weights;     /* about how many threads each has; room is made and work is divided by it */
    size_t n;
    const struct ps_task *old;  /* rows of an earlier sweep: names of threads that stand in it are not read again */
    size_t old_count;
    const uint8_t *anew;        /* of these processes names are read again; NULL: of none */
    const char *workers;        /* beginnings of names, each NUL-terminated, an empty one at the end: such a thread may
                                   be a kernel worker, so that its stat is read too */
    uint64_t now;               /* any clock that goes up */
    uint64_t settle;            /* a name may still change that soon after a thread was first seen */
    size_t words;               /* of each mask; 0: read no masks */
    int what;                   /* enum ps_what */
    int threads;                /* how many of ours share the work, at least 1 */
    struct ps_task *rows;       /* out: process by process, threads in ascending order */
    uint64_t *masks;            /* out: words for each row */
    size_t cap;                 /* room for that many rows: the sum of ps_room over the weights */
    int32_t *counts;            /* out, for each process: how many threads, or -errno where they could not be listed;
                                   left as it is where the room was used up before */
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
    PS_UNSURE,         /* set, and then it could not be read back or proved: see `err` */
    PS_STRAY           /* set, and then the number belonged to another thread: see `after`, which is what was expected
                          if that could be put back */
};

struct ps_bind {
    uint64_t ino;      /* expected; 0: not known */
    uint64_t start;    /* expected */
    uint64_t now;      /* out: the inode number that it had when it was proved */
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

/* About how many threads each process has: the links of its task folder; 0 where it cannot be looked at. */
void ps_weigh(int proc, const int32_t *pids, size_t n, int32_t *weights);

/* How many rows a process of that weight gets. */
size_t ps_room(int32_t weight);

/* List the threads of processes, with names and masks. Returns how many rows there are, -ENOSPC where processes have
 * more threads than there is room for (weigh them again), or -errno. */
long ps_sweep(int proc, const struct ps_sweep *sweep);

/* The names of rows, one after the other, each NUL-terminated (no name holds a NUL). Returns how many bytes they take,
 * of at most 69 a row. */
size_t ps_names(const struct ps_task *rows, size_t n, char *text);

/* Open debugfs without mounting it anywhere: the folder is there for whoever has the descriptor (fsopen, Linux 5.2, with
 * CAP_SYS_ADMIN). Returns a descriptor or -errno. */
int ps_open_debugfs(void);

/* Read the link `name` of each process, one after the other into `text`, each NUL-terminated, empty where errs[i].
 * Returns how many were read before the room was used up; one takes up to PATH_MAX (4,096) bytes. */
long ps_links(int proc, const int32_t *pids, size_t n, const char *name, char *text, size_t room, int32_t *errs);

/* Find for each process the first descriptor whose link is `link`; -1 where it has none, or errs[i]. */
void ps_holds(int proc, const int32_t *pids, size_t n, const char *link, int32_t *fds, int32_t *errs);

/* The least number of words with which the running kernel hands out a mask, or -errno. */
long ps_mask_words(void);

/* Read the affinity of n threads: masks[i * words], errs[i] = 0 or -errno.
 * Returns how many could be read. */
long ps_masks(const int32_t *tids, size_t n, uint64_t *masks, size_t words, int32_t *errs);

/* Rows to bind threads that a sweep found: numbers, inode numbers and starts. */
void ps_prepare(const struct ps_task *tasks, size_t n, struct ps_bind *rows);

/* Bind n threads; those of one process stand together, in ascending order. For each process: list its threads, so
 * that each number is proved to name the expected one; then read the mask of each, keep it where it is want[i], leave
 * it alone (PS_MOVED) where it is not expect[i], else set want[i] and read it back into after[i]; a thread whose turn
 * comes long after the listing is proved once more by itself; list the threads again, so that a number that changed
 * hands in between is known. `sure` is a time in clock ticks after boot: a thread that started before it is known by
 * its start alone, as any later owner of its number started later; a younger one, or one whose start was not read, is
 * known by its inode number only, and is called PS_GONE where the kernel has dropped its caches since. `expect` may be
 * NULL: any mask is replaced.
 * Returns how many are PS_SET or PS_KEPT, or -errno. */
long ps_bind(int proc, struct ps_bind *rows, size_t n, uint64_t sure,
             const uint64_t *expect, const uint64_t *want, uint64_t *after, size_t words);

/* Ask on which NUMA node the pages at `count` addresses of a process are (move_pages(2), which moves none of them);
 * nodes[i] is a node or -errno: -ENOENT and -EFAULT where no page is that could be anywhere.
 * Returns how many are on a node, or -errno: -ESRCH without such a process, -EPERM, -ENOSYS. */
long ps_pages(int32_t pid, const uintptr_t *addresses, size_t count, int32_t *nodes);

#endif
