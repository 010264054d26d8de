"""``isolated``: whole cores that nobody else uses, from isolated CPUs where the host has them."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from kvmaff.guest.spec import VcpuPolicy
from kvmaff.hooks.specs import hookimpl
from kvmaff.placement.objective import Level, Objective
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.solve import solve
from kvmaff.placement.strategy import Strategy, option

__all__ = ["IsolatedOptions", "kvmaff_strategies"]


@attrs.frozen(kw_only=True)
class IsolatedOptions:
    """Options of ``isolated``."""

    anywhere: bool = option(
        default=False, help="whether to take cores that are not isolated, and leave isolated CPUs to others"
    )


_LEVELS = (Level.DISTANCE, Level.L3_GROUPS, Level.BROKEN_CORES, Level.LOST)
_OBJECTIVE = Objective(
    name="isolated",
    levels=_LEVELS,
    shared_levels=_LEVELS,
    whole_cores=True,
    from_isolated=True,
    housekeeping=True,
    near=True,
)


def _place(request: PlacementRequest) -> Placement:
    options = request.options or IsolatedOptions()
    return solve(request, attrs.evolve(_OBJECTIVE, from_isolated=not options.anywhere))


@hookimpl
def kvmaff_strategies() -> Iterable[Strategy]:
    """
    Contribute the strategy.

    Returns:
        It alone.
    """
    return [
        Strategy(
            name="isolated",
            summary="whole cores nobody else uses, isolated CPUs where there are any; the rest on housekeeping CPUs",
            place=_place,
            options=IsolatedOptions,
            vcpu_policy=VcpuPolicy.DEDICATED,
        )
    ]
