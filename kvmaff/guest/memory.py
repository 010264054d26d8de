"""
Where a guest's memory is.

Source: Documentation/filesystems/proc.rst (numa_maps): each mapping's pages by node (``N0=…``) and their size. It costs
about 4 ms a GiB of small pages, so nobody reads it where there is one node only.

Rule: pages of a file of which none was written are the program and its libraries, which processes share: a guest of
a few MiB would seem to be wherever these were read first. A guest's memory is written, in whatever file it lies.
"""

from __future__ import annotations

import re

from kvmaff.guest.recorded import recorded_guests
from kvmaff.kernel.scan import Proc

__all__ = ["memory_by_node"]

_LIMIT = 1 << 26
_PAGES = re.compile(rb" N([0-9]{1,4})=([0-9]{1,15})")
_WRITTEN = re.compile(rb" (?:anon|dirty)=| huge(?: |$)")
_SIZE = re.compile(rb" kernelpagesize_kB=([0-9]{1,9})")


def memory_by_node(pid: int, root: str = "/") -> tuple[tuple[int, int], ...]:
    """
    Read where a process's memory is.

    Args:
        pid: The process.
        root: ``/``, or the root of a recorded machine.

    Returns:
        (node, bytes) by node number; nothing where that may not be read.

    Raises:
        HostReadError: There is no /proc, or a capture is damaged.
    """
    recorded = None if root == "/" else recorded_guests(root)
    if recorded is not None:
        return recorded.memory.get(pid, ())
    found: dict[int, int] = {}
    with Proc(root) as proc:
        text = proc.read(f"{pid}/numa_maps", _LIMIT) or b""
    for line in text.splitlines():
        if b" file=" in line and not _WRITTEN.search(line):
            continue
        size = _SIZE.search(line)
        for node, pages in _PAGES.findall(line):
            found[int(node)] = found.get(int(node), 0) + int(pages) * (int(size[1]) if size else 4) * 1024
    return tuple(sorted(found.items()))
