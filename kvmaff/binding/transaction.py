"""
Bind threads so that there is always a way back.

The order, which is the promise: look at the masks; write the record of them to disk; only then set, thread by
thread, each proved to be the one that was meant and read back; where the kernel did less than asked for any
thread that lives, put all of them back and drop the record. A crash in between leaves the record, and
undo restores what it says.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import attrs

from kvmaff.binding.journal import Folder
from kvmaff.binding.record import Entry, Record
from kvmaff.binding.report import Outcome, Report, ThreadResult
from kvmaff.cpuset import CpuSet
from kvmaff.errors import BindingFailed
from kvmaff.guest.guest import Role
from kvmaff.host.cgroup import cpus_granted
from kvmaff.host.tree import Tree
from kvmaff.kernel.masks import Bind, Bound, Raw, bind, read_masks
from kvmaff.kernel.scan import Proc, ticks_now

__all__ = ["Transaction", "Wish", "explain"]

_TICK = 1 / os.sysconf("SC_CLK_TCK")


@attrs.frozen(kw_only=True)
class Wish:
    """
    One thread and the CPUs it shall have.

    Attributes:
        pid: Its process.
        tid: Its number.
        ino: Inode number of its /proc folder when it was seen; 0 where not known.
        start: Its start, clock ticks after boot.
        seen: Clock ticks after boot, sampled before it was seen.
        role: What it is for; None for a thread of any process.
        index: Which vCPU or IOThread, or None.
        cpus: The CPUs; at least one.
    """

    pid: int
    tid: int
    ino: int
    start: int
    seen: int
    role: Role | None
    index: int | None
    cpus: CpuSet


class Transaction:
    """
    One call's changes; a context manager that puts everything back when its block fails.

    Args:
        folder: The locked journal.
        command: What was asked, for people.
    """

    def __init__(self, folder: Folder, command: str) -> None:
        self._folder = folder
        self._record: Record = folder.begin(command)
        self._written = False
        self._results: dict[tuple[int, int], ThreadResult] = {}
        self._changed: list[tuple[Wish, CpuSet]] = []  # in the record: thread, mask to go back to
        self._proc = Proc()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is not None and not isinstance(error, BindingFailed):
                self._put_back("the call was interrupted")
        finally:
            self._proc.__exit__(kind, error, trace)

    def bind(self, wishes: Sequence[Wish]) -> None:
        """
        Bind more threads.

        Args:
            wishes: The threads, none of which this transaction has bound before.

        Raises:
            BindingFailed: The kernel did not do all of it; everything that this transaction did is undone.
            JournalError: The record cannot be written; nothing of this call was changed.
        """
        wishes = sorted(wishes, key=lambda wish: (wish.pid, wish.tid))
        masks = read_masks([wish.tid for wish in wishes])
        rows: list[tuple[Wish, CpuSet, CpuSet]] = []  # thread, mask to go back to, mask the kernel tells
        for wish, (mask, error) in zip(wishes, masks, strict=True):
            if mask is None:
                self._note(wish, None, None, Outcome.GONE if error == errno.ESRCH else Outcome.REFUSED, error)
                continue
            # all its CPUs are offline: the kernel tells an empty mask, status the one to go back to
            back = mask or self._proc.status_mask(wish.pid, wish.tid) or wish.cpus
            rows.append((wish, back, mask))
        self._write([(wish, back) for wish, back, mask in rows if mask != wish.cpus])
        by_window: dict[int, list[tuple[Wish, CpuSet, CpuSet]]] = {}
        for row in rows:
            by_window.setdefault(row[0].seen, []).append(row)
        for seen, group in by_window.items():
            binds = [_bind(wish, expect=mask, want=wish.cpus) for wish, _, mask in group]
            for (wish, _, mask), bound in zip(group, bind(self._proc.fd, binds, seen), strict=True):
                self._take(wish, mask, bound)
        if any(result.outcome.failed for result in self._results.values()):
            self._put_back("not all threads could be bound")
            self._fail()
        if self._results and all(r.outcome is Outcome.GONE for r in self._results.values()):
            self._drop()
            self._fail()

    def report(self) -> Report:
        """
        What was done.

        Returns:
            The report, in order of process and thread.
        """
        results = tuple(self._results[key] for key in sorted(self._results))
        lives = any(result.outcome is not Outcome.GONE for result in results)
        ok = lives and not any(result.outcome.failed for result in results)
        return Report(ok=ok, threads=results, journal=str(self._record.number) if self._written else None)

    # -- the steps

    def _write(self, changes: Sequence[tuple[Wish, CpuSet]]) -> None:
        if not changes:
            return
        # Undo knows a thread by its start alone, which holds once the clock has ticked since.
        while max(wish.start for wish, _ in changes) >= ticks_now():
            time.sleep(_TICK)
        entries = [
            Entry(
                pid=wish.pid,
                tid=wish.tid,
                start=wish.start,
                role=wish.role,
                index=wish.index,
                before=back,
                asked=wish.cpus,
            )
            for wish, back in changes
        ]
        record = attrs.evolve(self._record, entries=(*self._record.entries, *entries))
        self._folder.write(record)
        self._record, self._written = record, True
        self._changed += changes

    def _take(self, wish: Wish, mask: CpuSet, bound: Bound) -> None:
        outcome = {
            Raw.KEPT: Outcome.KEPT,
            Raw.SET: Outcome.SET,
            Raw.CLIPPED: Outcome.CLIPPED,
            Raw.GONE: Outcome.GONE,
        }.get(bound.raw, Outcome.REFUSED)
        after = bound.after if bound.raw in (Raw.KEPT, Raw.SET, Raw.CLIPPED) else mask
        self._note(wish, mask, None if outcome is Outcome.GONE else after, outcome, bound.error, bound.raw)

    def _note(
        self,
        wish: Wish,
        before: CpuSet | None,
        after: CpuSet | None,
        outcome: Outcome,
        error: int,
        raw: Raw = Raw.REFUSED,
    ) -> None:
        why = ""
        if outcome is Outcome.GONE:
            why = "the thread has ended"
        elif outcome.failed:
            why = explain(wish.pid, wish.tid, wish.cpus, after, raw, error)
        self._results[wish.pid, wish.tid] = ThreadResult(
            pid=wish.pid,
            tid=wish.tid,
            role=wish.role,
            index=wish.index,
            before=before,
            asked=wish.cpus,
            after=after,
            outcome=outcome,
            why=why,
        )

    def _put_back(self, why: str) -> None:
        """
        Restore every thread in the record, the last first, and drop the record if that worked.

        It starts from what was written, not from what is known to be set: an interrupt may come between the kernel's
        doing and our noting it.
        """
        whole = True
        for wish, back in reversed(self._changed):
            now, _ = read_masks([wish.tid])[0]
            row = _bind(wish, expect=now or CpuSet(), want=back)
            bound = bind(self._proc.fd, [row], wish.seen)[0]
            whole &= bound.raw in (Raw.SET, Raw.KEPT, Raw.GONE)
            old = self._results.get((wish.pid, wish.tid))
            if old is not None:
                self._results[wish.pid, wish.tid] = _after_put_back(old, back, bound, why)
        if whole:
            self._changed.clear()
            self._drop()

    def _drop(self) -> None:
        if self._written:
            self._folder.remove(self._record.number)
            self._written = False

    def _fail(self) -> None:
        report = attrs.evolve(self.report(), ok=False)
        lines = report.problems or ("the guest or process has ended meanwhile",)
        raise BindingFailed("\n".join(lines), report=report)


def explain(pid: int, tid: int, asked: CpuSet, after: CpuSet | None, raw: Raw, error: int) -> str:
    """
    Say why a thread could not be bound, and what to do.

    Args:
        pid: Its process.
        tid: Its number.
        asked: The CPUs asked for.
        after: What the kernel gave it, where it gave anything.
        raw: The outcome.
        error: The errno, or 0.

    Returns:
        A sentence without full stop.
    """
    if raw is Raw.MOVED:
        return "somebody else changed its mask at the same moment; it was left alone, try again"
    if raw is Raw.STRAY:
        return (
            "it ended while it was bound and its number now names another thread, which may have got its mask"
        )
    if raw is not Raw.CLIPPED and error not in (errno.EINVAL, 0):
        hints = {
            errno.EPERM: "not allowed to bind it: that needs CAP_SYS_NICE (root), or the same user as the thread's",
            errno.EACCES: "not allowed to look at it; try as root",
            errno.EBUSY: "it has the deadline scheduling class, which may not be bound to fewer CPUs",
        }
        return hints.get(error, os.strerror(error))
    with Tree("/") as tree:
        grant = cpus_granted(tree, pid, tid)
        online = tree.cpus("sys/devices/system/cpu/online") or asked
    if not asked <= online:
        return f"CPU {asked - online} is not online"
    if grant is not None and not asked <= grant.cpus:
        lead = f"CPUs {asked} were asked, its cgroup {grant.cgroup} grants {grant.cpus}"
        return f"{lead}, so the kernel gave it {after}" if raw is Raw.CLIPPED else f"{lead}, so none is left"
    if raw is Raw.CLIPPED:
        return f"CPUs {asked} were asked, the kernel gave it {after}"
    return "the kernel does not let it be bound; it may be a kernel thread that belongs to its CPU"


def _after_put_back(old: ThreadResult, back: CpuSet, bound: Bound, why: str) -> ThreadResult:
    if bound.raw is Raw.GONE:
        return attrs.evolve(old, outcome=Outcome.GONE, after=None, why="the thread has ended")
    if bound.raw not in (Raw.SET, Raw.KEPT):
        reason = explain(old.pid, old.tid, back, bound.after, bound.raw, bound.error)
        return attrs.evolve(
            old, outcome=Outcome.REFUSED, why=f"could not be put back: {reason}; see kvmaff undo"
        )
    if old.outcome.failed:
        return attrs.evolve(old, after=bound.after)  # why it failed is what must be known
    return attrs.evolve(old, outcome=Outcome.RESTORED, after=bound.after, why=f"put back: {why}")


def _bind(wish: Wish, *, expect: CpuSet, want: CpuSet) -> Bind:
    return Bind(pid=wish.pid, tid=wish.tid, ino=wish.ino, start=wish.start, expect=expect, want=want)
