"""
The strategy ``cache-aware``.

Rules:

* an L3 group is the CPUs that share an L3; a machine that tells none has its NUMA nodes in their place, and CPUs of
  which no L3 is told make a group for each node, taken last;
* a guest is offered the groups one by one, that which is least loaded with it first; ``solve`` finds its PUs there;
* dedicated guests come before shared ones, so that what belongs to one guest alone is known when others float;
* PUs of its own for the emulator or an IOThread are within the guest's group, too;
* threads that keep house come last of all, when it is known what belongs to nobody alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import attrs

from kvmaff import (
    CpuSet,
    Demand,
    EmulatorPolicy,
    Grain,
    GuestPlacement,
    GuestSpec,
    Held,
    Level,
    Objective,
    Placement,
    PlacementImpossible,
    PlacementRequest,
    Role,
    Strategy,
    Topology,
    Unplaced,
    VcpuPolicy,
    hookimpl,
    option,
    solve,
    verify,
)

__all__ = ["CacheAwareOptions", "kvmaff_strategies", "place"]

_NAME = "cache-aware"
_OBJECTIVE = Objective(
    name=_NAME,
    levels=(Level.L3_GROUPS, Level.DISTANCE, Level.SHARED_CORES, Level.BROKEN_CORES, Level.LOST),
    shared_levels=(Level.L3_GROUPS, Level.DISTANCE, Level.L3_LOAD, Level.LOAD),
    grain=Grain.L3,
    near=True,
)
_BETWEEN = frozenset(
    {"affinity", "trust_domain"}
)  # rules that a guest may break for one that was placed before it
_SHOWN = 8  # so many groups are named in a reason, the others counted


@attrs.frozen(kw_only=True)
class CacheAwareOptions:
    """Options of ``cache-aware``."""

    spill: bool = option(default=False, help="whether a guest that fits in no L3 group may span several")


@attrs.frozen(kw_only=True)
class _Group:
    """CPUs that share an L3; ``told`` is false for CPUs that are together because no L3 is told of them."""

    cpus: CpuSet
    told: bool


class _Refusal(Exception):
    """One guest has no place, for reasons, a sentence each."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(*reasons)
        self.reasons = reasons


@hookimpl
def kvmaff_strategies() -> Iterable[Strategy]:
    """
    Contribute the strategy.

    Returns:
        It alone.
    """
    return [
        Strategy(
            name=_NAME,
            summary="each guest within one L3 cache, the least loaded one first",
            place=place,
            options=CacheAwareOptions,
        )
    ]


def place(request: PlacementRequest) -> Placement:
    """
    Give each guest a place within one L3 group.

    Args:
        request: What is to be decided.

    Returns:
        The placement; the same request has the same one.

    Raises:
        PlacementImpossible: A guest has no place; it has the reasons, and the places of the others.
    """
    search = _Search(request)
    unplaced: dict[str, Unplaced] = {}
    for demand in sorted(request.demands, key=_rank):
        try:
            search.take(demand)
        except _Refusal as refusal:
            unplaced[demand.spec.name] = Unplaced(name=demand.spec.name, reasons=refusal.reasons)
    guests = tuple(search.finished(demand) for demand in request.demands if demand.spec.name not in unplaced)
    placement = Placement(strategy=_NAME, guests=guests)
    if unplaced:
        without = tuple(unplaced[d.spec.name] for d in request.demands if d.spec.name in unplaced)
        text = "\n".join(f"{one.name}: {reason}" for one in without for reason in one.reasons)
        raise PlacementImpossible(text, unplaced=without, placement=placement)
    return placement


def _rank(demand: Demand) -> tuple[bool, int, str]:
    """Say when a guest is placed: who needs most finds most."""
    spec = demand.spec
    return spec.vcpu_policy is VcpuPolicy.SHARED, -spec.max_vcpus, spec.name


def _groups(topology: Topology) -> tuple[_Group, ...]:
    nodes = [node.cpus for node in topology.nodes if node.cpus]
    told = topology.l3 or tuple(nodes)
    rest = topology.online - CpuSet.union_of(told)
    untold = [node & rest for node in nodes if node & rest]
    nowhere = rest - CpuSet.union_of(untold)
    return (
        *(_Group(cpus=group, told=True) for group in told),
        *(_Group(cpus=group, told=False) for group in [*untold, *([nowhere] if nowhere else [])]),
    )


class _Search:
    """What has been decided so far: for ``solve``, guests that have a place are guests outside the request."""

    def __init__(self, request: PlacementRequest) -> None:
        options = request.options or CacheAwareOptions()
        self.spill: bool = options.spill
        self.request = request
        self.groups = _groups(request.host.topology)
        self.held = list(request.held)
        self.memory = dict(request.memory)
        self.pages = {(node, size): free for node, size, free in request.pages}
        self.placed: dict[str, GuestPlacement] = {}

    # -- what is taken

    @property
    def owned(self) -> CpuSet:
        """CPUs that belong to one guest alone."""
        return CpuSet.union_of(held.cpus for held in self.held if held.dedicated)

    @property
    def used(self) -> CpuSet:
        """CPUs that anybody uses."""
        return CpuSet.union_of(held.cpus for held in self.held)

    def pool(self, demand: Demand) -> CpuSet:
        """CPUs that a guest's vCPUs may come to."""
        dedicated = demand.spec.vcpu_policy is VcpuPolicy.DEDICATED
        taken = self.used if dedicated else self.owned
        return self.request.usable(demand) - self.request.host.isolation.unbalanced - taken

    def load(self, group: CpuSet, more: int) -> Fraction:
        """VCPUs for each CPU of a group, with some more in it; each of another guest counts by where it may run."""
        vcpus = Fraction(more)
        for held in self.held:
            inside = len(held.cpus & group)
            if inside:
                count = len(held.cpus) if held.dedicated else held.vcpus
                vcpus += Fraction(count * inside, len(held.cpus))
        return vcpus / len(group)

    # -- one guest

    def take(self, demand: Demand) -> None:
        """Place one guest, or raise _Refusal."""
        found = self._within_one(demand) or self._spilled(demand)
        if found is None:
            raise _Refusal(*self._reasons(demand))
        spec = demand.spec
        self._keep_house(demand, found)
        self._hold(spec, found.owned, dedicated=True)
        self._hold(spec, found.vcpu_cpus - found.owned, dedicated=False)
        if demand.pid is None:
            self._spend(found)
        self.placed[spec.name] = found

    def _hold(self, spec: GuestSpec, cpus: CpuSet, *, dedicated: bool) -> None:
        if cpus:
            vcpus = 0 if dedicated else len(spec.floating)
            held = Held(
                name=spec.name, cpus=cpus, dedicated=dedicated, vcpus=vcpus, trust_domain=spec.trust_domain
            )
            self.held.append(held)

    def _within_one(self, demand: Demand) -> GuestPlacement | None:
        pool, vcpus = self.pool(demand), demand.spec.max_vcpus
        open_groups = [group for group in self.groups if group.cpus & pool]
        shared = demand.spec.vcpu_policy is VcpuPolicy.SHARED
        # a shared guest that can be in one group only floats over what that has
        alone = shared and len(open_groups) == 1
        able = [group for group in open_groups if alone or len(group.cpus & pool) >= vcpus]

        def rank(group: _Group) -> tuple[bool, Fraction, int, int]:
            load = self.load(group.cpus, vcpus)
            return not group.told, load, self._away(demand, group), group.cpus.first

        for group in sorted(able, key=rank):
            found = self._solve(demand, group.cpus)
            if found is not None:
                return found
        return None

    def _spilled(self, demand: Demand) -> GuestPlacement | None:
        return self._solve(demand, self.request.host.topology.online) if self.spill else None

    def _solve(self, demand: Demand, cpus: CpuSet) -> GuestPlacement | None:
        part = self._part(demand, cpus)
        try:
            (found,) = solve(part, _OBJECTIVE).guests
        except PlacementImpossible:
            return None
        nodes = [node.number for node in self.request.host.topology.nodes if node.cpus & found.vcpu_cpus]
        found = attrs.evolve(found, nodes=tuple(sorted(nodes)))
        # one guest with a place that breaks a rule would cost all the others theirs
        wrong = verify(part, Placement(strategy=_NAME, guests=(found,))) or self._between(demand, found)
        return None if wrong else found

    def _between(self, demand: Demand, found: GuestPlacement) -> bool:
        """Whether a place breaks a rule between the guest and one that has its place."""
        demands = [one for one in self.request.demands if one.spec.name in self.placed]
        guests = [self.placed[one.spec.name] for one in demands]
        so_far = attrs.evolve(self.request, demands=(*demands, demand))
        wrong = verify(so_far, Placement(strategy=_NAME, guests=(*guests, found)))
        return any(one.rule in _BETWEEN for one in wrong)

    def _part(self, demand: Demand, cpus: CpuSet) -> PlacementRequest:
        """Return the request for one guest on some CPUs; threads that keep house share for the time being."""
        spec = demand.spec.with_changes(
            **{
                field: EmulatorPolicy.SHARE
                for field in ("emulator_policy", "iothread_policy")
                if getattr(demand.spec, field) is EmulatorPolicy.HOUSEKEEPING
            }
        )
        allowed = self.request.usable(demand) & cpus
        return attrs.evolve(
            self.request,
            demands=(attrs.evolve(demand, spec=spec, allowed=allowed),),
            held=tuple(self.held),
            memory=tuple(self.memory.items()),
            pages=tuple((node, size, free) for (node, size), free in self.pages.items()),
            options=None,
        )

    def _away(self, demand: Demand, group: _Group) -> int:
        """Say how far a group is from a guest's devices."""
        nodes = [node for node in self.request.host.topology.nodes if node.cpus & group.cpus]
        far = [node.distance_to(device) or 0 for node in nodes for device in demand.spec.device_nodes]
        return max(far, default=0)

    # -- other threads

    def _keep_house(self, demand: Demand, found: GuestPlacement) -> None:
        """Refuse a guest that would leave one that keeps house, itself or another, no CPU to do it on."""
        others = [one for one in self.request.demands if one.spec.name in self.placed]
        guests = [*self.placed.values(), found]
        for one in (*others, demand):
            if _keeps_house(one.spec) and not self._housekeeping(one, guests):
                whose = "its" if one is demand else f"guest {one.spec.name}'s"
                raise _Refusal(
                    f"no housekeeping CPU would be left for {whose} emulator threads and IOThreads"
                )

    def _housekeeping(self, demand: Demand, guests: Iterable[GuestPlacement]) -> CpuSet:
        """CPUs that belong to nobody alone, off the cores of vCPUs of other trust domains."""
        domain = demand.spec.trust_domain
        taken = [held.cpus for held in self.request.held if held.dedicated]
        theirs = [held.cpus for held in self.request.held if held.trust_domain != domain]
        for guest in guests:
            taken.append(guest.owned)
            if guest.spec.trust_domain != domain:
                theirs.append(guest.vcpu_cpus)
        strangers = CpuSet.union_of(theirs)
        cores = (core for core in self.request.host.topology.cores if core & strangers)
        rest = self.request.usable(demand) - self.request.host.isolation.unbalanced
        return rest - CpuSet.union_of(taken) - strangers - CpuSet.union_of(cores)

    def finished(self, demand: Demand) -> GuestPlacement:
        """Return the place of a guest that was taken, threads that keep house where nobody else's vCPUs are alone."""
        found, keeps = self.placed[demand.spec.name], _keeps_house(demand.spec)
        house = self._housekeeping(demand, self.placed.values())
        threads = tuple(
            attrs.evolve(thread, cpus=house) if thread.role in keeps else thread for thread in found.threads
        )
        return attrs.evolve(found, spec=demand.spec, threads=threads, why=(*found.why, self._why(found)))

    def _why(self, found: GuestPlacement) -> str:
        inside = [group for group in self.groups if group.cpus & found.vcpu_cpus]
        if len(inside) > 1:
            return f"fits in no L3 group, and may spill: it spans {len(inside)}"
        word = "L3 group" if self.request.host.topology.l3 and inside[0].told else "group (no L3 is told)"
        return f"within {word} {inside[0].cpus}, the least loaded that has room for it"

    # -- accounts

    def _spend(self, found: GuestPlacement) -> None:
        """Take a guest's memory from what is free: ordinary memory, or huge pages of the size that it wants."""
        page = found.spec.page_bytes
        for node, size in self._memory_of(found).items():
            if page and (node, page) in self.pages:
                self.pages[node, page] -= size // page
            elif not page and node in self.memory:
                self.memory[node] -= size

    def _memory_of(self, found: GuestPlacement) -> dict[int, int]:
        """Bytes on each node: a cell's memory where its vCPUs are, else spread as its dedicated vCPUs' CPUs are."""
        spec, page = found.spec, found.spec.page_bytes or 1
        parts = [(cell.memory_bytes, _cpus_of(found, cell.vcpus)) for cell in spec.cells]
        if not any(size for size, _ in parts):
            own = _cpus_of(found, spec.pinned or spec.floating)
            parts = [(spec.memory_bytes, own)]
        needed: dict[int, int] = {}
        for size, cpus in parts:
            inside = {node.number: len(node.cpus & cpus) for node in self.request.host.topology.nodes}
            total = sum(inside.values())
            for node, count in inside.items():
                if count:
                    needed[node] = needed.get(node, 0) + -(-size * count // (total * page)) * page
        return needed

    def _reasons(self, demand: Demand) -> tuple[str, ...]:
        spec, pool = demand.spec, self.pool(demand)
        sizes = [f"{group.cpus} has {len(group.cpus & pool)}" for group in self.groups]
        shown = ", ".join(sizes[:_SHOWN]) + (
            f" and {len(sizes) - _SHOWN} more" if len(sizes) > _SHOWN else ""
        )
        first = f"its {spec.max_vcpus} {spec.vcpu_policy} vCPUs fit in no L3 group; of CPUs for it, {shown}"
        everywhere = self.request.host.topology.online
        if not self.spill and self._solve(demand, everywhere) is not None:
            return first, f"it would fit with option spill=yes of strategy {_NAME}, over several L3 groups"
        try:
            solve(self._part(demand, everywhere), _OBJECTIVE)
        except PlacementImpossible as error:
            return first, *(reason for one in error.unplaced for reason in one.reasons)
        return (first,)


def _keeps_house(spec: GuestSpec) -> frozenset[Role]:
    """The roles of a guest's threads that run on housekeeping CPUs."""
    house, roles = EmulatorPolicy.HOUSEKEEPING, set()
    if spec.emulator_policy is house:
        roles |= {Role.EMULATOR, Role.VHOST}
    if spec.iothreads and (spec.iothread_policy or spec.emulator_policy) is house:
        roles.add(Role.IOTHREAD)
    return frozenset(roles)


def _cpus_of(found: GuestPlacement, vcpus: Iterable[int]) -> CpuSet:
    return CpuSet.union_of(found.cpus_of(Role.VCPU, vcpu) or CpuSet() for vcpu in vcpus)
