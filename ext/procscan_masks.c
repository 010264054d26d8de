/* Part of procscan.c: affinity masks. */

enum {
    MAX_WORDS = 1 << 10   /* 65,536 CPUs: eight times what any kernel is built for */
};

/* glibc hides that the kernel returns how many bytes it filled; the rest of the caller's mask is zeroed here. */
static int get_mask(int32_t tid, uint64_t *mask, size_t words)
{
    long got = syscall(SYS_sched_getaffinity, tid, words * sizeof(*mask), mask);

    if (got < 0)
        return -errno;
    memset((char *)mask + got, 0, words * sizeof(*mask) - (size_t)got);
    return 0;
}

static int set_mask(int32_t tid, const uint64_t *mask, size_t words)
{
    return syscall(SYS_sched_setaffinity, tid, words * sizeof(*mask), mask) < 0 ? -errno : 0;
}

static bool same_mask(const uint64_t *one, const uint64_t *other, size_t words)
{
    return memcmp(one, other, words * sizeof(*one)) == 0;
}

long ps_mask_words(void)
{
    uint64_t mask[MAX_WORDS];

    for (size_t words = 1; words <= MAX_WORDS; words *= 2) {
        int err = get_mask(0, mask, words);

        if (err != -EINVAL)
            return err ? err : (long)words;
    }
    return -E2BIG;
}

long ps_masks(const int32_t *tids, size_t n, uint64_t *masks, size_t words, int32_t *errs)
{
    long count = 0;

    for (size_t i = 0; i < n; i++) {
        errs[i] = get_mask(tids[i], masks + i * words, words);
        if (errs[i] == 0)
            count++;
        else
            memset(masks + i * words, 0, words * sizeof(*masks));
    }
    return count;
}

