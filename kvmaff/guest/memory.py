"""
Where a guest's memory is.

Sources: Documentation/filesystems/proc.rst (numa_maps): each mapping's pages by node (``N0=…``) and their size;
move_pages(2), which tells the node of any page.

numa_maps is exact and visits every page: 4 to 9 ms a GiB of small pages were measured, during which the guest can
change none of its mappings; huge pages cost a twentieth of that and less. So a guest with more than 1 GiB is sampled,
which takes 2 ms however large it is, and up to 15 where little is there of what is mapped. Nobody reads either where
there is one node only.

Rules:

* pages of a file of which none was written are the program and its libraries, which processes share: a guest of a
  few MiB would seem to be wherever these were read first. A guest's memory is written, in whatever file it lies; a
  sample, which cannot tell whether a page was written, is taken where it could have been;
* a sample is of one page out of each of many equal parts of all that is mapped, at places that follow no period:
  memory interleaved over nodes would otherwise be found on one of them;
* what a sample cannot tell is counted: where too few pages are there, or where move_pages finds less than the kernel
  says that the process has. Linux 6.1, unlike 6.12, finds no page that NUMA balancing has marked to see who uses it:
  on one node that may be all of them, and on another one none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence

from kvmaff.guest.recorded import recorded_guests
from kvmaff.kernel.pages import page_nodes
from kvmaff.kernel.scan import Proc

__all__ = ["Span", "memory_by_node", "picked", "scaled", "spans_of"]

Memory = tuple[tuple[int, int], ...]
Span = tuple[int, int]
"""The first address of a mapping, and how many pages it has."""

_LIMIT = 1 << 26
_PAGES = re.compile(rb" N([0-9]{1,4})=([0-9]{1,15})")
_WRITTEN = re.compile(rb" (?:anon|dirty)=| huge(?: |$)")
_SIZE = re.compile(rb" kernelpagesize_kB=([0-9]{1,9})")

_SAMPLED_FROM = 1 << 30  # at 0.25 GiB of small pages both ways take as long; of huge ones at 8 GiB
_WANTED = 2048  # pages that are there, in a sample
_ENOUGH = 512
_FOUND = 0.95  # of what is resident
_MOST = 1 << 14  # pages to ask for, where few of those that are mapped are there
_RESIDENT = re.compile(rb"^(RssAnon|RssShmem|HugetlbPages):\s*([0-9]{1,15}) kB$", re.MULTILINE)
_MAPPING = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) .w.. [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ [0-9]+ *(.*)$", re.MULTILINE
)
_DEVICE = re.compile(rb"anon_inode:|/dev/(?!shm/|zero |hugepages)")  # its registers and memory are on no node
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio
_PAGE = os.sysconf("SC_PAGE_SIZE")


def memory_by_node(pid: int, root: str = "/") -> Memory:
    """
    Read where a process's memory is.

    Exact up to 1 GiB. Above, a node's share is that of some 2,000 pages, never of fewer than 512 (then all are
    counted): 19 times out of 20 it is off by less than 2.2 % of the whole (4.4 % at 512), and much less where nodes
    have few large stretches each. What the kernel does not find, at most 5 % of the whole, is missing beside.

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
    with Proc(root) as proc:
        sampled = _sampled(proc, pid) if proc.live else None
        return _counted(proc.read(f"{pid}/numa_maps", _LIMIT) or b"") if sampled is None else sampled


def _counted(text: bytes) -> Memory:
    found: dict[int, int] = {}
    for line in text.splitlines():
        if b" file=" in line and not _WRITTEN.search(line):
            continue
        size = _SIZE.search(line)
        for node, pages in _PAGES.findall(line):
            found[int(node)] = found.get(int(node), 0) + int(pages) * (int(size[1]) if size else 4) * 1024
    return tuple(sorted(found.items()))


def _sampled(proc: Proc, pid: int) -> Memory | None:
    """Where a large process's memory is, by a sample; None where every page is to be counted."""
    told = {name: int(kib) << 10 for name, kib in _RESIDENT.findall(proc.read(f"{pid}/status") or b"")}
    resident = sum(told.values())
    # gigabytes of hugetlb alone are counted in no time
    if resident - told.get(b"HugetlbPages", 0) <= _SAMPLED_FROM:
        return None
    start = proc.start_of(pid)
    spans = spans_of(proc.read(f"{pid}/maps", _LIMIT) or b"")
    mapped = sum(pages for _, pages in spans)
    addresses = picked(spans, min(_MOST, max(_WANTED, _WANTED * mapped * _PAGE // resident)))
    try:
        nodes = page_nodes(pid, addresses)
    except ProcessLookupError:
        return ()
    except OSError:
        return None  # not permitted, or no such call: numa_maps says by itself whether it may be read
    if not start or start != proc.start_of(pid):
        return ()  # these may have been the pages of another process, which got its number
    memory = scaled(mapped, nodes)
    if sum(node >= 0 for node in nodes) < _ENOUGH or sum(size for _, size in memory) < resident * _FOUND:
        return None
    return memory


def spans_of(maps: bytes) -> list[Span]:
    """
    Where a process may have written.

    Args:
        maps: What its /proc/PID/maps says.

    Returns:
        Its writable mappings, in order; without those of devices.
    """
    found = []
    for first, end, name in _MAPPING.findall(maps):
        pages = (int(end, 16) - int(first, 16)) // _PAGE
        if pages > 0 and not _DEVICE.match(name):
            found.append((int(first, 16), pages))
    return found


def picked(spans: Sequence[Span], count: int) -> list[int]:
    """
    Pick pages evenly: all the pages, one after the other, are cut into equal parts, and one of each part is taken.

    Args:
        spans: Where there are pages.
        count: How many to pick.

    Returns:
        Their addresses, in the order of the spans, always the same ones; every page where there are no more.
    """
    total = sum(pages for _, pages in spans)
    return list(_addresses(spans, _places(total, min(count, total))))


def _places(total: int, count: int) -> Iterator[int]:
    """Which pages, from 0: squares times an irrational number are even in every part, of any size (Weyl, 1916)."""
    for part in range(count):
        first, end = part * total // count, (part + 1) * total // count
        yield first + ((part * part * _GOLDEN & 0xFFFFFFFFFFFFFFFF) * (end - first) >> 64)


def _addresses(spans: Iterable[Span], places: Iterable[int]) -> Iterator[int]:
    rest = iter(spans)
    address, before, after = 0, 0, 0
    for place in places:
        while place >= after:
            address, pages = next(rest)
            before, after = after, after + pages
        yield address + (place - before) * _PAGE


def scaled(pages: int, nodes: Sequence[int]) -> Memory:
    """
    Conclude from some pages where all are.

    Args:
        pages: How many pages the sample was picked from.
        nodes: The node of each that was picked; below 0 where there is none.

    Returns:
        (node, bytes) by node number.
    """
    counts: dict[int, int] = {}
    for node in nodes:
        if node >= 0:
            counts[node] = counts.get(node, 0) + 1
    return tuple((node, count * pages // len(nodes) * _PAGE) for node, count in sorted(counts.items()))
