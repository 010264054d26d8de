/* Part of procscan.c: set masks, prove whose they are. */

void ps_prepare(const struct ps_task *tasks, size_t n, struct ps_bind *rows)
{
    for (size_t i = 0; i < n; i++)
        rows[i] = (struct ps_bind){
            .ino = tasks[i].ino, .start = tasks[i].start, .pid = tasks[i].pid, .tid = tasks[i].tid};
}

/* List the threads of a process: where the number of one of the n rows (ascending) stands, its inode number goes into
 * `now`, which is 0 for the others. */
static int list_inos(int fd, struct ps_bind *rows, size_t n)
{
    struct folder folder;
    const struct linux_dirent64 *entry;
    size_t next = 0;
    int err = 0;

    for (size_t i = 0; i < n; i++)
        rows[i].now = 0;
    folder.fd = fd;
    folder.got = folder.at = 0;
    while ((entry = next_entry(&folder, &err))) {
        int32_t tid = whole_number(entry->d_name);
        size_t low = 0, high = n;

        if (tid < 0)
            continue;
        while (next < n && rows[next].tid < tid)
            next++;
        if (next == n || rows[next].tid != tid || rows[next].now) {
            /* not ours, or out of order as after thread numbers have wrapped around */
            while (low < high) {
                size_t middle = (low + high) / 2;

                if (rows[middle].tid < tid)
                    low = middle + 1;
                else
                    high = middle;
            }
            if (low == n || rows[low].tid != tid)
                continue;
            next = low;
        }
        rows[next].now = entry->d_ino;
    }
    return err;
}

/* Whether the thread that has the number now is the expected one: 0, -ESRCH where not, -errno where that cannot be
 * told. */
static int prove(int fd, const struct ps_bind *row, uint64_t expected, uint64_t sure)
{
    struct ps_task now = {.tid = row->tid};
    int err;

    if (!row->now)
        return -ESRCH;
    if (row->now == expected)
        return 0;
    /* The kernel hands out a new number after it dropped its caches, too: then the start decides. */
    err = read_stat(fd, row->tid, &now);
    if (err)
        return err == -ENOENT ? -ESRCH : err;
    return now.start == row->start && row->start && row->start < sure ? 0 : -ESRCH;
}

enum { FRESH_NS = 250000 }; /* a process of 50 threads that sleep takes less */

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Prove one thread anew: the listing is so old that its number may have changed hands meanwhile. To move a thread that
 * runs takes milliseconds on a busy machine, and a process may have thousands. */
static int prove_again(int fd, struct ps_bind *row, uint64_t sure)
{
    char path[PATH_BYTES];
    struct stat st;

    snprintf(path, sizeof(path), "%d", row->tid);
    if (fstatat(fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    row->now = st.st_ino;
    return prove(fd, row, row->ino, sure);
}

static void failed(struct ps_bind *row, int err)
{
    row->outcome = err == -ESRCH ? PS_GONE : PS_REFUSED;
    row->err = err;
}

static void set_one(struct ps_bind *row, const uint64_t *expect, const uint64_t *want, uint64_t *after, size_t words)
{
    int err = get_mask(row->tid, after, words);

    if (err) {
        failed(row, err);
        return;
    }
    if (same_mask(after, want, words)) {
        row->outcome = PS_KEPT;
        return;
    }
    if (expect && !same_mask(after, expect, words)) {
        row->outcome = PS_MOVED;
        row->err = -EAGAIN;
        return;
    }
    err = set_mask(row->tid, want, words);
    if (!err) {
        row->outcome = PS_SET;
        err = get_mask(row->tid, after, words);
    }
    if (err) {
        bool set = row->outcome == PS_SET && err != -ESRCH;

        if (row->outcome == PS_SET || err == -ESRCH) /* what was read before is past */
            memset(after, 0, words * sizeof(*after));
        failed(row, err);
        if (set)
            row->outcome = PS_UNSURE;
    } else if (!same_mask(after, want, words)) {
        row->outcome = PS_CLIPPED;
    }
}

/* The thread ended while it was bound. Only if its number serves somebody else by now was a stranger hit: as unlikely
 * as a whole round of thread numbers within FRESH_NS, but then it must be said. Where a mask was expected it is known
 * what the stranger had just before: it gets that back. */
static void lost(struct ps_bind *row, const uint64_t *expect, uint64_t *after, size_t words)
{
    uint64_t now[MAX_WORDS];
    bool taken = get_mask(row->tid, now, words) == 0 && same_mask(now, after, words); /* clipped or not */

    if (!taken)
        memset(after, 0, words * sizeof(*after));
    else if (expect && set_mask(row->tid, expect, words) == 0)
        get_mask(row->tid, after, words);
    row->outcome = taken ? PS_STRAY : PS_GONE;
    row->err = -ESRCH;
}

static void bind_process(int proc, struct ps_bind *rows, size_t n, uint64_t sure, const uint64_t *expect,
                         const uint64_t *want, uint64_t *after, size_t words)
{
    _cleanup_fd_ int fd = open_tasks(proc, rows[0].pid);
    int64_t listed = now_ns();
    int err = fd < 0 ? fd : list_inos(fd, rows, n);
    bool any = false;

    for (size_t i = 0; i < n; i++) {
        struct ps_bind *row = &rows[i];
        int wrong = err == -ENOENT ? -ESRCH : err;

        row->err = 0;
        row->outcome = PS_UNTOUCHED;
        if (!wrong)
            wrong = prove(fd, row, row->ino, sure);
        if (wrong) {
            failed(row, wrong);
            continue;
        }
        row->ino = row->now;
        if (now_ns() - listed > FRESH_NS && (wrong = prove_again(fd, row, sure))) {
            failed(row, wrong);
            continue;
        }
        set_one(row, expect ? expect + i * words : NULL, want + i * words, after + i * words, words);
        any = any || row->outcome == PS_SET || row->outcome == PS_CLIPPED;
    }
    if (!any)
        return;
    err = lseek(fd, 0, SEEK_SET) < 0 ? -errno : list_inos(fd, rows, n);
    for (size_t i = 0; i < n; i++) {
        struct ps_bind *row = &rows[i];
        int wrong = err;

        if (row->outcome != PS_SET && row->outcome != PS_CLIPPED)
            continue;
        if (!wrong)
            wrong = prove(fd, row, row->ino, sure);
        if (wrong == -ESRCH || wrong == -ENOENT)
            lost(row, expect ? expect + i * words : NULL, after + i * words, words);
        else if (wrong) {
            row->outcome = PS_UNSURE;
            row->err = wrong;
        }
    }
}

long ps_bind(int proc, struct ps_bind *rows, size_t n, uint64_t sure,
             const uint64_t *expect, const uint64_t *want, uint64_t *after, size_t words)
{
    long count = 0;
    size_t next;

    if (words == 0 || words > MAX_WORDS)
        return -EINVAL;
    for (size_t i = 1; i < n; i++)
        if (rows[i].pid == rows[i - 1].pid && rows[i].tid <= rows[i - 1].tid)
            return -EINVAL;
    memset(after, 0, n * words * sizeof(*after));
    for (size_t first = 0; first < n; first = next) {
        size_t at = first * words;

        for (next = first; next < n && rows[next].pid == rows[first].pid; next++)
            ;
        bind_process(proc, rows + first, next - first, sure, expect ? expect + at : NULL, want + at, after + at,
                     words);
        for (size_t i = first; i < next; i++)
            if (rows[i].outcome == PS_KEPT || rows[i].outcome == PS_SET)
                count++;
    }
    return count;
}
