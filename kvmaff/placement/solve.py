"""
The one search. A strategy is an objective and filters; placing many guests on one host happens here.

The order: dedicated guests before shared ones, the larger before the smaller, so that who needs most finds most; what a
dedicated guest owns is nobody else's afterwards. Guests' other threads come last, when it is known which CPUs belong
to nobody alone. Every guest that has a place gets it; those without are named with all reasons.
"""

from __future__ import annotations

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import EmulatorPolicy, GuestSpec, ThreadPolicy, VcpuPolicy
from kvmaff.placement.board import MOST_CELLS, MOST_NODES, WHOLE, Board
from kvmaff.placement.candidates import candidates, overcommitted
from kvmaff.placement.exact import exact
from kvmaff.placement.objective import Objective
from kvmaff.placement.placement import GuestPlacement, Placement, ThreadPlacement, Unplaced
from kvmaff.placement.refusal import reasons
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.scoring import Candidate, Wants
from kvmaff.placement.splits import memory_needed

__all__ = ["solve"]

_NOT_PROVED = "the best that was found; the search was too long to prove that nothing better exists"


def solve(request: PlacementRequest, objective: Objective) -> Placement:
    """
    Find a place for every guest of a request.

    Args:
        request: The host, the guests, and what is taken.
        objective: What is wanted of the places.

    Returns:
        The placement; the same request and objective give the same one.

    Raises:
        PlacementImpossible: A guest has no place. Its ``unplaced`` says for each which and why, and what would work;
            its ``placement`` has the places of the others.
    """
    search = _Search(request, objective)
    for demand in search.ordered():
        search.take(demand)
    placement = search.placement()
    if search.unplaced:
        order = {demand.spec.name: place for place, demand in enumerate(request.demands)}
        unplaced = tuple(sorted(search.unplaced, key=lambda one: order[one.name]))
        lines = [f"{one.name}: {reason}" for one in unplaced for reason in one.reasons]
        raise PlacementImpossible("\n".join(lines), unplaced=unplaced, placement=placement)
    return placement


@attrs.frozen(kw_only=True)
class _Taken:
    """A guest's place before its other threads have one."""

    demand: Demand
    candidate: Candidate
    extra: CpuSet | None  # the emulator's own PU


class _Search:
    """One search: what has been decided so far."""

    def __init__(self, request: PlacementRequest, objective: Objective) -> None:
        self.request = request
        self.objective = objective
        self.board = Board(request)
        self.taken: list[_Taken] = []
        self.unplaced: list[Unplaced] = []

    def ordered(self) -> list[Demand]:
        """Return the guests in the order in which they are placed."""

        def rank(demand: Demand) -> tuple[bool, int, str]:
            spec = demand.spec
            return spec.vcpu_policy is VcpuPolicy.SHARED, -spec.max_vcpus, spec.name

        return sorted(self.request.demands, key=rank)

    def take(self, demand: Demand) -> None:
        """Place one guest, or note why it has no place."""
        spec = demand.spec
        told = {node.number for node in self.request.host.topology.nodes}
        away = [node for node in spec.device_nodes if told and node not in told]
        if away:
            have = ", ".join(map(str, sorted(told)))
            self._refuse(
                demand, f"its device is on NUMA node {away[0]}, which this host has not; it has {have}"
            )
            return
        shared = spec.vcpu_policy is VcpuPolicy.SHARED
        best = self._best_shared(demand) if shared else self._best_dedicated(demand)
        if isinstance(best, tuple):
            self._refuse(demand, *best)
            return
        extra = None
        if self._emulator(spec) is EmulatorPolicy.ISOLATE:
            extra = self._own_pu(demand, best)
            if extra is None:
                self._refuse(
                    demand,
                    "no PU is left for its emulator threads alone (emulator policy isolate)",
                    self._other_emulator(demand, best),
                )
                return
        if shared:
            self.board.burden(best.cpus, spec.max_vcpus)
        else:
            owned = self._owned(spec, best) | (extra or CpuSet())
            missing = self._starved(demand, owned)
            if missing:
                self._refuse(demand, missing, *self._fewer(demand))
                return
            self.board.own(owned, spec.name)
        if demand.pid is None:
            for node, amount in memory_needed(self.board, spec, best.cpus, best.nodes).items():
                if node in self.board.memory:
                    self.board.memory[node] -= amount
        self.taken.append(_Taken(demand=demand, candidate=best, extra=extra))

    def placement(self) -> Placement:
        """Return what was decided, in order of the request."""
        order = {demand.spec.name: place for place, demand in enumerate(self.request.demands)}
        guests = []
        for taken in sorted(self.taken, key=lambda one: order[one.demand.spec.name]):
            placed = self._finish(taken)
            if placed is not None:
                guests.append(placed)
        return Placement(strategy=self.objective.name, guests=tuple(guests))

    def _refuse(self, demand: Demand, *why: str) -> None:
        self.unplaced.append(Unplaced(name=demand.spec.name, reasons=why))

    def _emulator(self, spec: GuestSpec) -> EmulatorPolicy:
        """Where a guest's other threads go; sharing isolated CPUs would leave all of them on one."""
        dedicated = spec.vcpu_policy is VcpuPolicy.DEDICATED
        if dedicated and self.objective.housekeeping and spec.emulator_policy is EmulatorPolicy.SHARE:
            return EmulatorPolicy.HOUSEKEEPING
        return spec.emulator_policy

    # -- vCPUs

    def _pool(self, demand: Demand) -> CpuSet:
        """CPUs that a guest's vCPUs may come to."""
        pool = self.request.usable(demand) - self.board.owned
        if demand.spec.vcpu_policy is VcpuPolicy.DEDICATED:
            pool -= self.board.used
            if self.objective.from_isolated and self.board.isolated:
                return pool & self.board.isolated
        return pool - self.board.isolated

    def _best_dedicated(self, demand: Demand) -> Candidate | tuple[str, ...]:
        pool, spec = self._pool(demand), demand.spec
        best = self._best(demand, spec, pool, pool, spec.max_vcpus)
        return best or reasons(self.board, demand, self.objective, pool, self._best)

    def _best_shared(self, demand: Demand) -> Candidate | tuple[str, ...]:
        """A place where nobody is over-committed if there is one, else with as little as can be."""
        pool, spec = self._pool(demand), demand.spec
        places = min(spec.max_vcpus, len(pool))
        if places:
            loads = [self.board.load[cpu] for cpu in pool]
            for ceiling in range(WHOLE, max(loads) + 2 * WHOLE, WHOLE):
                free = self.board.room(pool, ceiling)
                if len(free) >= places:
                    best = self._best(demand, spec, free, pool, places)
                    if best is not None:
                        return best
            if spec.cells:
                best = overcommitted(self.board, spec, pool, memory=demand.pid is None)
                if best is not None:
                    return best
        return reasons(self.board, demand, self.objective, pool, self._best)

    def _best(
        self, demand: Demand, spec: GuestSpec, free: CpuSet, reach: CpuSet, vcpus: int
    ) -> Candidate | None:
        shared = spec.vcpu_policy is VcpuPolicy.SHARED
        if vcpus < spec.max_vcpus and spec.cells:
            return None  # more vCPUs than CPUs: each cell floats over a node of its own
        memory = demand.pid is None
        known = len(self.board.nodes) <= MOST_NODES and len(spec.cells) <= MOST_CELLS
        searched = self.objective.exact and not shared and known
        ways = Wants.of(spec, self.objective, free=free, reach=reach, vcpus=vcpus)
        for wants in ways if searched else ():
            found = exact(self.board, spec, wants, self.objective, memory=memory)
            if found is not None:
                return found
        for wide in () if searched else (False, True) if memory and spec.memory_bytes else (False,):
            for wants in ways:
                places = candidates(self.board, spec, wants, self.objective, memory=memory, wide=wide)
                best = min(
                    places,
                    key=lambda one: (self.objective.key(one.score, shared=shared), one.order),
                    default=None,
                )
                if best is not None:
                    return best
        return None

    def _owned(self, spec: GuestSpec, candidate: Candidate) -> CpuSet:
        """The CPUs that nobody else may use: the PUs taken, and their cores where they are the guest's alone."""
        chosen = CpuSet(candidate.order)
        if spec.thread_policy is ThreadPolicy.ISOLATE or self.objective.whole_cores:
            return CpuSet.union_of(core for core in self.board.cores if not core.isdisjoint(chosen))
        return chosen

    # -- other threads

    def _own_pu(self, demand: Demand, candidate: Candidate) -> CpuSet | None:
        """One more PU of a guest's own, on the nodes of its vCPUs if there is one."""
        taken = self._owned(demand.spec, candidate)
        busy = self.board.used | taken
        pool = self.request.usable(demand) - busy - self.board.isolated
        if self.objective.whole_cores:
            pool -= CpuSet.union_of(core for core in self.board.cores if not core.isdisjoint(busy))
        near = CpuSet.union_of(node.cpus for node in self.board.nodes if node.number in candidate.nodes)
        # a core that is broken already keeps whole ones whole
        broken = CpuSet.union_of(core for core in self.board.cores if not core.isdisjoint(busy))
        for cpus in (pool & near & broken, pool & near, pool & broken, pool):
            if cpus:
                return CpuSet([cpus.first])
        return None

    def _housekeeping(self, demand: Demand, without: CpuSet) -> CpuSet:
        return self.request.usable(demand) - self.board.owned - self.board.isolated - without

    def _starved(self, demand: Demand, owned: CpuSet) -> str | None:
        """Say whose other threads would be left without a CPU if these were owned."""
        for one in (*(taken.demand for taken in self.taken), demand):
            needs = self._emulator(one.spec) is EmulatorPolicy.HOUSEKEEPING
            if needs and not self._housekeeping(one, owned):
                whose = "its" if one is demand else f"guest {one.spec.name}'s"
                return f"no housekeeping CPU would be left for {whose} emulator threads and IOThreads"
        return None

    def _fewer(self, demand: Demand) -> list[str]:
        """How many vCPUs would leave a housekeeping CPU."""
        pool = self._pool(demand)
        spec = attrs.evolve(demand.spec, vcpus=1, cells=(), threads=1)
        step = 2 if spec.thread_policy is ThreadPolicy.REQUIRE else 1
        top = min(spec.max_vcpus, len(pool)) - 1
        for count in range(top - top % step, 0, -step):
            fewer = attrs.evolve(spec, max_vcpus=count)
            best = self._best(demand, fewer, pool, pool, count)
            if best is not None and not self._starved(demand, self._owned(fewer, best)):
                return [f"{count} vCPU{'' if count == 1 else 's'} would fit"]
        shared = self._housekeeping(demand, CpuSet())
        return ["as a shared guest it would fit" if shared else "nothing like it would fit"]

    def _other_emulator(self, demand: Demand, best: Candidate) -> str:
        """With which emulator policy a guest would fit for which no PU is left."""
        spec = attrs.evolve(demand.spec, emulator_policy=EmulatorPolicy.HOUSEKEEPING)
        owned = CpuSet() if spec.vcpu_policy is VcpuPolicy.SHARED else self._owned(spec, best)
        if not self._starved(attrs.evolve(demand, spec=spec), owned):
            return "it would fit with emulator policy housekeeping or share"
        if self.objective.housekeeping:
            return "nothing like it would fit"
        return "it would fit with emulator policy share"

    def _finish(self, taken: _Taken) -> GuestPlacement | None:
        demand, candidate, spec = taken.demand, taken.candidate, taken.demand.spec
        shared = spec.vcpu_policy is VcpuPolicy.SHARED
        if taken.extra is not None:
            others = taken.extra
        elif self._emulator(spec) is EmulatorPolicy.HOUSEKEEPING:
            others = self._housekeeping(demand, CpuSet())
        else:
            others = candidate.cpus
        if not others:
            self._refuse(demand, "no housekeeping CPU is left for its emulator threads and IOThreads")
            return None
        threads = [
            ThreadPlacement(role=Role.VCPU, index=n, cpus=cpus)
            for n, cpus in enumerate(self._vcpus(spec, candidate))
        ]
        threads.append(ThreadPlacement(role=Role.EMULATOR, index=None, cpus=others))
        threads += [
            ThreadPlacement(role=Role.IOTHREAD, index=n, cpus=others) for n in range(len(spec.iothreads))
        ]
        threads.append(ThreadPlacement(role=Role.VHOST, index=None, cpus=others))
        told = {node.number for node in self.request.host.topology.nodes}
        # the board's: where nodes overlap, each CPU counts in one of them, here as in verify
        used = [node.number for node in self.board.nodes if not node.cpus.isdisjoint(candidate.cpus)]
        return GuestPlacement(
            # stricter than asked, and said so: its other threads are kept off its vCPUs' CPUs
            spec=attrs.evolve(spec, emulator_policy=self._emulator(spec)),
            pid=demand.pid,
            start=demand.start,
            threads=tuple(threads),
            nodes=tuple(sorted(told.intersection(used))),
            score=candidate.score,
            why=() if candidate.proved else (_NOT_PROVED,),
            owned=CpuSet() if shared else self._owned(spec, candidate) | (taken.extra or CpuSet()),
        )

    def _vcpus(self, spec: GuestSpec, candidate: Candidate) -> list[CpuSet]:
        if spec.vcpu_policy is VcpuPolicy.DEDICATED:
            return [CpuSet([cpu]) for cpu in candidate.order]
        if not spec.cells:
            return [candidate.cpus] * spec.max_vcpus
        inside = {node.number: node.cpus & candidate.cpus for node in self.board.nodes}
        return [inside[node] for node in candidate.nodes]  # a cell floats over its own node
