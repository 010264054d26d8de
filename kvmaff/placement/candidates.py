"""
The places that one guest could take: a split of its vCPUs over nodes (splits.py), and which PUs inside each.

Inside a node the fit is exact (fit.py); to balance, vCPU by vCPU goes to the least loaded L3 group and core.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import GuestCell, GuestSpec
from kvmaff.placement.board import WHOLE, Board
from kvmaff.placement.exact import pinned_cells
from kvmaff.placement.objective import Objective
from kvmaff.placement.request import Demand
from kvmaff.placement.scoring import Candidate, Wants, scored, siblings_together
from kvmaff.placement.splits import Split, memory_needed, splits

__all__ = ["candidates", "capacity", "cell_nodes", "overcommitted", "squeezed"]

_EXHAUSTIVE_CELLS = 4096
"""So many nodes for cells are tried where a guest floats."""


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
    board: Board, demand: Demand, wants: Wants, objective: Objective, *, wide: bool = False
) -> Iterator[Candidate]:
    """
    Find the places that a guest could take.

    Args:
        board: The host so far.
        demand: The guest.
        wants: What it wants, in the fit's terms.
        objective: What is wanted.
        wide: Also share the vCPUs among more nodes than they need, for the memory's sake.

    Returns:
        Candidates, deterministic in kind and order; none where it does not fit.
    """
    room = capacity(board, wants)
    floats = not demand.spec.pinned
    cells = demand.spec.cells if floats else pinned_cells(demand.spec)
    for split in splits(board, cells, wants.vcpus, room, unit=wants.unit, wide=wide):
        found = _place(board, demand, cells, wants, objective, split)
        if found is not None and (demand.pid is not None or _remembers(board, demand.spec, cells, found)):
            yield found


def _remembers(board: Board, spec: GuestSpec, cells: Sequence[GuestCell], found: Candidate) -> bool:
    """Whether the nodes of a place have the memory that it needs there."""
    nodes = [found.nodes[cell.vcpus[0]] if cell.vcpus else None for cell in cells]
    needed = memory_needed(board, spec, found.cpus, nodes)
    return all(board.free_memory(spec, node) >= amount for node, amount in needed.items())


def cell_nodes(spec: GuestSpec, nodes: Sequence[int], unplaced: Mapping[int, int] | None = None) -> list[int]:
    """
    The node of each of a guest's cells.

    Args:
        spec: What it needs.
        nodes: Node number of each vCPU that was searched for.
        unplaced: By the place of a cell of which none was searched for, its node number.

    Returns:
        Node numbers, in order of the cells.
    """
    cells = pinned_cells(spec) if spec.pinned else spec.cells
    return [nodes[cell.vcpus[0]] if cell.vcpus else (unplaced or {})[at] for at, cell in enumerate(cells)]


def overcommitted(board: Board, demand: Demand, objective: Objective, pool: CpuSet) -> Candidate | None:
    """
    The place of a shared guest whose cells have more vCPUs than any nodes have CPUs.

    Args:
        board: The host so far.
        demand: The guest; it has cells.
        objective: What is wanted.
        pool: The CPUs that its vCPUs may come to.

    Returns:
        Each cell floating over one node, the least loaded first; None where no node has CPUs, or memory, for one.
    """
    spec, memory = demand.spec, demand.pid is None
    inside = {node.number: node.cpus & pool for node in board.nodes if node.cpus & pool}
    load = {number: board.weight(cpus) for number, cpus in inside.items()}
    left = {number: board.free_memory(spec, number) for number in inside}
    needs = [
        cell.memory_bytes or -(-spec.memory_bytes * len(cell.vcpus) // spec.max_vcpus) for cell in spec.cells
    ]
    chosen = _nodes_for(spec, needs if memory else [0] * len(needs), load, left, inside)
    if chosen is None:
        return None
    numbered = [(vcpu, node) for cell, node in zip(spec.cells, chosen, strict=True) for vcpu in cell.vcpus]
    node_of = [node for _, node in sorted(numbered)]
    cpus = CpuSet.union_of(inside[node] for node in chosen)
    wants = Wants(vcpus=len(node_of), unit=1, per_core=0, whole=False, free=pool, reach=pool)
    firsts = [inside[node].first for node in node_of]
    found = scored(board, demand, wants, objective, firsts, node_of, cpus=cpus)
    return found if not memory or _remembers(board, spec, spec.cells, found) else None


def _nodes_for(
    spec: GuestSpec,
    needs: Sequence[int],
    load: dict[int, int],
    left: dict[int, int],
    inside: Mapping[int, CpuSet],
) -> list[int] | None:
    """A node with the memory for each cell, the least loaded; those that need most choose first, and may go back."""
    order = sorted(range(len(needs)), key=lambda at: (-needs[at], at))
    chosen: dict[int, int] = {}
    tries = _EXHAUSTIVE_CELLS

    def choose(rank: int) -> bool:
        nonlocal tries
        if rank == len(order):
            return True
        at = order[rank]
        able = [node for node in inside if left[node] >= needs[at]]
        for node in sorted(able, key=lambda one: (load[one] // len(inside[one]), one)):
            tries -= 1
            if tries < 0:
                return False
            load[node] += WHOLE * len(spec.cells[at].vcpus)
            left[node] -= needs[at]
            chosen[at] = node
            if choose(rank + 1):
                return True
            load[node] -= WHOLE * len(spec.cells[at].vcpus)
            left[node] += needs[at]
        return False

    return [chosen[at] for at in range(len(needs))] if choose(0) else None


def squeezed(board: Board, demand: Demand, objective: Objective, pool: CpuSet) -> Iterator[Candidate]:
    """
    The places of a shared guest to come whose memory fits no set of as many CPUs as it has vCPUs.

    Its memory is spread as the CPUs are over which it floats. So a node has room for some part of them, and how many
    they are together is tried: as many as it has vCPUs, then fewer, then more.

    Args:
        board: The host so far.
        demand: The guest; it has no cells.
        objective: What is wanted.
        pool: The CPUs that its vCPUs may come to.

    Yields:
        For the first number of CPUs that has any, a place around each node, deterministic in kind and order.
    """
    spec, load = demand.spec, board.load
    page = spec.page_bytes or 1
    inside = {node.number: sorted(node.cpus & pool, key=lambda cpu: (load[cpu], cpu)) for node in board.nodes}
    pages = {number: board.free_memory(spec, number) // page for number in inside}
    most = min(spec.max_vcpus, len(pool))
    for count in (*range(most, 0, -1), *range(most + 1, len(pool) + 1)):
        room = {
            number: min(len(pus), pages[number] * page * count // spec.memory_bytes)
            for number, pus in inside.items()
        }
        if sum(room.values()) < count:
            continue
        for seed in inside:
            order: list[int] = []
            node_of: list[int] = []
            for number in sorted(inside, key=lambda one: (board.distance(seed, one), one)):
                pus = inside[number][: min(room[number], count - len(order))]
                order += pus
                node_of += [number] * len(pus)
            wants = Wants(vcpus=count, unit=1, per_core=0, whole=False, free=pool, reach=pool)
            yield scored(board, demand, wants, objective, order, node_of, cpus=CpuSet(order))
        return


def _place(
    board: Board,
    demand: Demand,
    cells: Sequence[GuestCell],
    wants: Wants,
    objective: Objective,
    split: Split,
) -> Candidate | None:
    counts: dict[int, int] = {}
    for node, count in split:
        counts[node] = counts.get(node, 0) + count
    pools: dict[int, list[int]] = {}
    for node, count in counts.items():
        if not count:  # a cell whose vCPUs all float
            continue
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
    if cells:
        numbers = [vcpu for cell in cells for vcpu in cell.vcpus]
        node_of = [node for _, node in sorted(zip(numbers, node_of, strict=True))]
    lines = {node: iter(pus) for node, pus in pools.items()}
    order = tuple(next(lines[node]) for node in node_of)
    if wants.unit > 1 and not siblings_together(board, order, wants.unit):
        return None  # cells tear siblings apart
    return scored(board, demand, wants, objective, order, node_of)


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
