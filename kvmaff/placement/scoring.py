"""What a guest asks of nodes, and what a place costs: the same for every way of finding one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest import specrules
from kvmaff.guest.spec import GuestSpec, ThreadPolicy, VcpuPolicy
from kvmaff.placement.board import PARTS, WHOLE, Board
from kvmaff.placement.fit import Fit, Order
from kvmaff.placement.future import accept
from kvmaff.placement.objective import Grain, Level, Objective
from kvmaff.placement.placement import Score
from kvmaff.placement.request import Demand

__all__ = ["Candidate", "Wants", "distance", "fitted", "scored", "siblings_together"]


@attrs.frozen(kw_only=True)
class Wants:
    """
    What one guest's vCPUs want of a node, in the fit's terms.

    Attributes:
        vcpus: How many places.
        unit: vCPUs come on a core in multiples of this.
        per_core: At most so many on a core; 0 for no limit.
        whole: Whether only cores are used whose PUs are all free.
        free: PUs that may be taken.
        reach: PUs that a shared guest's set may grow to.
    """

    vcpus: int
    unit: int
    per_core: int
    whole: bool
    free: CpuSet
    reach: CpuSet

    @classmethod
    def of(
        cls, spec: GuestSpec, objective: Objective, *, free: CpuSet, reach: CpuSet, vcpus: int
    ) -> tuple[Wants, ...]:
        """
        What a guest wants, the best first.

        Args:
            spec: What it needs.
            objective: What is wanted of its place.
            free: PUs that may be taken.
            reach: PUs that a shared guest's set may grow to.
            vcpus: How many places.

        Returns:
            Ways to ask; a later one only matters where no earlier one fits.
        """
        shared = spec.vcpu_policy is VcpuPolicy.SHARED
        alone = spec.thread_policy is ThreadPolicy.ISOLATE
        whole = not shared and (alone or objective.whole_cores)
        unit = 1
        if not shared and spec.thread_policy is ThreadPolicy.REQUIRE:
            unit = max(spec.threads, 2)
        elif not shared and spec.threads > 1:
            unit = spec.threads
        per_core = 1 if alone else 0
        first = cls(vcpus=vcpus, unit=unit, per_core=per_core, whole=whole, free=free, reach=reach)
        if unit > 1 and spec.thread_policy is ThreadPolicy.PREFER:
            if spec.vcpu_policy is VcpuPolicy.MIXED and specrules.torn(spec):
                return (attrs.evolve(first, unit=1),)  # of some siblings only a part is dedicated
            return first, attrs.evolve(first, unit=1)  # siblings are preferred, not required
        return (first,)

    def order(self, vcpus: int) -> Order:
        """
        The same for some vCPUs in the search's terms.

        Args:
            vcpus: How many.

        Returns:
            The order.
        """
        return Order(vcpus=vcpus, unit=self.unit, per_core=self.per_core, whole_cores=self.whole)


@attrs.frozen(kw_only=True)
class Candidate:
    """
    One place.

    Attributes:
        order: The PU of each vCPU that is searched for, in order of their numbers.
        nodes: Node number of each of them.
        extras: PUs for other threads that have some of their own.
        cpus: The guest's CPU set: those PUs, or for a shared guest as far as the grain reaches.
        score: What it costs.
        homes: Node numbers for the memory of those of its cells of which no vCPU is searched for.
        proved: Whether nothing that costs less was passed over.
    """

    order: tuple[int, ...]
    nodes: tuple[int, ...]
    extras: tuple[int, ...] = ()
    homes: tuple[int, ...] = ()
    cpus: CpuSet
    score: Score
    proved: bool = True

    @property
    def chosen(self) -> CpuSet:
        """All PUs that are picked one by one."""
        return CpuSet((*self.order, *self.extras))


_LOADS = frozenset({Level.LOAD, Level.NODE_LOAD, Level.L3_LOAD, Level.CORE_LOAD})


def fitted(
    objective: Objective,
    fit: Fit,
    order: Sequence[int],
    nodes: Sequence[int],
    extras: int,
    homes: Sequence[int],
) -> Candidate:
    """
    Take a place as the search found it, with the cost that the search tells.

    Args:
        objective: What is wanted; its :attr:`Objective.exact` holds.
        fit: What was found.
        order: The PU of each vCPU, then those for other threads.
        nodes: Node number of each.
        extras: How many are for other threads.
        homes: As in :attr:`Candidate.homes`.

    Returns:
        The place.
    """
    score = Score(
        distance=fit.distance,
        nodes=len(set(nodes)),
        l3_groups=fit.l3_groups,
        shared_cores=fit.shared_cores,
        broken_cores=fit.broken_cores,
        lost=fit.lost,
        levels=tuple(level.value for level in objective.levels),
    )
    most = len(order) - extras
    return Candidate(
        order=tuple(order[:most]),
        nodes=tuple(nodes[:most]),
        extras=tuple(order[most:]),
        homes=tuple(homes),
        cpus=fit.cpus - CpuSet(order[most:]) if extras else fit.cpus,
        score=score,
        proved=fit.proved,
    )


def scored(
    board: Board,
    demand: Demand,
    wants: Wants,
    objective: Objective,
    order: Sequence[int],
    node_of: Sequence[int],
    *,
    extras: Sequence[int] = (),
    cpus: CpuSet | None = None,
    proved: bool = True,
) -> Candidate:
    """
    Work out a place's cost, the same way whoever found it.

    Args:
        board: The host so far.
        demand: The guest.
        wants: What it wants, in the fit's terms.
        objective: What is wanted.
        order: The PU of each vCPU.
        node_of: Node number of each.
        extras: PUs for other threads.
        cpus: The guest's CPU set, where that is known already.
        proved: Whether nothing that costs less was passed over.

    Returns:
        The place.
    """
    spec = demand.spec
    home = {cpu: node.number for node in board.nodes for cpu in node.cpus & CpuSet(extras)} if extras else {}
    counts = dict(Counter((*node_of, *(home[cpu] for cpu in extras))))
    shared = broken = 0
    chosen = CpuSet((*order, *extras))
    floats = spec.vcpu_policy is VcpuPolicy.SHARED
    whole = cpus
    cpus = CpuSet(order) if whole is None else whole
    groups = [group for group in board.l3 if not group.isdisjoint(cpus | chosen)]
    if floats and whole is None and objective.grain is Grain.L3:
        inside = CpuSet.union_of(node.cpus for node in board.nodes if node.number in counts)
        cpus |= CpuSet.union_of(groups) & inside & wants.reach
    ours, foreign = chosen.bits, board.used.bits if floats else ~wants.free.bits
    for core in board.cores:
        its = core.bits
        mine = its & ours
        if mine:
            others = its & foreign
            shared += others != 0
            broken += mine != its and not others
    levels = objective.levels_for(shared=floats)
    told: dict[str, int] = {}
    if Level.LEFT in levels:
        told["left"] = sum(len((group & wants.free) - chosen) for group in groups)
    if Level.NODE_LEFT in levels:
        inside = CpuSet.union_of(node.cpus for node in board.nodes if node.number in counts)
        told["node_left"] = len((inside & wants.free) - chosen)
    if Level.LOST in levels:
        told["lost"] = _lost(board, wants.free, chosen, counts)
    if not _LOADS.isdisjoint(levels):
        # dedicated vCPUs have a PU each, whatever else of the guest floats
        told |= _loads(board, spec.max_vcpus if floats else len(order), cpus, counts, groups)
    score = Score(
        distance=distance(board, demand, objective, counts),
        nodes=len(counts),
        l3_groups=_l3_groups(board, chosen, counts),
        shared_cores=shared,
        broken_cores=broken,
        levels=tuple(level.value for level in levels),
        **told,
    )
    return Candidate(
        order=tuple(order),
        nodes=tuple(node_of),
        extras=tuple(extras),
        cpus=cpus,
        score=score,
        proved=proved,
    )


def _l3_groups(board: Board, chosen: CpuSet, counts: Mapping[int, int]) -> int:
    """L3 groups used, as the search counts them: one of several nodes once where it is all that these have."""
    used = set()
    for number in counts:
        shape = board.shape[number]
        several = len(set(shape.groups)) > 1
        for core, group in zip(shape.cores, shape.groups, strict=True):
            if core & chosen.bits:
                used.add((number if several or group < 0 else None, group))
    return len(used)


def _lost(board: Board, free: CpuSet, chosen: CpuSet, counts: Mapping[int, int]) -> int:
    """What PUs were worth to guests to come: in their nodes, and in what these have of their L3 groups."""
    total = 0
    nodes = [node for node in board.nodes if node.number in counts]
    rest = CpuSet.union_of(board.l3)
    for node in nodes:
        inside = [group & node.cpus for group in board.l3 if not group.isdisjoint(node.cpus & chosen)]
        for place in (node.cpus, *inside, node.cpus - rest):
            before = len(place & free)
            total += accept(before) - accept(before - len(place & chosen & free))
    return total


def siblings_together(board: Board, order: Sequence[int], unit: int) -> bool:
    """
    Whether each so many vCPUs are on one core.

    Args:
        board: The host.
        order: The PU of each vCPU.
        unit: How many.

    Returns:
        True where they are.
    """
    core_of = {cpu: number for number, core in enumerate(board.cores) for cpu in core}
    groups = (order[start : start + unit] for start in range(0, len(order), unit))
    return all(len({core_of[cpu] for cpu in group}) == 1 for group in groups)


def distance(board: Board, demand: Demand, objective: Objective, counts: Mapping[int, int]) -> int:
    """
    How far a place's vCPUs are from one another, and from what the guest has, if the objective counts that.

    Args:
        board: The host.
        demand: The guest.
        objective: What is wanted.
        counts: vCPUs by node number.

    Returns:
        The sum, in the firmware's unit.
    """
    total = 0
    for one, other in combinations(sorted(counts), 2):
        total += counts[one] * counts[other] * board.distance(one, other)
    if objective.near:
        near = dict(zip(board.numbers, board.near(demand), strict=True))
        total += (sum(count * near[node] for node, count in counts.items()) + PARTS // 2) // PARTS
    return total


def _loads(
    board: Board, vcpus: int, cpus: CpuSet, counts: Mapping[int, int], groups: Sequence[CpuSet]
) -> dict[str, int]:
    """How busy a place will be: the levels of a score that are loads."""
    share = WHOLE * vcpus // max(len(cpus), 1)

    def after(inside: CpuSet) -> int:
        return board.weight(inside) + share * len(inside & cpus)

    nodes = [node.cpus for node in board.nodes if node.number in counts]
    bits = cpus.bits
    cores = [core for core in board.cores if core.bits & bits]
    return {
        "load": max((board.load[cpu] for cpu in cpus), default=0) + share,
        "node_load": max((after(node) // len(node) for node in nodes), default=0),
        "l3_load": max((after(group) // len(group) for group in groups), default=0),
        "core_load": max((after(core) for core in cores), default=0),
    }
