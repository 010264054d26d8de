"""
The one search. A strategy is an objective and filters; placing many guests on one host happens here.

The order: guests with dedicated vCPUs before those without, the larger before the smaller, so that who needs most finds
most; what is dedicated is nobody else's afterwards. Then the vCPUs of mixed guests that float, then shared guests.
Guests' other threads come last, when it is known which CPUs belong to nobody alone. Every guest that has a place gets
it; those without are named with all reasons.
"""

from __future__ import annotations

from kvmaff.errors import PlacementImpossible
from kvmaff.placement.basis import Basis
from kvmaff.placement.objective import Objective
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.search import Search

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
    search = Search(request, objective)
    for demand in search.ordered():
        search.take(demand)
    guests = search.finished()
    placement = Placement(
        strategy=objective.name, guests=guests, basis=Basis(request=request, objective=objective)
    )
    if search.unplaced:
        order = {demand.spec.name: place for place, demand in enumerate(request.demands)}
        unplaced = tuple(sorted(search.unplaced, key=lambda one: order[one.name]))
        lines = [f"{one.name}: {reason}" for one in unplaced for reason in one.reasons]
        raise PlacementImpossible("\n".join(lines), unplaced=unplaced, placement=placement)
    return placement
