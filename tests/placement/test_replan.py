"""Room made by moving guests: never too many, never without need, and in an order that can be done."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import attrs
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.guest.spec import GuestCell, GuestSpec, ThreadPolicy, VcpuPolicy
from kvmaff.host.reader import Host
from kvmaff.placement.moves import Goal, Moves
from kvmaff.placement.order import moved, steps
from kvmaff.placement.placement import GuestPlacement, Placement
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.verify import verify
from kvmaff.strategies import numa, pack, spread
from kvmaff.testing import inputs_hosts as st
from kvmaff.testing.trees import grid

NUMA = next(iter(numa.kvmaff_strategies()))
STRATEGIES = [strategy for module in (numa, pack, spread) for strategy in module.kvmaff_strategies()]


def one_cell(name: str, size: int, device: int | None = None) -> GuestSpec:
    """A guest that is to be in one node."""
    return GuestSpec(
        name=name,
        vcpus=size,
        cells=(GuestCell(vcpus=tuple(range(size))),),
        device_nodes=() if device is None else (device,),
        vcpu_policy=VcpuPolicy.DEDICATED,
    )


def placed(
    host: Host, *demands: Demand, moves: Moves | None = None
) -> tuple[PlacementRequest, Placement | None]:
    """The request, and the answer; None where a guest is refused."""
    request = PlacementRequest(host=host, demands=demands, moves=moves or Moves())
    try:
        placement = NUMA.place(request)
    except PlacementImpossible as error:
        assert error.placement is not None
        assert () == moved(request, error.placement)
        return request, None
    assert () == verify(request, placement)
    return request, placement


# -- against all that could be done


@hs.composite
def full_hosts(draw: hs.DrawFn) -> tuple[Host, list[Demand], Demand]:
    """A small host with guests of one cell somewhere, and one to come, for which there was room before some moved."""
    nodes, size = draw(hs.sampled_from([(2, 3), (2, 4), (3, 3), (3, 4), (4, 3), (4, 4)]))
    host = grid(packages=1, nodes=nodes, l3s=nodes, cores=nodes * size, threads=1)
    left = [size] * nodes
    want = draw(hs.integers(2, size))
    home = draw(hs.integers(0, nodes - 1))
    left[home] -= want
    sizes, at = [], []
    for _ in range(draw(hs.integers(2, 7))):
        able = [node for node in range(nodes) if left[node]]
        if able:
            node = draw(hs.sampled_from(able))
            at.append(node)
            sizes.append(draw(hs.integers(1, min(left[node], size - 1))))
            left[node] -= sizes[-1]
    left[home] += want
    for _ in range(draw(hs.integers(2, 6)) if sizes else 0):
        one = draw(hs.integers(0, len(sizes) - 1))
        able = [node for node in range(nodes) if left[node] >= sizes[one]]
        if able:
            left[at[one]] += sizes[one]
            # mostly to where the guest to come was to be
            at[one] = home if home in able else draw(hs.sampled_from(able))
            left[at[one]] -= sizes[one]
    free = [sorted(node.cpus) for node in host.topology.nodes]
    device = hs.none() | hs.integers(0, nodes - 1)
    running = []
    for number, (count, node) in enumerate(zip(sizes, at, strict=True)):
        cpus, free[node] = free[node][:count], free[node][count:]
        spec = one_cell(f"r{number}", count, draw(device))
        demand = Demand(spec=spec, allowed=CpuSet(cpus))
        (place,) = NUMA.place(PlacementRequest(host=host, demands=(demand,))).guests
        running.append(Demand(spec=spec, now=place))
    return host, running, Demand(spec=one_cell("new", want, draw(device)))


def all_ways(host: Host, running: list[Demand], new: Demand, most: int) -> Iterator[tuple[int, int]]:
    """How many guests are moved, and the distance of those and the new one, for every way there is."""
    nodes = host.topology.nodes
    far = {(a.number, b.number): (a.distance_to(b.number) or 10) - 10 for a in nodes for b in nodes}
    size = len(nodes[0].cpus)
    home = {one.spec.name: one.now.nodes[0] for one in running if one.now is not None}
    for count in range(most + 1):
        for going in combinations(running, count):
            names = [one.spec.name for one in going]
            for chosen in product(range(len(nodes)), repeat=count + 1):
                at = {**home, **dict(zip([*names, "new"], chosen, strict=True))}
                used = dict.fromkeys(range(len(nodes)), 0)
                for one in (*running, new):
                    used[at[one.spec.name]] += one.spec.vcpus
                if max(used.values()) <= size and all(at[name] != home[name] for name in names):
                    distance = sum(
                        one.spec.vcpus * far[at[one.spec.name], device]
                        for one in (*going, new)
                        for device in one.spec.device_nodes
                    )
                    yield count, distance


@settings(max_examples=300)
@given(full_hosts(), hs.integers(0, 2))
def test_two_moves_or_fewer_are_exact(case: tuple[Host, list[Demand], Demand], most: int) -> None:
    """A guest is admitted just where some way of moving so few admits it; as few as possible, as near as possible."""
    host, running, new = case
    ways = sorted(all_ways(host, running, new, most))
    request, placement = placed(host, *running, new, moves=Moves(guests=most))
    event(f"moves: {ways[0][0] if ways else 'refused'}")
    assert bool(ways) == (placement is not None)
    if placement is not None:
        gone = {one.guest for one in moved(request, placement)}
        distance = sum(
            guest.score.distance for guest in placement.guests if guest.spec.name in {*gone, "new"}
        )
        assert ways[0] == (len(gone), distance)


@settings(max_examples=200)
@given(full_hosts(), hs.integers(0, 3), hs.none() | hs.integers(0, 6))
def test_every_step_keeps_all_rules(
    case: tuple[Host, list[Demand], Demand], most: int, vcpus: int | None
) -> None:
    """The budget is kept; guests go one after the other, and after each step every rule is kept."""
    host, running, new = case
    request, placement = placed(host, *running, new, moves=Moves(guests=most, vcpus=vcpus))
    if placement is None:
        return
    gone = moved(request, placement)
    assert len(gone) <= most
    assert vcpus is None or sum(one.vcpus for one in gone) <= vcpus
    order = steps(request, placement)
    assert order is not None
    now = {one.spec.name: one.now for one in running}
    there = attrs.evolve(request, demands=tuple(running), moves=Moves(guests=len(running)))
    for step in order:
        assert () == verify(there, step.state)
        at = {guest.spec.name: guest for guest in step.state.guests}
        assert [step.guest] == [name for name in now if not same(now[name], at[name])]
        now = {**at}
    after = {guest.spec.name: guest for guest in placement.guests}
    assert all(same(now[name], after[name]) for name in now)
    event(f"steps: {len(order)}")


def same(one: GuestPlacement | None, other: GuestPlacement | None) -> bool:
    """Whether all vCPUs have the same CPUs."""
    assert one is not None
    assert other is not None
    return all(one.cpus_of(t.role, t.index) == t.cpus for t in other.threads if t.role == "vcpu")


# -- anything


@given(st.requests(), hs.sampled_from(STRATEGIES), hs.integers(0, 3), hs.data())
def test_any_guests(request: PlacementRequest, strategy: object, most: int, data: hs.DataObject) -> None:
    """Of any guests on any machine: who has a place keeps one, the budget is kept, and so is every rule."""
    assert isinstance(strategy, type(NUMA))
    try:
        first = strategy.place(request)
    except PlacementImpossible as error:
        assert error.placement is not None
        first = error.placement
    has = {guest.spec.name: guest for guest in first.guests}
    stay = data.draw(hs.sets(hs.sampled_from(sorted(has)))) if has else set()
    demands = tuple(
        attrs.evolve(one, spec=has[one.spec.name].spec, now=has[one.spec.name])
        if one.spec.name in stay
        else one
        for one in request.demands
    )
    again = attrs.evolve(request, demands=demands, moves=Moves(guests=most))
    answers = []
    for _ in range(2):
        try:
            placement = strategy.place(again)
        except PlacementImpossible as error:
            assert error.placement is not None
            placement = error.placement
            assert stay <= {guest.spec.name for guest in placement.guests}
        there = {guest.spec.name for guest in placement.guests}
        asked = attrs.evolve(again, demands=tuple(one for one in demands if one.spec.name in there))
        assert () == verify(asked, placement)
        answers.append(placement)
    assert answers[0] == answers[1]
    event(f"moved {len(moved(again, answers[0]))}")


# -- how many at most


@settings(max_examples=150)
@given(full_hosts(), hs.integers(0, 2), hs.sampled_from(Goal), hs.data())
def test_the_bound_is_never_too_low(
    case: tuple[Host, list[Demand], Demand], most: int, goal: Goal, data: hs.DataObject
) -> None:
    """No way of moving so few guests admits more of several than the bound; what is admitted is told."""
    host, running, new = case
    size = len(host.topology.nodes[0].cpus)
    more = [
        Demand(spec=one_cell(f"more{n}", data.draw(hs.integers(1, size))))
        for n in range(data.draw(hs.integers(0, 2)))
    ]
    coming = [new, *more]
    request = PlacementRequest(host=host, demands=(*running, *coming), moves=Moves(guests=most), goal=goal)
    try:
        placement = NUMA.place(request)
    except PlacementImpossible as error:
        assert error.placement is not None
        placement = error.placement
    found = placement.admission
    assert found is not None
    there = {guest.spec.name for guest in placement.guests}
    worth = {one.spec.name: one.spec.vcpus if goal is Goal.VCPUS else 1 for one in coming}
    assert (sum(worth.values()), sum(worth[name] for name in worth if name in there)) == (
        found.asked,
        found.admitted,
    )
    best = max(sum(worth[name] for name in some) for some in admissible(host, running, coming, most))
    assert found.admitted <= best <= found.bound <= found.asked
    event(f"gap {found.gap}, from the best {best - found.admitted}")


def admissible(
    host: Host, running: list[Demand], coming: list[Demand], most: int
) -> Iterator[tuple[str, ...]]:
    """The sets of guests to come for which there is room after moving so many at most."""
    size, nodes = len(host.topology.nodes[0].cpus), range(len(host.topology.nodes))
    home = {one.spec.name: one.now.nodes[0] for one in running if one.now is not None}
    for count in range(len(coming) + 1):
        for some in combinations(coming, count):
            for going in (one for moves in range(most + 1) for one in combinations(running, moves)):
                names = [one.spec.name for one in (*going, *some)]
                for chosen in product(nodes, repeat=len(names)):
                    at = {**home, **dict(zip(names, chosen, strict=True))}
                    used = dict.fromkeys(nodes, 0)
                    for one in (*running, *some):
                        used[at[one.spec.name]] += one.spec.vcpus
                    if max(used.values()) <= size:
                        yield tuple(one.spec.name for one in some)
                        break
                else:
                    continue
                break


@pytest.mark.parametrize("most", [0, 1, 2, 3])
@pytest.mark.parametrize(("goal", "admitted"), [(Goal.VCPUS, 4), (Goal.GUESTS, 2)])
def test_what_is_to_be_admitted_counts(goal: Goal, admitted: int, most: int) -> None:
    """The larger first would be 3 of 4 vCPUs and one guest; and whoever may move more admits no less."""
    host = grid(packages=1, nodes=1, l3s=1, cores=4, threads=1)
    come = [Demand(spec=one_cell(name, size, None)) for name, size in (("a", 3), ("b", 2), ("c", 2))]
    with pytest.raises(PlacementImpossible) as error:
        NUMA.place(PlacementRequest(host=host, demands=tuple(come), goal=goal, moves=Moves(guests=most)))
    found = error.value.placement.admission
    assert (admitted, admitted) == (found.admitted, found.bound)


@pytest.mark.parametrize(
    "want",
    [
        {"vcpus": 2, "threads": 2, "thread_policy": ThreadPolicy.REQUIRE},
        {"vcpus": 1, "thread_policy": ThreadPolicy.ISOLATE},
        {"vcpus": 2, "trust_domain": "red"},
    ],
)
def test_the_bound_knows_what_counts_do_not(want: dict[str, Any]) -> None:
    """One on each core: moved together they would leave a core, which no count of PUs says."""
    host = grid(packages=1, nodes=1, l3s=1, cores=2, threads=2)
    running = []
    for name, core in zip("ab", host.topology.cores, strict=True):
        demand = Demand(spec=one_cell(name, 1, None), allowed=CpuSet([core.first]))
        (place,) = NUMA.place(PlacementRequest(host=host, demands=(demand,))).guests
        running.append(Demand(spec=demand.spec, now=place))
    spec = GuestSpec(
        name="new",
        vcpu_policy=VcpuPolicy.DEDICATED,
        cells=(GuestCell(vcpus=tuple(range(want["vcpus"]))),),
        **want,
    )
    request = PlacementRequest(host=host, demands=(*running, Demand(spec=spec)), moves=Moves(guests=1))
    try:
        found = NUMA.place(request).admission
    except PlacementImpossible as error:
        found = error.placement.admission
    assert found is not None
    assert want["vcpus"] == found.bound
