"""Where a process's memory is, from numa_maps."""

from __future__ import annotations

import os
from pathlib import Path

from kvmaff.guest.memory import memory_by_node


def test_this_process() -> None:
    """The memory of this process, on all nodes together, is at least what it has just touched."""
    block = bytearray(64 << 20)
    for start in range(0, len(block), 4096):
        block[start] = 1
    total = sum(size for _, size in memory_by_node(os.getpid()))
    assert total > 64 << 20 or not os.path.exists("/proc/self/numa_maps")


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
