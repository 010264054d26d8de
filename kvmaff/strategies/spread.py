"""``spread``: the least loaded nodes, L3 groups and cores first; one vCPU a core while there are cores."""

from __future__ import annotations

from collections.abc import Iterable

from kvmaff.hooks.specs import hookimpl
from kvmaff.placement.objective import Level, Objective
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.solve import solve
from kvmaff.placement.strategy import Strategy

__all__ = ["kvmaff_strategies"]

# A guest is not torn over nodes to find an emptier one: distance counts first.
_LEVELS = (Level.DISTANCE, Level.CORE_LOAD, Level.NODE_LOAD, Level.L3_LOAD, Level.LOAD)
_OBJECTIVE = Objective(name="spread", levels=_LEVELS, shared_levels=_LEVELS, balance=True)


def _place(request: PlacementRequest) -> Placement:
    return solve(request, _OBJECTIVE)


@hookimpl
def kvmaff_strategies() -> Iterable[Strategy]:
    """
    Contribute the strategy.

    Returns:
        It alone.
    """
    return [
        Strategy(
            name="spread",
            summary="least loaded nodes, L3 groups and cores first; one vCPU a core while there are cores",
            place=_place,
        )
    ]
