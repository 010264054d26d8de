"""
Guests as a capture holds them: what was found and proved when it was made.

A capture comes from strangers. Every field is checked; what it calls proved is taken at its word, since nothing can be
bound by it.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import attrs

from kvmaff.errors import HostReadError
from kvmaff.fields import Fields
from kvmaff.guest.guest import Guest, GuestThread, Role, Source
from kvmaff.guest.spec import MAX_VCPUS
from kvmaff.guest.vmm import QEMU
from kvmaff.host.pci import pci_address
from kvmaff.host.tree import BIG, open_tree
from kvmaff.kernel.text import printable

__all__ = ["GUESTS_FILE", "Recorded", "guests_text", "recorded_guests"]

GUESTS_FILE = "kvmaff/guests.json"
"""Where a capture has them."""
_MOST = 1 << 14

Memory = tuple[tuple[int, int], ...]
Devices = tuple[str, ...]


@attrs.frozen(kw_only=True)
class Recorded:
    """
    The guests of a recorded machine.

    Attributes:
        guests: The guests.
        memory: (node, bytes) of each process's memory, by process.
        devices: Addresses of each process's PCI devices, by process.
    """

    guests: tuple[Guest, ...]
    memory: Mapping[int, Memory]
    devices: Mapping[int, Devices]


def guests_text(
    guests: Iterable[Guest],
    memory: Mapping[int, Memory],
    devices: Mapping[int, Devices] = MappingProxyType({}),
) -> str:
    """
    Write guests down.

    Args:
        guests: The guests.
        memory: (node, bytes) of their memory, by process.
        devices: Addresses of their PCI devices, by process.

    Returns:
        JSON.
    """
    data = []
    for guest in guests:
        fields = attrs.asdict(guest, recurse=False)
        fields["threads"] = [
            {
                **attrs.asdict(thread, recurse=False),
                "mask": None if thread.mask is None else str(thread.mask),
            }
            for thread in guest.threads
        ]
        data.append(
            {
                **fields,
                "memory": [list(pair) for pair in memory.get(guest.pid, ())],
                "devices": list(devices.get(guest.pid, ())),
            }
        )
    return json.dumps({"guests": data})


def recorded_guests(root: str) -> Recorded | None:
    """
    Read the guests of a recorded machine.

    Args:
        root: A recorded machine's folder or capture file.

    Returns:
        The guests, none in an archive that is no capture of ours; None for a folder where no capture wrote them down.

    Raises:
        HostReadError: What it wrote makes no sense; says which field.
    """
    with open_tree(root) as tree:
        data = tree.read(GUESTS_FILE, BIG)
    if data is not None:
        return _parsed(data, f"{root.rstrip('/')}/{GUESTS_FILE}")
    return Recorded(guests=(), memory={}, devices={}) if os.path.isfile(root) else None


@functools.lru_cache(maxsize=1)  # placing asks for the memory of one guest after the other
def _parsed(data: bytes, path: str) -> Recorded:
    try:
        top = Fields(json.loads(data), "the file")
        items = top.items("guests")
        if len(items) > _MOST:
            raise ValueError(f"more than {_MOST} guests")
        found = [
            _guest(Fields(_filled(item, devices=[], unanswered=None), f"guest {place}"))
            for place, item in enumerate(items)
        ]
    except (ValueError, RecursionError) as error:
        raise HostReadError(f"{path}: {error}", path=path) from None
    return Recorded(
        guests=tuple(guest for guest, _, _ in found),
        memory={guest.pid: memory for guest, memory, _ in found},
        devices={guest.pid: devices for guest, _, devices in found},
    )


def _filled(item: object, **later: object) -> object:
    """Older captures do not tell all of it."""
    return {**later, **item} if isinstance(item, dict) else item


def _iothread(fields: Fields, role: str, name: str) -> str | None:
    if role != Role.IOTHREAD:
        return None
    return _maybe(fields.text_or_none("iothread")) or QEMU.iothread_name(name)


def _guest(fields: Fields) -> tuple[Guest, Memory, Devices]:
    most = fields.number_or_none("max_vcpus", least=1)
    pid = fields.number("pid", least=1)
    guest = Guest(
        name=_text(fields.text("name"), 128) or f"pid:{pid}",
        uuid=_maybe(fields.text_or_none("uuid")),
        pid=pid,
        start=fields.number("start"),
        seen=fields.number("seen"),
        vmm=_text(fields.text("vmm")),
        kvm=None if fields.value("kvm") is None else fields.flag("kvm"),
        verified=fields.flag("verified"),
        why=_maybe(fields.text_or_none("why")),
        doubt=_maybe(fields.text_or_none("doubt")),
        threads=tuple(
            _thread(Fields(_filled(item, iothread=None), f"{fields.where}, thread {place}"), pid)
            for place, item in enumerate(fields.items("threads"))
        ),
        max_vcpus=None if most is None else min(most, MAX_VCPUS),
        unanswered=_maybe(fields.text_or_none("unanswered")),
    )
    memory = []
    for pair in fields.items("memory"):
        if not isinstance(pair, list) or len(pair) != 2 or any(type(n) is not int or n < 0 for n in pair):
            raise ValueError(f"{fields.where}: 'memory' is no list of [node, bytes]")
        memory.append((pair[0], pair[1]))
    return guest, tuple(memory), _devices(fields)


def _devices(fields: Fields) -> Devices:
    texts = fields.texts("devices")
    try:
        if len(texts) > _MOST:
            raise ValueError(f"more than {_MOST}")
        return tuple(sorted({pci_address(text) for text in texts}))
    except ValueError as error:
        raise ValueError(f"{fields.where}: 'devices': {error}") from None


def _thread(fields: Fields, pid: int) -> GuestThread:
    role: Any = fields.value("role")
    if role not in list(Role):
        raise ValueError(f"{fields.where}: 'role' is no role")
    source: Any = fields.value("source")
    if source is not None and source not in list(Source):
        raise ValueError(f"{fields.where}: 'source' is no source")
    name = _text(fields.text("name"))
    return GuestThread(
        pid=pid,
        tid=fields.number("tid", least=1),
        ino=fields.number("ino"),
        start=fields.number("start"),
        role=Role(role),
        index=fields.number_or_none("index"),
        name=name,
        mask=fields.cpus_or_none("mask"),
        cpu=fields.number_or_none("cpu"),
        source=None if source is None else Source(source),
        iothread=_iothread(fields, role, name),
    )


def _text(text: str, limit: int = 512) -> str:
    return printable(text.encode(errors="replace"), limit)


def _maybe(text: str | None) -> str | None:
    return None if text is None else _text(text)
