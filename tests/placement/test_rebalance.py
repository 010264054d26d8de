"""A clean-up: whoever is moved gains, nobody else is moved, and it can be done step by step."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.guest.spec import GuestSpec, VcpuPolicy
from kvmaff.placement.moves import Moves
from kvmaff.placement.objective import Level, Objective
from kvmaff.placement.order import moved, steps
from kvmaff.placement.placement import GuestPlacement, Placement, Score
from kvmaff.placement.rebalance import _cost, _costs, _costs_after, rebalance
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.search import Search
from kvmaff.placement.taken import Taken, cost_now
from kvmaff.placement.verify import verify
from kvmaff.strategies import numa, spread
from kvmaff.testing import inputs_hosts as st
from kvmaff.testing.trees import grid

NEAR = Objective(
    name="numa",
    levels=(Level.DISTANCE, Level.L3_GROUPS, Level.SHARED_CORES, Level.BROKEN_CORES, Level.LOST),
    shared_levels=(Level.DISTANCE,),
    near=True,
)
NUMA = next(iter(numa.kvmaff_strategies()))
SPREAD = next(iter(spread.kvmaff_strategies()))


def now_of(request: PlacementRequest) -> list[GuestPlacement]:
    """Where all are."""
    return [demand.now for demand in request.demands if demand.now is not None]


def beside(
    request: PlacementRequest, guests: list[GuestPlacement], demand: Demand, place: GuestPlacement
) -> tuple[int, ...]:
    """What a place costs a guest beside the places of the others."""
    others = [
        attrs.evolve(one, spec=guest.spec, now=guest)
        for one in request.demands
        for guest in guests
        if one is not demand and guest.spec.name == one.spec.name
    ]
    search = Search(attrs.evolve(request, demands=tuple(others)), NEAR)
    for one in others:
        search.keep(one)
    return cost_now(search.board, NEAR, attrs.evolve(demand, now=place)).key


def total(request: PlacementRequest, placement: Placement) -> tuple[int, ...]:
    """What all guests with vCPUs of their own cost, level by level."""
    guests = list(placement.guests)
    places = {guest.spec.name: guest for guest in guests}
    keys = [beside(request, guests, one, places[one.spec.name]) for one in request.demands if one.spec.pinned]
    return tuple(map(sum, zip(*keys, strict=True)))


def could_stay(request: PlacementRequest, placement: Placement, name: str) -> bool:
    """Whether a guest that was moved could be where it was, at no more for it and for all."""
    (demand,) = [one for one in request.demands if one.spec.name == name]
    assert demand.now is not None
    others = [guest for guest in placement.guests if guest.spec.name != name]
    if any(not guest.owned.isdisjoint(demand.now.owned) for guest in others):
        return False
    stays = Placement(strategy="stays", guests=(*others, demand.now))
    return total(request, stays) <= total(request, placement)


def at(demand: Demand, place: GuestPlacement) -> Demand:
    """A guest that has a place."""
    return attrs.evolve(demand, spec=place.spec, now=place)


def spread_out(request: PlacementRequest) -> tuple[Demand, ...]:
    """The guests that find a place by the strategy that spreads them, and have it."""
    try:
        first = SPREAD.place(request)
    except PlacementImpossible as error:
        assert error.placement is not None
        first = error.placement
    places = {guest.spec.name: guest for guest in first.guests}
    return tuple(at(one, places[one.spec.name]) for one in request.demands if one.spec.name in places)


@settings(max_examples=150)
@given(st.requests(), hs.integers(0, 4), hs.none() | hs.integers(0, 12))
def test_who_is_moved_gains(request: PlacementRequest, most: int, vcpus: int | None) -> None:
    """From wherever guests are: within the budget, each gains that is moved, each step keeps all rules."""
    there = spread_out(request)
    asked = attrs.evolve(request, demands=there, moves=Moves(guests=most, vcpus=vcpus))
    found = rebalance(asked, NEAR)
    placement, gains = found.placement, found.gains
    assert () == verify(asked, placement)
    gone = moved(asked, placement)
    assert {one.guest for one in gone} == {one.guest for one in gains}
    assert len(gone) <= most
    assert vcpus is None or sum(one.vcpus for one in gone) <= vcpus
    order = steps(asked, placement)
    assert order is not None
    assert all(gain.after.key <= gain.before.key for gain in gains)
    assert not gains or any(gain.after.key < gain.before.key for gain in gains)
    assert not gains or total(asked, placement) < total(
        asked, Placement(strategy="now", guests=tuple(now_of(asked)))
    )
    for gain in gains:
        assert not could_stay(asked, placement, gain.guest)
    free = attrs.evolve(asked, moves=Moves(guests=len(there)))
    assert [()] * len(order) == [verify(free, step.state) for step in order]
    event(f"moved {len(gone)}")


@settings(max_examples=150)
@given(st.requests(), hs.sampled_from([(Level.DISTANCE,), tuple(Level)]), hs.booleans(), hs.data())
def test_what_a_move_changes_for_others(
    request: PlacementRequest, levels: tuple[Level, ...], whole: bool, data: hs.DataObject
) -> None:
    """Worked out anew only for those near to a move, costs are what they are for all, level by level."""
    objective = Objective(name="any", levels=levels, shared_levels=(), whole_cores=whole)
    there = spread_out(request)
    search = Search(attrs.evolve(request, demands=there), objective)
    for one in there:
        search.keep(one)
    costs = _costs(search)
    for one in there:
        without = search.without(one.spec.name)
        found = without.fits(
            one, data.draw(hs.sampled_from([None, *(node.cpus for node in search.board.nodes)]))
        )
        if isinstance(found, str):
            continue
        without.note(one, found)
        costs, search = _costs_after(costs, search, without), without
        assert _costs(search) == costs
        event("moved")


def test_few_costs_are_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A move within a node does not make the places on other nodes be looked at again."""
    host = grid(packages=1, nodes=4, l3s=4, cores=16, threads=1)
    specs = [GuestSpec(name=f"g{n}", vcpus=1, vcpu_policy=VcpuPolicy.DEDICATED) for n in range(8)]
    request = PlacementRequest(host=host, demands=tuple(Demand(spec=spec) for spec in specs))
    search = Search(request, NEAR)
    places = {guest.spec.name: guest for guest in SPREAD.place(request).guests}
    for demand in request.demands:
        search.keep(at(demand, places[demand.spec.name]))
    costs = _costs(search)
    mine = places["g0"].owned
    (node,) = [node.cpus for node in search.board.nodes if mine <= node.cpus]
    after = search.without("g0")
    found = after.fits(request.demands[0], node - mine)
    assert not isinstance(found, str)
    after.note(request.demands[0], found)
    asked: list[str] = []

    def counted(on: Search, one: Taken) -> Score:
        asked.append(one.spec.name)
        return _cost(on, one)

    monkeypatch.setattr("kvmaff.placement.rebalance._cost", counted)
    _costs_after(costs, search, after)
    near = {name for name, place in places.items() if not place.owned.isdisjoint(node)}
    assert 2 == len(near)
    assert near == set(asked)


def test_a_fragmented_host() -> None:
    """Guests torn over nodes come together, the one that gains most first, and it says what that saves."""
    host = grid(packages=1, nodes=2, l3s=2, cores=8, threads=1)
    specs = [GuestSpec(name=name, vcpus=3, vcpu_policy=VcpuPolicy.DEDICATED) for name in ("a", "b")]
    torn = {"a": CpuSet.parse("0-1,4"), "b": CpuSet.parse("2,5-6")}
    demands = []
    for spec in specs:
        alone = PlacementRequest(host=host, demands=(Demand(spec=spec, allowed=torn[spec.name]),))
        demands.append(at(Demand(spec=spec), NUMA.place(alone).guests[0]))
    request = PlacementRequest(host=host, demands=tuple(demands), moves=Moves(guests=2))
    found = rebalance(request, NEAR)
    placement, gains = found.placement, found.gains
    assert [1, 1] == [len(guest.nodes) for guest in placement.guests]
    assert 0 == sum(guest.score.distance for guest in placement.guests)
    assert all(gain.before.distance > gain.after.distance for gain in gains)
    assert [gain.guest for gain in gains] == [step.guest for step in steps(request, placement) or ()]
    told: list[tuple[int, float]] = []
    assert found == rebalance(request, NEAR, progress=lambda *how: told.append(how))
    assert told == sorted(told)
    assert told[-1][0] == 2
    assert all(0 < used <= 1 for _, used in told)
    still = rebalance(attrs.evolve(request, moves=Moves()), NEAR)
    unmoved, nothing = still.placement, still.gains
    assert (2, ()) == (sum(len(guest.nodes) > 1 for guest in unmoved.guests), nothing)
