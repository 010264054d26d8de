"""A host as columns: the same as plain loops over its sets would give."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.host.columns import MOST_NODES, Layout, columns_of, far_apart, nodes_with_cpus
from kvmaff.host.reader import Host
from kvmaff.host.topology import NumaNode
from kvmaff.testing import inputs_hosts as st
from kvmaff.testing.trees import grid


def numbers(column: bytes) -> list[int]:
    """The numbers of a packed column."""
    return memoryview(column).cast("i").tolist()


def slow(
    cores: list[CpuSet], l3: list[CpuSet], nodes: list[CpuSet]
) -> tuple[list[CpuSet], list[int], list[int]]:
    """The cores in order, the node and the L3 group of each."""
    told = CpuSet.union_of(cores)
    everywhere = CpuSet.union_of(nodes)
    cores = [*cores, *(CpuSet([cpu]) for cpu in everywhere - told)]
    home = {core: next(at for at, node in enumerate(nodes) if core.first in node) for core in cores}
    cores.sort(key=lambda core: (home[core], core.first))
    groups = [max((at for at, group in enumerate(l3) if core.first in group), default=-1) for core in cores]
    return cores, [home[core] for core in cores], groups


def slow_wide(nodes: int, node: list[int], group: list[int]) -> list[int]:
    """For each node the number of the L3 group that it has alone and others have, too."""
    mine = [{g for n, g in zip(node, group, strict=True) if n == at} for at in range(nodes)]
    found: dict[int, int] = {}
    wide = []
    for at, groups in enumerate(mine):
        (only,) = groups if len(groups) == 1 else (-1,)
        others = only >= 0 and any(only in other for n, other in enumerate(mine) if n != at)
        wide.append(found.setdefault(only, len(found)) if others else -1)
    return wide


@given(hs.one_of(st.hosts(), st.overlapping()), hs.data())
def test_a_layout_is_what_loops_give(host: Host, data: hs.DataObject) -> None:
    """Cores node by node, their groups and PUs, and for each CPU its core, whatever the host."""
    topology = host.topology
    nodes = [node.cpus for node in nodes_with_cpus(topology)]
    cores = data.draw(hs.permutations(topology.cores))
    found = Layout.of(cores, topology.l3, nodes)
    ordered, node, group = slow(cores, list(topology.l3), nodes)
    assert len(ordered) == found.count
    assert (node, group) == (numbers(found.node), numbers(found.group))
    assert [len(core) for core in ordered] == numbers(found.total)
    where = {cpu: at for at, core in enumerate(ordered) for cpu in core}
    core_of = numbers(found.core_of)
    assert [where.get(cpu, -1) for cpu in range(len(core_of))] == core_of
    assert set(where) <= set(range(len(core_of)))
    assert slow_wide(len(nodes), node, group) == numbers(found.wide)

    free = data.draw(hs.lists(hs.sampled_from(list(topology.present))).map(CpuSet)) | CpuSet([8191])
    assert [len(core & free) for core in ordered] == numbers(found.count_free(free))
    takes = [(at, data.draw(hs.integers(0, len(core & free)))) for at, core in enumerate(ordered)]
    takes = data.draw(hs.permutations(takes))
    assert [list(ordered[at] & free)[:count] for at, count in takes] == found.pick(free, takes)


@given(st.hosts())
def test_a_layout_may_be_made_of_what_is_known(host: Host) -> None:
    """A layout made core by core is the one that is made of sets."""
    nodes = [node.cpus for node in nodes_with_cpus(host.topology)]
    found = Layout.of(host.topology.cores, host.topology.l3, nodes)
    ordered, node, group = slow(list(host.topology.cores), list(host.topology.l3), nodes)
    by_node = [
        [core.bits for core, where in zip(ordered, node, strict=True) if where == at]
        for at in range(len(nodes))
    ]
    made = Layout.made(by_node, group, [len(core) for core in ordered], slow_wide(len(nodes), node, group))
    rest = numbers(found.core_of)[len(made.core_of) // 4 :]
    assert {-1} >= set(rest)  # sets are laid out by words of 64 CPUs
    assert attrs.evolve(made, core_of=found.core_of) == found
    assert numbers(made.core_of) == numbers(found.core_of)[: len(made.core_of) // 4]


@given(
    hs.lists(hs.integers(0, 1000), unique=True, min_size=1, max_size=8),
    hs.data(),
)
def test_distances(nodes: list[int], data: hs.DataObject) -> None:
    """From each node to each the larger of the two ways beyond local; what is not told is 10 more."""
    row = hs.dictionaries(hs.sampled_from([*nodes, 1001]), hs.integers(0, 1 << 20))
    told = [data.draw(row) for _ in nodes]
    expected = [
        0
        if one == other
        else min(max(told[one].get(nodes[other], 20), told[other].get(nodes[one], 20)) - 10, 1 << 16)
        for one in range(len(nodes))
        for other in range(len(nodes))
    ]
    expected = [max(far, 1) if at % (len(nodes) + 1) else 0 for at, far in enumerate(expected)]
    actual = memoryview(far_apart(nodes, [tuple(each.items()) for each in told])).cast("q").tolist()
    assert expected == actual


@pytest.mark.parametrize(
    ("cores", "nodes", "why"),
    [
        pytest.param([CpuSet()], ["0"], "has no PU", id="empty"),
        pytest.param([CpuSet([0, 1]), CpuSet([1])], ["0-1"], "an earlier core also has: 1", id="twice"),
        pytest.param([CpuSet([0])], ["1"], "in no node", id="nowhere"),
        pytest.param([CpuSet([0, 100])], ["0"], "in no node", id="beyond"),
        pytest.param([], ["0"] * (MOST_NODES + 1), "up to 64 nodes", id="many nodes"),
    ],
)
def test_what_no_host_has(cores: list[CpuSet], nodes: list[str], why: str) -> None:
    """Cores that cannot be are an error, not a wrong answer."""
    with pytest.raises(ValueError, match=why):
        Layout.of(cores, [], [CpuSet.parse(node) for node in nodes])


def test_all_cpus_there_can_be() -> None:
    """8,192 PUs, each a core of its own, in 64 nodes and as many L3 groups."""
    nodes = [CpuSet(range(at, 8192, 64)) for at in range(64)]
    found = Layout.of([], nodes, nodes)
    assert 8192 == found.count
    assert [at for at in range(64) for _ in range(128)] == numbers(found.node)
    assert [[8191]] == found.pick(CpuSet([8191]), [(8191, 1)])


def test_a_host_of_many_nodes_has_no_layout() -> None:
    """Beyond 64 nodes nothing is laid out, and a host has its nodes all the same."""
    nodes = tuple(NumaNode(number=at, cpus=CpuSet([at]), memory_bytes=None) for at in range(65))
    topology = attrs.evolve(grid(cores=65, threads=1).topology, nodes=nodes)
    found = columns_of(topology)
    assert (None, b"") == (found.layout, found.distance)
    assert nodes == found.nodes


def test_a_host_keeps_its_columns() -> None:
    """A host works its columns out once; one that is changed has its own."""
    host = grid(packages=2, nodes=2, cores=4)
    assert host.columns is host.columns
    other = attrs.evolve(host, topology=attrs.evolve(host.topology, l3=()))
    assert host.columns.l3 != other.columns.l3
    assert host == attrs.evolve(host)


LARGE = grid(packages=2, nodes=2, cores=64, threads=4, adjacent=False)


@given(st.hosts() | hs.just(LARGE), hs.data())
def test_cores_of(host: Host, data: hs.DataObject) -> None:
    """All PUs of the cores of some PUs, few or many; a PU of which no core is told is one of its own."""
    online = sorted(host.topology.online)
    some = CpuSet(data.draw(hs.lists(hs.sampled_from(online), max_size=12)))
    for cpus in (some, host.topology.online - some):
        cores = [core for core in host.topology.cores if core & cpus]
        assert (cpus | CpuSet.union_of(cores)).bits == host.columns.cores_of(cpus.bits)
