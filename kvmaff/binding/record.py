"""
A record of what was changed, as a value and as JSON.

What a file says is checked field by field: a record that does not make sense is an error, never a guess.
"""

from __future__ import annotations

import os
from typing import Any

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError
from kvmaff.guest.guest import Role

__all__ = ["Entry", "Record", "boot_id", "from_data", "pid_namespace", "to_data"]

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
    """

    pid: int
    tid: int
    start: int
    role: Role | None
    index: int | None
    before: CpuSet
    asked: CpuSet


@attrs.frozen(kw_only=True)
class Record:
    """
    What undoes one call.

    Attributes:
        number: Its number, which is its name too.
        boot: The boot id of the kernel that ran.
        namespace: The pid namespace's inode number.
        time: Seconds since the epoch, for people.
        ticks: Clock ticks after boot when it was begun.
        command: What was asked, for people.
        entries: The threads.
    """

    number: int
    boot: str
    namespace: int
    time: int
    ticks: int
    command: str
    entries: tuple[Entry, ...]

    @property
    def foreign(self) -> str | None:
        """Why its threads are not ours to touch; None where they are."""
        if self.boot != boot_id():
            return "it was written before the last boot, which reset all masks"
        if self.namespace != pid_namespace():
            return "it was written in another pid namespace, where thread numbers mean something else"
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
    top = _Fields(data, "the record")
    version = top.number("kvmaff")
    if version != _VERSION:
        raise ValueError(f"version {version}, not {_VERSION}: written by another kvmaff")
    if top.number("number") != number:
        raise ValueError("its number is not that of its file")
    entries = top.value("entries")
    if not isinstance(entries, list):
        raise ValueError("'entries' is no list")  # noqa: TRY004 - all damage is one kind of error
    return Record(
        number=number,
        boot=top.text("boot"),
        namespace=top.number("namespace"),
        time=top.number("time"),
        ticks=top.number("ticks"),
        command=top.text("command"),
        entries=tuple(_entry(_Fields(item, f"entry {place}")) for place, item in enumerate(entries)),
    )


def _entry(fields: _Fields) -> Entry:
    role = fields.value("role")
    if role is not None and role not in list(Role):
        raise ValueError(f"{fields.where}: 'role' is no role")
    return Entry(
        pid=fields.number("pid", least=1),
        tid=fields.number("tid", least=1),
        start=fields.number("start"),
        role=None if role is None else Role(role),
        index=None if fields.value("index") is None else fields.number("index"),
        before=fields.cpus("before"),
        asked=fields.cpus("asked"),
    )


class _Fields:
    """The fields of one object in a file, each checked when it is taken."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, dict):
            raise ValueError(f"{where} is no object")  # noqa: TRY004 - all damage is one kind of error
        self._data = data
        self.where = where

    def value(self, name: str) -> Any:
        try:
            return self._data[name]
        except KeyError:
            raise ValueError(f"{self.where}: {name!r} is missing") from None

    def number(self, name: str, least: int = 0) -> int:
        value = self.value(name)
        if type(value) is not int or not least <= value < 1 << 63:
            raise ValueError(f"{self.where}: {name!r} is no number from {least}")
        return value

    def text(self, name: str) -> str:
        value = self.value(name)
        if not isinstance(value, str):
            raise ValueError(f"{self.where}: {name!r} is no text")  # noqa: TRY004 - as above
        return value

    def cpus(self, name: str) -> CpuSet:
        try:
            cpus = CpuSet.parse(self.text(name))
        except CpuTextError as error:
            raise ValueError(f"{self.where}: {name!r}: {error}") from error
        if not cpus:
            raise ValueError(f"{self.where}: {name!r} names no CPU")
        return cpus
