"""``spread``: the least loaded nodes, L3 groups and cores first; one vCPU a core while there are cores."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs

from kvmaff.hooks.specs import hookimpl
from kvmaff.placement.objective import Level, Objective
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.solve import solve
from kvmaff.placement.strategy import Strategy, option

__all__ = ["First", "SpreadOptions", "kvmaff_strategies"]


class First(enum.StrEnum):
    """Whose load decides first."""

    CORE = "core"
    """The busiest core that the guest would have."""
    NODE = "node"
    """The busiest NUMA node."""
    L3 = "l3"
    """The busiest L3 group."""


@attrs.frozen(kw_only=True)
class SpreadOptions:
    """Options of ``spread``."""

    first: First = option(
        default=First.CORE,
        help="whose load decides first which of the nearest nodes a guest gets; inside a node cores always do",
    )
    near: bool = option(default=False, help="whether the distance to a guest's memory and devices counts")
    whole_cores: bool = option(
        default=False, help="whether no other guest gets a PU of a dedicated guest's cores"
    )


_LOADS = {First.CORE: Level.CORE_LOAD, First.NODE: Level.NODE_LOAD, First.L3: Level.L3_LOAD}


def _place(request: PlacementRequest) -> Placement:
    asked = request.options or SpreadOptions()
    loads = sorted(_LOADS.values(), key=lambda level: level is not _LOADS[asked.first])
    # a guest is not torn over nodes to find an emptier one: distance counts first
    levels = (Level.DISTANCE, *loads, Level.LOAD)
    objective = Objective(
        name="spread",
        levels=levels,
        shared_levels=levels,
        balance=True,
        near=asked.near,
        whole_cores=asked.whole_cores,
    )
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
            name="spread",
            summary="least loaded nodes, L3 groups and cores first; one vCPU a core while there are cores",
            place=_place,
            options=SpreadOptions,
        )
    ]
