"""
The command line of a QEMU -> a guest's spec.

Read: ``-name``, ``-uuid``, ``-smp`` and ``-machine smp.x=``, ``-m``, ``-object`` (memory backends, IOThreads; also as
JSON, as libvirt writes it), ``-numa``, ``-device vfio-pci``. Everything else is passed over. What is read is judged by
QEMU's rules, and everything that is wrong is said at once. What is so and no spec can hold is a note.

A command line does not say how the guest is to be placed: that is for a spec to say.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvmaff.errors import SpecError, WrongUsage
from kvmaff.formats import fields
from kvmaff.formats.qemunuma import numa_cells
from kvmaff.formats.qemuscript import qemu_words
from kvmaff.formats.qemuwords import READ, bytes_of, options, switched_on, texts
from kvmaff.formats.reading import SpecReading
from kvmaff.formats.tomltext import cleaned, shown
from kvmaff.guest.keyval import escaped
from kvmaff.guest.smp import SmpTopology, read_smp
from kvmaff.guest.smprules import ANY_MACHINE, Version, smp_rules
from kvmaff.guest.spec import GuestCell, GuestSpec, SpecContradiction
from kvmaff.host.pci import pci_address

__all__ = ["parse_qemu", "parse_qemu_text", "qemu_reading", "qemu_text_reading"]

_DEFAULT_MEMORY = 128 << 20
_MIB = 1 << 20


def parse_qemu_text(text: str, where: str, qemu: Version | None = None) -> GuestSpec:
    """
    Read a command line as it stands in a script: the spec of :func:`qemu_text_reading`.

    Args:
        text: As there.
        where: As there.
        qemu: As there.

    Returns:
        The spec.

    Raises:
        SpecError: As there.
    """
    return qemu_text_reading(text, where, qemu).spec


def qemu_text_reading(text: str, where: str, qemu: Version | None = None) -> SpecReading:
    """
    Read a command line as it is typed into a shell, or stands in a script. Nothing is run.

    Args:
        text: The text, with what else the script does; or the options alone.
        where: The file's name, for messages.
        qemu: The version of the binary; None for that of the machine type.

    Returns:
        The spec, and what it cannot hold.

    Raises:
        SpecError: Something in it is wrong; it starts several QEMUs; or what matters is known to a shell only, as
            ``$NAME``. Says everything that is.
    """
    return qemu_reading(qemu_words(text, where), where, qemu)


def parse_qemu(words: Sequence[str], where: str, qemu: Version | None = None) -> GuestSpec:
    """
    Read the arguments of a QEMU: the spec of :func:`qemu_reading`.

    Args:
        words: As there.
        where: As there.
        qemu: As there.

    Returns:
        The spec.

    Raises:
        SpecError: As there.
    """
    return qemu_reading(words, where, qemu).spec


def qemu_reading(words: Sequence[str], where: str, qemu: Version | None = None) -> SpecReading:
    """
    Read the arguments of a QEMU.

    Args:
        words: The words, the program's name first or not.
        where: What they are, for messages.
        qemu: The version of the binary; None for that of the machine type.

    Returns:
        The spec, its policies those of which nothing is said; and what it cannot hold.

    Raises:
        SpecError: Something in it is wrong; says everything that is.
    """
    line = _CommandLine(words, where, qemu)
    return SpecReading(spec=line.spec(), notes=tuple(line.notes))


class _CommandLine:
    def __init__(self, words: Sequence[str], where: str, qemu: Version | None) -> None:
        self.where, self.qemu = where, qemu
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.options: dict[str, list[str]] = {}
        self._in_order: list[tuple[str, str]] = []
        for option in options(words):
            if option.value is not None:
                self.options.setdefault(option.name, []).append(option.value)
                self._in_order.append((option.name, option.value))
            elif option.name in READ:
                self._note(option.name, "wants a value, and is the last word")
        if not words:
            self.problems.append(f"{where}: is empty")

    def spec(self) -> GuestSpec:
        smp = self._smp()
        objects = [*self._parsed("object", "qom-type")]
        backends = {
            str(one.get("id")): one["size"]
            for one in objects
            if _is_memory(one) and "size" in one and self._size("object", one["size"])
        }
        memory = self._memory(backends)
        numa = [*self._parsed("numa", "type")]
        values = {
            **self._name(),
            "vcpus": smp.cpus,
            "max_vcpus": smp.maxcpus,
            "threads": smp.threads,
            "memory_bytes": memory,
            "iothreads": self._iothreads(objects),
            "page_bytes": self._page(objects),
            "cells": self._cells(numa, backends, smp, memory),
            "devices": self._devices(),
        }
        found = None
        if not self.problems:
            try:
                found = GuestSpec(**{field: value for field, value in values.items() if value is not None})
            except SpecContradiction as error:
                self.problems += [f"{self.where}: {field}: {what}" for field, what in error.problems]
        if found is None:
            raise SpecError.of(self.where, self.problems)
        return found

    def _note(self, option: str, what: str) -> None:
        self.problems.append(f"{self.where}: -{option}: {what}")

    def _parsed(self, option: str, first: str) -> Iterator[dict[str, Any]]:
        for text in self.options.get(option, ()):
            if text.startswith("{"):
                try:
                    found = json.loads(text)
                except (ValueError, RecursionError) as error:
                    self._note(option, f"is no JSON: {error}")
                    continue
                if isinstance(found, dict):
                    yield found
            else:
                yield texts(text, first)

    # -- what they say

    def _name(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        said = self.options.get("name", ())
        name = texts(said[-1], "guest").get("guest") if said else None
        if name is None:
            self._note("name", "is not given: a guest needs a name")
        else:
            found["name"] = self._field("name", name, fields.guest_name)
        uuid = self.options.get("uuid")
        if uuid:
            found["uuid"] = self._field("uuid", uuid[-1], fields.uuid)
        return found

    def _field(self, option: str, value: object, check: Any) -> Any:
        try:
            return check(value)
        except ValueError as error:
            for each in error.args:
                self._note(option, str(each))
            return None

    def _machines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is said of the machine, by ``-machine`` and the options that are short for it, in order."""
        for name, value in self._in_order:
            if name == "machine":
                yield name, texts(value, "type")
            elif name in {"smp", "m"}:
                yield name, {name: value}

    def _smp(self) -> SmpTopology:
        told: list[str] = []
        machine = "pc"
        for name, said in self._machines():
            if name == "smp":
                told.append(said["smp"])
            for key, value in said.items():
                if key.startswith("smp."):
                    told.append(f"{key.removeprefix('smp.')}={escaped(str(value))}")
                elif key == "type":
                    machine = str(value)
        accels = self.options.get("accel", [])
        tcg = bool(accels) and accels[0].startswith("tcg")
        try:
            rules = smp_rules(machine, self.qemu, "tcg" if tcg else "kvm")
        except WrongUsage:
            rules = ANY_MACHINE
        try:
            return read_smp(told, rules).topology
        except WrongUsage as error:
            self.problems += [f"{self.where}: {what}" for what in error.problems]
            return SmpTopology(cpus=1, maxcpus=1)

    def _memory(self, backends: Mapping[str, object]) -> int | None:
        """What ``-m`` says; else the size of the machine's own backend, which has to be the same; else QEMU's."""
        said: object = None
        backend: str | None = None
        for name, one in self._machines():
            if name == "m":
                said = texts(one["m"], "size").get("size", said)
            else:
                said = one.get("memory.size", said)
                backend = one.get("memory-backend", backend)
        amount = None if said is None else self._size("m", said, _MIB)
        if backend is None:
            return amount if said is not None else _DEFAULT_MEMORY
        if backend not in backends:
            self._note("machine", f"there is no memory backend {shown(backend)} that has a size")
            return None
        size = bytes_of(backends[backend])
        if amount is not None and amount != size:
            self._note("machine", f"memory backend {shown(backend)} has {size} bytes, -m says {amount}")
        return size

    def _iothreads(self, objects: Sequence[Mapping[str, Any]]) -> tuple[str, ...] | None:
        names = [one.get("id") for one in objects if one.get("qom-type") == "iothread"]
        found: tuple[str, ...] | None = self._field("object", names, fields.iothreads)
        return found

    def _size(self, option: str, text: object, plain: int = 1) -> int | None:
        amount = bytes_of(text, plain)
        if amount is None:
            self._note(option, f"is no amount of memory: {shown(text)}; as 4G, 512M")
        return amount

    def _page(self, objects: Sequence[Mapping[str, Any]]) -> int | None:
        sizes = set()
        for one in filter(_is_memory, objects):
            if "hugetlbsize" in one:
                sizes.add(self._size("object", one["hugetlbsize"]))
            elif switched_on(one.get("hugetlb")):
                self._unsaid("-object memory-backend-memfd,hugetlb=on", "/proc/meminfo (Hugepagesize)")
            elif _is_huge(one.get("mem-path")):
                self._unsaid(
                    f"-object memory-backend-file,mem-path={one['mem-path']}", "/proc/mounts (pagesize)"
                )
        for path in filter(_is_huge, self.options.get("mem-path", [])[-1:]):
            self._unsaid(f"-mem-path {path}", "/proc/mounts (pagesize)")
        if len(sizes) > 1:
            self._note("object", "huge pages are of several sizes, of which a spec has one")
        return next(iter(sizes), None)

    def _unsaid(self, option: str, file: str) -> None:
        note = (
            f"{self.where}: {cleaned(option)}: huge pages, whose size a command line does not say: the spec is without "
            f"them; add page_size, as {file} of its host says"
        )
        if note not in self.notes:
            self.notes.append(note)

    def _cells(
        self,
        numa: Sequence[Mapping[str, Any]],
        backends: Mapping[str, object],
        smp: SmpTopology,
        memory: int | None,
    ) -> tuple[GuestCell, ...] | None:
        return numa_cells(numa, backends, smp, memory, functools.partial(self._note, "numa"))

    def _devices(self) -> tuple[str, ...]:
        found = []
        for one in self._parsed("device", "driver"):
            if one.get("driver") in {"vfio-pci", "vfio-pci-nohotplug"} and "host" in one:
                try:
                    found.append(pci_address(str(one["host"])))
                except ValueError as error:
                    self._note("device", f"host: {error}")
        return tuple(dict.fromkeys(found))


def _is_memory(one: Mapping[str, Any]) -> bool:
    return str(one.get("qom-type")).startswith("memory-backend-")


def _is_huge(path: object) -> bool:
    """Whether a path is in a hugetlbfs, by the names that these have: what is mounted where is not in the words."""
    return any(part.startswith("huge") for part in str(path).lower().split("/"))
