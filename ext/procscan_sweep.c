/* Part of procscan.c: the threads of many processes, with names and masks. */

/* What one of our threads does: the processes [first, end), into rows from `at` to below `limit`. */
struct slice {
    const struct ps_sweep *sweep;
    int proc;
    size_t first, end;
    size_t at, limit;
    size_t count;   /* of rows */
    size_t old;     /* the row of the earlier sweep that comes next */
    bool full;
    pthread_t thread;
    bool started;
};

void ps_weigh(int proc, const int32_t *pids, size_t n, int32_t *weights)
{
    for (size_t i = 0; i < n; i++) {
        char path[PATH_BYTES];
        struct stat st;

        snprintf(path, sizeof(path), "%d/task", pids[i]);
        weights[i] = fstatat(proc, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_nlink > 2
                         ? (int32_t)st.st_nlink - 2
                         : 0;
    }
}

size_t ps_room(int32_t weight)
{
    return (size_t)weight + (size_t)weight / 4 + 4;
}

static int by_tid(const void *one, const void *other)
{
    int32_t a = ((const struct ps_task *)one)->tid, b = ((const struct ps_task *)other)->tid;

    return (a > b) - (a < b);
}

/* Append a row for each thread of a process: numbers and inode numbers. */
static int list_tasks(struct slice *slice, int fd, int32_t pid)
{
    const struct ps_sweep *sweep = slice->sweep;
    struct folder folder;
    struct ps_task *first = sweep->rows + slice->at + slice->count;
    const struct linux_dirent64 *entry;
    size_t count = 0;
    bool sorted = true;
    int err = 0;

    folder.fd = fd;
    folder.got = folder.at = 0;
    while ((entry = next_entry(&folder, &err))) {
        struct ps_task *row = first + count;
        int32_t tid = whole_number(entry->d_name);

        if (tid < 0)
            continue;
        if (slice->at + slice->count + count >= slice->limit) {
            slice->full = true;
            return -ENOSPC;
        }
        row->pid = pid;
        row->tid = tid;
        row->ino = entry->d_ino;
        sorted = sorted && (count == 0 || row[-1].tid < tid);
        count++;
    }
    if (err)
        return err;
    if (!sorted)
        qsort(first, count, sizeof(*first), by_tid);
    return (int)count;
}

static bool maybe_worker(const struct ps_task *row, const char *workers)
{
    for (; *workers; workers += strlen(workers) + 1) {
        size_t length = strlen(workers);

        if (row->comm_len >= length && memcmp(row->comm, workers, length) == 0)
            return true;
    }
    return false;
}

static void read_name(const struct ps_sweep *sweep, int fd, struct ps_task *row)
{
    row->told = 0;
    if (sweep->what & PS_STATS) {
        row->err = read_stat(fd, row->tid, row);
        return;
    }
    row->start = 0;
    row->flags = 0;
    row->cpu = -1;
    row->state = 0;
    row->err = read_comm(fd, row->tid, row);
    if (row->err == 0 && maybe_worker(row, sweep->workers))
        row->err = read_stat(fd, row->tid, row);
}

/* Read the name of a main thread that was seen before, and whether it has ended, as it may while others live on. */
static void read_main(const struct ps_sweep *sweep, int fd, struct ps_task *row)
{
    read_name(sweep, fd, row);
    if (row->err)
        return;
    row->cpu = -1;
    if (row->state != 'Z' && row->state != 'X')
        row->state = 0; /* it comes and goes, and is not told of a thread that was seen before */
}

/* Fill in a row, from the earlier sweep where that knew the thread and its name for good. */
static void look_at(struct slice *slice, int fd, struct ps_task *row, bool anew)
{
    const struct ps_sweep *sweep = slice->sweep;
    const struct ps_task *old = NULL;

    while (slice->old < sweep->old_count && sweep->old[slice->old].pid == row->pid &&
           sweep->old[slice->old].tid < row->tid)
        slice->old++;
    if (slice->old < sweep->old_count && sweep->old[slice->old].pid == row->pid &&
        sweep->old[slice->old].tid == row->tid && sweep->old[slice->old].ino == row->ino)
        old = &sweep->old[slice->old];
    row->since = old ? old->since : sweep->now;
    if (old && old->settled && old->err == 0 && !anew && (old->told || !(sweep->what & PS_STATS))) {
        *row = *old;
        row->cpu = -1;
        row->state = 0;
        /* exec(2) ends all other threads and keeps this one's number and inode number, whatever the program */
        if (row->tid == row->pid)
            read_main(sweep, fd, row);
    } else {
        read_name(sweep, fd, row);
        row->settled = sweep->now - row->since >= sweep->settle && (old || !sweep->settle);
    }
    row->mask_err = 0;
    if (sweep->words) {
        uint64_t *mask = sweep->masks + (size_t)(row - sweep->rows) * sweep->words;

        row->mask_err = get_mask(row->tid, mask, sweep->words);
        if (row->mask_err)
            memset(mask, 0, sweep->words * sizeof(*mask));
        if (row->mask_err == -ESRCH)
            row->err = -ESRCH;
    }
    if (row->err == -ENOENT)
        row->err = -ESRCH;
}

static void sweep_process(struct slice *slice, size_t place)
{
    const struct ps_sweep *sweep = slice->sweep;
    int32_t pid = sweep->pids[place];
    _cleanup_fd_ int fd = open_tasks(slice->proc, pid);
    struct ps_task *first = sweep->rows + slice->at + slice->count;
    int count = fd < 0 ? fd : list_tasks(slice, fd, pid);

    sweep->counts[place] = count;
    while (slice->old < sweep->old_count && sweep->old[slice->old].pid < pid)
        slice->old++;
    for (int i = 0; i < count; i++)
        look_at(slice, fd, first + i, sweep->anew && sweep->anew[place]);
    if (count > 0)
        slice->count += (size_t)count;
}

static void *sweep_slice(void *argument)
{
    struct slice *slice = argument;

    for (size_t i = slice->first; i < slice->end && !slice->full; i++)
        sweep_process(slice, i);
    return NULL;
}

static void *sweep_alone(void *argument)
{
    /* A table of descriptors of its own spares the threads each other's lock (1.9 times as fast with two, not 1.7);
     * it goes with the thread. Where that is forbidden they share. */
    unshare(CLONE_FILES);
    return sweep_slice(argument);
}

/* Give each slice consecutive processes of about the same weight, and room for their rows. */
static void divide(const struct ps_sweep *sweep, int proc, struct slice *slices, size_t count)
{
    size_t place = 0, at = 0, taken = 0;

    for (size_t k = 0; k < count; k++) {
        size_t share = sweep->cap * (k + 1) / count;

        slices[k] = (struct slice){.sweep = sweep, .proc = proc, .first = place, .at = at};
        while (place < sweep->n && (k + 1 == count || taken + ps_room(sweep->weights[place]) / 2 < share))
            taken += ps_room(sweep->weights[place++]);
        slices[k].end = place;
        slices[k].limit = at = k + 1 == count ? sweep->cap : taken;
    }
}

size_t ps_names(const struct ps_task *rows, size_t n, char *text)
{
    char *at = text;

    for (size_t i = 0; i < n; i++) {
        memcpy(at, rows[i].comm, rows[i].comm_len);
        at += rows[i].comm_len;
        *at++ = 0;
    }
    return (size_t)(at - text);
}

enum { MAX_THREADS = 16 };

long ps_sweep(int proc, const struct ps_sweep *sweep)
{
    size_t count = sweep->threads < 1 ? 1 : (size_t)sweep->threads;
    struct slice slices[MAX_THREADS];
    size_t rows = 0;
    sigset_t all, before;

    for (size_t i = 0; i < sweep->n; i++) {
        if (i && sweep->pids[i] <= sweep->pids[i - 1])
            return -EINVAL;
        rows += ps_room(sweep->weights[i]);
    }
    if (rows > sweep->cap || sweep->words > MAX_WORDS)
        return -EINVAL;
    if (count > MAX_THREADS)
        count = MAX_THREADS;
    if (count > sweep->n)
        count = sweep->n ? sweep->n : 1;
    divide(sweep, proc, slices, count);
    sigfillset(&all); /* the caller's signals are not for our threads */
    if (count > 1)
        pthread_sigmask(SIG_SETMASK, &all, &before);
    for (size_t k = 1; k < count; k++)
        slices[k].started = pthread_create(&slices[k].thread, NULL, sweep_alone, &slices[k]) == 0;
    if (count > 1)
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    sweep_slice(&slices[0]);
    rows = slices[0].count;
    for (size_t k = 1; k < count; k++) {
        if (slices[k].started)
            pthread_join(slices[k].thread, NULL);
        else
            sweep_slice(&slices[k]);
        memmove(sweep->rows + rows, sweep->rows + slices[k].at, slices[k].count * sizeof(*sweep->rows));
        if (sweep->words)
            memmove(sweep->masks + rows * sweep->words, sweep->masks + slices[k].at * sweep->words,
                    slices[k].count * sweep->words * sizeof(*sweep->masks));
        rows += slices[k].count;
    }
    for (size_t k = 0; k < count; k++)
        if (slices[k].full)
            return -ENOSPC;
    return (long)rows;
}
