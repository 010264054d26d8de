"""
The one search. A strategy is an objective and filters; placing many guests on one host happens here.

The order: guests with dedicated vCPUs before those without, the larger before the smaller, so that who needs most finds
most; what is dedicated is nobody else's afterwards. Then the vCPUs of mixed guests that float, then shared guests.
Guests' other threads come last, when it is known which CPUs belong to nobody alone. Where somebody has no place then,
the smaller before the larger are tried, too, and what admits more is kept. Every guest that has a place gets it; those
without are named with all reasons.
"""

from __future__ import annotations

import attrs

from kvmaff.errors import PlacementImpossible
from kvmaff.placement.basis import Basis
from kvmaff.placement.bound import admission, worth
from kvmaff.placement.contradictions import contradictions
from kvmaff.placement.moves import Goal
from kvmaff.placement.objective import Objective
from kvmaff.placement.placement import Placement
from kvmaff.placement.replan import Replan
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.search import Search
from kvmaff.placement.verify import verify

__all__ = ["solve"]


def solve(request: PlacementRequest, objective: Objective) -> Placement:
    """
    Find a place for every guest of a request.

    Args:
        request: The host, the guests, and what is taken.
        objective: What is wanted of the places.

    Returns:
        The placement; the same request and objective give the same one.

    Raises:
        PlacementImpossible: A guest has no place. Its ``unplaced`` says for each which and why, and what would work;
            its ``placement`` has the places of the others.
    """
    tried = _tried(request, objective)
    search, to_place, start = tried.search, tried.to_place, tried.start
    for demand, missing in tried.refused:
        search.refuse(demand, missing)
    guests = search.finished()
    there = {one.spec.name for one in guests}
    without = [one for one in to_place if one.spec.name not in there]
    if start is None and without:
        start = Search(request, objective)
    placement = Placement(
        strategy=objective.name,
        guests=guests,
        basis=Basis(request=request, objective=objective),
        admission=admission(request.goal, to_place, without, start),
    )
    if search.unplaced:
        order = {demand.spec.name: place for place, demand in enumerate(request.demands)}
        unplaced = tuple(sorted(search.unplaced, key=lambda one: order[one.name]))
        lines = [f"{one.name}: {reason}" for one in unplaced for reason in one.reasons]
        raise PlacementImpossible("\n".join(lines), unplaced=unplaced, placement=placement)
    return placement


@attrs.frozen(kw_only=True)
class _Tried:
    """
    Guests placed in one order.

    Attributes:
        search: Those that have a place.
        to_place: Those that had none.
        start: The search before these; None where nobody had a place.
        refused: Those that have none now, each with what is missing.
    """

    search: Search
    to_place: list[Demand]
    start: Search | None
    refused: list[tuple[Demand, list[str]]]

    def missed(self, goal: Goal) -> int:
        """What those without a place count."""
        return sum(worth(goal, demand) for demand, _ in self.refused)


def _tried(request: PlacementRequest, objective: Objective) -> _Tried:
    """The larger first; where somebody has no place then, also the smaller first, and moving nobody."""
    best = _in_order(request, objective)
    if len(best.to_place) > 1:
        for smaller, moving in ((True, True), (False, False), (True, False)):
            if not best.refused:
                break
            if moving or request.moves.guests:
                other = _in_order(request, objective, smaller=smaller, moving=moving)
                if other.missed(request.goal) < best.missed(request.goal):
                    best = other
    return best


def _in_order(
    request: PlacementRequest, objective: Objective, *, smaller: bool = False, moving: bool = True
) -> _Tried:
    search = Search(request, objective)
    to_place = _settled(search)
    start = search.without("") if len(to_place) < len(request.demands) else None
    if smaller:
        to_place.sort(key=lambda one: (not one.spec.pinned, len(one.spec.pinned) or one.spec.max_vcpus))
    refused: list[tuple[Demand, list[str]]] = []
    replan: Replan | None = None
    for demand in to_place:
        missing = search.take(demand)
        if missing is None:
            continue
        if replan is None and request.moves.guests and moving:
            replan = Replan(search)
        if replan is not None and not contradictions(request, demand):
            replan.search = search
            if replan.admit(demand):
                search = replan.search
                continue
        refused.append((demand, missing))
    if replan is not None and refused:
        replan.search = search
        able = [demand for demand, _ in refused if not contradictions(request, demand)]
        admitted = {demand.spec.name for demand in replan.pack(able)}
        search = replan.search
        refused = [one for one in refused if one[0].spec.name not in admitted]
    return _Tried(search=search, to_place=to_place, start=start, refused=refused)


def _settled(search: Search) -> list[Demand]:
    """Leave those where they are that have a place which keeps the rules; return the others, in order."""
    ordered = search.ordered()
    there = [demand for demand in ordered if demand.now is not None]
    if not there:
        return ordered
    request = search.request
    asked = attrs.evolve(request, demands=tuple(there))
    now = Placement(strategy="now", guests=tuple(demand.now for demand in there if demand.now is not None))
    # a place that breaks a rule is none any more
    broken = {one.guest for one in verify(asked, now)}
    for demand in there:
        if demand.spec.name not in broken:
            search.keep(demand)
    return [demand for demand in ordered if demand.now is None or demand.spec.name in broken]
