"""
The NUMA nodes of a QEMU's command line -> a guest's cells.

Rules (QEMU: hw/core/numa.c, hw/core/machine.c, hw/i386/x86.c):

1. Where nothing is said of any vCPU, those of socket s are in node s modulo the number of nodes. Where something is
   said of some, the others are in node 0.
2. A vCPU is in one node: what puts it into a second one is refused.
3. vCPUs are sets of numbers until all is read: a short text can name very many.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError
from kvmaff.formats.qemuwords import bytes_of
from kvmaff.formats.tomltext import cleaned, shown
from kvmaff.guest.smp import SmpTopology
from kvmaff.guest.smprules import LEVELS
from kvmaff.guest.spec import GuestCell

__all__ = ["numa_cells"]

_PLACES = {f"{level[:-1]}-id": level[:-1] for level in LEVELS}
_MOST_NODES = 128
"""As many as QEMU takes."""
_NUMBER = re.compile("[0-9]{1,5}", re.ASCII)
Note = Callable[[str], None]


def numa_cells(
    numa: Sequence[Mapping[str, Any]],
    backends: Mapping[str, object],
    smp: SmpTopology,
    memory: int | None,
    note: Note,
) -> tuple[GuestCell, ...] | None:
    """
    Say which cells a guest has.

    Args:
        numa: What each ``-numa`` says, in order.
        backends: The size of each memory backend, as it is written, by its id.
        smp: The guest's CPUs.
        memory: Its memory; None where that is not known.
        note: Is told everything that is wrong.

    Returns:
        The cells, in the order of their numbers; None where there are none, or something is wrong.
    """
    nodes = _Nodes(smp, note)
    for one in numa:
        if one.get("type") == "node" and not nodes.add(one, backends):
            return None
    for one in numa:
        if one.get("type") == "cpu":
            nodes.put(one)
    return nodes.cells(memory) if nodes.amounts else None


class _Nodes:
    def __init__(self, smp: SmpTopology, note: Note) -> None:
        self.smp, self.note = smp, note
        self.amounts: dict[int, int] = {}
        self._vcpus: dict[int, CpuSet] = {}
        self._told = CpuSet()
        self._at: dict[tuple[str, int], CpuSet] = {}
        self._wrong = False
        self._all = CpuSet.from_bits((1 << smp.maxcpus) - 1)

    def add(self, one: Mapping[str, Any], backends: Mapping[str, object]) -> bool:
        """A node; whether there can be more."""
        if len(self.amounts) == _MOST_NODES:
            self._refuse(f"has more than {_MOST_NODES} nodes, which no QEMU takes")
            return False
        number = self._whole("nodeid", one.get("nodeid", len(self.amounts)))
        if number in self.amounts:
            self._refuse(f"node {number} is there twice")
        self.amounts[number] = self._amount(one, backends)
        self._vcpus.setdefault(number, CpuSet())
        said = one.get("cpus")
        for text in said if isinstance(said, list) else [] if said is None else [said]:
            try:
                vcpus = CpuSet.parse(str(text))
            except CpuTextError as error:
                self._refuse(f"cpus: {error}")
            else:
                self._join(number, vcpus)
        return True

    def put(self, one: Mapping[str, Any]) -> None:
        """Those at a place, of which only some numbers need be said."""
        number = self._whole("node-id", one.get("node-id"))
        if number not in self.amounts:
            self._refuse(f"cpu: there is no node {shown(one.get('node-id'))}")
            return
        if not self._at:
            self._places()
        said = [word for word in one if word in _PLACES]
        found = self._all
        for word in said:
            found &= self._at.get((_PLACES[word], self._whole(word, one[word])), CpuSet())
        if not found:
            self._refuse(
                f"cpu: no vCPU is at {', '.join(f'{word}={cleaned(str(one[word]))}' for word in said)}"
            )
        self._join(number, found)

    def cells(self, memory: int | None) -> tuple[GuestCell, ...] | None:
        """All of them."""
        outside = self._told - self._all
        if outside:
            self._refuse(f"there is no vCPU {outside.first}; -smp makes {self.smp.maxcpus}")
        if not self._told:
            self._by_socket()
        first = min(self.amounts)
        self._vcpus[first] |= self._all - CpuSet.union_of(self._vcpus.values())
        empty = [number for number in sorted(self.amounts) if not self._vcpus[number]]
        if empty:
            self._refuse(f"node {empty[0]} has no vCPU: its memory would be of a cell that has none")
        together = sum(self.amounts.values())
        if memory is not None and together and together != memory:
            self._refuse(f"nodes have {together} bytes of memory together, -m says {memory}")
        if self._wrong:
            return None
        return tuple(
            GuestCell(vcpus=tuple(self._vcpus[number]), memory_bytes=self.amounts[number])
            for number in sorted(self.amounts)
        )

    def _by_socket(self) -> None:
        numbers = sorted(self.amounts)
        sockets = self.smp.drawers * self.smp.books * self.smp.sockets
        inside = self.smp.maxcpus // sockets
        for socket in range(sockets):
            run = CpuSet(range(socket * inside, (socket + 1) * inside))
            self._vcpus[numbers[socket % len(numbers)]] |= run

    def _join(self, number: int, vcpus: CpuSet) -> None:
        double = vcpus & (self._told - self._vcpus[number])
        if double:
            self._refuse(f"vCPU {double.first} is put into two nodes, the second is {number}")
        self._vcpus[number] |= vcpus
        self._told |= vcpus

    def _places(self) -> None:
        bits: dict[tuple[str, int], int] = {}
        for vcpu in range(self.smp.maxcpus):
            place = self.smp.place(vcpu)
            for level in _PLACES.values():
                key = (level, getattr(place, level))
                bits[key] = bits.get(key, 0) | 1 << vcpu
        self._at = {key: CpuSet.from_bits(one) for key, one in bits.items()}

    def _amount(self, node: Mapping[str, Any], backends: Mapping[str, object]) -> int:
        if "memdev" in node:
            name = str(node["memdev"])
            if name not in backends:
                self._refuse(f"there is no memory backend {shown(name)} that has a size")
                return 0
            return bytes_of(backends[name]) or 0  # whoever read the backend has said so
        if "mem" not in node:
            return 0
        amount = bytes_of(node["mem"], 1 << 20)
        if amount is None and str(node["mem"]) not in {"0", "0M", "0G"}:
            self._refuse(f"mem is no amount of memory: {shown(node['mem'])}; as 4G, 512M")
        return amount or 0

    def _whole(self, word: str, value: object) -> int:
        text = str(value)
        if not _NUMBER.fullmatch(text):
            self._refuse(f"{word} is a number, not {shown(value)}")
            return -1
        return int(text)

    def _refuse(self, what: str) -> None:
        self._wrong = True
        self.note(what)
