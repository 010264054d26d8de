"""
What a clean-up of a host would gain: guests that run and would cost less elsewhere, moved one after the other.

Rules:

* who is moved gains, by the strategy's own levels, and still does when all have gone; all guests with vCPUs of their
  own together cost less with each move; none is moved that could as well have stayed;
* whoever gains most goes first;
* each goes onto CPUs that are nobody's then, so that the moves in their order are steps that can be done;
* where no guest gains alone, two may change places of which one gains and the other loses nothing; of many guests not
  all pairs are tried, as the request's steps allow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.placement.basis import Basis
from kvmaff.placement.bound import admission
from kvmaff.placement.exchange import Steps
from kvmaff.placement.objective import Objective
from kvmaff.placement.order import Step, moved, steps
from kvmaff.placement.placement import Placement, Score
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.search import Search
from kvmaff.placement.taken import Taken, cost_of
from kvmaff.placement.verify import verify

__all__ = ["CleanUp", "Gain", "Progress", "rebalance"]

_PAIR = 64
"""Steps that a pair costs."""


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


Progress = Callable[[int, float], object]
"""Is told how many guests are moved so far, and how much of the request's steps is used; it may end with few."""


def rebalance(
    request: PlacementRequest, objective: Objective, *, progress: Progress | None = None
) -> CleanUp:
    """
    Move guests that gain by it, within the request's budget.

    Args:
        request: The host; every guest has a place that keeps the rules.
        objective: What is wanted of the places.
        progress: Is told how far it is, often.

    Returns:
        What each that is moved gains, and in which order they can go; all others stay.
    """
    cleaning = _Cleaning(request, objective, progress)
    while cleaning.alone() or cleaning.two():
        pass
    placement, order = cleaning.done()
    return CleanUp(placement=placement, gains=cleaning.gains(), steps=order)


Costs = dict[str, Score]
"""What the places cost of all guests with vCPUs of their own, beside one another."""


class _Cleaning:
    def __init__(self, request: PlacementRequest, objective: Objective, progress: Progress | None) -> None:
        self.request, self._progress = request, progress
        self.search = Search(request, objective)
        for demand in request.demands:
            self.search.keep(demand)
        self._costs = _costs(self.search)
        self._before: Costs = {}
        self._past: list[tuple[Search, Costs, Costs]] = []
        self._steps = Steps(request.steps)

    def gains(self) -> tuple[Gain, ...]:
        """What each gains that was moved, in the state in which it ended."""
        return tuple(
            Gain(guest=name, before=before, after=self._costs[name]) for name, before in self._before.items()
        )

    def done(self) -> tuple[Placement, tuple[Step, ...]]:
        """Where all are, and in which order they can go; who cannot go, or could stay, is where it was."""
        while self._stay():
            pass
        while True:
            placement = Placement(
                strategy=self.search.objective.name,
                guests=self.search.without("").finished(),
                basis=Basis(request=self.request, objective=self.search.objective),
                admission=admission(self.request.goal, (), (), None),
            )
            order = steps(self.request, placement) if self._legal(placement) else None
            if order is not None or not self._past:
                return placement, order or ()
            self.search, self._costs, self._before = self._past.pop()

    def alone(self) -> bool:
        """Move guests that gain alone, who gains most first; whether there were any."""
        able = []
        for demand in self._able():
            if not self._take(1):
                break
            found = self._found(demand)
            if found is not None:
                able.append(
                    (tuple(-level for level in found[0]), demand.spec.max_vcpus, demand.spec.name, demand)
                )
        some = False
        for *_, demand in sorted(able, key=lambda one: one[:3]):
            found = self._found(demand) if demand in tuple(self._able()) else None
            some |= found is not None and self._accept(found[1], [demand])
        return some

    def _take(self, steps: int) -> bool:
        """Take steps; whether there were as many left."""
        self._steps.left -= steps
        self._tell()
        return not self._steps.ended

    def _tell(self) -> None:
        if self._progress is not None:
            used = self.request.steps - max(self._steps.left, 0)
            self._progress(len(self._before), used / max(self.request.steps, 1))

    def _found(self, demand: Demand) -> tuple[tuple[int, ...], Search] | None:
        """What a guest would gain elsewhere, level by level, and the state then; None where it would gain nothing."""
        without = self.search.without(demand.spec.name)
        found = without.fits(demand)
        if isinstance(found, str) or found.order == self._order(demand):
            return None
        worth = _worth(self._costs[demand.spec.name], found.score)
        if not _better(worth):
            return None
        without.note(demand, found)
        return worth, without

    def two(self) -> bool:
        """Let two change places of which one gains; whether there were any."""
        for first, second in self._pairs():
            if not self._take(_PAIR):
                return False
            search = self.search.without(first.spec.name).without(second.spec.name)
            for one in (first, second):
                found = search.fits(one)
                if isinstance(found, str):
                    break
                search.note(one, found)
            else:
                moves = all(self._order(one, search) != self._order(one) for one in (first, second))
                if moves and self._accept(search, [first, second], in_order=False):
                    return True
        return False

    def _accept(self, search: Search, demands: Sequence[Demand], *, in_order: bool = True) -> bool:
        """Go on from a state, if it is better: for those that were moved, and for all together."""
        names = [one.spec.name for one in demands]
        worths = [_worth(self._costs[name], _cost(search, search.one(name))) for name in names]
        if not any(map(_better, worths)) or any(
            _better(tuple(-level for level in worth)) for worth in worths
        ):
            return False
        costs = _costs_after(self._costs, self.search, search)
        if any(_better(_worth(costs[name], before)) for name, before in self._before.items()):
            return False  # somebody would have been moved to its loss
        if not _better(_worth_of_all(self._costs, costs)):
            return False
        if not in_order and not self._can_be_done(search, {*self._before, *names}):
            return False
        self._past.append((self.search, self._costs, dict(self._before)))
        for name in names:
            self._before[name] = self._costs[name]
        self.search, self._costs = search, costs
        self._tell()
        return True

    def _stay(self) -> bool:
        """Let those stay that could as well, now that others have gone; whether there were any."""
        some = False
        for demand in self.request.demands:
            name = demand.spec.name
            if name not in self._before or demand.now is None:
                continue
            without = self.search.without(name)
            if not without.board.used.isdisjoint(demand.now.owned):
                continue
            without.keep(demand)
            costs = _costs_after(self._costs, self.search, without)
            if not _better(_worth_of_all(costs, self._costs)):
                self._past.append((self.search, self._costs, dict(self._before)))
                del self._before[name]
                self.search, self._costs = without, costs
                some = True
        return some

    def _legal(self, placement: Placement) -> bool:
        return len(placement.guests) == len(self.request.demands) and not verify(self.request, placement)

    def _can_be_done(self, search: Search, names: set[str]) -> bool:
        """Whether all who are to go can go one after the other, from where they are."""
        forked = search.without("")
        placement = Placement(strategy="order", guests=forked.finished())
        return (
            not forked.unplaced
            and {one.guest for one in moved(self.request, placement)} == names
            and steps(self.request, placement) is not None
        )

    def _order(self, demand: Demand, search: Search | None = None) -> tuple[int, ...]:
        return (search or self.search).one(demand.spec.name).candidate.order

    def _able(self) -> Iterator[Demand]:
        """The guests that the budget still lets go, each once."""
        gone = list(self._before)
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
        budget, gone = self.request.moves, set(self._before)
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


def _cost(search: Search, one: Taken) -> Score:
    """What a guest's place costs beside the others."""
    return cost_of(search.without(one.spec.name).board, search.objective, one)


def _costs(search: Search) -> Costs:
    return {one.spec.name: _cost(search, one) for one in search.taken if one.spec.pinned}


def _costs_after(costs: Costs, before: Search, after: Search) -> Costs:
    """
    What the places cost in a state, worked out anew only for those near to whom somebody went or was.

    Whom another one's vCPUs cost something has a node, an L3 group or a core in common with them; affinities alone
    reach farther.
    """
    if after.board.affine:
        return _costs(after)
    board, there = after.board, {one.spec.name: one for one in before.taken}
    gone = [(one, there[one.spec.name]) for one in after.taken if one is not there[one.spec.name]]
    changed = board.cores_of(CpuSet.union_of(_all_of(one) for pair in gone for one in pair))
    places = [*(node.cpus for node in board.nodes), *board.l3, *board.cores]
    near = CpuSet.union_of(place for place in places if not place.isdisjoint(changed))
    return {
        one.spec.name: costs[one.spec.name] if near.isdisjoint(_all_of(one)) else _cost(after, one)
        for one in after.taken
        if one.spec.pinned
    }


def _all_of(one: Taken) -> CpuSet:
    return one.owned | one.candidate.cpus | CpuSet(one.candidate.order) | CpuSet(one.candidate.extras)


def _worth(before: Score, after: Score) -> tuple[int, ...]:
    """What is saved, level by level."""
    return tuple(was - is_ for was, is_ in zip(before.key, after.key, strict=True))


def _worth_of_all(before: Costs, after: Costs) -> tuple[int, ...]:
    """What all save together."""
    return tuple(map(sum, zip(*(_worth(before[name], after[name]) for name in before), strict=True)))


def _better(worth: tuple[int, ...]) -> bool:
    """Whether the first level that differs is less."""
    return next((level for level in worth if level), 0) > 0
