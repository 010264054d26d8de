"""``numa``, the default: vCPUs near one another and near the guest's devices, then within one L3 group."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from kvmaff.hooks.specs import hookimpl
from kvmaff.placement.objective import Grain, Level, Objective
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.solve import solve
from kvmaff.placement.strategy import Strategy, option

__all__ = ["NumaOptions", "kvmaff_strategies"]


@attrs.frozen(kw_only=True)
class NumaOptions:
    """Options of ``numa``."""

    near: bool = option(default=True, help="whether the distance to a guest's memory and devices counts")
    grain: Grain = option(
        default=Grain.L3,
        help="what a shared guest floats over: whole L3 groups (l3), or as many PUs as it has vCPUs (pu)",
    )
    whole_cores: bool = option(
        default=False, help="whether no other guest gets a PU of a dedicated guest's cores"
    )


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
)


def _place(request: PlacementRequest) -> Placement:
    asked = request.options or NumaOptions()
    objective = attrs.evolve(_OBJECTIVE, near=asked.near, grain=asked.grain, whole_cores=asked.whole_cores)
    return solve(request, objective)


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
            options=NumaOptions,
        )
    ]
