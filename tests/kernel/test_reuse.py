"""
A thread number that serves another thread between the look at it and the binding.

Run as a program, this file is the first process of a pid namespace of its own, where it says itself which number the
next thread or process gets.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.kernel import scan
from kvmaff.kernel.masks import Batch, Bind, Bound, Raw, bind
from kvmaff.kernel.scan import Proc, Scanner, ticks_now
from kvmaff.kernel.tasks import Task, Tasks
from tests.conftest import needs_root, needs_two_cpus

ROUNDS = 320
NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@needs_root
@needs_two_cpus
def test_no_mask_lands_on_a_stranger() -> None:
    """However a number changes hands between look and binding, and in the same clock tick too, its owner is let be."""
    try:
        tried = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if tried.returncode:
        pytest.skip(f"no pid namespace of our own: {tried.stderr.strip()}")
    done = subprocess.run(
        [*NAMESPACE, sys.executable, __file__],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.path.join(os.path.dirname(__file__), "..", "..")},
    )
    assert 0 == done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert [] == found["wrong"]
    assert ROUNDS <= sum(found["rounds"].values())
    assert all(ROUNDS // 5 <= count for count in found["rounds"].values()), found
    assert ROUNDS // 8 <= found["same_tick"]  # starts, which count in ticks, tell nothing there
    assert 0 == found["same_ino"]
    assert {"GONE"} == set(found["outcomes"])
    assert 6 * ROUNDS <= found["outcomes"]["GONE"]


class Missed(Exception):
    """Another one got the number."""


@contextmanager
def thread(number: int, name: str) -> Iterator[tuple[int, int]]:
    """A thread of this process with a number and name of our choice."""
    end, up = threading.Event(), threading.Event()
    one = threading.Thread(target=lambda: (up.set(), end.wait()))
    next_number(number)
    one.start()
    try:
        up.wait()
        if one.native_id != number:
            raise Missed
        call_it(number, name)
        yield os.getpid(), number
    finally:
        end.set()
        one.join()
        while os.path.exists(f"/proc/self/task/{one.native_id}"):
            time.sleep(0)  # joined is a moment before gone


@contextmanager
def process(number: int, name: str) -> Iterator[tuple[int, int]]:
    """A process with a number and name of our choice."""
    news, tell = os.pipe()
    next_number(number)
    pid = os.fork()
    if pid == 0:
        call_it(os.getpid(), name)
        os.close(tell)
        signal.pause()
    os.close(tell)
    os.read(news, 1)
    os.close(news)
    try:
        if pid != number:
            raise Missed
        yield pid, pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def thread_elsewhere(number: int, name: str) -> Iterator[tuple[int, int]]:
    """A thread of another process, with a number and name of our choice."""
    (orders, order), (news, tell) = os.pipe(), os.pipe()
    next_number(number + 10 * ROUNDS)
    pid = os.fork()
    if pid == 0:
        os.close(order)
        with contextlib.suppress(Missed), thread(number, name):
            os.write(tell, b"1")
            os.read(orders, 1)
        os.write(tell, b"0")
        signal.pause()
    try:
        if os.read(news, 1) != b"1":
            raise Missed
        yield pid, number
        os.write(order, b"1")
        os.read(news, 1)
    finally:
        elsewhere.append(pid)  # the process lives on without its thread
        for fd in (orders, order, news, tell):
            os.close(fd)


elsewhere: list[int] = []
KINDS: dict[str, tuple[Callable, Callable]] = {
    "thread, thread": (thread, thread),
    "thread, process": (thread, process),
    "process, process": (process, process),
    "process, thread": (process, thread),  # /proc/NUMBER/task lists the stranger's process then
    "thread elsewhere, thread": (thread_elsewhere, thread),
}


def next_number(number: int) -> None:
    """Say which number comes next."""
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(number - 1))


def call_it(number: int, name: str) -> None:
    """Name a thread of this process."""
    with open(f"/proc/self/task/{number}/comm", "w") as file:
        file.write(name)


def tick() -> None:
    """Wait until a clock tick begins."""
    now = ticks_now()
    while ticks_now() == now:
        pass


def old_rows(task: Task, tasks: Tasks, one: CpuSet, other: CpuSet) -> Iterator[tuple[Batch, int, int]]:
    """Whatever was found out about the victim, as batches: with the place of its row, and when it was looked at."""
    place = list(tasks).index(task)
    for expect in (None, [one] * len(tasks)):
        want = [*map(CpuSet, map(os.sched_getaffinity, (0,) * len(tasks)))]
        want[place] = other
        yield Batch.of_tasks(tasks, want, expect), place, tasks.seen
    for ino, seen in ((task.ino, tasks.seen), (0, tasks.seen), (0, task.start), (task.ino + 1, tasks.seen)):
        row = Bind(pid=task.pid, tid=task.tid, ino=ino, start=task.start, expect=one, want=other)
        yield Batch.of([row]), 0, seen


def swap(proc: Proc, scanner: Scanner, kind: str, number: int, found: dict) -> None:
    """Look at a victim, let a stranger have its number, and bind the victim."""
    victim, stranger = KINDS[kind]
    first, second, *_ = sorted(os.sched_getaffinity(0))
    one, other = CpuSet([first]), CpuSet([second])
    tick()
    with victim(number, "victim") as (pid, tid):
        tasks = scanner.scan([pid])
        (task,) = (row for row in tasks if row.tid == tid)
    with stranger(number, "stranger") as (owner, _):
        (now,) = (row for row in proc.tasks([owner]) if row.tid == number)
        found["rounds"][kind] += 1
        found["same_tick"] += now.start == task.start
        found["same_ino"] += now.ino == task.ino
        os.sched_setaffinity(number, one)
        for batch, place, seen in old_rows(task, tasks, one, other):
            bound: Bound = bind(proc.fd, batch, seen)[place]
            found["outcomes"][bound.raw.name] += 1
            if bound.raw is not Raw.GONE or bound.after or os.sched_getaffinity(number) != set(one):
                found["wrong"].append(f"{kind}: {task} {now} {bound} {os.sched_getaffinity(number)}")
        names = dict(zip((again := scanner.scan([owner])).tids(), again.names(), strict=True))
        if names[number] != b"stranger":
            found["wrong"].append(f"{kind}: {number} is still known as {names[number]!r}")


def main() -> None:
    """Swap until there were enough."""
    scan._SETTLE_NS = 0  # names count for good as soon as they are read
    found: dict = {"rounds": dict.fromkeys(KINDS, 0), "same_tick": 0, "same_ino": 0, "wrong": []}
    found["outcomes"] = collections.Counter()
    kinds = list(KINDS)
    with Proc() as proc:
        scanner = Scanner(proc, stats=True)
        for number in range(1000, 1000 + 4 * ROUNDS):
            with contextlib.suppress(Missed):
                swap(proc, scanner, kinds[number % len(kinds)], number, found)
            while elsewhere:
                os.kill(elsewhere[0], signal.SIGKILL)
                os.waitpid(elsewhere.pop(0), 0)
            if sum(found["rounds"].values()) >= ROUNDS and min(found["rounds"].values()) >= ROUNDS // 5:
                break
    print(json.dumps(found))  # noqa: T201 - that is how it answers


if __name__ == "__main__":
    main()
