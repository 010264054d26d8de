"""The tiny guests, in a QEMU on this very machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import needs_qemu
from . import tiny

ROMS = {"spin": tiny.SPIN, "tick": tiny.TICK}


@contextlib.contextmanager
def _running(folder: Path, rom: bytes, machine: str, vcpus: int) -> Iterator[list[int]]:
    """Run a guest, and give the threads of its vCPUs when each of these has said that it is up."""
    said = folder / "debugcon"
    extra = ("-chardev", f"file,id=said,path={said}", "-device", "isa-debugcon,iobase=0xe9,chardev=said")
    words = tiny.command(tiny.write(rom, folder / "rom"), machine=machine, vcpus=vcpus, extra=extra)
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as qemu:
        try:
            deadline = time.monotonic() + 60
            while not said.exists() or said.stat().st_size < vcpus:
                assert qemu.poll() is None
                assert time.monotonic() < deadline, f"up: {said.read_bytes()!r}"
                time.sleep(0.02)
            folders = Path(f"/proc/{qemu.pid}/task").iterdir()
            yield [int(task.name) for task in folders if (task / "comm").read_text().startswith("CPU ")]
            assert b"+" * vcpus == said.read_bytes(), "none was started twice"
        finally:
            qemu.kill()


def _ran_seconds(tid: int) -> float:
    return int(Path(f"/proc/{tid}/schedstat").read_text().split()[0]) / 1e9


def _switches(tid: int) -> int:
    lines = Path(f"/proc/{tid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


@pytest.mark.parametrize("rom", ROMS)
def test_rom(rom: str) -> None:
    """A ROM is 64 KiB and jumps to its beginning from the reset vector."""
    assert 65536 == len(ROMS[rom])
    assert bytes.fromhex("ea000000f0") == ROMS[rom][0xFFF0:0xFFF5]


@needs_qemu
@pytest.mark.parametrize("machine", ["microvm", "q35"])
@pytest.mark.parametrize("vcpus", [1, 2, 5])
def test_spin(tmp_path: Path, machine: str, vcpus: int) -> None:
    """All vCPUs come up, and spin."""
    with _running(tmp_path, tiny.SPIN, machine, vcpus) as threads:
        assert vcpus == len(threads)
        before = [_ran_seconds(tid) for tid in threads]
        deadline = time.monotonic() + 60
        while min(_ran_seconds(tid) - ran for tid, ran in zip(threads, before, strict=True)) < 0.1:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@needs_qemu
@pytest.mark.parametrize("machine", ["microvm", "q35"])
@pytest.mark.parametrize("vcpus", [1, 2, 16])
def test_tick(tmp_path: Path, machine: str, vcpus: int) -> None:
    """All vCPUs come up, sleep, and are woken again and again; a thread that is bound moves at its next wake."""
    with _running(tmp_path, tiny.TICK, machine, vcpus) as threads:
        assert vcpus == len(threads)
        before = [_switches(tid) for tid in threads]
        ran = [_ran_seconds(tid) for tid in threads]
        time.sleep(0.5)
        deadline = time.monotonic() + 60
        while min(_switches(tid) - was for tid, was in zip(threads, before, strict=True)) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        seconds = time.monotonic() - (deadline - 60) + 0.5
        assert max(_ran_seconds(tid) - was for tid, was in zip(threads, ran, strict=True)) < seconds / 4
        for cpu in os.sched_getaffinity(0):
            os.sched_setaffinity(threads[-1], {cpu})
            deadline = time.monotonic() + 10
            while cpu != int(Path(f"/proc/{threads[-1]}/stat").read_text().rpartition(")")[2].split()[36]):
                assert time.monotonic() < deadline
                time.sleep(0.01)
