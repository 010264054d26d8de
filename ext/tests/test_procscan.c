/* Tests of procscan.c, built with AddressSanitizer and UndefinedBehaviorSanitizer. They bind threads of this process only. */
#include "../procscan.c"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/wait.h>

static int failures;

#define CHECK(what)                                                              \
    do {                                                                         \
        if (!(what)) {                                                           \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);           \
            failures++;                                                          \
        }                                                                        \
    } while (0)

static int open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;

    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void write_file(const char *root, const char *path, const void *data, size_t size)
{
    char full[512];
    int fd;

    snprintf(full, sizeof(full), "%s/%s", root, path);
    fd = open(full, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    close(fd);
}

static void make_folder(const char *root, const char *path)
{
    char full[512];

    snprintf(full, sizeof(full), "%s/%s", root, path);
    if (mkdir(full, 0700) < 0)
        abort();
}

static void test_numbers(void)
{
    CHECK(whole_number("1") == 1);
    CHECK(whole_number("2147483647") == INT32_MAX);
    CHECK(whole_number("2147483648") == -1);
    CHECK(whole_number("99999999999999999999999999") == -1);
    CHECK(whole_number("0") == -1);
    CHECK(whole_number("") == -1);
    CHECK(whole_number("12a") == -1);
    CHECK(whole_number("-1") == -1);
    CHECK(whole_number(".") == -1);
}

#define TAIL " S 1 2 3 4 5 4194304 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38\n"

static int parse(const char *text, size_t len, struct ps_task *row)
{
    char *exact = malloc(len ? len : 1); /* so that a read past the end is seen */
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
    CHECK(parse("42 (x) S 1 2 3", 14, &row) == -EPROTO);
    CHECK(parse("42 (x)", 6, &row) == -EPROTO);
    CHECK(parse(")(", 2, &row) == -EPROTO);
    CHECK(parse("", 0, &row) == -EPROTO);
    /* numbers that overflow wrap as unsigned numbers do, and nothing more */
    CHECK(parse("1 (x) S 99999999999999999999999999 -1 -2 3 4 5 6", 48, &row) == -EPROTO);
    CHECK(parse("1 (x) S 1 2 3 4 -1 5 6 7 8 9 10 11 12 13 14 15 16 17 18 -9 20", 62, &row) == 0);
}

static void test_hostile_tree(void)
{
    char root[] = "/tmp/procscan-test-XXXXXX", clean[64], big[8192];
    struct ps_task rows[5] = {0};
    int32_t ids[2];
    uint64_t inos[2];
    int proc, before = open_fds();

    if (!mkdtemp(root))
        abort();
    make_folder(root, "1");
    make_folder(root, "1/task");
    make_folder(root, "1/task/1");
    make_folder(root, "1/task/2");
    make_folder(root, "1/task/3");
    make_folder(root, "1/task/4");
    make_folder(root, "1/task/not a number");
    make_folder(root, "1/task/99999999999");
    make_folder(root, "self");
    write_file(root, "1/task/1/stat", "1 (ok)" TAIL, 6 + sizeof(TAIL) - 1);
    write_file(root, "1/task/2/stat", "", 0);
    memset(big, '(', sizeof(big));
    write_file(root, "1/task/3/stat", big, sizeof(big));
    proc = open(root, O_RDONLY | O_DIRECTORY);
    CHECK(ps_list(proc, ".", ids, inos, 2) == 1 && ids[0] == 1);
    CHECK(ps_list(proc, "1/task", ids, inos, 2) == 4); /* more than there is room for: says so */
    CHECK(ps_list(proc, "1/task", NULL, NULL, 0) == 4);
    CHECK(ps_list(proc, "nothing", ids, inos, 2) == -ENOENT);
    CHECK(ps_list(proc, "1/task/1/stat", ids, inos, 2) == -ENOTDIR);
    for (int i = 0; i < 5; i++) {
        rows[i].pid = 1;
        rows[i].tid = i + 1;
    }
    CHECK(ps_stat(proc, rows, 5) == 1);
    CHECK(rows[0].err == 0 && rows[0].start == 777);
    CHECK(rows[1].err == -EPROTO && rows[2].err == -EPROTO);
    CHECK(rows[3].err == -ENOENT && rows[4].err == -ENOENT);
    close(proc);
    CHECK(open_fds() == before);
    snprintf(clean, sizeof(clean), "rm -rf '%s'", root);
    if (system(clean) != 0)
        abort();
}

struct sleeper {
    pthread_t thread;
    int pipe[2];
    volatile int32_t tid;
};

static void *sleep_on_pipe(void *arg)
{
    struct sleeper *self = arg;
    char byte;

    self->tid = (int32_t)syscall(SYS_gettid);
    while (read(self->pipe[0], &byte, 1) < 0)
        ;
    return NULL;
}

static void start(struct sleeper *self)
{
    self->tid = 0;
    if (pipe(self->pipe) || pthread_create(&self->thread, NULL, sleep_on_pipe, self))
        abort();
    while (!self->tid)
        sched_yield();
}

static void finish(struct sleeper *self)
{
    char path[64];

    close(self->pipe[1]);
    pthread_join(self->thread, NULL);
    close(self->pipe[0]);
    snprintf(path, sizeof(path), "/proc/self/task/%d", self->tid);
    while (access(path, F_OK) == 0) /* joined is a moment before gone */
        sched_yield();
}

static void look(int proc, struct sleeper *self, struct ps_bind *row)
{
    struct ps_task task = {.pid = getpid(), .tid = self->tid};
    struct stat st;
    char path[64];

    CHECK(ps_stat(proc, &task, 1) == 1);
    snprintf(path, sizeof(path), "/proc/self/task/%d", self->tid);
    CHECK(stat(path, &st) == 0);
    *row = (struct ps_bind){.pid = task.pid, .tid = task.tid, .ino = st.st_ino, .start = task.start};
}

static void test_bind(void)
{
    enum { WORDS = MAX_WORDS };
    static uint64_t all[WORDS], one[WORDS], none[WORDS], beyond[WORDS], after[WORDS], seen[WORDS];
    const uint64_t late = UINT64_MAX;
    long words = ps_mask_words();
    struct sleeper thread;
    struct ps_bind row, copy;
    int proc, before = open_fds();
    int32_t err;

    CHECK(words > 0 && words <= WORDS);
    proc = open("/proc", O_RDONLY | O_DIRECTORY);
    start(&thread);
    look(proc, &thread, &row);
    CHECK(ps_masks((int32_t *)&thread.tid, 1, all, WORDS, &err) == 1 && err == 0);
    for (size_t cpu = 0; cpu < 64 * WORDS; cpu++) {
        if (all[cpu / 64] >> cpu % 64 & 1) {
            one[cpu / 64] |= (uint64_t)1 << cpu % 64;
            break;
        }
    }
    memcpy(beyond, one, sizeof(beyond));
    beyond[16] |= 2; /* CPU 1025: as wide as masks get, and not there */

    CHECK(ps_bind(proc, &row, 1, late, all, all, after, WORDS) == 1 && row.outcome == PS_KEPT);
    CHECK(ps_bind(proc, &row, 1, late, all, beyond, after, WORDS) == 0 && row.outcome == PS_CLIPPED);
    CHECK(same_mask(after, one, WORDS));
    CHECK(ps_bind(proc, &row, 1, late, one, all, after, WORDS) == 1 && row.outcome == PS_SET);
    CHECK(ps_masks((int32_t *)&thread.tid, 1, seen, WORDS, &err) == 1 && same_mask(seen, all, WORDS));
    CHECK(ps_bind(proc, &row, 1, late, all, none, after, WORDS) == 0);
    CHECK(row.outcome == PS_REFUSED && row.err == -EINVAL);
    if (!same_mask(all, one, WORDS)) {
        CHECK(ps_bind(proc, &row, 1, late, one, none, after, WORDS) == 0 && row.outcome == PS_MOVED);
        CHECK(ps_bind(proc, &row, 1, late, all, one, after, WORDS) == 1 && row.outcome == PS_SET);
        CHECK(ps_bind(proc, &row, 1, late, one, all, after, WORDS) == 1 && row.outcome == PS_SET);
    }
    /* another inode number: the start decides, if the thread is older than the look at it */
    copy = row;
    copy.ino++;
    CHECK(ps_bind(proc, &copy, 1, late, all, all, after, WORDS) == 1 && copy.outcome == PS_KEPT);
    copy.ino++;
    CHECK(ps_bind(proc, &copy, 1, copy.start, all, one, after, WORDS) == 0 && copy.outcome == PS_GONE);
    copy.start++;
    CHECK(ps_bind(proc, &copy, 1, late, all, one, after, WORDS) == 0 && copy.outcome == PS_GONE);
    copy = row;
    copy.pid = 1; /* alive, but not a thread of that process */
    CHECK(ps_bind(proc, &copy, 1, late, all, one, after, WORDS) == 0 && copy.outcome == PS_GONE);
    CHECK(ps_masks((int32_t *)&thread.tid, 1, seen, WORDS, &err) == 1 && same_mask(seen, all, WORDS));
    CHECK(ps_bind(proc, &row, 1, late, all, one, after, 0) == -EINVAL);
    finish(&thread);
    CHECK(ps_bind(proc, &row, 1, late, all, one, after, WORDS) == 0 && row.outcome == PS_GONE);
    CHECK(ps_masks((int32_t *)&thread.tid, 1, seen, WORDS, &err) == 0 && err == -ESRCH);
    close(proc);
    CHECK(open_fds() == before);
}

int main(void)
{
    test_numbers();
    test_stat_text();
    test_hostile_tree();
    test_bind();
    if (!failures)
        puts("procscan: all C tests passed");
    return failures != 0;
}
