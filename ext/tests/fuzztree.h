/*
 * A /proc made up from a seed: hostile names and texts, files of every kind where folders should be and the reverse,
 * nothing readable here and there. `struct tree` tells what is in it, as far as that can be known.
 */
#ifndef KVMAFF_FUZZTREE_H
#define KVMAFF_FUZZTREE_H

#include "checks.h"

enum { MOST_PROCESSES = 8, MOST_THREADS = 1500 };

struct thread {
    int32_t tid;
    bool good;  /* its stat is right: start and flags follow from its number */
};

struct process {
    int32_t pid;
    int err;       /* what listing its threads gives; 0: these threads */
    size_t count;
    struct thread *threads;
};

struct tree {
    uint64_t seed;
    int root;
    char path[256];
    size_t count;
    struct process processes[MOST_PROCESSES];  /* ascending */
};

static inline uint64_t draw(struct tree *tree)
{
    uint64_t z = tree->seed += 0x9e3779b97f4a7c15; /* splitmix64 */

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static inline unsigned below(struct tree *tree, unsigned limit)
{
    return (unsigned)(draw(tree) % limit);
}

static inline uint64_t start_of(int32_t tid)
{
    return 1000 + (uint64_t)tid % 7919;
}

static inline uint32_t flags_of(int32_t tid)
{
    return (uint32_t)tid * 2654435761u;
}

/* Texts. */

/* At most 4096 bytes. */
static inline size_t hostile_name(struct tree *tree, char *text)
{
    static const struct {
        const char *text;
        size_t size;
    } names[] = {
#define NAME(text) {text, sizeof(text) - 1}
        NAME("CPU 0/KVM"), NAME(""), NAME(" "), NAME("\n"), NAME("\n\n"), NAME(") R 1 ("), NAME("((("), NAME(")))"),
        NAME("a\0b"), NAME("\0"), NAME("\xff\xfe\xc3("), NAME("\033[2J"), NAME("vhost-1"), NAME("kvm-nx-lpage-re"),
        NAME("vhost-)"), NAME("1 (x) S 1 2 3"), NAME("123456789012345"), NAME("\xe2\x80\xae"), NAME(")\n("),
    };
    size_t size;

    switch (below(tree, 5)) {
    case 0: /* longer than any name */
        size = below(tree, 6) ? 60 + below(tree, 80) : 4096;
        memset(text, "x() \n\xff"[below(tree, 6)], size);
        return size;
    case 1: /* any bytes */
        size = below(tree, 80);
        for (size_t i = 0; i < size; i++)
            text[i] = (char)draw(tree);
        return size;
    default:
        size = below(tree, sizeof(names) / sizeof(*names));
        memcpy(text, names[size].text, names[size].size);
        return names[size].size;
    }
}

static inline size_t comm_text(struct tree *tree, char *text)
{
    size_t size = hostile_name(tree, text);

    if (below(tree, 4))
        text[size++] = '\n';
    return size;
}

static inline size_t stat_text(struct tree *tree, int32_t tid, bool *good, char *text, size_t room)
{
    static const char *const numbers[] = {
        "0", "-1", "18446744073709551615", "18446744073709551616", "99999999999999999999999999999", "-9223372036854775808",
        "", " ", "x", "-", "--1", "1.5", "0x10", "4294967296", "+7", "\n", ")", "1)",
    };
    char name[4096];
    size_t length = hostile_name(tree, name), size, whole;
    bool broken = below(tree, 3) == 0;

    size = (size_t)snprintf(text, room, "%d (", tid);
    memcpy(text + size, name, length);
    size += length;
    size += (size_t)snprintf(text + size, room - size, ") %c", "RSDZTtXI"[below(tree, 8)]);
    for (int field = 4; field <= 52; field++) {
        if (broken && below(tree, 12) == 0)
            size += (size_t)snprintf(text + size, room - size, " %s",
                                     numbers[below(tree, sizeof(numbers) / sizeof(*numbers))]);
        else if (field == 9 || field == 22)
            size += (size_t)snprintf(text + size, room - size, " %llu",
                                     field == 9 ? (unsigned long long)flags_of(tid) : (unsigned long long)start_of(tid));
        else
            size += (size_t)snprintf(text + size, room - size, " %d", field == 39 ? tid % 4096 : field);
    }
    whole = size;
    if (below(tree, 8) == 0)
        size = below(tree, (unsigned)size + 1);
    /* of a name that long not all the numbers behind it are read; no kernel has one */
    *good = !broken && size == whole && size < STAT_BYTES;
    return size;
}

/* Files of every kind. Returns whether it is a plain file that can be read. */
static inline bool some_file(struct tree *tree, const char *path, const char *text, size_t size)
{
    char target[PATH_MAX];

    switch (below(tree, 24)) {
    case 0:
        return false; /* there is none */
    case 1:
        make_folder(tree->root, path);
        return false;
    case 2:
        MUST(symlinkat("/etc/hostname", tree->root, path) == 0);
        return false;
    case 3: /* to itself */
        snprintf(target, sizeof(target), "%s", strrchr(path, '/') + 1);
        MUST(symlinkat(target, tree->root, path) == 0);
        return false;
    case 4:
        MUST(mknodat(tree->root, path, S_IFIFO | 0600, 0) == 0); /* nobody writes to it: opening it must not block */
        return false;
    case 5:
        MUST(mknodat(tree->root, path, S_IFSOCK | 0600, 0) == 0);
        return false;
    case 6:
        write_file(tree->root, path, text, size);
        MUST(fchmodat(tree->root, path, 0, 0) == 0);
        return false;
    default:
        write_file(tree->root, path, text, size);
        return true;
    }
}

/* Entries that are no number of a thread, process or descriptor. */
static inline void junk(struct tree *tree, const char *folder)
{
    static const char *const names[] = {
        "2147483648", "4294967297", "18446744073709551617", "99999999999999999999999999999999999999", "0", "00", "01",
        "007", "-1", "+5", " 7", "7 ", "7\n", "0x5", "1e3", "self", "\xff\xfe", "\xef\xbc\x91", "(", ")", "a b", "...",
    };
    char path[PATH_MAX];
    unsigned count = below(tree, 6);

    for (unsigned i = 0; i < count; i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[below(tree, sizeof(names) / sizeof(*names))]);
        if (below(tree, 2))
            mkdirat(tree->root, path, 0700);
        else
            (void)!symlinkat("anon_inode:kvm-vm", tree->root, path);
    }
    if (below(tree, 10) == 0) { /* a name as long as they get */
        size_t used = (size_t)snprintf(path, sizeof(path), "%s/", folder);

        memset(path + used, below(tree, 2) ? '1' : '\n', 255);
        path[used + 255] = 0;
        MUST(mkdirat(tree->root, path, 0700) == 0);
    }
    if (below(tree, 10) == 0) { /* deep ones */
        size_t used = (size_t)snprintf(path, sizeof(path), "%s/deep", folder);

        for (int depth = 0; depth < 40; depth++) {
            MUST(mkdirat(tree->root, path, 0700) == 0);
            used += (size_t)snprintf(path + used, sizeof(path) - used, "/%d", depth);
        }
    }
}

static inline int32_t some_number(struct tree *tree)
{
    switch (below(tree, 4)) {
    case 0:
        return 1 + (int32_t)below(tree, 60);
    case 1:
        return INT32_MAX - (int32_t)below(tree, 60);
    default:
        return NOBODY + (int32_t)below(tree, 100000);
    }
}

static inline void make_thread(struct tree *tree, const char *tasks, struct thread *thread)
{
    char folder[128], path[160], text[1 << 14];
    size_t size;

    snprintf(folder, sizeof(folder), "%s/%d", tasks, thread->tid);
    switch (below(tree, 40)) {
    case 0:
        write_file(tree->root, folder, "", 0);
        return;
    case 1:
        MUST(symlinkat(below(tree, 2) ? "nowhere" : folder, tree->root, folder) == 0);
        return;
    case 2:
        MUST(mknodat(tree->root, folder, S_IFIFO | 0600, 0) == 0);
        return;
    default:
        make_folder(tree->root, folder);
    }
    snprintf(path, sizeof(path), "%s/comm", folder);
    size = comm_text(tree, text);
    some_file(tree, path, text, size);
    snprintf(path, sizeof(path), "%s/stat", folder);
    size = stat_text(tree, thread->tid, &thread->good, text, sizeof(text));
    if (!some_file(tree, path, text, size))
        thread->good = false;
    if (below(tree, 50) == 0) {
        MUST(fchmodat(tree->root, folder, 0, 0) == 0);
        thread->good = false;
    }
}

static inline int by_first(const void *one, const void *other)
{
    int32_t a = *(const int32_t *)one, b = *(const int32_t *)other;

    return (a > b) - (a < b);
}

static inline void make_descriptors(struct tree *tree, const char *folder)
{
    char path[128];
    unsigned count = below(tree, 6);

    snprintf(path, sizeof(path), "%s/fd", folder);
    if (below(tree, 10) == 0) {
        some_file(tree, path, "", 0);
        return;
    }
    make_folder(tree->root, path);
    junk(tree, path);
    for (unsigned i = 0; i < count; i++) {
        snprintf(path, sizeof(path), "%s/fd/%u", folder, below(tree, 1000));
        (void)!symlinkat(below(tree, 3) ? "socket:[12345]" : "anon_inode:kvm-vm", tree->root, path);
    }
    if (below(tree, 8) == 0) {
        snprintf(path, sizeof(path), "%s/fd/1001", folder);
        some_file(tree, path, "x", 1);
    }
}

static inline void make_process(struct tree *tree, struct process *process, bool large)
{
    char folder[64], tasks[80];
    size_t wanted = large ? MOST_THREADS / 2 + below(tree, MOST_THREADS / 2) : below(tree, 3) ? below(tree, 10) : 0;
    size_t mixed;

    snprintf(folder, sizeof(folder), "%d", process->pid);
    snprintf(tasks, sizeof(tasks), "%d/task", process->pid);
    process->threads = calloc(wanted + 1, sizeof(*process->threads));
    MUST(process->threads);
    if (below(tree, 20) == 0) {
        write_file(tree->root, folder, "", 0);
        process->err = -ENOTDIR;
        return;
    }
    make_folder(tree->root, folder);
    make_descriptors(tree, folder);
    switch (below(tree, 16)) {
    case 0:
        process->err = -ENOENT;
        return;
    case 1:
        write_file(tree->root, tasks, "", 0);
        process->err = -ENOTDIR;
        return;
    case 2:
        MUST(symlinkat("/proc/self/task", tree->root, tasks) == 0);
        process->err = -ENOTDIR;
        return;
    case 3:
        MUST(mknodat(tree->root, tasks, S_IFIFO | 0600, 0) == 0);
        process->err = -ENOTDIR;
        return;
    default:
        make_folder(tree->root, tasks);
    }
    for (size_t i = 0; i < wanted; i++)
        process->threads[i].tid = large ? NOBODY + (int32_t)i * 3 : some_number(tree);
    qsort(process->threads, wanted, sizeof(*process->threads), by_first);
    for (size_t i = 0; i < wanted; i++)
        if (i == 0 || process->threads[i].tid != process->threads[i - 1].tid)
            process->threads[process->count++] = process->threads[i];
    mixed = process->count > 7 ? below(tree, 7) + 1 : 1; /* not always in their order */
    for (size_t i = 0; i < process->count; i++)
        if (i % mixed == 0)
            for (size_t k = mixed; k-- > 0;)
                if (i + k < process->count)
                    make_thread(tree, tasks, &process->threads[i + k]);
    junk(tree, tasks);
    if (below(tree, 20) == 0) {
        MUST(fchmodat(tree->root, tasks, 0, 0) == 0);
        process->err = -EACCES;
    }
}

static inline void make_tree(struct tree *tree, uint64_t seed)
{
    int32_t pids[MOST_PROCESSES];
    size_t wanted;

    memset(tree, 0, sizeof(*tree));
    tree->seed = seed;
    tree->root = make_root(tree->path, sizeof(tree->path));
    wanted = below(tree, MOST_PROCESSES + 1);
    for (size_t i = 0; i < wanted; i++)
        pids[i] = some_number(tree);
    qsort(pids, wanted, sizeof(*pids), by_first);
    for (size_t i = 0; i < wanted; i++)
        if (i == 0 || pids[i] != pids[i - 1])
            tree->processes[tree->count++].pid = pids[i];
    for (size_t i = 0; i < tree->count; i++)
        make_process(tree, &tree->processes[i], seed % 64 == 7 && i == 0);
    junk(tree, ".");
}

static inline void remove_tree(struct tree *tree)
{
    for (size_t i = 0; i < tree->count; i++)
        free(tree->processes[i].threads);
    remove_root(tree->path, tree->root);
}

#endif
