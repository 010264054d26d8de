/* See procscan.h for the rules. */
#define _GNU_SOURCE
#include "procscan.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    DIR_BYTES = 1 << 16,
    STAT_BYTES = 1024,    /* 52 numbers of at most 20 digits do not all reach that; the name has 63 */
    MAX_WORDS = 1 << 10   /* 65,536 CPUs: eight times what any kernel is built for */
};

struct linux_dirent64 {
    uint64_t d_ino;
    int64_t  d_off;
    uint16_t d_reclen;
    uint8_t  d_type;
    char     d_name[];
};

/* A descriptor that closes itself at the end of its block. */
static void close_fd(const int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
#define _cleanup_fd_ __attribute__((cleanup(close_fd)))

/* A positive number that is the whole text, or -1. */
static int32_t whole_number(const char *text)
{
    int64_t value = 0;

    if (!*text)
        return -1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -1;
        value = value * 10 + (*text - '0');
        if (value > INT32_MAX)
            return -1;
    }
    return value > 0 ? (int32_t)value : -1;
}

int ps_open_beneath(int folder, const char *path, int flags)
{
    /* struct open_how and the numbers of linux/openat2.h, which older headers lack */
    const uint64_t no_magiclinks = 0x02, beneath = 0x08;
    const long openat2_number = 437; /* on every architecture */
    struct {
        uint64_t flags, mode, resolve;
    } how = {.flags = (uint64_t)flags, .mode = 0, .resolve = beneath | no_magiclinks};
    long fd = syscall(openat2_number, folder, path, &how, sizeof(how));

    return fd < 0 ? -errno : (int)fd;
}

long ps_list(int proc, const char *path, int32_t *ids, uint64_t *inos, size_t cap)
{
    char buf[DIR_BYTES] __attribute__((aligned(8)));
    _cleanup_fd_ int fd = openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    long count = 0;

    if (fd < 0)
        return -errno;
    for (;;) {
        long got = syscall(SYS_getdents64, fd, buf, sizeof(buf));

        if (got < 0)
            return -errno;
        if (got == 0)
            return count;
        for (long at = 0; at < got;) {
            const struct linux_dirent64 *entry = (const void *)(buf + at);
            int32_t id = whole_number(entry->d_name);

            at += entry->d_reclen;
            if (id < 0)
                continue;
            if ((size_t)count < cap) {
                ids[count] = id;
                if (inos)
                    inos[count] = entry->d_ino;
            }
            count++;
        }
    }
}

/* The next number at *at (spaces before it passed over), which is moved behind it.
 * Negative numbers come as their two's complement. False at the end or at anything else. */
static bool next_number(const char **at, const char *end, uint64_t *value)
{
    bool negative = false;
    uint64_t sum = 0;
    const char *p = *at, *first;

    while (p < end && *p == ' ')
        p++;
    if (p < end && *p == '-') {
        negative = true;
        p++;
    }
    for (first = p; p < end && *p >= '0' && *p <= '9'; p++)
        sum = sum * 10 + (uint64_t)(*p - '0');
    if (p == first)
        return false;
    *value = negative ? 0 - sum : sum;
    *at = p;
    return true;
}

/* Parse "TID (NAME) STATE ppid …". The name may hold anything, ')' and newlines too, but nothing behind it holds ')'. */
static int parse_stat(const char *text, size_t len, struct ps_task *row)
{
    const char *end = text + len;
    const char *open = memchr(text, '(', len);
    const char *close = memrchr(text, ')', len);
    const char *at;
    uint64_t value;
    size_t name;

    if (!open || !close || close < open || end - close < 4)
        return -EPROTO;
    name = (size_t)(close - open - 1);
    if (name > sizeof(row->comm))
        name = sizeof(row->comm);
    memcpy(row->comm, open + 1, name);
    row->comm_len = (uint8_t)name;
    row->state = (uint8_t)close[2];
    at = close + 3;
    for (int field = 4; field <= 39; field++) {
        if (!next_number(&at, end, &value))
            return field > 22 ? 0 : -EPROTO;
        if (field == 9)
            row->flags = (uint32_t)value;
        else if (field == 22)
            row->start = value;
        else if (field == 39)
            row->cpu = (int32_t)value;
    }
    return 0;
}

static int read_stat(int dir, const char *path, struct ps_task *row)
{
    char text[STAT_BYTES];
    _cleanup_fd_ int fd = openat(dir, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t got;

    row->start = 0;
    row->flags = 0;
    row->cpu = -1;
    row->state = 0;
    row->comm_len = 0;
    if (fd < 0)
        return -errno;
    got = read(fd, text, sizeof(text));
    if (got < 0)
        return -errno;
    return parse_stat(text, (size_t)got, row);
}

long ps_stat(int proc, struct ps_task *rows, size_t n)
{
    long count = 0;

    for (size_t i = 0; i < n; i++) {
        char path[64];

        snprintf(path, sizeof(path), "%d/task/%d/stat", rows[i].pid, rows[i].tid);
        rows[i].err = read_stat(proc, path, &rows[i]);
        if (rows[i].err == 0)
            count++;
    }
    return count;
}

/* glibc hides that the kernel returns how many bytes it filled; the rest of the caller's mask is zeroed here. */
static int get_mask(int32_t tid, uint64_t *mask, size_t words)
{
    long got = syscall(SYS_sched_getaffinity, tid, words * sizeof(*mask), mask);

    if (got < 0)
        return -errno;
    memset((char *)mask + got, 0, words * sizeof(*mask) - (size_t)got);
    return 0;
}

static int set_mask(int32_t tid, const uint64_t *mask, size_t words)
{
    return syscall(SYS_sched_setaffinity, tid, words * sizeof(*mask), mask) < 0 ? -errno : 0;
}

static bool same_mask(const uint64_t *one, const uint64_t *other, size_t words)
{
    return memcmp(one, other, words * sizeof(*one)) == 0;
}

long ps_mask_words(void)
{
    uint64_t mask[MAX_WORDS];

    for (size_t words = 1; words <= MAX_WORDS; words *= 2) {
        int err = get_mask(0, mask, words);

        if (err != -EINVAL)
            return err ? err : (long)words;
    }
    return -E2BIG;
}

long ps_masks(const int32_t *tids, size_t n, uint64_t *masks, size_t words, int32_t *errs)
{
    long count = 0;

    for (size_t i = 0; i < n; i++) {
        errs[i] = get_mask(tids[i], masks + i * words, words);
        if (errs[i] == 0)
            count++;
        else
            memset(masks + i * words, 0, words * sizeof(*masks));
    }
    return count;
}

/* Whether `tid` in this task folder is the expected thread; 0, -ESRCH where not, -errno where it cannot be told.
 * `ino` is set to what the folder has now. */
static int prove(int task, const struct ps_bind *row, uint64_t sure, uint64_t *ino)
{
    struct ps_task now;
    struct stat st;
    char path[32];
    int err;

    snprintf(path, sizeof(path), "%d", row->tid);
    if (fstatat(task, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    *ino = st.st_ino;
    if (row->ino == st.st_ino)
        return 0;
    /* The kernel hands out a new number after it dropped its caches, too: then the start decides. */
    snprintf(path, sizeof(path), "%d/stat", row->tid);
    err = read_stat(task, path, &now);
    if (err)
        return err == -ENOENT ? -ESRCH : err;
    return now.start == row->start && row->start < sure ? 0 : -ESRCH;
}

static void bind_one(int task, struct ps_bind *row, uint64_t sure, const uint64_t *expect,
                     const uint64_t *want, uint64_t *after, size_t words)
{
    uint64_t ino, again;
    int err = prove(task, row, sure, &ino);

    if (!err)
        err = get_mask(row->tid, after, words);
    if (err) {
        row->outcome = err == -ESRCH ? PS_GONE : PS_REFUSED;
        row->err = err;
        return;
    }
    if (same_mask(after, want, words)) {
        row->outcome = PS_KEPT;
        return;
    }
    if (!same_mask(after, expect, words)) {
        row->outcome = PS_MOVED;
        row->err = -EAGAIN;
        return;
    }
    err = set_mask(row->tid, want, words);
    if (err) {
        row->outcome = err == -ESRCH ? PS_GONE : PS_REFUSED;
        row->err = err;
        return;
    }
    row->ino = ino;
    err = prove(task, row, sure, &again);
    if (err == -ESRCH) {
        /* It ended in between. Only if its number serves somebody else by now was a stranger hit:
         * as unlikely as a whole round of thread numbers within a microsecond, but then it must be said. */
        bool taken = get_mask(row->tid, after, words) == 0 && same_mask(after, want, words);

        row->outcome = taken ? PS_STRAY : PS_GONE;
        row->err = err;
        return;
    }
    if (!err)
        err = get_mask(row->tid, after, words);
    if (err) {
        row->outcome = err == -ESRCH ? PS_GONE : PS_REFUSED;
        row->err = err;
        return;
    }
    row->outcome = same_mask(after, want, words) ? PS_SET : PS_CLIPPED;
}

long ps_bind(int proc, struct ps_bind *rows, size_t n, uint64_t sure,
             const uint64_t *expect, const uint64_t *want, uint64_t *after, size_t words)
{
    long count = 0;
    size_t next;

    if (words == 0 || words > MAX_WORDS)
        return -EINVAL;
    memset(after, 0, n * words * sizeof(*after));
    for (size_t first = 0; first < n; first = next) {
        char path[32];

        snprintf(path, sizeof(path), "%d/task", rows[first].pid);
        _cleanup_fd_ int task = openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        int err = task < 0 ? -errno : 0;

        for (next = first; next < n && rows[next].pid == rows[first].pid; next++) {
            struct ps_bind *row = &rows[next];

            row->err = 0;
            if (err) {
                row->outcome = err == -ENOENT ? PS_GONE : PS_REFUSED;
                row->err = err;
                continue;
            }
            bind_one(task, row, sure, expect + next * words, want + next * words,
                     after + next * words, words);
            if (row->outcome == PS_KEPT || row->outcome == PS_SET)
                count++;
        }
    }
    return count;
}
