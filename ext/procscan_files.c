/* Part of procscan.c: folders, links and small files below /proc. */

enum {
    DIR_BYTES = 1 << 15,  /* what getdents64 takes at once; more makes no difference (32 bytes a thread) */
    STAT_BYTES = 1024,    /* 52 numbers of at most 20 digits do not all reach that; the name has 63 */
    COMM_BYTES = 128,
    PATH_BYTES = 64
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

/* A positive number that is the whole text, as the kernel writes it (no zero before it), or -1. */
static int32_t whole_number(const char *text)
{
    int64_t value = 0;

    if (!*text || *text == '0')
        return -1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -1;
        value = value * 10 + (*text - '0');
        if (value > INT32_MAX)
            return -1;
    }
    return (int32_t)value;
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

int ps_open_debugfs(void)
{
    /* numbers of linux/mount.h and of the calls, which older headers lack; on every architecture the same */
    const long fsopen_number = 430, fsconfig_number = 431, fsmount_number = 432;
    const long cloexec = 1, create = 6, readonly = 0x01, nosuid = 0x02, nodev = 0x04, noexec = 0x08;
    _cleanup_fd_ int context = (int)syscall(fsopen_number, "debugfs", cloexec);
    long fd;

    if (context < 0 || syscall(fsconfig_number, context, create, NULL, NULL, 0) < 0)
        return -errno;
    fd = syscall(fsmount_number, context, cloexec, readonly | nosuid | nodev | noexec);
    return fd < 0 ? -errno : (int)fd;
}

/* A folder that is read entry by entry. */
struct folder {
    int fd;
    long got, at;
    char buf[DIR_BYTES] __attribute__((aligned(8)));
};

/* The next entry, or NULL at the end or after an error, which *err says. The kernel alone says where the end is:
 * a short answer may as well be one that a signal cut off. */
static const struct linux_dirent64 *next_entry(struct folder *folder, int *err)
{
    const struct linux_dirent64 *entry;

    if (folder->at >= folder->got) {
        folder->got = syscall(SYS_getdents64, folder->fd, folder->buf, sizeof(folder->buf));
        folder->at = 0;
        if (folder->got <= 0) {
            *err = folder->got < 0 ? -errno : 0;
            return NULL;
        }
    }
    entry = (const void *)(folder->buf + folder->at);
    folder->at += entry->d_reclen;
    return entry;
}

static int open_folder(int dir, const char *path)
{
    int fd = openat(dir, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

    return fd < 0 ? -errno : fd;
}

static int open_tasks(int proc, int32_t pid)
{
    char path[PATH_BYTES];

    snprintf(path, sizeof(path), "%d/task", pid);
    return open_folder(proc, path);
}

long ps_list(int proc, const char *path, int32_t *ids, uint64_t *inos, size_t cap)
{
    struct folder folder = {.fd = open_folder(proc, path)};
    _cleanup_fd_ int fd = folder.fd;
    const struct linux_dirent64 *entry;
    size_t count = 0;
    int err = 0;

    if (fd < 0)
        return fd;
    while ((entry = next_entry(&folder, &err))) {
        int32_t id = whole_number(entry->d_name);

        if (id < 0)
            continue;
        if (count < cap) {
            ids[count] = id;
            if (inos)
                inos[count] = entry->d_ino;
        }
        count++;
    }
    return err ? err : (long)count;
}

long ps_links(int proc, const int32_t *pids, size_t n, const char *name, char *text, size_t room, int32_t *errs)
{
    size_t used = 0, i;

    for (i = 0; i < n && room - used > PATH_MAX; i++) {
        char path[PATH_BYTES];
        ssize_t got;

        snprintf(path, sizeof(path), "%d/%s", pids[i], name);
        got = readlinkat(proc, path, text + used, PATH_MAX);
        errs[i] = got < 0 ? -errno : 0;
        if (got > 0)
            used += (size_t)got;
        text[used++] = 0;
    }
    return (long)i;
}

/* The first descriptor in a folder of links that leads to `link`; -1: none, or *err. */
static int32_t holding(int proc, int32_t pid, const char *link, int32_t *err)
{
    size_t length = strlen(link);
    char path[PATH_BYTES], found[PATH_BYTES];
    struct folder folder;
    const struct linux_dirent64 *entry;

    snprintf(path, sizeof(path), "%d/fd", pid);
    folder.fd = open_folder(proc, path);
    folder.got = folder.at = 0;
    _cleanup_fd_ int fd = folder.fd;
    *err = fd < 0 ? fd : 0;
    if (fd < 0)
        return -1;
    while ((entry = next_entry(&folder, err))) {
        int32_t number = strcmp(entry->d_name, "0") == 0 ? 0 : whole_number(entry->d_name);
        ssize_t got;

        if (number < 0)
            continue;
        got = readlinkat(fd, entry->d_name, found, sizeof(found));
        if (got < (ssize_t)sizeof(found) && got == (ssize_t)length && memcmp(found, link, length) == 0)
            return number;
        if (got < 0 && errno != ENOENT) {
            *err = -errno;
            return -1;
        }
    }
    return -1;
}

void ps_holds(int proc, const int32_t *pids, size_t n, const char *link, int32_t *fds, int32_t *errs)
{
    for (size_t i = 0; i < n; i++)
        fds[i] = holding(proc, pids[i], link, &errs[i]);
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
    row->comm_len = (uint8_t)strnlen(row->comm, name);
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

/* Read a small file: at most room bytes, or -errno. */
static ssize_t read_file(int dir, const char *path, char *text, size_t room)
{
    _cleanup_fd_ int fd = openat(dir, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t got;

    if (fd < 0)
        return -errno;
    got = read(fd, text, room);
    return got < 0 ? -errno : got;
}

static int read_stat(int tasks, int32_t tid, struct ps_task *row)
{
    char text[STAT_BYTES], path[PATH_BYTES];
    ssize_t got;

    row->start = 0;
    row->flags = 0;
    row->cpu = -1;
    row->state = 0;
    row->comm_len = 0;
    snprintf(path, sizeof(path), "%d/stat", tid);
    got = read_file(tasks, path, text, sizeof(text));
    if (got < 0)
        return (int)got;
    got = parse_stat(text, (size_t)got, row);
    row->told = got == 0;
    return (int)got;
}

static int read_comm(int tasks, int32_t tid, struct ps_task *row)
{
    char text[COMM_BYTES], path[PATH_BYTES];
    ssize_t got;

    row->comm_len = 0;
    snprintf(path, sizeof(path), "%d/comm", tid);
    got = read_file(tasks, path, text, sizeof(text));
    if (got < 0)
        return (int)got;
    if (got > 0 && text[got - 1] == '\n')
        got--;
    if ((size_t)got > sizeof(row->comm))
        got = sizeof(row->comm);
    memcpy(row->comm, text, (size_t)got);
    row->comm_len = (uint8_t)strnlen(row->comm, (size_t)got); /* a recorded file may hold anything */
    return 0;
}
