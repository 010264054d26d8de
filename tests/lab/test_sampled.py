"""A sample of a process's memory, on a real NUMA kernel: against the kernel's own count of every page."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmaff.guest import memory as room
from kvmaff.guest.memory import memory_by_node
from kvmaff.kernel.scan import Proc

from ..conftest import needs_qemu
from .machine import Machine

FOUR = Machine.parse("4x4")
NEW = dataclasses.replace(FOUR, kernel="6.12")
BALANCING = Path("/proc/sys/kernel/numa_balancing")
PARTS = {
    (1, "small"): 48,
    (3, "small"): 96,
    (0, "small"): 24,
    (3, "huge"): 32,
}  # MiB on a node, in what pages
INTERLEAVED = 64

pytestmark = needs_qemu

_TOUCHING = """
import ctypes, json, mmap, os, sys
MPOL_INTERLEAVE, MBIND = 3, 237

def mapped(mib, how):
    memory = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE if how == "huge" else mmap.MADV_NOHUGEPAGE)
    return memory

def touch(memory):
    for place in range(0, len(memory), mmap.PAGESIZE):
        memory[place] = 1

kept = []
for cpu, how, mib in json.loads(sys.argv[1]):
    os.sched_setaffinity(0, [cpu])
    kept.append(mapped(mib, how))
    touch(kept[-1])
kept.append(mapped(int(sys.argv[2]), "small"))
start = ctypes.addressof(ctypes.c_char.from_buffer(kept[-1]))
nodes = ctypes.c_ulong(0b1111)
call = ctypes.CDLL(None, use_errno=True).syscall
size = ctypes.c_ulong(len(kept[-1]))
if call(MBIND, ctypes.c_void_p(start), size, MPOL_INTERLEAVE, ctypes.byref(nodes), ctypes.c_ulong(64), 0):
    raise OSError(ctypes.get_errno(), "mbind")
touch(kept[-1])
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def scattered() -> Iterator[int]:
    """Start a process with memory on three nodes, first touched there, and some that is interleaved over all four."""
    cpus = [[4 * node, how, mib] for (node, how), mib in PARTS.items()]
    words = [sys.executable, "-c", _TOUCHING, str(cpus).replace("'", '"'), str(INTERLEAVED)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert "ready\n" == process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def _exact(pid: int) -> dict[int, int]:
    with Proc() as proc:
        exact = dict(room._counted(proc.read(f"{pid}/numa_maps", 1 << 26) or b""))
    for node in range(4):
        least = INTERLEAVED // 4 + sum(mib for (own, _), mib in PARTS.items() if own == node)
        assert least << 20 <= exact[node] < least + 24 << 20
    return exact


def _sampled(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = _exact(pid)
    monkeypatch.setattr(room, "_SAMPLED_FROM", 64 << 20)
    monkeypatch.setattr(room, "_counted", lambda _: pytest.fail("counted"))
    found = dict(memory_by_node(pid))
    whole = sum(exact.values())
    assert {node: pytest.approx(size, abs=0.04 * whole) for node, size in exact.items()} == found


@pytest.fixture
def unbalanced() -> Iterator[None]:
    """No NUMA balancing, which marks pages so that Linux 6.1 does not find them."""
    before = BALANCING.read_text()
    BALANCING.write_text("0")
    yield
    BALANCING.write_text(before)


@pytest.mark.inside(FOUR, timeout=120)
def test_a_sample_is_right(unbalanced: None, scattered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory in small and huge pages, on single nodes and interleaved, is found on each within 4 % of the whole."""
    _sampled(scattered, monkeypatch)


@pytest.mark.inside(FOUR, timeout=120)
def test_pages_that_are_not_found(scattered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where NUMA balancing hides pages of one node more than of another, the answer is as right: all are counted."""
    assert "1" == BALANCING.read_text().strip()
    exact = _exact(scattered)
    monkeypatch.setattr(room, "_SAMPLED_FROM", 64 << 20)
    whole = sum(exact.values())
    found = dict(memory_by_node(scattered))
    assert {node: pytest.approx(size, abs=0.09 * whole) for node, size in exact.items()} == found


@pytest.mark.inside(NEW, timeout=120)
def test_a_sample_is_right_with_balancing(scattered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux 6.12 finds the pages that NUMA balancing has marked."""
    assert "1" == BALANCING.read_text().strip()
    _sampled(scattered, monkeypatch)
