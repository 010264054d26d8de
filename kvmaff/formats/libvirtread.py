"""
A libvirt domain -> a guest's spec.

What libvirt says is taken from its elements; how the guest is to be placed from the metadata that
:mod:`kvmaff.formats.libvirtxml` writes, and without that from its pins: a vCPU that alone is pinned to one CPU is
dedicated. Everything that is wrong is said at once, each with its line; what no spec can hold is a note.

Rules (libvirt, as 9.0 does it): where cells have memory it is theirs, with the DIMMs, whatever ``<memory>`` says; a
comment inside a text is no part of it. Cells and pins are sets of numbers until all are looked at: a small file can
name very many.
"""

from __future__ import annotations

import os
import re
from typing import Any

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError, SpecError
from kvmaff.formats import fields
from kvmaff.formats.libvirtparts import dimm_bytes, iothread_ids, memory_devices, our_metadata, scale_of
from kvmaff.formats.reading import SpecReading
from kvmaff.formats.specs import parse_specs
from kvmaff.formats.tomltext import cleaned, read_text, shown
from kvmaff.formats.xmltree import Element, XmlError, children, content, parse_xml
from kvmaff.guest.spec import MAX_VCPUS, GuestCell, GuestSpec, SpecContradiction, VcpuPolicy
from kvmaff.host.pci import pci_address

__all__ = ["libvirt_reading", "parse_libvirt", "read_libvirt"]

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
_MADE_UP = re.compile(r'metadata(?::[0-9]+)?: (?:guest 1 \("x"\): )?')
"""How a message about the metadata begins that is read as a file of specs; neither the file nor the guest is there."""


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
    Read the spec of a domain: that of :func:`libvirt_reading`.

    Args:
        text: As there.
        where: As there.

    Returns:
        The spec.

    Raises:
        SpecError: As there.
    """
    return libvirt_reading(text, where).spec


def libvirt_reading(text: str, where: str) -> SpecReading:
    """
    Read a domain.

    Args:
        text: The domain, as ``virsh dumpxml`` prints it.
        where: The file's name, for messages.

    Returns:
        The spec, and what it cannot hold.

    Raises:
        SpecError: Something in it is wrong; says everything that is.
    """
    try:
        root, lines = parse_xml(text)
    except XmlError as error:
        raise SpecError.of(where, [f"{cleaned(where)}:{error.line}: {error.message}"]) from None
    if root.tag != "domain":
        raise SpecError.of(where, [f"{cleaned(where)}:1: is no domain, but a <{cleaned(root.tag)}>"])
    domain = _Domain(root, lines, where)
    return SpecReading(spec=domain.spec(), notes=tuple(domain.notes))


class _Domain:
    """One domain, and what is wrong with it."""

    def __init__(self, root: Element, lines: dict[int, int], where: str) -> None:
        self.root, self.lines, self.where = root, lines, where
        self.problems: list[tuple[int, str]] = []
        self.notes: list[str] = []

    def spec(self) -> GuestSpec:
        vcpus, cells = self._vcpus(), self._cells()
        values = {
            "name": self._checked(self.root.find("name"), "name", fields.guest_name),
            "uuid": self._checked(self.root.find("uuid"), "uuid", fields.uuid, needed=False),
            **vcpus,
            "memory_bytes": self._memory(cells),
            "page_bytes": self._page(),
            "cells": cells,
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
            return check(content(element).strip())
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

    def _size(self, element: Element, name: str, text: str | None, unit: str | None) -> int | None:
        scale = scale_of(unit)
        if scale is None:
            self._note(
                element, name, f"has the unit {shown(unit)}; units are bytes, KiB, MiB, GiB and so on, KB, MB"
            )
            return None
        number = self._number(element, name, text, (1 << 63) // scale)
        return None if number is None else number * scale

    def _cpulist(self, element: Element, name: str, text: str | None) -> CpuSet | None:
        try:
            return CpuSet.parse((text or "").strip(), exclude=True)
        except CpuTextError as error:
            self._note(element, name, str(error))
            return None

    # -- elements

    def _vcpus(self) -> dict[str, Any]:
        element = self.root.find("vcpu")
        if element is None:
            return {"vcpus": 1, **self._threads(1)}
        most = self._number(element, "vcpu", content(element), MAX_VCPUS)
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

    def _memory(self, cells: tuple[GuestCell, ...] | None) -> int | None:
        element = self.root.find("memory")
        said = (
            None if element is None else self._size(element, "memory", content(element), element.get("unit"))
        )
        if cells and all(cell.memory_bytes for cell in cells):
            return sum(cell.memory_bytes for cell in cells)
        return said

    def _page(self) -> int | None:
        huge = self.root.find("memoryBacking/hugepages")
        if huge is None:
            return None
        pages = list(children(huge, "page"))
        sizes = {self._size(page, "page size", page.get("size"), page.get("unit")) for page in pages}
        if not pages:
            self.notes.append(
                f"{cleaned(self.where)}:{self.lines[id(huge)]}: <hugepages> are of the host's default size, which the "
                "domain does not say: the spec is without them; add page_size, as Hugepagesize in /proc/meminfo says"
            )
        elif len(sizes) > 1:
            self._note(huge, "hugepages", "are of several sizes, of which a spec has one")
        return next(iter(sizes), None) if len(sizes) == 1 else None

    def _cells(self) -> tuple[GuestCell, ...] | None:
        dimms = self._dimms()
        found: dict[int, tuple[CpuSet, int]] = {}
        taken, empty = CpuSet(), False
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
                if cpus & taken:
                    self._note(cell, "cell cpus", f"has vCPU {(cpus & taken).first}, which another cell has")
                elif not cpus and not empty:
                    empty = True  # once is enough: a spec has no cell of memory alone
                    self._note(cell, "cell cpus", "names no vCPU; a spec has no cell without")
                found[number] = (cpus - taken, size or 0)
                taken |= cpus
        if not found or self.problems:
            return None
        return tuple(
            GuestCell(vcpus=tuple(cpus), memory_bytes=size + dimms.get(number, 0) if size else 0)
            for number, (cpus, size) in sorted(found.items())
        )

    def _dimms(self) -> dict[int, int]:
        """How much memory of each cell is DIMMs."""
        found: dict[int, int] = {}
        for device in memory_devices(self.root):
            node = device.find("target/node")
            number = 0 if node is None else self._number(node, "node", content(node), MAX_VCPUS, 0)
            if number is not None:
                found[number] = found.get(number, 0) + dimm_bytes(device)
        return found

    def _iothreads(self) -> tuple[str, ...] | None:
        element = self.root.find("iothreads")
        count = (
            0 if element is None else self._number(element, "iothreads", content(element), MAX_VCPUS, 0) or 0
        )
        for one in self.root.iterfind("iothreadids/iothread"):
            self._number(one, "iothread id", one.get("id"), (1 << 32) - 1)
        return tuple(f"iothread{one}" for one in iothread_ids(self.root, count)) or None

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
        ours = our_metadata(self.root)
        if not ours:
            return self._pinned(values.get("max_vcpus") or 1)
        said, *more = ours
        for one in more:
            self._note(one, "metadata", "says a second time how the guest is to be placed: take one out")
        # as many vCPUs as it has, so that the policies are judged with them
        text = f"[[guest]]\nname = 'x'\nvcpus = {values.get('max_vcpus') or 1}\n{content(said)}"
        try:
            entry, *others = parse_specs(text, "metadata")
        except (SpecError, ValueError) as error:
            for each in getattr(error, "problems", (str(error),)):
                self._note(said, "metadata", _MADE_UP.sub("", str(each), count=1))
            return {}
        if others:
            self._note(said, "metadata", "has a table [[guest]]; it is that of one guest already")
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
        once, again = CpuSet(), CpuSet()
        for cpus in pins.values():
            again |= once & cpus
            once |= cpus
        alone = tuple(
            sorted(vcpu for vcpu, cpus in pins.items() if len(cpus) == 1 and cpus.isdisjoint(again))
        )
        if len(alone) == most:
            return {"vcpu_policy": VcpuPolicy.DEDICATED}
        return {"vcpu_policy": VcpuPolicy.MIXED, "dedicated_vcpus": alone} if alone else {}
