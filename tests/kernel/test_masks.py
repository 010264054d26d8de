"""Setting masks in bulk, on threads of this process only."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Sequence

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.kernel import masks as masks_module
from kvmaff.kernel.masks import Batch, Bind, Raw, bind, mask_words
from kvmaff.kernel.scan import Proc, Scanner, ticks_now
from kvmaff.kernel.tasks import Tasks

from ..conftest import needs_two_cpus
from .test_scan import Sleeper, process, threads

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


class Made(Sequence[CpuSet]):
    """Masks that are made when they are asked for and held by nobody: their ids are used again and again."""

    def __init__(self, masks: Sequence[set[int]]) -> None:
        self._masks = masks

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, index: int) -> CpuSet:  # type: ignore[override]
        return CpuSet(self._masks[index])

    def __iter__(self) -> Iterator[CpuSet]:
        return (CpuSet(mask) for mask in self._masks)


masks_of_threads = hs.lists(hs.sets(hs.sampled_from(HERE), min_size=1), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """Another process of ours, with four threads."""
    with process(3) as one:
        yield one.pid


@needs_two_cpus
@settings(max_examples=40)
@given(masks_of_threads, hs.data())
def test_in_any_order(elsewhere: int, masks: list[set[int]], data: hs.DataObject) -> None:
    """Rows of two processes, given in any order, are bound each by its own mask and answered for in that order."""
    with threads(len(masks)) as tids, Proc() as proc:
        other = proc.tasks([elsewhere])
        rows, seen = _rows(proc, tids, ALL)
        rows += [
            Bind(pid=task.pid, tid=task.tid, ino=0, start=task.start, expect=ALL, want=ALL) for task in other
        ]
        pool = [
            *masks,
            *data.draw(hs.lists(hs.sets(hs.sampled_from(HERE), min_size=1), min_size=4, max_size=4)),
        ]
        mine = [
            attrs.evolve(row, want=CpuSet(mask), expect=CpuSet(os.sched_getaffinity(row.tid)))
            for row, mask in zip(rows, pool, strict=True)
        ]
        mine = data.draw(hs.permutations(mine))
        bounds = bind(proc.fd, Batch.of(mine), max(seen, other.seen) + 1)
        assert len(mine) == len(bounds) == bounds.done
        for row, bound in zip(mine, bounds, strict=True):
            assert (Raw.KEPT if row.want == row.expect else Raw.SET, 0, row.want) == (
                bound.raw,
                bound.error,
                bound.after,
            )
            assert set(row.want) == os.sched_getaffinity(row.tid)
        assert list(bounds) == bounds[:]
        assert bounds[-1] == bounds[len(bounds) - 1]
        assert bounds[::-1] == list(bounds)[::-1]
        with pytest.raises(IndexError):
            bounds[len(bounds)]
        with pytest.raises(ValueError, match="twice"):
            bind(proc.fd, [*mine, mine[0]], seen)


@needs_two_cpus
@settings(max_examples=40)
@given(masks_of_threads, hs.booleans())
def test_what_was_scanned(masks: list[set[int]], expecting: bool) -> None:
    """Rows of a scan are bound as they are, by masks that nobody holds, and read back by the standard library."""
    with threads(len(masks)) as tids, Proc() as proc:
        tasks = Scanner(proc, stats=True).scan([os.getpid()])
        wanted = dict(zip(tids, masks, strict=True))
        want = Made([wanted.get(tid, set(HERE)) for tid in tasks.tids()])
        expect = Made([set(HERE)] * len(tasks)) if expecting else None
        bounds = bind(proc.fd, Batch.of_tasks(tasks, want, expect), tasks.seen)
        for tid, mask, bound in zip(tasks.tids(), want, bounds, strict=True):
            assert (Raw.KEPT if mask == ALL else Raw.SET, mask) == (bound.raw, bound.after)
            assert set(mask) == os.sched_getaffinity(tid)
        if expecting and any(mask != ALL for mask in want):
            moved = bind(proc.fd, Batch.of_tasks(tasks, [ALL] * len(tasks), expect), tasks.seen)
            for mask, bound in zip(want, moved, strict=True):
                assert (Raw.KEPT if mask == ALL else Raw.MOVED, mask) == (bound.raw, bound.after)
        back = bind(proc.fd, Batch.of_tasks(tasks, [ALL] * len(tasks)), tasks.seen)
        assert len(tasks) == back.done
        for wrong in ([ALL] * (len(tasks) - 1), [ALL] * (len(tasks) + 1)):
            with pytest.raises(ValueError, match="threads need"):
                Batch.of_tasks(tasks, wrong)
            with pytest.raises(ValueError, match="threads need"):
                Batch.of_tasks(tasks, [ALL] * len(tasks), wrong)
        with pytest.raises(ValueError, match="does not fit"):
            Batch.of_tasks(tasks, [CpuSet([64 * mask_words()])] * len(tasks))


def test_masks_of_temporaries() -> None:
    """Masks that a generator makes, so that the next has the last one's id, are told apart."""
    count = 64 * mask_words()
    raw = masks_module._words(CpuSet([cpu]) for cpu in range(count))
    size = 8 * mask_words()
    assert [CpuSet([cpu]) for cpu in range(count)] == [
        CpuSet.from_words(raw[cpu * size : (cpu + 1) * size]) for cpu in range(count)
    ]


@needs_two_cpus
def test_threads_that_end_meanwhile() -> None:
    """Threads that end while they are bound are gone, and all others have what was wanted."""
    one = CpuSet(HERE[:1])
    with threads(150) as lasting, Proc() as proc:
        ending = [Sleeper() for _ in range(150)]
        scanned = Scanner(proc, stats=True).scan([os.getpid()])
        ours = {*lasting, *(sleeper.tid for sleeper in ending)}  # libraries have threads in this process, too
        rows = [row for row in _as_rows(scanned, one) if row.tid in ours]
        end = threading.Thread(target=lambda: [sleeper._end.set() for sleeper in ending])
        try:
            end.start()
            bounds = bind(proc.fd, rows, scanned.seen)
        finally:
            end.join()
            for sleeper in ending:
                sleeper.end()
        outcomes = {row.tid: bound for row, bound in zip(rows, bounds, strict=True)}
        assert {(Raw.SET, 0, one)} == {
            (outcomes[tid].raw, outcomes[tid].error, outcomes[tid].after) for tid in lasting
        }
        assert all(set(one) == os.sched_getaffinity(tid) for tid in lasting)
        for sleeper in ending:
            bound = outcomes[sleeper.tid]
            assert (bound.raw, bound.error, bound.after) in (
                (Raw.SET, 0, one),
                (Raw.GONE, errno.ESRCH, CpuSet()),
            )
        later = bind(proc.fd, rows, scanned.seen)
        gone = {row.tid for row, bound in zip(rows, later, strict=True) if bound.raw is Raw.GONE}
        assert {sleeper.tid for sleeper in ending} == gone


def _as_rows(tasks: Tasks, want: CpuSet) -> list[Bind]:
    return [
        Bind(pid=task.pid, tid=task.tid, ino=task.ino, start=task.start, expect=ALL, want=want)
        for task in tasks
    ]


def test_no_proc() -> None:
    """Where /proc cannot be read nothing is proved, so that nothing is set."""
    with threads(1) as tids, Proc() as proc:
        (row,), seen = _rows(proc, tids, CpuSet(HERE[:1]))
        (bound,) = bind(-1, [row], seen)
        assert (Raw.REFUSED, errno.EBADF, CpuSet()) == (bound.raw, bound.error, bound.after)
        assert set(HERE) == os.sched_getaffinity(row.tid)
