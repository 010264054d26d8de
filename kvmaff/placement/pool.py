"""
The CPUs that a guest's threads may come to, rule by rule.

A rule is a :class:`Cut`: what it takes away, and for whose sake. The search needs what is left, an explanation needs
each cut; both come from here, so that no reason is told that was not one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import ANY_KIND, GuestSpec, Place
from kvmaff.host.topology import CoreKind
from kvmaff.placement.board import Board, User
from kvmaff.placement.objective import Objective
from kvmaff.placement.request import Demand

__all__ = [
    "Cut",
    "affinities",
    "among",
    "around",
    "cuts",
    "foreign",
    "kinds_for",
    "left",
    "own_pool",
    "pool_for",
]


@attrs.frozen(kw_only=True)
class Cut:
    """
    What a rule takes away from a guest.

    Attributes:
        rule: The rule: ``cgroup``, ``reserved``, ``pool``, ``isolated``, ``dedicated``, ``used``, ``trust_domain``,
            ``affinity``, ``anti_affinity``, ``core_kind``.
        cpus: The CPUs.
        by: The guest for whose sake it is, or None.
    """

    rule: str
    cpus: CpuSet
    by: str | None = None


def cuts(board: Board, demand: Demand, objective: Objective, *, floats: bool = False) -> Iterator[Cut]:
    """
    Find what keeps a guest's vCPUs from CPUs.

    Args:
        board: The host so far.
        demand: The guest.
        objective: What is wanted.
        floats: Whether this is about vCPUs that float, rather than about dedicated ones.

    Yields:
        What each rule takes away, of the online CPUs; several rules may take the same one.
    """
    request, online, spec = board.request, board.online, demand.spec
    if demand.allowed is not None:
        yield Cut(rule="cgroup", cpus=online - demand.allowed)
    if request.reserved:
        yield Cut(rule="reserved", cpus=online & request.reserved)
    if request.pools or spec.pool is not None:
        yield Cut(rule="pool", cpus=online - request.pool_of(demand))
    if not floats and objective.from_isolated and board.isolated:
        yield Cut(rule="isolated", cpus=online - board.isolated)
    else:
        yield Cut(rule="isolated", cpus=board.isolated)
    for user in board.users:
        if user.alone:
            yield Cut(rule="dedicated", cpus=user.alone, by=user.name)
        if not floats and user.cpus != user.alone:
            yield Cut(rule="used", cpus=user.cpus - user.alone, by=user.name)
    for user in _strangers(board, spec):
        yield Cut(rule="trust_domain", cpus=board.cores_of(user.cpus), by=user.name)
    yield from affinities(board, spec)


def pool_for(board: Board, demand: Demand, objective: Objective, *, floats: bool = False) -> CpuSet:
    """
    The CPUs that a guest's vCPUs may come to.

    Args:
        board: The host so far.
        demand: The guest.
        objective: What is wanted.
        floats: Whether this is about vCPUs that float, rather than about dedicated ones.

    Returns:
        What all cuts leave of the online CPUs.
    """
    pool = board.request.usable(demand) & board.request.pool_of(demand)
    pool -= board.owned if floats else board.used
    if not floats and objective.from_isolated and board.isolated:
        pool &= board.isolated
    else:
        pool -= board.isolated
    for user in _strangers(board, demand.spec):
        pool -= board.cores_of(user.cpus)
    for cut in affinities(board, demand.spec):
        pool -= cut.cpus
    return pool


def kinds_for(board: Board, spec: GuestSpec) -> tuple[CoreKind | None, ...]:
    """
    The kinds of core that a guest may be on, the best first.

    Args:
        board: The host.
        spec: What the guest needs.

    Returns:
        One kind after the other, each by itself; None alone where it does not matter. None at all where the host has
        kinds, and not the one that it wants.
    """
    if not board.kinds or spec.core_kind == ANY_KIND:
        return (None,)
    return tuple(kind for kind in board.kinds if spec.core_kind in (None, kind.name))


def among(board: Board, spec: GuestSpec, pool: CpuSet, cpus: CpuSet) -> CpuSet:
    """
    The CPUs among which a place is compared with others: on a host of several kinds of core, those of its own kind.

    Args:
        board: The host.
        spec: What the guest needs.
        pool: The CPUs that its vCPUs may come to.
        cpus: The place.

    Returns:
        The CPUs.
    """
    for kind in kinds_for(board, spec):
        if kind is not None and cpus <= kind.cpus:
            return pool & kind.cpus
    return pool


def own_pool(board: Board, demand: Demand, objective: Objective, taken: CpuSet) -> CpuSet:
    """
    The CPUs that a guest's other threads may have as their own.

    Args:
        board: The host so far.
        demand: The guest.
        objective: What is wanted.
        taken: What its vCPUs have.

    Returns:
        The CPUs: nobody's, not isolated, and where cores are whole, no part of a core that has a user.
    """
    busy = board.used | taken
    pool = board.request.usable(demand) - busy - board.isolated - foreign(board, demand.spec)
    if objective.whole_cores:
        pool -= board.cores_of(busy)
    return pool


def left(board: Board, demand: Demand) -> CpuSet:
    """
    The CPUs that belong to nobody alone.

    Args:
        board: The host so far.
        demand: For whose threads.

    Returns:
        Those that the guest may use at all, that are not isolated, and on whose cores no guest of another trust domain
        has a vCPU.
    """
    return board.request.usable(demand) - board.owned - board.isolated - foreign(board, demand.spec)


def foreign(board: Board, spec: GuestSpec) -> CpuSet:
    """
    The cores that a guest may have nothing on, for the sake of trust domains.

    Args:
        board: The host so far.
        spec: What the guest needs.

    Returns:
        All PUs of the cores on which a guest of another domain has a vCPU.
    """
    return CpuSet.union_of(board.cores_of(user.cpus) for user in _strangers(board, spec))


def _strangers(board: Board, spec: GuestSpec) -> list[User]:
    if not board.strange:
        return []
    return [user for user in board.users if user.trust_domain != spec.trust_domain and user.name != spec.name]


def affinities(
    board: Board, spec: GuestSpec, others: Iterable[tuple[str, CpuSet]] | None = None
) -> Iterator[Cut]:
    """
    Find what affinities take away: a guest's own, and those of guests of the request that name it.

    Args:
        board: The host so far.
        spec: What the guest needs.
        others: (name, CPUs of its vCPUs) of those that count; None for all that have a place.

    Yields:
        What each takes away.
    """
    mine = [(False, one.guest, one.level) for one in spec.affinity]
    mine += [(True, one.guest, one.level) for one in spec.anti_affinity]
    for other in board.affine:
        if other.name != spec.name:
            mine += [(False, other.name, one.level) for one in other.affinity if one.guest == spec.name]
            mine += [(True, other.name, one.level) for one in other.anti_affinity if one.guest == spec.name]
    known = (
        list(others) if others is not None else [(user.name, user.on) for user in board.users] if mine else []
    )
    for apart, name, level in dict.fromkeys(mine):
        theirs = CpuSet.union_of(cpus for other, cpus in known if other == name)
        if theirs:
            near = around(board, theirs, level)
            rule = "anti_affinity" if apart else "affinity"
            yield Cut(rule=rule, cpus=near if apart else board.online - near, by=name)


def around(board: Board, cpus: CpuSet, level: Place) -> CpuSet:
    """
    All CPUs of the places in which some CPUs are.

    Args:
        board: The host.
        cpus: The CPUs.
        level: Which places.

    Returns:
        The CPUs.
    """
    if level is Place.CORE:
        return board.cores_of(cpus)
    groups = [node.cpus for node in board.nodes] if level is Place.NODE else board.l3
    return cpus | CpuSet.union_of(group for group in groups if not group.isdisjoint(cpus))
