"""Strategies and the exact search: what they answer for dedicated guests is the best, whatever node sets that takes."""

from __future__ import annotations

import attrs
import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.guest.spec import GuestCell, GuestSpec, VcpuPolicy
from kvmaff.host.reader import Host
from kvmaff.host.topology import NumaNode, Topology
from kvmaff.placement.future import accept
from kvmaff.placement.placement import GuestPlacement
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.verify import verify
from kvmaff.strategies import isolated, numa, pack

STRATEGIES = {
    module.__name__.rpartition(".")[2]: strategy
    for module in (isolated, numa, pack)
    for strategy in module.kvmaff_strategies()
}
by_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
GIB = 1 << 30


def _host(sizes: list[int], distances: list[list[int]]) -> Host:
    """Nodes of so many single-thread cores, no L3, 64 GiB each."""
    nodes, cores, begin = [], [], 0
    for number, size in enumerate(sizes):
        cpus = CpuSet(range(begin, begin + size))
        begin += size
        cores += [CpuSet([cpu]) for cpu in cpus]
        told = tuple(enumerate(distances[number]))
        nodes.append(NumaNode(number=number, cpus=cpus, memory_bytes=64 * GIB, distances=told))
    every = CpuSet(range(begin))
    topology = Topology(
        possible=every,
        present=every,
        online=every,
        packages=(every,),
        dies=(),
        clusters=(),
        cores=tuple(cores),
        l2=(),
        l3=(),
        nodes=tuple(nodes),
    )
    return Host(root="/nowhere", topology=topology, isolated=CpuSet(), nohz_full=CpuSet())


def _place(strategy: str, host: Host, spec: GuestSpec, **rest: object) -> GuestPlacement:
    request = PlacementRequest(host=host, demands=(Demand(spec=spec),), **rest)  # type: ignore[arg-type]
    placement = STRATEGIES[strategy].place(request)
    assert () == verify(request, placement)
    return placement.guests[0]


def _spec(vcpus: int, **rest: object) -> GuestSpec:
    plain = GuestSpec(name="g", vcpus=vcpus, vcpu_policy=VcpuPolicy.DEDICATED)
    return attrs.evolve(plain, **rest)  # type: ignore[arg-type]


@by_strategy
def test_a_node_that_could_be_left_out(strategy: str) -> None:
    """Ten vCPUs would fit on two nodes that are far apart; a third one between them saves distance."""
    host = _host([8, 8, 1], [[10, 110, 11], [110, 10, 11], [11, 11, 10]])
    found = _place(strategy, host, _spec(10))
    assert ((0, 1, 2), 8 * 1 * 100 + 8 * 1 + 1 * 1) == (found.nodes, found.score.distance)


@by_strategy
def test_the_fewest_nodes_are_not_the_nearest(strategy: str) -> None:
    """Four nodes of one socket are nearer to one another than three of two sockets."""
    far = [[10 if a == b else 12 if a // 4 == b // 4 else 32 for b in range(8)] for a in range(8)]
    found = _place(strategy, _host([4, 4, 4, 4, 6, 6, 1, 1], far), _spec(16))
    assert ((0, 1, 2, 3), 6 * 16 * 2) == (found.nodes, found.score.distance)


@by_strategy
def test_memory_is_a_hard_limit(strategy: str) -> None:
    """Where a node has CPUs for all but memory for a half, the guest is spread; without memory it is refused."""
    host = _host([8, 8], [[10, 20], [20, 10]])
    memory = ((0, 4 * GIB), (1, 4 * GIB))
    found = _place(strategy, host, _spec(8, memory_bytes=8 * GIB), memory=memory)
    assert [4, 4] == [len(found.vcpu_cpus & node.cpus) for node in host.topology.nodes]
    with pytest.raises(PlacementImpossible, match="memory"):
        _place(strategy, host, _spec(8, memory_bytes=9 * GIB), memory=memory)


@by_strategy
def test_unequal_cells(strategy: str) -> None:
    """Cells, in any order and of any size, are whole on a node each; one that no node holds is refused."""
    far = [[10 if a == b else 20 for b in range(4)] for a in range(4)]
    host = _host([1, 2, 4, 1], far)  # the last one is for other threads, and has no memory
    cells = (
        GuestCell(vcpus=(0,), memory_bytes=GIB),
        GuestCell(vcpus=(1, 2, 3, 4), memory_bytes=3 * GIB),
        GuestCell(vcpus=(5, 6), memory_bytes=2 * GIB),
    )
    memory = ((0, 3 * GIB), (1, 3 * GIB), (2, 3 * GIB), (3, 0))
    found = _place(strategy, host, _spec(7, cells=cells, memory_bytes=6 * GIB), memory=memory)
    on = {thread.index: thread.cpus for thread in found.threads if thread.role.value == "vcpu"}
    assert [(0,), (2,), (1,)] == [
        tuple(
            node.number
            for node in host.topology.nodes
            if node.cpus & CpuSet.union_of(on[n] for n in cell.vcpus)
        )
        for cell in cells
    ]
    for sizes in ([1, 1, 1], [3, 3, 1], [1, 2, 3]):
        with pytest.raises(PlacementImpossible, match="3 cells"):
            _place(strategy, _host([*sizes, 1], far), _spec(7, cells=cells))


@by_strategy
def test_what_is_lost_is_told(strategy: str) -> None:
    """The score says what the place was worth to guests to come: in its node, and in what stands for an L3 group."""
    found = _place(strategy, _host([8, 6], [[10, 20], [20, 10]]), _spec(4))
    assert (1,) == found.nodes
    assert 2 * (accept(6) - accept(2)) == found.score.lost
