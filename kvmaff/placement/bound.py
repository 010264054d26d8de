"""
How many guests to come could be admitted at most, whatever was searched.

Two bounds, both of the counts alone: guests that run stay somewhere, so that only what they leave of the CPUs can be
given away; and a guest for which no exchange within the budget makes room, were it the only one to come, has none
beside others either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvmaff.guest.spec import ThreadPolicy
from kvmaff.placement.exchange import Steps, exchanges
from kvmaff.placement.moves import Admission, Goal
from kvmaff.placement.pool import pool_for
from kvmaff.placement.replan import count
from kvmaff.placement.request import Demand
from kvmaff.placement.search import Search

__all__ = ["admission", "worth"]


def admission(
    goal: Goal, to_come: Sequence[Demand], refused: Sequence[Demand], start: Search | None
) -> Admission:
    """
    Say what was admitted, and what could be at most.

    Args:
        goal: What counts.
        to_come: The guests that had no place.
        refused: Those of them that have none now.
        start: The search with the guests that run, before any other had a place; needed where one is refused.

    Returns:
        Both, in what counts.
    """
    without = {demand.spec.name for demand in refused}
    asked = sum(worth(goal, demand) for demand in to_come)
    admitted = sum(worth(goal, demand) for demand in to_come if demand.spec.name not in without)
    if start is None or not without:
        return Admission(goal=goal, asked=asked, admitted=admitted, bound=asked)
    able = [demand for demand in to_come if demand.spec.name not in without or not _hopeless(start, demand)]
    bound = _most(goal, able, _room(start, to_come))
    return Admission(goal=goal, asked=asked, admitted=admitted, bound=max(bound, admitted))


def worth(goal: Goal, demand: Demand) -> int:
    """
    Say what admitting a guest counts.

    Args:
        goal: What counts.
        demand: The guest.

    Returns:
        It.
    """
    return 1 if goal is Goal.GUESTS else demand.spec.max_vcpus


def _needs(demand: Demand) -> int:
    return len(demand.spec.pinned) + demand.spec.own_pus


def _room(start: Search, to_come: Iterable[Demand]) -> int:
    """PUs that dedicated vCPUs may have, less those of guests that run: these stay, wherever."""
    board, bits = start.board.emptied(), 0
    kept = [one.demand for one in start.taken]
    for demand in (*to_come, *kept):
        if demand.spec.pinned:
            bits |= pool_for(board, demand, start.objective, floats=False).bits
    return bits.bit_count() - sum(map(_needs, kept))


def _most(goal: Goal, able: Iterable[Demand], room: int) -> int:
    """The most that is worth, of guests that need no more PUs together than there are."""
    total = 0
    best = [0] * (max(room, 0) + 1)  # by PUs
    for demand in able:
        value, need = worth(goal, demand), _needs(demand)
        if not need:
            total += value
            continue
        for pus in range(len(best) - 1, need - 1, -1):
            best[pus] = max(best[pus], best[pus - need] + value)
    return total + best[-1]


def _hopeless(start: Search, demand: Demand) -> bool:
    """Whether no exchange within the budget makes room for a guest alone; False where that is not known."""
    if not _counted(start, demand):
        return False
    counts, item = count(start, demand, ())
    if item is None:
        return True  # no node could ever hold one of its cells
    moves, steps = start.request.moves, Steps(start.request.steps)
    if not isinstance(start.fits(demand), str):
        return False
    ways = exchanges(
        counts, item, steps, guests=moves.guests, vcpus=moves.vcpus, memory_bytes=moves.memory_bytes
    )
    return not any(ways) and not steps.ended and not start.finder.gave_up


def _counted(start: Search, demand: Demand) -> bool:
    """
    Whether counts allow at least what the search does.

    That is: every guest's cells are on a node each, of all the CPUs; nothing but what nodes have decides where a guest
    can be; and nothing is gained by moving a guest within its node, as whole cores would be.
    """
    request, several = start.request, len(start.board.nodes) > 1
    if request.pools or start.board.kinds:
        return False
    guests = [demand, *(one.demand for one in start.taken)]
    siblings = any(core.bit_count() > 1 for core in start.board.columns.cores)
    if siblings and (
        start.objective.whole_cores
        or len({one.spec.trust_domain for one in guests}) > 1
        or any(one.trust_domain != demand.spec.trust_domain for one in request.held)
        or demand.spec.thread_policy is not ThreadPolicy.PREFER
    ):
        return False
    return all(
        one.allowed is None
        and not one.spec.floating
        and not one.spec.own_pus
        and not one.spec.affinity
        and not one.spec.anti_affinity
        and (one.spec.cells or not several)
        for one in guests
    )
