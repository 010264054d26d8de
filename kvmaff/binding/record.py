"""
A record of what was changed, as a value and as JSON.

What a file says is checked field by field: a record that does not make sense is an error, never a guess.
"""

from __future__ import annotations

import os
from typing import Any

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.fields import Fields
from kvmaff.guest.guest import Role
from kvmaff.kernel.text import printable

__all__ = ["Entry", "Record", "boot_id", "from_data", "pid_namespace", "time_namespace", "to_data"]

_VERSION = 1


@attrs.frozen(kw_only=True)
class Entry:
    """
    One thread whose mask was changed, or was about to be.

    Attributes:
        pid: Its process.
        tid: Its number.
        start: Its start, clock ticks after boot: older than the record, so that it names the thread for ever.
        role: What it is for, or None.
        index: Which vCPU or IOThread, or None.
        before: Its mask before.
        asked: The mask it was to have.
        kept: Whether it had that already, so that nothing was to be changed.
    """

    pid: int
    tid: int
    start: int
    role: Role | None
    index: int | None
    before: CpuSet
    asked: CpuSet
    kept: bool = False


@attrs.frozen(kw_only=True)
class Record:
    """
    What undoes one call.

    Attributes:
        number: Its number, which is its name too.
        boot: The boot id of the kernel that ran.
        namespace: The pid namespace's inode number.
        timens: The time namespace's, which start times are told in; 0 where the kernel has none.
        time: Seconds since the epoch, for people.
        ticks: Clock ticks after boot when it was begun.
        command: What was asked, for people.
        entries: The threads.
        decided: What had been decided before, as text; None where the call decided nothing, empty where nothing had
            been.
    """

    number: int
    boot: str
    namespace: int
    timens: int
    time: int
    ticks: int
    command: str
    entries: tuple[Entry, ...]
    decided: str | None = None

    @property
    def foreign(self) -> str | None:
        """Why its threads are not ours to touch; None where they are."""
        if self.boot != boot_id():
            return "it was written before the last boot, which reset all masks"
        if self.namespace != pid_namespace():
            return "it was written in another pid namespace; run kvmaff undo there"
        if self.timens != time_namespace():
            return "it was written in another time namespace; run kvmaff undo there"
        return None


def boot_id() -> str:
    """
    Which boot this is.

    Returns:
        The kernel's random id of it.
    """
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def pid_namespace() -> int:
    """
    Which pid namespace this process lives in.

    Returns:
        Its inode number.
    """
    return os.stat("/proc/self/ns/pid").st_ino


def time_namespace() -> int:
    """
    Which time namespace this process lives in.

    Returns:
        Its inode number; 0 where the kernel has none (before 5.6).
    """
    try:
        return os.stat("/proc/self/ns/time").st_ino
    except FileNotFoundError:
        return 0


def to_data(record: Record) -> dict[str, Any]:
    """
    Turn a record into what JSON can hold.

    Args:
        record: The record.

    Returns:
        A mapping of plain values.
    """
    data = attrs.asdict(record, recurse=False)
    data["entries"] = [
        {
            **attrs.asdict(entry, recurse=False),
            "before": entry.before.cpulist,
            "asked": entry.asked.cpulist,
        }
        for entry in record.entries
    ]
    return {"kvmaff": _VERSION, **data}


def from_data(data: object, number: int) -> Record:
    """
    Turn what JSON held into a record.

    Args:
        data: What was read.
        number: The number that its file's name has.

    Returns:
        The record.

    Raises:
        ValueError: A field is missing or makes no sense; says which.
    """
    top = Fields(data, "the record")
    version = top.number("kvmaff")
    if version != _VERSION:
        raise ValueError(f"version {version}, not {_VERSION}: written by another kvmaff")
    if top.number("number") != number:
        raise ValueError("its number is not that of its file")
    entries = top.items("entries")
    decided = top.value("decided")
    if not isinstance(decided, str | None):
        raise ValueError("'decided' is no text")  # noqa: TRY004 - all damage is one kind of error
    return Record(
        number=number,
        boot=top.text("boot"),
        namespace=top.number("namespace"),
        timens=top.number("timens"),
        time=top.number("time"),
        ticks=top.number("ticks"),
        command=printable(top.text("command").encode(errors="replace"), 1024),
        entries=tuple(_entry(Fields(item, f"entry {place}")) for place, item in enumerate(entries)),
        decided=decided,
    )


def _entry(fields: Fields) -> Entry:
    role = fields.value("role")
    if role is not None and role not in list(Role):
        raise ValueError(f"{fields.where}: 'role' is no role")
    return Entry(
        pid=fields.number("pid", least=1),
        tid=fields.number("tid", least=1),
        start=fields.number("start"),
        role=None if role is None else Role(role),
        index=fields.number_or_none("index"),
        before=fields.cpus("before"),
        asked=fields.cpus("asked"),
        kept=fields.flag("kept"),
    )
