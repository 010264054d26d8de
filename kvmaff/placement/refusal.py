"""Why a guest has no place, and the nearest thing that would work."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import GuestSpec, ThreadPolicy, VcpuPolicy
from kvmaff.placement.board import Board
from kvmaff.placement.candidates import capacity
from kvmaff.placement.objective import Objective
from kvmaff.placement.request import Demand
from kvmaff.placement.scoring import Candidate, Wants

__all__ = ["reasons"]

_SHOWN_NODES = 8

Best = Callable[[Demand, GuestSpec, CpuSet, CpuSet, int], Candidate | None]


def reasons(board: Board, demand: Demand, objective: Objective, pool: CpuSet, best: Best) -> tuple[str, ...]:
    """
    Say why a guest has no place.

    Args:
        board: The host so far.
        demand: The guest.
        objective: What was wanted.
        pool: The CPUs that its vCPUs may come to.
        best: The search for one guest, to try what would work.

    Returns:
        Sentences: what it asked, what each node has, what would work.
    """
    return (
        _asked(demand.spec, objective, board),
        *_have(board, demand, objective, pool),
        *_nearest(board, demand, objective, pool, best),
    )


def _asked(spec: GuestSpec, objective: Objective, board: Board) -> str:
    words = [
        f"needs {spec.max_vcpus} {'dedicated' if spec.vcpu_policy is VcpuPolicy.DEDICATED else 'shared'} vCPUs"
    ]
    if objective.whole_cores:
        words.append("on whole cores")
    if objective.from_isolated and board.isolated:
        words.append(f"from the isolated CPUs {board.isolated}")
    if spec.thread_policy is not ThreadPolicy.PREFER:
        words.append(f"with thread policy {spec.thread_policy}")
    if spec.cells:
        words.append(
            f"in {len(spec.cells)} cells of {', '.join(str(len(cell.vcpus)) for cell in spec.cells)}"
        )
    if spec.memory_bytes and board.memory:
        words.append(f"and {spec.memory_bytes / 2**30:.1f} GiB of memory")
    return " ".join(words)


def _have(board: Board, demand: Demand, objective: Objective, pool: CpuSet) -> list[str]:
    """What each node has, and what is in the way there."""
    request = board.request
    topology = request.host.topology
    lines = []
    plain = attrs.evolve(demand.spec, cells=())
    (wants, *_) = Wants.of(plain, objective, free=pool, reach=pool, vcpus=demand.spec.max_vcpus)
    room = capacity(board, wants)
    for node in board.nodes[:_SHOWN_NODES]:
        away = []
        taken: dict[str, list[int]] = {}
        for cpu in node.cpus & board.owned:
            taken.setdefault(board.owner[cpu], []).append(cpu)
        away += [f"{CpuSet(cpus)} belong to {name} alone" for name, cpus in sorted(taken.items())]
        for held in request.held:
            if not held.dedicated and held.cpus & node.cpus & (board.used - board.owned):
                away.append(f"{held.cpus & node.cpus} used by {held.name}, which is not part of this request")
        if node.cpus & request.reserved:
            away.append(f"{node.cpus & request.reserved} reserved")
        if node.cpus & board.isolated and not node.cpus & board.isolated & pool:
            away.append(f"{node.cpus & board.isolated} isolated")
        if demand.allowed is not None and node.cpus - demand.allowed:
            away.append(f"{node.cpus - demand.allowed} not granted by its cgroup")
        free = node.cpus & pool
        limited = demand.pid is None and demand.spec.memory_bytes and node.number in board.memory
        memory = f" and {board.memory[node.number] / 2**30:.1f} GiB of memory free" if limited else ""
        why = f" ({'; '.join(away)})" if away else ""
        takes = f", room for {room[node.number]} of its vCPUs" if room[node.number] != len(free) else ""
        lines.append(
            f"node {node.number} has {len(free)} of {len(node.cpus)} CPUs for it{takes}{memory}{why}"
        )
    if len(board.nodes) > _SHOWN_NODES:
        rest = CpuSet.union_of(node.cpus for node in board.nodes[_SHOWN_NODES:])
        lines.append(f"the other {len(board.nodes) - _SHOWN_NODES} nodes have {len(rest & pool)} CPUs for it")
    if topology.offline:
        lines.append(f"CPUs {topology.offline} are offline")
    return lines


def _nearest(board: Board, demand: Demand, objective: Objective, pool: CpuSet, best: Best) -> list[str]:
    """What would work: fewer vCPUs, another thread policy, or sharing."""
    found, spec = [], demand.spec
    plain = attrs.evolve(spec, cells=(), memory_bytes=0)
    if (spec.cells or spec.memory_bytes) and best(
        demand, plain, pool, pool, min(spec.max_vcpus, len(pool) or 1)
    ):
        found.append("it would fit without its cells and memory")
    if spec.vcpu_policy is VcpuPolicy.DEDICATED:
        if spec.thread_policy is not ThreadPolicy.PREFER:
            other = attrs.evolve(spec, thread_policy=ThreadPolicy.PREFER)
            if best(demand, other, pool, pool, spec.max_vcpus):
                found.append("it would fit with thread policy prefer")
        if objective.from_isolated and board.isolated:
            elsewhere = board.request.usable(demand) - board.used - board.isolated
            if best(demand, spec, elsewhere, elsewhere, spec.max_vcpus):
                found.append("cores that are not isolated would hold its vCPUs (option anywhere=yes)")
        (wants, *_) = Wants.of(plain, objective, free=pool, reach=pool, vcpus=1)
        most = sum(capacity(board, wants).values())
        if most and most < spec.max_vcpus:
            found.append(f"{most} vCPU{'' if most == 1 else 's'} would fit")
        usable = board.request.usable(demand) - board.owned - board.isolated
        if len(usable) >= 1:
            found.append(f"as a shared guest it could float over {usable}")
    return found or ["nothing like it would fit"]
