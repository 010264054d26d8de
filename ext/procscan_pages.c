/* Part of procscan.c: on which node pages are. */

long ps_pages(int32_t pid, const uintptr_t *addresses, size_t count, int32_t *nodes)
{
    long present = 0;

    if (pid <= 0) /* 0 would be ourselves */
        return -ESRCH;
    /* without nodes to move to it moves nothing: it only says where each page is */
    if (syscall(SYS_move_pages, pid, count, addresses, NULL, nodes, 0) < 0)
        return -errno;
    for (size_t i = 0; i < count; i++)
        present += nodes[i] >= 0;
    return present;
}
