"""On which NUMA node pages of a process are, by move_pages(2), which without nodes to move to moves nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kvmaff.kernel.native import ffi, lib

__all__ = ["page_nodes"]


def page_nodes(pid: int, addresses: Sequence[int]) -> list[int]:
    """
    Ask where pages are.

    The kernel takes the process's memory map for 16 pages at a time, so that it is never held up for long.

    Args:
        pid: The process.
        addresses: One in each page.

    Returns:
        The node of each; below 0 where there is no page, or none that is anywhere (the page of zeros, a device's).

    Raises:
        ProcessLookupError: There is no such process.
        PermissionError: It may not be looked at (ptrace(2), PTRACE_MODE_READ), or a sandbox forbids to ask.
        OSError: Anything else, such as a kernel without NUMA.
    """
    nodes = ffi.new("int32_t[]", len(addresses) or 1)
    found = lib.ps_pages(pid, ffi.new("uintptr_t[]", addresses or 1), len(addresses), nodes)
    if found < 0:
        raise OSError(-found, os.strerror(-found))
    unpacked: list[int] = ffi.unpack(nodes, len(addresses))
    return unpacked
