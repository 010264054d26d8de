/* Tests of procscan.c: numbers, texts, folders, links and small files below a /proc, real or made up. */
#include "checks.h"

static void test_numbers(void)
{
    CHECK(whole_number("1") == 1);
    CHECK(whole_number("2147483647") == INT32_MAX);
    CHECK(whole_number("2147483648") == -1);
    CHECK(whole_number("99999999999999999999999999") == -1);
    CHECK(whole_number("0") == -1);
    CHECK(whole_number("01") == -1); /* the kernel knows no such name, and 1 would be there twice */
    CHECK(whole_number("") == -1);
    CHECK(whole_number("12a") == -1);
    CHECK(whole_number("-1") == -1);
    CHECK(whole_number(".") == -1);
    CHECK(ps_room(0) >= 1);
    CHECK(ps_room(INT32_MAX) > (size_t)INT32_MAX);
}

#define TAIL " S 1 2 3 4 5 4194304 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38\n"

static int parse(const char *text, size_t len, struct ps_task *row)
{
    char *exact = exactly(len); /* so that a read past the end is seen */
    int err;

    memcpy(exact, text, len);
    memset(row, 0, sizeof(*row));
    row->cpu = -1;
    err = parse_stat(exact, len, row);
    free(exact);
    return err;
}

static void test_stat_text(void)
{
    static const char *const names[] = {"CPU 0/KVM", "", ") R 1 (", "a b\nc", "((((", "))))", "\xff\xfe\x01"};
    struct ps_task row;
    char text[2048];

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        size_t len = (size_t)snprintf(text, sizeof(text), "42 (%s)" TAIL, names[i]);

        CHECK(parse(text, len, &row) == 0);
        CHECK(row.comm_len == strlen(names[i]) && memcmp(row.comm, names[i], row.comm_len) == 0);
        CHECK(row.state == 'S' && row.flags == 4194304 && row.start == 777 && row.cpu == 36);
        for (size_t cut = 0; cut < len; cut++) /* every truncation: an error or a row, never more */
            parse(text, cut, &row);
    }
    memset(text, 'x', sizeof(text));
    memcpy(text, "42 (", 4);
    memcpy(text + sizeof(text) - sizeof(TAIL) - 1, ")" TAIL, sizeof(TAIL));
    CHECK(parse(text, sizeof(text) - 1, &row) == 0);
    CHECK(row.comm_len == sizeof(row.comm));
    CHECK(parse("1 (a\0b)" TAIL, sizeof("1 (a\0b)" TAIL) - 1, &row) == 0 && row.comm_len == 1);
    CHECK(parse("42 (x) S 1 2 3", 14, &row) == -EPROTO);
    CHECK(parse("42 (x)", 6, &row) == -EPROTO);
    CHECK(parse(")(", 2, &row) == -EPROTO);
    CHECK(parse("", 0, &row) == -EPROTO);
    /* numbers that overflow wrap as unsigned numbers do, and nothing more */
    CHECK(parse("1 (x) S 99999999999999999999999999 -1 -2 3 4 5 6", 48, &row) == -EPROTO);
    CHECK(parse("1 (x) S 1 2 3 4 -1 5 6 7 8 9 10 11 12 13 14 15 16 17 18 -9 20", 62, &row) == 0);
}

static void test_list(void)
{
    char root[256];
    int before = open_fds(), proc = make_root(root, sizeof(root));
    uint64_t *inos = exactly(2 * sizeof(*inos));
    int32_t *ids = exactly(2 * sizeof(*ids));
    struct stat st;

    make_folder(proc, "1");
    make_folder(proc, "1/task");
    for (int tid = 1; tid <= 4; tid++) {
        char path[64];

        snprintf(path, sizeof(path), "1/task/%d", tid);
        make_folder(proc, path);
    }
    make_folder(proc, "1/task/not a number");
    make_folder(proc, "1/task/99999999999");
    make_folder(proc, "1/task/04");
    make_folder(proc, "self");
    write_file(proc, "1/stat", "", 0);
    MUST(symlinkat("1", proc, "2") == 0 && symlinkat("task", proc, "1/link") == 0);
    CHECK(ps_list(proc, "1", NULL, NULL, 0) == 0);
    CHECK(ps_list(proc, "1/task", ids, inos, 2) == 4); /* more than there is room for: says so */
    CHECK(ps_list(proc, "1/task", NULL, NULL, 0) == 4);
    CHECK(ps_list(proc, ".", ids, inos, 2) == 2); /* the link is an entry too */
    CHECK(ps_list(proc, ".", ids, NULL, 1) == 2);
    MUST(unlinkat(proc, "2", 0) == 0);
    CHECK(ps_list(proc, ".", ids, inos, 2) == 1 && ids[0] == 1);
    CHECK(fstatat(proc, "1", &st, 0) == 0 && inos[0] == st.st_ino);
    CHECK(ps_list(proc, "nothing", ids, inos, 2) == -ENOENT);
    CHECK(ps_list(proc, "1/stat", ids, inos, 2) == -ENOTDIR);
    CHECK(ps_list(proc, "1/link", ids, inos, 2) == -ENOTDIR); /* a link is not followed */
    CHECK(ps_list(-1, ".", ids, inos, 2) == -EBADF);
    CHECK(ps_open_beneath(proc, "1/task/../../..", O_RDONLY) == -EXDEV);
    CHECK(ps_open_beneath(proc, "/", O_RDONLY) == -EXDEV);
    CHECK(ps_open_beneath(proc, "nothing", O_RDONLY) == -ENOENT);
    free(ids);
    free(inos);
    remove_root(root, proc);
    CHECK(open_fds() == before);
}

static void test_weigh(void)
{
    int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int32_t pids[] = {getpid(), NOBODY, -1}, weights[3];
    struct sleeper some[5];

    for (int i = 0; i < 5; i++)
        start(&some[i]);
    ps_weigh(proc, pids, 3, weights);
    CHECK(weights[0] == 6 && weights[1] == 0 && weights[2] == 0);
    for (int i = 0; i < 5; i++)
        finish(&some[i]);
    close(proc);
}

static void test_links(void)
{
    enum { PROCESSES = 40 };
    char root[256], target[PATH_MAX], path[64];
    int before = open_fds(), proc = make_root(root, sizeof(root));
    const size_t room = 3 * PATH_MAX;
    char *text = exactly(room);
    int32_t pids[PROCESSES], *errs = exactly(PROCESSES * sizeof(*errs));
    size_t done = 0, rounds = 0;

    memset(target, 'x', sizeof(target));
    for (int i = 0; i < PROCESSES; i++) {
        size_t length = (size_t)(i * 397 % 4000 + 1);

        pids[i] = i + 1;
        snprintf(path, sizeof(path), "%d", i + 1);
        make_folder(proc, path);
        snprintf(path, sizeof(path), "%d/exe", i + 1);
        target[length] = 0;
        if (i % 5 == 3)
            write_file(proc, path, "", 0);
        else if (i % 5 != 4)
            MUST(symlinkat(target, proc, path) == 0);
        target[length] = 'x';
    }
    while (done < PROCESSES) { /* as many as fit, and the others by another call */
        long count = ps_links(proc, pids + done, PROCESSES - done, "exe", text, room, errs);
        const char *at = text;

        CHECK(count > 0);
        if (count <= 0)
            break;
        for (long i = 0; i < count; i++, at += strlen(at) + 1) {
            int process = (int)done + (int)i;
            size_t length = process % 5 < 3 ? (size_t)(process * 397 % 4000 + 1) : 0;

            CHECK(errs[i] == (process % 5 == 3 ? -EINVAL : process % 5 == 4 ? -ENOENT : 0));
            CHECK(strlen(at) == length && strspn(at, "x") == length);
        }
        done += (size_t)count;
        rounds++;
    }
    CHECK(rounds > 3);
    CHECK(ps_links(proc, pids, PROCESSES, "exe", text, PATH_MAX, errs) == 0); /* no room for even one */
    CHECK(ps_links(proc, pids, 0, "exe", text, room, errs) == 0);
    free(text);
    free(errs);
    remove_root(root, proc);
    CHECK(open_fds() == before);
}

static void test_holds(void)
{
    char root[256], path[64];
    int before = open_fds(), proc = make_root(root, sizeof(root));
    static const char *const long_link = "0123456789012345678901234567890123456789012345678901234567890123456789";
    int32_t pids[] = {1, 2, 3, 4, 5, 6, 7}, fds[7], errs[7];

    for (int i = 1; i <= 6; i++) {
        snprintf(path, sizeof(path), "%d", i);
        make_folder(proc, path);
        if (i == 5)
            continue;
        snprintf(path, sizeof(path), "%d/fd", i);
        make_folder(proc, path);
    }
    MUST(symlinkat("anon_inode:kvm-vm", proc, "1/fd/17") == 0);
    MUST(symlinkat("anon_inode:kvm-vm", proc, "2/fd/0") == 0);
    MUST(symlinkat("anon_inode:kvm-vmx", proc, "3/fd/1") == 0 && symlinkat("anon_inode:kvm-v", proc, "3/fd/2") == 0);
    MUST(symlinkat("anon_inode:kvm-vm", proc, "3/fd/-5") == 0);
    MUST(symlinkat("anon_inode:kvm-vm", proc, "3/fd/99999999999") == 0);
    MUST(symlinkat("anon_inode:kvm-vm", proc, "3/fd/name") == 0);
    MUST(symlinkat(long_link, proc, "3/fd/3") == 0);
    write_file(proc, "4/fd/9", "", 0);
    write_file(proc, "5/fd", "", 0);
    ps_holds(proc, pids, 7, "anon_inode:kvm-vm", fds, errs);
    CHECK(fds[0] == 17 && errs[0] == 0);
    CHECK(fds[1] == 0 && errs[1] == 0);
    CHECK(fds[2] == -1 && errs[2] == 0); /* longer, shorter, and names that are no descriptor */
    CHECK(fds[3] == -1 && errs[3] == -EINVAL);
    CHECK(fds[4] == -1 && errs[4] == -ENOTDIR);
    CHECK(fds[5] == -1 && errs[5] == 0);
    CHECK(fds[6] == -1 && errs[6] == -ENOENT);
    /* no link that is longer than there is room for is taken for its beginning */
    for (size_t cut = 60; cut < strlen(long_link); cut++) {
        char *beginning = exactly(cut + 1);

        memcpy(beginning, long_link, cut);
        beginning[cut] = 0;
        ps_holds(proc, &pids[2], 1, beginning, fds, errs);
        CHECK(fds[0] == -1);
        free(beginning);
    }
    remove_root(root, proc);
    CHECK(open_fds() == before);
}

static void test_names(void)
{
    struct ps_task rows[4] = {0};
    char *text = exactly(4 * (sizeof(rows->comm) + 1));

    memset(rows[1].comm, 'n', sizeof(rows[1].comm));
    rows[1].comm_len = sizeof(rows[1].comm);
    memcpy(rows[2].comm, "a b\n", 4);
    rows[2].comm_len = 4;
    CHECK(ps_names(rows, 0, text) == 0);
    CHECK(ps_names(rows, 4, text) == 1 + 69 + 5 + 1);
    CHECK(memcmp(text + 70, "a b\n\0", 6) == 0 && text[0] == 0 && text[69] == 0);
    memset(rows, 'z', sizeof(rows));
    for (int i = 0; i < 4; i++)
        rows[i].comm_len = sizeof(rows->comm);
    CHECK(ps_names(rows, 4, text) == 4 * 69);
    free(text);
}

static long no_getdents(long number, long a, long b, long c, long d, long e)
{
    if (number != SYS_getdents64)
        return plain_syscall(number, a, b, c, d, e);
    errno = EIO;
    return -1;
}

static long short_getdents(long number, long a, long b, long c, long d, long e)
{
    return plain_syscall(number, a, b, number == SYS_getdents64 ? 64 : c, d, e);
}

static long no_openat2(long number, long a, long b, long c, long d, long e)
{
    if (number != 437)
        return plain_syscall(number, a, b, c, d, e);
    errno = ENOSYS;
    return -1;
}

static void test_listing_fails(void)
{
    int before = open_fds(), proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int32_t self = getpid(), id, fd, err;

    hook = no_getdents;
    CHECK(ps_list(proc, "self/task", &id, NULL, 1) == -EIO);
    ps_holds(proc, &self, 1, "x", &fd, &err);
    CHECK(fd == -1 && err == -EIO);
    hook = short_getdents; /* answers as short as one that a signal cut off: not the end */
    CHECK(ps_list(proc, "self/task", &id, NULL, 1) == 1 && id == self);
    hook = no_openat2;
    CHECK(ps_open_beneath(proc, "self", O_RDONLY) == -ENOSYS);
    hook = NULL;
    close(proc);
    CHECK(open_fds() == before);
}

static void test_debugfs(void)
{
    int before = open_fds(), fd = ps_open_debugfs();

    CHECK(fd >= 0 || fd > -4096); /* a descriptor for whoever may, an errno for others */
    if (fd >= 0)
        close(fd);
    CHECK(open_fds() == before);
}

int main(void)
{
    test_numbers();
    test_stat_text();
    test_list();
    test_weigh();
    test_links();
    test_holds();
    test_names();
    test_listing_fails();
    test_debugfs();
    return report("procscan, files");
}
