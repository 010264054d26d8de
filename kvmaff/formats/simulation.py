"""
What came of a simulation -> what JSON can hold.

The shape is a contract, as those of ``plain``.
"""

from __future__ import annotations

from typing import Any

import attrs

from kvmaff.placement.outcome import Comparison, Figure

__all__ = ["simulation_data"]


def simulation_data(found: Comparison) -> dict[str, Any]:
    """
    Describe a comparison.

    Args:
        found: It.

    Returns:
        ``seeds``; ``contestants``, a list of ``name``; ``mean`` and ``difference`` (from the first contestant, seed by
        seed), each by figure a ``value`` and its standard ``error``, null where one seed tells of none; ``outcomes``,
        by seed all counts. Shares are of 1, times in microseconds.
    """
    return {
        "seeds": list(found.seeds),
        "contestants": [
            {
                "name": name,
                "mean": {figure.value: attrs.asdict(found.mean(at, figure)) for figure in Figure},
                "difference": {figure.value: attrs.asdict(found.difference(at, figure)) for figure in Figure},
                "outcomes": [attrs.asdict(outcome) for outcome in found.outcomes[at]],
            }
            for at, name in enumerate(found.contestants)
        ],
    }
