"""
Which record is undone, and when it is done with.

The newest of this boot goes first, unless another is named; a record goes only when everything in it is as it was,
so that undo can be repeated. How threads are put back is in restore.py.
"""

from __future__ import annotations

import attrs

from kvmaff.binding.journal import DECIDED, Folder, Journal
from kvmaff.binding.record import Record, boot_id
from kvmaff.binding.report import Report
from kvmaff.binding.restore import restore
from kvmaff.errors import JournalError, RequestError
from kvmaff.kernel.scan import Proc

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
            results = restore(proc, record.entries, record.ticks, force=force)
        ok = not any(result.outcome.failed for result in results)
        trouble: tuple[str, ...] = ()
        if ok:
            try:
                _forget(folder, record)
                folder.remove(record.number)
            except JournalError as error:
                ok, trouble = False, (f"the masks are back, but the record stays: {error}",)
    return Report(ok=ok, threads=tuple(results), journal=None if ok else record.number, trouble=trouble)


def _forget(folder: Folder, record: Record) -> None:
    """Bring back what had been decided before the call."""
    if record.decided:
        folder.put(DECIDED, record.decided)
    elif record.decided is not None and folder.has(DECIDED):
        folder.drop(DECIDED)


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
        # masks end with their boot, so that record is of no use; another namespace's is somebody's way back
        hint = (
            "" if record.boot == boot_id() else f", and is of no use any more: kvmaff undo --discard {number}"
        )
        raise JournalError(
            f"{path}: {record.foreign}{hint}; nothing is undone from it here",
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
    """Two records of one process are undone the newer first: threads hand masks on to those that start later."""
    own = {entry.pid for entry in record.entries}
    for number in folder.numbers():
        if number <= record.number:
            continue
        newer = folder.read(number)
        if not newer.foreign and record.decided is not None and newer.decided is not None:
            raise RequestError.of([f"record {number} decided later: undo it first"])
        if not newer.foreign and any(entry.pid in own for entry in newer.entries):
            raise RequestError.of(
                [f"record {number} changed threads of the same process later: undo it first"]
            )
