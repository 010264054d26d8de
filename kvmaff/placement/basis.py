"""What a placement was decided from, kept with it so that it can be explained later."""

from __future__ import annotations

import attrs

from kvmaff.placement.objective import Objective
from kvmaff.placement.request import PlacementRequest

__all__ = ["Basis"]


@attrs.frozen(kw_only=True)
class Basis:
    """
    What a placement was decided from.

    Attributes:
        request: What was asked.
        objective: What was wanted of the places.
    """

    request: PlacementRequest
    objective: Objective
