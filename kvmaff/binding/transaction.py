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
from kvmaff.binding.restore import restore
from kvmaff.binding.why import explain
from kvmaff.cpuset import CpuSet
from kvmaff.errors import BindingFailed, JournalError
from kvmaff.guest.guest import GuestThread, Role
from kvmaff.kernel.masks import Bind, Bound, Raw, bind, read_masks
from kvmaff.kernel.scan import Proc, ticks_now

__all__ = ["Transaction", "Wish"]

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

    @classmethod
    def of(cls, thread: GuestThread, seen: int, cpus: CpuSet) -> Wish:
        """
        The wish for a guest's thread.

        Args:
            thread: The thread.
            seen: Clock ticks after boot, sampled before it was seen.
            cpus: The CPUs.

        Returns:
            The wish.
        """
        return cls(
            pid=thread.pid,
            tid=thread.tid,
            ino=thread.ino,
            start=thread.start,
            seen=seen,
            role=thread.role,
            index=thread.index,
            cpus=cpus,
        )


class Transaction:
    """
    One call's changes; a context manager that puts everything back when its block fails.

    Args:
        folder: The locked journal.
        command: What was asked, for people.
        decided: What had been decided before, where the call decides; undo brings it back.
    """

    def __init__(self, folder: Folder, command: str, decided: str | None = None) -> None:
        self._folder = folder
        self._record: Record = attrs.evolve(folder.begin(command), decided=decided)
        self._written = False
        self._results: dict[tuple[int, int], ThreadResult] = {}
        self._never_ours: set[tuple[int, int]] = set()  # threads that never had the mask that was asked
        self._trouble: list[str] = []
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
            wishes: The threads; one that was bound before is bound anew, and what it had at first is what it
                goes back to.

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
            # the kernel tells a mask without offline CPUs, status the whole one to go back to
            back = self._handed_on(wish, mask) or self._proc.status_mask(wish.pid, wish.tid) or mask
            if back:
                rows.append((wish, back, mask))
            else:
                self._note(wish, mask, mask, Outcome.REFUSED, errno.ENODATA)
        self._write(rows)
        by_window: dict[int, list[tuple[Wish, CpuSet, CpuSet]]] = {}
        for row in rows:
            by_window.setdefault(row[0].seen, []).append(row)
        for seen, group in by_window.items():
            binds = [_bind(wish, expect=mask) for wish, _, mask in group]
            for (wish, _, mask), bound in zip(group, bind(self._proc.fd, binds, seen), strict=True):
                self._take(wish, mask, bound)
        self._bury()
        if any(result.outcome.failed for result in self._results.values()):
            self._put_back("not all threads could be bound")
            self._fail()
        if self._results and all(r.outcome is Outcome.GONE for r in self._results.values()):
            self._drop()
            self._fail()

    def note(self) -> None:
        """
        Write the record although no mask was changed: a decision was.

        Raises:
            JournalError: It cannot be written.
        """
        if not self._written:
            self._folder.write(self._record)
            self._written = True

    def report(self) -> Report:
        """
        What was done.

        Returns:
            The report, in order of process and thread.
        """
        results = tuple(self._results[key] for key in sorted(self._results))
        lives = not results or any(result.outcome is not Outcome.GONE for result in results)
        ok = lives and not any(result.outcome.failed for result in results) and not self._trouble
        journal = self._record.number if self._written else None
        return Report(ok=ok, threads=results, journal=journal, trouble=tuple(self._trouble))

    # -- the steps

    def _write(self, rows: Sequence[tuple[Wish, CpuSet, CpuSet]]) -> None:
        """Record all threads before any is changed; those too that have what is asked, for their heirs' sake."""
        if all(mask == wish.cpus for wish, _, mask in rows):
            return
        # Undo knows a thread by its start alone, and heirs by a later one: both hold once the clock has ticked.
        while max(self._record.ticks, *(wish.start for wish, _, _ in rows)) >= ticks_now():
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
                # one that was born with what is asked has it from us
                kept=mask == wish.cpus and self._handed_on(wish, mask) is None,
            )
            for wish, back, mask in rows
        ]
        record = attrs.evolve(self._record, entries=(*self._record.entries, *entries))
        self._folder.write(record)
        self._record, self._written = record, True

    def _handed_on(self, wish: Wish, mask: CpuSet) -> CpuSet | None:
        """What a thread that started meanwhile with a mask we set would have had otherwise: its creator's."""
        if wish.start <= self._record.ticks:
            return None
        given = {one.before for one in self._record.entries if one.pid == wish.pid and one.asked == mask}
        return given.pop() if len(given) == 1 else None

    def _take(self, wish: Wish, mask: CpuSet, bound: Bound) -> None:
        outcome = {
            Raw.KEPT: Outcome.KEPT,
            Raw.SET: Outcome.SET,
            Raw.CLIPPED: Outcome.CLIPPED,
            Raw.GONE: Outcome.GONE,
        }.get(bound.raw, Outcome.REFUSED)
        after = bound.after if bound.raw in (Raw.KEPT, Raw.SET, Raw.CLIPPED) else mask
        if bound.raw in (Raw.MOVED, Raw.STRAY, Raw.REFUSED):  # not UNSURE, which may have it
            self._never_ours.add((wish.tid, wish.start))
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
        earlier = self._results.get((wish.pid, wish.tid))
        self._results[wish.pid, wish.tid] = ThreadResult(
            pid=wish.pid,
            tid=wish.tid,
            role=wish.role,
            index=wish.index,
            before=earlier.before if earlier else before,
            asked=wish.cpus,
            after=after,
            outcome=outcome,
            why=why,
        )

    def _bury(self) -> None:
        """Where a process ended while it was bound, none of its threads has what the kernel said it had."""
        dying = {result.pid for result in self._results.values() if result.outcome is Outcome.GONE}
        leaders = {
            task.pid for task in self._proc.tasks(sorted(dying)) if task.tid == task.pid and task.alive
        }
        for key, result in self._results.items():
            if result.pid in dying - leaders:
                self._results[key] = attrs.evolve(
                    result, outcome=Outcome.GONE, after=None, why="the process has ended"
                )

    def _put_back(self, why: str) -> None:
        """
        Restore every thread in the record and drop the record if that worked.

        It starts from what was written, not from what is known to be set: an interrupt may come between the kernel's
        doing and our noting it.
        """
        if not self._written:
            return
        results = restore(self._proc, self._record.entries, self._record.ticks, skip=self._never_ours)
        for result in results:
            old = self._results.get((result.pid, result.tid))
            self._results[result.pid, result.tid] = _after_put_back(old, result, why)
        if not any(result.outcome.failed for result in results):
            self._drop()

    def _drop(self) -> None:
        if self._written:
            try:
                self._folder.remove(self._record.number)
            except JournalError as error:
                self._trouble.append(f"nothing stays bound, but its record does: {error}")
            else:
                self._written = False

    def _fail(self) -> None:
        report = attrs.evolve(self.report(), ok=False)
        lines = report.problems or ("the guest or process has ended meanwhile",)
        raise BindingFailed("\n".join(lines), report=report)


def _after_put_back(old: ThreadResult | None, result: ThreadResult, why: str) -> ThreadResult:
    if old is None:
        return result  # a thread that started meanwhile, or one that was not noted any more
    if result.outcome.failed:
        return attrs.evolve(
            old,
            outcome=Outcome.REFUSED,
            after=result.after,
            why=f"could not be put back: {result.why}; see kvmaff undo",
        )
    if old.outcome.failed:
        return attrs.evolve(old, after=result.after)  # why it failed is what must be known
    if result.outcome is Outcome.GONE:
        return attrs.evolve(old, outcome=Outcome.GONE, after=None, why="the thread has ended")
    return attrs.evolve(old, outcome=Outcome.RESTORED, after=result.after, why=f"put back: {why}")


def _bind(wish: Wish, *, expect: CpuSet) -> Bind:
    return Bind(pid=wish.pid, tid=wish.tid, ino=wish.ino, start=wish.start, expect=expect, want=wish.cpus)
