"""
What a clean-up of a host would gain: guests that run and would cost less elsewhere, moved one after the other.

Rules:

* whoever gains most goes first, by the strategy's own levels; who would gain nothing stays;
* each goes onto CPUs that are nobody's then, so that the moves in their order are steps that can be done;
* where no guest gains alone, two that change places may.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import attrs

from kvmaff.placement.basis import Basis
from kvmaff.placement.bound import admission
from kvmaff.placement.exchange import Steps
from kvmaff.placement.objective import Objective
from kvmaff.placement.order import Step, moved, steps
from kvmaff.placement.placement import Placement, Score
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.scoring import Candidate
from kvmaff.placement.search import Search
from kvmaff.placement.taken import cost_now

__all__ = ["CleanUp", "Gain", "rebalance"]


@attrs.frozen(kw_only=True)
class Gain:
    """
    What one guest gains.

    Attributes:
        guest: Its name.
        before: What its place costs beside the others.
        after: What its new place costs.
    """

    guest: str
    before: Score
    after: Score


@attrs.frozen(kw_only=True)
class CleanUp:
    """
    What could be gained on a host, and how.

    Attributes:
        placement: Where all guests would be.
        gains: What each that is moved gains, who gains most first.
        steps: The order in which they could go.
        left_alone: Running guests that were not asked about, and why.
    """

    placement: Placement
    gains: tuple[Gain, ...]
    steps: tuple[Step, ...]
    left_alone: tuple[tuple[str, str], ...] = ()


def rebalance(request: PlacementRequest, objective: Objective) -> CleanUp:
    """
    Move guests that gain by it, within the request's budget.

    Args:
        request: The host; every guest has a place that keeps the rules.
        objective: What is wanted of the places.

    Returns:
        What each that is moved gains, and in which order they can go; all others stay.
    """
    cleaning = _Cleaning(request, objective)
    while cleaning.one() or cleaning.two():
        pass
    search = cleaning.search
    placement = Placement(
        strategy=objective.name,
        guests=search.finished(),
        basis=Basis(request=request, objective=objective),
        admission=admission(request.goal, (), (), None),
    )
    return CleanUp(placement=placement, gains=tuple(cleaning.gains), steps=steps(request, placement) or ())


class _Cleaning:
    def __init__(self, request: PlacementRequest, objective: Objective) -> None:
        self.request = request
        self.search = Search(request, objective)
        for demand in request.demands:
            self.search.keep(demand)
        self.gains: list[Gain] = []
        self._steps = Steps(request.steps)

    def one(self) -> bool:
        """Move the guest that gains most; whether there was one."""
        able: list[tuple[tuple[tuple[int, ...], int, str], Search, Demand, Gain, Candidate]] = []
        for demand in self._able():
            without = self.search.without(demand.spec.name)
            found = without.fits(demand)
            self._steps.take()
            if isinstance(found, str) or found.order == self._order(demand):
                continue
            gain = Gain(
                guest=demand.spec.name,
                before=cost_now(without.board, without.objective, demand),
                after=found.score,
            )
            worth = _worth(gain)
            rank = (tuple(-level for level in worth), demand.spec.max_vcpus, demand.spec.name)
            if _better(worth):
                able.append((rank, without, demand, gain, found))
        for _, without, demand, gain, found in sorted(able, key=lambda one: one[0]):
            without.note(demand, found)
            if self._can_be_done(without, {*(one.guest for one in self.gains), demand.spec.name}):
                self.search = without
                self.gains.append(gain)
                return True
        return False

    def _can_be_done(self, search: Search, names: set[str]) -> bool:
        """Whether all who are to go can go one after the other, from where they are."""
        forked = search.without("")
        placement = Placement(strategy="order", guests=forked.finished())
        return (
            not forked.unplaced
            and {one.guest for one in moved(self.request, placement)} == names
            and steps(self.request, placement) is not None
        )

    def _order(self, demand: Demand) -> tuple[int, ...]:
        return next(one.candidate.order for one in self.search.taken if one.demand is demand)

    def two(self) -> bool:
        """Let two change places who gain together; whether there were any."""
        for first, second in self._pairs():
            if not self._steps.take():
                return False
            done = self._both(first, second)
            if done is not None:
                self.search, gains = done
                self.gains += gains
                return True
        return False

    def _both(self, first: Demand, second: Demand) -> tuple[Search, list[Gain]] | None:
        names = {first.spec.name, second.spec.name}
        search = self.search.without(first.spec.name).without(second.spec.name)
        before = {
            one.spec.name: cost_now(self.search.without(one.spec.name).board, self.search.objective, one)
            for one in (first, second)
        }
        gains = []
        for one in (first, second):
            found = search.fits(one)
            if isinstance(found, str):
                return None
            search.note(one, found)
            gains.append(Gain(guest=one.spec.name, before=before[one.spec.name], after=found.score))
        worth = tuple(map(sum, zip(*map(_worth, gains), strict=True)))
        if not _better(worth):
            return None
        if not self._can_be_done(search, {*(one.guest for one in self.gains), *names}):
            return None
        return search, gains

    def _able(self) -> Iterator[Demand]:
        """The guests that the budget still lets go, each once."""
        gone = [one.guest for one in self.gains]
        budget = self.request.moves
        demands = {one.spec.name: one for one in self.request.demands}
        vcpus = sum(demands[name].spec.max_vcpus for name in gone)
        size = sum(demands[name].memory_bytes for name in gone)
        if len(gone) >= budget.guests:
            return
        for demand in self.request.demands:
            if demand.spec.name in gone or not demand.spec.pinned:
                continue
            if budget.vcpus is not None and vcpus + demand.spec.max_vcpus > budget.vcpus:
                continue
            if budget.memory_bytes is not None and size + demand.memory_bytes > budget.memory_bytes:
                continue
            yield demand

    def _pairs(self) -> Iterator[tuple[Demand, Demand]]:
        budget, gone = self.request.moves, {one.guest for one in self.gains}
        demands = [one for one in self.request.demands if one.spec.name in gone]
        vcpus = sum(one.spec.max_vcpus for one in demands)
        size = sum(one.memory_bytes for one in demands)
        for first, second in combinations(self._able(), 2):
            if len(gone) + 2 > budget.guests:
                return
            more = first.spec.max_vcpus + second.spec.max_vcpus
            memory = first.memory_bytes + second.memory_bytes
            if budget.vcpus is not None and vcpus + more > budget.vcpus:
                continue
            if budget.memory_bytes is not None and size + memory > budget.memory_bytes:
                continue
            yield first, second


def _worth(gain: Gain) -> tuple[int, ...]:
    """What is saved, level by level."""
    return tuple(before - after for before, after in zip(gain.before.key, gain.after.key, strict=True))


def _better(worth: tuple[int, ...]) -> bool:
    """Whether the first level that differs is less."""
    return next((level for level in worth if level), 0) > 0
