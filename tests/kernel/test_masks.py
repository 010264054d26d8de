"""Setting masks in bulk, on threads of this process only."""

from __future__ import annotations

import os
import threading

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.kernel.masks import Bind, Raw, bind
from kvmaff.kernel.scan import Proc, ticks_now

from ..conftest import needs_two_cpus
from .test_scan import threads

HERE = sorted(os.sched_getaffinity(0))
ALL = CpuSet(HERE)
LATE = 1 << 62


def _rows(proc: Proc, tids: list[int], want: CpuSet, expect: CpuSet = ALL) -> tuple[list[Bind], int]:
    tasks = proc.tasks([os.getpid()])
    rows = [
        Bind(pid=task.pid, tid=task.tid, ino=task.ino, start=task.start, expect=expect, want=want)
        for task in tasks
        if task.tid in tids
    ]
    return rows, tasks.seen


@needs_two_cpus
@settings(max_examples=30)
@given(hs.lists(hs.sets(hs.sampled_from(HERE), min_size=1), min_size=1, max_size=12))
def test_any_masks_are_set_and_read_back(masks: list[set[int]]) -> None:
    """Whatever masks threads are given, the standard library reads just those afterwards."""
    with threads(len(masks)) as tids, Proc() as proc:
        rows, seen = _rows(proc, tids, ALL)
        rows = [attrs.evolve(row, want=CpuSet(mask)) for row, mask in zip(rows, masks, strict=True)]
        for row, bound in zip(rows, bind(proc.fd, rows, seen), strict=True):
            assert (Raw.KEPT if row.want == ALL else Raw.SET) is bound.raw
            assert set(row.want) == os.sched_getaffinity(row.tid)
            assert row.want == bound.after


@needs_two_cpus
def test_each_outcome() -> None:
    """Kept, set, clipped, refused, moved and gone are told apart, and only what must change does."""
    one, other = CpuSet(HERE[:1]), CpuSet(HERE[1:2])
    with threads(1) as tids, Proc() as proc:
        (row,), seen = _rows(proc, tids, one)

        def outcome(**changes: object) -> tuple[Raw, CpuSet]:
            (bound,) = bind(proc.fd, [attrs.evolve(row, **changes)], seen)
            return bound.raw, CpuSet(os.sched_getaffinity(row.tid))

        absent = CpuSet([64 * 16])  # no kernel here has 1,025 CPUs, but a mask may name them
        assert (Raw.KEPT, ALL) == outcome(want=ALL)
        assert (Raw.SET, one) == outcome(want=one)
        assert (Raw.MOVED, one) == outcome(want=other)
        assert (Raw.SET, other) == outcome(expect=one, want=other)
        assert (Raw.GONE, other) == outcome(expect=other, start=row.start + 1, ino=row.ino + 1)
        assert (Raw.GONE, other) == outcome(expect=other, pid=os.getppid())
        with pytest.raises(ValueError, match="does not fit"):
            outcome(expect=other, want=absent)
    with Proc() as proc:
        (bound,) = bind(proc.fd, [row], seen)
    assert Raw.GONE is bound.raw
    assert 0 == len(bind(0, [], 0))


def test_identity_by_start() -> None:
    """A thread is known by its start alone once it is older than the look at it, and not before."""
    with threads(1) as tids, Proc() as proc:
        (row,), _ = _rows(proc, tids, ALL)
        unknown = attrs.evolve(row, ino=0)
        assert Raw.GONE is bind(proc.fd, [unknown], row.start)[0].raw
        assert Raw.KEPT is bind(proc.fd, [unknown], row.start + 1)[0].raw
        assert row.start <= ticks_now()


def test_other_threads_run_meanwhile() -> None:
    """The interpreter's lock is free during a call: another thread counts on."""
    stop, count = threading.Event(), [0]

    def tick() -> None:
        while not stop.wait(0.0005):
            count[0] += 1

    thread = threading.Thread(target=tick)
    with threads(400) as tids, Proc() as proc:
        rows, seen = _rows(proc, tids, ALL)
        thread.start()
        try:
            for _ in range(1000):
                bind(proc.fd, rows, seen)
        finally:
            stop.set()
            thread.join()
    assert count[0] > 10
