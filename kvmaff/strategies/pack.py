"""``pack``: as few nodes, L3 groups and cores as can be, and the largest holes left for others."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from kvmaff.hooks.specs import hookimpl
from kvmaff.placement.objective import Level, Objective
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.solve import solve
from kvmaff.placement.strategy import Strategy, option

__all__ = ["PackOptions", "kvmaff_strategies"]


@attrs.frozen(kw_only=True)
class PackOptions:
    """Options of ``pack``."""

    near: bool = option(default=False, help="whether the distance to a guest's memory and devices counts")
    whole_cores: bool = option(
        default=False, help="whether no other guest gets a PU of a dedicated guest's cores"
    )


_OBJECTIVE = Objective(
    name="pack",
    levels=(
        Level.DISTANCE,
        Level.L3_GROUPS,
        Level.SHARED_CORES,
        Level.BROKEN_CORES,
        Level.LOST,
    ),
    shared_levels=(
        Level.DISTANCE,
        Level.NODES,
        Level.L3_GROUPS,
        Level.SHARED_CORES,
        Level.BROKEN_CORES,
        Level.LEFT,
        Level.NODE_LEFT,
    ),
)


def _place(request: PlacementRequest) -> Placement:
    asked = request.options or PackOptions()
    return solve(request, attrs.evolve(_OBJECTIVE, near=asked.near, whole_cores=asked.whole_cores))


@hookimpl
def kvmaff_strategies() -> Iterable[Strategy]:
    """
    Contribute the strategy.

    Returns:
        It alone.
    """
    return [
        Strategy(
            name="pack",
            summary="fewest nodes by distance, L3 groups and cores; siblings together; largest holes left",
            place=_place,
            options=PackOptions,
        )
    ]
