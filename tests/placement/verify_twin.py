"""
The rules of verify once more, said CPU by CPU with dictionaries and frozensets, slow and plain.

For placements whose parts have the right types and whose specs are the request's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from math import ceil

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.placement.placement import GuestPlacement, Placement, ThreadPlacement
from kvmaff.placement.request import Demand, PlacementRequest

Broken = set[tuple[str, str | None]]
Floating = list[tuple[ThreadPlacement, frozenset[int]]]


def broken(request: PlacementRequest, placement: Placement) -> Broken:
    """Which rules are broken, for which guests."""
    demands = {demand.spec.name: demand for demand in request.demands}
    found: Broken = set()
    places: list[tuple[Demand, GuestPlacement]] = []
    for guest in placement.guests:
        name = guest.spec.name
        if name not in demands or [one.spec.name for one in placement.guests].count(name) > 1:
            found.add(("guests", name))
        if name in demands and name not in {one.spec.name for _, one in places}:
            places.append((demands[name], guest))
    for name, demand in demands.items():
        mine = [guest for guest in placement.guests if guest.spec.name == name]
        if not mine or any((g.pid, g.start) != (demand.pid, demand.start) for g in mine):
            found.add(("guests", name))
    world = _World(request, places)
    for demand, guest in places:
        found |= {(rule, demand.spec.name) for rule in world.rules_broken(demand, guest)}
    for node, free in request.memory:
        if world.memory[node] > free:
            found.add(("memory", None))
    return found


class _World:
    """Who is where, CPU by CPU."""

    def __init__(self, request: PlacementRequest, places: list[tuple[Demand, GuestPlacement]]) -> None:
        topology = request.host.topology
        self.request = request
        self.online = set(topology.online)
        self.isolated = set(request.host.isolation.unbalanced)
        self.node_of: dict[int, int] = {}
        for node in topology.nodes:
            for cpu in node.cpus:
                self.node_of.setdefault(cpu, node.number)
        self.core_of = {cpu: frozenset(core) for core in topology.cores for cpu in core}
        self.on: dict[int, set[str]] = {}
        for _, guest in places:
            for thread in guest.threads:
                for cpu in thread.cpus:
                    self.on.setdefault(cpu, set()).add(guest.spec.name)
        self.held = {cpu for held in request.held for cpu in held.cpus}
        self.held_alone = {cpu for held in request.held if held.dedicated for cpu in held.cpus}
        self.memory: Counter[int] = Counter()
        for demand, guest in places:
            if demand.pid is None:
                self.memory.update(self._memory(guest))

    def _memory(self, guest: GuestPlacement) -> Counter[int]:
        spec = guest.spec
        vcpus: dict[int | None, CpuSet] = {}
        for thread in guest.threads:
            if thread.role is Role.VCPU:
                vcpus[thread.index] = vcpus.get(thread.index, CpuSet()) | thread.cpus
        parts: list[tuple[int, list[int | None]]]
        parts = [(cell.memory_bytes, [v for v in cell.vcpus if v in vcpus]) for cell in spec.cells]
        if not sum(size for size, _ in parts):
            parts = [(spec.memory_bytes, [*vcpus])]
        need: Counter[int] = Counter()
        for size, members in parts:
            where = Counter(
                self.node_of[cpu] for cpu in {c for v in members for c in vcpus[v]} if cpu in self.node_of
            )
            for node, count in where.items():
                need[node] += ceil(Fraction(size * count, where.total()))
        return need

    def rules_broken(self, demand: Demand, guest: GuestPlacement) -> Iterator[str]:
        """The rules that one guest's place breaks."""
        spec = guest.spec
        vcpus = [(t, frozenset(t.cpus)) for t in guest.threads if t.role is Role.VCPU]
        others = [(t, frozenset(t.cpus)) for t in guest.threads if t.role is not Role.VCPU]
        keys = Counter((str(t.role), t.index) for t in guest.threads)
        required = {("vcpu", v) for v in range(spec.max_vcpus)} | {("emulator", None)}
        required |= {("iothread", at) for at, _ in enumerate(spec.iothreads)}
        optional = {("vhost", None)} | (set() if spec.iothreads else {("iothread", None)})
        if max(keys.values(), default=0) > 1 or not required <= set(keys) <= required | optional:
            yield "threads"
        for _, cpus in vcpus + others:
            if not cpus:
                yield "empty"
            if not all(cpu in self.online for cpu in cpus):
                yield "online"
            if demand.allowed is not None and not all(cpu in demand.allowed for cpu in cpus):
                yield "granted"
            if any(cpu in self.request.reserved for cpu in cpus):
                yield "reserved"
            if len(cpus) > 1 and any(cpu in self.isolated for cpu in cpus):
                yield "isolated"
            if any(cpu in self.held_alone for cpu in cpus):
                yield "dedicated"
        if spec.vcpu_policy == "dedicated":
            yield from self._dedicated(spec.name, vcpus)
            yield from self._siblings(guest, vcpus, others)
        yield from self._cells(guest, vcpus)
        used = sorted({self.node_of[cpu] for _, cpus in vcpus for cpu in cpus if cpu in self.node_of})
        if list(guest.nodes) != used:
            yield "memory"
        yield from self._emulator(guest, vcpus, others)

    def _strangers(self, name: str, cpu: int) -> bool:
        return bool(self.on.get(cpu, set()) - {name}) or cpu in self.held

    def _dedicated(self, name: str, vcpus: Floating) -> Iterator[str]:
        count = Counter(cpu for _, cpus in vcpus for cpu in cpus)
        for _, cpus in vcpus:
            if len(cpus) > 1 or any(count[cpu] > 1 or self._strangers(name, cpu) for cpu in cpus):
                yield "dedicated"

    def _siblings(self, guest: GuestPlacement, vcpus: Floating, others: Floating) -> Iterator[str]:
        spec = guest.spec
        if any(len(cpus) > 1 for _, cpus in vcpus) or spec.thread_policy == "prefer":
            return
        placed = [(t.index, next(iter(cpus))) for t, cpus in vcpus if cpus]
        core = {cpu: self.core_of.get(cpu, frozenset({cpu})) for _, cpu in placed}
        if spec.thread_policy == "require":
            size = 2 if spec.threads == 1 else spec.threads
            for cores in core.values():
                on_it = sum(cpu in cores for _, cpu in placed)
                if on_it % size or len(cores) < size:
                    yield "siblings"
            if spec.threads > 1:
                numbered = [(index, cpu) for index, cpu in placed if index is not None]
                for one, cpu in numbered:
                    for other, cpu_of_other in numbered:
                        if one // spec.threads == other // spec.threads and core[cpu] != core[cpu_of_other]:
                            yield "siblings"
            return
        mine = {cpu for _, cpu in placed}
        for cpu in mine:
            for sibling in core[cpu] - {cpu}:
                if (
                    sibling in mine
                    or self._strangers(spec.name, sibling)
                    or any(sibling in c for _, c in others)
                ):
                    yield "siblings"

    def _cells(self, guest: GuestPlacement, vcpus: Floating) -> Iterator[str]:
        cells: list[tuple[int | None, ...]] = [cell.vcpus for cell in guest.spec.cells] or [
            tuple(t.index for t, _ in vcpus)
        ]
        for cell in cells:
            inside = [cpus for t, cpus in vcpus if t.index in cell]
            if guest.spec.vcpu_policy == "shared" and len({cpus for cpus in inside if cpus}) > 1:
                yield "shared"
            nodes = {
                self.node_of.get(cpu, "nowhere") for cpus in inside for cpu in cpus if cpu in self.online
            }
            if guest.spec.cells and self.request.host.topology.nodes and len(nodes) > 1:
                yield "cells"

    def _emulator(self, guest: GuestPlacement, vcpus: Floating, others: Floating) -> Iterator[str]:
        spec = guest.spec
        mine = {cpu for _, cpus in vcpus for cpu in cpus}
        for cpu in {cpu for _, cpus in others for cpu in cpus}:
            if spec.emulator_policy == "share":
                if cpu not in mine:
                    yield "emulator"
            elif cpu in mine and spec.vcpu_policy == "dedicated":
                yield "emulator"
            elif spec.emulator_policy == "housekeeping":
                if cpu in self.isolated:
                    yield "emulator"
            elif self.on[cpu] - {spec.name} or (cpu in self.held and cpu not in self.held_alone):
                yield "emulator"
