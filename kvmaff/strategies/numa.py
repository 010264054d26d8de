"""``numa``, the default: vCPUs near one another and near the guest's devices, then within one L3 group."""

from __future__ import annotations

from collections.abc import Iterable

from kvmaff.hooks.specs import hookimpl
from kvmaff.placement.objective import Grain, Level, Objective
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.solve import solve
from kvmaff.placement.strategy import Strategy

__all__ = ["kvmaff_strategies"]

_OBJECTIVE = Objective(
    name="numa",
    levels=(
        Level.DISTANCE,
        Level.L3_GROUPS,
        Level.SHARED_CORES,
        Level.BROKEN_CORES,
        Level.LOST,
    ),
    # Shared guests float over whole L3 groups; among equals the emptier one does them and others the least harm.
    shared_levels=(Level.DISTANCE, Level.L3_GROUPS, Level.L3_LOAD, Level.NODE_LOAD, Level.LOAD),
    grain=Grain.L3,
    near=True,
)


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
            name="numa",
            summary="least distance between vCPUs, memory and devices, then L3 locality; the default",
            place=_place,
        )
    ]
