"""
The command line of a QEMU -> a guest's spec.

Read: ``-name``, ``-uuid``, ``-smp`` and ``-machine smp.x=``, ``-m``, ``-object`` (memory backends, IOThreads; also as
JSON, as libvirt writes it), ``-numa``, ``-device vfio-pci``. Everything else is passed over. What is read is judged by
QEMU's rules, and everything that is wrong is said at once.

A command line does not say how the guest is to be placed: that is for a spec to say.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError, SpecError, WrongUsage
from kvmaff.formats import fields
from kvmaff.formats.tomltext import shown
from kvmaff.guest.smp import SmpTopology, read_smp
from kvmaff.guest.smprules import ANY_MACHINE, LEVELS, Version, smp_rules
from kvmaff.guest.spec import GuestCell, GuestSpec, SpecContradiction
from kvmaff.host.pci import pci_address

__all__ = ["parse_qemu", "parse_qemu_text"]

_FLAGS = frozenset(
    {
        *(
            "S",
            "s",
            "h",
            "help",
            "version",
            "snapshot",
            "nographic",
            "curses",
            "enable-kvm",
            "no-kvm",
            "no-acpi",
        ),
        *("no-hpet", "no-reboot", "no-shutdown", "daemonize", "nodefaults", "no-user-config", "nodefconfig"),
        *(
            "only-migratable",
            "preconfig",
            "singlestep",
            "usb",
            "full-screen",
            "no-quit",
            "alt-grab",
            "ctrl-grab",
        ),
        *(
            "portrait",
            "win2k-hack",
            "no-fd-bootchk",
            "mem-prealloc",
            "semihosting",
            "enable-fips",
            "xen-attach",
        ),
        *("xen-domid-restrict", "old-param", "no-frame", "sdl"),
    }
)
"""Options without a value (qemu-options.hx of 2.12 to 10.0)."""
_UNITS = {"": 1, **{letter: 1 << 10 * power for power, letter in enumerate("BKMGTPE")}}
_SIZE = re.compile(r"(0x[0-9a-f]+|[0-9]+(?:\.[0-9]+)?)([bkmgtpe]?)", re.ASCII | re.IGNORECASE)
_PROGRAM = re.compile(r"(?:.*/)?(?:qemu-system-[a-z0-9_]+|qemu-kvm)|/.*/kvm", re.ASCII | re.DOTALL)
_PLACES = {f"{level[:-1]}-id": level[:-1] for level in LEVELS}
_DEFAULT_MEMORY = 128 << 20
_LARGEST = 1 << 62


def parse_qemu_text(text: str, where: str, qemu: Version | None = None) -> GuestSpec:
    """
    Read a command line as it is typed into a shell, or stands in a script.

    Args:
        text: The text; a backslash at a line's end goes on.
        where: The file's name, for messages.
        qemu: The version of the binary; None for that of the machine type.

    Returns:
        The spec.

    Raises:
        SpecError: Something in it is wrong; says everything that is.
    """
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise SpecError.of(where, [f"{where}: is no command line: {error}"]) from None
    starts = [at + 1 for at, word in enumerate(words) if _PROGRAM.fullmatch(word)]
    return parse_qemu(words[max(starts, default=0) :], where, qemu)


def parse_qemu(words: Sequence[str], where: str, qemu: Version | None = None) -> GuestSpec:
    """
    Read the arguments of a QEMU.

    Args:
        words: The words, the program's name first or not.
        where: What they are, for messages.
        qemu: The version of the binary; None for that of the machine type.

    Returns:
        The spec; its policies are those of which nothing is said.

    Raises:
        SpecError: Something in it is wrong; says everything that is.
    """
    return _CommandLine(words, where, qemu).spec()


class _CommandLine:
    def __init__(self, words: Sequence[str], where: str, qemu: Version | None) -> None:
        self.where, self.qemu = where, qemu
        self.problems: list[str] = []
        self.options: dict[str, list[str]] = {}
        self._at: dict[tuple[str, ...], dict[tuple[int, ...], list[int]]] = {}
        for name, value in self._options(words):
            self.options.setdefault(name, []).append(value)

    def spec(self) -> GuestSpec:
        smp = self._smp()
        objects = [*self._parsed("object", "qom-type")]
        memory = self._memory()
        numa = [*self._parsed("numa", "type")]
        values = {
            **self._name(),
            "vcpus": smp.cpus,
            "max_vcpus": smp.maxcpus,
            "threads": smp.threads,
            "memory_bytes": memory,
            "iothreads": self._iothreads(objects),
            "page_bytes": self._page(objects),
            "cells": self._cells(numa, objects, smp, memory),
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

    # -- words

    def _options(self, words: Sequence[str]) -> Iterator[tuple[str, str]]:
        at = 0
        while at < len(words):
            word = words[at]
            at += 1
            if not word.startswith("-") or word == "-":
                continue  # the program, or a disk image
            name = word[2 if word.startswith("--") else 1 :]
            if name in _FLAGS:
                yield name, ""
            elif at < len(words):
                yield {"M": "machine"}.get(name, name), words[at]
                at += 1
            else:
                self._note(name, "wants a value, and is the last word")
        if not words:
            self.problems.append(f"{self.where}: is empty")

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
                yield _words(text, first)

    # -- what they say

    def _name(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        texts = self.options.get("name", ())
        name = _words(texts[-1], "guest").get("guest") if texts else None
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

    def _smp(self) -> SmpTopology:
        machines = [_words(text, "type") for text in self.options.get("machine", ())]
        told = [
            f"{key[4:]}={value}"
            for machine in machines
            for key, value in machine.items()
            if key.startswith("smp.")
        ]
        names = [str(machine["type"]) for machine in machines if "type" in machine]
        accels = [str(text) for text in self.options.get("accel", ())]
        tcg = bool(accels) and accels[0].startswith("tcg")
        try:
            rules = smp_rules(names[-1] if names else "pc", self.qemu, "tcg" if tcg else "kvm")
        except WrongUsage:
            rules = ANY_MACHINE
        try:
            return read_smp([*self.options.get("smp", ()), *told], rules).topology
        except WrongUsage as error:
            self.problems += [f"{self.where}: {what}" for what in error.problems]
            return SmpTopology(cpus=1, maxcpus=1)

    def _memory(self) -> int | None:
        said = [_words(text, "size").get("size") for text in self.options.get("m", ())]
        sizes = [size for size in said if size is not None]
        return self._size("m", str(sizes[-1]), 1 << 20) if sizes else _DEFAULT_MEMORY

    def _iothreads(self, objects: Sequence[Mapping[str, Any]]) -> tuple[str, ...] | None:
        names = [one.get("id") for one in objects if one.get("qom-type") == "iothread"]
        found: tuple[str, ...] | None = self._field("object", names, fields.iothreads)
        return found

    def _size(self, option: str, text: object, plain: int = 1) -> int | None:
        if type(text) is int:
            return text if 0 <= text < _LARGEST else None
        match = _SIZE.fullmatch(str(text))
        amount = 0
        if match is not None:
            unit = _UNITS[match[2].upper()] if match[2] else plain
            number = match[1]
            if number.lower().startswith("0x"):
                amount = int(number, 16) * unit
            elif len(number) < 30:
                whole, _, part = number.partition(".")
                amount = int(whole) * unit + (int(part) * unit // 10 ** len(part) if part else 0)
        if not 0 < amount < _LARGEST:
            self._note(option, f"is no amount of memory: {shown(str(text))}; as 4G, 512M")
            return None
        return amount

    def _page(self, objects: Sequence[Mapping[str, Any]]) -> int | None:
        sizes = {
            self._size("object", one["hugetlbsize"])
            for one in objects
            if str(one.get("qom-type")).startswith("memory-backend-") and "hugetlbsize" in one
        }
        if len(sizes) > 1:
            self._note("object", "huge pages are of several sizes, of which a spec has one")
        return next(iter(sizes), None)

    def _cells(
        self,
        numa: Sequence[Mapping[str, Any]],
        objects: Sequence[Mapping[str, Any]],
        smp: SmpTopology,
        memory: int | None,
    ) -> tuple[GuestCell, ...] | None:
        sizes = {str(one.get("id")): one["size"] for one in objects if "size" in one}
        amounts: dict[int, int] = {}
        home: dict[int, int] = {}
        for one in numa:
            kind = one.get("type")
            if kind == "node":
                number = self._whole("nodeid", one.get("nodeid", len(amounts)))
                if number in amounts:
                    self._note("numa", f"node {number} is there twice")
                amounts[number] = self._of_node(one, sizes)
                for vcpu in self._vcpus(one.get("cpus")):
                    home[vcpu] = number
        for one in numa:
            if one.get("type") == "cpu":
                number = self._whole("node-id", one.get("node-id"))
                if number not in amounts:
                    self._note("numa", f"cpu: there is no node {shown(one.get('node-id'))}")
                home |= dict.fromkeys(self._matching(one, smp), number)
        if not amounts:
            return None
        outside = [vcpu for vcpu in home if vcpu >= smp.maxcpus]
        if outside:
            self._note("numa", f"there is no vCPU {min(outside)}; -smp makes {smp.maxcpus}")
        for vcpu in range(smp.maxcpus):
            home.setdefault(vcpu, min(amounts))  # QEMU's own rule for those of which nothing is said
        empty = [number for number in sorted(amounts) if number not in home.values()]
        if empty:
            self._note("numa", f"node {empty[0]} has no vCPU: its memory would be of a cell that has none")
        if memory is not None and any(amounts.values()) and sum(amounts.values()) != memory:
            self._note(
                "numa", f"nodes have {sum(amounts.values())} bytes of memory together, -m says {memory}"
            )
        return tuple(
            GuestCell(
                vcpus=tuple(vcpu for vcpu in range(smp.maxcpus) if home[vcpu] == number),
                memory_bytes=amounts[number],
            )
            for number in sorted(amounts)
        )

    def _of_node(self, node: Mapping[str, Any], sizes: Mapping[str, Any]) -> int:
        if "memdev" in node:
            name = str(node["memdev"])
            if name not in sizes:
                self._note("numa", f"there is no memory backend {shown(name)}")
                return 0
            return self._size("object", sizes[name]) or 0
        return (self._size("numa", node["mem"], 1 << 20) or 0) if "mem" in node else 0

    def _whole(self, word: str, value: object) -> int:
        text = str(value)
        if not re.fullmatch("[0-9]{1,5}", text, re.ASCII):
            self._note("numa", f"{word} is a number, not {shown(value)}")
            return -1
        return int(text)

    def _vcpus(self, value: object) -> Iterator[int]:
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            try:
                yield from CpuSet.parse(str(one))
            except CpuTextError as error:
                self._note("numa", f"cpus: {error}")

    def _matching(self, one: Mapping[str, Any], smp: SmpTopology) -> list[int]:
        """The vCPUs at a place of which only some numbers are said."""
        wanted = {_PLACES[word]: self._whole(word, value) for word, value in one.items() if word in _PLACES}
        levels = tuple(wanted)
        if levels not in self._at:
            at: dict[tuple[int, ...], list[int]] = {}
            for vcpu in range(smp.maxcpus):
                place = smp.place(vcpu)
                at.setdefault(tuple(getattr(place, level) for level in levels), []).append(vcpu)
            self._at[levels] = at
        found = self._at[levels].get(tuple(wanted.values()), [])
        if not found:
            self._note(
                "numa",
                f"cpu: no vCPU is at {', '.join(f'{word}={one[word]}' for word in one if word in _PLACES)}",
            )
        return found

    def _devices(self) -> tuple[str, ...]:
        found = []
        for one in self._parsed("device", "driver"):
            if one.get("driver") in {"vfio-pci", "vfio-pci-nohotplug"} and "host" in one:
                try:
                    found.append(pci_address(str(one["host"])))
                except ValueError as error:
                    self._note("device", f"host: {error}")
        return tuple(dict.fromkeys(found))


def _words(text: str, first: str) -> dict[str, Any]:
    """
    Take a text apart as QemuOpts does: a word alone is switched on, the first one is a value.

    Of a word that is there several times ``cpus``, ``host-nodes`` and the like are lists; of others the last one holds.
    """
    found: dict[str, Any] = {}
    parts = [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]
    for place, part in enumerate(parts):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = (first, part) if place == 0 else (part, "on")
        if not key:
            continue
        if key in {"cpus", "host-nodes"}:
            found.setdefault(key, []).append(value)
        else:
            found[key] = value
    return found
