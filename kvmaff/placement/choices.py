"""An answer as a choice: who has a place where nobody is moved, and who with each more that may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from kvmaff.errors import PlacementImpossible
from kvmaff.placement.moves import Goal, Moved
from kvmaff.placement.placement import Placement, Unplaced
from kvmaff.placement.request import PlacementRequest

__all__ = ["Choice", "choices"]

_ALL = 8
"""Up to so many moves every number is tried; then twice as many each time."""


@attrs.frozen(kw_only=True)
class Choice:
    """
    One answer.

    Attributes:
        moves: How many guests may be moved.
        placement: The places; None where nobody has one.
        unplaced: The guests without one.
    """

    moves: int
    placement: Placement | None
    unplaced: tuple[Unplaced, ...] = ()

    @property
    def moved(self) -> tuple[Moved, ...]:
        """The guests that are moved."""
        return () if self.placement is None else self.placement.moved()


def choices(request: PlacementRequest, decide: Callable[[PlacementRequest], Placement]) -> tuple[Choice, ...]:
    """
    Answer a request with more and more moves, up to its budget.

    Args:
        request: What is asked; its budget of guests is the most that may be moved.
        decide: Who decides.

    Returns:
        The answer without moves, and each that admits more than the one before it.

    Raises:
        KvmaffError: As ``decide`` does, but for PlacementImpossible.
    """
    found: list[Choice] = []
    most = 0
    for count in _budgets(request.moves.guests):
        asked = attrs.evolve(request, moves=attrs.evolve(request.moves, guests=count))
        try:
            choice = Choice(moves=count, placement=decide(asked))
        except PlacementImpossible as error:
            choice = Choice(moves=count, placement=error.placement, unplaced=error.unplaced)
        worth = _worth(asked, choice)
        if not found or worth > most:
            found.append(choice)
            most = worth
        if not choice.unplaced:
            break
    return tuple(found)


def _budgets(most: int) -> Iterator[int]:
    count = 0
    while count < most:
        yield count
        count += 1 if count < _ALL else count
    yield most


def _worth(request: PlacementRequest, choice: Choice) -> int:
    """How much of what had no place has one."""
    there = {one.spec.name for one in choice.placement.guests} if choice.placement else set()
    come = [one for one in request.demands if one.now is None and one.spec.name in there]
    return len(come) if request.goal is Goal.GUESTS else sum(one.spec.max_vcpus for one in come)
