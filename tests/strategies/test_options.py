"""What every option of every strategy changes: on a host of two nodes, each of two L3 groups of two cores."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import GuestSpec, VcpuPolicy
from kvmaff.hooks.manager import PluginManager
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import Demand, Held, PlacementRequest
from kvmaff.placement.strategy import options_of
from kvmaff.testing import inputs_hosts as st
from kvmaff.testing.trees import grid

from ..conftest import at_most

MANAGER = PluginManager.load()
OURS = ("isolated", "numa", "pack", "spread")
# nodes 0-7 and 8-15, L3 groups of four CPUs, cores of two
HOST = grid(packages=2, l3s=2, cores=4, threads=2, adjacent=True)


def _guest(name: str = "g", vcpus: int = 2, policy: str = "dedicated", **more: object) -> GuestSpec:
    return GuestSpec(name=name, vcpus=vcpus, vcpu_policy=VcpuPolicy(policy), **more)


def _decide(strategy: str, option: str, *specs: GuestSpec, held: str = "", **more: object) -> Placement:
    """Place guests with one option, as a person gives it; what is held is another guest's alone."""
    others = (Held(name="other", cpus=CpuSet.parse(held), dedicated=True),) if held else ()
    demands = more.pop("demands", tuple(Demand(spec=spec) for spec in specs))
    request = PlacementRequest(
        **{"host": HOST, "demands": demands, "held": others, **more}  # type: ignore[arg-type]
    )
    name, _, value = option.partition("=")
    return MANAGER.decide(request, strategy, {name: value})


def _either(strategy: str, request: PlacementRequest, options: dict[str, object]) -> Placement:
    """Decide; where guests have no place, the places of the others."""
    try:
        return MANAGER.decide(request, strategy, options)
    except PlacementImpossible as error:
        return error.placement


def test_every_option_is_explained_and_tested_here() -> None:
    """Each of our strategies has options, each with a sentence, and these are all that there are."""
    found = {name: options_of(MANAGER.strategies()[name].options) for name in OURS}
    assert {
        "isolated": ["anywhere"],
        "numa": ["near", "grain", "whole_cores"],
        "pack": ["near", "whole_cores"],
        "spread": ["first", "near", "whole_cores"],
    } == {name: [option.name for option in options] for name, options in found.items()}
    assert [] == [option for options in found.values() for option in options if not option.help]


@pytest.mark.parametrize("name", OURS)
@at_most(150)
@given(request=st.requests())
def test_defaults_are_no_options(name: str, request: PlacementRequest) -> None:
    """What is said in full decides as what is not said."""
    strategy = MANAGER.strategies()[name]
    said = {option.name: option.default for option in options_of(strategy.options)}
    assert _either(name, request, {}) == _either(name, request, said)


# -- near


@pytest.mark.parametrize("name", ["numa", "pack", "spread"])
def test_near(name: str) -> None:
    """A guest goes to its devices and to its memory, or where it would without them."""
    device = _guest(device_nodes=(1,))
    memory = (Demand(spec=_guest(), pid=7, start=7, memory=((0, 1 << 30), (1, 3 << 30))),)
    for value, node in (("yes", 1), ("no", 0)):
        assert (node,) == _decide(name, f"near={value}", device).guests[0].nodes
        assert (node,) == _decide(name, f"near={value}", demands=memory).guests[0].nodes


@pytest.mark.parametrize("name", ["numa", "pack", "spread"])
@at_most(150)
@given(request=st.requests())
def test_not_near_does_not_look(name: str, request: PlacementRequest) -> None:
    """With near=no the place is what it would be if guests had neither devices nor memory anywhere."""
    told = {node.number for node in request.host.topology.nodes}
    # a node that is not there is refused, whoever looks
    assume(all(told.issuperset(demand.spec.device_nodes) for demand in request.demands))
    bare = attrs.evolve(
        request,
        demands=tuple(
            attrs.evolve(demand, memory=(), spec=attrs.evolve(demand.spec, device_nodes=()))
            for demand in request.demands
        ),
    )
    looks, does_not = _either(name, bare, {"near": "yes"}), _either(name, request, {"near": "no"})
    assert [guest.threads for guest in looks.guests] == [guest.threads for guest in does_not.guests]
    assert [guest.score for guest in looks.guests] == [guest.score for guest in does_not.guests]


# -- grain


def test_grain() -> None:
    """A shared guest floats over a whole L3 group, or over as many PUs as it has vCPUs."""
    guest = _guest(policy="shared")
    assert CpuSet.parse("0-3") == _decide("numa", "grain=l3", guest).guests[0].vcpu_cpus
    assert 2 == len(_decide("numa", "grain=pu", guest).guests[0].vcpu_cpus)


@at_most(150)
@given(request=st.requests())
def test_grain_of_any_guest(request: PlacementRequest) -> None:
    """With grain=pu no shared guest has more PUs than vCPUs; dedicated ones are where they would be anyway."""
    fine, wide = (_either("numa", request, {"grain": grain}) for grain in ("pu", "l3"))
    for guest in fine.guests:
        if guest.spec.vcpu_policy is VcpuPolicy.SHARED and not guest.spec.cells:
            assert len(guest.vcpu_cpus) <= guest.spec.max_vcpus
    alone = [
        {
            one.spec.name: one.vcpu_cpus
            for one in answer.guests
            if one.spec.vcpu_policy is VcpuPolicy.DEDICATED
        }
        for answer in (fine, wide)
    ]
    assert alone[0] == alone[1]


# -- whole_cores


@pytest.mark.parametrize("name", ["numa", "pack", "spread"])
def test_whole_cores(name: str) -> None:
    """Of nine guests of a vCPU two are on one of eight cores; where cores are one guest's, the ninth has no place."""
    guests = [_guest(f"g{number}", 1) for number in range(9)]
    cpus = [guest.vcpu_cpus.first // 2 for guest in _decide(name, "whole_cores=no", *guests).guests]
    assert len(set(cpus)) < 9
    with pytest.raises(PlacementImpossible, match="g8: needs 1 dedicated vCPUs on whole cores") as caught:
        _decide(name, "whole_cores=yes", *guests)
    cpus = [guest.vcpu_cpus.first // 2 for guest in caught.value.placement.guests]
    assert list(range(8)) == sorted(cpus)


@pytest.mark.parametrize("name", ["numa", "pack", "spread"])
@at_most(150)
@given(request=st.requests())
def test_whole_cores_of_any_guest(name: str, request: PlacementRequest) -> None:
    """No thread of anybody else, of the request or not, may run on the cores of a dedicated guest."""
    guests = _either(name, request, {"whole-cores": True}).guests
    for guest in guests:
        if guest.spec.vcpu_policy is VcpuPolicy.DEDICATED:
            mine = [core for core in request.host.topology.cores if core & guest.vcpu_cpus]
            cores = CpuSet.union_of(mine) | guest.vcpu_cpus
            others = [one.cpus for one in guests if one is not guest] + [held.cpus for held in request.held]
            assert cores.isdisjoint(CpuSet.union_of(others))
            assert cores <= guest.owned


# -- first


@pytest.mark.parametrize(
    ("held", "nodes"),
    [
        # node 0 has a core free and an L3 group half free, node 1 only halves of cores, and more of them
        ("0-4,8,10,12,14", {"core": 0, "node": 1, "l3": 0}),
        # node 0 has a whole L3 group free, node 1 more CPUs
        ("0-3,8,12", {"core": 1, "node": 1, "l3": 0}),
        # node 1 has a whole L3 group free and no other core, node 0 a core and more CPUs
        ("0,2,4,8-11,12,14", {"core": 0, "node": 0, "l3": 0}),
    ],
)
@pytest.mark.parametrize("policy", ["dedicated", "shared"])
def test_first(held: str, nodes: dict[str, int], policy: str) -> None:
    """The node is that with the least loaded core, or the least loaded node, or that with the least loaded L3 group."""
    for first, node in nodes.items():
        (guest,) = _decide("spread", f"first={first}", _guest(vcpus=1, policy=policy), held=held).guests
        assert (node,) == guest.nodes


@given(held=hs.sets(hs.integers(0, 15), max_size=14), first=hs.sampled_from(["core", "node", "l3"]))
def test_first_is_the_least(held: set[int], first: str) -> None:
    """Of the places that one node each would give, the one with the least such load is taken."""
    guest = _guest(vcpus=1)
    text = str(CpuSet(held))
    (chosen,) = _decide("spread", f"first={first}", guest, held=text).guests
    scores = [chosen.score]
    for node in HOST.topology.nodes:
        if node.cpus - CpuSet(held):
            demands = (Demand(spec=guest, allowed=node.cpus),)
            scores += [
                one.score for one in _decide("spread", f"first={first}", held=text, demands=demands).guests
            ]
    assert min(getattr(score, f"{first}_load") for score in scores) == getattr(chosen.score, f"{first}_load")


# -- anywhere


@given(isolated=hs.sets(hs.integers(1, 7), min_size=1), anywhere=hs.booleans())
def test_anywhere(isolated: set[int], anywhere: bool) -> None:
    """The vCPUs are on isolated CPUs alone, or on none of them; the other threads never are."""
    cores = CpuSet.union_of(CpuSet([2 * core, 2 * core + 1]) for core in isolated)
    host = grid(packages=2, l3s=2, cores=4, threads=2, adjacent=True, isolated=cores)
    option = f"anywhere={'yes' if anywhere else 'no'}"
    try:
        (guest,) = _decide("isolated", option, _guest(), host=host).guests
    except PlacementImpossible:
        # one core is left, and other threads need it
        assert anywhere
        assert 7 == len(isolated)
        return
    assert cores.isdisjoint(guest.vcpu_cpus) if anywhere else guest.vcpu_cpus <= cores
    assert cores.isdisjoint(guest.cpus_of(Role.EMULATOR) or CpuSet())
