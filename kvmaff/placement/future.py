"""
What free PUs are worth to guests to come.

n free PUs in one place, an L3 group or a NUMA node, are worth the vCPUs of guests that still fit there: for each size
of guest as often as it is asked for, size x how many of that size fit. A place for one guest loses what its PUs add to
that, so that large holes are kept for large guests.

The sizes are those of the workload by which strategies are compared.
"""

from __future__ import annotations

from array import array
from collections import Counter

__all__ = ["ACCEPT", "SIZES", "accept"]

SIZES = Counter([1, 2, 2, 3, 4, 4, 4, 6, 8, 8, 12, 16, 16, 24, 32])
"""How often a guest of so many vCPUs is asked for."""


def accept(free: int) -> int:
    """
    What so many free PUs in one place are worth.

    Args:
        free: How many, from 0.

    Returns:
        vCPUs, summed over the sizes.
    """
    return sum(often * size * (free // size) for size, often in SIZES.items())


ACCEPT = array("i", map(accept, range(8193))).tobytes()
"""The same for 0 to 8,192 PUs, packed for the search."""
