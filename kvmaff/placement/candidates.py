"""
The places that one guest could take: a split of its vCPUs over nodes (splits.py), and which PUs inside each.

Inside a node the fit is exact (fit.py); to balance, vCPU by vCPU goes to the least loaded L3 group and core.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import GuestSpec
from kvmaff.placement.board import WHOLE, Board
from kvmaff.placement.objective import Objective
from kvmaff.placement.placement import Score
from kvmaff.placement.scoring import Candidate, Wants, distance, loads, scored, siblings_together
from kvmaff.placement.splits import Split, memory_needed, splits

__all__ = ["candidates", "capacity", "overcommitted"]


def capacity(board: Board, wants: Wants) -> dict[int, int]:
    """
    How many vCPUs each node can take.

    Args:
        board: The host so far.
        wants: What they want.

    Returns:
        By node number; a multiple of the unit.
    """
    room = {}
    free = wants.free.bits
    for node in board.nodes:
        count = 0
        shape = board.shape[node.number]
        for core, total in zip(shape.cores, shape.totals, strict=True):
            here = (core & free).bit_count()
            if wants.whole and here < total:
                continue
            if wants.per_core:
                here = min(here, wants.per_core)
            count += here - here % wants.unit
        room[node.number] = count
    return room


def candidates(
    board: Board, spec: GuestSpec, wants: Wants, objective: Objective, *, memory: bool, wide: bool = False
) -> Iterator[Candidate]:
    """
    Find the places that a guest could take.

    Args:
        board: The host so far.
        spec: What the guest needs.
        wants: The same in the fit's terms.
        objective: What is wanted.
        memory: Whether its memory is still to be found.
        wide: Also share the vCPUs among more nodes than they need, for the memory's sake.

    Returns:
        Candidates, deterministic in kind and order; none where it does not fit.
    """
    room = capacity(board, wants)
    for split in splits(board, spec, wants.vcpus, room, unit=wants.unit, wide=wide):
        found = _place(board, spec, wants, objective, split)
        if found is not None and (not memory or _remembers(board, spec, found)):
            yield found


def _remembers(board: Board, spec: GuestSpec, found: Candidate) -> bool:
    """Whether the nodes of a place have the memory that it needs there."""
    needed = memory_needed(board, spec, found.cpus, found.nodes)
    return all(board.memory.get(node, amount) >= amount for node, amount in needed.items())


def overcommitted(board: Board, spec: GuestSpec, pool: CpuSet, *, memory: bool) -> Candidate | None:
    """
    The place of a shared guest whose cells have more vCPUs than any nodes have CPUs.

    Args:
        board: The host so far.
        spec: What the guest needs; it has cells.
        pool: The CPUs that its vCPUs may come to.
        memory: Whether its memory is still to be found.

    Returns:
        Each cell floating over one node, the least loaded first; None where no node has CPUs, or memory, for one.
    """
    inside = {node.number: node.cpus & pool for node in board.nodes if node.cpus & pool}
    load = {number: board.weight(cpus) for number, cpus in inside.items()}
    left = dict(board.memory)
    chosen: list[int] = []
    for cell in spec.cells:
        needed = cell.memory_bytes or -(-spec.memory_bytes * len(cell.vcpus) // spec.max_vcpus)
        able = [node for node in inside if not memory or left.get(node, needed) >= needed]
        if not able:
            return None
        node = min(able, key=lambda one: (load[one] // len(inside[one]), one))
        load[node] += WHOLE * len(cell.vcpus)
        if node in left:
            left[node] -= needed
        chosen.append(node)
    numbered = [(vcpu, node) for cell, node in zip(spec.cells, chosen, strict=True) for vcpu in cell.vcpus]
    node_of = tuple(node for _, node in sorted(numbered))
    cpus = CpuSet.union_of(inside[node] for node in chosen)
    counts = {node: node_of.count(node) for node in set(chosen)}
    groups = [group for group in board.l3 if not group.isdisjoint(cpus)]
    score = Score(
        distance=distance(board, spec, Objective(name="", levels=(), shared_levels=()), node_of),
        nodes=len(counts),
        l3_groups=len(groups),
        shared_cores=0,
        broken_cores=0,
        left=0,
        **loads(board, spec, cpus, counts, groups),
    )
    found = Candidate(
        order=tuple(inside[node].first for node in node_of), nodes=node_of, cpus=cpus, score=score
    )
    return found if not memory or _remembers(board, spec, found) else None


def _place(
    board: Board, spec: GuestSpec, wants: Wants, objective: Objective, split: Split
) -> Candidate | None:
    counts: dict[int, int] = {}
    for node, count in split:
        counts[node] = counts.get(node, 0) + count
    pools: dict[int, list[int]] = {}
    for node, count in counts.items():
        if count % wants.unit:
            return None
        if objective.balance:
            taken = _balanced(board, node, wants, count)
            if taken is None:
                return None
            pools[node] = taken
        else:
            fit = board.alone[node].fit(wants.order(count), free=wants.free, near=[0])
            if fit is None:
                return None
            pools[node] = list(fit.order)
    # each vCPU in turn takes the next PU of its node: cells say which node, else nodes come one after another
    node_of = [node for node, count in split for _ in range(count)]
    if spec.cells:
        numbers = [vcpu for cell in spec.cells for vcpu in cell.vcpus]
        node_of = [node for _, node in sorted(zip(numbers, node_of, strict=True))]
    lines = {node: iter(pus) for node, pus in pools.items()}
    order = tuple(next(lines[node]) for node in node_of)
    if wants.unit > 1 and not siblings_together(board, order, wants.unit):
        return None  # cells tear siblings apart
    return scored(board, spec, wants, objective, order, node_of)


def _balanced(board: Board, node: int, wants: Wants, count: int) -> list[int] | None:
    """Give vCPUs one by one the least loaded core of the least loaded L3 group, then a sibling."""
    shape = board.shape[node]
    free = wants.free.bits
    core_load, group_load, open_pus = {}, dict.fromkeys(shape.groups, 0), {}
    size = dict.fromkeys(shape.groups, 0)
    for number, (core, group) in enumerate(zip(shape.cores, shape.groups, strict=True)):
        cpus = CpuSet.from_bits(core)
        core_load[number] = board.weight(cpus)
        group_load[group] += core_load[number]
        size[group] += len(cpus)
        pus = sorted(CpuSet.from_bits(core & free), key=lambda cpu: (board.load[cpu], cpu))
        if wants.whole and len(pus) < len(cpus):
            pus = []
        most = min(len(pus), wants.per_core or len(pus))
        open_pus[number] = pus[: most - most % wants.unit]

    def rank(number: int) -> tuple[int, int, int]:
        group = shape.groups[number]
        return core_load[number], WHOLE * group_load[group] // size[group], number

    heap = [(rank(number), number) for number, pus in open_pus.items() if pus]
    heapq.heapify(heap)
    taken: list[int] = []
    while heap and len(taken) < count:
        old, number = heapq.heappop(heap)
        now = rank(number)
        if now != old:  # its group was loaded since
            heapq.heappush(heap, (now, number))
            continue
        taken += open_pus[number][: wants.unit]
        del open_pus[number][: wants.unit]
        core_load[number] += WHOLE * wants.unit
        group_load[shape.groups[number]] += WHOLE * wants.unit
        if open_pus[number]:
            heapq.heappush(heap, (rank(number), number))
    return taken if len(taken) == count else None
