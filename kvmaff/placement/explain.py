"""
Why a guest has its place: what each level costs, and what the next best place would cost more.

The runner-up is the best place that does without some part of the one that the guest has: one of its L3 groups (or of
its nodes, where it has many groups), or one of its cores; everybody else being where they are. It is searched for as
the place itself was, keeps all rules, and both are compared by what they cost now.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import ANY_KIND, GuestSpec, VcpuPolicy
from kvmaff.placement.board import Board
from kvmaff.placement.placement import GuestPlacement, Placement, Score
from kvmaff.placement.pool import pool_for
from kvmaff.placement.scoring import Candidate
from kvmaff.placement.search import Search
from kvmaff.placement.taken import cost_now

__all__ = ["Explanation", "RunnerUp", "explain", "explained", "level_words"]

OTHER_KIND = "core_kind"
"""Counts before all levels: that the next best place is on cores of another kind."""
SIBLINGS = "siblings"
"""And then: that the guest's siblings are not siblings there."""
_MOST_GROUPS = 16
_MOST_CORES = 32
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
            ``core_kind`` where it is on cores of another kind, and ``siblings`` where what the guest sees as siblings
            is on different cores: these count before all levels.
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
        runner_up: The next best place; None where none was found, or where nobody knows what was wanted.
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
    search = _with_all(placement)
    return tuple(_explained(placement, guest, search) for guest in placement.guests)


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
        lines += [f"  {line}" for line in _compared(why, others=len(placement.guests) > 1)]
    return "\n".join(lines)


def level_words(level: str, value: int) -> str:
    """
    One level of what a place costs, in words.

    Args:
        level: Its name.
        value: What it costs.

    Returns:
        A few words.
    """
    if level in _LOADS:
        return _LOADS[level].format(value / 1000)
    return _WORDS[level].format(value, s="" if value == 1 else "s")


def _explained(placement: Placement, guest: GuestPlacement, search: Search | None) -> Explanation:
    return Explanation(
        name=guest.spec.name,
        levels=_levels(guest.score),
        proved=not guest.why,
        runner_up=None if search is None else _runner_up(search, guest),
        known=placement.basis is not None,
    )


def _with_all(placement: Placement) -> Search | None:
    """A search in which every guest has its place; None where nobody knows what was wanted."""
    basis = placement.basis
    if basis is None:
        return None
    search = Search(basis.request, basis.objective)
    demands = {demand.spec.name: demand for demand in basis.request.demands}
    for guest in placement.guests:
        if guest.spec.name in demands:
            search.keep(attrs.evolve(demands[guest.spec.name], spec=guest.spec, now=guest))
    return search


def _levels(score: Score) -> tuple[tuple[str, int], ...]:
    return tuple(zip(score.levels, score.key, strict=True))


def _runner_up(search: Search, guest: GuestPlacement) -> RunnerUp | None:
    """The best place without some part of the one that it has, all other guests where they are."""
    taken = next((one for one in search.taken if one.spec.name == guest.spec.name), None)
    if taken is None:
        return None
    demand, without = taken.demand, search.without(guest.spec.name)
    board = without.board
    pool = pool_for(board, demand, without.objective, floats=not demand.spec.pinned)
    for reach, other_kind in _reaches(board, guest, pool):
        best: tuple[bool, Candidate] | None = None
        for part in _parts(board, guest):
            found = without.fits(demand, reach - part)
            if isinstance(found, str) or found.cpus == _searched(guest):
                continue
            found = without.finder.rescored(demand, found, pool)
            torn = _torn(board, demand.spec, found)
            if best is None or (torn, found.score.key) < (best[0], best[1].score.key):
                best = torn, found
        if best is not None:
            mine = cost_now(board, without.objective, demand)
            first = OTHER_KIND if other_kind else None
            if best[0] and not _torn(board, demand.spec, taken.candidate):
                first = first or SIBLINGS
            return _worse(mine, best[1], board, first)
    return None


def _torn(board: Board, spec: GuestSpec, found: Candidate) -> bool:
    """Whether vCPUs that the guest sees as siblings are on different cores."""
    if spec.threads == 1 or spec.vcpu_policy is not VcpuPolicy.DEDICATED:
        return False
    groups = (found.order[at : at + spec.threads] for at in range(0, len(found.order), spec.threads))
    return any(not CpuSet(group) <= board.cores_of(CpuSet(group[:1])) for group in groups)


def _reaches(board: Board, guest: GuestPlacement, pool: CpuSet) -> Iterator[tuple[CpuSet, bool]]:
    """Where a runner-up may be: on cores of the same kind; where there is none, on others, which counts first."""
    mine = [kind.cpus for kind in board.kinds if not kind.cpus.isdisjoint(_searched(guest))]
    if len(mine) != 1 or guest.spec.core_kind == ANY_KIND:
        yield pool, False
        return
    yield pool & mine[0], False
    yield pool, True


def _parts(board: Board, guest: GuestPlacement) -> Iterator[CpuSet]:
    """What a runner-up does without: each L3 group, or node, that the guest has now; each core, of not too many."""
    mine = guest.owned | guest.vcpu_cpus
    groups = [group for group in board.l3 if not group.isdisjoint(mine)]
    if len(groups) > _MOST_GROUPS:
        groups = [node.cpus for node in board.nodes if not node.cpus.isdisjoint(mine)]
    yield from groups
    searched, seen = _searched(guest), CpuSet()
    for _ in range(_MOST_CORES if guest.spec.pinned else 0):
        rest = searched - seen
        if not rest:
            return
        core = board.cores_of(CpuSet([rest.first]))
        yield core
        seen |= core


def _searched(guest: GuestPlacement) -> CpuSet:
    """The CPUs of the vCPUs that a search is about: of a mixed guest, of the dedicated ones."""
    if not guest.spec.pinned:
        return guest.vcpu_cpus
    return CpuSet.union_of(guest.cpus_of(Role.VCPU, vcpu) or CpuSet() for vcpu in guest.spec.pinned)


def _worse(score: Score, best: Candidate, board: Board, first: str | None) -> RunnerUp:
    theirs = _levels(best.score)
    worse = (
        (first, 1)
        if first is not None
        else next(
            (
                (level, value - mine)
                for (level, value), (_, mine) in zip(theirs, _levels(score), strict=True)
                if value != mine
            ),
            None,
        )
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


def _cost(score: Score) -> str:
    return ", ".join(level_words(level, value) for level, value in _levels(score))


def _compared(why: Explanation, *, others: bool) -> list[str]:
    if not why.known:
        return []
    other = why.runner_up
    if other is None:
        return ["no other place was found that does without a part of what it has"]
    where = f"{other.cpus} on node{'s' if len(other.nodes) > 1 else ''} {', '.join(map(str, other.nodes))}"
    if other.worse is None:
        return [f"runner-up {where}: costs the same"]
    level, more = other.worse
    if level == OTHER_KIND:
        return [f"runner-up {where}: on cores of another kind"]
    if level == SIBLINGS:
        return [f"runner-up {where}: its siblings are on different cores there"]
    less = "less, now that others have places, in" if others else "less in"
    side = "more in" if more > 0 else less
    amount = f"{abs(more) / 1000:.3f}" if level in _LOADS else str(abs(more))
    told = level_words(level, dict(other.levels)[level])
    return [f"runner-up {where}: {amount} {side} {level.replace('_', ' ')} ({told})"]
