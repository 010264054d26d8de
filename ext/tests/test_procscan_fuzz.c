/*
 * All of procscan.c on trees made up from seeds, with as many descriptors as it likes, with few, and with calls that
 * fail: what it tells is what a plain reader finds, nothing is written out of bounds, nothing stays open.
 *
 * The first argument is the number of seeds, the second the first of them. Only numbers that no thread has are bound.
 */
#include "fuzztree.h"

#include <linux/capability.h>

static bool starved; /* anything may fail now: only the bounds are checked */

static void check_list(struct tree *tree)
{
    char path[64];

    for (size_t i = 0; i < tree->count; i++) {
        const struct process *process = &tree->processes[i];
        size_t cap = below(tree, (unsigned)process->count + 3);
        int32_t *ids = exactly(cap * sizeof(*ids));
        uint64_t *inos = exactly(cap * sizeof(*inos));
        long count;

        snprintf(path, sizeof(path), "%d/task", process->pid);
        count = ps_list(tree->root, path, ids, inos, cap);
        CHECK(starved ? count <= (long)process->count : count == (process->err ? process->err : (long)process->count));
        for (long k = 0; k < count && k < (long)cap; k++)
            CHECK(bsearch(&ids[k], process->threads, process->count, sizeof(*process->threads), by_first));
        CHECK(ps_list(tree->root, path, ids, NULL, 0) == count || starved);
        free(ids);
        free(inos);
    }
    CHECK(ps_list(tree->root, ".", NULL, NULL, 0) == (long)tree->count || starved);
}

/* The name as a plain reader finds it, or -errno. */
static int plain_name(int root, int32_t pid, int32_t tid, char *name)
{
    char path[64], text[128];
    ssize_t got;
    int fd, err;

    snprintf(path, sizeof(path), "%d/task/%d/comm", pid, tid);
    fd = openat(root, path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    got = read(fd, text, sizeof(text));
    err = errno;
    close(fd);
    if (got < 0)
        return -err;
    if (got && text[got - 1] == '\n')
        got--;
    if (got > 68)
        got = 68;
    memcpy(name, text, (size_t)got);
    return (int)strnlen(name, (size_t)got);
}

static bool is_worker(const char *name, int length)
{
    return (length >= 6 && memcmp(name, "vhost-", 6) == 0) || (length >= 4 && memcmp(name, "kvm-", 4) == 0);
}

static void check_row(struct tree *tree, const struct process *process, const struct thread *thread,
                      const struct ps_task *row, const struct ps_sweep *sweep)
{
    char name[68];
    int length;

    CHECK(row->pid == process->pid && row->tid == thread->tid && row->ino);
    CHECK(row->comm_len <= sizeof(row->comm) && !memchr(row->comm, 0, row->comm_len));
    CHECK(row->err <= 0 && row->err > -4096 && row->err != -ENOENT && row->told <= 1 && row->settled <= 1);
    CHECK(row->since <= sweep->now);
    if (starved)
        return;
    if (sweep->words) {
        CHECK(thread->tid < NOBODY || (row->mask_err == -ESRCH && row->err == -ESRCH));
        return;
    }
    if (sweep->what & PS_STATS) {
        CHECK(row->told == (row->err == 0));
        if (thread->good)
            CHECK(row->err == 0 && row->start == start_of(thread->tid) && row->flags == flags_of(thread->tid));
        if (thread->good && !sweep->old)
            CHECK(row->state && row->cpu == thread->tid % 4096);
        return;
    }
    if (sweep->old && row->told)
        return; /* the name in its stat, from then */
    length = plain_name(tree->root, row->pid, row->tid, name);
    if (length >= 0 && is_worker(name, length))
        CHECK(row->told == (row->err == 0));
    else if (length >= 0)
        CHECK(row->err == 0 && row->comm_len == length && memcmp(row->comm, name, row->comm_len) == 0);
    else
        CHECK(row->err == length);
}

static void check_swept(struct tree *tree, const struct swept *swept)
{
    const struct ps_task *row = swept->rows;
    size_t room = 0;
    long total = 0;

    for (size_t i = 0; i < tree->count; i++)
        room += ps_room(swept->weights[i]);
    if (swept->count == -ENOSPC) {
        size_t all = 0;

        for (size_t i = 0; i < tree->count; i++)
            all += tree->processes[i].count;
        CHECK(all > room || swept->sweep.threads > 1 || starved);
        return;
    }
    CHECK(swept->count >= 0 && (size_t)swept->count <= room);
    for (size_t i = 0; i < tree->count && swept->count >= 0; i++) {
        const struct process *process = &tree->processes[i];
        int32_t count = swept->counts[i];

        CHECK(starved ? count < 0 || count == (int32_t)process->count
                      : count == (process->err ? process->err : (int32_t)process->count));
        for (int32_t k = 0; k < count; k++, row++)
            check_row(tree, process, &process->threads[k], row, &swept->sweep);
        total += count > 0 ? count : 0;
    }
    CHECK(total == swept->count);
}

static struct swept sweep_tree(struct tree *tree, struct ps_sweep how, const struct swept *last, bool fits)
{
    int32_t pids[MOST_PROCESSES], weight = 0;
    struct swept swept;

    for (size_t i = 0; i < tree->count; i++) {
        pids[i] = tree->processes[i].pid;
        if ((int32_t)tree->processes[i].count > weight)
            weight = (int32_t)tree->processes[i].count;
    }
    if (last && last->count > 0) {
        how.old = last->rows;
        how.old_count = (size_t)last->count;
    }
    swept = sweep_with(tree->root, pids, tree->count, how, fits ? weight : -1);
    check_swept(tree, &swept);
    CHECK(!fits || swept.count >= 0);
    return swept;
}

static void check_bind(struct tree *tree, const struct swept *swept)
{
    const size_t words = 17;
    struct ps_task *tasks = exactly((size_t)swept->count * sizeof(*tasks));
    struct ps_bind *rows;
    uint64_t *masks, *after, sure = below(tree, 2) ? UINT64_MAX : below(tree, 9000);
    size_t n = 0;
    long done;

    for (long i = 0; i < swept->count; i++)
        if (swept->rows[i].tid >= NOBODY)
            tasks[n++] = swept->rows[i];
    rows = exactly(n * sizeof(*rows));
    masks = exactly(n * words * sizeof(*masks));
    after = exactly(n * words * sizeof(*after));
    ps_prepare(tasks, n, rows);
    for (size_t i = 0; i < n; i++) {
        MUST(rows[i].tid >= NOBODY);
        if (below(tree, 3) == 0)
            rows[i].ino += below(tree, 3);
        if (below(tree, 3) == 0)
            rows[i].start += below(tree, 3);
    }
    done = ps_bind(tree->root, rows, n, sure, below(tree, 2) ? masks : NULL, masks, after, words);
    CHECK(done == 0);
    for (size_t i = 0; i < n; i++)
        CHECK(rows[i].err < 0 && (rows[i].outcome == PS_GONE ? rows[i].err == -ESRCH : rows[i].outcome == PS_REFUSED));
    for (size_t i = 0; i < n * words; i++)
        CHECK(after[i] == 0);
    free(tasks);
    free(rows);
    free(masks);
    free(after);
}

static void check_sweeps(struct tree *tree)
{
    uint8_t anew[MOST_PROCESSES];

    for (int what = 0; what <= PS_STATS; what++) {
        struct ps_sweep how = {.what = what, .settle = 10, .threads = 1, .now = 100};
        struct swept first = sweep_tree(tree, how, NULL, true);

        for (int threads = 1; threads <= 3; threads++) {
            struct swept other, next;

            how.threads = threads;
            other = sweep_tree(tree, how, NULL, true);
            CHECK(starved || same_sweep(&first, &other));
            how.now = 100 + below(tree, 20);
            for (size_t i = 0; i < tree->count; i++)
                anew[i] = below(tree, 4) == 0;
            how.anew = below(tree, 2) ? anew : NULL;
            next = sweep_tree(tree, how, &other, true);
            CHECK(starved || next.count == other.count);
            for (long i = 0; i < next.count && !starved; i++) {
                CHECK(next.rows[i].since == 100 && next.rows[i].ino == other.rows[i].ino);
                CHECK(next.rows[i].settled == (how.now >= 110));
                CHECK(next.rows[i].err == other.rows[i].err && next.rows[i].comm_len == other.rows[i].comm_len);
            }
            free_swept(&other);
            how.now += 10; /* settled for good: rows that are carried over */
            how.anew = NULL;
            other = sweep_tree(tree, how, &next, true);
            how.now += 10;
            free_swept(&next);
            next = sweep_tree(tree, how, &other, true);
            CHECK(starved || same_sweep(&other, &next));
            free_swept(&other);
            how.what = PS_STATS - what; /* and now the other way */
            other = sweep_tree(tree, how, &next, true);
            how.what = what;
            free_swept(&other);
            free_swept(&next);
            how.now = 100;
            how.words = 17;
            other = sweep_tree(tree, how, &first, false);
            free_swept(&other);
            how.words = 0;
        }
        if (first.count >= 0)
            check_bind(tree, &first);
        free_swept(&first);
    }
}

static void check_links(struct tree *tree)
{
    int32_t pids[MOST_PROCESSES + 1], *errs = exactly((tree->count + 1) * sizeof(*errs));
    int32_t *fds = exactly((tree->count + 1) * sizeof(*fds));
    size_t room = below(tree, 3) * PATH_MAX + below(tree, 3);
    char *text = exactly(room);
    long count;

    for (size_t i = 0; i < tree->count; i++)
        pids[i] = tree->processes[i].pid;
    pids[tree->count] = INT32_MAX; /* maybe there, most likely not */
    count = ps_links(tree->root, pids, tree->count + 1, below(tree, 2) ? "task" : "fd", text, room, errs);
    CHECK(count >= 0 && (size_t)count <= tree->count + 1 && (count > 0 || room <= PATH_MAX));
    for (long i = 0; i < count; i++)
        CHECK(errs[i] <= 0);
    ps_holds(tree->root, pids, tree->count + 1, "anon_inode:kvm-vm", fds, errs);
    for (size_t i = 0; i <= tree->count; i++) {
        char path[64], link[64] = "";

        CHECK(fds[i] >= -1 && fds[i] < 2000 && errs[i] <= 0 && (fds[i] < 0 || errs[i] == 0));
        snprintf(path, sizeof(path), "%d/fd/%d", pids[i], fds[i]);
        if (fds[i] >= 0)
            CHECK(readlinkat(tree->root, path, link, sizeof(link)) == 17 && strcmp(link, "anon_inode:kvm-vm") == 0);
    }
    free(errs);
    free(fds);
    free(text);
}

static void check_all(struct tree *tree)
{
    int before = open_fds();

    check_list(tree);
    check_sweeps(tree);
    check_links(tree);
    CHECK(open_fds() == before);
}

/* With only so many descriptors more than there are: each place at which one more is needed fails once. */
static void check_few_descriptors(struct tree *tree)
{
    struct rlimit usual, few;
    int first = open("/dev/null", O_RDONLY | O_CLOEXEC), before;

    MUST(first >= 0 && getrlimit(RLIMIT_NOFILE, &usual) == 0);
    close(first);
    before = open_fds();
    starved = true;
    for (int more = 0; more < 5; more++) {
        few = usual;
        few.rlim_cur = (rlim_t)(first + more);
        MUST(setrlimit(RLIMIT_NOFILE, &few) == 0);
        check_list(tree);
        check_sweeps(tree);
        check_links(tree);
        MUST(setrlimit(RLIMIT_NOFILE, &usual) == 0);
        CHECK(open_fds() == before);
    }
    starved = false;
}

/* System calls fail by chance. */
static unsigned chance;

static long by_chance(long number, long a, long b, long c, long d, long e)
{
    const int errors[] = {EIO, ENOMEM, ENOENT, ESRCH, EPERM};
    unsigned at = __atomic_add_fetch(&chance, 1, __ATOMIC_RELAXED) * 2654435761u >> 7;

    if (at % 6)
        return plain_syscall(number, a, b, c, d, e);
    errno = errors[at / 6 % 5];
    return -1;
}

static void check_failing_calls(struct tree *tree)
{
    int before = open_fds();

    starved = true;
    hook = by_chance;
    check_list(tree);
    check_sweeps(tree);
    check_links(tree);
    hook = NULL;
    starved = false;
    CHECK(open_fds() == before);
}

/* What nobody may read shall not be read by root either. */
static void be_nobody_special(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    MUST(plain_syscall(SYS_capget, (long)&header, (long)data, 0, 0, 0) == 0);
    data[0].effective &= ~(1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH);
    MUST(plain_syscall(SYS_capset, (long)&header, (long)data, 0, 0, 0) == 0);
}

int main(int argc, char **argv)
{
    uint64_t seeds = argc > 1 ? strtoull(argv[1], NULL, 10) : 300;
    uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    int before;

    alarm(300); /* what blocks, ends */
    be_nobody_special();
    before = open_fds();
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        struct tree tree;

        make_tree(&tree, seed);
        check_all(&tree);
        if (seed % 3 == 0)
            check_few_descriptors(&tree);
        if (seed % 3 == 1)
            check_failing_calls(&tree);
        remove_tree(&tree);
        CHECK(open_fds() == before);
        if (failures) {
            fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
            break;
        }
    }
    return report("procscan, made-up trees");
}
