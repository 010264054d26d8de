"""Processes and threads in bulk, against the standard library."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.errors import HostReadError
from kvmaff.kernel.masks import mask_words, read_masks
from kvmaff.kernel.scan import Proc, ticks_now
from kvmaff.kernel.tasks import PF_KTHREAD
from kvmaff.kernel.text import printable


@contextmanager
def threads(count: int) -> Iterator[list[int]]:
    """Threads of this process that sleep, by number."""
    end, up = threading.Event(), threading.Barrier(count + 1)
    tids: list[int] = []

    def sleep() -> None:
        tids.append(threading.get_native_id())
        up.wait()
        end.wait()

    started = [threading.Thread(target=sleep) for _ in range(count)]
    for thread in started:
        thread.start()
    up.wait()
    try:
        yield tids
    finally:
        end.set()
        for thread in started:
            thread.join()
        while any(os.path.exists(f"/proc/self/task/{tid}") for tid in tids):
            time.sleep(0.001)  # joined is a moment before gone


def test_own_threads_and_masks() -> None:
    """Every thread of this process is listed, with name, start and the mask that the standard library reads."""
    with threads(50) as tids, Proc() as proc:
        seen_before = ticks_now()
        tasks = proc.tasks([os.getpid()])
        masks = proc.masks(tasks)
        assert {*tids, os.getpid()} <= set(tasks.tids())
        for task, mask in zip(tasks, masks, strict=True):
            assert CpuSet(os.sched_getaffinity(task.tid)) == mask
            raw = Path(f"/proc/self/task/{task.tid}/stat").read_bytes()
            fields = raw.rpartition(b")")[2].split()
            assert int(fields[19]) == task.start
            assert int(fields[6]) == task.flags
            assert os.stat(f"/proc/self/task/{task.tid}").st_ino == task.ino
            assert 0 == task.error
            assert task.start <= ticks_now()
        assert seen_before <= tasks.seen <= ticks_now()
        first, *_ = tasks
        # which is the main thread, unless thread numbers have wrapped around
        assert min(tasks.tids()) == first.tid == tasks[0].tid == tasks[-len(tasks)].tid
        assert list(tasks)[1:3] == tasks[1:3]
        with pytest.raises(IndexError):
            tasks[len(tasks)]


def test_all_processes() -> None:
    """The processes are those of /proc, and kernel threads are known by their flag."""
    with Proc() as proc:
        pids = proc.pids()
        listed = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        assert {os.getpid(), 1} <= set(pids)
        assert len(listed ^ set(pids)) < 50  # others come and go
        tasks = proc.tasks(pids)
        kernel = [task for task in tasks if task.flags & PF_KTHREAD]
        assert all(not os.path.exists(f"/proc/{task.pid}/exe") for task in kernel)


def test_gone_is_a_result() -> None:
    """A process that is not there has no threads; a thread that is not there has no mask."""
    with Proc() as proc:
        gone = 2**22 + 1  # above the largest pid_max
        assert 0 == len(proc.tasks([gone]))
        assert [(None, 3)] == read_masks([gone])
        assert [] == read_masks([])


def test_words_hold_every_possible_cpu() -> None:
    """The kernel's masks are wide enough for every possible CPU."""
    possible = CpuSet.parse(Path("/sys/devices/system/cpu/possible").read_text())
    assert possible.last < 64 * mask_words()


def test_recorded_tree(tmp_path: Path) -> None:
    """Below a recorded root masks come from status and nothing is asked of the running kernel."""
    task = tmp_path / "proc/77/task/77"
    task.mkdir(parents=True)
    tail = " ".join(str(n) for n in range(1, 50))
    (task / "stat").write_bytes(b"77 (a) b\n(\x1b[31m) S " + tail.encode())
    (task / "status").write_text("Name:\tx\nCpus_allowed:\tf\nCpus_allowed_list:\t4-5,4095\n")
    with Proc(str(tmp_path)) as proc:
        assert [77] == proc.pids()
        tasks = proc.tasks(proc.pids())
        assert [CpuSet.parse("4-5,4095")] == proc.masks(tasks)
        assert "a) b?(?[31m" == tasks[0].name
        (task / "status").write_text("Cpus_allowed_list:\tnonsense\n")
        assert [None] == proc.masks(tasks)
    with pytest.raises(HostReadError, match="proc"):
        Proc(str(tmp_path / "nothing"))


def test_printable() -> None:
    """What other processes call themselves cannot reach the terminal as anything but text."""
    assert "?[2Jabc?" == printable(b"\x1b[2Jabc\xff")
    assert "grün" == printable("grün".encode())
    assert "?" == printable("\u202e".encode())  # right-to-left override
    assert 128 == len(printable(b"x" * 1000))


def test_no_descriptor_is_left_open() -> None:
    """A scan leaves as many descriptors open as it found."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with Proc() as proc:
            proc.masks(proc.tasks(proc.pids()))
    assert before == len(os.listdir("/proc/self/fd"))
