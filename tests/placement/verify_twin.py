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
    limits = {(0, node): free for node, free in request.memory}
    limits.update({(size, node): size * free for node, size, free in request.pages})
    for (size, node), wanted in world.memory.items():
        if wanted > limits.get((size, node), 0 if size else wanted):
            found.add(("memory", None))
    if world.crowded():
        found.add(("overcommit", None))
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
        self.places = places
        self.kind_of = {cpu: kind.name for kind in topology.kinds for cpu in kind.cpus}
        self.pool_of = {cpu: pool.name for pool in request.pools for cpu in pool.cpus}
        self.memory: Counter[tuple[int, int]] = Counter()
        for demand, guest in places:
            if demand.pid is None:
                for node, size in self._memory(guest).items():
                    self.memory[guest.spec.page_bytes, node] += size

    def crowded(self) -> bool:
        """Whether somewhere more vCPUs float than may."""
        pools = [(pool.name, pool.overcommit) for pool in self.request.pools]
        for name, most in [*pools, (None, self.request.overcommit)]:
            guests = [guest for _, guest in self.places if guest.spec.pool == name]
            if most is None or not guests:
                continue
            taken = self.isolated | self.held_alone | set(self.request.reserved)
            for _, guest in self.places:
                taken |= self._alone(guest)
            here = {cpu for cpu in self.online if self.pool_of.get(cpu) == name}
            vcpus = 0
            for guest in guests:
                vcpus += len([t for t in guest.threads if t.role is Role.VCPU]) - len(self._pinned(guest))
            for held in self.request.held:
                on = [cpu for cpu in held.cpus if cpu in self.online]
                if on and not held.dedicated:
                    vcpus += ceil(Fraction(held.vcpus * len([cpu for cpu in on if cpu in here]), len(on)))
            if Fraction(vcpus) > Fraction(most, 1000) * len(here - taken):
                return True
        return False

    def _alone(self, guest: GuestPlacement) -> set[int]:
        spec, own = guest.spec, {cpu for t in self._pinned(guest) for cpu in t.cpus}
        if spec.thread_policy == "isolate":
            own |= {sibling for cpu in own for sibling in self.core_of.get(cpu, ())}
        for thread in guest.threads:
            policy = None if thread.role is Role.VCPU else spec.emulator_policy
            if thread.role is Role.IOTHREAD and spec.iothread_policy is not None:
                policy = spec.iothread_policy
            own |= set(thread.cpus) if policy == "isolate" else set()
        return own

    @staticmethod
    def _pinned(guest: GuestPlacement) -> list[ThreadPlacement]:
        spec = guest.spec
        numbers = {"dedicated": range(spec.max_vcpus), "mixed": spec.dedicated_vcpus, "shared": ()}
        own = list(numbers[spec.vcpu_policy])
        return [t for t in guest.threads if t.role is Role.VCPU and t.index in own]

    def _memory(self, guest: GuestPlacement) -> Counter[int]:
        spec = guest.spec
        vcpus: dict[int | None, CpuSet] = {}
        for thread in guest.threads:
            if thread.role is Role.VCPU:
                vcpus[thread.index] = vcpus.get(thread.index, CpuSet()) | thread.cpus
        parts: list[tuple[int, list[int | None]]]
        parts = [(cell.memory_bytes, [v for v in cell.vcpus if v in vcpus]) for cell in spec.cells]
        if not sum(size for size, _ in parts):
            some = [v for v in vcpus if v in spec.dedicated_vcpus and vcpus[v]]
            parts = [(spec.memory_bytes, some or [*vcpus])]
        page = spec.page_bytes or 1
        need: Counter[int] = Counter()
        for size, members in parts:
            where = Counter(
                self.node_of[cpu] for cpu in {c for v in members for c in vcpus[v]} if cpu in self.node_of
            )
            for node, count in where.items():
                need[node] += page * ceil(Fraction(size * count, where.total() * page))
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
        alone = {id(t) for t in self._pinned(guest)}
        pinned = [(t, cpus) for t, cpus in vcpus if id(t) in alone]
        floating = [(t, cpus) for t, cpus in vcpus if id(t) not in alone]
        if pinned:
            yield from self._dedicated(spec.name, pinned)
            own = {cpu for _, cpus in pinned for cpu in cpus}
            if any(cpu in own for _, cpus in floating for cpu in cpus):
                yield "dedicated"
            yield from self._siblings(guest, pinned, others + floating)
        yield from self._where(guest, vcpus, others)
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
            alone = {id(t) for t in self._pinned(guest)}
            floating = {cpus for t, cpus in vcpus if t.index in cell and cpus and id(t) not in alone}
            if len(floating) > 1:
                yield "shared"
            nodes = {
                self.node_of.get(cpu, "nowhere") for cpus in inside for cpu in cpus if cpu in self.online
            }
            if guest.spec.cells and self.request.host.topology.nodes and len(nodes) > 1:
                yield "cells"

    def _where(self, guest: GuestPlacement, vcpus: Floating, others: Floating) -> Iterator[str]:
        spec = guest.spec
        mine = {cpu for _, cpus in vcpus for cpu in cpus}
        for cpu in mine:
            if self.pool_of.get(cpu) != spec.pool:
                yield "pool"
        for cpu in {cpu for _, cpus in others for cpu in cpus}:
            if self.pool_of.get(cpu) not in (None, spec.pool):
                yield "pool"
        if len(set(self.kind_of.values())) > 1 and spec.core_kind != "any":
            kinds = {self.kind_of[cpu] for cpu in mine if cpu in self.kind_of}
            strange = any(cpu not in self.kind_of for cpu in mine)
            if (spec.core_kind is None and len(kinds) > 1) or (
                spec.core_kind is not None and (kinds - {spec.core_kind} or strange)
            ):
                yield "core_kind"
        cores = {sibling for cpu in mine for sibling in self.core_of.get(cpu, frozenset({cpu}))}
        for _, other in self.places:
            if other.spec.trust_domain == spec.trust_domain or other.spec.name == spec.name:
                continue
            if any(cpu in cores for thread in other.threads for cpu in thread.cpus):
                yield "trust_domain"
        for held in self.request.held:
            if held.trust_domain == spec.trust_domain:
                continue
            theirs = {
                sibling
                for cpu in held.cpus
                if cpu in self.online
                for sibling in self.core_of.get(cpu, frozenset({cpu}))
            }
            if any(cpu in theirs for thread in guest.threads for cpu in thread.cpus):
                yield "trust_domain"
        for one in spec.affinity:
            theirs, ours = self._spots(one.guest, one.level), {self._spot(cpu, one.level) for cpu in mine}
            if theirs and not (ours <= theirs or theirs <= ours):
                yield "affinity"
        for one in spec.anti_affinity:
            if self._spots(one.guest, one.level) & {self._spot(cpu, one.level) for cpu in mine}:
                yield "affinity"

    def _spots(self, name: str, level: str) -> set[object]:
        cpus = {cpu for held in self.request.held if held.name == name for cpu in held.cpus & self._present}
        for _, guest in self.places:
            if guest.spec.name == name:
                cpus |= {cpu for t in guest.threads if t.role is Role.VCPU for cpu in t.cpus}
        return {self._spot(cpu, level) for cpu in cpus}

    @property
    def _present(self) -> CpuSet:
        return CpuSet(self.online)

    def _spot(self, cpu: int, level: str) -> object:
        """The place of a level in which a CPU is."""
        topology = self.request.host.topology
        if level == "core":
            return self.core_of.get(cpu, cpu)
        if level == "l3" and topology.l3:
            return next((("l3", group) for group in topology.l3 if cpu in group), cpu)
        if cpu in self.node_of:
            return "node", self.node_of[cpu]
        return "no node" if cpu in self.online else cpu

    def _emulator(self, guest: GuestPlacement, vcpus: Floating, others: Floating) -> Iterator[str]:
        spec = guest.spec
        alone = {id(t) for t in self._pinned(guest)}
        pinned = {cpu for t, cpus in vcpus for cpu in cpus if id(t) in alone}
        floats = {cpu for t, cpus in vcpus for cpu in cpus if id(t) not in alone}
        for thread, cpus in others:
            policy = spec.emulator_policy
            if thread.role is Role.IOTHREAD and spec.iothread_policy is not None:
                policy = spec.iothread_policy
            for cpu in cpus:
                if policy == "share":
                    if cpu not in (floats or pinned):
                        yield "emulator"
                elif cpu in pinned:
                    yield "emulator"
                elif policy == "housekeeping":
                    if cpu in self.isolated:
                        yield "emulator"
                elif (
                    self.on[cpu] - {spec.name}
                    or cpu in floats
                    or (cpu in self.held and cpu not in self.held_alone)
                ):
                    yield "emulator"
            if thread.role is Role.IOTHREAD and spec.iothread_policy == "isolate":
                rest = [other for other, _ in others if other is not thread]
                if any(cpu in other.cpus for other in rest for cpu in cpus):
                    yield "emulator"
