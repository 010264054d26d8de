"""
Guests' specs in a TOML file: ``[[guest]]`` tables, and ``[defaults]`` for their policies.

What is so for the host whoever its guests are stands beside them: ``[host]`` and ``[[pool]]``, read by
:mod:`kvmaff.formats.hostrules`.

Rule: everything that is wrong with a file is said at once. So no check stops at its first finding, and what could
follow from a finding is not looked for: where a number is wrong, nothing that is computed with it is a contradiction
(:mod:`kvmaff.formats.trial`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from kvmaff.errors import SpecError
from kvmaff.formats import amounts, fields
from kvmaff.formats.hostrules import host_rules
from kvmaff.formats.tables import Keys, Tables
from kvmaff.formats.tomltext import Path, cleaned, parse_document, read_text, shown
from kvmaff.formats.trial import filled_up, spec_problems, under
from kvmaff.guest.spec import (
    MAX_VCPUS,
    Affinity,
    EmulatorPolicy,
    GuestCell,
    ThreadPolicy,
    VcpuPolicy,
)
from kvmaff.placement.request import HostRules

__all__ = [
    "HostRules",
    "SpecEntry",
    "parse_rules",
    "parse_specs",
    "read_file",
    "read_rules",
    "read_specs",
]

_POLICIES: Keys = {
    "policy": ("vcpu_policy", fields.word(VcpuPolicy)),
    "thread_policy": ("thread_policy", fields.word(ThreadPolicy)),
    "emulator": ("emulator_policy", fields.word(EmulatorPolicy)),
    "iothread_policy": ("iothread_policy", fields.word(EmulatorPolicy)),
    "core_kind": ("core_kind", fields.text),
    "trust_domain": ("trust_domain", fields.text),
    "pool": ("pool", fields.text),
}
_GUEST: Keys = {
    "name": ("name", fields.guest_name),
    "uuid": ("uuid", fields.uuid),
    "vcpus": ("vcpus", fields.number(1, MAX_VCPUS)),
    "max_vcpus": ("max_vcpus", fields.number(1, MAX_VCPUS)),
    "threads": ("threads", fields.number(1, 8)),
    "memory": ("memory_bytes", amounts.memory_bytes),
    **_POLICIES,
    "iothreads": ("iothreads", fields.iothreads),
    "device_nodes": ("device_nodes", fields.device_nodes),
    "devices": ("devices", fields.devices),
    "dedicated_vcpus": ("dedicated_vcpus", fields.vcpus),
    "page_size": ("page_bytes", amounts.page_bytes),
    "affinity": ("affinity", fields.affinities),
    "anti_affinity": ("anti_affinity", fields.affinities),
}
_CELL: Keys = {
    "vcpus": ("vcpus", fields.vcpus),
    "memory": ("memory_bytes", amounts.memory_bytes),
}
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
        iothread_policy: Where its IOThreads run.
        core_kind: The kind of core that its vCPUs run on.
        trust_domain: Its trust domain.
        pool: The host's CPU pool that its vCPUs are in.
        devices: PCI addresses of its devices.
        dedicated_vcpus: Under the policy mixed, which vCPUs are dedicated.
        page_bytes: The size of the pages that its memory is made of.
        affinity: Guests to be near to.
        anti_affinity: Guests to be apart from.
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
    iothread_policy: EmulatorPolicy | None = None
    core_kind: str | None = None
    trust_domain: str | None = None
    pool: str | None = None
    devices: tuple[str, ...] | None = None
    dedicated_vcpus: tuple[int, ...] | None = None
    page_bytes: int | None = None
    affinity: tuple[Affinity, ...] | None = None
    anti_affinity: tuple[Affinity, ...] | None = None
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
    return _parsed(text, where)[0]


def read_rules(path: str | os.PathLike[str]) -> HostRules:
    """
    Read what a file of guests' specs says of the host: ``[host]`` and ``[[pool]]``.

    Args:
        path: The file.

    Returns:
        The rules.

    Raises:
        SpecError: The file cannot be read, or something in it is wrong; says everything that is.
    """
    return parse_rules(read_text(path), os.fspath(path))


def parse_rules(text: str, where: str) -> HostRules:
    """
    Read what TOML text says of the host.

    Args:
        text: The text.
        where: The file's name, for messages.

    Returns:
        The rules.

    Raises:
        SpecError: Something in it is wrong; says everything that is. It is a ValueError.
    """
    return _parsed(text, where)[1]


def read_file(path: str | os.PathLike[str]) -> tuple[tuple[SpecEntry, ...], HostRules]:
    """
    Read all that a file says, in one go: what is no plain file can be read only once.

    Args:
        path: The file.

    Returns:
        Its guests, in order, and what it says of the host.

    Raises:
        SpecError: The file cannot be read, or something in it is wrong; says everything that is.
    """
    return _parsed(read_text(path), os.fspath(path))


def _parsed(text: str, where: str) -> tuple[tuple[SpecEntry, ...], HostRules]:
    tables = Tables(document=parse_document(text, where), path=where)
    tables.unknown((), "", tables.document.data, ("guest", "defaults", "host", "pool"))
    entries, rules = _entries(tables), host_rules(tables)
    if tables.problems:
        raise SpecError.of(where, tables.in_order())
    return tuple(entries), rules


def _label(number: int, name: object, uuid: object) -> str:
    """Call a guest by what it has: its number, and its name or UUID."""
    if isinstance(name, str) and name:
        return f"guest {number} ({shown(name)})"
    return f"guest {number} (uuid {shown(uuid)[1:-1]})" if isinstance(uuid, str) else f"guest {number}"


def _entries(tables: Tables) -> list[SpecEntry]:
    """Read what the file says of guests."""
    data = tables.document.data
    defaults = tables.one("defaults", _POLICIES)
    guests = data.get("guest", [])
    if not isinstance(guests, list):
        tables.note(("guest",), "guest: is written [[guest]], one such table a guest")
        guests = []
    found = [_entry(tables, place, table, defaults) for place, table in enumerate(guests)]
    entries = [entry for entry in found if entry is not None]
    for field in ("name", "uuid"):
        _twice(tables, entries, field)
    return entries


def _entry(tables: Tables, place: int, table: object, defaults: Mapping[str, Any]) -> SpecEntry | None:
    path: Path = ("guest", place)
    if not isinstance(table, dict):
        tables.note(path, f"guest {place + 1}: is a table, not {shown(table)}")
        return None
    label = _label(place + 1, table.get("name"), table.get("uuid")) + ": "
    meant = tables.unknown(path, label, table, (*_GUEST, "cell"))
    values = tables.values(path, label, table, _GUEST)
    # what is given under a key that is misspelt is not known either
    given = meant | table.keys()
    wrong = {field for field, key in _KEY_OF.items() if key in given and field not in values}
    if "cell" in table:
        before = len(tables.problems)
        cells = _cells(tables, (*path, "cell"), label, table["cell"])
        if cells is not None:
            values["cells"] = cells
        if len(tables.problems) == before:
            wrong.discard("cells")
    if "name" not in table and "uuid" not in table:
        tables.note(path, f'{label}has neither a name nor a uuid; name = "*" is every guest')
    if "uuid" in values and "name" in values and fields.is_pattern(values["name"]):
        tables.note((*path, "name"), f"{label}name: is a pattern, but the uuid means one guest")
    if "dedicated_vcpus" in given:
        values.setdefault("vcpu_policy", VcpuPolicy.MIXED)
    # what a table says wrongly it has said: no default takes the place of that
    values = under(values, {field: value for field, value in defaults.items() if field not in wrong})
    for field, what in spec_problems(filled_up(values, wrong)):
        key = _KEY_OF[field]
        tables.note((*path, key), f"{label}{key}: {what}")
    places = {key: tables.document.at(*path, key) for key in ("", *_KEY_OF.values())}
    return SpecEntry(path=tables.path, number=place + 1, places=tuple(places.items()), **values)


def _cells(tables: Tables, path: Path, label: str, found: object) -> tuple[GuestCell, ...] | None:
    """Read a guest's cells: None where their vCPUs are not known, and without memory where that is not."""
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        tables.note(path, f"{label}cell: is written [[guest.cell]], one such table a cell")
        return None
    cells: list[GuestCell] = []
    memory = True
    for place, table in enumerate(found):
        own = f"{label}cell {place + 1}: "
        tables.unknown((*path, place), own, table, _CELL)
        values = tables.values((*path, place), own, table, _CELL)
        if "vcpus" not in table:
            tables.note((*path, place), f'{own}vcpus: is missing; a list such as "0-3,5"')
        memory = memory and ("memory" not in table or "memory_bytes" in values)
        if "vcpus" in values:
            cells.append(GuestCell(**values))
    if len(cells) < len(found):
        return None
    return tuple(cells) if memory else tuple(GuestCell(vcpus=cell.vcpus) for cell in cells)


def _twice(tables: Tables, entries: Iterable[SpecEntry], field: str) -> None:
    first: dict[str, SpecEntry] = {}
    for entry in entries:
        value = getattr(entry, field)
        if value is not None and first.setdefault(value, entry) is not entry:
            taken = f"{field}: {shown(value)} is guest {first[value].number}'s already"
            label = _label(entry.number, entry.name, entry.uuid)
            tables.note(("guest", entry.number - 1, field), f"{label}: {taken}")
