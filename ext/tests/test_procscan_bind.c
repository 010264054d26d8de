/* Tests of ps_bind: each outcome, on threads and processes that the test started itself. */
#include "checks.h"

enum { WORDS = MAX_WORDS };

static const uint64_t LATE = UINT64_MAX;
static uint64_t all[WORDS], one[WORDS], none[WORDS], beyond[WORDS], seen[WORDS];
static int proc;

/* A row as a sweep gives it, for a thread of this process or of another one. */
static struct ps_bind look(int32_t pid, int32_t tid)
{
    struct ps_sweep how = {.what = PS_STATS, .threads = 1};
    struct swept swept = sweep_with(proc, &pid, 1, how, -1);
    struct ps_bind row = {0};

    for (long i = 0; i < swept.count; i++)
        if (swept.rows[i].tid == tid)
            ps_prepare(&swept.rows[i], 1, &row);
    CHECK(row.tid == tid && row.pid == pid && row.ino && row.start);
    free_swept(&swept);
    return row;
}

/* Bind with room of just the right size; leaves in `seen` what is in after[0]. */
static long bind_words(struct ps_bind *rows, size_t n, uint64_t sure, const uint64_t *expect, const uint64_t *want,
                       size_t words)
{
    struct ps_bind *exact = exactly(n * sizeof(*rows));
    uint64_t *after = exactly(n * words * sizeof(*after));
    uint64_t *wanted = exactly(n * words * sizeof(*after)), *expected = exactly(n * words * sizeof(*after));
    long done;

    memcpy(exact, rows, n * sizeof(*rows));
    for (size_t i = 0; i < n; i++) {
        memcpy(wanted + i * words, want, words * sizeof(*want));
        if (expect)
            memcpy(expected + i * words, expect, words * sizeof(*expect));
    }
    done = ps_bind(proc, exact, n, sure, expect ? expected : NULL, wanted, after, words);
    memcpy(rows, exact, n * sizeof(*rows));
    if (n && done >= 0) {
        memset(seen, 0, sizeof(seen));
        memcpy(seen, after, words * sizeof(*after));
    }
    free(exact);
    free(after);
    free(wanted);
    free(expected);
    return done;
}

static long bind_one(struct ps_bind *row, uint64_t sure, const uint64_t *expect, const uint64_t *want)
{
    return bind_words(row, 1, sure, expect, want, WORDS);
}

static bool has(int32_t tid, const uint64_t *mask)
{
    static uint64_t now[WORDS];
    int32_t err;

    return ps_masks(&tid, 1, now, WORDS, &err) == 1 && err == 0 && same_mask(now, mask, WORDS);
}

static void prepare_masks(void)
{
    int32_t self = 0, err;

    CHECK(ps_masks(&self, 1, all, WORDS, &err) == 1 && err == 0);
    for (size_t cpu = 0; cpu < 64 * WORDS; cpu++) {
        if (all[cpu / 64] >> cpu % 64 & 1) {
            one[cpu / 64] |= (uint64_t)1 << cpu % 64;
            break;
        }
    }
    memcpy(beyond, one, sizeof(beyond));
    beyond[16] |= 2; /* CPU 1025: as wide as masks get, and not there */
}

static void test_outcomes(void)
{
    struct sleeper thread;
    struct ps_bind row, copy;

    CHECK(ps_mask_words() > 0 && ps_mask_words() <= WORDS);
    start(&thread);
    row = look(getpid(), thread.tid);

    CHECK(bind_one(&row, LATE, all, all) == 1 && row.outcome == PS_KEPT && row.err == 0 && same_mask(seen, all, WORDS));
    CHECK(bind_one(&row, LATE, all, beyond) == 0 && row.outcome == PS_CLIPPED && row.err == 0);
    CHECK(same_mask(seen, one, WORDS) && has(thread.tid, one));
    CHECK(bind_one(&row, LATE, NULL, all) == 1 && (row.outcome == PS_SET || row.outcome == PS_KEPT));
    CHECK(same_mask(seen, all, WORDS) && has(thread.tid, all));
    CHECK(bind_one(&row, LATE, all, none) == 0 && row.outcome == PS_REFUSED && row.err == -EINVAL);
    CHECK(bind_one(&row, LATE, NULL, none) == 0 && row.outcome == PS_REFUSED && row.err == -EINVAL);
    CHECK(bind_one(&row, LATE, beyond, none) == 0 && row.outcome == PS_MOVED && row.err == -EAGAIN);
    CHECK(same_mask(seen, all, WORDS) && has(thread.tid, all));
    if (!same_mask(all, one, WORDS)) {
        CHECK(bind_one(&row, LATE, all, one) == 1 && row.outcome == PS_SET && has(thread.tid, one));
        CHECK(bind_one(&row, LATE, all, one) == 1 && row.outcome == PS_KEPT); /* as wanted, whatever was expected */
        CHECK(bind_one(&row, LATE, none, all) == 0 && row.outcome == PS_MOVED && has(thread.tid, one));
        CHECK(bind_one(&row, LATE, NULL, all) == 1 && row.outcome == PS_SET && has(thread.tid, all));
        for (size_t words = (size_t)ps_mask_words(); words <= WORDS; words = words * 3 / 2 + 1) {
            CHECK(bind_words(&row, 1, LATE, all, one, words) == 1 && row.outcome == PS_SET);
            CHECK(bind_words(&row, 1, LATE, one, all, words) == 1 && row.outcome == PS_SET);
        }
    }
    copy = row;
    copy.pid = 1; /* alive, but not a thread of that process */
    CHECK(bind_one(&copy, LATE, all, one) == 0 && copy.outcome == PS_GONE && copy.err == -ESRCH);
    copy.pid = NOBODY;
    CHECK(bind_one(&copy, LATE, all, one) == 0 && copy.outcome == PS_GONE && same_mask(seen, none, WORDS));
    CHECK(has(thread.tid, all));
    CHECK(bind_words(&row, 0, LATE, NULL, one, WORDS) == 0);
    CHECK(ps_bind(proc, &row, 1, LATE, all, one, seen, 0) == -EINVAL);
    CHECK(ps_bind(proc, &row, 1, LATE, all, one, seen, WORDS + 1) == -EINVAL);
    CHECK(ps_bind(-1, &row, 1, LATE, all, one, seen, WORDS) == 0 && row.outcome == PS_REFUSED && row.err == -EBADF);
    CHECK(has(thread.tid, all));
    finish(&thread);
    CHECK(bind_one(&row, LATE, all, one) == 0 && row.outcome == PS_GONE && row.err == -ESRCH);
    CHECK(same_mask(seen, none, WORDS));
}

static void test_identity(void)
{
    struct sleeper thread;
    struct ps_bind row, other;

    start(&thread);
    row = look(getpid(), thread.tid);
    /* the very inode number: the start does not matter */
    other = row;
    other.start = 0;
    CHECK(bind_one(&other, 0, all, all) == 1 && other.outcome == PS_KEPT && other.ino == row.ino);
    for (int known = 0; known < 2; known++) {
        uint64_t ino = known ? row.ino + 1 : 0; /* the caches were dropped since, or it was never known */

        other = row;
        other.ino = ino;
        CHECK(bind_one(&other, row.start + 1, all, all) == 1 && other.outcome == PS_KEPT);
        CHECK(other.ino == row.ino && other.now == row.ino); /* from now on it is known by that */
        other.ino = ino;
        CHECK(bind_one(&other, row.start, all, one) == 0 && other.outcome == PS_GONE); /* as young as the look at it */
        CHECK(bind_one(&other, 0, all, one) == 0 && other.outcome == PS_GONE);
        other.start = row.start - 1;
        CHECK(bind_one(&other, LATE, all, one) == 0 && other.outcome == PS_GONE && other.err == -ESRCH);
        other.start = row.start + 1;
        CHECK(bind_one(&other, LATE, NULL, one) == 0 && other.outcome == PS_GONE);
        other.start = 0;
        CHECK(bind_one(&other, LATE, NULL, one) == 0 && other.outcome == PS_GONE);
    }
    CHECK(has(thread.tid, all));
    finish(&thread);
}

static int by_number(const void *a, const void *b)
{
    return ((const struct ps_bind *)a)->tid - ((const struct ps_bind *)b)->tid;
}

static void test_order(void)
{
    enum { COUNT = 300 };
    static struct sleeper threads[COUNT];
    static struct ps_bind rows[COUNT], pair[2];

    for (int i = 0; i < COUNT; i++)
        start(&threads[i]);
    for (int i = 0; i < COUNT; i++)
        rows[i] = look(getpid(), threads[i].tid);
    qsort(rows, COUNT, sizeof(*rows), by_number);
    CHECK(bind_words(rows, COUNT, LATE, all, one, (size_t)ps_mask_words()) == COUNT);
    for (int i = 0; i < COUNT; i++)
        CHECK(has(rows[i].tid, one));
    CHECK(bind_words(rows, COUNT, LATE, one, all, (size_t)ps_mask_words()) == COUNT);
    pair[0] = rows[1];
    pair[1] = rows[0];
    CHECK(bind_words(pair, 2, LATE, all, one, WORDS) == -EINVAL);
    pair[1] = rows[1];
    CHECK(bind_words(pair, 2, LATE, all, one, WORDS) == -EINVAL);
    CHECK(has(rows[0].tid, all) && has(rows[1].tid, all)); /* nothing was begun */
    for (int i = 0; i < COUNT; i++)
        finish(&threads[i]);
    CHECK(bind_words(rows, COUNT, LATE, NULL, one, (size_t)ps_mask_words()) == 0);
    for (int i = 0; i < COUNT; i++)
        CHECK(rows[i].outcome == PS_GONE);
}

static void test_listing_in_any_order(void)
{
    enum { COUNT = 40 };
    char root[256], path[64];
    int before = open_fds(), made_up = make_root(root, sizeof(root));
    struct ps_bind *rows = exactly(COUNT * sizeof(*rows));

    for (int i = 0; i < COUNT; i++) { /* numbers have wrapped around; every other one is asked for */
        snprintf(path, sizeof(path), "%d", 100 + i * 27 % COUNT * 2);
        make_folder(made_up, path);
        snprintf(path, sizeof(path), "%d", 101 + i * 27 % COUNT * 2);
        make_folder(made_up, path);
    }
    for (int n = 0; n <= COUNT; n++) {
        for (int i = 0; i < n; i++)
            rows[i] = (struct ps_bind){.tid = 99 + i * 2 + (i & 1), .now = 77};
        MUST(lseek(made_up, 0, SEEK_SET) == 0);
        CHECK(list_inos(made_up, rows, (size_t)n) == 0);
        for (int i = 0; i < n; i++) {
            struct stat st;

            snprintf(path, sizeof(path), "%d", rows[i].tid);
            CHECK(rows[i].now == (fstatat(made_up, path, &st, 0) == 0 ? st.st_ino : 0));
        }
    }
    free(rows);
    remove_root(root, made_up);
    CHECK(open_fds() == before);
}

static void test_processes(void)
{
    pid_t children[3];
    struct ps_bind rows[5];
    int before = open_fds();

    for (int i = 0; i < 3; i++)
        children[i] = start_child(i);
    for (int i = 0; i < 3; i++)
        rows[i] = look(children[i], children[i]);
    rows[3] = (struct ps_bind){.pid = NOBODY, .tid = NOBODY, .ino = 1, .start = 1};
    rows[4] = look(getpid(), getpid()); /* one process more, its number below the others' */
    CHECK(bind_words(rows, 5, LATE, NULL, one, WORDS) == 4);
    for (int i = 0; i < 3; i++)
        CHECK(rows[i].outcome != PS_GONE && has(children[i], one));
    CHECK(rows[3].outcome == PS_GONE && has(getpid(), one));
    CHECK(bind_words(&rows[4], 1, LATE, one, all, WORDS) == 1 && has(getpid(), all));
    /* a process that is a zombie still has its number: nothing else can have it */
    kill(children[0], SIGKILL);
    MUST(waitid(P_PID, (id_t)children[0], NULL, WEXITED | WNOWAIT) == 0);
    CHECK(bind_one(&rows[0], LATE, NULL, all) >= 0 && rows[0].outcome >= PS_KEPT && rows[0].outcome <= PS_REFUSED);
    end_child(children[0]);
    CHECK(bind_one(&rows[0], LATE, NULL, all) == 0 && rows[0].outcome == PS_GONE);
    end_child(children[1]);
    end_child(children[2]);
    CHECK(open_fds() == before);
}

/* What happens between the calls that binding consists of: `step` says before which of them. */
static struct sleeper *victim;
static long step;
static int getdents_calls;

static long end_before(long number, long a, long b, long c, long d, long e)
{
    if (victim && number == step && (number != SYS_getdents64 || ++getdents_calls == 3)) {
        finish(victim);
        victim = NULL;
    }
    return plain_syscall(number, a, b, c, d, e);
}

static void test_ends_meanwhile(void)
{
    const long steps[] = {SYS_sched_getaffinity, SYS_sched_setaffinity, SYS_getdents64};

    if (same_mask(all, one, WORDS))
        return; /* nothing would be set */
    for (size_t i = 0; i < 3; i++) {
        struct sleeper thread;
        struct ps_bind row;

        start(&thread);
        row = look(getpid(), thread.tid);
        victim = &thread;
        step = steps[i];
        getdents_calls = 0; /* the third one begins the second listing: it was read back, then it ended */
        hook = end_before;
        CHECK(bind_one(&row, LATE, all, one) == 0 && row.outcome == PS_GONE && row.err == -ESRCH);
        hook = NULL;
        CHECK(!victim);
        CHECK(same_mask(seen, none, WORDS)); /* it has no mask any more */
    }
}

/* From the second listing on the thread has another inode number, as if its number had changed hands. */
static int listings, lost_tid;

static long another_inode(long number, long a, long b, long c, long d, long e)
{
    long got = plain_syscall(number, a, b, c, d, e);

    if (number == SYS_getdents64 && got == 0)
        listings++;
    for (long at = 0; number == SYS_getdents64 && listings > 0 && at < got;) {
        struct linux_dirent64 *entry = (void *)((char *)b + at);

        if (whole_number(entry->d_name) == lost_tid)
            entry->d_ino += 1000;
        at += entry->d_reclen;
    }
    return got;
}

static void test_number_changes_hands(void)
{
    const uint64_t *const wants[] = {one, beyond};
    struct sleeper thread;
    struct ps_bind row, copy;

    if (same_mask(all, one, WORDS))
        return;
    start(&thread);
    row = look(getpid(), thread.tid);
    lost_tid = thread.tid;
    for (size_t i = 0; i < 2; i++) {
        copy = row;
        hook = another_inode;
        listings = 0;
        /* older than the look at it: only the caches were dropped meanwhile */
        CHECK(bind_one(&copy, LATE, all, wants[i]) == (i == 0) && copy.outcome == (i == 0 ? PS_SET : PS_CLIPPED));
        hook = NULL;
        CHECK(copy.now == row.ino + 1000 && copy.ino == row.ino && same_mask(seen, one, WORDS));
        CHECK(bind_one(&row, LATE, one, all) == 1);
        copy = row;
        hook = another_inode;
        listings = 0;
        /* as young as the look at it: another thread's by now, which had the mask that was set, clipped or not, and
         * gets back what it had */
        CHECK(bind_one(&copy, row.start, all, wants[i]) == 0);
        hook = NULL;
        CHECK(copy.outcome == PS_STRAY && copy.err == -ESRCH && same_mask(seen, all, WORDS));
        CHECK(bind_one(&row, LATE, all, all) == 1 && row.outcome == PS_KEPT);
    }
    finish(&thread);
}

/* The number-th call `failing` from now on fails with `with`. */
static long failing;
static int number_of, with;

static long fails(long number, long a, long b, long c, long d, long e)
{
    if (number == failing && --number_of == 0) {
        errno = with;
        return -1;
    }
    return plain_syscall(number, a, b, c, d, e);
}

static int outcome_where(struct ps_bind *row, long call, int which, int err)
{
    struct ps_bind copy = *row;

    failing = call;
    number_of = which;
    with = err;
    hook = fails;
    CHECK(bind_one(&copy, LATE, NULL, one) == 0 && copy.err == -err);
    hook = NULL;
    CHECK(bind_one(row, LATE, NULL, all) == 1 && has(row->tid, all));
    return copy.outcome;
}

static void test_refusals(void)
{
    struct sleeper thread;
    struct ps_bind row;

    if (same_mask(all, one, WORDS))
        return;
    start(&thread);
    row = look(getpid(), thread.tid);
    CHECK(outcome_where(&row, SYS_sched_setaffinity, 1, EPERM) == PS_REFUSED);
    CHECK(outcome_where(&row, SYS_sched_setaffinity, 1, EBUSY) == PS_REFUSED); /* SCHED_DEADLINE */
    CHECK(outcome_where(&row, SYS_sched_getaffinity, 1, EPERM) == PS_REFUSED);
    CHECK(outcome_where(&row, SYS_sched_getaffinity, 2, EPERM) == PS_UNSURE);
    CHECK(outcome_where(&row, SYS_getdents64, 1, EIO) == PS_REFUSED);
    CHECK(outcome_where(&row, SYS_getdents64, 3, EIO) == PS_UNSURE); /* set, but whose it is cannot be told */
    CHECK(outcome_where(&row, SYS_sched_setaffinity, 1, ESRCH) == PS_GONE);
    finish(&thread);
}

/* A kernel with 65,536 CPUs, all of them online, on which one thread runs. */
static uint64_t wide[WORDS];

static long wide_kernel(long number, long a, long b, long c, long d, long e)
{
    if (number == SYS_sched_getaffinity) {
        if (b < (long)sizeof(wide)) {
            errno = EINVAL;
            return -1;
        }
        memcpy((void *)c, wide, sizeof(wide));
        return sizeof(wide);
    }
    if (number == SYS_sched_setaffinity) {
        memset(wide, 0, sizeof(wide));
        memcpy(wide, (void *)c, (size_t)b < sizeof(wide) ? (size_t)b : sizeof(wide));
        return 0;
    }
    return plain_syscall(number, a, b, c, d, e);
}

static void test_wide_masks(void)
{
    const size_t cpus[] = {0, 1023, 1024, 1025, 8191, 65535};
    struct sleeper thread;
    struct ps_bind row;
    int32_t err;

    start(&thread);
    row = look(getpid(), thread.tid);
    hook = wide_kernel;
    CHECK(ps_mask_words() == WORDS);
    CHECK(bind_words(&row, 1, LATE, NULL, one, WORDS / 2) == 0 && row.err == -EINVAL); /* too narrow to be read */
    for (size_t i = 0; i < sizeof(cpus) / sizeof(*cpus); i++) {
        uint64_t want[WORDS] = {0};

        want[cpus[i] / 64] = (uint64_t)1 << cpus[i] % 64;
        CHECK(bind_one(&row, LATE, i ? wide : NULL, want) == 1 && row.outcome == PS_SET);
        CHECK(same_mask(wide, want, WORDS) && same_mask(seen, want, WORDS));
        CHECK(ps_masks(&row.tid, 1, seen, WORDS, &err) == 1 && same_mask(seen, want, WORDS));
        CHECK(ps_masks(&row.tid, 1, seen, 1, &err) == 0 && err == -EINVAL && seen[0] == 0);
    }
    hook = NULL;
    CHECK(has(thread.tid, all));
    finish(&thread);
}

int main(void)
{
    int before = open_fds();

    proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    MUST(proc >= 0);
    prepare_masks();
    test_outcomes();
    test_identity();
    test_order();
    test_listing_in_any_order();
    test_processes();
    test_ends_meanwhile();
    test_number_changes_hands();
    test_refusals();
    test_wide_masks();
    close(proc);
    CHECK(open_fds() == before);
    return report("procscan, binding");
}
