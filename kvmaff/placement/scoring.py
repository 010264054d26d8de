"""What a guest asks of nodes, and what a place costs: the same for every way of finding one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import GuestSpec, ThreadPolicy, VcpuPolicy
from kvmaff.placement.board import WHOLE, Board
from kvmaff.placement.fit import Order
from kvmaff.placement.future import accept
from kvmaff.placement.objective import Grain, Objective
from kvmaff.placement.placement import Score

__all__ = ["Candidate", "Wants", "distance", "loads", "near", "scored", "siblings_together"]


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
        order: The PU of vCPU 0, 1, and so on.
        nodes: Node number of each of them.
        cpus: The guest's CPU set: those PUs, or for a shared guest as far as the grain reaches.
        score: What it costs.
        proved: Whether nothing that costs less was passed over.
    """

    order: tuple[int, ...]
    nodes: tuple[int, ...]
    cpus: CpuSet
    score: Score
    proved: bool = True


def scored(
    board: Board,
    spec: GuestSpec,
    wants: Wants,
    objective: Objective,
    order: Sequence[int],
    node_of: Sequence[int],
    *,
    proved: bool = True,
) -> Candidate:
    """
    Work out a place's cost, the same way whoever found it.

    Args:
        board: The host so far.
        spec: What the guest needs.
        wants: The same in the fit's terms.
        objective: What is wanted.
        order: The PU of each vCPU.
        node_of: Node number of each.
        proved: Whether nothing that costs less was passed over.

    Returns:
        The place.
    """
    counts = dict(Counter(node_of))
    shared = broken = 0
    chosen = CpuSet(order)
    shared_guest = spec.vcpu_policy is VcpuPolicy.SHARED
    cpus = chosen
    groups = [group for group in board.l3 if not group.isdisjoint(chosen)]
    if shared_guest and objective.grain is Grain.L3:
        inside = CpuSet.union_of(node.cpus for node in board.nodes if node.number in counts)
        cpus = CpuSet.union_of(groups) & inside & wants.reach
        cpus |= chosen
    for core in board.cores:
        mine = core & chosen
        if mine:
            others = core & board.used if shared_guest else core - wants.free
            shared += bool(others)
            broken += mine != core and not others
    left = sum(len((group & wants.free) - chosen) for group in groups)
    score = Score(
        distance=distance(board, spec, objective, node_of),
        nodes=len(counts),
        l3_groups=_l3_groups(board, chosen, counts),
        shared_cores=shared,
        broken_cores=broken,
        left=left,
        node_left=sum(
            len((node.cpus & wants.free) - chosen) for node in board.nodes if node.number in counts
        ),
        lost=_lost(board, wants.free, chosen, counts),
        **loads(board, spec, cpus, counts, groups),
    )
    return Candidate(order=tuple(order), nodes=tuple(node_of), cpus=cpus, score=score, proved=proved)


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


def near(board: Board, spec: GuestSpec, node: int) -> int:
    """
    How far a vCPU on a node is from the guest's devices and from the memory that it has.

    Args:
        board: The host.
        spec: What the guest needs.
        node: The node's number.

    Returns:
        The sum, in the firmware's unit.
    """
    far = sum(board.distance(node, device) for device in spec.device_nodes)
    memory = board.resident.get(spec.name, ())
    total = sum(size for _, size in memory)
    if total:
        far += sum(size * board.distance(node, where) for where, size in memory) // total
    return far


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


def distance(board: Board, spec: GuestSpec, objective: Objective, node_of: Sequence[int]) -> int:
    """
    How far a place's vCPUs are from one another, and from what the guest has, if the objective counts that.

    Args:
        board: The host.
        spec: What the guest needs.
        objective: What is wanted.
        node_of: Node number of each vCPU.

    Returns:
        The sum, in the firmware's unit.
    """
    counts: dict[int, int] = {}
    for node in node_of:
        counts[node] = counts.get(node, 0) + 1
    total = 0
    for one, other in combinations(sorted(counts), 2):
        total += counts[one] * counts[other] * board.distance(one, other)
    if objective.near:
        total += sum(count * near(board, spec, node) for node, count in counts.items())
    return total


def loads(
    board: Board, spec: GuestSpec, cpus: CpuSet, counts: Mapping[int, int], groups: Sequence[CpuSet]
) -> dict[str, int]:
    """
    How busy a place will be.

    Args:
        board: The host so far.
        spec: What the guest needs.
        cpus: The guest's CPU set.
        counts: vCPUs by node.
        groups: The L3 groups used.

    Returns:
        The levels of :class:`Score` that are loads.
    """
    share = WHOLE * spec.max_vcpus // max(len(cpus), 1)

    def after(inside: CpuSet) -> int:
        return board.weight(inside) + share * len(inside & cpus)

    nodes = [node.cpus for node in board.nodes if node.number in counts]
    cores = [core for core in board.cores if not core.isdisjoint(cpus)]
    return {
        "load": max((board.load[cpu] for cpu in cpus), default=0) + share,
        "node_load": max((after(node) // len(node) for node in nodes), default=0),
        "l3_load": max((after(group) // len(group) for group in groups), default=0),
        "core_load": max((after(core) for core in cores), default=0),
    }
