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

from kvmaff.guest.spec import GuestSpec
from kvmaff.placement.board import Board

__all__ = ["Split", "memory_needed", "memory_of", "splits"]

_EXHAUSTIVE_NODES = 10
_EXHAUSTIVE_CELLS = 4096

Split = tuple[tuple[int, int, int], ...]
"""(node, vCPUs there, bytes of memory that cells put there) for each node used."""


def splits(board: Board, spec: GuestSpec, vcpus: int, room: Mapping[int, int]) -> Iterator[Split]:
    """
    Find the ways to share a guest's vCPUs among NUMA nodes.

    Args:
        board: The host so far.
        spec: What the guest needs.
        vcpus: How many places.
        room: How many each node can take.

    Returns:
        Splits, deterministic in kind and order.
    """
    if spec.cells:
        yield from _cell_splits(board, spec, room)
        return
    seen = set()
    for nodes in _node_sets(board, vcpus, room):
        for partial in nodes:
            counts = {node: room[node] for node in nodes}
            counts[partial] = vcpus - sum(room[node] for node in nodes if node != partial)
            if not 0 < counts[partial] <= room[partial]:
                continue
            split = tuple((node, counts[node], 0) for node in nodes)
            if split not in seen:
                seen.add(split)
                yield split


def _node_sets(board: Board, vcpus: int, room: Mapping[int, int]) -> Iterator[tuple[int, ...]]:
    """Sets of nodes that hold the guest and of which none can be left out."""
    able = [node for node, count in room.items() if count]

    def least(nodes: Sequence[int]) -> bool:
        total = sum(room[node] for node in nodes)
        return total >= vcpus and all(total - room[node] < vcpus for node in nodes)

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


def _cell_splits(board: Board, spec: GuestSpec, room: Mapping[int, int]) -> Iterator[Split]:
    """Each guest cell whole in one node; several may share a node."""
    able = [node for node, count in room.items() if count]
    cells = spec.cells
    maps: Iterator[tuple[int, ...]]
    if len(able) ** len(cells) <= _EXHAUSTIVE_CELLS:
        maps = product(able, repeat=len(cells))
    else:
        maps = (_nearest_cells(board, spec, room, seed) for seed in able)
    for chosen in maps:
        counts = dict.fromkeys(chosen, 0)
        memory = dict.fromkeys(chosen, 0)
        for node, cell in zip(chosen, cells, strict=False):
            counts[node] += len(cell.vcpus)
            memory[node] += cell.memory_bytes
        if len(chosen) == len(cells) and all(counts[node] <= room[node] for node in counts):
            yield tuple(
                (node, len(cell.vcpus), cell.memory_bytes) for node, cell in zip(chosen, cells, strict=True)
            )


def _nearest_cells(board: Board, spec: GuestSpec, room: Mapping[int, int], seed: int) -> tuple[int, ...]:
    left = dict(room)
    chosen = []
    for cell in spec.cells:
        near = sorted(left, key=lambda node: (board.distance(seed, node), node))
        node = next((node for node in near if left[node] >= len(cell.vcpus)), None)
        if node is None:
            return ()
        left[node] -= len(cell.vcpus)
        chosen.append(node)
    return tuple(chosen)


def memory_of(spec: GuestSpec, split: Split) -> dict[int, int]:
    """
    The memory that a split needs on each node.

    Args:
        spec: What the guest needs.
        split: Its vCPUs by node.

    Returns:
        Bytes by node number.
    """
    needed: dict[int, int] = {}
    total = sum(count for _, count, _ in split)
    for node, count, own in split:
        share = (
            own if any(cell.memory_bytes for cell in spec.cells) else -(-spec.memory_bytes * count // total)
        )
        needed[node] = needed.get(node, 0) + share
    return needed


def memory_needed(spec: GuestSpec, nodes: Sequence[int]) -> dict[int, int]:
    """
    The memory that a place needs on each node.

    Args:
        spec: What the guest needs.
        nodes: Node number of each vCPU.

    Returns:
        Bytes by node number: a cell's on its node, else spread by vCPUs.
    """
    if any(cell.memory_bytes for cell in spec.cells):
        split = tuple((nodes[cell.vcpus[0]], len(cell.vcpus), cell.memory_bytes) for cell in spec.cells)
    else:
        split = tuple((node, nodes.count(node), 0) for node in sorted(set(nodes)))
    return memory_of(spec, split)
