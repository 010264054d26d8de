"""A guest that has its place in a search: what that place is made of, and what becomes of it in the answer."""

from __future__ import annotations

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import EmulatorPolicy, GuestSpec, VcpuPolicy
from kvmaff.placement.board import Board
from kvmaff.placement.exact import pinned_cells
from kvmaff.placement.objective import Objective
from kvmaff.placement.others import other_threads, promised
from kvmaff.placement.placement import GuestPlacement, Score, ThreadPlacement
from kvmaff.placement.pool import among, pool_for
from kvmaff.placement.request import Demand
from kvmaff.placement.scoring import Candidate, Wants, scored

__all__ = ["Taken", "cost_now", "cost_of", "finish", "kept", "known_nodes"]

_NOT_PROVED = "the best that was found; it is not proved that nothing better exists"


@attrs.define(kw_only=True)
class Taken:
    """
    A guest's place before its floating vCPUs and its other threads have one.

    Attributes:
        demand: The guest.
        spec: What is promised.
        candidate: Where its vCPUs are.
        owned: CPUs that nobody else may use.
        cells: The node of each of its cells.
        floats: The set of each vCPU that floats beside dedicated ones, in order.
    """

    demand: Demand
    spec: GuestSpec
    candidate: Candidate
    owned: CpuSet
    cells: list[int]
    floats: tuple[CpuSet, ...] = ()


def kept(board: Board, objective: Objective, demand: Demand) -> Taken:
    """
    Take the place that a guest has.

    Args:
        board: The host.
        objective: What is wanted.
        demand: The guest; its ``now`` keeps the rules.

    Returns:
        The same place. Its floating vCPUs and its other threads may come to have other CPUs.
    """
    now, spec = demand.now, demand.spec
    assert now is not None
    promise = promised(spec, objective)
    sets = [now.cpus_of(Role.VCPU, vcpu) or CpuSet() for vcpu in range(spec.max_vcpus)]
    pinned = [sets[vcpu] for vcpu in spec.pinned] if spec.pinned else sets
    home = [_node(board, cpus) for cpus in pinned]
    return Taken(
        demand=demand,
        spec=promise,
        candidate=Candidate(
            order=tuple(cpus.first for cpus in pinned),
            nodes=tuple(home),
            extras=_own_pus(promise, now),
            cpus=CpuSet.union_of(pinned),
            score=now.score,
        ),
        owned=now.owned,
        cells=_cells(board, spec, sets),
    )


def cost_now(board: Board, objective: Objective, demand: Demand) -> Score:
    """
    Work out what the place costs that a guest has, as if it could be taken.

    Args:
        board: The host without the guest.
        objective: What is wanted.
        demand: The guest, with its place.

    Returns:
        What it costs; of a guest whose vCPUs all float what it cost when it was given its place.
    """
    return cost_of(board, objective, kept(board, objective, demand))


def cost_of(board: Board, objective: Objective, taken: Taken) -> Score:
    """
    Work out what a place costs beside those that there are now.

    Args:
        board: The host without the guest.
        objective: What is wanted.
        taken: The guest, with a place.

    Returns:
        What it costs; of a guest whose vCPUs all float what it cost when it was given its place.
    """
    spec, found, demand = taken.spec, taken.candidate, taken.demand
    if not spec.pinned:
        return found.score
    pool = pool_for(board, demand, objective, floats=False)
    pool = among(board, spec, pool, CpuSet(found.order))
    wants, *_ = Wants.of(spec, objective, free=pool, reach=pool, vcpus=len(spec.pinned))
    return scored(board, demand, wants, objective, found.order, found.nodes, extras=found.extras).score


def _node(board: Board, cpus: CpuSet) -> int:
    """The node that most of some CPUs are in."""
    bits = cpus.bits
    return -max([((node.cpus.bits & bits).bit_count(), -node.number) for node in board.nodes])[1]


def _cells(board: Board, spec: GuestSpec, sets: list[CpuSet]) -> list[int]:
    return [_node(board, CpuSet.union_of(sets[vcpu] for vcpu in cell.vcpus)) for cell in spec.cells]


def _own_pus(spec: GuestSpec, now: GuestPlacement) -> tuple[int, ...]:
    """The PUs that other threads have for themselves, in the order in which a search counts them."""
    own = []
    if spec.emulator_policy is EmulatorPolicy.ISOLATE:
        own.append(now.cpus_of(Role.EMULATOR))
    if spec.iothread_policy is EmulatorPolicy.ISOLATE:
        own += [now.cpus_of(Role.IOTHREAD, number) for number in range(len(spec.iothreads))]
    return tuple(cpus.first for cpus in own if cpus)


def finish(board: Board, objective: Objective, taken: Taken, house: CpuSet) -> GuestPlacement:
    """
    Give all threads of a guest their CPUs.

    Args:
        board: The host, with all guests.
        objective: What is wanted.
        taken: The guest.
        house: The housekeeping CPUs for it.

    Returns:
        Its place.
    """
    candidate, spec = taken.candidate, taken.spec
    floats = CpuSet.union_of(taken.floats)
    vcpus = _vcpus(board, taken)
    used = CpuSet.union_of(vcpus)
    counts = {node: candidate.nodes.count(node) for node in candidate.nodes}
    others = other_threads(
        board,
        taken.demand,
        spec,
        objective,
        shared=floats or candidate.cpus,
        own=candidate.extras,
        counts=counts,
        house=house,
    )
    told = {node.number for node in board.request.host.topology.nodes}
    return GuestPlacement(
        # stricter than asked, and said so: its other threads are kept off its vCPUs' CPUs
        spec=spec,
        pid=taken.demand.pid,
        start=taken.demand.start,
        threads=(
            *(ThreadPlacement(role=Role.VCPU, index=n, cpus=cpus) for n, cpus in enumerate(vcpus)),
            *others,
        ),
        # the board's: where nodes overlap, each CPU counts in one of them, here as in verify
        nodes=tuple(sorted(told.intersection(board.nodes_of(used)))),
        score=candidate.score,
        why=() if candidate.proved else (_NOT_PROVED,),
        owned=taken.owned,
    )


def _vcpus(board: Board, taken: Taken) -> list[CpuSet]:
    spec, candidate = taken.spec, taken.candidate
    if spec.vcpu_policy is VcpuPolicy.SHARED:
        if not spec.cells:
            return [candidate.cpus] * spec.max_vcpus
        inside = {node.number: node.cpus & candidate.cpus for node in board.nodes}
        return [inside[node] for node in candidate.nodes]  # a cell floats over its own node
    own = [CpuSet.from_bits(1 << cpu) for cpu in candidate.order]
    if spec.vcpu_policy is VcpuPolicy.DEDICATED:
        return own
    found = dict(zip(spec.pinned, own, strict=True))
    found |= dict(zip(spec.floating, taken.floats, strict=True))
    return [found[vcpu] for vcpu in range(spec.max_vcpus)]


def known_nodes(spec: GuestSpec, found: Candidate) -> list[int | None]:
    """
    The nodes of a guest's cells, as far as a place of its dedicated vCPUs says.

    Args:
        spec: What it needs.
        found: The place.

    Returns:
        For each cell the node; None for one whose vCPUs all float.
    """
    return [found.nodes[cell.vcpus[0]] if cell.vcpus else None for cell in pinned_cells(spec)]
