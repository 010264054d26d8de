"""Arrivals and departures: nobody has another one's CPU, memory comes back, seeds decide everything."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import combinations
from multiprocessing import get_context

import attrs
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementRefused, RequestError
from kvmaff.hooks.chosen import Chosen
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import Host
from kvmaff.placement.compare import Contestant, compare
from kvmaff.placement.outcome import Figure
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.simulate import Step, Terms, simulate
from kvmaff.placement.workload import Arrival, Poisson, Recorded
from kvmaff.testing.trees import grid

GIB = 1 << 30


def host(memory: int | None = None) -> Host:
    """Two nodes of two L3 groups of four cores with two threads; with so much memory a node, or none told."""
    made = grid(packages=1, nodes=2, l3s=4, cores=16, threads=2)
    nodes = tuple(attrs.evolve(node, memory_bytes=memory) for node in made.topology.nodes)
    return attrs.evolve(made, topology=attrs.evolve(made.topology, nodes=nodes))


HOST = host()
WORKLOADS = hs.builds(
    Poisson,
    cpus=hs.just(32),
    load=hs.floats(0.3, 2),
    count=hs.integers(0, 60),
    sizes=hs.lists(hs.integers(1, 20), min_size=1, max_size=5).map(tuple),
    memory_per_vcpu=hs.sampled_from([0, GIB]),
)


@settings(max_examples=40)
@given(
    WORKLOADS,
    hs.integers(0, 100),
    hs.sampled_from(["numa", "pack", "spread"]),
    hs.integers(0, 3),
    hs.booleans(),
    hs.sampled_from([None, 20 * GIB]),
)
def test_every_state_on_the_way(
    workload: Poisson, seed: int, name: str, moves: int, spanning: bool, memory: int | None
) -> None:
    """Dedicated CPUs are one guest's, memory is never more than there is, moves are only for who is accepted."""
    arrivals = workload.arrivals(seed)
    here: dict[str, Arrival] = {}
    moved: Counter[str] = Counter()

    def watch(step: Step) -> None:
        for guest in [one for one in here.values() if one.time + one.lifetime <= step.guest.time]:
            del here[guest.name]
        if step.accepted:
            here[step.guest.name] = step.guest
        assert set(here) == {place.spec.name for place in step.running}
        for one, other in combinations(step.running, 2):
            assert one.vcpu_cpus.isdisjoint(other.vcpu_cpus)
        assert all(len(place.vcpu_cpus) == here[place.spec.name].vcpus for place in step.running)
        if not spanning:
            assert all(1 == len(place.nodes) for place in step.running)
        if memory is not None:
            assert sum(guest.memory_bytes for guest in here.values()) <= 2 * memory
        assert len(step.moved) <= (moves if step.accepted else 0)
        assert step.guest.name not in step.moved
        moved.update(step.moved)

    terms = Terms(spanning=spanning)
    found = simulate(host(memory), arrivals, Chosen(name), moves=moves, terms=terms, watch=watch)
    assert (len(arrivals), sum(one.vcpus for one in arrivals)) == (found.guests, found.vcpus)
    assert moved.total() == found.moved_guests
    assert 0 <= found.guests_share <= 1
    assert 0 <= found.vcpus_share <= 1
    assert 0 <= found.mean_use <= found.peak_use <= 1
    assert min(found.extra_nodes, found.extra_l3, found.shared_cores) >= 0
    assert found == simulate(host(memory), arrivals, Chosen(name), moves=moves, terms=terms)
    event(f"moved: {bool(moved)}")


def test_who_leaves_makes_room() -> None:
    """A guest as large as the host is accepted whenever the one before it is gone, at the very time even."""
    guests = [Arrival(time=at, name=f"g{at}", vcpus=32, lifetime=10) for at in (0, 5, 10, 20)]
    found = simulate(HOST, reversed(guests), Chosen("numa"), terms=Terms(spanning=True))
    assert (4, 3, 0) == (found.guests, found.accepted, found.extra_nodes)
    assert 1 == found.peak_use


def test_memory_comes_back() -> None:
    """What a guest had of a node's memory the next one has, no byte more."""
    sizes = [(0, 20 * GIB, 5), (1, GIB, 5), (6, 21 * GIB, 5), (20, 20 * GIB, 5)]
    guests = [
        Arrival(time=at, name=f"g{at}", vcpus=1, memory_bytes=size, lifetime=stays)
        for at, size, stays in sizes
    ]
    accepted: list[bool] = []
    one_node = grid(packages=1, nodes=1, l3s=1, cores=4, threads=1)
    nodes = (attrs.evolve(one_node.topology.nodes[0], memory_bytes=20 * GIB),)
    small = attrs.evolve(one_node, topology=attrs.evolve(one_node.topology, nodes=nodes))
    simulate(small, guests, Chosen("numa"), watch=lambda step: accepted.append(step.accepted))
    assert [True, False, False, True] == accepted


def test_a_move_admits() -> None:
    """Where two small guests leave no whole node, a large one is accepted with a move and refused without."""
    small = [Arrival(time=at, name=name, vcpus=7, lifetime=100) for at, name in enumerate("ab")]
    guests = [*small, Arrival(time=10, name="big", vcpus=16, lifetime=1)]
    steps: list[Step] = []
    still, moved = (simulate(HOST, guests, Chosen("spread"), moves=n, watch=steps.append) for n in (0, 1))
    assert [(2, 0, 0), (3, 1, 7)] == [
        (one.accepted, one.moved_guests, one.moved_vcpus) for one in (still, moved)
    ]
    assert [0, 0, 0, 0, 0, 1] == [len(step.moved) for step in steps]


def test_bad_workloads() -> None:
    """Two guests of one name are refused before anything is simulated."""
    twice = [Arrival(time=0, name="a", vcpus=1, lifetime=1)] * 2
    with pytest.raises(RequestError, match="'a'"):
        simulate(HOST, twice, Chosen("numa"))


def test_an_answer_that_breaks_a_rule() -> None:
    """Whoever decides is verified: one who puts all guests on the same CPU is refused."""

    def careless(request: PlacementRequest) -> Placement:
        return Chosen("numa")(attrs.evolve(request, held=()))

    guests = [Arrival(time=at, name=f"g{at}", vcpus=20, lifetime=100) for at in range(2)]
    with pytest.raises(PlacementRefused):
        simulate(HOST, guests, careless, terms=Terms(spanning=True))


@pytest.mark.parametrize(
    "made", [lambda: ThreadPoolExecutor(2), lambda: ProcessPoolExecutor(2, get_context("spawn"))]
)
def test_any_executor(made: object) -> None:
    """Runs elsewhere come back as those here, in the same order; progress only grows."""
    contestants = [Contestant(name=f"numa {n}", decide=Chosen("numa"), moves=n) for n in (0, 1)]
    workload = Poisson(cpus=32, count=30)
    told: list[float] = []
    here = compare(
        HOST, contestants, workload, (3, 1), progress=lambda done, total: told.append(done / total)
    )
    assert told == sorted(told)
    assert 1 == told[-1]
    executor: Executor
    with made() as executor:  # type: ignore[operator]
        assert here == compare(HOST, contestants, workload, (3, 1), executor=executor)
    assert 0 == here.difference(0, Figure.VCPUS_SHARE).value
    one = [outcome.vcpus_share for outcome in here.outcomes[1]]
    assert pytest.approx(sum(one) / 2) == here.mean(1, Figure.VCPUS_SHARE).value


def test_contestants_are_told_apart() -> None:
    """No contestant, no seed and two of one name are all said."""
    one = Contestant(name="a", decide=Chosen("numa"))
    with pytest.raises(RequestError):
        compare(HOST, [one, one], Recorded(guests=()))
    with pytest.raises(RequestError):
        compare(HOST, [], Recorded(guests=()))
    with pytest.raises(RequestError):
        compare(HOST, [one], Recorded(guests=()), ())


def test_nobody_comes() -> None:
    """Without guests everything is accepted, and nothing is in use."""
    found = simulate(HOST, (), Chosen("numa"))
    assert (1, 1, 0, 0) == (found.guests_share, found.vcpus_share, found.mean_use, found.decision_p99_us)


def test_a_host_without_nodes() -> None:
    """A host that tells neither nodes nor L3 groups counts none as extra."""
    made = grid(packages=1, nodes=1, l3s=1, cores=4, threads=2)
    bare = attrs.evolve(made, topology=attrs.evolve(made.topology, nodes=(), l3=()))
    found = simulate(bare, Poisson(cpus=8, count=40, sizes=(1, 2, 3)).arrivals(0), Chosen("pack"))
    assert found.accepted
    assert (0, 0) == (found.extra_nodes, found.extra_l3)


def test_reserved_cpus() -> None:
    """No guest is on a reserved CPU, and the load is that of the others."""
    terms = Terms(reserved=CpuSet.parse("0-15"))
    used: set[int] = set()

    def watch(step: Step) -> None:
        for place in step.running:
            used.update(place.vcpu_cpus)

    simulate(HOST, Poisson(cpus=16, count=60).arrivals(1), Chosen("pack"), terms=terms, watch=watch)
    assert used
    assert used <= set(terms.cpus(HOST))


def test_given_plugins_are_not_sent() -> None:
    """A callable with plug-ins of a program's own cannot be pickled, and says so; others can."""
    import pickle

    chosen = pickle.loads(pickle.dumps(Chosen("pack", {"near": "yes"})))
    assert ("pack", {"near": "yes"}) == (chosen.strategy, chosen.options)
    with pytest.raises(TypeError, match="cannot be sent"):
        pickle.dumps(Chosen("pack", plugins=PluginManager.load()))
