"""What is said of a place is true: what it costs, and that the next best costs no less."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import event, given

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.guest.spec import GuestSpec, VcpuPolicy
from kvmaff.host.topology import CoreKind
from kvmaff.placement.explain import OTHER_KIND, SIBLINGS
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.strategies import isolated, numa, pack, spread
from kvmaff.testing import inputs_hosts as st
from kvmaff.testing.trees import grid

from ..conftest import at_most

STRATEGIES = {
    strategy.name: strategy
    for module in (isolated, numa, pack, spread)
    for strategy in module.kvmaff_strategies()
}


def placed(name: str, request: PlacementRequest) -> Placement:
    """The places of those that have one."""
    try:
        return STRATEGIES[name].place(request)
    except PlacementImpossible as error:
        assert error.placement is not None
        return error.placement


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "spread"])
@given(request=st.requests(guests=1))
def test_the_runner_up_costs_no_less(name: str, request: PlacementRequest) -> None:
    """Of a guest alone whose place is proved to be the best, no other place costs less, and all are told alike."""
    placement = placed(name, request)
    for guest, why in zip(placement.guests, placement.explained(), strict=True):
        assert guest.score.key == tuple(value for _, value in why.levels)
        other = why.runner_up
        if other is None or not guest.spec.pinned:
            event("none")
            continue
        assert [level for level, _ in why.levels] == [level for level, _ in other.levels]
        mine, theirs = (tuple(value for _, value in levels) for levels in (why.levels, other.levels))
        if why.proved and (other.worse is None or other.worse[0] not in (OTHER_KIND, SIBLINGS)):
            assert mine <= theirs
            assert (other.worse is None) == (mine == theirs)
        event("proved" if why.proved else "not proved")


@pytest.mark.parametrize("name", STRATEGIES)
@at_most(150)
@given(request=st.requests())
def test_of_many_guests(name: str, request: PlacementRequest) -> None:
    """Each of several guests is explained, in words too, and the same way again."""
    placement = placed(name, request)
    explained = placement.explained()
    assert [guest.spec.name for guest in placement.guests] == [one.name for one in explained]
    assert explained == placement.explained()
    text = placement.explain()
    assert all(f"{one.name}: " in text for one in explained)


def test_other_cores_of_one_group() -> None:
    """Where there is one L3 group, other cores of it are the runner-up, which cost the same."""
    host = grid(packages=1, nodes=1, cores=8, threads=2)
    spec = GuestSpec(name="g", vcpus=4, vcpu_policy=VcpuPolicy.DEDICATED)
    placement = placed("numa", PlacementRequest(host=host, demands=(Demand(spec=spec),)))
    assert "costs the same" in placement.explain()


def test_the_kind_of_core_counts_first() -> None:
    """On a hybrid host a place on cores of another kind is none that is compared by its levels."""
    host = grid(packages=1, nodes=2, l3s=2, cores=8, threads=1)
    kinds = (CoreKind(name="P", cpus=CpuSet.parse("0-3")), CoreKind(name="E", cpus=CpuSet.parse("4-7")))
    host = attrs.evolve(host, topology=attrs.evolve(host.topology, kinds=kinds))
    spec = GuestSpec(name="g", vcpus=4, device_nodes=(1,), vcpu_policy=VcpuPolicy.DEDICATED)
    placement = placed("numa", PlacementRequest(host=host, demands=(Demand(spec=spec),)))
    assert "runner-up 4-7 on node 1: on cores of another kind" in placement.explain()
