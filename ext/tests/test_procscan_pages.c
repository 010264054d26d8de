/* Tests of procscan_pages.c: where pages of processes of the test's own are. */
#include "checks.h"

#include <sys/mman.h>

enum {
    PAGES = 64
};

static size_t page;

static char *mapped(size_t pages, int sharing)
{
    char *start = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);

    MUST(start != MAP_FAILED);
    return start;
}

/* Rows for every page, at their exact size, so that a byte too many is seen. */
static long ask(int32_t pid, const char *start, size_t pages, int32_t **nodes)
{
    uintptr_t *addresses = exactly(pages * sizeof(*addresses));
    long found;

    *nodes = exactly(pages * sizeof(**nodes));
    for (size_t i = 0; i < pages; i++)
        addresses[i] = (uintptr_t)start + i * page;
    found = ps_pages(pid, addresses, pages, *nodes);
    free(addresses);
    return found;
}

static bool refused(long found)
{
    return found == -ENOSYS || found == -EPERM; /* a kernel without, or a sandbox: nothing can be tested */
}

static void test_present(int sharing)
{
    char *start = mapped(PAGES, sharing);
    int32_t *nodes;
    long found;

    for (size_t i = 0; i < PAGES; i += 2)
        start[i * page] = 1;
    found = ask(getpid(), start, PAGES, &nodes);
    if (!refused(found)) {
        CHECK(found == PAGES / 2);
        for (size_t i = 0; i < PAGES; i++)
            CHECK(i % 2 ? nodes[i] == -ENOENT : nodes[i] >= 0);
    }
    free(nodes);
    munmap(start, PAGES * page);
}

static void test_zero_page(void)
{
    char *start = mapped(1, MAP_PRIVATE);
    int32_t *nodes;
    long found;

    CHECK(*(volatile char *)start == 0); /* read, never written: the kernel's one page of zeros */
    found = ask(getpid(), start, 1, &nodes);
    CHECK(refused(found) || (found == 0 && nodes[0] < 0));
    free(nodes);
    munmap(start, page);
}

static void test_no_mapping(void)
{
    char *start = mapped(3, MAP_PRIVATE);
    uintptr_t odd[] = {0, 1, UINTPTR_MAX, (uintptr_t)start + 5};
    int32_t *nodes, few[4];
    long found;

    memset(start, 1, 3 * page);
    munmap(start + page, page);
    found = ask(getpid(), start, 3, &nodes);
    CHECK(refused(found) || (found == 2 && nodes[0] >= 0 && nodes[1] == -EFAULT && nodes[2] >= 0));
    free(nodes);
    found = ps_pages(getpid(), odd, 4, few);
    CHECK(refused(found) || (found == 1 && few[0] < 0 && few[1] < 0 && few[2] < 0 && few[3] >= 0));
    CHECK(refused(found) || ps_pages(getpid(), odd, 0, few) == 0);
    munmap(start, page);
    munmap(start + 2 * page, page);
}

static void test_nobody(void)
{
    uintptr_t address = 0;
    int32_t node = 7, pids[] = {0, -1, INT32_MIN, NOBODY};

    for (size_t i = 0; i < 4; i++) {
        long found = ps_pages(pids[i], &address, 1, &node);

        CHECK(found == -ESRCH || (pids[i] > 0 && refused(found)));
        CHECK(node == 7);
    }
}

static void test_another_process(void)
{
    char *start = mapped(PAGES, MAP_PRIVATE);
    int ready[2];
    pid_t pid;
    char byte;
    int32_t *nodes;
    long found;

    MUST(pipe2(ready, O_CLOEXEC) == 0);
    pid = fork();
    MUST(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        memset(start, 1, PAGES / 4 * page);
        MUST(write(ready[1], "x", 1) == 1);
        for (;;)
            pause();
    }
    MUST(read(ready[0], &byte, 1) == 1);
    found = ask(pid, start, PAGES, &nodes);
    CHECK(refused(found) || found == PAGES / 4);
    free(nodes);
    found = ask(getpid(), start, PAGES, &nodes); /* the same addresses, and nothing was written here */
    CHECK(refused(found) || found == 0);
    free(nodes);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    found = ask(pid, start, PAGES, &nodes);
    CHECK(found < 0);
    free(nodes);
    close(ready[0]);
    close(ready[1]);
    munmap(start, PAGES * page);
}

static long say(long number, long a, long b, long c, long d, long e)
{
    if (number == SYS_move_pages) {
        CHECK(d == 0); /* no nodes: nothing may be moved */
        if (a == 1) {
            errno = EPERM;
            return -1;
        }
        for (long i = 0; i < b; i++)
            ((int32_t *)e)[i] = i % 3 ? (int32_t)(i % 3) : -ENOENT;
        return 0;
    }
    return plain_syscall(number, a, b, c, d, e);
}

static void test_answers(void)
{
    uintptr_t addresses[9] = {0};
    int32_t nodes[9];

    hook = say;
    CHECK(ps_pages(1, addresses, 9, nodes) == -EPERM);
    CHECK(ps_pages(2, addresses, 9, nodes) == 6);
    CHECK(nodes[0] == -ENOENT && nodes[1] == 1 && nodes[8] == 2);
    hook = NULL;
}

int main(void)
{
    page = (size_t)sysconf(_SC_PAGESIZE);
    test_present(MAP_PRIVATE);
    test_present(MAP_SHARED);
    test_zero_page();
    test_no_mapping();
    test_nobody();
    test_another_process();
    test_answers();
    return report("procscan_pages");
}
