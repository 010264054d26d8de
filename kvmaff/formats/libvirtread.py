"""
A libvirt domain -> a guest's spec.

What libvirt says is taken from its elements; how the guest is to be placed from the metadata that
:mod:`kvmaff.formats.libvirtxml` writes, and without that from its pins: a vCPU that alone is pinned to one CPU is
dedicated. Everything that is wrong is said at once, each with its line.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Any

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError, SpecError
from kvmaff.formats import fields
from kvmaff.formats.libvirtxml import METADATA, PREFIX
from kvmaff.formats.specs import parse_specs
from kvmaff.formats.tomltext import cleaned, read_text, shown
from kvmaff.formats.xmltree import Element, XmlError, children, parse_xml
from kvmaff.guest.spec import MAX_VCPUS, GuestCell, GuestSpec, SpecContradiction, VcpuPolicy
from kvmaff.host.pci import pci_address

__all__ = ["parse_libvirt", "read_libvirt"]

_KIB = 1 << 10
_UNITS = {
    "b": 1,
    "bytes": 1,
    **{
        name: base**power
        for power, letter in enumerate("KMGTPE", 1)
        for name, base in ((f"{letter}B", 1000), (letter, 1024), (f"{letter}iB", 1024))
    },
    "k": 1024,
}
"""libvirt's units (virScaleInteger); KiB where none is said."""
_LEVELS = ("sockets", "dies", "clusters", "cores", "threads")
_POLICIES = frozenset(
    {
        *(
            "vcpu_policy",
            "thread_policy",
            "emulator_policy",
            "iothread_policy",
            "core_kind",
            "trust_domain",
            "pool",
        ),
        *("dedicated_vcpus", "device_nodes", "affinity", "anti_affinity", "iothreads"),
    }
)
_FIELDS = {
    "name": "name",
    "vcpus": "vcpu",
    "max_vcpus": "vcpu",
    "threads": "cpu/topology",
    "memory_bytes": "memory",
    "cells": "cpu/numa",
    "page_bytes": "memoryBacking/hugepages",
    "iothreads": "iothreads",
}
"""Where in a domain a field of the spec stands; others are in the metadata."""
_NUMBER = re.compile("[0-9]{1,19}", re.ASCII)


def read_libvirt(path: str | os.PathLike[str]) -> GuestSpec:
    """
    Read the spec of a domain from a file.

    Args:
        path: The file.

    Returns:
        The spec.

    Raises:
        SpecError: The file cannot be read, or something in it is wrong; says everything that is.
    """
    return parse_libvirt(read_text(path, what="domain"), os.fspath(path))


def parse_libvirt(text: str, where: str) -> GuestSpec:
    """
    Read the spec of a domain.

    Args:
        text: The domain, as ``virsh dumpxml`` prints it.
        where: The file's name, for messages.

    Returns:
        The spec.

    Raises:
        SpecError: Something in it is wrong; says everything that is.
    """
    try:
        root, lines = parse_xml(text)
    except XmlError as error:
        raise SpecError.of(where, [f"{cleaned(where)}:{error.line}: {error.message}"]) from None
    if root.tag != "domain":
        raise SpecError.of(where, [f"{cleaned(where)}:1: is no domain, but a <{cleaned(root.tag)}>"])
    return _Domain(root, lines, where).spec()


class _Domain:
    """One domain, and what is wrong with it."""

    def __init__(self, root: Element, lines: dict[int, int], where: str) -> None:
        self.root, self.lines, self.where = root, lines, where
        self.problems: list[tuple[int, str]] = []

    def spec(self) -> GuestSpec:
        values = {
            "name": self._checked(self.root.find("name"), "name", fields.guest_name),
            "uuid": self._checked(self.root.find("uuid"), "uuid", fields.uuid, needed=False),
            **self._vcpus(),
            "memory_bytes": self._memory(),
            "page_bytes": self._page(),
            "cells": self._cells(),
            "iothreads": self._iothreads(),
            "devices": self._devices(),
        }
        values = {field: value for field, value in values.items() if value is not None}
        values.update(self._policies(values))
        found = None
        if not self.problems:
            try:
                found = GuestSpec(**values)
            except SpecContradiction as error:
                for field, what in error.problems:
                    place = _FIELDS.get(field, "metadata")
                    self._note(self.root.find(place), place, f"{field}: {what}")
        if found is None:
            raise SpecError.of(
                self.where, [what for _, what in sorted(self.problems, key=lambda one: one[0])]
            )
        return found

    def _note(self, element: Element | None, name: str, what: str) -> None:
        line = self.lines.get(id(element), self.lines[id(self.root)])
        self.problems.append((line, f"{cleaned(self.where)}:{line}: <{name}> {what}"))

    # -- values

    def _checked(self, element: Element | None, name: str, check: Any, *, needed: bool = True) -> Any:
        if element is None:
            if needed:
                self._note(None, name, "is missing")
            return None
        try:
            return check((element.text or "").strip())
        except ValueError as error:
            for each in error.args:
                self._note(element, name, str(each))
            return None

    def _number(self, element: Element, name: str, text: str | None, most: int, least: int = 1) -> int | None:
        text = (text or "").strip()
        if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
            self._note(element, name, f"is a number from {least} to {most}, not {shown(text)}")
            return None
        return int(text)

    def _size(
        self, element: Element, name: str, text: str | None, unit: str | None, basic: int = _KIB
    ) -> int | None:
        scale = basic if unit is None else _UNITS.get(unit)
        if scale is None:
            self._note(element, name, f"has the unit {shown(unit)}; units are {', '.join(_UNITS)}")
            return None
        number = self._number(element, name, text, (1 << 63) // scale)
        return None if number is None else number * scale

    def _cpulist(self, element: Element, name: str, text: str | None) -> CpuSet | None:
        try:
            return CpuSet.parse((text or "").strip())
        except CpuTextError as error:
            self._note(element, name, str(error))
            return None

    # -- elements

    def _vcpus(self) -> dict[str, Any]:
        element = self.root.find("vcpu")
        if element is None:
            return {"vcpus": 1, **self._threads(1)}
        most = self._number(element, "vcpu", element.text, MAX_VCPUS)
        if most is None:
            return {}
        said = element.get("current")
        now = most if said is None else self._number(element, "vcpu current", said, most)
        return {"vcpus": now, "max_vcpus": most, **self._threads(most)}

    def _threads(self, most: int) -> dict[str, Any]:
        element = self.root.find("cpu/topology")
        if element is None:
            return {}
        counts = {
            level: self._number(element, f"topology {level}", element.get(level), MAX_VCPUS)
            for level in _LEVELS
            if level in element.attrib
        }
        if None in counts.values():
            return {}
        product = 1
        for count in counts.values():
            product *= count or 1
        if product != most:
            words = " x ".join(f"{count} {level}" for level, count in counts.items())
            self._note(element, "topology", f"makes {words} = {product} vCPUs, the domain has {most}")
            return {}
        return {"threads": counts.get("threads", 1)}

    def _memory(self) -> int | None:
        element = self.root.find("memory")
        return None if element is None else self._size(element, "memory", element.text, element.get("unit"))

    def _page(self) -> int | None:
        huge = self.root.find("memoryBacking/hugepages")
        if huge is None:
            return None
        pages = list(children(huge, "page"))
        sizes = {self._size(page, "page size", page.get("size"), page.get("unit")) for page in pages}
        if not pages:
            self._note(huge, "hugepages", "does not say of which size: <page size='2048' unit='KiB'/>")
        elif len(sizes) > 1:
            self._note(huge, "hugepages", "are of several sizes, of which a spec has one")
        return next(iter(sizes), None) if len(sizes) == 1 else None

    def _cells(self) -> tuple[GuestCell, ...] | None:
        found: dict[int, GuestCell] = {}
        for place, cell in enumerate(self.root.iterfind("cpu/numa/cell")):
            number = place
            if cell.get("id") is not None:
                given = self._number(cell, "cell id", cell.get("id"), MAX_VCPUS, 0)
                number = place if given is None else given
            cpus = self._cpulist(cell, "cell cpus", cell.get("cpus"))
            size = (
                self._size(cell, "cell memory", cell.get("memory"), cell.get("unit"))
                if cell.get("memory")
                else 0
            )
            if number in found:
                self._note(cell, "cell", f"has the id {number}, as another one has")
            if cpus is not None:
                found[number] = GuestCell(vcpus=tuple(cpus), memory_bytes=size or 0)
        return tuple(found[number] for number in sorted(found)) or None

    def _iothreads(self) -> tuple[str, ...] | None:
        element = self.root.find("iothreads")
        ids = [one.get("id") for one in self.root.iterfind("iothreadids/iothread")]
        count = 0 if element is None else self._number(element, "iothreads", element.text, MAX_VCPUS, 0) or 0
        names = [f"iothread{one}" for one in ids]
        number = 1
        while len(names) < count:  # libvirt gives the lowest ids that are free
            if f"iothread{number}" not in names:
                names.append(f"iothread{number}")
            number += 1
        return tuple(names) or None

    def _devices(self) -> tuple[str, ...] | None:
        found = []
        for device in self.root.iterfind("devices/hostdev"):
            address = device.find("source/address") if device.get("type") == "pci" else None
            if address is None:
                continue
            parts = [address.get(part) or "0x0" for part in ("domain", "bus", "slot", "function")]
            try:
                numbers = [int(part, 16) for part in parts]
                found.append(pci_address("{:04x}:{:02x}:{:02x}.{:x}".format(*numbers)))
            except ValueError:
                self._note(address, "address", f"is no PCI address: {shown(' '.join(parts))}")
        return tuple(found) or None

    # -- how it is to be placed

    def _policies(self, values: dict[str, Any]) -> dict[str, Any]:
        said = next((one for one in self.root.iterfind("metadata/*") if _ours(one)), None)
        if said is None:
            return self._pinned(values.get("max_vcpus") or 1)
        # as many vCPUs as it has, so that the policies are judged with them
        text = f"[[guest]]\nname = 'x'\nvcpus = {values.get('max_vcpus') or 1}\n{said.text or ''}"
        try:
            (entry,) = parse_specs(text, "metadata")
        except (SpecError, ValueError) as error:
            for each in getattr(error, "problems", (str(error),)):
                self._note(said, "metadata", str(each).removeprefix("metadata:"))
            return {}
        given = entry.given()
        given.pop("vcpus", None)
        strange = sorted(set(given) - _POLICIES)
        if strange:
            self._note(said, "metadata", f"says {', '.join(strange)}, which the domain's own elements say")
            return {}
        names = given.get("iothreads")
        if names is not None and len(names) != len(values.get("iothreads", ())):
            self._note(said, "metadata", f"names {len(names)} IOThreads; <iothreads> says how many there are")
        return given

    def _pinned(self, most: int) -> dict[str, Any]:
        """Which vCPUs are dedicated by their pins."""
        pins: dict[int, CpuSet] = {}
        for pin in self.root.iterfind("cputune/vcpupin"):
            vcpu = self._number(pin, "vcpupin vcpu", pin.get("vcpu"), MAX_VCPUS, 0)
            cpus = self._cpulist(pin, "vcpupin cpuset", pin.get("cpuset"))
            if vcpu is not None and cpus is not None and vcpu < most:
                pins[vcpu] = cpus
        users = Counter(cpu for cpus in pins.values() for cpu in cpus)
        alone = tuple(
            sorted(vcpu for vcpu, cpus in pins.items() if len(cpus) == 1 and users[cpus.first] == 1)
        )
        if len(alone) == most:
            return {"vcpu_policy": VcpuPolicy.DEDICATED}
        return {"vcpu_policy": VcpuPolicy.MIXED, "dedicated_vcpus": alone} if alone else {}


def _ours(element: Element) -> bool:
    """Whether an element is what is written into the metadata, whatever its prefix."""
    if callable(element.tag) or not element.tag.endswith("guest"):  # a comment has a function
        return False
    prefix = element.tag.rpartition(":")[0]
    said = element.get(f"xmlns:{prefix}" if prefix else "xmlns")
    return said == METADATA or (said is None and prefix == PREFIX)
