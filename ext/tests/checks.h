/*
 * What the C tests share: checks, temporary trees, threads and processes of the test's own, and a hand on the system
 * calls that procscan.c makes by number and on the threads that it starts. To be included first; it includes procscan.c.
 *
 * Rule: masks are set on threads that the test started itself, or on numbers above every pid_max.
 */
#ifndef KVMAFF_CHECKS_H
#define KVMAFF_CHECKS_H

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Each system call that procscan.c makes by number goes through `hook`, where a test has set one. */
typedef long (*syscall_hook)(long number, long a, long b, long c, long d, long e);
static syscall_hook hook;

static inline long plain_syscall(long number, long a, long b, long c, long d, long e)
{
    return syscall(number, a, b, c, d, e, 0L); /* the sixth, which move_pages has, is 0 wherever procscan.c has one */
}

static inline long hooked_syscall(long number, long a, long b, long c, long d, long e)
{
    return hook ? hook(number, a, b, c, d, e) : plain_syscall(number, a, b, c, d, e);
}

#define HOOKED(number, a, b, c, d, e, ...) \
    hooked_syscall(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))
#define syscall(...) HOOKED(__VA_ARGS__, 0, 0, 0, 0, 0, 0)

/* And each thread that it starts is started by this. */
static int (*create_thread)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = pthread_create;
#define pthread_create create_thread

#include "../procscan.c"

enum {
    NOBODY = 4194304 + 1  /* above PID_MAX_LIMIT: no thread of any kernel has this number or a higher one */
};

static int failures;

#define CHECK(what)                                                              \
    do {                                                                         \
        if (!(what)) {                                                           \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);           \
            failures++;                                                          \
        }                                                                        \
    } while (0)

#define MUST(what)                                                               \
    do {                                                                         \
        if (!(what)) {                                                           \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #what, strerror(errno)); \
            abort();                                                             \
        }                                                                        \
    } while (0)

static inline int report(const char *subject)
{
    if (!failures)
        printf("%s: all C tests passed\n", subject);
    return failures != 0;
}

static inline int open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;

    MUST(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* Room of just that size, so that AddressSanitizer sees what lies beyond it; filled with what nobody expects. */
static inline void *exactly(size_t size)
{
    void *room = malloc(size ? size : 1);

    MUST(room);
    memset(room, 0xa5, size);
    return room;
}

static inline int make_root(char *root, size_t size)
{
    const char *base = getenv("TMPDIR");
    int fd;

    if (!base)
        base = access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : "/tmp"; /* thousands of files, soon gone */
    snprintf(root, size, "%s/procscan-test-XXXXXX", base);
    MUST(mkdtemp(root));
    fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    MUST(fd >= 0);
    return fd;
}

static inline void make_folder(int root, const char *path)
{
    MUST(mkdirat(root, path, 0700) == 0);
}

static inline void write_file(int root, const char *path, const void *data, size_t size)
{
    int fd = openat(root, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    MUST(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    close(fd);
}

/* Empty a folder, whatever rights were taken from what is in it. */
static inline void empty_folder(int fd)
{
    DIR *dir = fdopendir(dup(fd));
    struct dirent *entry;

    MUST(dir);
    rewinddir(dir);
    while ((entry = readdir(dir))) {
        int below;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(fd, entry->d_name, 0) == 0)
            continue;
        MUST(fchmodat(fd, entry->d_name, 0700, 0) == 0);
        below = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        MUST(below >= 0);
        empty_folder(below);
        close(below);
        MUST(unlinkat(fd, entry->d_name, AT_REMOVEDIR) == 0);
    }
    closedir(dir);
}

static inline void remove_root(const char *root, int fd)
{
    empty_folder(fd);
    close(fd);
    MUST(rmdir(root) == 0);
}

/* A thread of ours that sleeps until it shall end. */
struct sleeper {
    pthread_t thread;
    int pipe[2];
    volatile int32_t tid;
};

static inline void *sleep_on_pipe(void *arg)
{
    struct sleeper *self = arg;
    char byte;

    __atomic_store_n(&self->tid, (int32_t)plain_syscall(SYS_gettid, 0, 0, 0, 0, 0), __ATOMIC_RELEASE);
    while (read(self->pipe[0], &byte, 1) < 0)
        ;
    return NULL;
}

static inline void start(struct sleeper *self)
{
    self->tid = 0;
    MUST(pipe2(self->pipe, O_CLOEXEC) == 0 && pthread_create(&self->thread, NULL, sleep_on_pipe, self) == 0);
    while (!__atomic_load_n(&self->tid, __ATOMIC_ACQUIRE))
        sched_yield();
}

static inline void finish(struct sleeper *self)
{
    char path[64];

    close(self->pipe[1]);
    pthread_join(self->thread, NULL);
    close(self->pipe[0]);
    snprintf(path, sizeof(path), "/proc/self/task/%d", self->tid);
    while (access(path, F_OK) == 0) /* joined is a moment before gone */
        sched_yield();
}

static inline void rename_sleeper(const struct sleeper *self, const char *name)
{
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/proc/self/task/%d/comm", self->tid);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    MUST(fd >= 0 && write(fd, name, strlen(name)) == (ssize_t)strlen(name));
    close(fd);
}

/* A process of ours with some threads more, all asleep until they are killed, at the latest when this one ends. */
static inline void *sleep_for_good(void *arg)
{
    char name[16];

    snprintf(name, sizeof(name), "CPU %d/KVM", (int)(intptr_t)arg);
    prctl(PR_SET_NAME, name);
    if (write((int)((intptr_t)arg >> 32), "u", 1) != 1) /* named and up */
        _exit(1);
    for (;;)
        pause();
    return NULL;
}

static inline pid_t start_child(int threads)
{
    int up[2];
    char byte;
    pid_t pid;

    MUST(pipe2(up, O_CLOEXEC) == 0);
    pid = fork();
    MUST(pid >= 0);
    if (pid == 0) {
        pthread_t thread;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        prctl(PR_SET_NAME, "fake) vmm (\n");
        for (intptr_t i = 0; i < threads; i++)
            if (pthread_create(&thread, NULL, sleep_for_good, (void *)(i | (intptr_t)up[1] << 32)) != 0)
                _exit(1);
        if (write(up[1], "u", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(up[1]);
    for (int i = 0; i <= threads; i++)
        MUST(read(up[0], &byte, 1) == 1);
    close(up[0]);
    return pid;
}

static inline void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    MUST(waitpid(pid, NULL, 0) == pid);
}

/* A sweep with room of just the size that it asks for. */
struct swept {
    struct ps_sweep sweep;
    int32_t *pids, *weights, *counts;
    struct ps_task *rows;
    uint64_t *masks;
    long count;
};

static inline void free_swept(struct swept *swept)
{
    free(swept->pids);
    free(swept->weights);
    free(swept->counts);
    free(swept->rows);
    free(swept->masks);
}

/* Sweep as `how` says, into room for `weight` threads a process, or for as many as they are where it is -1. */
static inline struct swept sweep_with(int proc, const int32_t *pids, size_t n, struct ps_sweep how, int32_t weight)
{
    struct swept swept = {.sweep = how};
    size_t cap = 0;

    swept.pids = exactly(n * sizeof(*pids));
    memcpy(swept.pids, pids, n * sizeof(*pids));
    swept.weights = exactly(n * sizeof(*swept.weights));
    swept.counts = exactly(n * sizeof(*swept.counts));
    if (weight < 0)
        ps_weigh(proc, pids, n, swept.weights);
    for (size_t i = 0; i < n; i++) {
        if (weight >= 0)
            swept.weights[i] = weight;
        cap += ps_room(swept.weights[i]);
    }
    swept.rows = exactly(cap * sizeof(*swept.rows));
    swept.masks = exactly(cap * how.words * sizeof(*swept.masks));
    swept.sweep.pids = swept.pids;
    swept.sweep.weights = swept.weights;
    swept.sweep.counts = swept.counts;
    swept.sweep.rows = swept.rows;
    swept.sweep.masks = how.words ? swept.masks : NULL;
    swept.sweep.cap = cap;
    swept.sweep.n = n;
    if (!how.workers)
        swept.sweep.workers = "vhost-\0kvm-\0";
    swept.count = ps_sweep(proc, &swept.sweep);
    return swept;
}

static inline bool same_row(const struct ps_task *a, const struct ps_task *b)
{
    return a->ino == b->ino && a->start == b->start && a->since == b->since && a->flags == b->flags &&
           a->pid == b->pid && a->tid == b->tid && a->err == b->err && a->mask_err == b->mask_err &&
           a->told == b->told && a->settled == b->settled && a->comm_len == b->comm_len &&
           memcmp(a->comm, b->comm, a->comm_len) == 0;
}

static inline bool same_sweep(const struct swept *a, const struct swept *b)
{
    size_t words = a->sweep.words;

    if (a->count != b->count || a->sweep.n != b->sweep.n || words != b->sweep.words)
        return false;
    for (long i = 0; i < a->count; i++)
        if (!same_row(&a->rows[i], &b->rows[i]))
            return false;
    if (words && a->count > 0 && memcmp(a->masks, b->masks, (size_t)a->count * words * sizeof(*a->masks)) != 0)
        return false;
    return memcmp(a->counts, b->counts, a->sweep.n * sizeof(*a->counts)) == 0;
}

#endif
