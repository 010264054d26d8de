"""
Guests' specs in a TOML file: ``[[guest]]`` tables, and ``[defaults]`` for their policies.

Rule: everything that is wrong with a file is said at once. So no check stops at its first finding, and what could
follow from a finding is not looked for: where a number is wrong, nothing that is computed with it is a contradiction.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from kvmaff.errors import SpecError
from kvmaff.formats import fields
from kvmaff.formats.tomltext import Document, Path, cleaned, parse_document, read_text, shown
from kvmaff.guest.spec import MAX_VCPUS, EmulatorPolicy, GuestCell, GuestSpec, ThreadPolicy, VcpuPolicy

__all__ = ["SpecEntry", "parse_specs", "read_specs", "spec_problems"]

_Check = Callable[[object], Any]

_POLICIES: Mapping[str, tuple[str, _Check]] = {
    "policy": ("vcpu_policy", fields.word(VcpuPolicy)),
    "thread_policy": ("thread_policy", fields.word(ThreadPolicy)),
    "emulator": ("emulator_policy", fields.word(EmulatorPolicy)),
}
_GUEST: Mapping[str, tuple[str, _Check]] = {
    "name": ("name", fields.guest_name),
    "uuid": ("uuid", fields.uuid),
    "vcpus": ("vcpus", fields.number(1, MAX_VCPUS)),
    "max_vcpus": ("max_vcpus", fields.number(1, MAX_VCPUS)),
    "threads": ("threads", fields.number(1, 8)),
    "memory": ("memory_bytes", fields.memory_bytes),
    **_POLICIES,
    "iothreads": ("iothreads", fields.iothreads),
    "device_nodes": ("device_nodes", fields.device_nodes),
}
_CELL: Mapping[str, tuple[str, _Check]] = {
    "vcpus": ("vcpus", fields.cell_vcpus),
    "memory": ("memory_bytes", fields.memory_bytes),
}
_FOR_DEDICATED = frozenset({ThreadPolicy.REQUIRE, ThreadPolicy.ISOLATE, EmulatorPolicy.ISOLATE})
_KEY_OF = {"cells": "cell", **{field: key for key, (field, _) in _GUEST.items()}}


@attrs.frozen(kw_only=True)
class SpecEntry:
    """
    What a file says of one guest, or of all whose names fit a pattern; None where it says nothing.

    Attributes:
        path: The file.
        number: Which of its guests, from 1.
        name: An exact name, or a pattern (fnmatch) where it holds one of ``*?[``.
        uuid: A UUID in lower case. It alone decides which running guest is meant; ``name`` is then what a guest to
            come is called.
        vcpus: vCPUs that it starts with.
        max_vcpus: vCPUs that it may have.
        threads: Threads a core that it sees.
        memory_bytes: Its memory.
        cells: Its NUMA cells.
        iothreads: Names of its IOThreads.
        device_nodes: NUMA nodes of the host that its devices hang on.
        vcpu_policy: How its vCPUs get CPUs.
        thread_policy: What dedicated vCPUs do with siblings.
        emulator_policy: Where its other threads run.
        places: For messages, FILE:LINE of its keys that have a line; of the whole under an empty key.
    """

    path: str
    number: int
    name: str | None = None
    uuid: str | None = None
    vcpus: int | None = None
    max_vcpus: int | None = None
    threads: int | None = None
    memory_bytes: int | None = None
    cells: tuple[GuestCell, ...] | None = None
    iothreads: tuple[str, ...] | None = None
    device_nodes: tuple[int, ...] | None = None
    vcpu_policy: VcpuPolicy | None = None
    thread_policy: ThreadPolicy | None = None
    emulator_policy: EmulatorPolicy | None = None
    places: tuple[tuple[str, str], ...] = attrs.field(default=(), eq=False, repr=False)

    @property
    def exact(self) -> bool:
        """Whether it means one guest, not a pattern of names."""
        return self.uuid is not None or (self.name is not None and not fields.is_pattern(self.name))

    def given(self) -> dict[str, Any]:
        """
        What the file says of the guest itself.

        Returns:
            :class:`~kvmaff.guest.spec.GuestSpec`'s fields that are given, without ``name`` and ``uuid``.
        """
        fields_of = {field: getattr(self, field) for field in _KEY_OF if field not in {"name", "uuid"}}
        return {field: value for field, value in fields_of.items() if value is not None}

    def problem(self, what: str, field: str = "") -> str:
        """
        Say something about this entry.

        Args:
            what: What is to be said.
            field: The field of it, as GuestSpec calls it, that is the matter.

        Returns:
            A sentence that begins with the file, the line and the guest.
        """
        key = _KEY_OF.get(field, "")
        return f"{self._place(key)}: {_label(self.number, self.name, self.uuid)}: {key and f'{key}: '}{what}"

    def __str__(self) -> str:
        return f"{_label(self.number, self.name, self.uuid)} of {self._place()}"

    def _place(self, key: str = "") -> str:
        return dict(self.places).get(key) or cleaned(self.path)


def read_specs(path: str | os.PathLike[str]) -> tuple[SpecEntry, ...]:
    """
    Read guests' specs from a TOML file.

    Args:
        path: The file.

    Returns:
        Its guests, in order.

    Raises:
        SpecError: The file cannot be read, or something in it is wrong; says everything that is.
    """
    return parse_specs(read_text(path), os.fspath(path))


def parse_specs(text: str, where: str) -> tuple[SpecEntry, ...]:
    """
    Read guests' specs from TOML text.

    Args:
        text: The text.
        where: The file's name, for messages.

    Returns:
        Its guests, in order.

    Raises:
        SpecError: Something in it is wrong; says everything that is. It is a ValueError.
    """
    document = parse_document(text, where)
    reader = _Reader(document=document, path=where)
    entries = reader.entries()
    if reader.problems:
        raise SpecError.of(where, [what for _, what in sorted(reader.problems, key=lambda found: found[0])])
    return tuple(entries)


def spec_problems(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """
    What a spec of these values would be refused for.

    Args:
        values: Fields of :class:`~kvmaff.guest.spec.GuestSpec`.

    Returns:
        Each (field, what is wrong with it).
    """
    try:
        GuestSpec(**{**values, "name": "guest"})
    except ValueError as error:
        # the spec's one sentence is "guest 'guest': FIELD: WHAT; FIELD: WHAT"
        parts = str(error).partition("'guest': ")[2].split("; ")
        return [(field, what) for field, _, what in (part.partition(": ") for part in parts)]
    return []


def _label(number: int, name: object, uuid: object) -> str:
    """Call a guest by what it has: its number, and its name or UUID."""
    if isinstance(name, str) and name:
        return f"guest {number} ({shown(name)})"
    return f"guest {number} (uuid {shown(uuid)[1:-1]})" if isinstance(uuid, str) else f"guest {number}"


@attrs.define(kw_only=True)
class _Reader:
    """Goes through one document and notes what is wrong."""

    document: Document
    path: str
    problems: list[tuple[int, str]] = attrs.field(factory=list)
    """Each with its line, to tell them in the order of the file."""

    def entries(self) -> list[SpecEntry]:
        data = self.document.data
        self._unknown((), "", data, ("guest", "defaults"))
        defaults = data.get("defaults", {})
        guests = data.get("guest", [])
        if isinstance(defaults, dict):
            self._unknown(("defaults",), "defaults: ", defaults, _POLICIES)
            defaults = self._fields(("defaults",), "defaults: ", defaults, _POLICIES)
        else:
            self._note(("defaults",), f"defaults: is a table [defaults], not {shown(defaults)}")
            defaults = {}
        if not isinstance(guests, list):
            self._note(("guest",), "guest: is written [[guest]], one such table a guest")
            guests = []
        found = [self._entry(place, table, defaults) for place, table in enumerate(guests)]
        entries = [entry for entry in found if entry is not None]
        for field in ("name", "uuid"):
            self._twice(entries, field)
        return entries

    def _entry(self, place: int, table: object, defaults: Mapping[str, Any]) -> SpecEntry | None:
        path: Path = ("guest", place)
        if not isinstance(table, dict):
            self._note(path, f"guest {place + 1}: is a table, not {shown(table)}")
            return None
        before = len(self.problems)
        label = _label(place + 1, table.get("name"), table.get("uuid")) + ": "
        self._unknown(path, label, table, (*_GUEST, "cell"))
        values = self._fields(path, label, table, _GUEST)
        if "cell" in table:
            values["cells"] = self._cells((*path, "cell"), label, table["cell"])
        if "name" not in table and "uuid" not in table:
            self._note(path, f'{label}has neither a name nor a uuid; name = "*" is every guest')
        if "uuid" in values and "name" in values and fields.is_pattern(values["name"]):
            self._note((*path, "name"), f"{label}name: is a pattern, but the uuid means one guest")
        sound = len(self.problems) == before
        values = _under(values, defaults)
        for field, what in spec_problems(_trial(values, sound=sound)):
            key = _KEY_OF[field]
            self._note((*path, key), f"{label}{key}: {what}")
        places = {key: self.document.at(*path, key) for key in ("", *_KEY_OF.values())}
        return SpecEntry(path=self.path, number=place + 1, places=tuple(places.items()), **values)

    def _cells(self, path: Path, label: str, tables: object) -> tuple[GuestCell, ...] | None:
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._note(path, f"{label}cell: is written [[guest.cell]], one such table a cell")
            return None
        cells = []
        for place, table in enumerate(tables):
            own = f"{label}cell {place + 1}: "
            self._unknown((*path, place), own, table, _CELL)
            values = self._fields((*path, place), own, table, _CELL)
            if "vcpus" not in table:
                self._note((*path, place), f'{own}vcpus: is missing; a list such as "0-3,5"')
            elif "vcpus" in values:
                cells.append(GuestCell(**values))
        return tuple(cells)

    def _fields(
        self, path: Path, label: str, table: Mapping[str, Any], known: Mapping[str, tuple[str, _Check]]
    ) -> dict[str, Any]:
        """Check what a table holds, and return it by GuestSpec's names; what is wrong is left out."""
        values = {}
        for key, (field, check) in known.items():
            if key in table:
                try:
                    values[field] = check(table[key])
                except ValueError as error:
                    for what in error.args:
                        self._note((*path, key), f"{label}{key}: {what}")
        return values

    def _unknown(self, path: Path, label: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
        words = list(known)
        for key in table:
            if key not in words:
                miss = fields.near_miss(key, words) or f"; known are {', '.join(words)}"
                self._note((*path, key), f"{label}{shown(key)} is no key here{miss}")

    def _twice(self, entries: Iterable[SpecEntry], field: str) -> None:
        first: dict[str, SpecEntry] = {}
        for entry in entries:
            value = getattr(entry, field)
            if value is not None and first.setdefault(value, entry) is not entry:
                taken = f"{field}: {shown(value)} is guest {first[value].number}'s already"
                label = _label(entry.number, entry.name, entry.uuid)
                self._note(("guest", entry.number - 1, field), f"{label}: {taken}")

    def _note(self, path: Path, problem: str) -> None:
        self.problems.append((self.document.line(*path) or 0, f"{self.document.at(*path)}: {problem}"))


def _under(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a file's defaults under what a guest's own table says."""
    if values.get("vcpu_policy") is VcpuPolicy.SHARED:
        # "shared" says otherwise than a default that is for dedicated guests only
        defaults = {field: value for field, value in defaults.items() if value not in _FOR_DEDICATED}
    return {**defaults, **values}


def _trial(values: Mapping[str, Any], *, sound: bool) -> dict[str, Any]:
    """
    Fill up what a table gives to a spec that is refused only for what the table says.

    Args:
        values: The fields that are given and right.
        sound: Whether those are all that the table wants to give; else numbers may be missing that others go with.

    Returns:
        The spec's fields.
    """
    policies = ("vcpu_policy", "thread_policy", "emulator_policy", "threads")
    trial = {field: value for field, value in values.items() if sound or field in policies}
    # whoever applies the file may say that guests are dedicated
    trial.setdefault("vcpu_policy", VcpuPolicy.DEDICATED)
    if "vcpus" not in trial:
        trial["vcpus"] = 1
        inside = sum(len(cell.vcpus) for cell in trial.get("cells", ()))
        trial.setdefault("max_vcpus", inside or 2 * trial.get("threads", 1))
    return trial
