"""
Put threads back as a record says: the one way back, for undo and for a call that failed.

Rules:

* only a thread that is proved to be the recorded one is touched;
* gone is what the kernel says is gone; what merely cannot be looked at is refused;
* a mask is ours if it is what was asked, or what the kernel made of that: cut to the thread's cgroup or to online
  CPUs, or reset to the whole cgroup. Any other was set by somebody else since and is left alone, unless forced;
* a thread that started later and has the very mask that was asked inherited it: it goes back with its creator. The
  search goes on until no such thread is left, as threads that are not back yet make new ones;
* a mask keeps its offline CPUs: what goes back is the mask in status, not what may be run on today.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Sequence

import attrs

from kvmaff.binding.record import Entry
from kvmaff.binding.report import Outcome, ThreadResult
from kvmaff.binding.why import explain
from kvmaff.cpuset import CpuSet
from kvmaff.errors import JournalError
from kvmaff.host.cgroup import Cgroups
from kvmaff.host.tree import Tree, open_tree
from kvmaff.kernel.masks import Bind, Bound, Raw, bind, mask_words, read_masks
from kvmaff.kernel.scan import Proc
from kvmaff.kernel.tasks import Task

__all__ = ["restore"]

_ROUNDS = 64
_INHERITED = "it started later and had inherited the mask"

Key = tuple[int, int]
"""(tid, start): one thread for ever."""


@attrs.define
class _Known:
    """What the record says of one thread, its entries taken together."""

    entry: Entry  # the first: the mask from before it all
    asked: list[CpuSet]


def restore(
    proc: Proc,
    entries: Sequence[Entry],
    ticks: int,
    *,
    skip: Iterable[Key] = (),
    force: bool = False,
) -> list[ThreadResult]:
    """
    Put threads back.

    Args:
        proc: The open /proc.
        entries: What the record says, in order of doing; a thread may stand in it twice.
        ticks: Clock ticks after boot; no mask was changed before the next tick.
        skip: Threads, as (tid, start), to leave as they are.
        force: Also overwrite masks that somebody else has set since.

    Returns:
        A result for each thread that was to be changed and for each that had inherited a mask. Where none failed,
        everything is as it was.

    Raises:
        JournalError: The record names CPUs that this kernel cannot have; nothing was changed.
    """
    _check_width(entries)
    known: dict[Key, _Known] = {}
    for entry in entries:
        one = known.setdefault((entry.tid, entry.start), _Known(entry, []))
        one.asked.append(entry.asked)
    results: dict[Key, ThreadResult] = {}
    left_alone = set(skip)
    todo = [one for key, one in reversed(known.items()) if not one.entry.kept and key not in left_alone]
    makers = [one for key, one in known.items() if key not in left_alone]  # that had the mask to hand on
    pids = sorted({entry.pid for entry in entries})
    with open_tree("/") as tree:
        for number in range(_ROUNDS):
            look = _Look.at(proc, pids)
            rows: list[tuple[Entry, Task, CpuSet, str]] = []
            for one in todo if number == 0 else ():
                row = look.judge(tree, one, force=force)
                if isinstance(row, ThreadResult):
                    results[one.entry.tid, one.entry.start] = row
                else:
                    rows.append(row)
            for key, found in look.heirs(makers, ticks, {*known, *results}):
                if isinstance(found, ThreadResult):
                    results[key] = found
                else:
                    rows.append(found)
            if number and not rows:
                break
            for (entry, task, mask, note), bound in zip(rows, _bind(proc, rows, look.seen), strict=True):
                results[task.tid, task.start] = _result_of(tree, entry, mask, bound, note)
        else:
            first = {entry.pid: entry for entry in reversed(entries)}
            for pid in pids:
                why = "it starts threads faster than they can be put back; stop it, or run kvmaff undo again"
                results[pid, 0] = _result(first[pid], None, None, Outcome.REFUSED, why)
    return sorted(results.values(), key=lambda result: (result.pid, result.tid))


@attrs.frozen(kw_only=True)
class _Look:
    """The processes of a record at one moment."""

    alive: dict[Key, tuple[Task, CpuSet]]
    unreadable: dict[int, int]  # errno by thread, or by process where its threads cannot be listed
    seen: int

    @classmethod
    def at(cls, proc: Proc, pids: Sequence[int]) -> _Look:
        """Look."""
        tasks = proc.tasks(pids)
        alive, unreadable = {}, dict(tasks.errors)
        for task, (mask, error) in zip(tasks, read_masks(tasks.tids()), strict=True):
            wrong = task.error or error
            if wrong and wrong not in (errno.ENOENT, errno.ESRCH):
                unreadable[task.tid] = wrong
            elif mask is not None and not wrong:
                alive[task.tid, task.start] = (task, mask)
        return cls(alive=alive, unreadable=unreadable, seen=tasks.seen)

    def judge(
        self, tree: Tree, one: _Known, *, force: bool
    ) -> ThreadResult | tuple[Entry, Task, CpuSet, str]:
        """Say what is to be done with a recorded thread: a result where nothing is."""
        entry = one.entry
        found = self.alive.get((entry.tid, entry.start))
        if found is None:
            error = self.unreadable.get(entry.tid) or self.unreadable.get(entry.pid) or _hidden(entry.tid)
            if error:
                why = (
                    f"it cannot be looked at ({os.strerror(error)}), so it is not known whether it still runs"
                )
                return _result(entry, None, None, Outcome.REFUSED, why)
            return _result(entry, None, None, Outcome.GONE, "the thread has ended")
        task, mask = found
        online = tree.cpus("sys/devices/system/cpu/online") or mask
        if mask in (entry.before, entry.before & online):
            return _result(entry, mask, mask, Outcome.KEPT, "it has that mask already")
        if force or mask in one.asked or not mask:
            return entry, task, mask, ""
        grant = Cgroups(tree).granted(task.pid, task.tid)
        limit = grant.cpus & online if grant else online
        reset = mask == limit and (_forgets() or not any(cpus & limit for cpus in one.asked))
        if reset or any(mask == cpus & limit for cpus in one.asked):
            return entry, task, mask, ""
        why = f"somebody else has set it to {mask} since; kvmaff undo --force overwrites that"
        return _result(entry, mask, mask, Outcome.REFUSED, why)

    def heirs(
        self, makers: Sequence[_Known], ticks: int, others: set[Key]
    ) -> list[tuple[Key, ThreadResult | tuple[Entry, Task, CpuSet, str]]]:
        """Find threads that started later and have a mask that was asked of another of their process."""
        found: list[tuple[Key, ThreadResult | tuple[Entry, Task, CpuSet, str]]] = []
        for key, (task, mask) in self.alive.items():
            if key in others or task.start <= ticks:
                continue
            given = [one.entry for one in makers if one.entry.pid == task.pid and mask in one.asked]
            if not given or all(entry.before == mask for entry in given):
                continue
            heir = attrs.evolve(given[0], tid=task.tid, start=task.start, index=None)
            if len({entry.before for entry in given}) == 1:
                found.append((key, (heir, task, mask, _INHERITED)))
            else:
                why = "it started later and inherited the mask from one of several threads that had different ones"
                found.append((key, _result(heir, mask, mask, Outcome.REFUSED, why)))
        return found


def _forgets() -> bool:
    """Whether this kernel forgets masks when a cpuset is written: those before 6.2 do."""
    numbers = re.match(r"([0-9]+)\.([0-9]+)", os.uname().release)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < (6, 2)


def _hidden(tid: int) -> int:
    """0 where the kernel says that a thread is gone or another one; an errno where /proc only hides it."""
    mask, error = read_masks([tid])[0]
    if mask is None:
        return 0 if error == errno.ESRCH else error
    return 0 if os.path.exists(f"/proc/{tid}") else errno.EACCES


def _bind(proc: Proc, rows: Sequence[tuple[Entry, Task, CpuSet, str]], seen: int) -> Sequence[Bound]:
    return bind(
        proc.fd,
        [
            Bind(pid=task.pid, tid=task.tid, ino=task.ino, start=task.start, expect=mask, want=entry.before)
            for entry, task, mask, _ in rows
        ],
        seen,
    )


def _result_of(tree: Tree, entry: Entry, mask: CpuSet, bound: Bound, note: str) -> ThreadResult:
    online = tree.cpus("sys/devices/system/cpu/online") or entry.before
    if bound.raw is Raw.SET or (bound.raw is Raw.CLIPPED and bound.after == entry.before & online):
        lost = entry.before - online
        if lost and _forgets():
            back = f"CPU {lost} is offline, and this kernel does not give it back by itself when it is online again"
            note = f"{note}; {back}" if note else back
        return _result(entry, mask, bound.after, Outcome.RESTORED, note)
    if bound.raw is Raw.KEPT:
        return _result(entry, mask, bound.after, Outcome.KEPT, "it has that mask already")
    if bound.raw is Raw.GONE:
        return _result(entry, mask, None, Outcome.GONE, "the thread has ended")
    clipped = bound.raw is Raw.CLIPPED
    after = bound.after if clipped else mask
    why = explain(entry.pid, entry.tid, entry.before, after, bound.raw, bound.error)
    return _result(entry, mask, after, Outcome.CLIPPED if clipped else Outcome.REFUSED, why)


def _check_width(entries: Sequence[Entry]) -> None:
    width = 64 * mask_words()
    for entry in entries:
        if max(entry.before.last, entry.asked.last) >= width:
            raise JournalError(
                f"the record names CPU {max(entry.before.last, entry.asked.last)}, which this kernel cannot have; "
                "nothing is undone from it",
                path="",
            )


def _result(
    entry: Entry, before: CpuSet | None, after: CpuSet | None, outcome: Outcome, why: str
) -> ThreadResult:
    return ThreadResult(
        pid=entry.pid,
        tid=entry.tid,
        role=entry.role,
        index=entry.index,
        before=before,
        asked=entry.before,
        after=after,
        outcome=outcome,
        why=why,
    )
