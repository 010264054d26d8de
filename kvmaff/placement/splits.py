"""
Which NUMA nodes a guest could be on, and how many of its vCPUs on each.

Rules:

* node sets in order of what they can hold, not of how many they are: the fewest nodes are not the nearest ones;
* only sets of which no node can be left out: another node only adds distance;
* within a set, all nodes but one are filled: the sum of products of vCPUs and distances is least at such a corner;
* a guest's own cell is whole in one node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import GuestCell, GuestSpec
from kvmaff.placement.board import Board

__all__ = ["Split", "memory_needed", "splits"]

_EXHAUSTIVE_NODES = 10
_EXHAUSTIVE_CELLS = 4096

Split = tuple[tuple[int, int], ...]
"""(node, vCPUs there) for each node used, or for each cell."""


def splits(
    board: Board,
    cells: Sequence[GuestCell],
    vcpus: int,
    room: Mapping[int, int],
    *,
    unit: int = 1,
    wide: bool = False,
) -> Iterator[Split]:
    """
    Find the ways to share a guest's vCPUs among NUMA nodes.

    Args:
        board: The host so far.
        cells: Its cells; none for a guest without.
        vcpus: How many places.
        room: How many each node can take.
        unit: Each node takes a multiple of this.
        wide: Also use more nodes than the vCPUs alone need, and share evenly: memory may want that.

    Returns:
        Splits, deterministic in kind and order.
    """
    if cells:
        yield from _cell_splits(board, cells, room)
        return
    seen = set()
    for nodes in _node_sets(board, vcpus, room, wide=wide):
        shares = [_corner(nodes, room, vcpus, partial) for partial in nodes]
        if wide:
            shares.append(_even(nodes, room, vcpus, unit))
        for counts in shares:
            split = tuple((node, counts[node]) for node in nodes if counts.get(node))
            if split not in seen and sum(count for _, count in split) == vcpus:
                seen.add(split)
                yield split


def _corner(nodes: Sequence[int], room: Mapping[int, int], vcpus: int, partial: int) -> dict[int, int]:
    """All nodes filled but one, which takes the rest; nothing where that is no split."""
    counts = {node: room[node] for node in nodes}
    counts[partial] = vcpus - sum(room[node] for node in nodes if node != partial)
    return counts if 0 < counts[partial] <= room[partial] else {}


def _even(nodes: Sequence[int], room: Mapping[int, int], vcpus: int, unit: int) -> dict[int, int]:
    """As even as units and room allow."""
    counts = dict.fromkeys(nodes, 0)
    for _ in range(vcpus // unit):
        able = [node for node in nodes if counts[node] + unit <= room[node]]
        if not able:
            return {}
        counts[min(able, key=lambda node: (counts[node], node))] += unit
    return counts


def _node_sets(board: Board, vcpus: int, room: Mapping[int, int], *, wide: bool) -> Iterator[tuple[int, ...]]:
    """Sets of nodes that hold the guest and, unless wide, of which none can be left out."""
    able = [node for node, count in room.items() if count]

    def least(nodes: Sequence[int]) -> bool:
        total = sum(room[node] for node in nodes)
        return total >= vcpus and (wide or all(total - room[node] < vcpus for node in nodes))

    if len(able) <= _EXHAUSTIVE_NODES:
        for size in range(1, len(able) + 1):
            yield from (nodes for nodes in combinations(able, size) if least(nodes))
        return
    yield from ((node,) for node in able if room[node] >= vcpus)
    grown = set()
    for seed in able:
        nodes, near = [], sorted(able, key=lambda node: (board.distance(seed, node), -room[node], node))
        for node in near:
            nodes.append(node)
            if sum(room[one] for one in nodes) >= vcpus:
                break
        while len(nodes) > 1 and sum(room[node] for node in nodes[:-1]) >= vcpus:
            nodes.pop()
        for node in list(nodes):
            if sum(room[one] for one in nodes) - room[node] >= vcpus:
                nodes.remove(node)
        if least(nodes):
            grown.add(tuple(sorted(nodes)))
    yield from sorted(nodes for nodes in grown if len(nodes) > 1)


def _cell_splits(board: Board, cells: Sequence[GuestCell], room: Mapping[int, int]) -> Iterator[Split]:
    """Each guest cell whole in one node; several may share a node."""
    able = [node for node, count in room.items() if count]
    maps: Iterator[tuple[int, ...]]
    if len(able) ** len(cells) <= _EXHAUSTIVE_CELLS:
        maps = product(able, repeat=len(cells))
    else:
        maps = (_nearest_cells(board, cells, room, seed) for seed in able)
    for chosen in maps:
        counts = dict.fromkeys(chosen, 0)
        for node, cell in zip(chosen, cells, strict=False):
            counts[node] += len(cell.vcpus)
        if len(chosen) == len(cells) and all(counts[node] <= room[node] for node in counts):
            yield tuple((node, len(cell.vcpus)) for node, cell in zip(chosen, cells, strict=True))


def _nearest_cells(
    board: Board, cells: Sequence[GuestCell], room: Mapping[int, int], seed: int
) -> tuple[int, ...]:
    left = dict(room)
    chosen = []
    for cell in cells:
        near = sorted(left, key=lambda node: (board.distance(seed, node), node))
        node = next((node for node in near if left[node] >= len(cell.vcpus)), None)
        if node is None:
            return ()
        left[node] -= len(cell.vcpus)
        chosen.append(node)
    return tuple(chosen)


def memory_needed(
    board: Board, spec: GuestSpec, cpus: CpuSet, cell_nodes: Sequence[int | None]
) -> dict[int, int]:
    """
    The memory that a place needs on each node; verify counts it the same way.

    Args:
        board: The host so far.
        spec: What the guest needs.
        cpus: The CPUs of its dedicated vCPUs; of one without, all CPUs that it floats over.
        cell_nodes: The node number of each of its cells; None for one whose node is still open.

    Returns:
        Bytes by node number, in whole pages: a cell's on its node; else spread by the CPUs in each node, rounded up.
    """
    needed: dict[int, int] = {}
    if any(cell.memory_bytes for cell in spec.cells):
        for cell, node in zip(spec.cells, cell_nodes, strict=True):
            if node is not None:
                needed[node] = needed.get(node, 0) + cell.memory_bytes
        return needed
    page = spec.page_bytes or 1
    for one in board.nodes if spec.memory_bytes else ():
        count = len(one.cpus & cpus)
        if count:
            needed[one.number] = -(-spec.memory_bytes * count // (len(cpus) * page)) * page
    return needed
