"""An answer as a choice: more moves never admit less, and each answer is one that its own budget allows."""

from __future__ import annotations

import attrs
from hypothesis import event, given, settings
from hypothesis import strategies as hs

from kvmaff.errors import PlacementImpossible
from kvmaff.guest.spec import GuestCell, GuestSpec, VcpuPolicy
from kvmaff.placement.choices import choices
from kvmaff.placement.moves import Goal, Moves
from kvmaff.placement.placement import GuestPlacement
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.verify import verify
from kvmaff.strategies import numa, spread
from kvmaff.testing import inputs_hosts as st
from kvmaff.testing.trees import grid

NUMA = next(iter(numa.kvmaff_strategies()))
SPREAD = next(iter(spread.kvmaff_strategies()))


def there(request: PlacementRequest, keep: int) -> PlacementRequest:
    """The same request when the first few guests have a place, as far as there is one."""
    first = attrs.evolve(request, demands=request.demands[:keep])
    try:
        places = SPREAD.place(first).guests
    except PlacementImpossible as error:
        places = error.placement.guests if error.placement else ()
    now: dict[str, GuestPlacement] = {guest.spec.name: guest for guest in places}
    demands = (
        attrs.evolve(one, spec=now[one.spec.name].spec, now=now[one.spec.name])
        if one.spec.name in now
        else one
        for one in request.demands
    )
    return attrs.evolve(request, demands=tuple(demands))


@settings(max_examples=100)
@given(st.requests(), hs.integers(0, 4), hs.integers(0, 12), hs.sampled_from(Goal))
def test_more_moves_admit_more(request: PlacementRequest, keep: int, most: int, goal: Goal) -> None:
    """The first answer moves nobody; each admits more than the one before, within its budget, and keeps all rules."""
    asked = attrs.evolve(there(request, keep), moves=Moves(guests=most), goal=goal)
    found = choices(asked, NUMA.place)
    assert 0 == found[0].moves
    assert [one.moves for one in found] == sorted({one.moves for one in found})
    assert found[-1].moves <= most
    worth = []
    for one in found:
        assert one.placement is not None
        lost = {each.name for each in one.unplaced}
        placed = tuple(demand for demand in asked.demands if demand.spec.name not in lost)
        allowed = attrs.evolve(asked, demands=placed, moves=Moves(guests=one.moves))
        assert () == verify(allowed, one.placement)
        assert len(one.moved) <= one.moves
        come = [demand for demand in placed if demand.now is None]
        worth.append(len(come) if goal is Goal.GUESTS else sum(demand.spec.max_vcpus for demand in come))
        admission = one.placement.admission
        assert admission is not None
        assert admission.bound >= admission.admitted
    assert worth == sorted(set(worth))
    event(f"{len(found)} answers")


def test_refused_then_fits() -> None:
    """What is refused without moves fits with one; nothing more is tried when all fit."""
    host = grid(packages=1, nodes=2, l3s=2, cores=8, threads=1)
    small = [GuestSpec(name=name, vcpus=1, vcpu_policy=VcpuPolicy.DEDICATED) for name in ("a", "b")]
    cell = GuestCell(vcpus=(0, 1, 2, 3))
    big = GuestSpec(name="big", vcpus=4, cells=(cell,), vcpu_policy=VcpuPolicy.DEDICATED)
    request = PlacementRequest(host=host, demands=tuple(Demand(spec=spec) for spec in (*small, big)))
    asked = attrs.evolve(there(request, 2), moves=Moves(guests=5))
    assert 2 == len({one.now.nodes for one in asked.demands if one.now})
    none, one = choices(asked, NUMA.place)
    assert [(0, ("big",), 0), (1, (), 1)] == [
        (each.moves, tuple(guest.name for guest in each.unplaced), len(each.moved)) for each in (none, one)
    ]
    assert one.placement is not None
    assert ["a" if one.moved[0].guest == "a" else "b"] == [step.guest for step in one.placement.steps() or ()]
