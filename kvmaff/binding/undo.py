"""
Put masks back as a record says.

Rules:

* only a thread that is proved to be the recorded one is touched;
* a mask that is neither the recorded one nor part of what was asked was set by somebody else since: it is left
  alone unless the caller insists;
* a thread that started after the record and has the very mask that was asked inherited it: it goes back with its
  creator, or the guest's later workers would stay bound for ever;
* the record goes only when everything in it is as it was, so that undo can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from kvmaff.binding.journal import Folder, Journal
from kvmaff.binding.record import Entry, Record
from kvmaff.binding.report import Outcome, Report, ThreadResult
from kvmaff.binding.transaction import explain
from kvmaff.cpuset import CpuSet
from kvmaff.errors import JournalError, RequestError
from kvmaff.kernel.masks import Bind, Raw, bind
from kvmaff.kernel.scan import Proc, Task

__all__ = ["Listed", "discard", "list_records", "undo"]


@attrs.frozen(kw_only=True)
class Listed:
    """
    One record in the folder.

    Attributes:
        number: Its number.
        record: What it says, or None where it cannot be believed.
        why: Why it cannot be undone here, or None where it can.
    """

    number: int
    record: Record | None
    why: str | None


def list_records(journal: Journal | None = None) -> tuple[Listed, ...]:
    """
    List what could be undone.

    Args:
        journal: The folder; None for the default one.

    Returns:
        The records, the newest first; none where the folder is missing.

    Raises:
        JournalError: The folder cannot be believed or opened.
    """
    journal = journal or Journal()
    if not journal.exists():
        return ()
    with journal.locked() as folder:
        return tuple(_listed(folder, number) for number in reversed(folder.numbers()))


def discard(number: int, journal: Journal | None = None) -> None:
    """
    Remove a record without undoing it.

    Args:
        number: Its number.
        journal: The folder; None for the default one.

    Raises:
        JournalError: It is not there or cannot be removed.
    """
    with (journal or Journal()).locked() as folder:
        folder.remove(number)


def undo(number: int | None = None, *, journal: Journal | None = None, force: bool = False) -> Report:
    """
    Put back the masks of one record.

    Args:
        number: The record; None for the newest of this boot and pid namespace.
        journal: The folder; None for the default one.
        force: Also overwrite masks that somebody else has set since.

    Returns:
        The report; without threads where there is nothing to undo. Its ``ok`` is false where a thread that
        lives was not put back; the record is kept then.

    Raises:
        JournalError: A record is damaged or foreign; no mask was changed.
        RequestError: A newer record holds the same threads and must be undone first.
    """
    journal = journal or Journal()
    if number is None and not journal.exists():
        return Report(ok=True, threads=())
    with journal.locked() as folder:
        record = _newest(folder) if number is None else _usable(folder, number)
        if record is None:
            return Report(ok=True, threads=())
        _refuse_if_covered(folder, record)
        with Proc() as proc:
            results = _restore(proc, record, force=force)
        ok = not any(result.outcome.failed for result in results)
        if ok:
            folder.remove(record.number)
    return Report(ok=ok, threads=tuple(results), journal=None if ok else str(record.number))


def _listed(folder: Folder, number: int) -> Listed:
    try:
        record = folder.read(number)
    except JournalError as error:
        return Listed(number=number, record=None, why=str(error))
    return Listed(number=number, record=record, why=record.foreign)


def _usable(folder: Folder, number: int) -> Record:
    record = folder.read(number)
    if record.foreign:
        path = f"{folder.path}/{number:08d}.json"
        raise JournalError(
            f"{path}: {record.foreign}; nothing is undone from it. Remove it: kvmaff undo --discard {number}",
            path=path,
        )
    return record


def _newest(folder: Folder) -> Record | None:
    """Return the newest record of this boot; a damaged one on the way is an error, as it may be that."""
    numbers = folder.numbers()
    for number in reversed(numbers):
        record = folder.read(number)
        if not record.foreign:
            return record
    return _usable(folder, numbers[-1]) if numbers else None


def _refuse_if_covered(folder: Folder, record: Record) -> None:
    own = {(entry.tid, entry.start) for entry in record.entries}
    for number in folder.numbers():
        if number <= record.number:
            continue
        newer = folder.read(number)
        if not newer.foreign and any((entry.tid, entry.start) in own for entry in newer.entries):
            raise RequestError.of([f"record {number} changed the same threads later: undo it first"])


def _restore(proc: Proc, record: Record, *, force: bool) -> list[ThreadResult]:
    # A thread may stand in a record twice; the first entry has the mask from before it all.
    entries: dict[tuple[int, int], Entry] = {}
    for entry in record.entries:
        entries.setdefault((entry.tid, entry.start), entry)
    tasks = proc.tasks(sorted({entry.pid for entry in entries.values()}))
    masks = proc.masks(tasks)
    alive = {(task.tid, task.start): (task, mask) for task, mask in zip(tasks, masks, strict=True)}
    results, rows = [], []
    for key, entry in entries.items():
        task, mask = alive.get(key, (None, None))
        if task is None or mask is None:
            results.append(_result(entry, None, None, Outcome.GONE, "the thread has ended"))
        elif mask in (entry.before, entry.asked) or mask <= entry.asked or force:
            rows.append((entry, task, mask, ""))
        else:
            why = f"somebody else has set it to {mask} since; kvmaff undo --force overwrites that"
            results.append(_result(entry, mask, mask, Outcome.REFUSED, why))
    for key, (task, mask) in alive.items():
        if key not in entries and mask and task.start >= record.ticks:
            heir = _heir(task, mask, list(entries.values()))
            if heir is not None:
                rows.append((heir, task, mask, "it started later and had inherited the mask"))
    rows.sort(key=lambda row: row[0].pid)
    binds = [
        Bind(pid=entry.pid, tid=entry.tid, ino=task.ino, start=entry.start, expect=mask, want=entry.before)
        for entry, task, mask, _ in rows
    ]
    for (entry, _, mask, note), bound in zip(rows, bind(proc.fd, binds, tasks.seen), strict=True):
        after: CpuSet | None
        match bound.raw:
            case Raw.SET:
                outcome, after, why = Outcome.RESTORED, bound.after, note
            case Raw.KEPT:
                outcome, after, why = Outcome.KEPT, bound.after, "it has that mask already"
            case Raw.GONE:
                outcome, after, why = Outcome.GONE, None, "the thread has ended"
            case _:
                clipped = bound.raw is Raw.CLIPPED
                outcome = Outcome.CLIPPED if clipped else Outcome.REFUSED
                after = bound.after if clipped else mask
                why = explain(entry.pid, entry.tid, entry.before, after, bound.raw, bound.error)
        results.append(_result(entry, mask, after, outcome, why))
    return sorted(results, key=lambda result: (result.pid, result.tid))


def _heir(task: Task, mask: CpuSet, entries: Sequence[Entry]) -> Entry | None:
    """The entry that a later thread of the same process goes back with, if only one mask comes into question."""
    given = [entry for entry in entries if entry.pid == task.pid and entry.asked == mask]
    if len({entry.before for entry in given}) != 1:
        return None
    return attrs.evolve(given[0], tid=task.tid, start=task.start, index=None)


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
