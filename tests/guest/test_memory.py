"""Where a process's memory is, from numa_maps and from samples."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.guest import memory as room
from kvmaff.guest.memory import Span, memory_by_node, picked, scaled, spans_of
from kvmaff.kernel.pages import page_nodes
from kvmaff.kernel.scan import Proc
from kvmaff.testing import inputs_devices as st

from ..conftest import as_nobody, needs_root

_PAGE = mmap.PAGESIZE
_MIB = 1 << 20

needs_numa = pytest.mark.skipif(not os.path.exists("/proc/self/numa_maps"), reason="a kernel without NUMA")


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


needs_memory = pytest.mark.skipif(_available() < 4 << 30, reason="needs 4 GiB of memory")

_TOUCHING = """
import mmap, sys
kind, size, every = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
memory = mmap.mmap(-1, size, flags=getattr(mmap, kind) | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for place in range(0, size, every * mmap.PAGESIZE):
    memory[place] = 1
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def touching() -> Iterator[Callable[..., int]]:
    """Start processes that write to one page of every so many of a mapping; all end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(size: int, every: int = 1, kind: str = "MAP_PRIVATE") -> int:
        process = subprocess.Popen(
            [sys.executable, "-c", _TOUCHING, kind, str(size), str(every)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        return process.pid

    yield start
    for one in started:
        one.kill()
        one.communicate()


def _exact(pid: int) -> dict[int, int]:
    """What the kernel's own count says."""
    with Proc() as proc:
        return dict(room._counted(proc.read(f"{pid}/numa_maps", 1 << 26) or b""))


@given(st.layouts(), hs.integers(1, 4096))
def test_a_sample_of_stretches(layout: tuple[list[Span], list[tuple[int, int | None]]], count: int) -> None:
    """Whatever stretches memory lies in, each end of one puts at most the part it falls in to the wrong node."""
    spans, stretches = layout
    total = sum(pages for _, pages in spans)
    addresses = picked(spans, count)
    assert min(count, total) == len(set(addresses))
    places = _places(spans, addresses)
    nodes = _nodes(stretches, places)
    part = total / len(addresses)
    found = dict(scaled(total, nodes))
    for node in {node for _, node in stretches} - {None}:
        true = sum(pages for pages, own in stretches if own == node) * _PAGE
        ends = 2 * sum(own == node for _, own in stretches)
        assert abs(found.get(node, 0) - true) <= (ends * (part + 1) + 1) * _PAGE
    assert sum(found.values()) <= total * _PAGE


def _places(spans: list[Span], addresses: list[int]) -> list[int]:
    """Return as which page of all each address comes; they come in order."""
    before = [0, *accumulate(pages for _, pages in spans)]
    found = []
    for address in addresses:
        (at,) = [at for at, (first, pages) in enumerate(spans) if first <= address < first + pages * _PAGE]
        assert 0 == address % _PAGE
        found.append(before[at] + (address - spans[at][0]) // _PAGE)
    assert found == sorted(found)
    return found


def _nodes(stretches: list[tuple[int, int | None]], places: list[int]) -> list[int]:
    """Return the node of each page, as the kernel would."""
    ends = list(accumulate(pages for pages, _ in stretches))
    owners = [next(at for at, end in enumerate(ends) if place < end) for place in places]
    return [-2 if stretches[at][1] is None else stretches[at][1] for at in owners]


@given(
    total=hs.integers(1 << 18, 1 << 26),
    nodes=hs.integers(2, 8),
    size=hs.one_of(hs.sampled_from([1, 16, 512, 1 << 18]), hs.integers(1, 1 << 12), hs.floats(0.01, 8)),
)
def test_a_sample_of_interleaved_memory(total: int, nodes: int, size: float) -> None:
    """Memory interleaved over nodes, in pages of any size, is found on all of them alike."""
    step = max(1, round(size * total / 2048 / nodes)) if isinstance(size, float) else size
    (places,) = [[address // _PAGE for address in picked([(0, total)], 2048)]]
    found = dict(scaled(total, [place // step % nodes for place in places]))
    for node in range(nodes):
        rounds, rest = divmod(total, step * nodes)
        true = rounds * step + min(max(rest - node * step, 0), step)
        assert found.get(node, 0) / _PAGE / total == pytest.approx(true / total, abs=0.05)


@given(st.layouts(), hs.integers(1, 64))
def test_a_sample_of_everything_is_a_count(
    layout: tuple[list[Span], list[tuple[int, int | None]]], shift: int
) -> None:
    """Where as many pages are asked for as there are, each is asked for once."""
    spans = [(first, pages % 64 + 1) for first, pages in layout[0]]
    total = sum(pages for _, pages in spans)
    expected = [first + page * _PAGE for first, pages in spans for page in range(pages)]
    assert expected == picked(spans, total) == picked(spans, total + shift)
    assert ((3, total * _PAGE),) == scaled(total, [3] * total)


def test_nothing_to_pick() -> None:
    """No mappings: no pages; no pages there: no memory."""
    assert ([], (), ()) == (picked([], 9), scaled(0, []), scaled(9, [-2, -14]))


def test_mappings_that_may_have_been_written() -> None:
    """Writable mappings count, of whatever files, those of devices excepted; lines that make no sense do not."""
    page = f"{_PAGE:x}"
    lines = [
        f"0-{page} rw-p 00000000 00:00 0",
        "10000-20000 r--p 00000000 00:00 0 ",
        "20000-40000 rw-s 00000000 00:01 1057                       /memfd:ram (deleted)",
        "40000-50000 -w-p 00000000 fe:00 9 /dev/hugepages/x",
        "50000-60000 rw-s 00000000 00:1 9 /dev/shm/x",
        "60000-70000 rw-s 00000000 00:1 9 /dev/zero (deleted)",
        "70000-80000 rw-s 00000000 00:06 9 /dev/vfio/7",
        "80000-90000 rw-s 00000000 00:0e 9 anon_inode:[vfio-device]",
        "90000-a0000 rwxp 00000000 00:00 0 [heap]",
        "b0000-a0000 rw-p 00000000 00:00 0",
        "c0000-d0000",
        "fffffffffffffffff-fffffffffffffffff rw-p 00000000 00:00 0",
    ]
    expected = [(0, 1), *((place << 16, (1 << 16) // _PAGE) for place in (4, 5, 6, 9))]
    found = spans_of("\n".join(lines).encode())
    assert expected == [*found[:1], *found[2:]]
    assert (0x20000, 0x20000 // _PAGE) == found[1]


@given(hs.binary(max_size=300))
def test_any_mappings(text: bytes) -> None:
    """Whatever maps holds, what is picked lies in it."""
    spans = spans_of(text)
    assert all(
        any(first <= one < first + pages * _PAGE for first, pages in spans) for one in picked(spans, 9)
    )


def test_this_process() -> None:
    """The memory of this process, on all nodes together, is at least what it has just touched."""
    block = bytearray(64 << 20)
    for start in range(0, len(block), 4096):
        block[start] = 1
    total = sum(size for _, size in memory_by_node(os.getpid()))
    assert total > 64 << 20 or not os.path.exists("/proc/self/numa_maps")


@needs_numa
@needs_memory
@pytest.mark.parametrize("kind", ["MAP_PRIVATE", "MAP_SHARED"])
def test_a_large_process(touching: Callable[..., int], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Of 1.5 GiB the sample finds on each node what a count finds, within 3 %, and nobody counts."""
    pid = touching(1536 * _MIB, 1, kind)
    exact = _exact(pid)
    monkeypatch.setattr(room, "_counted", lambda _: pytest.fail("counted"))
    found = dict(memory_by_node(pid))
    assert exact.keys() >= found.keys()
    for node, size in exact.items():
        assert size == pytest.approx(found.get(node, 0), abs=0.03 * 1536 * _MIB)
    assert sum(found.values()) == pytest.approx(1536 * _MIB, rel=0.03)


@needs_numa
@needs_memory
def test_mapped_and_not_there(touching: Callable[..., int]) -> None:
    """Where a fifth of what is mapped is there, more pages are asked for, and the whole is right within 6 %."""
    pid = touching(6400 * _MIB, 5)
    assert sum(_exact(pid).values()) == pytest.approx(sum(size for _, size in memory_by_node(pid)), rel=0.06)


@needs_numa
@pytest.mark.parametrize("error", [PermissionError, OSError])
def test_what_may_not_be_sampled_is_counted(
    touching: Callable[..., int], monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    """Without the right to ask, or without the call, every page is counted."""

    def refuse(pid: int, addresses: list[int]) -> list[int]:
        raise error

    pid = touching(64 * _MIB)
    monkeypatch.setattr(room, "_SAMPLED_FROM", 1 * _MIB)
    monkeypatch.setattr(room, "page_nodes", refuse)
    assert tuple(_exact(pid).items()) == memory_by_node(pid)


@needs_numa
@pytest.mark.parametrize("present", [0.2, 0.4, 0.8])
def test_a_sample_that_cannot_be_right_is_not_believed(
    touching: Callable[..., int], monkeypatch: pytest.MonkeyPatch, present: float
) -> None:
    """Too few pages that are there, or less of them than the process has: every page is counted."""
    pid = touching(64 * _MIB)
    monkeypatch.setattr(room, "_SAMPLED_FROM", 1 * _MIB)
    monkeypatch.setattr(
        room,
        "page_nodes",
        lambda _, some: [5 if place < present * 2048 else -2 for place in range(len(some))],
    )
    assert tuple(_exact(pid).items()) == memory_by_node(pid)


@needs_numa
def test_a_number_that_changed_hands(touching: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked of another process that got the number meanwhile, or of none, is nothing."""
    pid = touching(64 * _MIB)
    monkeypatch.setattr(room, "_SAMPLED_FROM", 1 * _MIB)
    assert memory_by_node(pid)
    starts = iter([1, 2])
    with monkeypatch.context() as patch:
        patch.setattr(Proc, "start_of", lambda *_: next(starts))
        assert () == memory_by_node(pid)

    def gone(pid: int, addresses: list[int]) -> list[int]:
        raise ProcessLookupError

    monkeypatch.setattr(room, "page_nodes", gone)
    assert () == memory_by_node(pid)


def test_pages_of_this_process() -> None:
    """A page that was written is on a node, one that was not is on none; nobody has no pages."""
    block = mmap.mmap(-1, 3 * _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block[_PAGE] = 1
    maps = Path("/proc/self/maps").read_bytes()
    try:
        nodes = page_nodes(os.getpid(), picked(spans_of(maps), 1 << 15))
    except OSError as error:
        pytest.skip(f"move_pages: {error.strerror}")
    assert (True, True) == (any(node >= 0 for node in nodes), any(node < 0 for node in nodes))
    assert [] == page_nodes(os.getpid(), [])
    for pid in (0, -1, (1 << 22) + 1):
        with pytest.raises(ProcessLookupError):
            page_nodes(pid, [0])


@needs_root
def test_nobody_may_not_ask() -> None:
    """Without the right to look nothing is known of where pages are, and that is no error."""
    assert [] == as_nobody(
        f"list(__import__('kvmaff.guest.memory', fromlist=['x']).memory_by_node({os.getpid()}))"
    )


def test_recorded(tmp_path: Path) -> None:
    """Pages are counted by node in their own size; the program's own, and lines that make no sense, as nothing."""
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/numa_maps").write_text(
        "7f0 default anon=3 dirty=3 N0=1 N2=2 kernelpagesize_kB=4\n"
        "7f1 bind:2 file=/dev/hugepages/x huge N2=5 kernelpagesize_kB=2048\n"
        "7f2 default file=/usr/bin/qemu mapped=900 N1=900 kernelpagesize_kB=4\n"
        "7f3 default file=/memfd:ram\\040(deleted) dirty=2 N2=2 kernelpagesize_kB=4\n"
        "garbage N1=\n7f4 default\n"
    )
    assert ((0, 4096), (2, 16384 + (10 << 20))) == memory_by_node(7, str(tmp_path))
    assert () == memory_by_node(8, str(tmp_path))
