"""What free PUs are worth to guests to come."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmaff.placement.future import ACCEPT, SIZES, accept

some = st.integers(0, 8192)


def test_the_sizes_are_those_of_the_workload() -> None:
    """Fifteen guests, of which three have four vCPUs and none more than 32."""
    assert (15, 3, 32) == (SIZES.total(), SIZES[4], max(SIZES))


@pytest.mark.parametrize(
    ("free", "worth"),
    [
        pytest.param(0, 0, id="nothing"),
        pytest.param(1, 1, id="one guest of one"),
        pytest.param(2, 2 + 2 * 2, id="two of one, or one of two, who are asked for twice"),
        pytest.param(3, 3 + 2 * 2 + 3, id="the third PU is of no use to the second guest of two"),
        pytest.param(4, 4 + 2 * 4 + 3 + 3 * 4, id="four"),
    ],
)
def test_worth_of_few(free: int, worth: int) -> None:
    """vCPUs that still fit, by size, as often as it is asked for."""
    assert worth == accept(free)


@given(some)
def test_a_guest_at_a_time(free: int) -> None:
    """The same by counting guests out."""
    worth = 0
    for size in SIZES.elements():
        left = free
        while left >= size:
            left -= size
            worth += size
    assert worth == accept(free)


@given(some, some)
def test_a_large_hole_is_worth_more_than_its_parts(one: int, other: int) -> None:
    """Splitting a hole never gains anything, and a larger one is worth at least as much."""
    assert accept(one) + accept(other) <= accept(one + other)


def test_packed_for_the_search() -> None:
    """The table holds the same numbers, and none is more than the search can count."""
    table = array("i", ACCEPT)
    assert list(map(accept, range(8193))) == list(table)
    assert all(worth <= 31 * free for free, worth in enumerate(table))
