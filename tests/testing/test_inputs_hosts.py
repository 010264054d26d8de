"""Generated machines are such as the readers of /sys give, and of every kind that was promised."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import EmulatorPolicy, GuestSpec, ThreadPolicy, VcpuPolicy
from kvmaff.host.reader import Host
from kvmaff.host.topology import Topology
from kvmaff.placement.request import PlacementRequest
from kvmaff.testing import inputs_hosts as st


def levels(topology: Topology) -> Iterator[tuple[str, tuple[CpuSet, ...]]]:
    """Every level by name."""
    for name in ("packages", "dies", "clusters", "cores", "l2", "l3"):
        yield name, getattr(topology, name)


@given(st.topologies())
def test_levels_are_what_readers_give(topology: Topology) -> None:
    """A level has online CPUs, each in one group, in order of first CPU; all of them, but for the L3 and its like."""
    assert topology.online
    assert topology.online <= topology.present <= topology.possible
    for name, groups in levels(topology):
        members = [cpu for group in groups for cpu in group]
        assert len(members) == len(set(members))
        assert CpuSet(members) <= topology.online
        assert all(groups)
        assert [group.first for group in groups] == sorted(group.first for group in groups)
        if groups and name != "l3":
            assert topology.online == CpuSet(members)
    if topology.dies:
        assert any(die < package for die in topology.dies for package in topology.packages)


@given(st.topologies())
def test_a_core_is_the_smallest_group(topology: Topology) -> None:
    """No core is split by any level, and a core has at most four PUs."""
    assert all(len(core) <= 4 for core in topology.cores)
    for _, groups in levels(topology):
        for core in topology.cores:
            assert all(core <= group or core.isdisjoint(group) for group in groups)


@given(st.topologies())
def test_nodes_are_what_readers_give(topology: Topology) -> None:
    """Nodes come by number and share no CPU; distances are 10 to itself, more to others, the same both ways."""
    numbers = [node.number for node in topology.nodes]
    assert sorted(set(numbers)) == numbers
    members = [cpu for node in topology.nodes for cpu in node.cpus]
    assert len(members) == len(set(members))
    assert not topology.nodes or topology.online == CpuSet(members)
    for node in topology.nodes:
        if node.distances:
            assert numbers == [other for other, _ in node.distances]
        for other in topology.nodes:
            far = node.distance_to(other.number)
            assert other.distance_to(node.number) == far
            assert far is None or (far == 10 if node is other else 10 < far < 255)


@given(st.hosts())
def test_isolation(host: Host) -> None:
    """An online CPU is left that is not isolated, as the kernel sees to; such a host is never bound to."""
    assert host.isolated <= host.topology.online
    assert host.topology.online - host.isolated
    assert not host.live


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.requests())
def test_requests(request: PlacementRequest) -> None:
    """A request has guests of different names, running or to come, and nobody else on what is dedicated."""
    names = [demand.spec.name for demand in request.demands]
    assert 1 <= len(names) == len(set(names)) <= 5
    for demand in request.demands:
        assert (demand.pid is None) == (demand.start is None)
        assert demand.allowed is None or demand.allowed
    for held in request.held:
        assert held.cpus
        assert held.cpus <= request.host.topology.online
        assert not held.dedicated or all(
            one is held or one.cpus.isdisjoint(held.cpus) for one in request.held
        )
    assert {node for node, _ in request.memory} <= {node.number for node in request.host.topology.nodes}
    assert all(free >= 0 for _, free in request.memory)


def _l3_across_nodes(topology: Topology) -> bool:
    return any(sum(not node.cpus.isdisjoint(group) for node in topology.nodes) > 1 for group in topology.l3)


def _several_l3s(topology: Topology) -> bool:
    return any(sum(group < node.cpus for group in topology.l3) > 1 for node in topology.nodes)


def _gaps(numbers: list[int]) -> bool:
    return numbers != list(range(len(numbers)))


PROMISED: dict[str, Callable[[Topology], bool]] = {
    "one CPU": lambda t: len(t.present) == 1,
    "32 CPUs": lambda t: len(t.online) >= 32,
    "cores of 1, 2 and 4": lambda t: {1, 2, 4} <= {len(core) for core in t.cores},
    "three siblings": lambda t: any(len(core) == 3 for core in t.cores),
    "several L3s a node": _several_l3s,
    "L3 across nodes": _l3_across_nodes,
    "no L3": lambda t: not t.l3 and len(t.online) > 1,
    "cores without L3": lambda t: bool(t.l3) and CpuSet(c for g in t.l3 for c in g) < t.online,
    "sparse CPUs": lambda t: _gaps(list(t.present)),
    "siblings far apart": lambda t: any(core.last - core.first > len(t.cores) / 2 > 1 for core in t.cores),
    "sparse nodes": lambda t: _gaps([node.number for node in t.nodes]),
    "nodes against CPU order": lambda t: (
        [n.cpus.first for n in t.nodes if n.cpus] != sorted(n.cpus.first for n in t.nodes if n.cpus)
    ),
    "CPU-less node": lambda t: any(not node.cpus and node.memory_bytes for node in t.nodes),
    "memory-less node": lambda t: any(node.cpus and node.memory_bytes == 0 for node in t.nodes),
    "memory not told": lambda t: any(node.memory_bytes is None for node in t.nodes),
    "no nodes": lambda t: not t.nodes,
    "no distances": lambda t: len(t.nodes) > 1 and not any(node.distances for node in t.nodes),
    "node over packages": lambda t: any(
        sum(not p.isdisjoint(node.cpus) for p in t.packages) > 1 for node in t.nodes
    ),
    "cores not told": lambda t: not t.cores,
    "dies": lambda t: bool(t.dies),
    "clusters": lambda t: any(len(cluster) > 4 for cluster in t.clusters),
    "offline": lambda t: bool(t.offline),
    "CPU 0 offline": lambda t: 0 in t.offline,
    "could be plugged": lambda t: t.present < t.possible,
}
quick = settings(
    max_examples=3000,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
)


@pytest.mark.parametrize("kind", PROMISED)
def test_every_kind_of_machine_occurs(kind: str) -> None:
    """What was promised does come up."""
    assert PROMISED[kind](find(st.topologies(), PROMISED[kind], settings=quick))


@pytest.mark.parametrize(
    ("kind", "occurs"),
    {
        "isolated whole core": lambda h: any(len(c) > 1 and c <= h.isolated for c in h.topology.cores),
        "isolated half core": lambda h: any(
            h.isolated & core and core - h.isolated for core in h.topology.cores
        ),
        "no tick": lambda h: bool(h.nohz_full),
        "nothing isolated": lambda h: not h.isolated and len(h.topology.online) > 8,
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_kind_of_isolation_occurs(kind: str, occurs: Callable[[Host], bool]) -> None:
    """The same for isolated CPUs."""
    assert occurs(find(st.hosts(), occurs, settings=quick)), kind


def _asks(one: GuestSpec, **fields: object) -> bool:
    return all(getattr(one, name) is value for name, value in fields.items())


@pytest.mark.parametrize(
    "occurs",
    [
        *(lambda s, p=policy: _asks(s, thread_policy=p) for policy in ThreadPolicy),
        *(lambda s, p=policy: _asks(s, emulator_policy=p) for policy in EmulatorPolicy),
        lambda s: _asks(s, vcpu_policy=VcpuPolicy.SHARED) and len(s.cells) > 1,
        lambda s: s.max_vcpus > s.vcpus,
        lambda s: s.threads == 2 and s.thread_policy is ThreadPolicy.REQUIRE,
        lambda s: len(s.iothreads) == 2 and s.memory_bytes > 0 and len(s.device_nodes) == 1,
    ],
)
def test_every_kind_of_guest_occurs(occurs: Callable[[GuestSpec], bool]) -> None:
    """The same for guests."""
    assert occurs(find(st.placement_specs(), occurs, settings=quick))


def test_a_machine_shrinks_to_the_least() -> None:
    """What matters is left: one core, and nothing said that need not be."""
    found = find(
        st.hosts(),
        lambda host: bool(host.topology.offline),
        settings=settings(database=None, max_examples=500, phases=tuple(Phase)),
    )
    assert 2 == len(found.topology.present)
    assert 1 == len(found.topology.online)
