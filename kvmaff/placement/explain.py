"""
Why a guest has its place: what each level costs, and what the next best place would cost more.

The runner-up is the best place that does without one of the L3 groups that the guest has now (without one of its nodes,
where it has many groups), everybody else being where they are. It is searched for as the place itself was.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import VcpuPolicy
from kvmaff.placement.basis import Basis
from kvmaff.placement.board import Board, User
from kvmaff.placement.finder import Finder
from kvmaff.placement.placement import GuestPlacement, Placement, Score
from kvmaff.placement.scoring import Candidate

__all__ = ["Explanation", "RunnerUp", "explain", "explained"]

_MOST_GROUPS = 16
_WORDS = {
    "distance": "distance {}",
    "nodes": "{} node{s}",
    "l3_groups": "{} L3 group{s}",
    "shared_cores": "{} core{s} shared with others",
    "broken_cores": "{} core{s} broken",
    "left": "{} PU{s} left in its L3 groups",
    "node_left": "{} PU{s} left in its nodes",
    "lost": "worth {} to guests to come",
    "crowding": "up to {} vCPU{s} a PU",
}
_LOADS = {
    "load": "{:.2f} vCPUs on its busiest PU",
    "node_load": "{:.2f} vCPUs a PU on its busiest node",
    "l3_load": "{:.2f} vCPUs a PU in its busiest L3 group",
    "core_load": "{:.2f} vCPUs on its busiest core",
}


@attrs.frozen(kw_only=True)
class RunnerUp:
    """
    The next best place of a guest.

    Attributes:
        cpus: The CPUs of its vCPUs there.
        nodes: Their NUMA nodes.
        levels: (level, value) in order of what counts most.
        worse: The first level in which it differs from the place taken, and by how much; None where they cost the same.
    """

    cpus: CpuSet
    nodes: tuple[int, ...]
    levels: tuple[tuple[str, int], ...]
    worse: tuple[str, int] | None


@attrs.frozen(kw_only=True)
class Explanation:
    """
    Why a guest has its place.

    Attributes:
        name: The guest.
        levels: (level, value) of what it costs, in order of what counts most.
        proved: Whether it is proved that no place costs less.
        runner_up: The next best place; None where there is none, or where nobody knows what was wanted.
        known: Whether it is known what was wanted, so that a runner-up was looked for.
    """

    name: str
    levels: tuple[tuple[str, int], ...]
    proved: bool
    runner_up: RunnerUp | None
    known: bool


def explained(placement: Placement) -> tuple[Explanation, ...]:
    """
    Say of each guest why it has its place.

    Args:
        placement: The placement.

    Returns:
        An explanation each, in order of the guests.
    """
    return tuple(_explained(placement, guest) for guest in placement.guests)


def explain(placement: Placement) -> str:
    """
    Say what was decided, and why.

    Args:
        placement: The placement.

    Returns:
        A few lines for each guest: its CPUs, what they cost, and the runner-up.
    """
    lines = [f"strategy {placement.strategy}: {len(placement.guests)} guests placed"]
    for guest, why in zip(placement.guests, explained(placement), strict=True):
        lines += [f"{guest.spec.name}: {_vcpus(guest)}", *(f"  {line}" for line in _others(guest))]
        lines += [f"  {_cost(guest.score)}", *(f"  {line}" for line in guest.why)]
        lines += [f"  {line}" for line in _compared(why)]
    return "\n".join(lines)


def _explained(placement: Placement, guest: GuestPlacement) -> Explanation:
    runner_up = None
    if placement.basis is not None:
        runner_up = _runner_up(placement.basis, placement, guest)
    return Explanation(
        name=guest.spec.name,
        levels=_levels(guest.score),
        proved=not guest.why,
        runner_up=runner_up,
        known=placement.basis is not None,
    )


def _levels(score: Score) -> tuple[tuple[str, int], ...]:
    return tuple(zip(score.levels, score.key, strict=True))


def _runner_up(basis: Basis, placement: Placement, guest: GuestPlacement) -> RunnerUp | None:
    demands = {demand.spec.name: demand for demand in basis.request.demands}
    demand = demands.get(guest.spec.name)
    if demand is None:
        return None
    board = Board(basis.request)
    for other in placement.guests:
        if other is not guest:
            board.take(_user(other))
    finder = Finder(board, basis.objective)
    found = [finder.best(demand, without=part) for part in _parts(board, guest)]
    best = min((one for one in found if one is not None), key=lambda one: one.score.key, default=None)
    if best is None:
        return None
    # what a place costs depends on who else is there, and others may have come after it was chosen
    again = finder.best(demand)
    same = again is not None and again.cpus == _searched(guest)
    return _worse(again.score if again is not None and same else guest.score, best, board)


def _user(guest: GuestPlacement) -> User:
    spec = guest.spec
    return User(
        name=spec.name,
        cpus=guest.vcpu_cpus | guest.owned,
        on=guest.vcpu_cpus,
        alone=guest.owned,
        vcpus=len(spec.floating),
        trust_domain=spec.trust_domain,
    )


def _parts(board: Board, guest: GuestPlacement) -> Iterator[CpuSet]:
    """What the runner-up does without: each L3 group in turn that the guest has now, or each node."""
    mine = guest.owned | guest.vcpu_cpus
    groups = [group for group in board.l3 if not group.isdisjoint(mine)]
    if len(groups) > _MOST_GROUPS:
        groups = [node.cpus for node in board.nodes if not node.cpus.isdisjoint(mine)]
    yield from groups


def _searched(guest: GuestPlacement) -> CpuSet:
    """The CPUs of the vCPUs that a search is about: of a mixed guest, of the dedicated ones."""
    if not guest.spec.pinned:
        return guest.vcpu_cpus
    return CpuSet.union_of(guest.cpus_of(Role.VCPU, vcpu) or CpuSet() for vcpu in guest.spec.pinned)


def _worse(score: Score, best: Candidate, board: Board) -> RunnerUp:
    theirs = _levels(best.score)
    worse = next(
        (
            (level, value - mine)
            for (level, value), (_, mine) in zip(theirs, _levels(score), strict=True)
            if value != mine
        ),
        None,
    )
    return RunnerUp(
        cpus=best.cpus, nodes=tuple(sorted(board.nodes_of(best.cpus))), levels=theirs, worse=worse
    )


# -- words


def _vcpus(guest: GuestPlacement) -> str:
    vcpus = [thread for thread in guest.threads if thread.role is Role.VCPU]
    nodes = ", ".join(map(str, guest.nodes))
    where = f"node{'s' if len(guest.nodes) > 1 else ''} {nodes}" if guest.nodes else "no node"
    spec = guest.spec
    if spec.vcpu_policy is VcpuPolicy.SHARED:
        return f"{len(vcpus)} shared vCPUs on {where}, floating over {guest.vcpu_cpus}"
    pinned = frozenset(spec.pinned)
    words = f"{len(pinned)} dedicated vCPUs on {where}: " + " ".join(
        f"{one.index}={one.cpus}" for one in vcpus if one.index in pinned
    )
    if spec.floating:
        floats = CpuSet.union_of(one.cpus for one in vcpus if one.index not in pinned)
        words += f"; {len(spec.floating)} floating over {floats}"
    return words


def _others(guest: GuestPlacement) -> list[str]:
    emulator = guest.cpus_of(Role.EMULATOR)
    lines = [f"other threads on {emulator}"]
    for number, name in enumerate(guest.spec.iothreads):
        cpus = guest.cpus_of(Role.IOTHREAD, number)
        if cpus != emulator:
            lines.append(f"IOThread {name} on {cpus}")
    return lines


def _word(level: str, value: int) -> str:
    if level in _LOADS:
        return _LOADS[level].format(value / 1000)
    return _WORDS[level].format(value, s="" if value == 1 else "s")


def _cost(score: Score) -> str:
    return ", ".join(_word(level, value) for level, value in _levels(score))


def _compared(why: Explanation) -> list[str]:
    if not why.known:
        return []
    other = why.runner_up
    if other is None:
        return ["no other place: it cannot do without any part of what it has"]
    where = f"{other.cpus} on node{'s' if len(other.nodes) > 1 else ''} {', '.join(map(str, other.nodes))}"
    if other.worse is None:
        return [f"runner-up {where}: costs the same"]
    level, more = other.worse
    side = "more in" if more > 0 else "less, now that others have places, in"
    amount = f"{abs(more) / 1000:.3f}" if level in _LOADS else str(abs(more))
    return [
        f"runner-up {where}: {amount} {side} {level.replace('_', ' ')} ({_word(level, dict(other.levels)[level])})"
    ]
