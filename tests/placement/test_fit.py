"""The fit in CPU ids: which PUs, in which order, for nodes of cores and L3 groups given as CpuSets."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmaff.cpuset import CpuSet
from kvmaff.placement.fit import Fit, HostCores, NodeCores, Order, fit_in_node
from kvmaff.placement.future import accept

from .fit_twin import Core, Question, possible_takes, twin


@attrs.frozen(kw_only=True)
class Node:
    """A node, some of whose PUs are free, on a host that has more than it."""

    cores: tuple[CpuSet, ...]
    l3: tuple[CpuSet, ...]
    free: CpuSet

    @property
    def in_order(self) -> list[CpuSet]:
        """The cores by their lowest CPUs."""
        return sorted(self.cores, key=lambda core: core.first)

    def group_of(self, core: CpuSet) -> int:
        """The L3 group of a core, or -1."""
        return next((at for at, group in enumerate(self.l3) if core.first in group), -1)

    def counts(self) -> tuple[Core, ...]:
        """The cores as the engine sees them."""
        return tuple(Core(self.group_of(core), len(core), len(core & self.free)) for core in self.in_order)


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    """Nodes whose CPU numbers say nothing about cores, and whose cores may be in no L3 group."""
    sizes = draw(st.lists(st.sampled_from((1, 2, 2, 4)), min_size=1, max_size=8))
    labels = draw(st.lists(st.integers(-1, 2), min_size=len(sizes), max_size=len(sizes)))
    cpus = draw(st.permutations(range(sum(sizes) + 2)))
    cores, l3 = [], [CpuSet(cpus[:1]), CpuSet(), CpuSet()]
    rest = cpus[2:]
    for size, label in zip(sizes, labels, strict=True):
        core, rest = CpuSet(rest[:size]), rest[size:]
        cores.append(core)
        if label >= 0:
            l3[label] |= core
    free = draw(st.sets(st.sampled_from(cpus)))
    return Node(cores=tuple(cores), l3=tuple(group for group in l3 if group), free=CpuSet(free))


policies = st.fixed_dictionaries({"per_core": st.sampled_from((0, 0, 2, 3)), "whole_cores": st.booleans()})
units = st.sampled_from((1, 1, 2))


def fit(vcpus: int, node: Node, **policy: Any) -> Fit | None:
    """Ask about a node."""
    return fit_in_node(Order(vcpus=vcpus, **policy), cores=node.cores, l3=node.l3, free=node.free)


def smt2(vcpus: int, l3: list[CpuSet], free: str, **policy: Any) -> Fit | None:
    """Ask about a node of eight cores."""
    return fit_in_node(Order(vcpus=vcpus, **policy), cores=SMT2, l3=l3, free=CpuSet.parse(free))


@given(nodes(), st.integers(1, 12), units, policies)
def test_fit_is_the_twins(node: Node, pieces: int, unit: int, policy: dict[str, Any]) -> None:
    """Each core gives as many PUs as the twin says, and the fit carries the twin's cost."""
    question = Question(
        vcpus=pieces * unit,
        unit=unit,
        per_core=policy["per_core"],
        whole=policy["whole_cores"],
        cores=node.counts(),
    )
    expected = twin(question)
    actual = fit(pieces * unit, node, unit=unit, **policy)
    if expected is None:
        assert actual is None
        return
    assert actual is not None
    assert list(expected.takes) == [len(actual.cpus & core) for core in node.in_order]
    assert expected.cost == (
        actual.distance,
        actual.l3_groups,
        actual.shared_cores,
        actual.broken_cores,
        actual.lost,
    )
    assert actual.proved


@given(nodes(), st.integers(1, 12), units, policies)
def test_chosen_pus(node: Node, pieces: int, unit: int, policy: dict[str, Any]) -> None:
    """As many PUs as vCPUs, all free and in the node; of each core the lowest free ones."""
    found = fit(pieces * unit, node, unit=unit, **policy)
    if found is None:
        return
    assert pieces * unit == len(found.cpus) == len(found.order)
    assert found.cpus == CpuSet(found.order)
    assert found.cpus <= node.free
    question = Question(vcpus=1, unit=unit, per_core=policy["per_core"], whole=policy["whole_cores"])
    takes = []
    for core, counted in zip(node.in_order, node.counts(), strict=True):
        chosen = list(found.cpus & core)
        takes.append(len(chosen))
        assert len(chosen) in possible_takes(question, counted)
        assert list(core & node.free)[: len(chosen)] == chosen
    assert pieces * unit == sum(takes)
    assert (0,) * len(found.order) == found.nodes


@given(nodes(), st.integers(1, 12), units)
def test_order_of_vcpus(node: Node, pieces: int, unit: int) -> None:
    """The vCPUs of a core follow one another, and so do cores of an L3 group; pairs are siblings."""
    found = fit(pieces * unit, node, unit=unit)
    if found is None:
        return
    core_of = {cpu: core for core in node.cores for cpu in core}
    cores = [core_of[cpu] for cpu in found.order]
    for values in (cores, [node.group_of(core) for core in cores]):
        changes = sum(one != other for one, other in pairwise(values))
        assert len(set(values)) == changes + 1
    for at in range(0, len(cores), unit):
        assert {cores[at]} == set(cores[at : at + unit])


@given(nodes(), st.integers(1, 12), st.data())
def test_order_of_arguments_does_not_matter(node: Node, vcpus: int, data: st.DataObject) -> None:
    """The same sets in another order are the same question and get the same answer."""
    shuffled = Node(
        cores=tuple(data.draw(st.permutations(node.cores))),
        l3=tuple(data.draw(st.permutations(node.l3))),
        free=node.free,
    )
    assert fit(vcpus, node) == fit(vcpus, shuffled)


@given(nodes(), st.integers(1, 12), units, policies)
def test_a_node_may_be_kept(node: Node, pieces: int, unit: int, policy: dict[str, Any]) -> None:
    """What is worked out of a host answers as the one-time function, each time it is asked."""
    kept = HostCores.of([NodeCores.of(node.cores, node.l3)], [[0]])
    expected = fit(pieces * unit, node, unit=unit, **policy)
    for _ in range(2):
        assert expected == kept.fit(Order(vcpus=pieces * unit, unit=unit, **policy), free=node.free, near=[0])


SMT2 = [CpuSet([cpu, cpu + 8]) for cpu in range(8)]
"""Eight cores, numbered as Linux does: the second siblings after all first ones."""
HALVES = [CpuSet.parse("0-3,8-11"), CpuSet.parse("4-7,12-15")]


def test_four_vcpus_fill_two_cores() -> None:
    """On an idle node of two L3 groups, four vCPUs get two whole cores of the first one."""
    assert Fit(
        cpus=CpuSet.parse("0-1,8-9"),
        order=(0, 8, 1, 9),
        nodes=(0, 0, 0, 0),
        distance=0,
        l3_groups=1,
        shared_cores=0,
        broken_cores=0,
        lost=accept(16) - accept(12) + accept(8) - accept(4),
        proved=True,
    ) == smt2(4, HALVES, "0-15")


def test_one_vcpu_a_core() -> None:
    """With one vCPU a core, four vCPUs take first siblings and break four cores."""
    found = smt2(4, HALVES, "0-15", per_core=1)
    assert found is not None
    assert (CpuSet.parse("0-3"), (0, 1, 2, 3)) == (found.cpus, found.order)
    assert (1, 0, 4) == (found.l3_groups, found.shared_cores, found.broken_cores)


def test_the_tighter_l3_group() -> None:
    """Where one L3 group has just enough, the other stays whole."""
    found = smt2(2, HALVES, "0-3,8-11,6,14")
    assert found is not None
    assert CpuSet.parse("6,14") == found.cpus


def test_without_l3_the_node_is_one_group() -> None:
    """Where the host tells of no L3, all cores are one group."""
    found = smt2(16, [], "0-15")
    assert found is not None
    assert 1 == found.l3_groups


def test_cores_outside_all_l3_are_one_group() -> None:
    """Cores that no L3 group holds make up a group of their own."""
    found = smt2(16, HALVES[:1], "0-15")
    assert found is not None
    assert 2 == found.l3_groups


def test_free_pus_elsewhere_do_not_count() -> None:
    """PUs that are free outside the node are neither used nor lost."""
    l3 = [*HALVES, CpuSet(range(100, 200))]
    found = smt2(2, l3, "0,8,100-199")
    assert found is not None
    assert (CpuSet([0, 8]), 2 * accept(2)) == (found.cpus, found.lost)
    assert smt2(3, HALVES, "0,8,100-199") is None


# -- over nodes

QUARTERS = (
    [CpuSet([cpu, cpu + 8]) for cpu in range(0, 8, 2)],
    [CpuSet([cpu, cpu + 8]) for cpu in range(1, 8, 2)],
)
"""Two nodes of four cores; even ones in the first."""


def two_nodes(l3: list[CpuSet]) -> HostCores:
    """Two nodes, 11 apart."""
    return HostCores.of([NodeCores.of(cores, l3) for cores in QUARTERS], [[0, 11], [11, 0]])


def test_vcpus_come_node_by_node() -> None:
    """Over two nodes, those of one come first; each says which node it is on."""
    found = two_nodes([]).fit(Order(vcpus=10), free=CpuSet(range(16)), near=[0, 0])
    assert found is not None
    counts = found.nodes.count(0), found.nodes.count(1)
    assert {8, 2} == set(counts)
    assert (0,) * counts[0] + (1,) * counts[1] == found.nodes
    assert all(cpu % 2 == node for cpu, node in zip(found.order, found.nodes, strict=True))
    assert (16 * 11, 2) == (found.distance, found.l3_groups)


def test_cells_in_their_nodes() -> None:
    """Each cell's vCPUs come one after another, on its node, siblings together."""
    found = two_nodes([]).fit(
        Order(vcpus=12, unit=2),
        free=CpuSet(range(16)),
        near=[0, 0],
        cells=[6, 4, 2],
        need=[1, 9, 1],
        have=[9, 3],
    )
    assert found is not None
    assert (1,) * 6 + (0,) * 4 + (1,) * 2 == found.nodes
    assert all(cpu % 2 == node for cpu, node in zip(found.order, found.nodes, strict=True))
    assert all(one + 8 == other for one, other in zip(found.order[::2], found.order[1::2], strict=True))
    assert CpuSet(found.order) == found.cpus


def test_a_cap_is_kept() -> None:
    """A node gets no more than it may."""
    found = two_nodes([]).fit(Order(vcpus=8), free=CpuSet(range(16)), near=[0, 0], cap=[3, 8])
    assert found is not None
    assert (1,) * 8 == found.nodes
    assert None is two_nodes([]).fit(Order(vcpus=8), free=CpuSet(range(16)), near=[0, 0], cap=[3, 4])
    assert None is two_nodes([]).fit(Order(vcpus=1), free=CpuSet(range(16)), near=[0, 0], cap=[0, 0])


@pytest.mark.parametrize(
    ("l3", "groups"),
    [
        pytest.param([], 2, id="none told: each node is one"),
        pytest.param([CpuSet(range(16))], 1, id="one of both nodes"),
        pytest.param([CpuSet(range(0, 16, 2)), CpuSet(range(1, 16, 2))], 2, id="one a node"),
        pytest.param(HALVES, 4, id="two of both nodes, counted by node"),
        pytest.param([CpuSet(range(0, 16, 2))], 2, id="one of a node, none of the other"),
    ],
)
def test_l3_groups_of_several_nodes(l3: list[CpuSet], groups: int) -> None:
    """An L3 group that is all that two nodes have counts once."""
    found = two_nodes(l3).fit(Order(vcpus=16), free=CpuSet(range(16)), near=[0, 0])
    assert found is not None
    assert groups == found.l3_groups


@pytest.mark.parametrize(
    ("cores", "message"),
    [
        ([CpuSet([0]), CpuSet()], "cores[1] has no PU"),
        (
            [CpuSet([0, 1]), CpuSet([2]), CpuSet([1, 3])],
            "cores[2] has PUs that an earlier core also has: 1",
        ),
    ],
)
def test_bad_cores(cores: list[CpuSet], message: str) -> None:
    """A core without PUs, or with another core's, is refused: two vCPUs might get one PU."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        NodeCores.of(cores, [])


def test_bad_numbers_are_named() -> None:
    """What the engine refuses keeps the name that the caller knows."""
    with pytest.raises(ValueError, match=r"^vcpus is 3, which is no multiple of unit, 2$"):
        smt2(3, HALVES, "0-15", unit=2)
