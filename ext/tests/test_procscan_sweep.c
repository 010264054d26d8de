/* Tests of ps_sweep: what is read, what is read again, and where it is written. */
#include "checks.h"

enum { CHILDREN = 7 };

static int proc;
static pid_t children[CHILDREN];

static int by_pid(const void *a, const void *b)
{
    return *(const pid_t *)a - *(const pid_t *)b;
}

static const struct ps_task *row_of(const struct swept *swept, int32_t tid)
{
    for (long i = 0; i < swept->count; i++)
        if (swept->rows[i].tid == tid)
            return &swept->rows[i];
    return NULL;
}

static bool named(const struct swept *swept, int32_t tid, const char *name)
{
    const struct ps_task *row = row_of(swept, tid);

    return row && row->comm_len == strlen(name) && memcmp(row->comm, name, row->comm_len) == 0;
}

/* Look at this process again, with what the last look found. */
static struct swept again(const struct swept *last, uint64_t now, bool anew, int what)
{
    const uint8_t yes = 1;
    const int32_t self = getpid();
    struct ps_sweep how = {.now = now, .settle = 20, .what = what, .threads = 1, .anew = anew ? &yes : NULL};
    struct swept swept;

    if (last) {
        how.old = last->rows;
        how.old_count = (size_t)last->count;
    }
    swept = sweep_with(proc, &self, 1, how, -1);
    CHECK(swept.count == swept.counts[0]);
    return swept;
}

static void test_what_is_told(void)
{
    const int32_t self = getpid();
    const size_t widths[] = {0, 17, 18, 256, MAX_WORDS};
    struct sleeper thread;
    int32_t err;

    start(&thread);
    rename_sleeper(&thread, "a b) R 1 (\n");
    for (size_t i = 0; i < sizeof(widths) / sizeof(*widths); i++) {
        size_t words = widths[i];
        struct ps_sweep how = {.now = 5, .words = words, .threads = 1};
        struct swept names = sweep_with(proc, &self, 1, how, -1), stats;
        uint64_t *mask = exactly(MAX_WORDS * sizeof(*mask));

        how.what = PS_STATS;
        stats = sweep_with(proc, &self, 1, how, -1);
        CHECK(names.count == 2 && stats.count == 2 && names.counts[0] == 2);
        for (long k = 0; k < 2 && names.count == 2 && stats.count == 2; k++) {
            const struct ps_task *name = &names.rows[k], *stat = &stats.rows[k];

            CHECK(name->pid == self && name->ino == stat->ino && name->tid == stat->tid && name->ino);
            CHECK(name->err == 0 && name->mask_err == 0 && name->since == 5 && name->settled);
            CHECK(name->told == 0 && name->start == 0 && name->flags == 0 && name->cpu == -1 && name->state == 0);
            CHECK(stat->err == 0 && stat->told == 1 && stat->start && stat->cpu >= 0 && strchr("RS", stat->state));
            CHECK(name->comm_len == stat->comm_len && memcmp(name->comm, stat->comm, name->comm_len) == 0);
            if (!words)
                continue;
            CHECK(ps_masks(&name->tid, 1, mask, words, &err) == 1 && err == 0);
            CHECK(same_mask(names.masks + (size_t)k * words, mask, words));
            CHECK(same_mask(stats.masks + (size_t)k * words, mask, words));
            CHECK(mask[words - 1] == 0); /* zeroed, as the kernel fills fewer words */
        }
        CHECK(names.rows[0].tid < names.rows[1].tid);
        CHECK(named(&names, thread.tid, "a b) R 1 (\n"));
        free(mask);
        free_swept(&names);
        free_swept(&stats);
    }
    finish(&thread);
}

static int no_thread(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    (void)thread, (void)attributes, (void)run, (void)argument;
    return EAGAIN;
}

static void test_sharing(void)
{
    int32_t pids[CHILDREN + 2];

    int (*const usual)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = create_thread;

    memcpy(pids, children, sizeof(children));
    pids[CHILDREN] = NOBODY;
    pids[CHILDREN + 1] = INT32_MAX;
    for (size_t n = 1; n <= CHILDREN + 2; n += 4) {
        for (int what = 0; what <= PS_STATS; what++) {
            struct ps_sweep how = {.now = 7, .settle = 0, .words = 17, .what = what, .threads = 1};
            struct swept plain = sweep_with(proc, pids, n, how, -1);

            for (how.threads = -1; how.threads <= 20; how.threads += how.threads < 5 ? 1 : 7) {
                struct swept shared = sweep_with(proc, pids, n, how, -1);

                CHECK(same_sweep(&plain, &shared));
                free_swept(&shared);
                shared = sweep_with(proc, pids, n, how, 60);
                CHECK(same_sweep(&plain, &shared));
                free_swept(&shared);
                create_thread = no_thread; /* as at the limit of tasks: then all is done by the caller's */
                shared = sweep_with(proc, pids, n, how, -1);
                create_thread = usual;
                CHECK(same_sweep(&plain, &shared));
                free_swept(&shared);
                how.old = plain.rows; /* and the same where the rows are known */
                how.old_count = (size_t)plain.count;
                shared = sweep_with(proc, pids, n, how, -1);
                CHECK(same_sweep(&plain, &shared));
                how.old = NULL;
                how.old_count = 0;
                free_swept(&shared);
            }
            free_swept(&plain);
        }
    }
}

static void test_order_and_room(void)
{
    int32_t pids[] = {children[0], children[1]}, wrong[] = {children[1], children[0]}, twice[] = {children[0], children[0]};
    struct ps_sweep how = {.threads = 2};
    struct swept swept = sweep_with(proc, pids, 2, how, -1);
    struct ps_sweep copy = swept.sweep;

    CHECK(swept.count > 2 && swept.count == swept.counts[0] + swept.counts[1]);
    copy.cap--;
    CHECK(ps_sweep(proc, &copy) == -EINVAL); /* less room than its weights ask for */
    copy.cap++;
    copy.words = MAX_WORDS + 1;
    CHECK(ps_sweep(proc, &copy) == -EINVAL);
    copy.words = 0;
    copy.pids = wrong;
    CHECK(ps_sweep(proc, &copy) == -EINVAL);
    copy.pids = twice;
    CHECK(ps_sweep(proc, &copy) == -EINVAL);
    copy.pids = NULL;
    copy.n = 0;
    CHECK(ps_sweep(proc, &copy) == 0);
    copy = swept.sweep;
    CHECK(ps_sweep(-1, &copy) == 0 && swept.counts[0] == -EBADF && swept.counts[1] == -EBADF);
    free_swept(&swept);
    /* more threads than there is room for: said, and nothing is written beyond */
    for (how.threads = 1; how.threads <= 5; how.threads++) {
        for (how.words = 0; how.words <= 17; how.words += 17) {
            for (int32_t weight = 0; weight < 36; weight++) {
                size_t room = CHILDREN * ps_room(weight);

                swept = sweep_with(proc, children, CHILDREN, how, weight);
                CHECK(swept.count == -ENOSPC || swept.count == 1 + 2 + 3 + 4 + 5 + 6 + 40);
                CHECK(swept.count <= (long)room);
                CHECK(weight < 32 || swept.count > 0); /* the largest of them has 40 */
                free_swept(&swept);
            }
        }
    }
}

static void test_names_settle(void)
{
    struct sleeper old, young;
    struct swept first, second, third, fourth, fifth;

    start(&old);
    rename_sleeper(&old, "old");
    first = again(NULL, 100, false, 0);
    CHECK(named(&first, old.tid, "old") && !row_of(&first, old.tid)->settled);
    rename_sleeper(&old, "older"); /* so soon after it was first seen that it is seen */
    start(&young);
    rename_sleeper(&young, "young");
    second = again(&first, 119, false, 0);
    CHECK(named(&second, old.tid, "older") && row_of(&second, old.tid)->since == 100);
    CHECK(!row_of(&second, old.tid)->settled && row_of(&second, young.tid)->since == 119);
    rename_sleeper(&old, "oldest");
    third = again(&second, 120, false, 0);
    CHECK(named(&third, old.tid, "oldest") && row_of(&third, old.tid)->settled);
    CHECK(named(&third, young.tid, "young") && !row_of(&third, young.tid)->settled);
    rename_sleeper(&old, "too late");
    rename_sleeper(&young, "named");
    fourth = again(&third, 1000, false, 0);
    CHECK(named(&fourth, old.tid, "oldest") && row_of(&fourth, old.tid)->settled); /* not read again */
    CHECK(named(&fourth, young.tid, "named") && row_of(&fourth, young.tid)->settled);
    fifth = again(&fourth, 1001, true, 0);
    CHECK(named(&fifth, old.tid, "too late") && row_of(&fifth, old.tid)->settled); /* but so where that is asked for */
    CHECK(row_of(&fifth, old.tid)->since == 100);
    free_swept(&first);
    free_swept(&second);
    free_swept(&third);
    free_swept(&fourth);
    /* of a row that was read without its stat that is read when it is asked for, and then kept */
    first = again(&fifth, 1002, false, PS_STATS);
    CHECK(row_of(&first, old.tid)->told && row_of(&first, old.tid)->start && row_of(&first, old.tid)->cpu >= 0);
    second = again(&first, 1003, false, PS_STATS);
    CHECK(row_of(&second, old.tid)->told && row_of(&second, old.tid)->start == row_of(&first, old.tid)->start);
    CHECK(row_of(&second, old.tid)->cpu == -1 && row_of(&second, old.tid)->state == 0); /* that was then */
    third = again(&second, 1004, false, 0);
    CHECK(row_of(&third, old.tid)->told && row_of(&third, old.tid)->start == row_of(&first, old.tid)->start);
    free_swept(&first);
    free_swept(&second);
    free_swept(&fifth);
    /* another inode number, another thread: nothing is carried over */
    for (long i = 0; i < third.count; i++) {
        third.rows[i].ino++;
        memcpy(third.rows[i].comm, "lie", 3);
    }
    fourth = again(&third, 2000, false, 0);
    CHECK(named(&fourth, old.tid, "too late") && row_of(&fourth, old.tid)->since == 2000);
    for (long i = 0; i < fourth.count; i++)
        fourth.rows[i].err = -EMFILE; /* what could not be read is tried again */
    fifth = again(&fourth, 3000, false, 0);
    CHECK(row_of(&fifth, old.tid)->err == 0 && named(&fifth, old.tid, "too late"));
    free_swept(&third);
    free_swept(&fourth);
    free_swept(&fifth);
    finish(&old);
    finish(&young);
}

static void test_old_rows_of_others(void)
{
    /* rows of processes and threads that are asked for no more, or not yet, do not stand in the way */
    struct ps_sweep how = {.now = 1, .settle = 0, .threads = 1};
    struct swept plain = sweep_with(proc, children, CHILDREN, how, -1);

    for (int threads = 1; threads <= 3; threads++) {
        for (unsigned chosen = 0; chosen < 1 << CHILDREN; chosen += 5) {
            int32_t some[CHILDREN];
            size_t n = 0;
            struct swept then, now;

            for (int i = 0; i < CHILDREN; i++)
                if (chosen >> i & 1)
                    some[n++] = children[i];
            how.threads = threads;
            then = sweep_with(proc, some, n, how, -1);
            how.old = then.rows;
            how.old_count = (size_t)then.count;
            how.now = 2;
            now = sweep_with(proc, children, CHILDREN, how, -1);
            CHECK(now.count == plain.count);
            for (long i = 0; i < now.count; i++) {
                bool known = row_of(&then, now.rows[i].tid);

                CHECK(now.rows[i].since == (known ? 1u : 2u));
                CHECK(now.rows[i].tid == plain.rows[i].tid && now.rows[i].comm_len == plain.rows[i].comm_len);
            }
            free_swept(&now);
            how.old = plain.rows;
            how.old_count = (size_t)plain.count;
            now = sweep_with(proc, some, n, how, -1);
            CHECK(now.count == then.count);
            for (long i = 0; i < now.count; i++)
                CHECK(now.rows[i].since == 1 && now.rows[i].tid == then.rows[i].tid);
            free_swept(&now);
            free_swept(&then);
            how = (struct ps_sweep){.now = 1, .settle = 0};
        }
    }
    free_swept(&plain);
}

static void test_workers(void)
{
    static const char *const names[] = {"vhost-77", "vhost-", "vhost", "kvm-nx-lpage-re", "CPU 0/KVM", "", "xkvm-", "kvm"};
    const bool told[] = {true, true, false, true, false, false, false, false};
    const int32_t self = getpid();
    struct ps_sweep how = {.threads = 1, .workers = "vhost-\0kvm-\0"};
    struct sleeper threads[8];
    struct swept swept;

    for (int i = 0; i < 8; i++) {
        start(&threads[i]);
        rename_sleeper(&threads[i], i == 5 ? "\n" : names[i]);
    }
    swept = sweep_with(proc, &self, 1, how, -1);
    for (int i = 0; i < 8; i++) {
        const struct ps_task *row = row_of(&swept, threads[i].tid);

        CHECK(row && row->told == told[i] && (row->start != 0) == told[i] && row->err == 0);
        CHECK(i == 5 || named(&swept, threads[i].tid, names[i]));
    }
    free_swept(&swept);
    how.workers = "\0"; /* none */
    swept = sweep_with(proc, &self, 1, how, -1);
    for (long i = 0; i < swept.count; i++)
        CHECK(!swept.rows[i].told);
    free_swept(&swept);
    for (int i = 0; i < 8; i++)
        finish(&threads[i]);
}

/* At the first mask that is asked for a thread ends, at the first listing a process. */
static struct sleeper *victim;
static pid_t victim_process;

static long ends(long number, long a, long b, long c, long d, long e)
{
    if (victim && number == SYS_sched_getaffinity) {
        struct sleeper *thread = victim;

        victim = NULL;
        finish(thread);
    }
    if (victim_process && number == SYS_getdents64) {
        end_child(victim_process);
        victim_process = 0;
    }
    return plain_syscall(number, a, b, c, d, e);
}

static void test_ends_meanwhile(void)
{
    pid_t child = start_child(5);
    int32_t pids[] = {getpid(), child}; /* a child's number is higher, unless they have wrapped around */
    struct ps_sweep how = {.words = 17, .threads = 1};
    struct sleeper thread;
    struct swept swept;
    const struct ps_task *row;

    start(&thread);
    victim = &thread;
    hook = ends;
    swept = sweep_with(proc, pids, 1, how, -1);
    row = row_of(&swept, thread.tid);
    CHECK(swept.count == 2 && row && row->err == -ESRCH);
    for (size_t i = 0; row && i < 17; i++)
        CHECK(row->mask_err == -ESRCH && swept.masks[(size_t)(row - swept.rows) * 17 + i] == 0);
    free_swept(&swept);
    victim_process = child;
    swept = sweep_with(proc, &child, 1, how, -1);
    hook = NULL;
    CHECK(swept.count == 0 && (swept.counts[0] == -ENOENT || swept.counts[0] == -ESRCH || swept.counts[0] == 0));
    free_swept(&swept);
    swept = sweep_with(proc, &child, 1, how, -1);
    CHECK(swept.count == 0 && swept.counts[0] == -ENOENT);
    free_swept(&swept);
    child = start_child(3);
    kill(child, SIGKILL);
    MUST(waitid(P_PID, (id_t)child, NULL, WEXITED | WNOWAIT) == 0);
    how.what = PS_STATS;
    swept = sweep_with(proc, &child, 1, how, 8);
    CHECK(swept.count == 1 && swept.rows[0].err == 0 && swept.rows[0].state == 'Z'); /* a result as others are */
    CHECK(swept.rows[0].mask_err == 0);
    free_swept(&swept);
    MUST(waitpid(child, NULL, 0) == child);
}

static long wide_kernel(long number, long a, long b, long c, long d, long e)
{
    if (number != SYS_sched_getaffinity)
        return plain_syscall(number, a, b, c, d, e);
    if (a % 5 == 3) {
        errno = EPERM; /* as where a security module says so */
        return -1;
    }
    memset((void *)c, (int)(a & 0xff) | 1, (size_t)b);
    return b;
}

static void test_wide_masks(void)
{
    struct ps_sweep how = {.words = MAX_WORDS};

    for (how.threads = 1; how.threads <= 3; how.threads++) {
        struct swept swept;

        hook = wide_kernel; /* of 65,536 CPUs */
        swept = sweep_with(proc, children, CHILDREN, how, -1);
        hook = NULL;
        CHECK(swept.count > 40);
        for (long i = 0; i < swept.count; i++) {
            const unsigned char *mask = (const void *)(swept.masks + (size_t)i * MAX_WORDS);
            int32_t tid = swept.rows[i].tid;

            CHECK(swept.rows[i].mask_err == (tid % 5 == 3 ? -EPERM : 0) && swept.rows[i].err == 0);
            for (size_t at = 0; at < MAX_WORDS * sizeof(uint64_t); at += 511)
                CHECK(mask[at] == (tid % 5 == 3 ? 0 : ((tid & 0xff) | 1)));
        }
        free_swept(&swept);
    }
}

int main(void)
{
    int before = open_fds();

    proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    MUST(proc >= 0);
    test_ends_meanwhile(); /* before others of ours have threads */
    test_what_is_told();
    test_names_settle();
    test_workers();
    for (int i = 0; i < CHILDREN; i++)
        children[i] = start_child(i == 3 ? 39 : i < 3 ? i : i - 1);
    qsort(children, CHILDREN, sizeof(*children), by_pid);
    test_sharing();
    test_order_and_room();
    test_old_rows_of_others();
    test_wide_masks();
    for (int i = 0; i < CHILDREN; i++)
        end_child(children[i]);
    close(proc);
    CHECK(open_fds() == before);
    return report("procscan, sweeps");
}
