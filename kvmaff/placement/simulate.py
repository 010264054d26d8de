"""
Arrivals and departures against a host: what a strategy accepts in the long run, and at what price.

Rules:

1. Who is refused is gone, who is accepted stays for its lifetime. Who leaves at the very time somebody comes, leaves
   first.
2. The strategy sees what it would see on a machine: the host, one guest that wants a place, and what those that run
   hold. Where there is no place, and moves are allowed, it is asked again with those that run and their places.
3. Nothing is used before ``verify`` has looked at it, whoever decided.
4. The clock only tells how long a decision took. No decision and no other figure depends on it.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible, PlacementRefused, RequestError
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import GuestCell, GuestSpec, VcpuPolicy
from kvmaff.host.reader import Host
from kvmaff.placement.held import held_of, owned_cpus
from kvmaff.placement.moves import Moves
from kvmaff.placement.outcome import Outcome
from kvmaff.placement.placement import GuestPlacement, Placement
from kvmaff.placement.request import Demand, Held, PlacementRequest
from kvmaff.placement.verify import verify
from kvmaff.placement.workload import Arrival

__all__ = ["Decide", "Step", "Terms", "simulate"]

Decide = Callable[[PlacementRequest], Placement]
"""Decides as :meth:`kvmaff.hooks.manager.PluginManager.decide`, and raises PlacementImpossible as that does."""
_POLICIES = (VcpuPolicy.DEDICATED, VcpuPolicy.SHARED)


@attrs.frozen(kw_only=True)
class Terms:
    """
    What is asked for every guest of a workload, and what is so for the host.

    Attributes:
        policy: How vCPUs get CPUs: dedicated or shared.
        spanning: Whether a guest may be on several NUMA nodes; else it is one cell, which stays inside one.
        reserved: CPUs that no guest's thread may use.
    """

    policy: VcpuPolicy = attrs.field(default=VcpuPolicy.DEDICATED, validator=attrs.validators.in_(_POLICIES))
    spanning: bool = False
    reserved: CpuSet = attrs.field(factory=CpuSet)

    def cpus(self, host: Host) -> CpuSet:
        """
        Say which CPUs guests may use.

        Args:
            host: The host.

        Returns:
            Those online that are not reserved.
        """
        return host.topology.online - self.reserved

    def spec(self, guest: Arrival) -> GuestSpec:
        """
        Say what a guest needs.

        Args:
            guest: The guest.

        Returns:
            Its spec.
        """
        cell = GuestCell(vcpus=tuple(range(guest.vcpus)), memory_bytes=guest.memory_bytes)
        return GuestSpec(
            name=guest.name,
            vcpus=guest.vcpus,
            memory_bytes=guest.memory_bytes,
            cells=() if self.spanning else (cell,),
            vcpu_policy=self.policy,
        )


@attrs.frozen(kw_only=True)
class Step:
    """
    One arrival, and what became of it.

    Attributes:
        guest: Who came.
        accepted: Whether it got a place.
        moved: Names of the guests that were moved for it.
        running: The places of all that run now.
    """

    guest: Arrival
    accepted: bool
    moved: tuple[str, ...]
    running: tuple[GuestPlacement, ...]


def simulate(
    host: Host,
    arrivals: Iterable[Arrival],
    decide: Decide,
    *,
    moves: int = 0,
    terms: Terms | None = None,
    watch: Callable[[Step], object] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Outcome:
    """
    Let guests come to a host and leave it.

    Args:
        host: The host, nobody on it at first; its nodes have all their memory for guests.
        arrivals: The guests, in any order.
        decide: Who finds places.
        moves: How many running guests may be moved for one that comes.
        terms: What is asked for all; None for the defaults.
        watch: Is told of each arrival.
        clock: Nanoseconds, for the time that decisions take.

    Returns:
        What came of it; the same for the same arguments, but for how long decisions took.

    Raises:
        RequestError: Two guests have the same name.
        PlacementRefused: An answer breaks a rule.
    """
    come = sorted(arrivals, key=lambda guest: guest.time)
    twice = [name for name, count in Counter(guest.name for guest in come).items() if count > 1]
    if twice:
        raise RequestError.of([f"several guests of the workload are called {name!r}" for name in twice])
    stream = _Stream(host, decide, Moves(guests=moves), terms or Terms(), clock)
    for guest in come:
        stream.until(guest.time)
        accepted, moved = stream.come(guest)
        if watch is not None:
            running = tuple(one.placed for one in stream.running.values())
            watch(Step(guest=guest, accepted=accepted, moved=moved, running=running))
    return stream.outcome()


@attrs.define(kw_only=True)
class _Running:
    """A guest that runs."""

    demand: Demand  # what was asked
    placed: GuestPlacement
    held: tuple[Held, ...]
    extra_nodes: int
    extra_l3: int


class _Stream:
    """The host at one time, and the sums so far."""

    def __init__(
        self, host: Host, decide: Decide, moves: Moves, terms: Terms, clock: Callable[[], int]
    ) -> None:
        self.host, self.decide, self.moves, self.terms, self.clock = host, decide, moves, terms, clock
        self.running: dict[str, _Running] = {}
        self._free = Counter(
            {node.number: node.memory_bytes for node in host.topology.nodes if node.memory_bytes is not None}
        )
        self._nodes = [node.cpus for node in host.columns.nodes]
        self._l3 = _groups(host.columns.l3, self._nodes)
        self._leaving: list[tuple[float, int, str]] = []
        self._room = len(terms.cpus(host))
        self._busy = self._peak = 0  # vCPUs that run
        self._first = self._now = 0.0
        self._sums: Counter[str] = Counter()
        self._area = 0.0
        self._times: list[int] = []

    def until(self, moment: float) -> None:
        """Let those leave whose time is over."""
        if not self._sums["guests"]:
            self._first = self._now = moment
        while self._leaving and self._leaving[0][0] <= moment:
            left, _, name = heapq.heappop(self._leaving)
            self._pass(left)
            self._leave(name)
        self._pass(moment)

    def come(self, guest: Arrival) -> tuple[bool, tuple[str, ...]]:
        """Let a guest come; return whether it is accepted, and who was moved for it."""
        spec = self.terms.spec(guest)
        request = self._request(spec)
        start = self.clock()
        answer = self._decided(request)
        if answer is None and self.moves.guests:
            request = self._moving(request)
            answer = self._decided(request)
        self._times.append(self.clock() - start)
        self._sums.update(guests=1, vcpus=guest.vcpus)
        if answer is None:
            return False, ()
        _verified(request, answer)
        places = {placed.spec.name: placed for placed in answer.guests}
        placed = places.pop(guest.name)
        moved = tuple(name for name, other in places.items() if self._move(self.running[name], other))
        self._sums["shared_cores"] += self._shared_cores(placed.vcpu_cpus)
        # a process that never was: who runs has one
        number = self._sums["guests"]
        placed = attrs.evolve(placed, pid=number, start=0)
        memory = self._memory(spec, placed)
        self._free.subtract({node: size for node, size in memory.items() if node in self._free})
        self._start(Demand(spec=spec, pid=number, start=0, memory=tuple(memory.items())), placed)
        heapq.heappush(self._leaving, (guest.time + guest.lifetime, number, guest.name))
        self._busy += guest.vcpus
        self._sums.update(accepted=1, accepted_vcpus=guest.vcpus)
        self._peak = max(self._peak, self._busy)
        return True, moved

    def outcome(self) -> Outcome:
        """Sum up."""
        for name in list(self.running):
            self._leave(name)
        sums, times, span = self._sums, sorted(self._times), self._now - self._first
        peak = self._peak / max(self._room, 1)
        counts = ("guests", "vcpus", "accepted", "accepted_vcpus", "extra_nodes", "extra_l3", "shared_cores")
        return Outcome(
            **{name: sums[name] for name in (*counts, "moved_guests", "moved_vcpus")},
            mean_use=self._area / span / max(self._room, 1) if span else peak,
            peak_use=peak,
            decision_median_us=_quantile(times, 50) / 1000,
            decision_p99_us=_quantile(times, 99) / 1000,
        )

    # -- what is asked

    def _request(self, spec: GuestSpec) -> PlacementRequest:
        """Ask for a guest beside those that run, which stay where they are."""
        return PlacementRequest(
            host=self.host,
            demands=(Demand(spec=spec),),
            held=tuple(held for one in self.running.values() for held in one.held),
            reserved=self.terms.reserved,
            memory=tuple(self._free.items()),
        )

    def _moving(self, request: PlacementRequest) -> PlacementRequest:
        """Ask for the same where those that run may be moved."""
        running = (attrs.evolve(one.demand, now=one.placed) for one in self.running.values())
        return attrs.evolve(request, demands=(*request.demands, *running), held=(), moves=self.moves)

    def _decided(self, request: PlacementRequest) -> Placement | None:
        try:
            answer = self.decide(request)
        except PlacementImpossible:
            return None
        if not isinstance(answer, Placement):
            raise PlacementRefused(
                f"an answer of the simulation is no Placement, but of type {type(answer).__name__}",
                strategy="",
                violations=(),
            )
        return answer

    # -- who runs

    def _start(self, demand: Demand, placed: GuestPlacement) -> None:
        cpus, vcpus = placed.vcpu_cpus, demand.spec.max_vcpus
        self.running[demand.spec.name] = _Running(
            demand=demand,
            placed=placed,
            held=held_of(placed),
            extra_nodes=_extra(self._nodes, cpus, vcpus),
            extra_l3=_extra(self._l3, cpus, vcpus),
        )

    def _move(self, one: _Running, placed: GuestPlacement) -> bool:
        """Take over the place that a running guest has now, and say whether it was moved."""
        moved = _vcpu_sets(placed) != _vcpu_sets(one.placed)
        if moved:
            self._sums.update(moved_guests=1, moved_vcpus=one.demand.spec.max_vcpus)
        self._start(one.demand, placed)  # its memory stays where it was
        return moved

    def _leave(self, name: str) -> None:
        one = self.running.pop(name)
        self._free.update({node: size for node, size in one.demand.memory if node in self._free})
        self._sums.update(extra_nodes=one.extra_nodes, extra_l3=one.extra_l3)
        self._busy -= one.demand.spec.max_vcpus

    def _pass(self, moment: float) -> None:
        self._area += self._busy * (moment - self._now)
        self._now = moment

    # -- what a place is

    def _memory(self, spec: GuestSpec, placed: GuestPlacement) -> Counter[int]:
        """Where a guest's memory is: spread as its CPUs are, as ``verify`` has it."""
        cpus = owned_cpus(placed) & placed.vcpu_cpus or placed.vcpu_cpus
        counts = {node.number: len(node.cpus & cpus) for node in self.host.columns.nodes}
        total = sum(counts.values())
        return Counter({node: -(-spec.memory_bytes * n // total) for node, n in counts.items() if n})

    def _shared_cores(self, cpus: CpuSet) -> int:
        others = 0
        for one in self.running.values():
            others |= one.placed.vcpu_cpus.bits
        core_at = self.host.columns.core_at
        return sum(core & others != 0 for core in {core_at.get(cpu, 1 << cpu) for cpu in cpus})


def _verified(request: PlacementRequest, answer: Placement) -> None:
    broken = verify(request, answer)
    if broken:
        lines = [f"an answer of the simulation is refused: {one.message} [{one.rule}]" for one in broken]
        raise PlacementRefused("\n".join(lines), strategy=str(answer.strategy), violations=broken)


def _groups(l3: Sequence[CpuSet], nodes: Sequence[CpuSet]) -> list[CpuSet]:
    """Return the L3 groups, and of each node what is in none."""
    known = CpuSet.union_of(l3)
    return [*l3, *(rest for node in nodes if (rest := node - known))]


def _extra(groups: Sequence[CpuSet], cpus: CpuSet, vcpus: int) -> int:
    """How many groups are used beyond the fewest that could hold so many vCPUs, or the CPUs that these float over."""
    used = sum(not group.isdisjoint(cpus) for group in groups)
    return max(used - -(-min(vcpus, len(cpus)) // max(map(len, groups))), 0)


def _vcpu_sets(placed: GuestPlacement) -> tuple[CpuSet, ...]:
    return tuple(thread.cpus for thread in placed.threads if thread.role is Role.VCPU)


def _quantile(times: Sequence[int], percent: int) -> int:
    """Return the least that is no less than so many percent of all; 0 of none."""
    return times[-(-len(times) * percent // 100) - 1] if times else 0
