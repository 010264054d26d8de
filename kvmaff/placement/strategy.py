"""What a strategy is: a frozen value that a plug-in contributes."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from kvmaff.guest.spec import VcpuPolicy
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import PlacementRequest

__all__ = ["NoOptions", "Strategy"]


@attrs.frozen(kw_only=True)
class NoOptions:
    """The options of a strategy that has none."""


@attrs.frozen(kw_only=True)
class Strategy:
    """
    A way to decide where guests run.

    Attributes:
        name: What it is called, in lower case.
        summary: One sentence for a list of strategies.
        place: Decides: takes a request, gives the place of every guest. Pure: no I/O, no clock, no chance without a
            seed, so that the same request has the same answer. Raises PlacementImpossible where a guest has no
            place. Most call :func:`kvmaff.placement.solve.solve` with an objective of their own.
        vcpu_policy: The policy of guests of which nothing is said.
        options: The attrs class of its options; each field has a default and a type of str, int, float or bool.
    """

    name: str
    summary: str
    place: Callable[[PlacementRequest], Placement]
    options: type = NoOptions
    vcpu_policy: VcpuPolicy = VcpuPolicy.SHARED
